//! `CacheBuilder`, `OpenOptions`, error numbers, descriptors, and the smaller methods.

mod common;

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use common::assert_nothing_leaked;
use folio_cache::policy::{Policy, Sieve};
use folio_cache::testing::Memory;
use folio_cache::{Cache, CacheBuilder, OpenOptions, USES_ONE_IN, raw_os_error, schemes};

const EINVAL: i32 = 22;

#[test]
fn options_compose() {
    let make = |frames| -> Box<dyn Policy> { Box::new(Sieve::new(frames)) };
    let cache = CacheBuilder::<schemes::LiveBitHigh>::with_scheme()
        .name("small")
        .capacity((4 << 20) + 5)
        .max_capacity(8 << 20)
        .policy(make)
        .io_threads(0)
        .huge_pages(false)
        .build()
        .unwrap();
    assert_eq!((cache.name(), cache.capacity(), cache.max_capacity()), ("small", 4 << 20, 8 << 20));
    assert!(format!("{cache:?}").contains("\"small\""), "{cache:?}");
    cache.set_capacity(8 << 20).unwrap();
    assert_eq!(cache.set_capacity(10 << 20).unwrap_err().kind(), ErrorKind::InvalidInput);
    assert_nothing_leaked(&cache);
}

#[test]
fn a_builder_refuses_what_it_cannot_build() {
    for builder in [
        Cache::builder().capacity((2 << 20) - 1),
        Cache::builder().capacity(usize::MAX),
        Cache::builder().capacity(8 << 20).max_capacity(4 << 20),
        Cache::builder().max_capacity(usize::MAX),
        Cache::builder().capacity(4 << 20).name("a\0b"),
    ] {
        let error = builder.build().unwrap_err();
        assert_eq!((error.kind(), raw_os_error(&error)), (ErrorKind::InvalidInput, Some(EINVAL)));
    }
}

#[test]
fn the_default_capacity_stays_below_the_maximum() {
    let cache = Cache::builder().max_capacity(4 << 20).build().unwrap();
    assert_eq!(cache.capacity(), 4 << 20);
}

#[test]
fn contradictory_options_are_refused_with_their_names() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    let cache = Cache::new(2 << 20).unwrap();
    let mut none = OpenOptions::new();
    let mut truncate = OpenOptions::new();
    truncate.read(true).truncate(true);
    let mut create = OpenOptions::new();
    create.read(true).create(true);
    let mut create_new = OpenOptions::new();
    create_new.read(true).create_new(true);
    let mut append = OpenOptions::new();
    append.append(true).create(true).truncate(true);
    for (options, named) in [
        (none.mode(0o600), "read, write or append"),
        (&mut truncate, "truncate"),
        (&mut create, "create"),
        (&mut create_new, "create_new"),
        (&mut append, "append excludes truncate"),
    ] {
        let error = options.open(&cache, &path).unwrap_err();
        assert_eq!((error.kind(), raw_os_error(&error)), (ErrorKind::InvalidInput, Some(EINVAL)));
        assert!(error.to_string().contains(named), "{error}");
        assert!(!path.exists());
    }
    // As std's: then there is nothing to truncate.
    append.create_new(true).open(&cache, &path).unwrap();
}

#[test]
fn create_truncates_and_create_new_refuses_what_exists() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    let cache = Cache::new(2 << 20).unwrap();
    fs::write(&path, "much longer than the new bytes").unwrap();
    let file = cache.create(&path).unwrap();
    assert!(file.is_empty());
    file.write_all_at(b"new", 0).unwrap();
    assert_eq!(cache.create_new(&path).unwrap_err().kind(), ErrorKind::AlreadyExists);
    assert_eq!(cache.create_new(dir.path()).unwrap_err().kind(), ErrorKind::AlreadyExists);
    file.close().unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"new");
    let other = dir.path().join("other");
    let mut options = OpenOptions::new();
    let file = cache.open_with(&other, options.write(true).create_new(true).mode(0o600)).unwrap();
    assert_eq!(fs::metadata(&other).unwrap().permissions().mode() & 0o777, 0o600);
    file.write_all_at(b"x", 0).unwrap();
}

/// The dirty pages of the first open must not return.
#[test]
fn create_drops_the_dirty_pages_of_other_opens() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    let cache = Cache::builder().capacity(2 << 20).io_threads(0).build().unwrap();
    let first = cache.create(&path).unwrap();
    first.write_all_at(&[1; 10_000], 0).unwrap();
    let second = cache.create(&path).unwrap();
    assert_eq!((first.len(), second.len()), (0, 0));
    second.write_all_at(b"2", 0).unwrap();
    first.close().unwrap();
    second.close().unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"2");
}

