//! Concurrent syncs of one file under the schedules of shuttle.

use std::io::{self, IoSlice, IoSliceMut};
use std::sync::Arc;

use folio_cache::testing::{Call, Fault, Memory};
use folio_cache::{Backing, Cache, Durable, FileId, Version};
use folio_frames::FRAME_SIZE;
use folio_ref::testing::explore::{Search, deeper, explore, race};
use folio_ref::testing::stepped::step;

use crate::common::assert_nothing_leaked;
use crate::{RANDOM, WEAK};

/// Memory with a sync that ends some time before it returns.
#[derive(Debug)]
struct Late(Memory);

impl Backing for Late {
    fn file_id(&self) -> FileId {
        self.0.file_id()
    }

    fn version(&self) -> io::Result<Version> {
        self.0.version()
    }

    fn fill(&self, offset: u64, buffers: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        self.0.fill(offset, buffers)
    }

    fn is_writable(&self) -> bool {
        true
    }

    fn write(&self, offset: u64, buffers: &[IoSlice<'_>]) -> io::Result<()> {
        self.0.write(offset, buffers)
    }

    fn sync(&self, what: Durable) -> io::Result<()> {
        let synced = self.0.sync(what);
        step();
        synced
    }
}

/// Three opens write and sync, and the first request fails. The backing reports the failure to one
/// caller only, as Linux does. All three opens must report it once, also an open that syncs between
/// the failure and its record in the mapping.
fn failed_syncs(search: Search) {
    explore("three syncs of which the first fails", search, || {
        let cache: Cache = Cache::new(2 << 20).expect("memory for a test");
        let backing = Arc::new(Late(Memory::new(b"")));
        let files = [0, 1, 2].map(|page| {
            let file = cache.open_backing(backing.clone()).unwrap();
            file.write_at(&[7; 64], page * FRAME_SIZE as u64).unwrap();
            file
        });
        backing.0.inject(Call::Sync, 0, 1, Fault::Error(5));
        let syncs = files.each_ref().map(|file| {
            let file = file.clone();
            let sync = move || {
                let error = file.sync_data().expect_err("the failed sync is not reported");
                assert_eq!(error.raw_os_error(), Some(5));
            };
            Box::new(sync) as Box<dyn FnOnce() + Send>
        });
        race(syncs.into());
        assert!(files.iter().all(|file| file.sync_all().is_ok()), "an error was reported twice");
        drop(files);
        assert_nothing_leaked(&cache);
    });
}

#[test]
fn every_open_reports_a_failed_sync_once() {
    failed_syncs(deeper(1));
    failed_syncs(RANDOM);
    failed_syncs(WEAK);
}

/// Three threads write and sync. Each write is durable when the sync of its thread returns, also if
/// another thread made the request.
fn shared_syncs(search: Search) {
    explore("three writers that sync", search, || {
        let cache: Cache = Cache::new(2 << 20).expect("memory for a test");
        let backing = Arc::new(Late(Memory::new(&[0; 3])));
        let file = cache.open_backing(backing.clone()).unwrap();
        file.read_at(&mut [0; 3], 0).unwrap();
        let writers = [0_u8, 1, 2].map(|at| {
            let (file, backing) = (file.clone(), backing.clone());
            let write = move || {
                file.write_at(&[at + 1], u64::from(at)).unwrap();
                if at == 0 { file.sync_all() } else { file.sync_data() }.unwrap();
                assert_eq!(
                    backing.0.durable()[usize::from(at)],
                    at + 1,
                    "the write at {at} is not durable"
                );
            };
            Box::new(write) as Box<dyn FnOnce() + Send>
        });
        race(writers.into());
        assert_eq!(backing.0.durable(), [1, 2, 3]);
        drop(file);
        assert_nothing_leaked(&cache);
    });
}

#[test]
fn writes_before_a_shared_sync_are_durable_after_it() {
    shared_syncs(deeper(1));
    shared_syncs(RANDOM);
    shared_syncs(WEAK);
}
