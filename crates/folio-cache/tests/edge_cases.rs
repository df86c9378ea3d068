//! Edge cases: the last page that can be cached, concurrent syncs, backings that panic or refuse,
//! and errors of other callers.

mod common;

use std::fs;
use std::io::{self, ErrorKind, IoSlice, IoSliceMut};
use std::os::unix::fs::OpenOptionsExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use common::{assert_nothing_leaked, file_of};
use folio_cache::policy::{Frames, Policy};
use folio_cache::testing::{Call, Fault, Memory};
use folio_cache::{Backing, Cache, Durable, FileId, LocalFile, ReadRequest, Version};
use rustix::fs::OFlags;

const EIO: i32 = 5;
const ENOSPC: i32 = 28;

/// Returns a memory and a cache without threads, so that no page is flushed in the background.
fn memory(contents: &[u8]) -> (Arc<Memory>, Cache) {
    let cache = Cache::new(2 << 20).unwrap();
    cache.set_io_threads(0);
    (Arc::new(Memory::new(contents)), cache)
}

/// A request past the last page must neither wrap around to page 0 nor overflow.
#[test]
fn a_read_across_16_tib_ends_there_and_fills_no_other_page() {
    let (memory, cache) = memory(b"the first");
    let end = 1_u64 << 44;
    memory.cut(end + 10 * 4096);
    memory.scribble(end - 8, b"the last, and beyond");
    let file = cache.open_backing(memory).unwrap();
    let mut buf = vec![1; 8 * 4096];
    assert_eq!(file.read_at(&mut buf, end - 2 * 4096).unwrap(), 2 * 4096);
    assert_eq!(&buf[2 * 4096 - 8..2 * 4096], b"the last");
    assert_eq!(file.read_at(&mut buf[..9], 0).unwrap(), 9);
    assert_eq!(&buf[..9], b"the first");
    file.invalidate();
    let mut reads = [ReadRequest::new(&mut buf, end - 4096)];
    file.read_many(&mut reads);
    assert_eq!(reads[0].result.as_ref().unwrap(), &4096);
    drop(file);
    assert_nothing_leaked(&cache);
}

/// The two calls share the error cursor of their open. Each must report all errors since it began:
/// otherwise one of them would claim that everything is durable.
#[test]
fn concurrent_syncs_of_one_open_both_report_the_failure() {
    let (memory, cache) = memory(b"");
    let file = cache.open_backing(memory.clone()).unwrap();
    file.write_at(b"precious", 0).unwrap();
    memory.inject(Call::Write, 0, u64::MAX, Fault::Error(ENOSPC));
    // Keeps the first sync running while the second one begins.
    memory.inject(Call::Sync, 0, 1, Fault::Delay(Duration::from_millis(200)));
    thread::scope(|scope| {
        let slow = scope.spawn(|| file.sync_data());
        while memory.calls(Call::Sync) == 0 {
            thread::yield_now();
        }
        assert_eq!(file.sync_data().unwrap_err().raw_os_error(), Some(ENOSPC));
        assert_eq!(slow.join().unwrap().unwrap_err().raw_os_error(), Some(ENOSPC));
    });
    memory.heal();
    file.sync_data().unwrap();
    assert_eq!(memory.durable(), b"precious");
}

/// Dirty data must survive a last close that unwinds.
#[test]
fn a_backing_panic_at_the_last_close_loses_nothing() {
    for call in [Call::Write, Call::Version] {
        let (memory, cache) = memory(b"");
        let file = cache.open_backing(memory.clone()).unwrap();
        file.append(b"precious").unwrap();
        memory.inject(call, 0, 1, Fault::Panic);
        catch_unwind(AssertUnwindSafe(|| drop(file))).unwrap_err();
        cache.flush().unwrap();
        assert_eq!(memory.contents(), b"precious");
        assert_nothing_leaked(&cache);
    }
}

/// A backing that cannot free space can still store zeroes.
#[test]
fn zeroes_are_written_if_punching_is_unsupported() {
    const EOPNOTSUPP: i32 = 95;
    let bytes = vec![7; 5 * 4096];
    let (memory, cache) = memory(&bytes);
    let file = cache.open_backing(memory.clone()).unwrap();
    memory.inject(Call::Punch, 0, u64::MAX, Fault::Error(EOPNOTSUPP));
    let handle = file.page(2 * 4096).unwrap().unwrap();
    file.write_at(&[8; 4096], 3 * 4096).unwrap();
    file.punch_hole(100, 4 * 4096).unwrap();
    let expected = [&[7; 100][..], &[0; 4 * 4096], &[7; 4096 - 100]].concat();
    let mut buf = vec![1; bytes.len() + 1];
    assert_eq!(file.read_at(&mut buf, 0).unwrap(), bytes.len());
    assert!(buf[..bytes.len()] == expected);
    assert!(handle.iter().all(|&byte| byte == 7));
    file.sync_data().unwrap();
    assert!(memory.durable() == expected);
    drop((handle, file));
    assert_nothing_leaked(&cache);
}

