//! Ghosts: pages that went, remembered for a while, by 4 bytes each.
//!
//! A table of buckets of 8 entries. An entry is 16 bits of the page's hash and 16 bits of a time in
//! the owner's ticks; a new one takes the place of the oldest in its bucket. So it forgets, is
//! never full and never grows, and 1 in some 10 000 pages is taken for another: all of that costs a
//! page a better or worse place, nothing else.

const WAYS: usize = 8;

/// Pages by their hash, with a time.
#[derive(Debug)]
pub(super) struct Ghosts {
    /// 0: empty.
    entries: Vec<u32>,
}

/// Of a page: its bucket among so many, and what is kept of it, never 0.
fn hash(page: u64, buckets: usize) -> (usize, u16) {
    let once = page.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    // Twice, as the low bits of a product know nothing of the high bits of its factors.
    let mixed = (once ^ once >> 32).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let bucket = (u128::from(mixed) * buckets as u128) >> 64;
    (bucket as usize, (mixed as u16).max(1))
}

impl Ghosts {
    /// Room for about this many.
    pub(super) fn new(pages: u32) -> Self {
        let buckets = (pages as usize).div_ceil(WAYS).max(1);
        Self { entries: vec![0; buckets * WAYS] }
    }

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
        // Its place in the low bits, so that the largest of 8 numbers says both: no branch, and one
        // register wide.
        let ages = (0..).zip(bucket.iter()).map(|(place, &entry)| age(entry) * WAYS as u32 + place);
        let oldest = ages.max().unwrap_or(0) as usize % WAYS;
        bucket[oldest] = u32::from(print) << 16 | u32::from(time);
    }

    /// The time that was noted with a page, if it is remembered and no more than `most` ticks ago.
    /// Forgets it.
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
    fn most_of_what_went_lately_is_known_once_and_hardly_anything_else() {
        let mut ghosts = Ghosts::new(1000);
        (0..1000).for_each(|page| ghosts.insert(page << 32 | 7, page as u16, page as u16));
        let known = (0..1000_u64)
            .filter(|&page| ghosts.take(page << 32 | 7, 1000, 1000) == Some(page as u16))
            .count();
        assert!((800..=1000).contains(&known), "{known} of 1000 known");
        assert_eq!(
            (0..1000_u64).filter(|&page| ghosts.take(page << 32 | 7, 1000, 1000).is_some()).count(),
            0
        );
        (0..1000).for_each(|page| ghosts.insert(page << 32 | 7, page as u16, page as u16));
        let wrong =
            (0..1000_u64).filter(|&page| ghosts.take(page << 32 | 9, 1000, 1000).is_some()).count();
        assert!(wrong < 10, "{wrong} of 1000 taken for others");
    }

    #[test]
    fn what_is_too_old_is_not_known() {
        let mut ghosts = Ghosts::new(8);
        ghosts.insert(5, 100, 100);
        assert_eq!(ghosts.take(5, 120, 10), None);
        ghosts.insert(5, u16::MAX, u16::MAX);
        assert_eq!(ghosts.take(5, 9, 10), Some(u16::MAX), "across the end of the clock");
    }
}
