//! The memory of indexes: what the capacity bounds, whatever is opened and touched.

mod common;

use std::os::unix::fs::FileExt;
use std::sync::Arc;

use common::assert_nothing_leaked;
use folio_cache::testing::{Call, Fault, Memory};
use folio_cache::{Cache, File, LocalFile};
use folio_frames::FRAME_SIZE;

const MIB: usize = 1 << 20;

/// The part of a file that one leaf covers.
const LEAF: u64 = 2 << 20;

fn sparse(cache: &Cache, bytes: u64) -> (std::fs::File, File) {
    let file = tempfile::tempfile().unwrap();
    file.set_len(bytes).unwrap();
    let backing = LocalFile::new(file.try_clone().unwrap()).unwrap();
    (file, cache.open_backing(Arc::new(backing)).unwrap())
}

/// Returns the bytes of memory that pages have, and those of indexes.
fn resident(cache: &Cache) -> (usize, usize) {
    let zone = cache.frames().zone().stats();
    ((zone.online_frames - zone.free_frames) as usize * FRAME_SIZE, cache.index_bytes())
}

fn assert_bounded(cache: &Cache) {
    let (pages, index) = resident(cache);
    let most = cache.capacity() + cache.capacity() / 20 + 2 * MIB;
    let all = pages + index + cache.file_bytes();
    assert!(all <= most, "{all} of {most}, {pages} of pages, {index} of indexes");
    assert!(index <= cache.capacity() / 2, "{index} bytes of indexes");
}

#[test]
fn a_sparse_file_touched_everywhere_stays_bounded() {
    let cache: Cache = Cache::new(8 * MIB).unwrap();
    let hot = cache.open_backing(Arc::new(Memory::new(&vec![7; MIB]))).unwrap();
    let (_, file) = sparse(&cache, 64 << 30);
    let mut hot_misses = 0;
    for n in 0..32_768_u64 {
        file.read_at(&mut [0], n * LEAF).unwrap();
        let before = cache.stats().misses;
        hot.read_at(&mut [0; 64], (n % 256) << 12).unwrap();
        hot_misses += cache.stats().misses - before;
        if n % 4096 == 0 {
            assert_bounded(&cache);
        }
    }
    assert_bounded(&cache);
    assert!(hot_misses < 32_768 / 20, "{hot_misses} misses of the hot set");
    drop(file);
    drop(hot);
    cache.quiesce();
    assert_eq!(cache.index_bytes(), 0);
    assert_nothing_leaked(&cache);
}

#[test]
fn random_reads_of_16_tib_stay_bounded() {
    let cache: Cache = Cache::new(8 * MIB).unwrap();
    let files: Vec<_> = (0..4).map(|_| sparse(&cache, (16 << 40) - LEAF).1).collect();
    let mut random = fastrand::Rng::with_seed(3);
    for n in 0..20_000 {
        let offset = random.u64(..(16 << 40) - LEAF);
        files[n % 4].read_at(&mut [0; 10], offset).unwrap();
        if n % 1000 == 0 {
            assert_bounded(&cache);
        }
    }
    assert_bounded(&cache);
    drop(files);
    cache.quiesce();
    assert_eq!(cache.index_bytes(), 0);
    assert_nothing_leaked(&cache);
}

#[test]
fn writes_all_over_a_sparse_file_are_bounded_and_kept() {
    const LEAVES: u64 = 3000;
    let cache: Cache = Cache::new(8 * MIB).unwrap();
    let (on_disk, file) = {
        let file = tempfile::tempfile().unwrap();
        let backing = LocalFile::new(file.try_clone().unwrap()).unwrap();
        (file, cache.open_backing(Arc::new(backing)).unwrap())
    };
    for n in 0..LEAVES {
        assert_eq!(file.write_at(&n.to_le_bytes(), n * LEAF).unwrap(), 8);
        if n % 500 == 0 {
            assert_bounded(&cache);
        }
    }
    assert_bounded(&cache);
    let mut bytes = [0; 8];
    for n in 0..LEAVES {
        assert_eq!(file.read_at(&mut bytes, n * LEAF).unwrap(), 8);
        assert_eq!(u64::from_le_bytes(bytes), n);
    }
    file.sync_all().unwrap();
    for n in 0..LEAVES {
        on_disk.read_exact_at(&mut bytes, n * LEAF).unwrap();
        assert_eq!(u64::from_le_bytes(bytes), n);
    }
    drop(file);
    assert_nothing_leaked(&cache);
}

