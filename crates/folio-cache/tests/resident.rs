//! The memory that a cache reports is the memory that the system says is resident.

use std::fs;

use folio_cache::{Cache, MemoryUse};
use folio_frames::FRAME_SIZE;

const PAGE: u64 = FRAME_SIZE as u64;
const CAPACITY: u64 = 64 << 20;

/// The resident memory of this process, in bytes.
fn resident() -> u64 {
    let rollup = fs::read_to_string("/proc/self/smaps_rollup").unwrap();
    let line = rollup.lines().find(|line| line.starts_with("Rss:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

#[test]
fn the_sum_of_the_parts_is_the_resident_memory() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name| dir.path().join(name);
    fs::write(path("dense"), vec![7; 2 * CAPACITY as usize]).unwrap();
    fs::File::create(path("sparse")).unwrap().set_len(64 << 30).unwrap();
    // The code that runs, and what the process has once.
    let warm: Cache = Cache::new(2 << 20).unwrap();
    for page in 0..2000 {
        warm.open(path("dense")).unwrap().read_exact_at(&mut [0; 10], page * PAGE).unwrap();
    }
    println!("{:?}", warm.memory_use());
    let before = resident();
    let builder = Cache::builder().capacity(CAPACITY as usize).huge_pages(false);
    let cache: Cache = builder.build().unwrap();
    let group = cache.group("sparse").create().unwrap();
    let (dense, sparse) = (cache.open(path("dense")).unwrap(), group.open(path("sparse")).unwrap());
    let mut handles = Vec::new();
    let check = |what: &str, least: fn(&MemoryUse) -> [u64; 2]| {
        cache.quiesce();
        let (used, grown) = (cache.memory_use(), resident() - before);
        // Frames that are free again may be resident: debug builds write to each.
        let low = used.resident_bytes();
        let may_stay = cfg!(debug_assertions) || what == "detached";
        let high = if may_stay { low + used.free_bytes } else { low };
        let is_near = grown * 21 / 20 >= low && grown * 19 / 20 <= high;
        assert!(is_near, "{what}: {grown} resident, {used:?}");
        let [part, wanted] = least(&used);
        assert!(part >= wanted, "{what}: {used:?}");
    };
    // Dense pages.
    for page in 0..CAPACITY / PAGE / 4 * 3 {
        dense.read_exact_at(&mut [0; 10], page * PAGE).unwrap();
    }
    check("dense", |used| [used.cached_bytes, CAPACITY / 4 * 3]);
    // A leaf of the index for each page.
    for leaf in 0..2500 {
        sparse.read_exact_at(&mut [0; 10], leaf * 512 * PAGE).unwrap();
    }
    check("sparse", |used| [used.index_bytes, 2500 * PAGE]);
    let cached = group.memory_use().cached_bytes / PAGE;
    assert!((2500..2600).contains(&cached), "{cached}: some may be read ahead");
    // Pages that only handles have.
    for page in 0..1000 {
        handles.push(dense.page(page * PAGE).unwrap());
    }
    dense.invalidate();
    check("detached", |used| [used.detached_bytes, 1000 * PAGE]);
    assert_eq!(cache.memory_use().pinned_bytes, 1000 * PAGE);
    drop(handles);
    // All of it.
    for page in 0..2 * CAPACITY / PAGE {
        dense.read_exact_at(&mut [0; 10], page * PAGE).unwrap();
    }
    check("full", |used| [used.resident_bytes(), CAPACITY / 10 * 9]);
    let used = cache.memory_use();
    assert!(used.resident_bytes() <= CAPACITY + (2 << 20), "{used:?}");
}
