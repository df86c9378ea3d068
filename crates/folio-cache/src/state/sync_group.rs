//! Group sync of one backing: one sync at a time, and all calls that arrive meanwhile share the
//! next.
//!
//! One at a time, because only one caller learns that a sync failed. Linux reports the error to one
//! caller of `fsync(2)` for each open file, and counts the pages as clean from then on, so the next
//! caller succeeds. No other sync may begin until the first has recorded the error for all callers.
//!
//! Shared, so that many threads that sync one file do not wait for one another. A sync that begins
//! after all of them arrived covers the writes of all. The sync in progress may have begun before
//! those writes.

use folio_ref::broken;

use crate::backing::Durable;
use crate::rt::shim::{Condvar, Mutex};

/// The syncs of a mapping.
#[derive(Debug, Default)]
pub(crate) struct SyncGroup {
    state: Mutex<State>,
    ended: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// The number of syncs that began, and so the number of the one in progress.
    begun: u64,
    is_in_progress: bool,
    /// The number of the newest sync that ended.
    ended: u64,
    /// The number of the newest sync of [`Durable::All`] that ended.
    ended_all: u64,
    /// The number of threads that wait for a sync to end.
    waiting: u32,
}

impl SyncGroup {
    /// Calls `act` while no other sync runs. Or returns after the sync of another call, if that
    /// began after this call and makes as much durable. `act` must record its errors where all
    /// calls that share it find them.
    pub(crate) fn sync(&self, what: Durable, act: impl FnOnce()) {
        self.sync_from(what, self.next(), act);
    }

    /// Returns the number of the first sync that begins after this call.
    pub(crate) fn next(&self) -> u64 {
        let state = self.state.lock();
        let is_shared = broken!("older-sync-shared") && state.is_in_progress;
        state.begun + u64::from(!is_shared)
    }

    /// Does what [`sync`](Self::sync) does. The sync of another call counts if its number is at
    /// least `wanted`.
    pub(crate) fn sync_from(&self, what: Durable, wanted: u64, act: impl FnOnce()) {
        let mut state = self.state.lock();
        loop {
            let ended = match what {
                Durable::Data => state.ended,
                Durable::All => state.ended_all,
            };
            if ended >= wanted {
                return;
            }
            if !state.is_in_progress {
                break;
            }
            state.waiting += 1;
            self.ended.wait(&mut state);
            state.waiting -= 1;
        }
        state.begun += 1;
        state.is_in_progress = true;
        drop(state);
        let mut turn = Turn { group: self, done: None };
        act();
        turn.done = Some(what);
    }
}