/// The partial pages at both ends must not be zeroed before the backing accepts the punch.
#[test]
fn a_refused_punch_changes_nothing() {
    let bytes = vec![7; 5 * 4096];
    let (memory, cache) = memory(&bytes);
    let file = cache.open_backing(memory.clone()).unwrap();
    memory.inject(Call::Punch, 0, 1, Fault::Error(EIO));
    assert_eq!(file.punch_hole(100, 4 * 4096).unwrap_err().raw_os_error(), Some(EIO));
    let mut buf = vec![0; bytes.len()];
    assert_eq!(file.read_at(&mut buf, 0).unwrap(), bytes.len());
    assert!(buf == bytes);
    file.sync_data().unwrap();
    assert!(memory.durable() == bytes);
    drop(file);
    assert_nothing_leaked(&cache);
}

/// The files after it in the order of writeback must be written in the same round.
#[test]
fn a_panicking_backing_does_not_stop_writeback_of_others() {
    let (_, cache) = memory(b"");
    let memories = [(); 3].map(|()| Arc::new(Memory::new(b"")));
    let files = memories.each_ref().map(|memory| cache.open_backing(memory.clone()).unwrap());
    for (memory, file) in memories.iter().zip(&files) {
        file.append(b"precious").unwrap();
        memory.inject(Call::Write, 0, 1, Fault::Panic);
    }
    // In any order: each file is tried, and the caller of flush gets the panic.
    catch_unwind(AssertUnwindSafe(|| cache.flush())).unwrap_err();
    let attempts = memories.each_ref().map(|memory| {
        memory.heal();
        memory.calls(Call::Write)
    });
    assert_eq!(attempts, [1; 3]);
    cache.flush().unwrap();
    assert!(memories.iter().all(|memory| memory.contents() == b"precious"));
    drop(files);
    assert_nothing_leaked(&cache);
}

/// A writer that needs memory writes back pages of any file. A panic of another file's backing must
/// not reach it.
#[test]
fn a_panicking_backing_does_not_panic_writers_of_others() {
    let (memory, cache) = memory(b"");
    // No flusher.
    cache.set_io_threads(0);
    let bad = cache.open_backing(memory.clone()).unwrap();
    let bytes = vec![1; 100 * 4096];
    assert_eq!(bad.write_at(&bytes, 0).unwrap(), bytes.len());
    // All other pages are pinned.
    let good = cache.open_backing(Arc::new(Memory::new(&vec![1; 412 * 4096]))).unwrap();
    let handles: Vec<_> = (0..412).map(|page| good.page(page * 4096).unwrap().unwrap()).collect();
    memory.inject(Call::Write, 0, 1, Fault::Panic);
    assert_eq!(good.append(b"ours").unwrap(), 412 * 4096);
    assert_eq!(memory.calls(Call::Write), 2, "writeback of the bad file was not tried");
    drop((good, bad, handles));
    assert!(memory.contents() == bytes);
    assert_nothing_leaked(&cache);
}

#[test]
fn a_backing_panic_during_truncate_leaks_no_frame() {
    let (memory, cache) = memory(&[1; 5000]);
    let file = cache.open_backing(memory.clone()).unwrap();
    memory.inject(Call::SetLen, 0, 1, Fault::Panic);
    catch_unwind(AssertUnwindSafe(|| file.set_len(100))).unwrap_err();
    assert_eq!(file.read_at(&mut [0; 2], 4999).unwrap(), 1);
    file.set_len(100).unwrap();
    drop(file);
    assert_nothing_leaked(&cache);
}

