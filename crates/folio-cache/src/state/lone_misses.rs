//! Lone misses: those that lie apart from all others of late. Random readers have no others.
//!
//! A lone miss continues no stream and begins none, so it need not reach the streams of its file,
//! which are behind a lock. It is remembered here by one store, in case that a neighbour follows:
//! then both are no longer lone. Two places are looked at:
//!
//! - what was missed lately near it, by any thread: a reader may go on in another thread;
//! - the last two misses of this thread: a reader with a stride misses far apart.
//!
//! All of this is a hint. Threads that write the same place at once lose a miss, and a stream
//! begins one miss later.

use std::sync::atomic::{AtomicU64, Ordering};

use smallvec::SmallVec;

use crate::rt::counter::{self, NUMBERS};

/// The pages of a region: misses in one region are near each other.
const REGION: u32 = 64;

/// The number of cache lines for misses near each other, chosen by region. A power of two.
const LINES: usize = 256;

/// The misses that a line remembers.
const PLACES: usize = 7;

/// A miss of up to 255 pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Miss {
    /// The number of the file. Two files are taken for each other by chance only.
    pub(crate) file: u32,
    pub(crate) first: u32,
    pub(crate) pages: u8,
}

/// The flag of a miss that the streams know.
const TOLD: u64 = 1;

impl Miss {
    /// Returns the miss as a number. It is never 0, as no miss has no pages.
    fn pack(self) -> u64 {
        let file = u64::from(self.file) & 0x7f_ffff;
        u64::from(self.first) << u32::BITS | file << 9 | u64::from(self.pages) << 1
    }
}

/// Returns the first page of a miss.
fn first_page(packed: u64) -> u32 {
    (packed >> u32::BITS) as u32
}

/// Returns `true` if two numbers are misses of one file and of the same number of pages.
fn are_alike(one: u64, other: u64) -> bool {
    (one ^ other) as u32 & !(TOLD as u32) == 0
}

/// Returns `true` if two numbers are alike and their first pages less than a region apart, by one
/// comparison. The first page and the last one of the largest file are neighbours here.
#[inline(always)]
fn are_near(one: u64, other: u64) -> bool {
    const MOST: u32 = REGION - 1;
    let difference = (one | TOLD).wrapping_sub(other | TOLD);
    // The pages come to the low half, where the difference is not negative any more. The high half
    // is 0 if the rest is alike.
    let turned = difference.wrapping_add(u64::from(MOST) << u32::BITS).rotate_left(u32::BITS);
    turned <= u64::from(2 * MOST)
}

#[derive(Debug, Default)]
#[repr(align(64))]
struct Line {
    misses: [AtomicU64; PLACES],
    /// The number of misses that were ever written, about.
    written: AtomicU64,
}

/// The last two misses of a thread, the last one first.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Last([AtomicU64; 2]);

/// The first pages of earlier misses that were not reported to the streams, in order.
pub(crate) type Untold = SmallVec<[u32; 2]>;

/// The lone misses of all files of a cache.
#[derive(Debug)]
pub(crate) struct LoneMisses {
    lines: Box<[Line]>,
    /// By the number of the thread. The last one belongs to several.
    last: Box<[Last]>,
}

impl Default for LoneMisses {
    fn default() -> Self {
        let lines = (0..LINES).map(|_| Line::default()).collect();
        Self { lines, last: (0..=NUMBERS).map(|_| Last::default()).collect() }
    }
}

impl LoneMisses {
    /// Records a miss. Returns `None` if it is lone. Otherwise returns the first pages of the
    /// earlier misses that must be reported to the streams before this one.
    // Relaxed throughout: hints.
    #[inline]
    pub(crate) fn record(&self, miss: Miss) -> Option<Untold> {
        let packed = miss.pack();
        let line = self.line(miss);
        let last = &self.last[counter::number()];
        let untold = line.tell_near(packed).or_else(|| last.tell_strided(packed));
        let packed = if untold.is_some() { packed | TOLD } else { packed };
        line.remember(packed);
        last.remember(packed);
        untold
    }

    fn line(&self, miss: Miss) -> &Line {
        // Many readers begin at a round number, and some go backward from there.
        let middle = u64::from(miss.first) + u64::from(REGION / 2);
        let region = (middle / u64::from(REGION)) | (u64::from(miss.file) << u32::BITS);
        let hash = region.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        &self.lines[(hash >> u32::BITS) as usize % LINES]
    }
}

impl Line {
    /// Returns the untold misses near another one, or `None` if none is near it.
    fn tell_near(&self, packed: u64) -> Option<Untold> {
        let is_near = |other: u64| are_near(other, packed);
        let misses = self.misses.each_ref().map(|place| place.load(Ordering::Relaxed));
        // All of them, without a branch for each: most misses are lone.
        if !misses.iter().fold(false, |is_any, &other| is_any | is_near(other)) {
            return None;
        }
        let near = self.misses.iter().zip(misses).filter(|&(_, other)| is_near(other));
        Some(near.filter_map(|(place, other)| mark_reported(place, other)).collect())
    }

