//! Counts the reads of each key, to find those that are hot.

use std::collections::HashMap;

/// After this many reads all counts are halved, and what was read once is forgotten.
const WINDOW: u32 = 4096;

/// A key that was read fewer times is not hot.
const LEAST: u32 = 16;

/// A hot key is read more than this many times as often as the mean.
const FACTOR: u32 = 4;

/// The reads of each key, in the last few thousand reads.
#[derive(Debug, Default)]
pub(crate) struct Heat {
    counts: HashMap<u64, u32>,
    total: u32,
    reads: u32,
}

impl Heat {
    /// Counts a read.
    pub(crate) fn record(&mut self, key: u64) {
        *self.counts.entry(key).or_default() += 1;
        self.total += 1;
        self.reads += 1;
        if self.reads >= WINDOW {
            self.reads = 0;
            self.counts.retain(|_, count| {
                *count /= 2;
                *count > 0
            });
            self.total = self.counts.values().sum();
        }
    }

    /// Returns `true` if a key is read much more often than the others.
    pub(crate) fn is_hot(&self, key: u64) -> bool {
        let count = self.counts.get(&key).copied().unwrap_or_default();
        let keys = self.counts.len() as u64;
        count >= LEAST && u64::from(count) * keys > u64::from(FACTOR) * u64::from(self.total)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_hot_while_it_is_read_more_than_the_others() {
        let mut heat = Heat::default();
        for round in 0..40 {
            for key in 0..20 {
                heat.record(key);
            }
            assert!(!heat.is_hot(3), "round {round}: all are read alike");
        }
        for _ in 0..400 {
            heat.record(3);
        }
        assert!(heat.is_hot(3) && !heat.is_hot(4));
        for _ in 0..1000 {
            for key in 0..20 {
                heat.record(key);
            }
        }
        assert!(!heat.is_hot(3), "it is long ago");
    }

    #[test]
    fn counts_are_bounded_by_the_window() {
        let mut heat = Heat::default();
        for key in 0..100_000 {
            heat.record(key);
        }
        assert!(heat.counts.len() <= WINDOW as usize, "{}", heat.counts.len());
        assert!(!heat.is_hot(99_999));
    }
}
