//! Ghosts: evicted pages that are remembered for a while, in 4 bytes each.
//!
//! The table has buckets of 8 entries. An entry is 16 bits of the page's hash and 16 bits of a time
//! in the policy's ticks. A bucket is a queue: a new entry pushes the first one out. So the table
//! forgets, is never full, and never grows. About 1 in 10 000 pages is taken for another. All of
//! that costs a page a better or worse place, nothing else.

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
    pub(super) fn insert(&mut self, page: u64, time: u16) {
        let (bucket, print) = self.bucket(page);
        bucket.copy_within(..WAYS - 1, 1);
        bucket[0] = u32::from(print) << 16 | u32::from(time);
    }

    /// Takes the entry of a page. Returns its time if it is at most `most` ticks ago, or `None` if
    /// it is older or not remembered.
    pub(super) fn take(&mut self, page: u64, now: u16, most: u16) -> Option<u16> {
        let (bucket, print) = self.bucket(page);
        // All entries, without a branch for each: most pages are not remembered.
        let is_print = |entry: u32| entry >> 16 == u32::from(print);
        if !bucket.iter().fold(false, |is_there, &entry| is_there | is_print(entry)) {
            return None;
        }
        let is_it = |entry: u32| is_print(entry) && now.wrapping_sub(entry as u16) <= most;
        let place = bucket.iter().position(|&entry| is_it(entry))?;
        let time = bucket[place] as u16;
        bucket.copy_within(place + 1.., place);
        bucket[WAYS - 1] = 0;
        Some(time)
    }
}

/// The ticks of a queue of ghosts while as many come as it holds.
const TICKS: u32 = 256;

/// The ticks after which a ghost is forgotten in any case.
const MAX_TICKS: u16 = 8 * TICKS as u16;

/// Ghosts in the order of their eviction. The oldest are forgotten once there are too many.
#[derive(Debug)]
pub(super) struct GhostQueue {
    ghosts: Ghosts,
    /// By tick, modulo [`MAX_TICKS`]: the number of ghosts of that tick.
    counts: Vec<u32>,
    /// The number of ghosts from the tick `oldest` on.
    len: u32,
    most: u32,
    oldest: u16,
    now: u16,
    /// The ghosts that came in this tick.
    arrived: u32,
}

impl GhostQueue {
    /// Returns an empty queue of at most `most` ghosts.
    pub(super) fn new(most: u32) -> Self {
        Self {
            // Three times the room: hardly a ghost finds its bucket full.
            ghosts: Ghosts::new(3 * most),
            counts: vec![0; usize::from(MAX_TICKS)],
            len: 0,
            most,
            oldest: 0,
            now: 0,
            arrived: 0,
        }
    }

    /// Sets the most ghosts.
    pub(super) fn resize(&mut self, most: u32) {
        self.most = most;
        self.forget();
    }

    fn count(&mut self, tick: u16) -> &mut u32 {
        &mut self.counts[usize::from(tick % MAX_TICKS)]
    }

    /// Remembers a page.
    pub(super) fn insert(&mut self, page: u64) {
        let now = self.now;
        self.ghosts.insert(page, now);
        *self.count(now) += 1;
        self.len += 1;
        self.forget();
        self.arrived += 1;
        if self.arrived >= self.most.div_ceil(TICKS) {
            self.arrived = 0;
            self.now = now.wrapping_add(1);
            if self.now.wrapping_sub(self.oldest) >= MAX_TICKS {
                self.forget_tick();
            }
        }
    }

    /// Forgets the oldest ghosts, all of a tick, while there are too many by half of them.
    fn forget(&mut self) {
        while self.len > self.most + *self.count(self.oldest) / 2 && self.oldest != self.now {
            self.forget_tick();
        }
    }

    fn forget_tick(&mut self) {
        let oldest = self.oldest;
        self.len -= std::mem::take(self.count(oldest));
        self.oldest = oldest.wrapping_add(1);
    }

    /// Forgets a page. Returns `true` if it was remembered.
    pub(super) fn take(&mut self, page: u64) -> bool {
        let (now, most) = (self.now, self.now.wrapping_sub(self.oldest));
        let Some(tick) = self.ghosts.take(page, now, most) else { return false };
        let count = self.count(tick);
        // Another page may have been taken for this one, or may have taken its place.
        if *count > 0 {
            *count -= 1;
            self.len -= 1;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn most_recent_ghosts_are_known_once_and_hardly_another_page() {
        let mut ghosts = Ghosts::new(1000);
        (0..1000).for_each(|page| ghosts.insert(page << 32 | 7, page as u16));
        let known = (0..1000_u64)
            .filter(|&page| ghosts.take(page << 32 | 7, 1000, 1000) == Some(page as u16))
            .count();
        assert!((800..=1000).contains(&known), "{known} of 1000 are known");
        assert_eq!(
            (0..1000_u64).filter(|&page| ghosts.take(page << 32 | 7, 1000, 1000).is_some()).count(),
            0
        );
        (0..1000).for_each(|page| ghosts.insert(page << 32 | 7, page as u16));
        let wrong =
            (0..1000_u64).filter(|&page| ghosts.take(page << 32 | 9, 1000, 1000).is_some()).count();
        assert!(wrong < 10, "{wrong} of 1000 are taken for others");
    }

    /// The queue of libCacheSim's S3-FIFO: a ghost that is taken makes room for an older one.
    #[test]
    fn a_queue_forgets_the_oldest_ghosts_beyond_its_length() {
        let mut ghosts = GhostQueue::new(100);
        (0..150).for_each(|page| ghosts.insert(page));
        assert!((0..50).all(|page| !ghosts.take(page)));
        // A few find no room in the table.
        assert!((100..150).filter(|&page| ghosts.take(page)).count() > 45);
        (200..250).for_each(|page| ghosts.insert(page));
        let known = (50..100).filter(|&page| ghosts.take(page)).count();
        assert!(known > 40, "50 and 50 are not too many: {known}");
        assert!((200..250).filter(|&page| ghosts.take(page)).count() > 45);
        assert!((200..250).all(|page| !ghosts.take(page)));
        for page in 0..100_000 {
            ghosts.insert(page);
            assert!(page % 2 == 0 || ghosts.take(page), "the clock wraps around");
        }
    }

    #[test]
    fn an_old_ghost_is_not_known() {
        let mut ghosts = Ghosts::new(8);
        ghosts.insert(5, 100);
        assert_eq!(ghosts.take(5, 120, 10), None);
        ghosts.insert(5, u16::MAX);
        assert_eq!(ghosts.take(5, 9, 10), Some(u16::MAX), "the clock wraps around");
    }
}
