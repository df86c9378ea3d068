//! All schemes, one after the other.

/// Runs an expression once for each scheme, which it knows by the name that it gives.
macro_rules! for_each_scheme {
    ($scheme:ident => $body:expr) => {{
        use folio_ref::schemes;
        for_each_scheme!(@ $scheme, $body, ZeroFrozen GuessOne FrozenBit LiveBitHigh LiveBitLow Generational);
    }};
    (@ $scheme:ident, $body:expr, $($each:ident)*) => {
        $({ type $scheme = schemes::$each; $body; })*
    };
}

pub(crate) use for_each_scheme;
