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
//! The sets are exact, and count as memory of files. All together have a sixteenth of the capacity,
//! and those of a file half of what the others leave, or eight ranges. Beyond that they become
//! *vague*: few ranges, with bytes between them that were not written. If a sync fails then, all of
//! these may be lost. What lies between is not written again: another program may have written it.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::mem;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use folio_frames::FRAME_SIZE;
use folio_ref::broken;

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
    /// Around bytes as in `written` and in `syncing`, which were taken out of these. Some may have
    /// been written again since.
    vague: [RangeSet; 2],
    /// A failed sync is being noted: the sets stay exact until its end.
    is_failing: bool,
    /// The number of ranges that were counted.
    counted: usize,
}

/// The place in [`Sets::vague`].
const WRITTEN: usize = 0;
const SYNCING: usize = 1;

/// The number of ranges that a file may have, however many all files have.
const RESERVED: usize = 8;

/// The memory that the ranges of all files may have.
#[derive(Clone, Copy)]
pub(crate) struct Room<'r> {
    /// The number of ranges.
    pub(crate) ranges: &'r AtomicUsize,
    pub(crate) most: usize,
}

impl Sets {
    fn ranges(&self) -> usize {
        let Self { written, syncing, gone, lost, vague, .. } = self;
        [written, syncing, gone, lost].into_iter().chain(vague).map(RangeSet::len).sum()
    }

    /// Counts the ranges. Makes them vague if they are more than half of what the others leave.
    fn fit(&mut self, room: Room<'_>) {
        let others = self.count(room).saturating_sub(self.counted);
        if !self.is_failing && self.counted > (room.most.saturating_sub(others) / 2).max(RESERVED) {
            let exact = [mem::take(&mut self.written), mem::take(&mut self.syncing)];
            for (vague, exact) in self.vague.iter_mut().zip(&exact) {
                vague.insert_all(exact);
                vague.merge(RESERVED / 4);
            }
            self.gone.clear();
            self.lost.merge(RESERVED / 4);
            self.count(room);
        }
    }

    /// Counts the ranges. Returns the number of those of all files.
    fn count(&mut self, room: Room<'_>) -> usize {
        let (before, now) = (self.counted, self.ranges());
        self.counted = now;
        if now == before {
            // Relaxed, here and below: a count.
            return room.ranges.load(Ordering::Relaxed);
        }
        let more = now.wrapping_sub(before);
        room.ranges.fetch_add(more, Ordering::Relaxed).wrapping_add(more)
    }

    /// Keeps of the bytes that have left only those written since the sync began.
    fn keep_gone_of_written(&mut self) {
        let gone = mem::take(&mut self.gone);
        for part in gone.iter().flat_map(|range| self.written.within(&range)) {
            self.gone.insert(part);
        }
    }

    fn forget(&mut self, bytes: &Range<u64>) {
        let Self { written, syncing, gone, lost, vague, .. } = self;
        for set in [written, syncing, gone, lost].into_iter().chain(vague) {
            set.remove(bytes);
        }
    }

    fn is_tracking(&self) -> bool {
        !self.written.is_empty() || !self.vague[WRITTEN].is_empty()
    }
}

/// Returns the bytes of a page.
fn bytes_of(page: u32) -> Range<u64> {
    let start = u64::from(page) * FRAME_SIZE as u64;
    start..start + FRAME_SIZE as u64
}

impl Unsynced {
    /// Notes a write to the backing. Call before the write, and again when it has succeeded and
    /// before its pages count as clean: a sync may begin between the two.
    pub(crate) fn wrote(&self, bytes: &Range<u64>, room: Room<'_>) {
        let mut sets = self.sets.lock();
        sets.written.insert(bytes.clone());
        // The bytes are in the cache.
        sets.gone.remove(bytes);
        // Relaxed: a thread that evicts a page of these takes its page lock after the page became
        // clean, which is after this.
        self.is_tracking.store(true, Ordering::Relaxed);
        sets.fit(room);
    }