#[test]
fn leaves_without_pages_are_given_back() {
    const LEAVES: u64 = 2048;
    let cache: Cache = Cache::new(32 * MIB).unwrap();
    let (_, file) = sparse(&cache, LEAVES * LEAF);
    let before = cache.index_bytes();
    let touch = || {
        for n in 0..LEAVES {
            file.read_at(&mut [0], n * LEAF).unwrap();
        }
        assert!(cache.index_bytes() >= LEAVES as usize * FRAME_SIZE, "{}", cache.index_bytes());
    };
    touch();
    file.invalidate();
    cache.quiesce();
    assert_eq!(cache.index_bytes(), before, "after an invalidate");
    touch();
    while cache.reclaim(4096) > 0 {}
    // Some may stay open, for the next pages: half of them were closed.
    assert!(cache.index_bytes() <= cache.capacity() / 8, "{}", cache.index_bytes());
    assert_eq!(file.read_at(&mut [1; 10], 5 * LEAF).unwrap(), 10);
    drop(file);
    cache.quiesce();
    assert_eq!(cache.index_bytes(), 0, "after the last close");
}

#[test]
fn a_truncation_and_a_hole_give_leaves_back() {
    let cache: Cache = Cache::new(16 * MIB).unwrap();
    let file = cache.open_backing(Arc::new(Memory::new(&[]))).unwrap();
    let before = cache.index_bytes();
    for n in 1..60 {
        file.write_at(&[1; 100], n * LEAF - 50).unwrap();
    }
    assert!(cache.index_bytes() > before + 59 * FRAME_SIZE);
    file.punch_hole(10 * LEAF, 40 * LEAF).unwrap();
    assert!(cache.index_bytes() <= before + 25 * FRAME_SIZE, "{}", cache.index_bytes());
    file.set_len(LEAF).unwrap();
    assert!(cache.index_bytes() <= before + 3 * FRAME_SIZE, "{}", cache.index_bytes());
    file.set_len(0).unwrap();
    assert_eq!(cache.index_bytes(), before);
}

#[test]
fn a_failed_read_leaves_no_leaf_behind() {
    let cache: Cache = Cache::new(16 * MIB).unwrap();
    let backing = Arc::new(Memory::new(&[]));
    backing.scribble(100 * LEAF, &[1]);
    let file = cache.open_backing(backing.clone()).unwrap();
    let before = cache.index_bytes();
    backing.inject(Call::Fill, 0, u64::MAX, Fault::Error(5));
    for n in 0..100 {
        file.read_at(&mut vec![0; 3 * FRAME_SIZE], n * LEAF + 100).unwrap_err();
        file.read_at(&mut vec![0; 3 * FRAME_SIZE], n * LEAF + LEAF - 5000).unwrap_err();
    }
    cache.quiesce();
    // The first pages of a file have no leaf.
    assert!(cache.index_bytes() <= before + 2 * FRAME_SIZE, "{}", cache.index_bytes());
    backing.heal();
    assert_eq!(file.read_at(&mut [0; 10], 7 * LEAF).unwrap(), 10);
}

