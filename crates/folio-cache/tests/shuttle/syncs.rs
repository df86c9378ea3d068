//! Syncs of one file under schedules that shuttle plays.

use std::io::{self, IoSlice, IoSliceMut};
use std::sync::Arc;

use folio_cache::{Backing, Cache, Call, Durable, Fault, FileId, Memory, Version};
use folio_frames::FRAME_SIZE;
use folio_ref::explore::{Search, deeper, explore, race};
use folio_ref::stepped::step;

use crate::BY_CHANCE;
use crate::common::assert_nothing_leaked;

/// Memory whose sync ends some time before its caller knows.
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

/// Three opens sync what they wrote, and the first request fails, which only its caller is told, as
/// Linux does it: all three are told, once.
///
/// It found that who came between the failure and its note was told that all is durable.
fn syncs_of_what_is_lost(search: Search) {
    explore("three syncs of which the first fails", search, || {
        let cache: Cache = Cache::new(2 << 20).expect("memory for a test");
        let backing = Arc::new(Late(Memory::new(b"")));
        let files = [0, 1, 2].map(|page| {
            let file = cache.open_backing(backing.clone()).unwrap();
            file.write_at(page * FRAME_SIZE as u64, &[7; 64]).unwrap();
            file
        });
        backing.0.inject(Call::Sync, 0, 1, Fault::Error(5));
        let syncs = files.each_ref().map(|file| {
            let file = file.clone();
            let sync = move || {
                assert_eq!(file.sync_data().unwrap_err().raw_os_error(), Some(5), "it may be lost")
            };
            Box::new(sync) as Box<dyn FnOnce() + Send>
        });
        race(syncs.into());
        assert!(files.iter().all(|file| file.sync_all().is_ok()), "told twice");
        drop(files);
        assert_nothing_leaked(&cache);
    });
}

#[test]
fn every_open_reports_a_failed_sync_once() {
    syncs_of_what_is_lost(deeper(2));
    syncs_of_what_is_lost(BY_CHANCE);
}

/// Three write and sync: what each wrote is durable when its sync returns, whoever made it.
fn syncs_of_what_was_written(search: Search) {
    explore("three writers that sync", search, || {
        let cache: Cache = Cache::new(2 << 20).expect("memory for a test");
        let backing = Arc::new(Late(Memory::new(&[0; 3])));
        let file = cache.open_backing(backing.clone()).unwrap();
        file.read_at(0, &mut [0; 3]).unwrap();
        let writers = [0_u8, 1, 2].map(|at| {
            let (file, backing) = (file.clone(), backing.clone());
            let write = move || {
                file.write_at(u64::from(at), &[at + 1]).unwrap();
                if at == 0 { file.sync_all() } else { file.sync_data() }.unwrap();
                assert_eq!(backing.0.durable()[usize::from(at)], at + 1, "{at} is not durable");
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
    syncs_of_what_was_written(deeper(1));
    syncs_of_what_was_written(BY_CHANCE);
}