    /// Notes that a clean page leaves the cache. Call while the page is locked.
    #[inline]
    pub(crate) fn evict<'r>(&self, page: u32, room: impl FnOnce() -> Room<'r>) {
        if self.is_tracking.load(Ordering::Relaxed) {
            self.evict_tracked(bytes_of(page), room());
        }
    }

    #[cold]
    fn evict_tracked(&self, bytes: Range<u64>, room: Room<'_>) {
        let mut sets = self.sets.lock();
        for part in [sets.written.within(&bytes), sets.syncing.within(&bytes)].concat() {
            sets.gone.insert(part);
        }
        sets.fit(room);
    }

    /// Notes that a sync of the backing begins.
    pub(crate) fn begin_sync(&self) {
        let mut sets = self.sets.lock();
        let Sets { written, syncing, vague: [vague_written, vague_syncing], .. } = &mut *sets;
        // What a sync that panicked left in `syncing` stays there.
        syncing.insert_all(&mem::take(written));
        vague_syncing.insert_all(&mem::take(vague_written));
    }

    /// Notes that the sync succeeded.
    pub(crate) fn synced(&self, room: Room<'_>) {
        let mut sets = self.sets.lock();
        sets.syncing.clear();
        sets.vague[SYNCING].clear();
        sets.keep_gone_of_written();
        self.is_tracking.store(sets.is_tracking(), Ordering::Relaxed);
        sets.count(room);
    }

    /// Notes that the sync failed. Calls `make_dirty` with each page that must be written again;
    /// it returns `false` if the page is not in the cache.
    pub(crate) fn failed(&self, room: Room<'_>, mut make_dirty: impl FnMut(u32) -> bool) {
        let in_cache: Vec<_> = {
            let mut sets = self.sets.lock();
            sets.is_failing = true;
            let Sets { syncing, gone, lost, vague, .. } = &mut *sets;
            let parts: Vec<_> = gone.iter().flat_map(|range| syncing.within(&range)).collect();
            for part in parts {
                syncing.remove(&part);
                lost.insert(part);
            }
            lost.insert_all(&mem::take(&mut vague[SYNCING]));
            self.has_lost.store(!lost.is_empty(), Ordering::Relaxed);
            if broken!("gaps-written-again") {
                syncing.merge(1);
            }
            syncing.iter().collect()
        };
        for range in in_cache {
            let pages = range.start / FRAME_SIZE as u64..range.end.div_ceil(FRAME_SIZE as u64);
            for page in pages.filter_map(|page| u32::try_from(page).ok()) {
                // It may have left since.
                let is_gone = !self.sets.lock().gone.within(&bytes_of(page)).is_empty();
                if is_gone || !make_dirty(page) {
                    self.lose(page);
                }
            }
        }
        let mut sets = self.sets.lock();
        sets.syncing.clear();
        // Those that were written again meanwhile can be lost another time.
        sets.keep_gone_of_written();
        self.has_lost.store(!sets.lost.is_empty(), Ordering::Relaxed);
        self.is_tracking.store(sets.is_tracking(), Ordering::Relaxed);
        sets.is_failing = false;
        sets.fit(room);
    }

    fn lose(&self, page: u32) {
        let mut sets = self.sets.lock();
        for part in sets.syncing.within(&bytes_of(page)) {
            sets.lost.insert(part);
            self.has_lost.store(true, Ordering::Relaxed);
        }
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

    /// Forgets that bytes are lost: the user gave them up.
    pub(crate) fn forget_lost(&self, room: Room<'_>) {
        let mut sets = self.sets.lock();
        sets.lost.clear();
        self.has_lost.store(false, Ordering::Relaxed);
        sets.count(room);
    }

    /// Takes the unsynced bytes of a file that is closed, or `None` if all are durable.
    pub(crate) fn take(&self, room: Room<'_>) -> Option<LeftBytes> {
        let mut taken = mem::take(&mut *self.sets.lock());
        let [vague, more] = &mut taken.vague;
        vague.insert_all(&mem::take(more));
        let syncing = mem::take(&mut taken.syncing);
        taken.written.insert_all(&syncing);
        // All pages have left: what was written is gone.
        taken.gone.clear();
        taken.count(room);
        (taken.counted > 0).then_some(LeftBytes { sets: taken, generation: None })
    }

    /// Adds the unsynced bytes of an earlier time that the file was open.
    pub(crate) fn inherit(&self, LeftBytes { sets: left, .. }: LeftBytes, room: Room<'_>) {
        let mut sets = self.sets.lock();
        let Sets { written, gone, lost, vague, counted, .. } = &mut *sets;
        written.insert_all(&left.written);
        // Their pages have left already: evictions need not be noted for them.
        gone.insert_all(&left.written);
        lost.insert_all(&left.lost);
        vague[WRITTEN].insert_all(&left.vague[WRITTEN]);
        *counted += left.counted;
        self.has_lost.store(!lost.is_empty(), Ordering::Relaxed);
        sets.fit(room);
    }

    /// Forgets bytes that the user removed from the file.
    pub(crate) fn forget(&self, bytes: &Range<u64>) {
        let mut sets = self.sets.lock();
        sets.forget(bytes);
        self.has_lost.store(!sets.lost.is_empty(), Ordering::Relaxed);
    }

    /// Returns the number of bytes that are lost.
    pub(crate) fn lost_bytes(&self) -> u64 {
        if self.has_lost.load(Ordering::Relaxed) { self.sets.lock().lost.count() } else { 0 }
    }

    /// Returns an error as long as bytes are lost.
    pub(crate) fn check(&self) -> io::Result<()> {
        if self.has_lost.load(Ordering::Relaxed) { check(&self.sets.lock().lost) } else { Ok(()) }
    }
}

