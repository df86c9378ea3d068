//! The names of the schemes on the command line.

use clap::ValueEnum;

/// The name of one of the seven schemes.
#[derive(Clone, Copy, Debug, Default, PartialEq, ValueEnum)]
pub(crate) enum SchemeName {
    ZeroFrozen,
    GuessOne,
    FrozenBit,
    LiveBitHigh,
    LiveBitLow,
    #[default]
    Generational,
    Tagged,
}

/// Calls a function that is generic over the scheme, with the scheme of the given name.
macro_rules! with_scheme {
    ($name:expr, $function:ident($($argument:expr),*)) => {
        {
            use $crate::scheme_name::SchemeName as Name;
            use folio_ref::schemes;
            match $name {
                Name::ZeroFrozen => $function::<schemes::ZeroFrozen>($($argument),*),
                Name::GuessOne => $function::<schemes::GuessOne>($($argument),*),
                Name::FrozenBit => $function::<schemes::FrozenBit>($($argument),*),
                Name::LiveBitHigh => $function::<schemes::LiveBitHigh>($($argument),*),
                Name::LiveBitLow => $function::<schemes::LiveBitLow>($($argument),*),
                Name::Generational => $function::<schemes::Generational>($($argument),*),
                Name::Tagged => $function::<schemes::Tagged>($($argument),*),
            }
        }
    };
}
pub(crate) use with_scheme;

#[cfg(test)]
mod tests {
    use folio_ref::{DefaultScheme, Scheme};

    use super::*;

    fn name_of<S: Scheme>() -> &'static str {
        S::NAME
    }

    #[test]
    fn every_name_selects_the_scheme_of_that_name() {
        for name in SchemeName::value_variants() {
            assert_eq!(
                name.to_possible_value().unwrap().get_name(),
                with_scheme!(*name, name_of())
            );
        }
        assert_eq!(with_scheme!(SchemeName::default(), name_of()), DefaultScheme::NAME);
    }
}
