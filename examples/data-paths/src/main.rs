//! Each operation of the page cache once, in a function of its own. `cargo x data-paths` runs it
//! under valgrind, which notes the files with code that runs in that function.
//!
//! An operation is the plain case: frames are free, unless it is about that; the file is local, and
//! has been read before; nothing fails.

#![forbid(unsafe_code)]

use std::fs;
use std::path::Path;

use folio_cache::{Cache, File, OpenOptions};

const PAGE: u64 = 4096;

/// The pages of the file.
const PAGES: u64 = 256;

/// A page that is read before each operation, and one that is not.
const CACHED: u64 = 100 * PAGE;
const MISSING: u64 = 200 * PAGE;

/// The memory of the cache: more than the pages of the file.
const CAPACITY: usize = 16 << 20;

/// The memory of a small one, the pages of its file, how many of them are read, and how far apart.
const SMALL: usize = 2 << 20;
const MANY: u64 = 2048;
const READ: u64 = 700;
const STEP: u64 = 769;

/// The cache and the file of the operations.
struct Scene {
    cache: Cache,
    file: File,
}

impl Scene {
    /// Opens a file of some pages, of which one is cached.
    fn new(folder: &Path, capacity: usize, pages: u64) -> Self {
        let path = folder.join("file");
        fs::write(&path, vec![7; (pages * PAGE) as usize]).expect("a file");
        let cache = Cache::builder().capacity(capacity).build().expect("the memory");
        if capacity == SMALL {
            // A miss evicts pages itself.
            cache.set_io_threads(0);
        }
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).open(&cache, &path).expect("the file");
        let scene = Self { cache, file };
        scene.read(CACHED);
        scene
    }

    fn read(&self, offset: u64) {
        let mut buf = [0; 64];
        assert_eq!(self.file.read_at(&mut buf, offset).expect("64 bytes"), 64);
    }

    fn write(&self, offset: u64) {
        let page = [8; PAGE as usize];
        assert_eq!(self.file.write_at(&page, offset).expect("a page"), page.len());
    }
}

#[inline(never)]
fn path_hit(scene: &Scene) {
    scene.read(CACHED);
}

#[inline(never)]
fn path_handle(scene: &Scene) {
    assert!(scene.file.page(CACHED).expect("a hit").is_some());
}

#[inline(never)]
fn path_miss(scene: &Scene) {
    scene.read(MISSING);
}

#[inline(never)]
fn path_async_miss(scene: &Scene) {
    async_read(scene, MISSING);
}

fn async_read(scene: &Scene, offset: u64) {
    let mut buf = [0; 64];
    let read = pollster::block_on(scene.file.read_at_async(&mut buf, offset));
    assert_eq!(read.expect("64 bytes"), 64);
}

#[inline(never)]
fn path_write_in_place(scene: &Scene) {
    scene.write(CACHED);
}

#[inline(never)]
fn path_write_new_page(scene: &Scene) {
    scene.write((PAGES + 1) * PAGE);
}

#[inline(never)]
fn path_write_copy(scene: &Scene) {
    scene.write(CACHED);
}

#[inline(never)]
fn path_sync(scene: &Scene) {
    scene.file.sync_data().expect("a local file");
}

/// Reads more pages than the cache can hold, far apart. `cargo x data-paths` notes what runs in
/// `reclaim_some`.
fn reclaim(scene: &Scene) {
    for n in 0..READ {
        scene.read(n * STEP % MANY * PAGE);
    }
    assert!(scene.cache.stats().reclaimed > 0);
}

#[inline(never)]
fn path_migration(scene: &Scene, pfn: folio_cache::frames::Pfn) {
    assert_ne!(scene.cache.frames().migrate(pfn).expect("an unpinned page"), pfn);
}

fn main() {
    let operation = std::env::args().nth(1).unwrap_or_default();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (capacity, pages) = if operation == "reclaim" { (SMALL, MANY) } else { (CAPACITY, PAGES) };
    let scene = &Scene::new(folder.path(), capacity, pages);
    if operation.starts_with("write") {
        // Not the first dirty page, which has the flusher notified, and not the first one beyond
        // the end of the backing, which is asked for its length then.
        scene.write(PAGES * PAGE);
    }
    match operation.as_str() {
        "hit" => path_hit(scene),
        "handle" => path_handle(scene),
        "miss" => path_miss(scene),
        "async-miss" => {
            // A thread that has begun, with frames in its lists.
            async_read(scene, CACHED + PAGE);
            scene.cache.quiesce();
            path_async_miss(scene);
        }
        "write-in-place" => path_write_in_place(scene),
        "write-new-page" => path_write_new_page(scene),
        "write-copy" => {
            let pinned = scene.file.page(CACHED).expect("a hit");
            path_write_copy(scene);
            drop(pinned);
        }
        "sync" => {
            scene.write(CACHED);
            path_sync(scene);
        }
        "reclaim" => reclaim(scene),
        "migration" => {
            let zone = scene.cache.frames().zone();
            let page = zone.find_unpinned(folio_cache::CACHED, &zone.pfns());
            path_migration(scene, page.expect("the cached page"));
        }
        other => panic!("there is no operation '{other}'"),
    }
    // A thread of the cache that still works would hold the last reference to the file: its close
    // is no part of the operation.
    scene.cache.quiesce();
}