#[test]
fn a_file_of_one_page_costs_at_most_128_bytes() {
    const FILES: usize = 10_000;
    let cache: Cache = Cache::new(64 * MIB).unwrap();
    let files: Vec<File> = (0..FILES)
        .map(|n| {
            // Half of them are read, the others written.
            if n % 2 == 0 {
                let file = cache.open_backing(Arc::new(Memory::new(&[n as u8; 4096]))).unwrap();
                assert_eq!(file.read_at(&mut [0], 4095).unwrap(), 1);
                file
            } else {
                let file = cache.open_backing(Arc::new(Memory::new(&[]))).unwrap();
                assert_eq!(file.append(&[n as u8; 4096]).unwrap(), 0);
                file
            }
        })
        .collect();
    assert!(cache.index_bytes() <= FILES * 128, "{}", cache.index_bytes());
    drop(files);
    cache.flush().unwrap();
    cache.quiesce();
    assert_eq!(cache.index_bytes(), 0);
}

#[test]
fn many_small_open_files_leave_half_to_pages() {
    let cache: Cache = Cache::new(32 * MIB).unwrap();
    let contents: Vec<u8> = vec![3; 20_000];
    let files: Vec<File> = (0..10_000)
        .map(|_| cache.open_backing(Arc::new(Memory::new(&contents))).unwrap())
        .collect();
    for file in &files {
        assert_eq!(file.read_at(&mut vec![0; 20_000], 0).unwrap(), 20_000);
    }
    assert_bounded(&cache);
    assert!(resident(&cache).0 >= 16 * MIB, "{:?} of pages and indexes", resident(&cache));
}

/// Files that are larger than what needs no leaf: each has a leaf as long as it has a page.
#[test]
fn many_open_files_with_leaves_stay_bounded() {
    let cache: Cache = Cache::new(8 * MIB).unwrap();
    let contents: Vec<u8> = vec![3; 20 * FRAME_SIZE];
    let files: Vec<File> = (0..4000)
        .map(|_| {
            let file = cache.open_backing(Arc::new(Memory::new(&contents))).unwrap();
            assert_eq!(file.read_at(&mut [0], 19 * FRAME_SIZE as u64).unwrap(), 1);
            file
        })
        .collect();
    assert_bounded(&cache);
    for file in files.iter().rev().take(100) {
        let mut byte = [0];
        assert_eq!(file.read_at(&mut byte, 19 * FRAME_SIZE as u64).unwrap(), 1);
        assert_eq!(byte, [3]);
    }
    drop(files);
    cache.quiesce();
    assert_eq!(cache.index_bytes(), 0);
    assert_nothing_leaked(&cache);
}

#[test]
fn a_smaller_capacity_bounds_the_index_at_once() {
    let cache = Cache::builder().capacity(32 * MIB).build().unwrap();
    let (_, file) = sparse(&cache, 4000 * LEAF);
    for n in 0..4000_u64 {
        file.read_at(&mut [0], n * LEAF).unwrap();
    }
    assert!(cache.index_bytes() > 8 * MIB);
    cache.set_capacity(4 * MIB).unwrap();
    assert_bounded(&cache);
    cache.set_capacity(32 * MIB).unwrap();
    assert_bounded(&cache);
    drop(file);
    assert_nothing_leaked(&cache);
}

/// All leaves have pinned pages: others are read without the cache, and a write fails.
#[test]
fn pages_without_room_for_a_slot_are_read_all_the_same() {
    let cache: Cache = Cache::new(4 * MIB).unwrap();
    let contents: Vec<u8> = (0..600_u32 << 12).map(|byte| (byte >> 12) as u8).collect();
    let file = cache.open_backing(Arc::new(Memory::new(&contents))).unwrap();
    let (_, wide) = sparse(&cache, 4 << 30);
    let mut pinned = Vec::new();
    for n in 0..600_u64 {
        pinned.push(wide.page(n * LEAF).unwrap().unwrap());
    }
    assert!(cache.stats().uncached > 0, "{:?}", cache.stats());
    for page in [8_usize, 599] {
        let handle = file.page((page << 12) as u64).unwrap().unwrap();
        assert!(handle.iter().all(|&byte| byte == page as u8));
        let mut buf = [0; 100];
        assert_eq!(file.read_at(&mut buf, (page << 12) as u64 + 5).unwrap(), 100);
        assert_eq!(buf, [page as u8; 100]);
    }
    assert_bounded(&cache);
    let error = file.write_at(&[1], 599 << 12).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::OutOfMemory);
    assert!(error.to_string().starts_with("no memory for the index of the file"), "{error}");
    drop((pinned, wide));
    assert_eq!(file.write_at(&[1], 599 << 12).unwrap(), 1);
    assert_eq!(file.read_at(&mut [0; 10], 0).unwrap(), 10);
    drop(file);
    assert_nothing_leaked(&cache);
}

