//! Tests of the detector alone: readers without a cache.

use std::collections::BTreeSet;

use super::*;
use crate::state::streams::MAX_WINDOW;
use crate::state::units::MOST_PAGES;

/// A reader of one page at a time, and a cache without limit.
#[derive(Default)]
struct Reader {
    readahead: Readahead,
    lone_misses: LoneMisses,
    /// The cached pages, and those with a readahead marker.
    cached: BTreeSet<i64>,
    markers: BTreeSet<i64>,
    misses: Vec<i64>,
    windows: Vec<Window>,
}

impl Reader {
    fn request(&mut self, window: Option<Window>) {
        let Some(window) = window else { return };
        for piece in 0..window.pieces {
            let first = window.first + piece * window.step;
            self.cached.extend((first..first + window.pages).filter(|&page| page >= 0));
        }
        self.markers.extend(window.marker);
        self.windows.push(window);
    }

    fn read(&mut self, page: i64) {
        if self.cached.insert(page) {
            self.misses.push(page);
            let miss = Miss { file: 1, first: page as u32, pages: 1 };
            let bounds = Bounds::of(4096);
            let window = self.readahead.missed_unless_lone(&self.lone_misses, miss, bounds, |_| ());
            self.request(window);
        } else if self.markers.remove(&page) {
            let window = self.readahead.passed(page as u32, Bounds::of(4096));
            self.request(window);
        }
    }
}

#[test]
fn a_sequential_reader_misses_three_times() {
    let mut reader = Reader::default();
    (1000..20_000).for_each(|page| reader.read(page));
    assert_eq!(reader.misses, [1000, 1001, 1002]);
    let lengths: Vec<_> = reader.windows.iter().map(|window| window.pages).collect();
    assert_eq!(lengths[..9], [16, 32, 64, 128, 293, 512, 1024, 2048, 2048]);
    assert!(
        reader.windows[5..].iter().all(|window| window.first % i64::from(MOST_PAGES) == 0),
        "a long window begins with a whole request"
    );
    let ahead = reader.cached.last().unwrap() - 20_000;
    assert!((0..=2 * MAX_WINDOW).contains(&ahead), "{ahead} pages ahead");
}

#[test]
fn a_backward_reader_misses_three_times_and_stops_at_the_start() {
    let mut reader = Reader::default();
    (0..10_000).rev().for_each(|page| reader.read(page));
    assert_eq!(reader.misses, [9999, 9998, 9997]);
    assert_eq!((reader.cached.first(), reader.cached.len()), (Some(&0), 10_000));
}

#[test]
fn a_strided_reader_gets_its_pages_and_no_others() {
    for step in [7, -7, 1000, 2, -2] {
        let mut reader = Reader::default();
        let start = if step > 0 { 5 } else { 1_000_000 };
        let pages: Vec<_> = (0..900).map(|n| start + n * step).collect();
        for &page in &pages {
            reader.read(page);
        }
        assert_eq!(reader.misses, pages[..3], "step {step}");
        assert!(reader.cached.iter().all(|page| (page - start) % step == 0), "step {step}");
        assert!(reader.cached.len() <= 900 + 64, "step {step}: {}", reader.cached.len());
    }
}

#[test]
fn a_strided_reader_gets_as_few_ahead_as_the_bounds_say() {
    let bounds = Bounds { steps: 64, ..Bounds::of(4096) };
    for reads in [16, 63, 100, 1000, 10_000] {
        let (mut reader, streams) = (Reader::default(), Readahead::default());
        for page in (0..reads).map(|n| n * 256) {
            let window = if reader.cached.insert(page) {
                streams.missed(page as u32, 1, 1, bounds, |_| ())
            } else if reader.markers.remove(&page) {
                streams.passed(page as u32, bounds)
            } else {
                None
            };
            reader.request(window);
        }
        let ahead = i64::try_from(reader.cached.len()).unwrap() - reads;
        assert!(ahead * 50 <= reads, "{reads} reads: {ahead} pieces for nothing");
        assert_eq!(reader.windows.is_empty(), reads < 64, "{reads} reads");
    }
}

#[test]
fn several_readers_of_one_file_have_a_stream_each() {
    let mut reader = Reader::default();
    for n in 0..5000 {
        for page in [n, 100_003 + n, 270_000 + n, 400_000 - n] {
            reader.read(page);
        }
    }
    assert_eq!(reader.misses.len(), 12, "{:?}", reader.misses);
}

#[test]
fn random_readers_cause_no_readahead() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let mut reader = Reader::default();
    for _ in 0..20_000 {
        reader.read(i64::from(random.u32(..1 << 28)));
    }
    assert_eq!(reader.windows, []);
}

