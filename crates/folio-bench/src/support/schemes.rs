//! A macro that runs code once per scheme.

/// Evaluates an expression once per scheme, with the scheme's type under the given name.
macro_rules! for_each_scheme {
    ($scheme:ident => $body:expr) => {{
        use folio_ref::schemes;
        for_each_scheme!(
            @ $scheme, $body,
            ZeroFrozen GuessOne FrozenBit LiveBitHigh LiveBitLow Generational Tagged
        );
    }};
    (@ $scheme:ident, $body:expr, $($each:ident)*) => {
        $({ type $scheme = schemes::$each; $body; })*
    };
}

pub(crate) use for_each_scheme;
