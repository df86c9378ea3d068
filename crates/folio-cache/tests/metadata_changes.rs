//! Changes of a file that change no byte: those that are declared keep the pages, and what may have
//! changed a byte never shows old ones.

mod common;

use std::fs;
use std::io;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, SystemTime};

use common::{assert_nothing_leaked, file_of};
use folio_cache::{Cache, File, LocalFile, OpenOptions};

const LEN: usize = 50_000;
const PAGES: u64 = LEN.div_ceil(4096) as u64;

/// Kernels before 6.13 have times of some milliseconds: a change within one tick is not seen.
fn next_tick() {
    thread::sleep(Duration::from_millis(20));
}

fn read(file: &File) -> Vec<u8> {
    let mut buf = vec![0; LEN + 1];
    let n = file.read_at(&mut buf, 0).unwrap();
    buf.truncate(n);
    buf
}

fn touch(path: &Path) -> io::Result<()> {
    fs::File::options().write(true).open(path)?.set_modified(SystemTime::UNIX_EPOCH)
}

/// A change of the inode of a file that may be at either path, and of no byte.
type Change = fn(&Path, &Path) -> io::Result<()>;

const CHANGES: [(&str, Change); 5] = [
    ("chmod", |path, _| fs::set_permissions(path, fs::Permissions::from_mode(0o600))),
    ("touch", |path, _| touch(path)),
    ("ln", |path, other| fs::hard_link(path, other)),
    ("rm of one name", |_, other| fs::remove_file(other)),
    ("mv", |path, other| fs::rename(path, other)),
];

#[test]
fn declared_metadata_changes_keep_the_pages() {
    for writable in [false, true] {
        let cache = Cache::new(4 << 20).unwrap();
        let (dir, path, bytes) = file_of(LEN);
        let other = dir.path().join("other");
        let file = if writable {
            OpenOptions::new().read(true).write(true).open(&cache, &path)
        } else {
            cache.open(&path)
        }
        .unwrap();
        assert!(read(&file) == bytes);
        for (name, change) in CHANGES {
            next_tick();
            file.change_metadata(|| change(&path, &other)).unwrap();
            let again = cache.open(if path.exists() { &path } else { &other }).unwrap();
            assert!(!file.revalidate().unwrap(), "{name}");
            assert!(read(&again) == bytes);
            assert_eq!(cache.stats().misses, PAGES, "{name}: pages were dropped without need");
        }
        drop(file);
        assert_nothing_leaked(&cache);
    }
}

#[test]
fn an_undeclared_change_never_shows_old_bytes() {
    let cache = Cache::new(4 << 20).unwrap();
    let (_dir, path, _) = file_of(LEN);
    let file = cache.open(&path).unwrap();
    read(&file);
    // As rsync and tar do it: bytes of the same length, and the old mtime.
    let plain = fs::File::options().write(true).open(&path).unwrap();
    let before = plain.metadata().unwrap().modified().unwrap();
    next_tick();
    plain.write_all_at(b"new bytes", 100).unwrap();
    plain.set_modified(before).unwrap();
    assert_eq!(read(&cache.open(&path).unwrap())[100..109], *b"new bytes");
    // The same before a declared change, which does not make it known.
    next_tick();
    plain.write_all_at(b"NEW BYTES", 100).unwrap();
    plain.set_modified(before).unwrap();
    let chmod = || fs::set_permissions(&path, fs::Permissions::from_mode(0o640));
    file.change_metadata(chmod).unwrap();
    assert_eq!(read(&cache.open(&path).unwrap())[100..109], *b"NEW BYTES");
    // And after one.
    file.change_metadata(chmod).unwrap();
    next_tick();
    plain.write_all_at(b"new again", 100).unwrap();
    plain.set_modified(before).unwrap();
    assert_eq!(read(&cache.open(&path).unwrap())[100..109], *b"new again");
    drop(file);
    assert_nothing_leaked(&cache);
}

