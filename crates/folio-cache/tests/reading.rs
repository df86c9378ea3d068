//! Reads by one thread: contents, ends of files, changes, errors.

mod common;

use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};

use allocation_counter::measure;
use bytes::Bytes;
use common::{assert_nothing_leaked, file_of};
use folio_cache::{CACHED, Cache, PageHandle};
use tempfile::NamedTempFile;

const CAPACITY: usize = 4 << 20;

fn cache() -> Cache {
    Cache::new(CAPACITY).unwrap()
}

#[test]
fn each_way_to_read_is_recorded_once_and_finds_what_is_cached() {
    let (dir, path, bytes) = file_of(3 * 4096);
    let uses = dir.path().join("uses");
    let to = fs::File::create(&uses).unwrap();
    let cache = Cache::builder().capacity(CAPACITY).record_uses(to, 1).build().unwrap();
    let file = cache.open(&path).unwrap();
    let mut buf = [0; 10];
    assert_eq!(file.try_read(&mut buf, 5000), None, "no page is cached yet");
    file.read_exact_at(&mut buf, 5000).unwrap();
    buf = [0; 10];
    assert_eq!(file.try_read(&mut buf, 5000), Some(10));
    assert_eq!(buf, bytes[5000..5010]);
    assert_eq!(file.read_at(&mut buf, 5000).unwrap(), 10);
    assert_eq!(pollster::block_on(file.read_at_async(&mut buf, 5000)).unwrap(), 10);
    drop((file, cache));
    assert_eq!(fs::metadata(&uses).unwrap().len(), 20 + 4 * 8, "a header, and four uses");
}

#[test]
fn reads_of_any_range_equal_the_file() {
    let (_dir, path, bytes) = file_of(100_003);
    let cache = cache();
    let file = cache.open(&path).unwrap();
    let mut random = fastrand::Rng::with_seed(1);
    for _ in 0..2000 {
        let offset = random.usize(..110_000);
        let mut buf = vec![0; random.usize(..20_000)];
        let n = file.read_at(&mut buf, offset as u64).unwrap();
        let expected = bytes.get(offset..bytes.len().min(offset + buf.len())).unwrap_or_default();
        assert_eq!(&buf[..n], expected, "at {offset}");
        assert!(buf[n..].iter().all(|&byte| byte == 0), "bytes past the end were written");
    }
    assert_eq!(cache.stats().misses, 25);
    drop(file);
    assert_nothing_leaked(&cache);
}

#[test]
fn opens_of_one_file_share_its_pages() {
    let (dir, path, bytes) = file_of(5 * 4096);
    let cache = cache();
    let first = cache.open(&path).unwrap();
    first.read_at(&mut vec![0; 5 * 4096], 0).unwrap();
    assert_eq!(cache.stats().misses, 5);
    let link = dir.path().join("link");
    symlink(&path, &link).unwrap();
    let second = cache.open(&link).unwrap();
    drop(first);
    let mut buf = vec![0; 5 * 4096];
    second.clone().read_at(&mut buf, 0).unwrap();
    assert_eq!((buf, cache.stats().misses), (bytes, 5));
    drop(second);
    assert_nothing_leaked(&cache);
    // The last close dropped the pages.
    cache.open(&path).unwrap().read_at(&mut [0], 0).unwrap();
    assert_eq!(cache.stats().misses, 6);
}

#[test]
fn handles_end_with_their_page_or_their_file() {
    let (_dir, path, bytes) = file_of(4096 + 10);
    let file = cache().open(&path).unwrap();
    assert_eq!(&*file.page(100).unwrap().unwrap(), &bytes[100..4096]);
    assert_eq!(&*file.page(4096).unwrap().unwrap(), &bytes[4096..]);
    assert_eq!(file.page(4105).unwrap().unwrap().len(), 1);
    assert!(file.page(4106).unwrap().is_none());
    assert!(file.page(1 << 50).unwrap().is_none());
}

#[test]
fn a_handle_survives_invalidation_truncation_and_the_cache() {
    let (_dir, path, bytes) = file_of(3 * 4096);
    let cache = cache();
    let file = cache.open(&path).unwrap();
    let handles: Vec<PageHandle> =
        (0..3).map(|page| file.page(page * 4096).unwrap().unwrap()).collect();
    file.invalidate();
    OpenOptions::new().write(true).open(&path).unwrap().set_len(10).unwrap();
    assert!(file.revalidate().unwrap());
    assert_eq!(file.read_at(&mut [0; 100], 0).unwrap(), 10);
    let copies = handles.clone();
    drop((file, cache, handles));
    // Another cache of the same size does not get the frames that are still pinned.
    let (_other_dir, other_path, _) = file_of(3 << 20);
    let other = Cache::new(CAPACITY).unwrap();
    other.open(&other_path).unwrap().read_at(&mut vec![0; 3 << 20], 0).unwrap();
    for (page, handle) in copies.into_iter().enumerate() {
        let pinned = Bytes::from(handle);
        assert_eq!(pinned, &bytes[page * 4096..][..4096]);
    }
}

