//! `CacheBuilder` and `OpenOptions`.

mod common;

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;

use common::assert_nothing_leaked;
use folio_cache::policy::{Policy, Sieve};
use folio_cache::{Cache, CacheBuilder, OpenOptions, raw_os_error, schemes};

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
