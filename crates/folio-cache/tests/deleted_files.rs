//! Files without a name: their dirty pages are dropped at the last close.

mod common;

use std::fs;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use common::{assert_nothing_leaked, file_of};
use folio_cache::testing::{Call, Fault, Memory};
use folio_cache::{Cache, LocalFile, OpenOptions};

const ENOSPC: i32 = 28;

/// Returns a cache without threads: nothing is written but by closes, syncs and flushes.
fn cache() -> Cache {
    let cache = Cache::new(4 << 20).unwrap();
    cache.set_io_threads(0);
    cache
}

/// Makes a file without a name in a directory.
type Make = fn(&Path) -> fs::File;

#[test]
fn a_temporary_file_is_never_written() {
    let cache = cache();
    let dir = tempfile::tempdir().unwrap();
    let made: [(&str, Make); 3] = [
        ("unlinked", |dir| tempfile::tempfile_in(dir).unwrap()),
        ("unlinked by its path", |dir| {
            let path = dir.join("named");
            let file = fs::File::options().read(true).write(true).create_new(true).open(&path);
            fs::remove_file(&path).unwrap();
            file.unwrap()
        }),
        ("replaced", |dir| {
            let (path, other) = (dir.join("old"), dir.join("new"));
            fs::write(&path, b"").unwrap();
            let file = fs::File::options().read(true).write(true).open(&path).unwrap();
            fs::write(&other, b"").unwrap();
            fs::rename(&other, &path).unwrap();
            file
        }),
    ];
    for (how, make) in made {
        let plain = make(dir.path());
        let before = cache.stats().written_bytes;
        for by_close in [false, true] {
            let backing = LocalFile::new(plain.try_clone().unwrap()).unwrap();
            let file = cache.open_backing(Arc::new(backing)).unwrap();
            file.write_at(&vec![7; 100_000], 0).unwrap();
            if by_close {
                file.close().unwrap();
            } else {
                drop(file);
            }
            assert_eq!(cache.stats().written_bytes, before, "{how}");
            assert_eq!(plain.metadata().unwrap().len(), 0, "{how}");
            assert_nothing_leaked(&cache);
        }
    }
}

#[test]
fn a_file_with_a_name_left_is_written() {
    let cache = cache();
    let (dir, path, bytes) = file_of(10_000);
    // By another name.
    let link = dir.path().join("link");
    fs::hard_link(&path, &link).unwrap();
    let file = OpenOptions::new().read(true).write(true).open(&cache, &path).unwrap();
    file.write_at(b"linked", 0).unwrap();
    fs::remove_file(&path).unwrap();
    drop(file);
    assert_eq!(fs::read(&link).unwrap(), [b"linked", &bytes[6..]].concat());
    // By a new name.
    let file = OpenOptions::new().read(true).write(true).open(&cache, &link).unwrap();
    file.write_at(b"moved!", 0).unwrap();
    fs::rename(&link, &path).unwrap();
    file.close().unwrap();
    assert_eq!(fs::read(&path).unwrap()[..6], *b"moved!");
    assert_nothing_leaked(&cache);
}

#[test]
fn a_flush_writes_a_file_without_a_name() {
    let cache = cache();
    let mut plain = tempfile::tempfile().unwrap();
    let backing = LocalFile::new(plain.try_clone().unwrap()).unwrap();
    let file = cache.open_backing(Arc::new(backing)).unwrap();
    file.write_at(b"passed on", 0).unwrap();
    file.flush().unwrap();
    file.write_at(b"dropped", 0).unwrap();
    drop(file);
    let mut text = String::new();
    plain.seek(SeekFrom::Start(0)).unwrap();
    plain.read_to_string(&mut text).unwrap();
    assert_eq!(text, "passed on");
    assert_nothing_leaked(&cache);
}