#[test]
fn exact_reads_and_whole_writes_report_where_the_file_ends() {
    let cache = Cache::new(2 << 20).unwrap();
    let memory = Arc::new(Memory::new(&[7; 5000]));
    let file = cache.open_backing(memory.clone()).unwrap();
    let mut buf = [0; 3000];
    file.read_exact_at(&mut buf, 2000).unwrap();
    assert_eq!(buf, [7; 3000]);
    let error = file.read_exact_at(&mut buf, 2001).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::UnexpectedEof);
    assert_eq!(error.to_string(), "the file ends at 5000, 3000 bytes at 2001 were wanted");
    file.read_exact_at(&mut [], 9000).unwrap();
    file.write_all_at(&[8; 9000], 1000).unwrap();
    file.flush().unwrap();
    assert_eq!(memory.contents(), [vec![7; 1000], vec![8; 9000]].concat());
    let error = file.write_all_at(b"x", u64::MAX).unwrap_err();
    assert_eq!((error.kind(), raw_os_error(&error)), (ErrorKind::InvalidInput, Some(EINVAL)));
}

#[test]
fn errors_of_the_cache_have_numbers() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    fs::write(&path, "bytes").unwrap();
    let cache = Cache::new(2 << 20).unwrap();
    let file = cache.open(&path).unwrap();
    let number = |result: std::io::Result<()>| raw_os_error(&result.unwrap_err());
    assert_eq!(number(file.write_at(b"x", 0).map(drop)), Some(9), "EBADF");
    assert_eq!(number(cache.open(dir.path()).map(drop)), Some(21), "EISDIR");
    assert_eq!(number(cache.open(dir.path().join("none")).map(drop)), Some(2), "ENOENT");
    let sparse = cache.create(dir.path().join("sparse")).unwrap();
    assert_eq!(number(sparse.write_at(b"x", 1 << 44).map(drop)), Some(27), "EFBIG");
    assert_eq!(number(file.read_at(&mut [0], u64::MAX).map(drop)), Some(EINVAL));
    sparse.write_all_at(&vec![1; 1 << 19], 0).unwrap();
    sparse.flush().unwrap();
    let pinned = sparse.range(0, 1 << 19).unwrap();
    let mut pages = Vec::new();
    let memory = cache.open_backing(Arc::new(Memory::new(&vec![1; 4 << 20]))).unwrap();
    let error = (0..).find_map(|page| match memory.page(page * 4096) {
        Ok(page) => {
            pages.push(page);
            None
        }
        Err(error) => Some(error),
    });
    assert_eq!(raw_os_error(&error.unwrap()), Some(12), "ENOMEM");
    drop(pinned);
}

#[test]
fn a_local_file_shows_its_descriptor() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    let cache = Cache::new(2 << 20).unwrap();
    let file = cache.create(&path).unwrap();
    file.write_all_at(b"bytes", 0).unwrap();
    file.flush().unwrap();
    let fd = file.backing().as_fd().expect("a local file has one");
    let copy = fs::File::from(fd.try_clone_to_owned().unwrap());
    assert_eq!(copy.metadata().unwrap().len(), 5);
    let memory = cache.open_backing(Arc::new(Memory::new(b""))).unwrap();
    assert!(memory.backing().as_fd().is_none());
}

#[test]
fn the_difference_of_two_stats_is_what_happened_between() {
    let cache = Cache::new(2 << 20).unwrap();
    let file = cache.open_backing(Arc::new(Memory::new(&[7; 3 * 4096]))).unwrap();
    file.read_exact_at(&mut [0; 10], 0).unwrap();
    let before = cache.stats();
    file.invalidate();
    file.read_exact_at(&mut [0; 10], 0).unwrap();
    cache.quiesce();
    let between = cache.stats() - before;
    assert!(between.misses >= 1 && between.misses < cache.stats().misses, "{between:?}");
    let now = cache.stats();
    assert_eq!((now - now).filled_bytes, 0);
    assert_eq!((before - cache.stats()).misses, 0);
}

#[test]
fn a_share_that_cannot_be_recorded_is_refused() {
    for one_in in [0, 3, 2 * USES_ONE_IN, 1 << 31] {
        let builder = Cache::builder().capacity(2 << 20).record_uses(Vec::new(), one_in);
        let error = builder.build().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(error.to_string().contains(&format!("one page in {one_in}")), "{error}");
    }
    Cache::builder().capacity(2 << 20).record_uses(Vec::new(), USES_ONE_IN).build().unwrap();
}
