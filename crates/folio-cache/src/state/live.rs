//! Live streams: how many readers of all files move in order at the moment, and so how much memory
//! each may have for pages that are read ahead.
//!
//! A stream sets a bit of a small table each time that it misses, or comes to its next window. The
//! number of bits tells the number of streams (linear counting: Whang, Vander-Zanden and Taylor,
//! 1990). There are two tables. Once the streams have requested a share of the memory, the older
//! one is cleared and becomes the new one: so a stream that ended is forgotten.

use std::sync::atomic::{AtomicU32, Ordering};

use crate::rt::lock::Mutex;

/// The bits of a table.
const BITS: usize = 4096;

/// The share of the memory that streams request until a table is old.
const TURN_SHARE: u64 = 8;

/// The streams of all files.
#[derive(Debug, Default)]
pub(crate) struct Live {
    count: AtomicU32,
    tables: Mutex<Tables>,
}

#[derive(Debug, Default)]
struct Tables {
    /// None before the first stream.
    new: Vec<u64>,
    old: Vec<u64>,
    /// The pages that streams requested since the last turn.
    requested: u64,
}

impl Live {
    /// Returns the number of streams, about: at least 1.
    pub(crate) fn count(&self) -> u32 {
        // Relaxed: a hint.
        self.count.load(Ordering::Relaxed).max(1)
    }

    /// Records that a stream of a file requests `pages` pages, in a cache of `frames` frames.
    pub(crate) fn record(&self, file: u32, stream: usize, pages: u64, frames: u64) {
        let mut tables = self.tables.lock();
        let Tables { new, old, requested } = &mut *tables;
        if new.is_empty() {
            (*new, *old) = (vec![0; BITS / 64], vec![0; BITS / 64]);
        }
        *requested += pages;
        if *requested > frames / TURN_SHARE {
            *requested = 0;
            std::mem::swap(new, old);
            new.fill(0);
        }
        let bit = hash(file, stream) as usize % BITS;
        new[bit / 64] |= 1 << (bit % 64);
        let set: u32 = new.iter().zip(&*old).map(|(new, old)| (new | old).count_ones()).sum();
        // Relaxed: a hint.
        self.count.store(streams(set), Ordering::Relaxed);
    }
}

/// Returns the number of streams that set so many bits.
fn streams(set: u32) -> u32 {
    let clear = (BITS as f64 - f64::from(set)).max(0.5);
    (BITS as f64 * (BITS as f64 / clear).ln()).round() as u32
}

fn hash(file: u32, stream: usize) -> u64 {
    let mixed = (u64::from(file) << 32 ^ stream as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed ^ mixed >> 32).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn live_streams_are_counted_and_ended_ones_forgotten() {
        let live = Live::default();
        assert_eq!(live.count(), 1);
        // More than 2048 streams come less than once in a turn.
        for wanted in [1, 2, 8, 32, 1000, 2000] {
            // As many pages as they may have ahead, or one miss each.
            let pages = u64::from((16_384 / 48 / wanted).max(1));
            for round in 0..8 {
                for file in 0..wanted {
                    live.record(file, 7, pages, 16_384);
                    assert!(round < 7 || live.count() * 10 >= wanted * 9);
                }
            }
            assert!(live.count() * 10 <= wanted * 11, "{} of {wanted}", live.count());
        }
        for _ in 0..8 {
            live.record(1, 7, 8192, 16_384);
        }
        assert_eq!(live.count(), 1);
    }
}
