//! SyncGroup of one backing: one at a time, and who comes meanwhile shares the next.
//!
//! One at a time, as only one learns that a sync failed: Linux tells it to one caller of `fsync(2)`
//! for each open file, the pages count as clean from then on, and the next caller is told that all
//! is well. Until the first has noted the error for everybody, nobody else may ask.
//!
//! Shared, lest many threads that sync one file wait for one another: the sync that begins after
//! all of them came has what all of them wrote. That under way may have begun before.

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
    /// How many began: the number of the one under way, if one is.
    begun: u64,
    is_under_way: bool,
    /// The newest that ended.
    ended: u64,
    /// The newest of [`Durable::All`] that ended.
    ended_all: u64,
    /// Who waits for one to end.
    waiting: u32,
}

impl SyncGroup {
    /// Has `act` done, alone, or returns after that of somebody else which began after this call
    /// and makes as much durable. `act` notes its errors where all find them who share it.
    pub(crate) fn sync(&self, what: Durable, act: impl FnOnce()) {
        let mut state = self.state.lock();
        let wanted = state.begun + 1;
        loop {
            let ended = match what {
                Durable::Data => state.ended,
                Durable::All => state.ended_all,
            };
            if ended >= wanted {
                return;
            }
            if !state.is_under_way {
                break;
            }
            state.waiting += 1;
            self.ended.wait(&mut state);
            state.waiting -= 1;
        }
        state.begun += 1;
        state.is_under_way = true;
        drop(state);
        let mut turn = Turn { syncs: self, done: None };
        act();
        turn.done = Some(what);
    }
}

/// The right to sync, which ends also when the backing panics: then it counts for nobody.
struct Turn<'s> {
    syncs: &'s SyncGroup,
    done: Option<Durable>,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut state = self.syncs.state.lock();
        state.is_under_way = false;
        if self.done.is_some() {
            state.ended = state.begun;
        }
        if self.done == Some(Durable::All) {
            state.ended_all = state.begun;
        }
        self.syncs.ended.notify_all();
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
    fn who_comes_while_one_is_under_way_shares_the_next_that_does_as_much() {
        for (whats, calls) in [
            ([Durable::Data; 3], vec![1]),
            ([Durable::All; 3], vec![1]),
            // Whoever is first: that of all is enough for the others, the other way round it is
            // not.
            ([Durable::Data, Durable::All, Durable::Data], vec![1, 2]),
        ] {
            let (syncs, called) = (&SyncGroup::default(), &AtomicU32::new(0));
            thread::scope(|scope| {
                syncs.sync(Durable::All, || {
                    for what in whats {
                        scope.spawn(move || {
                            syncs.sync(what, || _ = called.fetch_add(1, Ordering::Relaxed))
                        });
                    }
                    while syncs.waiting() < 3 {
                        thread::yield_now();
                    }
                });
            });
            let called = called.load(Ordering::Relaxed);
            assert!(calls.contains(&called), "{called} calls for {whats:?}");
        }
    }

    #[test]
    fn a_sync_that_panics_counts_for_nobody_and_keeps_nobody_waiting() {
        let (syncs, called) = (SyncGroup::default(), AtomicU32::new(0));
        thread::scope(|scope| {
            let panics = AssertUnwindSafe(|| {
                syncs.sync(Durable::Data, || {
                    scope.spawn(|| {
                        syncs.sync(Durable::Data, || _ = called.fetch_add(1, Ordering::Relaxed))
                    });
                    while syncs.waiting() == 0 {
                        thread::yield_now();
                    }
                    panic!("on purpose");
                });
            });
            catch_unwind(panics).unwrap_err();
        });
        assert_eq!(called.into_inner(), 1);
    }

    /// As Linux does it: the error is told to one caller. That one takes its time to go on, until
    /// another has come.
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
                let mapping =
                    self.mapping.get().and_then(Weak::upgrade).expect("a file that is synced");
                while mapping.syncs.waiting() == 0 && self.memory.calls(Call::Sync) == 1 {
                    thread::yield_now();
                }
            }
            synced
        }
    }

    /// The second one's succeeded, and said that all was durable: the first had not noted yet that
    /// it was not.
    #[test]
    fn of_two_opens_that_sync_at_once_both_are_told_that_it_failed() {
        let backing = Arc::new(Forgetful { memory: Memory::new(b""), mapping: OnceLock::new() });
        let cache = Cache::new(2 << 20).unwrap();
        cache.set_io_threads(0);
        let files = [(); 2].map(|()| cache.open_backing(backing.clone()).unwrap());
        backing.mapping.set(Arc::downgrade(&files[0].mapping)).expect("once");
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
