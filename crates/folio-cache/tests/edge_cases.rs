//! Edges: the last page that can be cached, two of one kind at once, a backing that panics, errors
//! that are somebody else's.

mod common;

use std::fs;
use std::io::{self, ErrorKind, IoSlice, IoSliceMut};
use std::os::unix::fs::OpenOptionsExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use common::{assert_nothing_leaked, file_of};
use folio_cache::reclaim::{Frames, Policy};
use folio_cache::{Backing, Cache, Call, Durable, Fault, FileId, LocalFile, Memory, Read, Version};
use rustix::fs::OFlags;

const EIO: i32 = 5;
const ENOSPC: i32 = 28;

/// Without threads: nothing is written before its time.
fn memory(contents: &[u8]) -> (Arc<Memory>, Cache) {
    let cache = Cache::new(2 << 20).unwrap();
    cache.set_io_threads(0);
    (Arc::new(Memory::new(contents)), cache)
}

/// A request past the last page of all went on at page 0, which then had the bytes from 16 TiB on,
/// or, with checks of overflows, panicked.
#[test]
fn a_read_across_16_tib_ends_there_and_fills_no_other_page() {
    let (memory, cache) = memory(b"the first");
    let end = 1_u64 << 44;
    memory.cut(end + 10 * 4096);
    memory.scribble(end - 8, b"the last, and beyond");
    let file = cache.open_backing(memory).unwrap();
    let mut buf = vec![1; 8 * 4096];
    assert_eq!(file.read_at(end - 2 * 4096, &mut buf).unwrap(), 2 * 4096);
    assert_eq!(&buf[2 * 4096 - 8..2 * 4096], b"the last");
    assert_eq!(file.read_at(0, &mut buf[..9]).unwrap(), 9);
    assert_eq!(&buf[..9], b"the first");
    file.invalidate();
    let mut reads = [Read::new(end - 4096, &mut buf)];
    file.read_many(&mut reads);
    assert_eq!(reads[0].result.as_ref().unwrap(), &4096);
    drop(file);
    assert_nothing_leaked(&cache);
}

