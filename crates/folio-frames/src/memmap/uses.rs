//! The uses of a frame, in one byte: their number since reclaim last took them, up to 3, and the
//! time of the last one that was counted. All of it is a hint for reclaim.
//!
//! A hit counts by a load, and a store only below 3. Of uses that several threads count at once
//! some may be lost.
//!
//! | byte | what it says |
//! | --- | --- |
//! | 0 | not used, or used once after it was read ahead |
//! | 1, 2 | read ahead, and not used yet; with a readahead marker |
//! | the two highest bits are 1 to 3 | the number of uses; the other bits are the time |
//!
//! The **time** advances at the first use of each frame with a number that is a multiple of the
//! unit, a 32nd to a 16th of all frames, and when the owner of the pages says that so many came. So
//! it tells the order of uses also where no page comes between them, and also where all pages come
//! into a few frames. A hit on a hot page does not look at it, and no allocation does.

use core::sync::atomic::{AtomicU8, AtomicU32, Ordering};

use crossbeam_utils::CachePadded;

/// No use.
const NONE: u8 = 0;
/// Read ahead, and not used yet.
const READAHEAD: u8 = 1;
/// Read ahead, and not used yet: its first use reports the readahead marker.
const MARKER: u8 = 2;
/// One use.
const ONE: u8 = 1 << 6;
/// Three uses, or more.
const HOT: u8 = 3 * ONE;
/// The bits of the time.
const TIME: u8 = ONE - 1;

/// The parts of all frames in which the time advances.
const TICKS: u32 = 32;

/// The time of uses.
pub(crate) struct Clock {
    /// On a line of its own: the line of its neighbours is read by each hit.
    now: CachePadded<AtomicU32>,
    /// A frame number has none of these bits if the frame advances the time.
    mask: u32,
}

impl Clock {
    /// Returns the clock of a zone of `frames` frames.
    pub(crate) fn new(frames: u32) -> Self {
        let each = (frames / TICKS).max(1);
        Self { now: CachePadded::new(AtomicU32::new(0)), mask: each.next_power_of_two() - 1 }
    }

    #[inline(always)]
    pub(crate) fn now(&self) -> u32 {
        // Relaxed: a hint.
        self.now.load(Ordering::Relaxed)
    }

    /// Returns the number of frames in a unit of the time.
    pub(crate) fn unit(&self) -> u32 {
        self.mask + 1
    }

    /// Advances the time. An advance of two threads at once may be lost.
    pub(crate) fn advance(&self) {
        // Relaxed: a hint.
        self.now.store(self.now().wrapping_add(1), Ordering::Relaxed);
    }

    /// Advances the time, if it is the frame's turn.
    #[inline(always)]
    fn tick(&self, frame: u32) {
        if frame & self.mask == 0 {
            self.advance();
        }
    }
}

/// The uses of a frame since they were last taken: a hint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Uses {
    /// The number of uses, up to 3.
    pub count: u8,
    /// The time since the last of them that was counted, modulo 64. One unit passes while a 32nd to
    /// a 16th of all frames is used for the first time since its uses were taken, and at each
    /// [`Zone::advance_uses`](crate::Zone::advance_uses).
    pub age: u8,
}

/// The byte of a frame.
pub(crate) struct Use(AtomicU8);

impl Use {
    #[inline(always)]
    fn load(&self) -> u8 {
        // Relaxed: a hint.
        self.0.load(Ordering::Relaxed)
    }

    #[inline(always)]
    fn store(&self, byte: u8) {
        // Relaxed: a hint.
        self.0.store(byte, Ordering::Relaxed);
    }

    /// Counts a use of a frame. Returns `true` if this was the first use of a readahead marker.
    #[inline(always)]
    pub(crate) fn count(&self, clock: &Clock, frame: u32) -> bool {
        let seen = self.load();
        if seen >= HOT {
            return false;
        }
        if seen == READAHEAD || seen == MARKER {
            self.store(NONE);
            return seen == MARKER;
        }
        if seen == NONE {
            clock.tick(frame);
        }
        self.store((seen & !TIME) + ONE + (clock.now() as u8 & TIME));
        false
    }

