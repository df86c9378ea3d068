//! A set of numbers as ranges, with neighbours merged.

use std::collections::BTreeMap;
use std::ops::Range;

/// The memory of a range, about.
pub(crate) const RANGE_BYTES: usize = 48;

/// A set of numbers as disjoint ranges that do not touch.
#[derive(Debug, Default)]
pub(crate) struct RangeSet(BTreeMap<u64, u64>);

impl RangeSet {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the number of ranges.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns the ranges in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        self.0.iter().map(|(&start, &end)| start..end)
    }

    /// Returns the number of numbers in the set.
    pub(crate) fn count(&self) -> u64 {
        self.iter().map(|range| range.end - range.start).sum()
    }

    /// Returns the parts of `range` that are in the set.
    pub(crate) fn within(&self, range: &Range<u64>) -> Vec<Range<u64>> {
        let mut parts: Vec<_> = self
            .0
            .range(..range.end)
            .rev()
            .take_while(|&(_, &end)| end > range.start)
            .map(|(&start, &end)| start.max(range.start)..end.min(range.end))
            .filter(|part| !part.is_empty())
            .collect();
        parts.reverse();
        parts
    }

    pub(crate) fn insert(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        let mut merged = range;
        // The ranges that overlap or touch.
        while let Some((&start, &end)) = self.0.range(..=merged.end).next_back() {
            if end < merged.start {
                break;
            }
            self.0.remove(&start);
            merged = merged.start.min(start)..merged.end.max(end);
        }
        self.0.insert(merged.start, merged.end);
    }

    /// Inserts the numbers of another set.
    pub(crate) fn insert_all(&mut self, other: &Self) {
        if self.is_empty() {
            self.0.clone_from(&other.0);
        } else {
            other.iter().for_each(|range| self.insert(range));
        }
    }

    pub(crate) fn remove(&mut self, range: &Range<u64>) {
        while let Some((&start, &end)) = self.0.range(..range.end).next_back() {
            if end <= range.start || range.is_empty() {
                break;
            }
            self.0.remove(&start);
            if end > range.end {
                self.0.insert(range.end, end);
            }
            if start < range.start {
                self.0.insert(start, range.start);
            }
        }
    }

    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    /// Merges neighbours over the gaps between them, until there are at most `most` ranges, at
    /// least one. The set has more numbers then.
    pub(crate) fn merge(&mut self, most: usize) {
        while self.len() > most.max(1) {
            let ranges: Vec<_> = self.iter().collect();
            self.0 =
                ranges.chunks(2).map(|pair| (pair[0].start, pair[pair.len() - 1].end)).collect();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn it_holds_what_a_set_of_numbers_holds() {
        let mut random = fastrand::Rng::with_seed(1);
        let (mut ranges, mut numbers) = (RangeSet::default(), BTreeSet::new());
        for _ in 0..5000 {
            let start = random.u64(..60);
            let range = start..start + random.u64(..9);
            if random.bool() {
                ranges.insert(range.clone());
                numbers.extend(range);
            } else {
                ranges.remove(&range);
                numbers.retain(|number| !range.contains(number));
            }
            assert_eq!(ranges.iter().flatten().collect::<BTreeSet<_>>(), numbers);
            assert_eq!(ranges.count(), numbers.len() as u64);
            assert_eq!(ranges.is_empty(), numbers.is_empty());
            let asked = start..start + 20;
            let within: BTreeSet<_> = ranges.within(&asked).into_iter().flatten().collect();
            assert_eq!(within, numbers.range(asked).copied().collect());
            let list: Vec<_> = ranges.iter().collect();
            assert!(list.windows(2).all(|two| two[0].end < two[1].start), "{list:?}");
        }
        ranges.insert(3..4);
        ranges.clear();
        assert!(ranges.is_empty());
    }

    #[test]
    fn a_merged_set_is_small_and_leaves_nothing_out() {
        let mut ranges = RangeSet::default();
        (0..1000).for_each(|n| ranges.insert(10 * n..10 * n + 1));
        assert_eq!((ranges.len(), ranges.count()), (1000, 1000));
        let mut all = RangeSet::default();
        all.insert_all(&ranges);
        all.insert_all(&ranges);
        assert_eq!(all.iter().collect::<Vec<_>>(), ranges.iter().collect::<Vec<_>>());
        all.merge(16);
        assert!(all.len() <= 16);
        assert!((0..1000).all(|n| all.within(&(10 * n..10 * n + 1)).len() == 1));
        all.merge(0);
        assert_eq!((all.len(), all.iter().next()), (1, Some(0..9991)));
    }
}