/// The unsynced bytes of a closed file.
#[derive(Debug, Default)]
pub(crate) struct LeftBytes {
    sets: Sets,
    /// The generation of the file, if it is known.
    generation: Option<u64>,
}

impl LeftBytes {
    /// Forgets the bytes past the end of the file.
    pub(crate) fn cut(&mut self, end: u64) {
        self.sets.forget(&(end..u64::MAX));
    }

    /// Returns the bytes as those of a generation of the file.
    pub(crate) fn of(self, generation: Option<u64>) -> Self {
        Self { generation, ..self }
    }

    /// Returns `true` if the bytes may be of this generation: it is the same, or one is unknown.
    pub(crate) fn is_of(&self, generation: Option<u64>) -> bool {
        self.generation.is_none() || generation.is_none() || self.generation == generation
    }

    /// Returns the number of bytes that are lost.
    pub(crate) fn lost_bytes(&self) -> u64 {
        self.sets.lost.count()
    }

    /// Returns the error that a sync of the file reports, if bytes are lost.
    pub(crate) fn check(&self) -> io::Result<()> {
        check(&self.sets.lost)
    }

    /// Forgets that bytes are lost. Returns `true` if nothing else is left.
    fn forget_lost(&mut self, room: Room<'_>) -> bool {
        self.sets.lost.clear();
        self.sets.count(room);
        self.sets.counted == 0
    }

    /// Gives the memory back.
    pub(crate) fn uncount(mut self, room: Room<'_>) {
        let counted = mem::take(&mut self.sets.counted);
        // Relaxed: a count.
        room.ranges.fetch_sub(counted, Ordering::Relaxed);
    }
}

/// Returns an error if bytes are lost.
fn check(lost: &RangeSet) -> io::Result<()> {
    let Some(first) = lost.iter().next() else { return Ok(()) };
    let message = format!(
        "{} bytes may be lost, the first at {}: an earlier sync of the backing failed, and they \
         had left the cache; write them again, or discard them",
        lost.count(),
        first.start
    );
    Err(io::Error::other(message))
}

/// The maximum number of closed files of which unsynced bytes are known: about 500 KiB. Beyond it,
/// those of the file that was closed first are forgotten.
const MAX_LEFT: usize = 4096;

/// The unsynced bytes of closed files, by the key of the file.
#[derive(Debug, Default)]
pub(crate) struct Left {
    files: HashMap<Key, (u64, LeftBytes)>,
    /// The keys by the numbers of their closes.
    order: BTreeMap<u64, Key>,
    closes: u64,
}

impl Left {
    /// Keeps what is left of a file that is closed.
    pub(crate) fn insert(&mut self, key: Key, left: LeftBytes, room: Room<'_>) {
        if let Some(before) = self.take(&key) {
            before.uncount(room);
        }
        self.closes += 1;
        self.order.insert(self.closes, key.clone());
        self.files.insert(key, (self.closes, left));
        while self.files.len() > MAX_LEFT {
            let Some((_, first)) = self.order.first_key_value() else { break };
            let first = first.clone();
            if let Some(forgotten) = self.take(&first) {
                forgotten.uncount(room);
            }
        }
    }

    /// Takes what is left of a file.
    pub(crate) fn take(&mut self, key: &Key) -> Option<LeftBytes> {
        let (close, left) = self.files.remove(key)?;
        self.order.remove(&close);
        Some(left)
    }

    /// Forgets that bytes of a file are lost.
    pub(crate) fn forget_lost(&mut self, key: &Key, room: Room<'_>) {
        if self.files.get_mut(key).is_some_and(|(_, left)| left.forget_lost(room)) {
            self.take(key);
        }
    }

    /// Returns the files with lost bytes.
    pub(crate) fn lost(&self) -> impl Iterator<Item = (&Key, &LeftBytes)> {
        let files = self.files.iter().map(|(key, (_, left))| (key, left));
        files.filter(|(_, left)| left.lost_bytes() > 0)
    }
}

#[cfg(test)]
mod tests;