    /// Returns `true` if no further use is counted.
    #[inline(always)]
    pub(crate) fn is_hot(&self) -> bool {
        self.load() >= HOT
    }

    /// Returns `true` if the frame was used, or read ahead.
    pub(crate) fn is_set(&self) -> bool {
        self.load() != NONE
    }

    /// Returns `true` if the frame was read ahead and not used yet.
    pub(crate) fn is_readahead(&self) -> bool {
        matches!(self.load(), READAHEAD | MARKER)
    }

    pub(crate) fn set_readahead(&self, is_marker: bool) {
        self.store(if is_marker { MARKER } else { READAHEAD });
    }

    /// Takes the uses, unless the frame was read ahead and not used yet.
    #[inline]
    pub(crate) fn take(&self, clock: &Clock) -> Option<Uses> {
        let seen = self.load();
        if seen == NONE {
            return Some(Uses::default());
        }
        if seen < ONE {
            return None;
        }
        self.store(NONE);
        let age = (clock.now() as u8).wrapping_sub(seen) & TIME;
        Some(Uses { count: seen / ONE, age })
    }

    /// Becomes as another one, for a page that moves. The time of its last use is now, if the other
    /// one has another clock.
    pub(crate) fn copy(&self, other: &Self, own_time: Option<&Clock>) {
        let seen = other.load();
        match own_time {
            Some(clock) if seen >= ONE => self.store((seen & !TIME) | (clock.now() as u8 & TIME)),
            _ => self.store(seen),
        }
    }

    /// Forgets the uses. Stores only a change: the line is shared with 63 other frames.
    pub(crate) fn clear(&self) {
        if self.is_set() {
            self.store(NONE);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uses_are_counted_with_their_time() {
        let clock = Clock::new(4096);
        let used = Use(AtomicU8::new(0));
        for n in 0..6 {
            (0..n).for_each(|_| assert!(!used.count(&clock, 1)));
            assert_eq!(used.take(&clock), Some(Uses { count: n.min(3), age: 0 }));
            assert_eq!(used.take(&clock), Some(Uses::default()));
        }
        used.count(&clock, 1);
        (0..70).for_each(|_| clock.tick(128));
        assert_eq!(used.take(&clock), Some(Uses { count: 1, age: 70 % 64 }));
    }

    #[test]
    fn a_page_that_moves_keeps_its_uses() {
        let (clock, other) = (Clock::new(4096), Clock::new(4096));
        (0..9).for_each(|_| other.tick(0));
        let [from, to] = [0, 0].map(|byte| Use(AtomicU8::new(byte)));
        (0..2).for_each(|_| _ = from.count(&clock, 1));
        (0..5).for_each(|_| clock.tick(0));
        to.copy(&from, None);
        assert_eq!(to.take(&clock), Some(Uses { count: 2, age: 5 }));
        to.copy(&from, Some(&other));
        assert_eq!(to.take(&other), Some(Uses { count: 2, age: 0 }), "another clock");
        from.set_readahead(true);
        to.copy(&from, Some(&other));
        assert!(to.is_readahead() && to.count(&other, 1), "the marker moved too");
    }

    #[test]
    fn first_uses_of_few_frames_advance_the_time() {
        let clock = Clock::new(4096);
        let used = [const { Use(AtomicU8::new(0)) }; 1024];
        for turn in 1..4 {
            for (frame, used) in (0..).zip(&used) {
                (0..5).for_each(|_| _ = used.count(&clock, frame));
            }
            assert_eq!(clock.now(), turn * 8, "1024 of 4096 frames");
            let ages = used.each_ref().map(|used| used.take(&clock).unwrap().age);
            assert_eq!((ages[0], ages[1023]), (7, 0));
            assert!(ages.is_sorted_by(|one, next| one >= next));
        }
    }

    #[test]
    fn the_first_use_after_readahead_does_not_count() {
        let clock = Clock::new(4096);
        let used = Use(AtomicU8::new(0));
        for is_marker in [false, true] {
            used.set_readahead(is_marker);
            assert!(used.is_readahead() && used.is_set() && !used.is_hot());
            assert_eq!(used.take(&clock), None);
            assert_eq!(used.count(&clock, 0), is_marker);
            assert_eq!(used.take(&clock), Some(Uses::default()));
        }
    }
}