#[test]
fn one_long_read_is_read_ahead_to_its_end_only() {
    let readahead = Readahead::default();
    let window = readahead.missed(5000, 1000, MOST_PAGES, Bounds::of(4096), |_| ()).unwrap();
    assert_eq!(
        window,
        Window { first: 5256, pages: 744, pieces: 1, step: 256, marker: None, stream: 0 }
    );
    assert_eq!(
        readahead.missed(50, 256, MOST_PAGES, Bounds::of(4096), |_| ()),
        None,
        "one request needs no readahead"
    );
}

#[test]
fn long_reads_one_after_the_other_are_a_stream() {
    let readahead = Readahead::default();
    let lengths: Vec<_> = (5..10)
        .map(|n| {
            readahead
                .missed(n * 1000, 1000, MOST_PAGES, Bounds::of(4096), |_| ())
                .map_or(0, |window| window.pages)
        })
        .collect();
    assert_eq!(lengths[..2], [744, 744]);
    assert!(lengths[2] > 1000, "{lengths:?}");
}

#[test]
fn evictions_before_use_shrink_the_window_and_end_the_stream() {
    let readahead = Readahead::default();
    let missed = |page| readahead.missed(page, 1, MOST_PAGES, Bounds::of(4096), |_| ());
    assert_eq!((missed(0), missed(1)), (None, None));
    assert_eq!(missed(2).unwrap().pages, 16);
    assert_eq!(readahead.passed(3, Bounds::of(4096)).unwrap().pages, 32);
    // All pages before 51 were requested.
    assert_eq!(missed(4), None);
    assert_eq!(missed(51).unwrap().pages, 32, "half of 32, doubled again");
    assert_eq!((missed(60), missed(61)), (None, None));
    assert_eq!(missed(62), None, "a new stream: the old one was dropped");
    assert_eq!(readahead.passed(52, Bounds::of(4096)), None);
}

#[test]
fn evictions_before_use_shrink_the_window_of_a_backward_stream() {
    for evicted in [false, true] {
        let readahead = Readahead::default();
        let missed = |page| readahead.missed(page, 1, MOST_PAGES, Bounds::of(4096), |_| ());
        assert_eq!((missed(1000), missed(999)), (None, None));
        let first = missed(998).unwrap();
        let second = readahead.passed(first.marker.unwrap() as u32, Bounds::of(4096)).unwrap();
        assert_eq!((first.pages * first.pieces, second.pages * second.pieces), (16, 32));
        if evicted {
            assert_eq!(missed(990), None);
        }
        let next = missed((second.first + second.pieces * second.step) as u32).unwrap();
        assert_eq!(next.pages * next.pieces, if evicted { 32 } else { 64 });
    }
}

#[test]
fn readers_of_several_pages_get_whole_reads_ahead() {
    let readahead = Readahead::default();
    let missed = |page| readahead.missed(page, 8, MOST_PAGES, Bounds::of(4096), |_| ());
    assert_eq!((missed(0), missed(8)), (None, None));
    let window = missed(16).unwrap();
    assert_eq!((window.first, window.pages), (24, 32));
    // Two pages of each ten. The page that was evicted before its use ends the stream.
    for (missing, pieces) in [(None, Some(16)), (Some(44), None), (Some(45), Some(16))] {
        let readahead = Readahead::default();
        let missed =
            |page, pages| readahead.missed(page, pages, MOST_PAGES, Bounds::of(4096), |_| ());
        assert_eq!((missed(3, 2), missed(13, 2)), (None, None));
        let window = missed(23, 2).unwrap();
        assert_eq!((window.first, window.pages, window.pieces, window.step), (33, 2, 8, 10));
        if let Some(page) = missing {
            assert_eq!(missed(page, 1), None);
        }
        let next = readahead.passed(window.marker.unwrap() as u32, Bounds::of(4096));
        assert_eq!(next.map(|window| window.pieces), pieces, "{missing:?}");
    }
}

#[test]
fn requests_wait_for_the_reader_of_a_file_that_is_in_memory() {
    let readahead = Readahead::default();
    let answers = |times: usize, micros: u64| {
        (0..times).for_each(|_| readahead.answered_in(Duration::from_micros(micros), 16));
        readahead.is_at_once()
    };
    assert!(!answers(100, 1), "nothing is known of the readers");
    let window = (0..3).find_map(|page| readahead.missed(page, 1, 1, Bounds::of(16), |_| ()));
    assert!(window.is_some());
    assert!(!answers(7, 10));
    assert!(answers(1, 10));
    assert!(!answers(1, 1000), "no score to lose");
    assert!(answers(100, 14), "16 pages from memory");
    assert!(answers(2, 1000), "a thread may lose its processor");
    assert!(!answers(2, 15), "or the file is slow");
}
