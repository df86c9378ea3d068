//! The logical state of a word, whatever its encoding, and the pure transitions between states.
//!
//! This is the specification that the schemes are tested against (`tests/transitions.rs`): the
//! same call on the state and on the word must end in the same state.

use crate::{Refused, SATURATED, STALE_LIMIT, Tag};

/// The logical state of a word at one instant. The word may change before the caller reads it.
///
/// It is the specification of the schemes: the five states are all there are, and callers may match
/// them without a wildcard.
///
/// # Examples
///
/// ```
/// use folio_ref::{PageRef, Snapshot};
///
/// let word: PageRef = PageRef::frozen();
/// let state = word.snapshot();
/// assert_eq!(state, Snapshot::Frozen { stale: 0 });
///
/// word.take_frozen().unfreeze(3);
/// assert_eq!(Some(word.snapshot()), state.unfreeze(3));
/// assert_eq!(Snapshot::Live(3).put_many(3), Some((Snapshot::Frozen { stale: 0 }, true)));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Snapshot {
    /// `n >= 1` references are held.
    Live(u32),
    /// The last reference is gone and `put` has not yet frozen the frame. A `try_get` may revive
    /// it.
    Dying,
    /// One owner has exclusive control.
    Frozen {
        /// The sum of the refused increments since the freeze or the last reset. Harmless and
        /// bounded (R5).
        stale: u32,
    },
    /// Frozen under a tag, without an exclusive handle. Only the scheme
    /// [`Tagged`](crate::schemes::Tagged) has this state.
    Tagged {
        /// The tag under which its last owner left it. Tag 0 if it had none.
        tag: Tag,
        /// The sum of the refused increments since it was left, or the last reset (R5).
        stale: u32,
    },
    /// The count passed 2^30: the frame is leaked and never leaves this state.
    Saturated,
}

impl Snapshot {
    /// Returns the live state with `n` references: `Dying` at 0, `Saturated` from 2^30.
    pub const fn live(n: u32) -> Self {
        match n {
            0 => Self::Dying,
            n if n >= SATURATED => Self::Saturated,
            n => Self::Live(n),
        }
    }

    /// Returns `true` if each `try_get` is refused: an owner has exclusive control, or the frame
    /// was left under a tag.
    pub const fn is_frozen(self) -> bool {
        self.stale().is_some()
    }

    /// Returns the stale increments if the frame is frozen.
    pub const fn stale(self) -> Option<u32> {
        match self {
            Self::Frozen { stale } | Self::Tagged { stale, .. } => Some(stale),
            Self::Live(_) | Self::Dying | Self::Saturated => None,
        }
    }

    /// Returns the same frozen state with `stale` increments.
    const fn with_stale(self, stale: u32) -> Self {
        match self {
            Self::Tagged { tag, .. } => Self::Tagged { tag, stale },
            _ => Self::Frozen { stale },
        }
    }

    /// Returns the state after `try_get(n)`, and its result. `leaves_stale` is
    /// [`Scheme::LEAVES_STALE`](crate::Scheme::LEAVES_STALE) of the scheme.
    pub const fn try_get(self, n: u32, leaves_stale: bool) -> (Self, Result<(), Refused>) {
        match self {
            // Sums stop at the top: the specification takes any numbers.
            Self::Live(have) if have.saturating_add(n) >= SATURATED => {
                (Self::Saturated, Err(Refused::Saturated))
            }
            Self::Live(have) => (Self::Live(have + n), Ok(())),
            Self::Dying if n >= SATURATED => (Self::Saturated, Err(Refused::Saturated)),
            Self::Dying => (Self::live(n), Ok(())),
            Self::Frozen { .. } | Self::Tagged { .. } if !leaves_stale => {
                (self, Err(Refused::Frozen))
            }
            Self::Frozen { stale } | Self::Tagged { stale, .. } => {
                let sum = stale.saturating_add(n);
                let sum = if sum >= STALE_LIMIT { 0 } else { sum };
                (self.with_stale(sum), Err(Refused::Frozen))
            }
            Self::Saturated => (Self::Saturated, Err(Refused::Saturated)),
        }
    }

    /// Returns the result of `try_get_unless_frozen(n)` if it writes nothing: the refusal. `None`
    /// if it does what `try_get(n)` does.
    pub const fn refused_without_write(self) -> Option<Refused> {
        match self {
            Self::Frozen { .. } | Self::Tagged { .. } => Some(Refused::Frozen),
            Self::Saturated => Some(Refused::Saturated),
            Self::Live(_) | Self::Dying => None,
        }
    }

    /// Returns the state after `put_many(n)`, and `true` if the caller won the frame. `None` if no
    /// correct caller makes this call.
    pub const fn put_many(self, n: u32) -> Option<(Self, bool)> {
        match self {
            Self::Live(have) if have > n => Some((Self::Live(have - n), false)),
            Self::Live(have) if have == n => Some((Self::Frozen { stale: 0 }, true)),
            Self::Saturated => Some((Self::Saturated, false)),
            _ => None,
        }
    }

    /// Returns the state after `freeze(expected)`, and `true` if the caller won the frame.
    pub const fn freeze(self, expected: u32) -> (Self, bool) {
        match self {
            Self::Live(have) if have == expected => (Self::Frozen { stale: 0 }, true),
            other => (other, false),
        }
    }

    /// Returns the state after `unfreeze(n)` by the owner of the exclusive handle. `None` if no
    /// correct caller makes this call.
    pub const fn unfreeze(self, n: u32) -> Option<Self> {
        match self {
            Self::Frozen { .. } if n > 0 && n < SATURATED => Some(Self::Live(n)),
            _ => None,
        }
    }

    /// Returns the state after `try_claim(tag)`, and `true` if the caller won the frame.
    pub const fn try_claim(self, tag: Tag) -> (Self, bool) {
        match self {
            Self::Tagged { tag: found, .. } if found.get() == tag.get() => {
                (Self::Frozen { stale: 0 }, true)
            }
            other => (other, false),
        }
    }

    /// Returns the state after `leave_frozen_as(tag)` by the owner of the exclusive handle. `None`
    /// if no correct caller makes this call.
    pub const fn leave_frozen_as(self, tag: Tag) -> Option<Self> {
        match self {
            Self::Frozen { .. } => Some(Self::Tagged { tag, stale: 0 }),
            _ => None,
        }
    }
}
