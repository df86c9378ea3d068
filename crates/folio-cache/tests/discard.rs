//! Discarding the dirty pages of a file that cannot be written.

mod common;

use std::sync::Arc;
use std::thread;

use common::assert_nothing_leaked;
use common::hanging::{Hanging, HealOnDrop, ends};
use folio_cache::testing::{Call, Fault, Memory};
use folio_cache::{Backing, Cache};

const EIO: i32 = 5;
const PAGE: u64 = 4096;

#[test]
fn discard_drops_dirty_pages_and_reads_see_the_backing() {
    let cache: Cache = Cache::new(2 << 20).unwrap();
    cache.set_io_threads(0);
    let memory = Arc::new(Memory::new(&[1; 6000]));
    let [file, other] = [(); 2].map(|()| cache.open_backing(memory.clone()).unwrap());
    memory.inject(Call::Write, 0, u64::MAX, Fault::Error(EIO));
    file.write_at(&[2; 100], 0).unwrap();
    file.append(&[2; 10_000]).unwrap();
    let handle = file.page(0).unwrap().unwrap();
    assert_eq!(file.sync_data().unwrap_err().raw_os_error(), Some(EIO));
    file.write_at(&[3; 100], 0).unwrap();
    assert_eq!(cache.unwritten()[0].dirty_bytes, 4 * PAGE);
    assert_eq!(file.discard().unwrap(), 4 * PAGE);
    assert_eq!((cache.unwritten().len(), file.len()), (0, 6000));
    let mut buf = [0; 7000];
    assert_eq!(file.read_at(&mut buf, 0).unwrap(), 6000);
    assert!(buf[..6000] == [1; 6000]);
    assert_eq!(handle[..100], [2; 100], "the bytes of a handle changed");
    // No error from before for this open; the other one reports it once.
    file.sync_data().unwrap();
    assert_eq!(other.sync_data().unwrap_err().raw_os_error(), Some(EIO));
    other.sync_data().unwrap();
    memory.heal();
    assert_eq!(file.append(b"again").unwrap(), 6000);
    file.sync_data().unwrap();
    assert!(memory.durable() == [&[1; 6000][..], b"again"].concat());
    drop((file, other, handle));
    assert_nothing_leaked(&cache);
}

#[test]
fn discard_does_not_wait_for_a_hung_write() {
    let cache: Cache = Cache::new(2 << 20).unwrap();
    let sick = Hanging::new(b"");
    let file = cache.open_backing(sick.clone()).unwrap();
    file.write_at(&[1; 4096], 0).unwrap();
    sick.hang(Call::Write);
    let _heal = HealOnDrop(vec![sick.clone()]);
    let flushing = file.clone();
    let flush = thread::spawn(move || flushing.flush().unwrap());
    sick.wait_until_it_hangs();
    file.write_at(&[1; 4096], PAGE).unwrap();
    let discarding = file.clone();
    ends("discard", move || assert_eq!(discarding.discard().unwrap(), 2 * PAGE));
    assert_eq!(file.len(), 0);
    sick.heal();
    flush.join().unwrap();
    // The request that was under way made the file longer.
    assert_eq!(sick.memory.contents(), [1; 4096]);
    assert_eq!(file.read_at(&mut [0; 5000], 0).unwrap(), 4096);
    drop(file);
    assert_nothing_leaked(&cache);
}

/// A call of the file that hangs holds the lock of its length.
#[test]
fn discard_does_not_wait_for_a_hung_version_or_set_len() {
    for hangs in [Call::Version, Call::SetLen] {
        let cache: Cache = Cache::new(2 << 20).unwrap();
        let sick = Hanging::new(&[1; 100]);
        let file = cache.open_backing(sick.clone()).unwrap();
        file.write_at(&[2; 10_000], 0).unwrap();
        let handle = file.page(0).unwrap().unwrap();
        sick.hang(hangs);
        let _heal = HealOnDrop(vec![sick.clone()]);
        let calling = file.clone();
        let call = thread::spawn(move || match hangs {
            Call::Version => _ = calling.revalidate().unwrap(),
            _ => calling.set_len(50).unwrap(),
        });
        sick.wait_until_it_hangs();
        let discarding = file.clone();
        ends("discard", move || assert_eq!(discarding.discard().unwrap(), 3 * PAGE));
        let listing = cache.clone();
        let id = sick.file_id();
        ends("discard", move || assert_eq!(listing.discard(id).unwrap(), 0));
        let unwritten = cache.unwritten();
        assert!(unwritten.iter().all(|file| file.dirty_bytes == 0), "{unwritten:?}");
        assert_eq!(handle[..4096], [2; 4096], "the bytes of a handle changed");
        sick.heal();
        call.join().unwrap();
        // What the backing has: nothing was written.
        let len = if hangs == Call::Version { 100 } else { 50 };
        let mut buf = [0; 10_000];
        assert_eq!(file.read_at(&mut buf, 0).unwrap(), len, "{hangs:?}");
        assert!(buf[..len] == [1; 100][..len]);
        assert_eq!(file.len(), len as u64);
        assert_eq!(file.append(b"again").unwrap(), len as u64);
        file.sync_data().unwrap();
        assert_eq!(sick.memory.durable().len(), len + 5);
        drop((file, handle));
        assert_nothing_leaked(&cache);
    }
}

/// A page that the backing refused does not order those behind it. After a discard it does not
/// exist, and appends are in order again.
#[test]
fn appends_after_a_discard_are_in_order() {
    let cache: Cache = Cache::new(2 << 20).unwrap();
    cache.set_io_threads(0);
    let memory = Arc::new(Memory::new(b""));
    let file = cache.open_backing(memory.clone()).unwrap();
    memory.inject(Call::Write, 0, 1, Fault::Error(EIO));
    file.append(&vec![1; 40 * 4096]).unwrap();
    file.flush().unwrap_err();
    assert_eq!(file.discard().unwrap(), 40 * PAGE);
    assert_eq!(file.append(&vec![2; 10 * 4096]).unwrap(), 0);
    memory.inject(Call::Write, 0, 1, Fault::Error(28));
    file.write_at(&[3], 20 * PAGE).unwrap();
    file.flush().unwrap_err();
    assert!(memory.contents().is_empty(), "newer bytes came first");
    file.flush().unwrap();
    assert!(memory.contents().starts_with(&vec![2; 10 * 4096]));
    drop(file);
    assert_nothing_leaked(&cache);
}