#[test]
fn growth_is_seen_at_the_end_and_leaves_no_zeroes() {
    let (_dir, path, mut bytes) = file_of(5000);
    let cache = cache();
    let file = cache.open(&path).unwrap();
    let mut buf = vec![0; 20_000];
    assert_eq!(file.read_at(&mut buf, 0).unwrap(), 5000);
    let old_end = file.page(4096).unwrap().unwrap();
    for more in [1, 3000, 9000] {
        let addition = vec![7; more];
        OpenOptions::new().append(true).open(&path).unwrap().write_all(&addition).unwrap();
        bytes.extend(addition);
        // A read before the old end does not query the size; a read past it does.
        assert_eq!(file.read_at(&mut [0; 10], 10).unwrap(), 10);
        let n = file.read_at(&mut buf, 0).unwrap();
        assert_eq!(buf[..n], bytes);
        assert_eq!(file.len(), bytes.len() as u64);
    }
    assert_eq!(&*old_end, &bytes[4096..5000]);
    drop((file, old_end));
    assert_nothing_leaked(&cache);
}

#[test]
fn a_read_past_an_external_truncation_notices_it() {
    let (_dir, path, bytes) = file_of(40_000);
    let cache = cache();
    let file = cache.open(&path).unwrap();
    OpenOptions::new().write(true).open(&path).unwrap().set_len(5000).unwrap();
    // The known length is still 40000; the page is read and found to be past the end.
    assert_eq!(file.read_at(&mut [0; 100], 30_000).unwrap(), 0);
    assert_eq!(file.len(), 5000);
    let mut buf = vec![0; 40_000];
    assert_eq!(file.read_at(&mut buf, 0).unwrap(), 5000);
    assert_eq!(buf[..5000], bytes[..5000]);
    // The file grows again: the zeroes in between come from the file, not from a stale page.
    OpenOptions::new().write(true).open(&path).unwrap().write_all_at(b"end", 8000).unwrap();
    assert_eq!(file.read_at(&mut buf, 4990).unwrap(), 8003 - 4990);
    assert_eq!(buf[..10], bytes[4990..5000]);
    assert!(buf[10..3010].iter().all(|&byte| byte == 0));
    assert_eq!(&buf[3010..3013], b"end");
    drop(file);
    assert_nothing_leaked(&cache);
}

#[test]
fn pages_past_an_external_truncation_leave_the_cache() {
    let (_dir, path, bytes) = file_of(40_000);
    let cache = cache();
    let file = cache.open(&path).unwrap();
    let mut buf = vec![0; 40_000];
    assert_eq!(file.read_at(&mut buf, 0).unwrap(), 40_000);
    assert_eq!(cache.frames().zone().count_kind(CACHED), 10);
    // To a page boundary, so that no page must be read again.
    OpenOptions::new().write(true).open(&path).unwrap().set_len(8192).unwrap();
    // Reads of cached pages do not query the file; a read past its end does.
    assert_eq!(file.read_at(&mut buf, 40_000).unwrap(), 0);
    assert_eq!(cache.frames().zone().count_kind(CACHED), 2);
    assert_eq!(file.read_at(&mut buf, 0).unwrap(), 8192);
    assert_eq!(buf[..8192], bytes[..8192]);
    drop(file);
    assert_nothing_leaked(&cache);
}

#[test]
fn a_page_at_an_external_truncation_point_is_end_of_file() {
    let (_dir, path, _) = file_of(40_000);
    let cache = cache();
    let file = cache.open(&path).unwrap();
    OpenOptions::new().write(true).open(&path).unwrap().set_len(8192).unwrap();
    assert_eq!(file.read_at(&mut [0; 100], 8192).unwrap(), 0);
    assert!(file.page(8192).unwrap().is_none());
}

#[test]
fn revalidate_drops_pages_rewritten_in_place() {
    let (_dir, path, bytes) = file_of(5000);
    let file = cache().open(&path).unwrap();
    let mut buf = [0; 5];
    file.read_at(&mut buf, 0).unwrap();
    assert_eq!(buf, bytes[..5]);
    assert!(!file.revalidate().unwrap());
    let writer = OpenOptions::new().write(true).open(&path).unwrap();
    writer.write_all_at(b"fresh", 0).unwrap();
    writer.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
    assert!(file.revalidate().unwrap());
    file.read_at(&mut buf, 0).unwrap();
    assert_eq!(&buf, b"fresh");
    assert!(!file.revalidate().unwrap());
}

