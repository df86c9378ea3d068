//! Numbers: how a slot names a frame, among those of all zones.
//!
//! A slot is one word, and does not know its zone: whoever looks says which. If it named frames by
//! their place in the zone, a slot that is asked with another zone would name somebody else's frame
//! there, and its claim would take his reference away. So each zone has numbers of its own: of what
//! a slot names, every other zone says that it has no such frame. A zone that retires (`retire.rs`)
//! ends its numbers, and they may be its heir's: no slot names a frame of it then.
//!
//! A lookup pays for it by two operands in memory: from an entry to an index there is one
//! subtraction, and one comparison tells an empty slot, a claimed one and another zone's. What lies
//! at a number is found by the number alone (`Zone::address_of`), as there is no register for both:
//! with one more to keep a read without a reference of 64 bytes from anywhere took 42 to 44 ns
//! instead of 39.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

#[cfg(feature = "std")]
use folio_ref::CHECKS;

/// The number that was given out last; 0 is no frame's.
static LAST: AtomicU32 = AtomicU32::new(0);

/// The numbers of a zone's frames.
pub(crate) struct Numbers {
    /// **Invariant:** not 0, and `first + frames` is at most 2^32; no other zone has one of them.
    /// In 64 bits, as an entry has: so both are operands, and no lookup has to widen them.
    first: u64,
    /// 0 once they ended. All accesses are Relaxed: a slot that names one of these numbers for
    /// another zone was written after they ended (Release), and its reader saw that (Acquire).
    frames: AtomicU64,
}

impl Numbers {
    /// For a zone of so many frames. `None`: there are not so many left.
    pub(crate) fn reserve(frames: u32) -> Option<Self> {
        Self::reserve_from(&LAST, frames)
    }

    fn reserve_from(last: &AtomicU32, frames: u32) -> Option<Self> {
        // Relaxed: who gets them gets no other memory with them.
        let before = last
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| last.checked_add(frames));
        before.ok().filter(|_| frames > 0).map(|before| Self {
            first: u64::from(before) + 1,
            frames: AtomicU64::new(frames.into()),
        })
    }

    #[inline(always)]
    pub(crate) fn frames(&self) -> u32 {
        self.frames.load(Ordering::Relaxed) as u32
    }

    /// Ends them: from now on no number is one of these.
    #[cfg(feature = "std")]
    pub(crate) fn end(&self) {
        self.frames.store(0, Ordering::Relaxed);
    }

    /// The same numbers, for the heir of the zone that had them: of so many frames.
    #[cfg(feature = "std")]
    pub(crate) fn inherit(&self, frames: u32) -> Self {
        assert!(!CHECKS || self.frames() == 0, "numbers of a zone that has not retired (R7)");
        Self { first: self.first, frames: AtomicU64::new(frames.into()) }
    }

    /// The number of a frame of the zone.
    #[inline(always)]
    pub(crate) fn of(&self, index: u32) -> u32 {
        (self.first + u64::from(index)) as u32
    }

    /// Of what every number has `size` bytes of, this zone's from `first` on: where the zeroth
    /// would lie.
    pub(crate) fn zeroth(&self, first: *mut u8, size: usize) -> *mut u8 {
        first.wrapping_sub(self.first as usize * size)
    }

    /// A number that is one of this zone's. What it names is found by nothing else, so that a read
    /// without a reference has no second register to keep.
    #[inline(always)]
    pub(crate) fn check(&self, number: u64) -> Option<Number> {
        (number.wrapping_sub(self.first) < self.frames.load(Ordering::Relaxed))
            .then_some(Number(number))
    }

    /// The frame of a number. `None`: it is another zone's, or 0, or there are bits above it.
    #[inline(always)]
    pub(crate) fn index(&self, number: u64) -> Option<u32> {
        self.check(number).map(|Number(number)| number.wrapping_sub(self.first) as u32)
    }
}

/// The number of a frame of a zone.
#[derive(Clone, Copy)]
pub(crate) struct Number(u64);

impl Number {
    #[inline(always)]
    pub(crate) fn as_usize(self) -> usize {
        self.0 as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_number_is_one_frame_of_one_zone() {
        let last = AtomicU32::new(0);
        let [small, large] = [3, 5].map(|frames| Numbers::reserve_from(&last, frames).unwrap());
        assert_eq!([0, 2].map(|index| small.of(index)), [1, 3]);
        assert_eq!([0, 4].map(|index| large.of(index)), [4, 8]);
        for number in (0..10).chain([u32::MAX - 4, u32::MAX]) {
            let index =
                |first: u32, end: u32| (first..end).contains(&number).then(|| number - first);
            for (numbers, expect) in [(&small, index(1, 4)), (&large, index(4, 9))] {
                let number = u64::from(number);
                assert_eq!(numbers.index(number), expect, "{number}");
                assert_eq!(
                    [1 << 32, 1 << 33, 3 << 32].map(|above| numbers.index(number | above)),
                    [None; 3]
                );
            }
        }
    }

    #[test]
    fn numbers_end_and_none_is_given_out_twice() {
        let last = AtomicU32::new(u32::MAX - 10);
        assert!(Numbers::reserve_from(&last, 11).is_none());
        let numbers = Numbers::reserve_from(&last, 10).unwrap();
        assert_eq!(
            (numbers.of(9), numbers.index(u32::MAX.into()), numbers.index(0)),
            (u32::MAX, Some(9), None)
        );
        assert!(
            Numbers::reserve_from(&last, 1).is_none() && Numbers::reserve_from(&last, 0).is_none()
        );
    }
}
