//! Words with a frozen state that says what the frame is: folio-ref's, and one by compare-and-swap
//! alone.

use std::marker::PhantomData;
use std::sync::atomic::{AtomicU64, Ordering, fence};

use folio_ref::schemes::Tagged;
use folio_ref::{PageRef, Tag};

/// A word that a thread can claim, open, and give back by its last put.
pub(crate) trait Life: Send + Sync + 'static {
    const NAME: &'static str;

    /// Creates the word of an unused frame.
    fn unused() -> Self;

    /// Claims the unused frame and opens it with one reference.
    fn begin(&self);

    /// Returns the last reference, and leaves the frame unused.
    fn end(&self);
}

/// The way in which the last reference is returned.
pub(crate) trait Last: Send + Sync + 'static {
    const NAME: &'static str;
    const EXPECTED: bool;
}

/// The last put does not expect to be the last.
impl Last for Tagged {
    const NAME: &'static str = "tagged, put";
    const EXPECTED: bool = false;
}

/// The last put expects to be the last.
pub(crate) struct Sole;

impl Last for Sole {
    const NAME: &'static str = "tagged, sole owner";
    const EXPECTED: bool = true;
}

/// Folio-ref's word, claimed by its tag.
pub(crate) struct Claimed<L>(PageRef<Tagged>, PhantomData<L>);

const UNUSED: Tag = Tag::new(0);

impl<L: Last> Life for Claimed<L> {
    const NAME: &'static str = L::NAME;

    fn unused() -> Self {
        Self(PageRef::frozen(), PhantomData)
    }
    #[inline(always)]
    fn begin(&self) {
        self.0.try_claim(UNUSED).expect("the frame is unused").init();
    }
    #[inline(always)]
    fn end(&self) {
        let last = if L::EXPECTED { self.0.put_expecting_last() } else { self.0.put() };
        last.expect("no other reference").leave_frozen_as(UNUSED);
    }
}

/// The same states by compare-and-swap: the highest numbers of the word are its frozen states, and
/// 0 is the state of a frame after its last put.
///
/// It is for measurements only: `try_get` is a loop, and a late put of an earlier
/// life cannot be told from one of this life.
pub(crate) struct Compared(AtomicU64);

const IS_UNUSED: u64 = u64::MAX;
const BEING_BUILT: u64 = u64::MAX - 1;
#[cfg(test)]
const UNIQUE: u64 = u64::MAX - 2;

impl Compared {
    /// Returns one reference. Returns `true` if it was the last.
    #[inline(always)]
    pub(crate) fn put(&self) -> bool {
        // Release: what this holder wrote is visible to the last one.
        let is_last = self.0.fetch_sub(1, Ordering::Release) == 1;
        if is_last {
            fence(Ordering::Acquire);
        }
        is_last
    }
}

/// Operations that the benchmark does not time.
#[cfg(test)]
impl Compared {
    /// Takes a reference unless the frame is in another state than shared.
    pub(crate) fn try_get(&self) -> bool {
        let mut now = self.0.load(Ordering::Relaxed);
        while now != 0 && now < UNIQUE {
            // Acquire: sees what `begin` published.
            match self.0.compare_exchange(now, now + 1, Ordering::Acquire, Ordering::Relaxed) {
                Ok(_) => return true,
                Err(found) => now = found,
            }
        }
        false
    }

    /// Turns the only reference into exclusive control.
    pub(crate) fn make_unique(&self) -> bool {
        // Acquire: sees what earlier holders wrote.
        self.0.compare_exchange(1, UNIQUE, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }
}

impl Life for Compared {
    const NAME: &'static str = "compare-and-swap";

    fn unused() -> Self {
        Self(AtomicU64::new(IS_UNUSED))
    }
    #[inline(always)]
    fn begin(&self) {
        // Acquire: sees what the last owner wrote.
        self.0
            .compare_exchange(IS_UNUSED, BEING_BUILT, Ordering::Acquire, Ordering::Relaxed)
            .expect("the frame is unused");
        // Release: publishes the frame.
        self.0.store(1, Ordering::Release);
    }
    #[inline(always)]
    fn end(&self) {
        assert!(self.put(), "no other reference");
        // Release: publishes the frame to the next owner.
        self.0.store(IS_UNUSED, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_compared_word_has_the_states_of_the_other() {
        let word = Compared::unused();
        assert!(!word.try_get() && !word.make_unique(), "unused");
        word.begin();
        assert!(word.try_get() && !word.make_unique(), "shared by two");
        assert!(!word.put() && word.make_unique() && !word.try_get(), "unique");
        word.0.store(1, Ordering::Relaxed);
        word.end();
        assert!(!word.try_get(), "unused again");
    }

    #[test]
    fn a_life_ends_where_it_began() {
        fn lives<L: Life>() {
            let word = L::unused();
            (0..3).for_each(|_| {
                word.begin();
                word.end();
            });
        }
        lives::<Compared>();
        lives::<Claimed<Tagged>>();
        lives::<Claimed<Sole>>();
    }
}