/// The two shared what one of them was told: the other said that all was durable.
#[test]
fn concurrent_syncs_of_one_open_both_report_the_failure() {
    let (memory, cache) = memory(b"");
    let file = cache.open_backing(memory.clone()).unwrap();
    file.write_at(0, b"precious").unwrap();
    memory.inject(Call::Write, 0, u64::MAX, Fault::Error(ENOSPC));
    // Time for the other one.
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

/// What was dirty went with the close that unwound.
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

/// It failed, with the parts of pages at both ends zeroes already: what can not give space back can
/// hold zeroes.
#[test]
fn zeroes_are_written_if_punching_is_unsupported() {
    const EOPNOTSUPP: i32 = 95;
    let bytes = vec![7; 5 * 4096];
    let (memory, cache) = memory(&bytes);
    let file = cache.open_backing(memory.clone()).unwrap();
    memory.inject(Call::Punch, 0, u64::MAX, Fault::Error(EOPNOTSUPP));
    let held = file.page(2 * 4096).unwrap().unwrap();
    file.write_at(3 * 4096, &[8; 4096]).unwrap();
    file.punch_hole(100, 4 * 4096).unwrap();
    let expected = [&[7; 100][..], &[0; 4 * 4096], &[7; 4096 - 100]].concat();
    let mut buf = vec![1; bytes.len() + 1];
    assert_eq!(file.read_at(0, &mut buf).unwrap(), bytes.len());
    assert!(buf[..bytes.len()] == expected);
    assert!(held.iter().all(|&byte| byte == 7));
    file.sync_data().unwrap();
    assert!(memory.durable() == expected);
    drop((held, file));
    assert_nothing_leaked(&cache);
}

/// The parts of pages came first, and were zeroes when the backing refused the rest.
#[test]
fn a_refused_punch_changes_nothing() {
    let bytes = vec![7; 5 * 4096];
    let (memory, cache) = memory(&bytes);
    let file = cache.open_backing(memory.clone()).unwrap();
    memory.inject(Call::Punch, 0, 1, Fault::Error(EIO));
    assert_eq!(file.punch_hole(100, 4 * 4096).unwrap_err().raw_os_error(), Some(EIO));
    let mut buf = vec![0; bytes.len()];
    assert_eq!(file.read_at(0, &mut buf).unwrap(), bytes.len());
    assert!(buf == bytes);
    file.sync_data().unwrap();
    assert!(memory.durable() == bytes);
    drop(file);
    assert_nothing_leaked(&cache);
}

/// The files behind it had no turn, and none in the flusher's next rounds either, which went
/// through them in the same order.
#[test]
fn a_panicking_backing_does_not_stop_writeback_of_others() {
    let (_, cache) = memory(b"");
    let memories = [(); 3].map(|()| Arc::new(Memory::new(b"")));
    let files = memories.each_ref().map(|memory| cache.open_backing(memory.clone()).unwrap());
    for (memory, file) in memories.iter().zip(&files) {
        file.append(b"precious").unwrap();
        memory.inject(Call::Write, 0, 1, Fault::Panic);
    }
    // Whatever their order is: each was tried, and who asked has the panic.
    catch_unwind(AssertUnwindSafe(|| cache.flush())).unwrap_err();
    let tried = memories.each_ref().map(|memory| {
        memory.heal();
        memory.calls(Call::Write)
    });
    assert_eq!(tried, [1; 3]);
    cache.flush().unwrap();
    assert!(memories.iter().all(|memory| memory.contents() == b"precious"));
    drop(files);
    assert_nothing_leaked(&cache);
}

/// They panicked with it whenever too much was dirty, or no page was free.
#[test]
fn a_panicking_backing_does_not_panic_writers_of_others() {
    let (memory, cache) = memory(b"");
    let bad = cache.open_backing(memory.clone()).unwrap();
    // One page more than may be dirty before writers write.
    let bytes = vec![1; 129 * 4096];
    assert_eq!(bad.write_at(0, &bytes).unwrap(), bytes.len());
    memory.inject(Call::Write, 0, 1, Fault::Panic);
    let good = cache.open_backing(Arc::new(Memory::new(b""))).unwrap();
    assert_eq!(good.append(b"ours").unwrap(), 0);
    assert_eq!(memory.calls(Call::Write), 1, "it was tried");
    drop((good, bad));
    assert!(memory.contents() == bytes);
    assert_nothing_leaked(&cache);
}

#[test]
fn a_backing_panic_during_truncate_leaks_no_frame() {
    let (memory, cache) = memory(&[1; 5000]);
    let file = cache.open_backing(memory.clone()).unwrap();
    memory.inject(Call::SetLen, 0, 1, Fault::Panic);
    catch_unwind(AssertUnwindSafe(|| file.set_len(100))).unwrap_err();
    assert_eq!(file.read_at(4999, &mut [0; 2]).unwrap(), 1);
    file.set_len(100).unwrap();
    drop(file);
    assert_nothing_leaked(&cache);
}

/// They were told that there is no room, and an open failed with it: nobody but who syncs has to
/// know.
#[test]
fn readers_get_no_error_of_writeback() {
    let (memory, cache) = memory(b"");
    let file = cache.open_backing(memory.clone()).unwrap();
    file.append(b"ours").unwrap();
    // Others make it longer, within the page that is dirty.
    memory.scribble(4, b" and theirs");
    memory.inject(Call::Write, 0, u64::MAX, Fault::Error(ENOSPC));
    let mut buf = [0; 20];
    assert_eq!(file.read_at(0, &mut buf).unwrap(), 4);
    assert_eq!(file.page(0).unwrap().unwrap()[..], *b"ours");
    assert!(file.page(4).unwrap().is_none());
    let reader = cache.open_backing(memory.clone()).unwrap();
    assert_eq!(reader.bytes(0, 20).unwrap()[..], *b"ours");
    assert_eq!(file.sync_data().unwrap_err().raw_os_error(), Some(ENOSPC));
    memory.heal();
    assert_eq!(reader.read_at(0, &mut buf).unwrap(), 15);
    assert_eq!(&buf[..15], b"ours and theirs");
    drop((file, reader));
    assert_nothing_leaked(&cache);
}

/// Who opened the file after it got the errors of its reads.
#[test]
fn an_unsuitable_descriptor_is_refused() {
    let (_dir, path, _) = file_of(100);
    let refused = |options: &fs::OpenOptions, why: &str| {
        let error = match options.open(&path) {
            Ok(file) => LocalFile::new(file).unwrap_err(),
            Err(error) => return eprintln!("this file system opens no file so: {error}"),
        };
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(error.to_string().contains(why), "{error}");
    };
    refused(fs::OpenOptions::new().write(true), "for writing only");
    // The last part of a page could never be written.
    refused(
        fs::OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(OFlags::DIRECT.bits().cast_signed()),
        "LocalFile::direct",
    );
}

/// Memory whose first page can not be written.
#[derive(Debug)]
struct Sick(Memory);

impl Backing for Sick {
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

/// Its writers stood still for the sake of one page, which came first each time, and so did who
/// needed memory.
#[test]
fn one_unwritable_page_does_not_stop_writeback_of_others() {
    let cache: Cache = Cache::new(2 << 20).unwrap();
    cache.set_io_threads(0);
    let sick = Arc::new(Sick(Memory::new(b"")));
    let file = cache.open_backing(sick.clone()).unwrap();
    // Each a run of its own, and more than may be dirty.
    for page in 0..300 {
        assert_eq!(file.write_at(page * 2 * 4096, &[7; 4096]).unwrap(), 4096, "page {page}");
    }
    // All that is there is dirty or pinned.
    let other = cache.open_backing(Arc::new(Memory::new(&vec![1; 440 * 4096]))).unwrap();
    let held: Vec<_> = (0..440).map(|page| other.page(page * 4096).unwrap()).collect();
    assert!(held.iter().all(|page| page.as_ref().unwrap()[..] == [1; 4096]));
    assert_eq!(file.sync_data().unwrap_err().raw_os_error(), Some(EIO));
    let durable = sick.0.durable();
    assert!((1..300).all(|page| durable[page * 2 * 4096..][..4096] == [7; 4096]));
    assert_eq!(durable[..4096], [0; 4096]);
}

/// A policy that only names what has no page.
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
    fn moved(&mut self, _: u32, _: u32) {}
    fn resize(&mut self, _: u32) {}
}

/// It was asked again and again, for ever.
#[test]
fn reclaim_ends_if_the_policy_names_no_cached_page() {
    let cache: Cache = Cache::with_policy(4 << 20, |_| Box::new(Mistaken)).unwrap();
    assert_eq!(cache.reclaim(100), 0);
}