/// A file grows out of its first slots and past its near ones, with pages that are dirty, clean and
/// pinned.
#[test]
fn pages_stay_where_they_are_when_a_file_grows() {
    let cache: Cache = Cache::new(16 * MIB).unwrap();
    let backing = Arc::new(Memory::new(&[]));
    let file = cache.open_backing(backing.clone()).unwrap();
    let mut pinned = Vec::new();
    for page in 0..1500_u64 {
        file.append(&[page as u8; 4096]).unwrap();
        if page % 5 == 0 {
            pinned.push((page, file.page(page * 4096).unwrap().unwrap()));
        }
        if page % 37 == 0 {
            file.sync_all().unwrap();
        }
    }
    // Past 128 MiB, for which it had slots at first.
    let far = [200_u64 << 20, 300 << 20, 900 << 20];
    for far in far {
        assert_eq!(file.write_at(&[9; 10], far).unwrap(), 10);
    }
    let misses = cache.stats().misses;
    let mut buf = [0; 4096];
    for page in 0..1500_u64 {
        assert_eq!(file.read_at(&mut buf, page * 4096).unwrap(), 4096);
        assert_eq!(buf, [page as u8; 4096], "page {page}");
    }
    for far in far {
        assert_eq!(file.read_at(&mut buf[..10], far).unwrap(), 10);
        assert_eq!(buf[..10], [9; 10]);
    }
    assert_eq!(cache.stats().misses, misses, "a page was lost when the file grew");
    assert!(pinned.iter().all(|(page, handle)| handle.iter().all(|&byte| byte == *page as u8)));
    file.set_len(1500 * 4096).unwrap();
    file.sync_all().unwrap();
    assert_eq!(backing.contents().len(), 1500 * 4096);
    drop((pinned, file));
    assert_nothing_leaked(&cache);
}

/// Threads read, write and drop pages of the same few leaves.
#[test]
fn leaves_that_come_and_go_under_threads_lose_nothing() {
    const PAGES: u64 = 16;
    let cache: Cache = Cache::new(4 * MIB).unwrap();
    let backing = Arc::new(Memory::new(&[]));
    backing.scribble(40 * LEAF, &[0]);
    let file = cache.open_backing(backing).unwrap();
    let at = |n: u64| LEAF + n % PAGES * (LEAF / 4);
    std::thread::scope(|scope| {
        for thread in 0..3_u64 {
            let (file, cache) = (file.clone(), &cache);
            scope.spawn(move || {
                let mut random = fastrand::Rng::with_seed(thread);
                let mut written = [0_u8; PAGES as usize];
                for round in 0..3000_u64 {
                    let n = random.u64(..PAGES);
                    // Each thread has bytes of its own.
                    let mut byte = [0];
                    file.read_at(&mut byte, at(n) + thread).unwrap();
                    assert_eq!(byte[0], written[n as usize], "thread {thread}, page {n}");
                    written[n as usize] = round as u8;
                    file.write_at(&[round as u8], at(n) + thread).unwrap();
                    match round % 50 {
                        0 => file.sync_data().unwrap(),
                        1 => file.invalidate(),
                        2 => _ = cache.reclaim(8),
                        _ => {}
                    }
                }
            });
        }
    });
    file.sync_data().unwrap();
    file.invalidate();
    drop(file);
    cache.quiesce();
    assert_eq!(cache.index_bytes(), 0);
    assert_nothing_leaked(&cache);
}
