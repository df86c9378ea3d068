//! Groups of files: their shares, counters, and what is done to all files of a group.

mod common;

use std::io::ErrorKind;
use std::sync::Arc;

use folio_cache::policy::Clock;
use folio_cache::testing::{Distant, Memory};
use folio_cache::{AsyncBacking, Cache, CacheStats, File, Group, MemoryUse, OpenOptions, Priority};
use folio_frames::FRAME_SIZE;

const PAGE: usize = FRAME_SIZE;
const CAPACITY: usize = 8 << 20;

fn cache() -> Cache {
    Cache::builder()
        .capacity(CAPACITY)
        .io_threads(0)
        .policy(|_| Box::new(Clock::new()))
        .build()
        .unwrap()
}

fn share(cache: &Cache, name: &str, share: f64) -> Group {
    cache.group(name).share(share).policy(|_| Box::new(Clock::new())).create().unwrap()
}

fn blocking(bytes: usize) -> Arc<Memory> {
    Arc::new(Memory::new(&vec![7; bytes]))
}

fn distant(bytes: usize) -> Arc<Distant> {
    Arc::new(Distant::new(&vec![7; bytes]))
}

/// Reads a file once, in steps of 64 KiB.
fn scan(file: &File, bytes: usize) {
    let mut buf = vec![0; 16 * PAGE];
    for at in (0..bytes).step_by(buf.len()) {
        file.read_exact_at(&mut buf, at as u64).unwrap();
        assert!(buf.iter().all(|&byte| byte == 7));
    }
}

/// Reads a hot file, then runs `scan`. Returns the number of pages of the hot file that it missed
/// when it was read again.
fn misses_after(hot: &File, hot_bytes: usize, scan_all: impl FnOnce()) -> u64 {
    scan(hot, hot_bytes);
    let before = hot.stats();
    scan_all();
    scan(hot, hot_bytes);
    (hot.stats() - before).misses
}

#[test]
fn a_scan_without_a_group_leaves_a_share_alone() {
    for is_distant in [false, true] {
        let cache = cache();
        let group = share(&cache, "hot", 0.5);
        let bytes = group.limit().unwrap() / 8 * 7 / (16 * PAGE) * (16 * PAGE);
        let hot = if is_distant {
            group.open_async(distant(bytes)).unwrap()
        } else {
            group.open_backing(blocking(bytes)).unwrap()
        };
        let large = cache.open_backing(blocking(4 * CAPACITY)).unwrap();
        let misses = misses_after(&hot, bytes, || scan(&large, 4 * CAPACITY));
        assert_eq!(misses, 0, "distant: {is_distant}");
        assert!(cache.stats().reclaimed as usize >= 3 * CAPACITY / PAGE);
    }
}

#[test]
fn a_scan_displaces_a_group_without_a_share() {
    let cache = cache();
    let hot = cache.group("hot").create().unwrap().open_backing(blocking(CAPACITY / 4)).unwrap();
    let large = cache.open_backing(blocking(4 * CAPACITY)).unwrap();
    let misses = misses_after(&hot, CAPACITY / 4, || scan(&large, 4 * CAPACITY));
    assert_eq!(misses as usize, CAPACITY / 4 / PAGE);
}