/// The change writes and syncs the file through the cache, which is known as well.
#[test]
fn a_declared_change_may_use_the_file() {
    let cache = Cache::new(4 << 20).unwrap();
    let (dir, path, mut bytes) = file_of(LEN);
    let file = OpenOptions::new().read(true).write(true).open(&cache, &path).unwrap();
    read(&file);
    for round in 0..3 {
        next_tick();
        let path = dir.path().join("file");
        file.change_metadata(|| {
            file.write_at(&[round; 10], 5000)?;
            file.sync_all()?;
            next_tick();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
            next_tick();
            file.append(&[round])?;
            file.flush()?;
            let again = cache.open(&path)?;
            again.revalidate().map(drop)
        })
        .unwrap();
        bytes[5000..5010].fill(round);
        let misses = cache.stats().misses;
        let again = cache.open(&path).unwrap();
        assert!(read(&again)[..LEN] == bytes);
        assert!(cache.stats().misses - misses <= PAGES);
        let misses = cache.stats().misses;
        assert!(read(&cache.open(&path).unwrap())[..LEN] == bytes);
        assert_eq!(cache.stats().misses, misses);
    }
    assert!(fs::read(&path).unwrap()[..LEN] == bytes);
    drop(file);
    assert_nothing_leaked(&cache);
}

#[test]
fn a_declared_change_that_fails_keeps_the_pages() {
    let cache = Cache::new(4 << 20).unwrap();
    let (_dir, path, bytes) = file_of(LEN);
    let file = cache.open(&path).unwrap();
    read(&file);
    next_tick();
    let change = || {
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
        Err::<(), _>(io::Error::other("later"))
    };
    assert_eq!(file.change_metadata(change).unwrap_err().to_string(), "later");
    assert!(read(&cache.open(&path).unwrap()) == bytes);
    assert_eq!(cache.stats().misses, PAGES);
}

/// The kernel lets nothing write to a sealed memory file: each change of its inode keeps the pages.
#[test]
fn a_sealed_memory_file_keeps_its_pages() {
    use rustix::fs::{MemfdFlags, SealFlags};
    let cache = Cache::new(4 << 20).unwrap();
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    for sealed in [false, true] {
        let plain = fs::File::from(rustix::fs::memfd_create("folio", flags).unwrap());
        plain.write_all_at(&vec![7; LEN], 0).unwrap();
        if sealed {
            let seals = SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW;
            rustix::fs::fcntl_add_seals(&plain, seals).unwrap();
        }
        let open = || {
            let backing = LocalFile::new(plain.try_clone().unwrap()).unwrap();
            cache.open_backing(Arc::new(backing)).unwrap()
        };
        let misses = cache.stats().misses;
        let file = open();
        read(&file);
        next_tick();
        rustix::fs::fchmod(&plain, rustix::fs::Mode::RUSR).unwrap();
        assert!(read(&open()) == vec![7; LEN]);
        let pages = if sealed { PAGES } else { 2 * PAGES };
        assert_eq!(cache.stats().misses - misses, pages, "sealed: {sealed}");
        drop(file);
        assert_nothing_leaked(&cache);
    }
}

/// Writes, lengths and holes through the cache need no declaration.
#[test]
fn changes_through_the_cache_keep_the_pages() {
    let cache = Cache::new(4 << 20).unwrap();
    let (_dir, path, mut bytes) = file_of(LEN);
    let open = || OpenOptions::new().read(true).write(true).open(&cache, &path).unwrap();
    let file = open();
    assert!(read(&file) == bytes);
    let changes: [fn(&File); 5] = [
        |file| _ = file.write_at(&[9; 5000], 100).unwrap(),
        |file| file.sync_all().unwrap(),
        |file| file.punch_hole(8192, 8192).unwrap(),
        |file| file.set_len(LEN as u64 + 20_000).unwrap(),
        |file| file.set_len(LEN as u64).unwrap(),
    ];
    bytes[100..5100].fill(9);
    bytes[8192..8192 + 8192].fill(0);
    for (n, change) in changes.iter().enumerate() {
        next_tick();
        change(&file);
        let before = cache.stats().misses;
        assert!(!open().revalidate().unwrap(), "change {n}");
        let again = open();
        if n > 1 {
            assert!(read(&again)[..LEN] == bytes, "change {n}");
        }
        // Those in the hole, and the last one, which was longer for a while.
        let missed = cache.stats().misses - before;
        assert!(missed <= 3, "change {n}: {missed} pages were read again");
    }
    drop(file);
    assert_nothing_leaked(&cache);
}