#[test]
fn a_memory_file_is_written() {
    let cache = cache();
    let fd = rustix::fs::memfd_create("folio", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    let plain = fs::File::from(fd);
    let backing = LocalFile::new(plain.try_clone().unwrap()).unwrap();
    let file = cache.open_backing(Arc::new(backing)).unwrap();
    file.write_at(b"shared by its descriptor", 0).unwrap();
    drop(file);
    assert_eq!(plain.metadata().unwrap().len(), 24);
    assert_nothing_leaked(&cache);
}

/// The pages stay for as long as any open of the cache has the file, and its clones.
/// The other open may be of a process that has a descriptor, or that gives it a name again.
#[test]
fn a_close_beside_another_open_writes_a_file_without_a_name() {
    let cache = cache();
    let memory = Arc::new(Memory::new(b""));
    let file = cache.open_backing(memory.clone()).unwrap();
    let other = cache.open_backing(memory.clone()).unwrap();
    memory.set_unlinked(true);
    file.write_at(b"bytes", 0).unwrap();
    file.close().unwrap();
    assert_eq!(memory.contents(), b"bytes");
    other.write_at(b"dropped", 0).unwrap();
    other.close().unwrap();
    assert_eq!(memory.contents(), b"bytes");
    assert_nothing_leaked(&cache);
}

#[test]
fn another_open_keeps_the_pages_of_an_unlinked_file() {
    let cache = cache();
    let (_dir, path, bytes) = file_of(10_000);
    let first = OpenOptions::new().read(true).write(true).open(&cache, &path).unwrap();
    let second = cache.open(&path).unwrap();
    first.write_at(b"dirty", 0).unwrap();
    fs::remove_file(&path).unwrap();
    first.clone().close().unwrap();
    first.close().unwrap();
    let mut buf = vec![0; 10_000];
    assert_eq!(second.read_at(&mut buf, 0).unwrap(), 10_000);
    assert!(buf == [b"dirty", &bytes[5..]].concat());
    drop(second);
    assert_nothing_leaked(&cache);
}

/// Waits until no page of the cache is dirty, by its threads alone.
fn await_nothing_cached(cache: &Cache) {
    let end = Instant::now() + Duration::from_secs(20);
    while cache.frames().zone().count_kind(folio_cache::CACHED) > 0 {
        assert!(Instant::now() < end, "the pages of a deleted file are kept for ever");
        thread::sleep(Duration::from_millis(10));
    }
    assert_nothing_leaked(cache);
}

/// A full disk: the close fails, and the file is deleted to make room.
#[test]
fn deleting_an_unwritten_file_gives_its_memory_back() {
    for threads in [0, 4] {
        let cache = cache();
        let memory = Arc::new(Memory::new(b""));
        memory.inject(Call::Write, 0, u64::MAX, Fault::Error(ENOSPC));
        let file = cache.open_backing(memory.clone()).unwrap();
        file.write_at(&vec![7; 100_000], 0).unwrap();
        assert_eq!(file.close().unwrap_err().raw_os_error(), Some(ENOSPC));
        assert!(cache.flush().is_err(), "it is kept, and tried again");
        memory.set_unlinked(true);
        cache.set_io_threads(threads);
        if threads == 0 {
            cache.flush().unwrap();
        }
        await_nothing_cached(&cache);
        let calls = memory.calls(Call::Write);
        cache.flush().unwrap();
        assert_eq!(memory.calls(Call::Write), calls);
    }
}

/// A file that failed often is tried rarely, and yet its space comes back soon.
#[test]
fn a_deleted_file_is_forgotten_before_it_is_due() {
    let cache = Cache::new(4 << 20).unwrap();
    let memory = Arc::new(Memory::new(b""));
    memory.inject(Call::Write, 0, u64::MAX, Fault::Error(ENOSPC));
    let file = cache.open_backing(memory.clone()).unwrap();
    file.write_at(&[7; 100], 0).unwrap();
    for _ in 0..6 {
        file.sync_data().unwrap_err();
    }
    file.close().unwrap_err();
    // Tried again after 32 s at the earliest.
    let writes = memory.calls(Call::Write);
    memory.set_unlinked(true);
    await_nothing_cached(&cache);
    assert_eq!(memory.calls(Call::Write), writes, "a deleted file was written");
}

/// The writers of another file make room by what a deleted file holds.
#[test]
fn writers_past_the_limit_free_a_deleted_file() {
    let cache = cache();
    let sick = Arc::new(Memory::new(b""));
    sick.inject(Call::Write, 0, u64::MAX, Fault::Error(ENOSPC));
    let file = cache.open_backing(sick.clone()).unwrap();
    file.write_at(&vec![7; 900_000], 0).unwrap();
    file.close().unwrap_err();
    let calls = sick.calls(Call::Write);
    sick.set_unlinked(true);
    let healthy = cache.open_backing(Arc::new(Memory::new(b""))).unwrap();
    for n in 0..1000 {
        healthy.write_at(&[1; 4096], n * 4096).unwrap();
    }
    healthy.close().unwrap();
    cache.flush().unwrap();
    assert_eq!(sick.calls(Call::Write), calls, "a deleted file was written");
    assert_nothing_leaked(&cache);
}

/// An error from before the file was deleted is reported all the same.
#[test]
fn a_close_of_a_deleted_file_reports_older_errors() {
    let cache = cache();
    let memory = Arc::new(Memory::new(b""));
    let file = cache.open_backing(memory.clone()).unwrap();
    file.write_at(&[7; 100], 0).unwrap();
    memory.inject(Call::Write, 0, 1, Fault::Error(ENOSPC));
    cache.flush().unwrap_err();
    memory.set_unlinked(true);
    assert_eq!(file.close().unwrap_err().raw_os_error(), Some(ENOSPC));
    assert_eq!(memory.contents(), b"");
    assert_nothing_leaked(&cache);
}

/// The file gets a name back, as `linkat` gives one to a file of `O_TMPFILE`, and is opened again
/// before its last close.
#[test]
fn a_name_before_the_last_close_counts() {
    let cache = cache();
    let memory = Arc::new(Memory::new(b""));
    memory.set_unlinked(true);
    let file = cache.open_backing(memory.clone()).unwrap();
    file.write_at(b"linked", 0).unwrap();
    memory.set_unlinked(false);
    drop(file);
    assert_eq!(memory.contents(), b"linked");
    assert_nothing_leaked(&cache);
}
