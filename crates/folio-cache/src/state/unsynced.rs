//! The bytes that were written to the backing and are not durable yet.
//!
//! When a sync fails, the backing may have dropped any of them, and may say "ok" next time (Linux
//! marks such pages as clean). So they must be written again before a sync may succeed:
//!
//! | the page | after a failed sync |
//! | --- | --- |
//! | is in the cache since it was written | is dirty again |
//! | has left the cache since | is lost: each sync fails, until its bytes are written again or discarded |
//!
//! A closed file may have unsynced bytes too: [`Left`] keeps them until the file is opened again.
//! Its pages have left the cache, so these bytes are lost if the next sync fails.
//!
//! A set of ranges may hold a few bytes more than were written ([`RangeSet`]): these are written
//! once more than needed, or named as lost.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

use folio_frames::FRAME_SIZE;

use crate::backing::remote::Key;
use crate::rt::lock::Mutex;
use crate::state::range_set::RangeSet;

/// The unsynced bytes of a mapping.
#[derive(Debug, Default)]
pub(crate) struct Unsynced {
    sets: Mutex<Sets>,
    /// Some bytes are unsynced. Written under the lock.
    is_tracking: AtomicBool,
    /// Some bytes are lost. Written under the lock.
    has_lost: AtomicBool,
}

/// Ranges of bytes.
#[derive(Debug, Default)]
struct Sets {
    /// Written, or being written, since the sync under way began.
    written: RangeSet,
    /// Written before the sync under way began.
    syncing: RangeSet,
    /// Unsynced bytes that have left the cache since they were written.
    gone: RangeSet,
    /// Unsynced bytes that had left the cache when a sync failed.
    lost: RangeSet,
}

/// Returns the bytes of a page.
fn bytes_of(page: u32) -> Range<u64> {
    let start = u64::from(page) * FRAME_SIZE as u64;
    start..start + FRAME_SIZE as u64
}

impl Unsynced {
    /// Notes a write to the backing. Call before the write, and again when it has succeeded and
    /// before its pages count as clean: a sync may begin between the two.
    pub(crate) fn wrote(&self, bytes: &Range<u64>) {
        let mut sets = self.sets.lock();
        sets.written.insert(bytes.clone());
        // The bytes are in the cache.
        sets.gone.remove(bytes);
        // Relaxed: a thread that evicts a page of these takes its page lock after the page became
        // clean, which is after this.
        self.is_tracking.store(true, Ordering::Relaxed);
    }

    /// Notes that a clean page leaves the cache. Call while the page is locked.
    #[inline]
    pub(crate) fn evict(&self, page: u32) {
        if self.is_tracking.load(Ordering::Relaxed) {
            self.evict_tracked(bytes_of(page));
        }
    }

    #[cold]
    fn evict_tracked(&self, bytes: Range<u64>) {
        let mut sets = self.sets.lock();
        for part in [sets.written.within(&bytes), sets.syncing.within(&bytes)].concat() {
            sets.gone.insert(part);
        }
    }

    /// Notes that a sync of the backing begins.
    pub(crate) fn begin_sync(&self) {
        let mut sets = self.sets.lock();
        // What a sync that panicked left in `syncing` stays there.
        let written = std::mem::take(&mut sets.written);
        written.iter().for_each(|range| sets.syncing.insert(range));
    }

    /// Notes that the sync succeeded.
    pub(crate) fn synced(&self) {
        let mut sets = self.sets.lock();
        sets.syncing.clear();
        let still_gone: Vec<_> =
            sets.gone.iter().flat_map(|range| sets.written.within(&range)).collect();
        sets.gone.clear();
        for range in still_gone {
            sets.gone.insert(range);
        }
        self.is_tracking.store(!sets.written.is_empty(), Ordering::Relaxed);
    }

    /// Notes that the sync failed. Calls `make_dirty` with each page that must be written again;
    /// it returns `false` if the page is not in the cache.
    pub(crate) fn failed(&self, mut make_dirty: impl FnMut(u32) -> bool) {
        let ranges: Vec<_> = self.sets.lock().syncing.iter().collect();
        for range in ranges {
            let pages = range.start / FRAME_SIZE as u64..range.end.div_ceil(FRAME_SIZE as u64);
            for page in pages.filter_map(|page| u32::try_from(page).ok()) {
                let is_gone = !self.sets.lock().gone.within(&bytes_of(page)).is_empty();
                if is_gone || !make_dirty(page) {
                    self.lose(page);
                }
            }
        }
        let mut sets = self.sets.lock();
        sets.syncing.clear();
        self.is_tracking.store(!sets.written.is_empty(), Ordering::Relaxed);
    }

    fn lose(&self, page: u32) {
        let mut sets = self.sets.lock();
        let bytes = bytes_of(page);
        for part in sets.syncing.within(&bytes) {
            sets.lost.insert(part);
        }
        sets.gone.remove(&bytes);
        self.has_lost.store(!sets.lost.is_empty(), Ordering::Relaxed);
    }

