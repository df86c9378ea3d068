//! The cache over backings other than files.

mod common;

use std::io::{self, ErrorKind, IoSliceMut};
use std::sync::Arc;
use std::thread;

use common::{Gated, OpenOnDrop, assert_nothing_leaked, file_of};
use folio_cache::testing::{Call, Fault, Memory};
use folio_cache::{Backing, Cache, FileId, Version};

#[test]
fn memory_reads_like_a_file() {
    let (_dir, _, bytes) = file_of(50_001);
    let memory = Arc::new(Memory::new(&bytes));
    let cache: Cache = Cache::new(2 << 20).unwrap();
    let file = cache.open_backing(memory.clone()).unwrap();
    let other = cache.open_backing(memory.clone()).unwrap();
    let mut buf = vec![0; 60_000];
    for file in [&file, &other] {
        assert_eq!(file.read_at(&mut buf, 0).unwrap(), bytes.len());
        assert_eq!(buf[..bytes.len()], bytes);
    }
    assert_eq!(cache.stats().misses, 13, "two opens of one file id do not share pages");
    memory.scribble(3, b"new");
    assert!(file.revalidate().unwrap());
    assert!(!other.revalidate().unwrap());
    other.read_at(&mut buf[..3], 3).unwrap();
    assert_eq!(&buf[..3], b"new");
    memory.cut(10);
    assert_eq!(file.read_at(&mut buf, 20_000).unwrap(), 0);
    assert_eq!(file.read_at(&mut buf, 8).unwrap(), 2);
    drop((file, other));
    assert_nothing_leaked(&cache);
}

/// A backing with the three methods that it must have.
#[derive(Debug)]
struct Least;

impl Backing for Least {
    fn file_id(&self) -> FileId {
        FileId { space: "least", volume: 0, object: 0 }
    }

    fn version(&self) -> io::Result<Version> {
        Ok(Version { len: 3, change_token: [0; 4] })
    }

    fn fill(&self, _: u64, buffers: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        buffers[0][..3].fill(1);
        Ok(3)
    }
}

#[test]
fn other_methods_of_a_backing_have_cautious_defaults() {
    assert!(!Least.fills_together() && !Least.is_writable() && !Least.is_unlinked());
    assert!(Least.as_fd().is_none());
    let refused = [Least.write(0, &[]), Least.set_len(0), Least.punch(0, 1)];
    for result in refused {
        assert_eq!(result.unwrap_err().kind(), ErrorKind::PermissionDenied);
    }
    let cache: Cache = Cache::new(2 << 20).unwrap();
    let file = cache.open_backing(Arc::new(Least)).unwrap();
    assert_eq!(file.bytes(0, 9).unwrap(), [1; 3][..]);
}

#[test]
fn short_and_interrupted_reads_are_completed() {
    let (_dir, _, bytes) = file_of(9000);
    let memory = Arc::new(Memory::new(&bytes));
    let cache: Cache = Cache::new(2 << 20).unwrap();
    let file = cache.open_backing(memory.clone()).unwrap();
    memory.inject(Call::Fill, 0, 40, Fault::Short(100));
    memory.inject(Call::Fill, 2, 3, Fault::Error(4));
    let mut buf = vec![0; 9000];
    assert_eq!(file.read_at(&mut buf, 0).unwrap(), 9000);
    assert!(buf == bytes);
}

/// A backing that reports two pages but has one, and cannot be written.
#[derive(Debug)]
struct TooShort;

impl Backing for TooShort {
    fn file_id(&self) -> FileId {
        FileId { space: "too-short", volume: 0, object: 0 }
    }

    fn version(&self) -> std::io::Result<Version> {
        Ok(Version { len: 8192, change_token: [0; 4] })
    }

    fn fill(&self, offset: u64, buffers: &mut [IoSliceMut<'_>]) -> std::io::Result<usize> {
        let left = 4096_u64.saturating_sub(offset) as usize;
        let first = &mut buffers[0];
        let n = left.min(first.len());
        first[..n].fill(1);
        Ok(n)
    }
}

#[test]
fn a_file_shorter_than_its_size_is_reported() {
    let cache: Cache = Cache::new(2 << 20).unwrap();
    let file = cache.open_backing(Arc::new(TooShort)).unwrap();
    assert_eq!(file.read_at(&mut [0; 100], 0).unwrap(), 100);
    let error = file.read_at(&mut [0; 100], 5000).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::UnexpectedEof);
    assert_eq!(error.to_string(), "the file ends at 4096 though its size is 8192 bytes");
    drop(file);
    assert_nothing_leaked(&cache);
}

/// A request that never ends blocks the readers of its page only: not reads of other pages or of
/// the length, not another open, not reclaim.
#[test]
fn a_slow_fill_blocks_only_readers_of_its_page() {
    let (backing, arrivals) =
        Gated::new(&[7; 3 * 4096], |call, offset| call == Call::Fill && offset == 0);
    let cache: Cache = Cache::new(2 << 20).unwrap();
    let file = cache.open_backing(backing.clone()).unwrap();
    thread::scope(|scope| {
        let gate = OpenOnDrop(&backing);
        let slow = scope.spawn(|| file.read_at(&mut [0; 8], 0));
        assert_eq!(arrivals.recv().unwrap(), 0);
        let mut buf = [0; 8];
        assert_eq!(file.read_at(&mut buf, 4096).unwrap(), 8);
        assert_eq!(buf, [7; 8]);
        assert_eq!(
            cache.open_backing(backing.clone()).unwrap().read_at(&mut buf, 3 * 4096).unwrap(),
            0
        );
        assert_eq!(cache.reclaim(10), 1);
        assert!(!slow.is_finished());
        drop(gate);
        assert_eq!(slow.join().unwrap().unwrap(), 8);
    });
    drop(file);
    assert_nothing_leaked(&cache);
}

#[test]
fn writes_to_a_read_only_backing_are_refused() {
    for error in [TooShort.write(0, &[]), TooShort.set_len(0), TooShort.punch(0, 1)] {
        let error = error.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::PermissionDenied);
        assert!(error.to_string().contains("too-short"), "{error}");
    }
    assert!(!TooShort.is_writable());
}