    fn remember(&self, packed: u64) {
        let written = self.written.load(Ordering::Relaxed);
        self.misses[written as usize % PLACES].store(packed, Ordering::Relaxed);
        self.written.store(written.wrapping_add(1), Ordering::Relaxed);
    }
}

impl Last {
    /// Returns the untold ones of the last two misses if this one is the third in equal steps.
    fn tell_strided(&self, packed: u64) -> Option<Untold> {
        let last = self.0.each_ref().map(|place| place.load(Ordering::Relaxed));
        let [one, two] = last.map(|other| first_page(other).wrapping_sub(first_page(packed)));
        let is_strided = last.iter().all(|&other| are_alike(other, packed))
            && one != 0
            && two == one.wrapping_mul(2);
        is_strided.then(|| {
            let oldest_first = self.0.iter().zip(last).rev();
            oldest_first.filter_map(|(place, other)| mark_reported(place, other)).collect()
        })
    }

    fn remember(&self, packed: u64) {
        self.0[1].store(self.0[0].load(Ordering::Relaxed), Ordering::Relaxed);
        self.0[0].store(packed, Ordering::Relaxed);
    }
}

/// Marks a miss as reported. Returns its first page if it was not.
fn mark_reported(place: &AtomicU64, packed: u64) -> Option<u32> {
    place.store(packed | TOLD, Ordering::Relaxed);
    (packed & TOLD == 0).then(|| first_page(packed))
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    fn record(misses: &LoneMisses, file: u32, first: u32) -> Option<Vec<u32>> {
        misses.record(Miss { file, first, pages: 1 }).map(|untold| untold.to_vec())
    }

    #[test]
    fn a_neighbour_ends_the_loneliness_of_both_once() {
        let misses = LoneMisses::default();
        assert_eq!(record(&misses, 1, 1000), None);
        assert_eq!(record(&misses, 2, 1001), None, "another file");
        assert_eq!(record(&misses, 1, 1001), Some(vec![1000]));
        assert_eq!(record(&misses, 1, 1002), Some(vec![]), "both are reported");
        assert_eq!(record(&misses, 1, 999), Some(vec![]), "backward");
        let several = Miss { file: 1, first: 1003, pages: 4 };
        assert_eq!(misses.record(several), None, "a reader of another kind");
    }

    #[test]
    fn misses_are_near_that_are_alike_and_less_than_a_region_apart() {
        let seed = fastrand::u64(..);
        let mut random = fastrand::Rng::with_seed(seed);
        let mut near = 0;
        for _ in 0..100_000 {
            let mut miss = || Miss {
                file: random.u32(..2),
                first: 1000 + random.u32(..2 * REGION),
                pages: random.u8(1..3),
            };
            let (one, other) = (miss(), miss());
            let is_near = (one.file, one.pages) == (other.file, other.pages)
                && one.first.abs_diff(other.first) < REGION;
            let told = random.u64(..2) * TOLD;
            let answer = are_near(one.pack() | told, other.pack());
            assert_eq!(answer, is_near, "{one:?} and {other:?}: seed {seed}");
            near += u32::from(is_near);
        }
        assert!(near > 9999, "{near} of 100000");
    }

    #[test]
    fn a_reader_may_go_on_in_another_thread() {
        let misses = LoneMisses::default();
        assert_eq!(record(&misses, 1, 1000), None);
        let there = thread::scope(|scope| scope.spawn(|| record(&misses, 1, 1001)).join().unwrap());
        assert_eq!(there, Some(vec![1000]));
    }

    #[test]
    fn a_third_step_of_the_same_length_is_not_lone() {
        let misses = LoneMisses::default();
        for first in [0, 100_000] {
            assert_eq!(record(&misses, 1, first), None);
        }
        assert_eq!(record(&misses, 1, 200_000), Some(vec![0, 100_000]));
        assert_eq!(record(&misses, 1, 300_000), Some(vec![]), "they are reported");
        assert_eq!(record(&misses, 1, 300_100), None);
        for (first, untold) in [(9000, None), (8000, None), (7000, Some(vec![9000, 8000]))] {
            assert_eq!(record(&misses, 3, first), untold, "backward");
        }
    }

    #[test]
    fn random_misses_are_lone() {
        let misses = LoneMisses::default();
        let mut random = fastrand::Rng::with_seed(7);
        let reported =
            (0..100_000).filter(|_| record(&misses, 1, random.u32(..1 << 22)).is_some()).count();
        // A line has seven misses of 256 regions.
        assert!(reported < 4000, "{reported} of 100000");
    }
}
