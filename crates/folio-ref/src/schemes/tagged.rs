//! A live bit, a tag, a generation and the count, in 64 bits: a frozen frame says what it is.
//!
//! ```text
//!  63   62 .. 60   59 ........ 32   31 ........ 0
//! live    tag        generation      count / stale
//! ```
//!
//! The tag of a frozen word is a number of the caller's, or all ones while an exclusive handle
//! exists. A claim is one compare-and-swap from the one to the other. The tag of a live word is 0.
//! The generation wraps after 2^28 freezes of one frame.

use super::bit::{Encoding, snapshot};
use super::layout::Layout;
use super::seeded_bugs;
use crate::sync::{AtomicU64, Ordering, Word};
use crate::{Snapshot, Tag};

/// A live bit, a tag of three bits, a generation and a count: Live(n) is 2^63 + generation + n,
/// Frozen is the tag, the next generation and stale. Zeroed memory is frozen under tag 0.
///
/// # Examples
///
/// ```
/// use folio_ref::schemes::Tagged;
/// use folio_ref::{PageRef, Snapshot, Tag};
///
/// const UNUSED: Tag = Tag::new(0);
/// const UNIQUE: Tag = Tag::new(1);
///
/// let word = PageRef::<Tagged>::frozen();
/// let handle = word.try_claim(UNUSED)?; // one thread builds the frame
/// assert!(word.try_claim(UNUSED).is_err());
/// handle.leave_frozen_as(UNIQUE); // its owner keeps it elsewhere
/// assert_eq!(word.snapshot(), Snapshot::Tagged { tag: UNIQUE, stale: 0 });
/// word.try_claim(UNIQUE)?.init();
/// word.put().expect("the last reference").leave_frozen_as(UNUSED);
/// # Ok::<(), folio_ref::Busy>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Tagged;

impl Encoding for Tagged {
    const NAME: &'static str = "tagged";
    type Atomic = AtomicU64;
    #[cfg(not(loom))]
    const NEW: AtomicU64 = AtomicU64::new(Self::LAYOUT.frozen());
    const LAYOUT: Layout = Layout {
        width: 64,
        bit: 1 << 63,
        live: 1 << 63,
        shift: 0,
        count: (1 << 32) - 1,
        generation: ((1 << 28) - 1) << 32,
        tag: 0b111 << 60,
    }
    .checked();
}

const _: () = assert!(
    Tagged::LAYOUT.left(Tag::MAX + 1, 0) == Tagged::LAYOUT.held(0),
    "the number above the greatest tag stands for an exclusive handle"
);

impl Tagged {
    /// Takes the frame for an exclusive handle if it is frozen under `tag`, and returns the word's
    /// value. Writes nothing otherwise, and returns the state that it found.
    #[inline(always)]
    pub(crate) fn claim(word: &AtomicU64, tag: Tag) -> Result<u64, Snapshot> {
        let layout = Self::LAYOUT;
        let mut now = Word::load(word, Ordering::Relaxed);
        // A failed round is a stale increment or its reset, or another claim has won.
        while layout.is_frozen(now) && layout.tag(now) == Some(tag.get()) {
            let claimed = if seeded_bugs::claim_keeps_tag() { now } else { layout.held(now) };
            // Acquire: pairs with Release in leave, so the new owner sees what the last one wrote
            // (R6).
            match Word::compare_exchange(word, now, claimed, Ordering::Acquire) {
                Ok(_) => return Ok(claimed),
                Err(found) => now = found,
            }
        }
        Err(snapshot::<Self>(now))
    }

    /// Leaves the frame of an exclusive handle frozen under `tag`. `held` is a value that the word
    /// had during it: only stale increments change meanwhile, and they are not kept.
    #[inline(always)]
    pub(crate) fn leave(word: &AtomicU64, held: u64, tag: Tag) {
        // Release: publishes the frame to the thread that claims it (R6).
        Word::store(word, Self::LAYOUT.left(tag.get(), held), Ordering::Release);
    }
}
