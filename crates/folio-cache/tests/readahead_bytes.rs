//! Readahead by the bytes that it reads: many readers at once, and readers of short records.

use std::sync::Arc;

use folio_cache::testing::Memory;
use folio_cache::{Cache, File};

const PAGE: u64 = 4096;

/// Returns an empty cache of so many MiB.
fn cache(mib: usize) -> Cache {
    Cache::new(mib << 20).unwrap()
}

/// Opens a file of `pages` pages of zeroes.
fn file(cache: &Cache, pages: u64) -> File {
    let memory = Memory::new(&[]);
    memory.cut(pages * PAGE);
    cache.open_backing(Arc::new(memory)).unwrap()
}

fn read(file: &File, page: u64) {
    file.read_exact_at(&mut [0; PAGE as usize], page * PAGE).unwrap();
}

/// Returns the bytes that the cache read from its backings, for each byte of `pages` pages.
fn bytes_read(cache: &Cache, pages: u64) -> f64 {
    cache.quiesce();
    let stats = cache.stats();
    println!("{stats:?}");
    stats.filled_bytes as f64 / (pages * PAGE) as f64
}

/// The files do not fit into the cache. A page that is evicted before its use is read twice.
#[test]
fn readers_at_once_read_each_page_once() {
    for readers in [1, 2, 4, 8, 32] {
        let (cache, pages) = (cache(16), 32_768 / readers);
        let files: Vec<_> = (0..readers).map(|_| file(&cache, pages)).collect();
        for page in 0..pages {
            for file in &files {
                read(file, page);
            }
        }
        let bytes = bytes_read(&cache, readers * pages);
        assert!(bytes <= 1.05, "{readers} readers: {bytes}");
        let requests = cache.stats().requests;
        let is_ahead = readers > 8 || requests < readers * pages / 8;
        assert!(is_ahead, "{readers} readers: {requests} requests");
    }
}

#[test]
fn readers_of_one_file_read_each_page_once() {
    for readers in [2, 8, 32] {
        let (cache, pages) = (cache(16), 32_768);
        let file = file(&cache, pages);
        for page in 0..pages / readers {
            (0..readers).for_each(|reader| read(&file, reader * pages / readers + page));
        }
        let bytes = bytes_read(&cache, pages);
        assert!(bytes <= 1.05, "{readers} readers: {bytes}");
    }
}

/// A reader that is much slower than the others finds its pages all the same.
#[test]
fn a_slow_reader_costs_little() {
    let (cache, pages) = (cache(16), 8192);
    let (slow, fast) = (file(&cache, pages), [(); 4].map(|()| file(&cache, pages)));
    for page in 0..pages {
        for file in &fast {
            read(file, page);
        }
        if page % 8 == 0 {
            read(&slow, page / 8);
        }
    }
    let bytes = bytes_read(&cache, 4 * pages + pages / 8);
    assert!(bytes <= 1.05, "{bytes}");
}

#[test]
fn thousands_of_files_side_by_side_are_read_once() {
    let (cache, files, pages) = (cache(64), 3000, 40);
    let all: Vec<_> = (0..files).map(|_| file(&cache, pages)).collect();
    for page in 0..pages {
        for file in &all {
            read(file, page);
        }
    }
    let bytes = bytes_read(&cache, files * pages);
    assert!(bytes <= 1.05, "{bytes}");
}

/// After many files in turn, one reader has the windows of one reader.
#[test]
fn readers_that_ended_leave_their_share_to_others() {
    let cache = cache(32);
    let files: Vec<_> = (0..200).map(|_| file(&cache, 200)).collect();
    for page in 0..200 {
        for file in &files {
            read(file, page);
        }
    }
    let one = file(&cache, 20_000);
    // Until the others are forgotten.
    (0..4000).for_each(|page| read(&one, page));
    let before = cache.stats();
    (4000..20_000).for_each(|page| read(&one, page));
    cache.quiesce();
    let during = cache.stats() - before;
    assert!(during.requests < 800, "{during:?}");
}

#[test]
fn short_records_are_hardly_read_past_their_ends() {
    for pages in [2, 3, 4, 6, 8, 12, 16] {
        let mut random = fastrand::Rng::with_seed(pages);
        let (cache, records) = (cache(16), 1000);
        let file = file(&cache, 1 << 24);
        for _ in 0..records {
            let first = random.u64(..(1 << 24) - pages);
            (first..first + pages).for_each(|page| read(&file, page));
        }
        let bytes = bytes_read(&cache, records * pages);
        assert!(bytes <= 1.5, "records of {pages} pages: {bytes}");
    }
}

/// A file with short records may be read from end to end later: it gets long windows again.
#[test]
fn a_scan_after_short_records_is_read_ahead() {
    let mut random = fastrand::Rng::with_seed(3);
    let cache = cache(32);
    let file = file(&cache, 1 << 24);
    for _ in 0..300 {
        let first = random.u64(..1 << 23);
        (first..first + 4).for_each(|page| read(&file, page));
    }
    let before = cache.stats();
    ((1 << 23)..(1 << 23) + 20_000).for_each(|page| read(&file, page));
    cache.quiesce();
    let during = cache.stats() - before;
    assert!(during.requests < 1000, "{during:?}");
}