    /// Notes that the user has written bytes again: they are dirty, and no longer lost.
    #[inline]
    pub(crate) fn rewritten(&self, bytes: &Range<u64>) {
        // Relaxed: the flag is set before the failed sync returns.
        if self.has_lost.load(Ordering::Relaxed) {
            self.find_again(bytes);
        }
    }

    #[cold]
    fn find_again(&self, bytes: &Range<u64>) {
        let mut sets = self.sets.lock();
        sets.lost.remove(bytes);
        self.has_lost.store(!sets.lost.is_empty(), Ordering::Relaxed);
    }

    /// Returns the unsynced bytes of a file that is closed, or `None` if all are durable.
    pub(crate) fn left(&self) -> Option<LeftBytes> {
        let sets = self.sets.lock();
        let Sets { written, syncing, gone, lost } = &*sets;
        let around = |sets: &[&RangeSet]| {
            let ranges = || sets.iter().flat_map(|set| set.iter());
            let start = ranges().map(|range| range.start).min()?;
            Some(start..ranges().map(|range| range.end).max()?)
        };
        let left = LeftBytes { unsynced: around(&[written, syncing, gone]), lost: around(&[lost]) };
        (left.unsynced.is_some() || left.lost.is_some()).then_some(left)
    }

    /// Adds the unsynced bytes of an earlier time that the file was open.
    pub(crate) fn inherit(&self, left: LeftBytes) {
        let mut sets = self.sets.lock();
        if let Some(unsynced) = left.unsynced {
            sets.written.insert(unsynced.clone());
            // Their pages have left already: evictions need not be noted for them.
            sets.gone.insert(unsynced);
        }
        if let Some(lost) = left.lost {
            sets.lost.insert(lost);
            self.has_lost.store(true, Ordering::Relaxed);
        }
    }

    /// Forgets bytes that the user removed from the file.
    pub(crate) fn forget(&self, bytes: &Range<u64>) {
        let mut sets = self.sets.lock();
        let Sets { written, syncing, gone, lost } = &mut *sets;
        for set in [written, syncing, gone, lost] {
            set.remove(bytes);
        }
        self.has_lost.store(!sets.lost.is_empty(), Ordering::Relaxed);
    }

    /// Returns the number of bytes that are lost.
    pub(crate) fn lost_bytes(&self) -> u64 {
        if self.has_lost.load(Ordering::Relaxed) { self.sets.lock().lost.count() } else { 0 }
    }

    /// Returns an error as long as bytes are lost.
    pub(crate) fn check(&self) -> io::Result<()> {
        if !self.has_lost.load(Ordering::Relaxed) {
            return Ok(());
        }
        let sets = self.sets.lock();
        let Some(first) = sets.lost.iter().next() else { return Ok(()) };
        let message = format!(
            "{} bytes may be lost, the first at {}: an earlier sync of the backing failed, and \
             they had left the cache; write them again, or discard them",
            sets.lost.count(),
            first.start
        );
        Err(io::Error::other(message))
    }
}

/// The unsynced bytes of a closed file: a range around them, and one around those that are lost.
#[derive(Debug)]
pub(crate) struct LeftBytes {
    unsynced: Option<Range<u64>>,
    lost: Option<Range<u64>>,
}

/// The maximum number of closed files of which unsynced bytes are known: about 500 KiB. Beyond it,
/// those of the file that was closed first are forgotten.
const MAX_LEFT: usize = 4096;

/// The unsynced bytes of closed files, by the key of the file.
#[derive(Debug, Default)]
pub(crate) struct Left {
    files: HashMap<Key, (u64, LeftBytes)>,
    /// The keys in the order of their closes. A key that was opened again stays until its turn.
    order: VecDeque<(u64, Key)>,
    closes: u64,
}

impl Left {
    /// Keeps what is left of a file that is closed.
    pub(crate) fn insert(&mut self, key: Key, left: LeftBytes) {
        self.closes += 1;
        self.order.push_back((self.closes, key.clone()));
        self.files.insert(key, (self.closes, left));
        while self.order.len() > MAX_LEFT {
            let Some((close, key)) = self.order.pop_front() else { break };
            if self.files.get(&key).is_some_and(|&(latest, _)| latest == close) {
                self.files.remove(&key);
            }
        }
    }

    /// Takes what is left of a file.
    pub(crate) fn take(&mut self, key: &Key) -> Option<LeftBytes> {
        self.files.remove(key).map(|(_, left)| left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bounded_number_of_closed_files_is_remembered() {
        let key = |n: usize| Key::new("test", n.to_le_bytes());
        let left = || LeftBytes { unsynced: Some(0..1), lost: None };
        let mut all = Left::default();
        for n in 0..MAX_LEFT + 10 {
            all.insert(key(n), left());
            // One that is opened and closed again and again stays.
            all.insert(key(0), left());
        }
        assert!(all.files.len() <= MAX_LEFT && all.order.len() <= MAX_LEFT);
        assert!(all.take(&key(1)).is_none() && all.take(&key(0)).is_some());
        assert!(all.take(&key(MAX_LEFT + 9)).is_some());
    }
}