/// Reads and opens must not fail with an error of writeback: only a sync or a write reports it.
#[test]
fn readers_get_no_error_of_writeback() {
    let (memory, cache) = memory(b"");
    let file = cache.open_backing(memory.clone()).unwrap();
    file.append(b"ours").unwrap();
    // Another program lengthens the file, within the dirty page.
    memory.scribble(4, b" and theirs");
    memory.inject(Call::Write, 0, u64::MAX, Fault::Error(ENOSPC));
    let mut buf = [0; 20];
    assert_eq!(file.read_at(&mut buf, 0).unwrap(), 4);
    assert_eq!(file.page(0).unwrap().unwrap()[..], *b"ours");
    assert!(file.page(4).unwrap().is_none());
    let reader = cache.open_backing(memory.clone()).unwrap();
    assert_eq!(reader.bytes(0, 20).unwrap()[..], *b"ours");
    assert_eq!(file.sync_data().unwrap_err().raw_os_error(), Some(ENOSPC));
    memory.heal();
    assert_eq!(reader.read_at(&mut buf, 0).unwrap(), 15);
    assert_eq!(&buf[..15], b"ours and theirs");
    drop((file, reader));
    assert_nothing_leaked(&cache);
}

/// All opens of a file share the first descriptor, so it must allow reads and writes of any length.
#[test]
fn an_unsuitable_descriptor_is_refused() {
    let (_dir, path, _) = file_of(100);
    let refused = |options: &fs::OpenOptions, reason: &str| {
        let error = match options.open(&path) {
            Ok(file) => LocalFile::new(file).unwrap_err(),
            Err(error) => return eprintln!("this file system has no such open flags: {error}"),
        };
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(error.to_string().contains(reason), "{error}");
    };
    refused(fs::OpenOptions::new().write(true), "for writing only");
    refused(fs::OpenOptions::new().append(true).read(true), "O_APPEND");
    let path_only = OFlags::PATH.bits().cast_signed();
    refused(fs::OpenOptions::new().read(true).custom_flags(path_only), "O_PATH");
    // A partial last page could never be written.
    refused(
        fs::OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(OFlags::DIRECT.bits().cast_signed()),
        "LocalFile::direct",
    );
}

/// Memory that refuses writes to its first page.
#[derive(Debug)]
struct FirstPageFails(Memory);

impl Backing for FirstPageFails {
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
        if offset == 0 {
            Err(io::Error::from_raw_os_error(EIO))
        } else {
            self.0.write(offset, buffers)
        }
    }

    fn sync(&self, what: Durable) -> io::Result<()> {
        self.0.sync(what)
    }
}

/// An unwritable page, the first in writeback order, must stop neither the writers of its file nor
/// reclaim.
#[test]
fn one_unwritable_page_does_not_stop_writeback_of_others() {
    let cache: Cache = Cache::new(2 << 20).unwrap();
    cache.set_io_threads(0);
    let backing = Arc::new(FirstPageFails(Memory::new(b"")));
    let file = cache.open_backing(backing.clone()).unwrap();
    // Each page is a dirty range of its own, and there are more than the dirty limit.
    for page in 0..300 {
        assert_eq!(file.write_at(&[7; 4096], page * 2 * 4096).unwrap(), 4096, "page {page}");
    }
    // Every page of the cache becomes dirty or pinned.
    let other = cache.open_backing(Arc::new(Memory::new(&vec![1; 440 * 4096]))).unwrap();
    let pinned: Vec<_> = (0..440).map(|page| other.page(page * 4096).unwrap()).collect();
    assert!(pinned.iter().all(|page| page.as_ref().unwrap()[..] == [1; 4096]));
    assert_eq!(file.sync_data().unwrap_err().raw_os_error(), Some(EIO));
    let durable = backing.0.durable();
    assert!((1..300).all(|page| durable[page * 2 * 4096..][..4096] == [7; 4096]));
    assert_eq!(durable[..4096], [0; 4096]);
}

/// A policy that names only frames without a page.
#[derive(Debug)]
struct Mistaken;

impl Policy for Mistaken {
    fn name(&self) -> &'static str {
        "mistaken"
    }
    fn insert(&mut self, _: &dyn Frames, _: u32, _: u64) {}
    fn pick_victims(&mut self, _: &dyn Frames, wanted: usize, victims: &mut Vec<u32>) {
        victims.extend((0..7).cycle().take(wanted));
    }
    fn restore(&mut self, _: u32) {}
    fn moved(&mut self, _: &dyn Frames, _: u32, _: u32) {}
    fn resize(&mut self, _: u32) {}
}

/// Reclaim must not ask such a policy forever.
#[test]
fn reclaim_ends_if_the_policy_names_no_cached_page() {
    let cache = Cache::builder().capacity(4 << 20).policy(|_| Box::new(Mistaken)).build().unwrap();
    assert_eq!(cache.reclaim(100), 0);
}
