//! Numbers: a slot names a frame by its number among the frames of all zones.
//!
//! A slot is one word and does not know its zone: the caller passes the zone. If slots named frames
//! by their place in the zone, a slot that is used with the wrong zone would name an unrelated
//! frame there, and its page lock would free a reference of another owner. So each zone has numbers
//! of its own, and no other zone has a frame of that number. A zone that retires (`retire.rs`) ends
//! its numbers, and its successor may use them: no slot names a frame of the old zone then.
//!
//! A lookup pays for it with two operands in memory. From an entry to an index is one subtraction,
//! and one comparison rules out an empty slot, a locked one, and another zone's. The bytes at a
//! number are found by the number alone (`Zone::address_of`), as no register is free for the index
//! as well: with one more register an optimistic read of 64 bytes from a random page took 42 to
//! 44 ns instead of 39.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

#[cfg(feature = "std")]
use folio_ref::CHECKS;

/// The last number that was assigned; no frame has number 0.
static LAST: AtomicU32 = AtomicU32::new(0);

/// The numbers of a zone's frames.
pub(crate) struct Numbers {
    /// **Invariant:** not 0, and `first + frames` is at most 2^32; no other zone has one of them.
    /// It has 64 bits, as an entry has: so both are operands, and no lookup widens them.
    first: u64,
    /// 0 once the numbers ended. All accesses are Relaxed: a slot that names one of these numbers
    /// for another zone was written after they ended (Release), and its reader saw that (Acquire).
    frames: AtomicU64,
}

impl Numbers {
    /// Reserves numbers for a zone of `frames` frames. Returns `None` if fewer are left, or if
    /// `frames` is 0.
    pub(crate) fn reserve(frames: u32) -> Option<Self> {
        Self::reserve_from(&LAST, frames)
    }

    fn reserve_from(last: &AtomicU32, frames: u32) -> Option<Self> {
        // Relaxed: the numbers publish no other memory.
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

    /// Ends the numbers: from now on [`Numbers::check`] accepts none.
    #[cfg(feature = "std")]
    pub(crate) fn end(&self) {
        self.frames.store(0, Ordering::Relaxed);
    }

    /// Returns the same numbers, for the successor of the zone that had them.
    #[cfg(feature = "std")]
    pub(crate) fn inherit(&self, frames: u32) -> Self {
        assert!(!CHECKS || self.frames() == 0, "numbers of a zone that has not retired (R7)");
        Self { first: self.first, frames: AtomicU64::new(frames.into()) }
    }

    /// Returns the number of a frame of the zone.
    #[inline(always)]
    pub(crate) fn of(&self, index: u32) -> u32 {
        (self.first + u64::from(index)) as u32
    }

    /// Returns the address at which the entry of number 0 would lie, of an array with `size` bytes
    /// for each number, in which this zone's part starts at `first`.
    pub(crate) fn zeroth(&self, first: *mut u8, size: usize) -> *mut u8 {
        first.wrapping_sub(self.first as usize * size)
    }

    /// Returns the number if it is one of this zone's. Its bytes are found by nothing else, so that
    /// an optimistic read needs no second register.
    #[inline(always)]
    pub(crate) fn check(&self, number: u64) -> Option<Number> {
        (number.wrapping_sub(self.first) < self.frames.load(Ordering::Relaxed))
            .then_some(Number(number))
    }

    /// Returns the index of the frame with a number. Returns `None` if it is another zone's number,
    /// or 0, or if there are bits above it.
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
    fn numbers_run_out_and_none_is_assigned_twice() {
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