#[test]
fn a_scan_in_a_share_stays_within_it() {
    for is_distant in [false, true] {
        let cache = cache();
        let (one, two) = (share(&cache, "one", 0.5), share(&cache, "two", 0.25));
        let bytes = one.limit().unwrap() / 8 * 7 / (16 * PAGE) * (16 * PAGE);
        let hot = one.open_backing(blocking(bytes)).unwrap();
        let large = if is_distant {
            two.open_async(distant(4 * CAPACITY)).unwrap()
        } else {
            two.open_backing(blocking(4 * CAPACITY)).unwrap()
        };
        // A third file fills the rest: memory is short.
        let rest = cache.open_backing(blocking(CAPACITY)).unwrap();
        scan(&rest, CAPACITY);
        let misses = misses_after(&hot, bytes, || {
            let mut buf = vec![0; 64 * PAGE];
            for at in (0..4 * CAPACITY).step_by(buf.len()) {
                large.read_exact_at(&mut buf, at as u64).unwrap();
                let cached = two.memory_use().cached_bytes as usize;
                assert!(cached <= two.limit().unwrap(), "{cached} at {at}");
            }
        });
        assert_eq!(misses, 0, "distant: {is_distant}");
        // It uses its share.
        let cached = two.memory_use().cached_bytes as usize;
        assert!(cached >= two.limit().unwrap() / 2, "{cached}");
    }
}

#[test]
fn a_share_that_is_pinned_is_read_past() {
    let cache = cache();
    let group = share(&cache, "small", 0.125);
    let pages = group.limit().unwrap() / PAGE;
    let file = group.open_backing(blocking(3 * pages * PAGE)).unwrap();
    let pinned: Vec<_> =
        (0..2 * pages).map(|page| file.page((page * PAGE) as u64).unwrap().unwrap()).collect();
    assert!(pinned.iter().all(|page| page.iter().all(|&byte| byte == 7)));
    let used = group.memory_use();
    assert!(used.cached_bytes as usize <= group.limit().unwrap(), "{used:?}");
    assert!(group.stats().uncached > 0);
    assert_eq!(used.pinned_bytes as usize, 2 * pages * PAGE);
    assert_eq!(used.detached_bytes as usize, 2 * pages * PAGE - used.cached_bytes as usize);
    drop(pinned);
    scan(&file, 3 * pages / 16 * 16 * PAGE);
    assert_eq!(group.memory_use().detached_bytes, 0);
}

#[test]
fn writes_to_a_share_evict_its_own_pages() {
    let cache = cache();
    let group = share(&cache, "written", 0.25);
    let dir = tempfile::tempdir().unwrap();
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .group(&group)
        .open(&cache, dir.path().join("file"))
        .unwrap();
    let limit = group.limit().unwrap();
    for at in (0..4 * limit).step_by(64 * PAGE) {
        file.write_all_at(&vec![7; 64 * PAGE], at as u64).unwrap();
        file.flush().unwrap();
        let cached = group.memory_use().cached_bytes as usize;
        assert!(cached <= limit + 64 * PAGE, "{cached} at {at}");
    }
    scan(&file, 4 * limit / (16 * PAGE) * (16 * PAGE));
}

#[test]
fn the_sums_of_all_groups_are_those_of_the_cache() {
    let cache = cache();
    let groups = [share(&cache, "one", 0.25), cache.group("two").create().unwrap()];
    let files = [
        groups[0].open_backing(blocking(CAPACITY)).unwrap(),
        groups[1].open_async(distant(CAPACITY)).unwrap(),
        cache.open_backing(blocking(CAPACITY)).unwrap(),
    ];
    let mut random = fastrand::Rng::with_seed(5);
    let mut handles = Vec::new();
    for round in 0..3000 {
        let file = &files[random.usize(..files.len())];
        let at = random.u64(..CAPACITY as u64 - 200_000);
        match random.u32(..4) {
            0 => drop(file.read_exact_at(&mut [0; 5000], at)),
            1 => handles.push(file.bytes(at, random.usize(1..200_000)).unwrap()),
            2 => drop(file.page(at).unwrap()),
            _ => handles.truncate(20),
        }
        if round % 100 == 0 {
            file.invalidate();
        }
    }
    let all = cache.groups();
    assert_eq!(all.len(), 3);
    let mut whole = cache.stats();
    (whole.shown_bytes, whole.pinned_bytes) = (0, 0);
    assert_eq!(all.iter().map(Group::stats).sum::<CacheStats>(), whole);
    assert!(all.iter().all(|group| group.stats().misses > 0 && group.stats().copied_bytes > 0));
    let mut used = cache.memory_use();
    for part in all.iter().map(Group::memory_use) {
        used.cached_bytes -= part.cached_bytes;
        used.detached_bytes -= part.detached_bytes;
        used.pinned_bytes -= part.pinned_bytes;
        used.index_bytes -= part.index_bytes;
    }
    // The page tables of the system.
    assert!(used.index_bytes as usize <= 4 * PAGE, "{used:?}");
    (used.index_bytes, used.free_bytes) = (0, 0);
    assert_eq!(used, MemoryUse::default());
    for (file, group) in files.iter().zip([&all[1], &all[2], &all[0]]) {
        assert_eq!(file.memory_use(), group.memory_use());
        assert_eq!(file.group().name(), group.name());
    }
}