/// The right to sync. It also ends if the backing panics: then the sync counts for no caller.
struct Turn<'s> {
    group: &'s SyncGroup,
    done: Option<Durable>,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut state = self.group.state.lock();
        state.is_in_progress = false;
        if self.done.is_some() {
            state.ended = state.begun;
        }
        if self.done == Some(Durable::All) {
            state.ended_all = state.begun;
        }
        self.group.ended.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::io::{self, IoSlice, IoSliceMut};
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::sync::{Arc, OnceLock, Weak};
    use std::thread;

    use folio_ref::DefaultScheme;

    use super::*;
    use crate::api::cache::Cache;
    use crate::backing::testing::{Call, Fault, Memory};
    use crate::backing::{Backing, FileId, Version};
    use crate::state::mapping::Mapping;

    impl SyncGroup {
        fn waiting(&self) -> u32 {
            self.state.lock().waiting
        }
    }

    #[test]
    fn concurrent_syncs_share_the_next_that_does_as_much() {
        for (whats, calls) in [
            ([Durable::Data; 3], vec![1]),
            ([Durable::All; 3], vec![1]),
            // A sync of all covers one of data, not the other way round: the order decides.
            ([Durable::Data, Durable::All, Durable::Data], vec![1, 2]),
        ] {
            let (group, called) = (&SyncGroup::default(), &AtomicU32::new(0));
            thread::scope(|scope| {
                group.sync(Durable::All, || {
                    for what in whats {
                        scope.spawn(move || {
                            group.sync(what, || _ = called.fetch_add(1, Ordering::Relaxed));
                        });
                    }
                    while group.waiting() < 3 {
                        thread::yield_now();
                    }
                });
            });
            let called = called.load(Ordering::Relaxed);
            assert!(calls.contains(&called), "{called} calls for {whats:?}");
        }
    }

    #[test]
    fn a_sync_of_data_counts_for_no_sync_of_all() {
        let (group, called) = (SyncGroup::default(), AtomicU32::new(0));
        let wanted = group.next();
        let calls_after = |what| {
            group.sync_from(what, wanted, || _ = called.fetch_add(1, Ordering::Relaxed));
            called.load(Ordering::Relaxed)
        };
        let whats = [Durable::Data, Durable::Data, Durable::All, Durable::All, Durable::Data];
        assert_eq!(whats.map(calls_after), [1, 1, 2, 2, 2]);
    }

    #[test]
    fn a_sync_that_panics_counts_for_no_caller_and_blocks_none() {
        let (group, called) = (SyncGroup::default(), AtomicU32::new(0));
        thread::scope(|scope| {
            let panics = AssertUnwindSafe(|| {
                group.sync(Durable::Data, || {
                    scope.spawn(|| {
                        group.sync(Durable::Data, || _ = called.fetch_add(1, Ordering::Relaxed));
                    });
                    while group.waiting() == 0 {
                        thread::yield_now();
                    }
                    panic!("on purpose");
                });
            });
            catch_unwind(panics).unwrap_err();
        });
        assert_eq!(called.into_inner(), 1);
    }

    /// Reports an error to one caller, as Linux does. That call returns only after another arrived.
    #[derive(Debug)]
    struct Forgetful {
        memory: Memory,
        mapping: OnceLock<Weak<Mapping<DefaultScheme>>>,
    }

    impl Backing for Forgetful {
        fn file_id(&self) -> FileId {
            self.memory.file_id()
        }

        fn version(&self) -> io::Result<Version> {
            self.memory.version()
        }

        fn fill(&self, offset: u64, buffers: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
            self.memory.fill(offset, buffers)
        }

        fn is_writable(&self) -> bool {
            true
        }

        fn write(&self, offset: u64, buffers: &[IoSlice<'_>]) -> io::Result<()> {
            self.memory.write(offset, buffers)
        }

        fn sync(&self, what: Durable) -> io::Result<()> {
            let synced = self.memory.sync(what);
            if synced.is_err() {
                let mapping = self.mapping.get().and_then(Weak::upgrade).expect("the file is open");
                while mapping.make_writing().syncs.waiting() == 0
                    && self.memory.calls(Call::Sync) == 1
                {
                    thread::yield_now();
                }
            }
            synced
        }
    }

    /// The second sync must not succeed before the first has recorded that the data is not durable.
    #[test]
    fn two_opens_that_sync_at_once_both_get_the_error() {
        let backing = Arc::new(Forgetful { memory: Memory::new(b""), mapping: OnceLock::new() });
        let cache = Cache::new(2 << 20).unwrap();
        cache.set_io_threads(0);
        let files = [(); 2].map(|()| cache.open_backing(backing.clone()).unwrap());
        backing.mapping.set(Arc::downgrade(&files[0].opened.mapping)).expect("once");
        for (file, at) in files.iter().zip([0, 4096]) {
            file.write_at(b"precious", at).unwrap();
        }
        backing.memory.inject(Call::Sync, 0, 1, Fault::Error(5));
        let reported = thread::scope(|scope| {
            let syncs = files.each_ref().map(|file| scope.spawn(|| file.sync_data()));
            syncs.map(|sync| sync.join().unwrap().map_err(|error| error.raw_os_error()))
        });
        assert_eq!(reported, [Err(Some(5)); 2]);
        assert!(files.iter().all(|file| file.sync_data().is_ok()), "reported once");
    }
}