#[test]
fn reads_past_the_end_are_empty_impossible_offsets_fail() {
    let (_dir, path, _) = file_of(4096);
    let cache = cache();
    let file = cache.open(&path).unwrap();
    for offset in [4096, 4097, 1 << 40, i64::MAX as u64] {
        assert_eq!(file.read_at(&mut [0; 8], offset).unwrap(), 0, "at {offset}");
    }
    for offset in [1 << 63, u64::MAX] {
        let error = file.read_at(&mut [0; 8], offset).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(error.to_string().contains(&offset.to_string()), "{error}");
        assert_eq!(file.page(offset).unwrap_err().kind(), ErrorKind::InvalidInput);
    }
    assert_eq!(file.read_at(&mut [], 0).unwrap(), 0);
    assert_eq!(cache.stats().misses, 0);
}

#[test]
fn an_empty_file_reads_nothing() {
    let (_dir, path, _) = file_of(0);
    let file = cache().open(&path).unwrap();
    assert!(file.is_empty());
    assert_eq!(file.read_at(&mut [0; 8], 0).unwrap(), 0);
    assert!(file.page(0).unwrap().is_none());
}

#[test]
fn sparse_files_are_read_up_to_16_tib_and_then_refused() {
    let (_dir, path, _) = file_of(0);
    let sparse = OpenOptions::new().write(true).open(&path).unwrap();
    sparse.set_len(1 << 40).unwrap();
    let cache = cache();
    let file = cache.open(&path).unwrap();
    sparse.write_all_at(b"far", (1 << 40) - 3).unwrap();
    let mut buf = [1; 8];
    assert_eq!(file.read_at(&mut buf, (1 << 40) - 3).unwrap(), 3);
    assert_eq!(&buf[..3], b"far");
    // The largest length that the file system allows.
    let Some(len) =
        [1 << 60, 1 << 45, (1 << 44) + 4096].into_iter().find(|&len| sparse.set_len(len).is_ok())
    else {
        eprintln!("this file system has no files past 16 TiB: this case is not tested");
        return;
    };
    let last = 1_u64 << 44;
    assert_eq!(file.read_at(&mut buf, last - 4).unwrap(), 4);
    let error = file.read_at(&mut buf, last).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::FileTooLarge, "{len}");
    assert!(error.to_string().contains(&last.to_string()), "{error}");
    drop(file);
    assert_nothing_leaked(&cache);
}

#[test]
fn only_regular_files_open_and_the_error_names_the_type() {
    let (dir, path, _) = file_of(1);
    let cache = cache();
    let fifo = dir.path().join("fifo");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, 0o600.into(), 0)
        .unwrap();
    let socket = dir.path().join("socket");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let cases = [
        (dir.path(), "directory"),
        (&fifo, "FIFO"),
        (&socket, "socket"),
        ("/dev/zero".as_ref(), "character device"),
    ];
    for (path, kind) in cases {
        let error = cache.open(path).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(
            error.to_string().contains(kind) && error.to_string().contains(path.to_str().unwrap()),
            "{error}"
        );
    }
    assert_eq!(cache.open(dir.path().join("missing")).unwrap_err().kind(), ErrorKind::NotFound);
    // Root may read this file too: expect the result of the standard library.
    fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).unwrap();
    let kind = |result: std::io::Result<()>| result.map_err(|error| error.kind());
    assert_eq!(kind(cache.open(&path).map(drop)), kind(fs::File::open(&path).map(drop)));
}

#[test]
fn impossible_capacities_are_refused() {
    for bytes in [0, 4096, (2 << 20) - 1, usize::MAX] {
        let error = Cache::new(bytes).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(error.to_string().contains(&bytes.to_string()), "{error}");
    }
    let cache: Cache = Cache::new((2 << 20) + 4097).unwrap();
    assert_eq!(cache.capacity(), 2 << 20);
    assert_eq!(cache.frames().zone().pfns().frames(), 512);
}

#[test]
fn a_miss_of_one_page_allocates_nothing() {
    const PAGES: u64 = 1 << 18;
    const MISSES: u64 = 1000;
    let sparse = NamedTempFile::new().unwrap();
    sparse.as_file().set_len(PAGES * 4096).unwrap();
    let cache: Cache = Cache::new(2 << 20).unwrap();
    let file = cache.open(sparse.path()).unwrap();
    let read = |page: u64| assert_eq!(file.read_at(&mut [1; 64], page * 4096).unwrap(), 64);
    // One allocation of the index covers 512 pages.
    (0..PAGES).step_by(512).for_each(read);
    cache.quiesce();
    // So far apart that nothing is read ahead and hardly any page is read twice.
    let mut random = fastrand::Rng::with_seed(1);
    let mut pages = || (0..MISSES).map(|_| random.u64(..PAGES)).collect::<Vec<_>>();
    pages().into_iter().for_each(read);
    let (before, pages) = (cache.stats(), pages());
    let allocated = measure(|| pages.into_iter().for_each(read));
    let after = cache.stats();
    assert!(after.misses - before.misses > MISSES * 9 / 10, "{after:?}");
    assert_eq!(after.ahead, before.ahead);
    // A few allocations remain: the list of 32 victims if the reader reclaims by itself, and the
    // policy's record of evicted pages.
    assert!(allocated.count_total < MISSES / 10, "{allocated:?}");
}
