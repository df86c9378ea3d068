//! Ghosts: evicted pages that are remembered for a while, in 4 bytes each.
//!
//! The table has buckets of 8 entries. An entry is 16 bits of the page's hash and 16 bits of a time
//! in the policy's ticks. A new entry replaces the oldest in its bucket. So the table forgets, is
//! never full, and never grows. About 1 in 10 000 pages is taken for another. All of that costs a
//! page a better or worse place, nothing else.

const WAYS: usize = 8;

/// Evicted pages by their hash, each with a time.
#[derive(Debug)]
pub(super) struct Ghosts {
    /// An empty entry is 0.
    entries: Vec<u32>,
}

/// Returns the bucket of a page, and its fingerprint, which is never 0.
fn hash(page: u64, buckets: usize) -> (usize, u16) {
    let once = page.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    // Multiply twice: the low bits of a product do not depend on the high bits of its factors.
    let mixed = (once ^ once >> 32).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let bucket = (u128::from(mixed) * buckets as u128) >> 64;
    (bucket as usize, (mixed as u16).max(1))
}

impl Ghosts {
    /// Returns an empty table with room for about `pages` pages.
    pub(super) fn new(pages: u32) -> Self {
        let buckets = (pages as usize).div_ceil(WAYS).max(1);
        Self { entries: vec![0; buckets * WAYS] }
    }

    /// Returns the bucket of a page, and its fingerprint.
    fn bucket(&mut self, page: u64) -> (&mut [u32; WAYS], u16) {
        let (bucket, print) = hash(page, self.entries.len() / WAYS);
        (&mut self.entries.as_chunks_mut().0[bucket], print)
    }

    /// Remembers a page, with a time.
    pub(super) fn insert(&mut self, page: u64, time: u16, now: u16) {
        let (bucket, print) = self.bucket(page);
        let age = |entry: u32| {
            if entry == 0 { 1 << 16 } else { u32::from(now.wrapping_sub(entry as u16)) }
        };
        // The place is in the low bits, so the largest of 8 numbers gives both: no branch, and one
        // register wide.
        let ages = (0..).zip(bucket.iter()).map(|(place, &entry)| age(entry) * WAYS as u32 + place);
        let oldest = ages.max().unwrap_or(0) as usize % WAYS;
        bucket[oldest] = u32::from(print) << 16 | u32::from(time);
    }

    /// Takes the entry of a page. Returns its time if it is at most `most` ticks ago, or `None` if
    /// it is older or not remembered.
    pub(super) fn take(&mut self, page: u64, now: u16, most: u16) -> Option<u16> {
        let (bucket, print) = self.bucket(page);
        let entry = bucket.iter_mut().find(|entry| **entry >> 16 == u32::from(print))?;
        let time = *entry as u16;
        *entry = 0;
        (now.wrapping_sub(time) <= most).then_some(time)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn most_recent_ghosts_are_known_once_and_hardly_another_page() {
        let mut ghosts = Ghosts::new(1000);
        (0..1000).for_each(|page| ghosts.insert(page << 32 | 7, page as u16, page as u16));
        let known = (0..1000_u64)
            .filter(|&page| ghosts.take(page << 32 | 7, 1000, 1000) == Some(page as u16))
            .count();
        assert!((800..=1000).contains(&known), "{known} of 1000 are known");
        assert_eq!(
            (0..1000_u64).filter(|&page| ghosts.take(page << 32 | 7, 1000, 1000).is_some()).count(),
            0
        );
        (0..1000).for_each(|page| ghosts.insert(page << 32 | 7, page as u16, page as u16));
        let wrong =
            (0..1000_u64).filter(|&page| ghosts.take(page << 32 | 9, 1000, 1000).is_some()).count();
        assert!(wrong < 10, "{wrong} of 1000 are taken for others");
    }

    #[test]
    fn an_old_ghost_is_not_known() {
        let mut ghosts = Ghosts::new(8);
        ghosts.insert(5, 100, 100);
        assert_eq!(ghosts.take(5, 120, 10), None);
        ghosts.insert(5, u16::MAX, u16::MAX);
        assert_eq!(ghosts.take(5, 9, 10), Some(u16::MAX), "the clock wraps around");
    }
}