#[test]
fn a_group_is_invalidated_alone() {
    let cache = cache();
    let group = cache.group("objects").create().unwrap();
    let kept = distant(8 * PAGE);
    let key = kept.key();
    group.open_async(kept).unwrap().read_exact_at(&mut [0; PAGE], 0).unwrap();
    let open = group.open_backing(blocking(8 * PAGE)).unwrap();
    let other = cache.open_backing(blocking(8 * PAGE)).unwrap();
    for file in [&open, &other] {
        file.read_exact_at(&mut vec![0; 8 * PAGE], 0).unwrap();
    }
    assert_eq!(group.memory_use().cached_bytes as usize, 9 * PAGE);
    group.invalidate();
    assert_eq!(group.memory_use().cached_bytes, 0);
    assert!(cache.get(&key).is_none(), "a closed object without pages is not kept");
    assert_eq!(other.memory_use().cached_bytes as usize, 8 * PAGE);
}

#[test]
fn a_file_stays_in_the_group_of_its_first_open() {
    let cache = cache();
    let one = cache.group("one").priority(Priority::High).create().unwrap();
    let two = cache.group("two").create().unwrap();
    let object = distant(PAGE);
    let file = one.open_async(Arc::clone(&object) as _).unwrap();
    assert_eq!(cache.open_async(Arc::clone(&object) as _).unwrap().group().name(), "one");
    let error = two.open_async(Arc::clone(&object) as _).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert!(error.to_string().contains(r#"in group "one": close it"#), "{error}");
    drop(file);
    assert_eq!(two.open_async(object).unwrap().group().name(), "two");

    let other = Cache::new(CAPACITY).unwrap();
    let mut options = OpenOptions::new();
    let error = options.read(true).group(&one).open(&other, "/etc/hostname").unwrap_err();
    assert!(error.to_string().contains("belongs to another cache"), "{error}");
    assert_eq!(cache.find_group("one").unwrap().priority(), Priority::High);
    assert!(cache.find_group("three").is_none());
    assert_eq!(cache.group("one").create().unwrap_err().kind(), ErrorKind::AlreadyExists);
    assert_eq!(
        cache.group("three").share(1.5).create().unwrap_err().kind(),
        ErrorKind::InvalidInput
    );
}

#[test]
fn a_share_follows_the_capacity() {
    let cache = Cache::builder().capacity(CAPACITY).max_capacity(4 * CAPACITY).build().unwrap();
    let group = share(&cache, "half", 0.5);
    let before = group.limit().unwrap();
    assert!((CAPACITY / 2 - before) < CAPACITY / 50, "{before}");
    cache.set_capacity(4 * CAPACITY).unwrap();
    let after = group.limit().unwrap();
    assert!((2 * CAPACITY - after) < CAPACITY / 10, "{after}");
    let file = group.open_backing(blocking(4 * CAPACITY)).unwrap();
    scan(&file, 4 * CAPACITY);
    cache.set_capacity(CAPACITY).unwrap();
    scan(&file, CAPACITY);
    assert!(group.memory_use().cached_bytes as usize <= before);
}
