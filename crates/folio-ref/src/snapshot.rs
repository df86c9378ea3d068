//! The logical state of a word, whatever its encoding, and the pure transitions between states.
//!
//! This is the specification that the six schemes are tested against (`tests/transitions.rs`): the
//! same call on the state and on the word must end in the same state.

use crate::{Refused, SATURATED, STALE_LIMIT};

/// What a word said at one instant. Racy: by the time it is looked at, the word may say another
/// thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Snapshot {
    /// `n >= 1` references are held.
    Live(u32),
    /// The last reference is gone and `put` has not yet frozen the frame; a `try_get` may revive
    /// it.
    Dying,
    /// One owner has exclusive control; `stale` refused increments have piled up since.
    Frozen {
        /// References' worth of refused increments, harmless and bounded (R5).
        stale: u32,
    },
    /// The count passed 2^30: the frame is leaked for good.
    Saturated,
}

impl Snapshot {
    /// The live state with `n` references: `Dying` at 0, `Saturated` from 2^30.
    pub const fn live(n: u32) -> Self {
        match n {
            0 => Self::Dying,
            n if n >= SATURATED => Self::Saturated,
            n => Self::Live(n),
        }
    }

    /// True while no `try_get` can succeed because an owner holds the frame.
    pub const fn is_frozen(self) -> bool {
        matches!(self, Self::Frozen { .. })
    }

    /// What `try_get(n)` answers, and the state after it. `leaves_stale` is the scheme's
    /// [`LEAVES_STALE`](crate::Scheme::LEAVES_STALE).
    pub const fn try_get(self, n: u32, leaves_stale: bool) -> (Self, Result<(), Refused>) {
        match self {
            Self::Live(have) if have + n >= SATURATED => (Self::Saturated, Err(Refused::Saturated)),
            Self::Live(have) => (Self::Live(have + n), Ok(())),
            Self::Dying => (Self::Live(n), Ok(())),
            Self::Frozen { stale } if !leaves_stale => {
                (Self::Frozen { stale }, Err(Refused::Frozen))
            }
            Self::Frozen { stale } if stale + n >= STALE_LIMIT => {
                (Self::Frozen { stale: 0 }, Err(Refused::Frozen))
            }
            Self::Frozen { stale } => (Self::Frozen { stale: stale + n }, Err(Refused::Frozen)),
            Self::Saturated => (Self::Saturated, Err(Refused::Saturated)),
        }
    }

    /// The state after `put_many(n)`, and whether the caller won the frame. `None`: a broken call.
    pub const fn put_many(self, n: u32) -> Option<(Self, bool)> {
        match self {
            Self::Live(have) if have > n => Some((Self::Live(have - n), false)),
            Self::Live(have) if have == n => Some((Self::Frozen { stale: 0 }, true)),
            Self::Saturated => Some((Self::Saturated, false)),
            _ => None,
        }
    }

    /// The state after `freeze(expected)`, and whether the caller won.
    pub const fn freeze(self, expected: u32) -> (Self, bool) {
        match self {
            Self::Live(have) if have == expected => (Self::Frozen { stale: 0 }, true),
            other => (other, false),
        }
    }

    /// The state after the token's holder calls `unfreeze(n)`. `None`: a broken call.
    pub const fn unfreeze(self, n: u32) -> Option<Self> {
        match self {
            Self::Frozen { .. } if n > 0 && n < SATURATED => Some(Self::Live(n)),
            _ => None,
        }
    }
}
