//! Readahead: predicts the next pages that the readers of a file need, from their misses.
//!
//! A stream is a reader that moves in equal steps: forward or backward without gaps, or with a
//! stride. Three misses in equal steps begin a stream. Fewer would be chance among random readers,
//! and cause useless reads. (Linux begins after one miss, as most files there are read from their
//! start. Here the first two misses cost two small requests.)
//!
//! ```text
//!     read, missed                window              next window: requested at page 3
//!   [ 0 ][ 1 ][ 2 ][ 3 .......................... 18 ][ 19 .......................... 50 ]
//!     miss miss miss │                                  │
//!                    └ marker                           └ marker
//! ```
//!
//! From then on the stream is always one window ahead of its reader. The first page of each window
//! has the **readahead marker**. A reader that comes to the marker requests the next window, twice
//! as long, and then consumes the one that begins there. So hits write nothing here, and a lock is
//! taken only at a miss and once in each window.
//!
//! - A reader that misses at the end of the window was faster than the requests: the window grows
//!   at once.
//! - A reader that misses inside the window finds pages evicted before their use: there is too
//!   little memory. The window halves, and below a few pages the stream is dropped.
//! - A stream without a reader is overwritten when another stream needs its place. At most two
//!   windows were read for nothing.
//! - One read of many pages gives its own range: the range is read ahead too, but not past its end.
//!
//! The state belongs to the mapping, not to the open file: clones and several opens continue each
//! other's streams, and several readers of one file have a stream each.

use std::sync::atomic::{AtomicU32, Ordering};

use once_cell::race::OnceBox;
use parking_lot::Mutex;

use crate::state::streams::{Bounds, STEADY, Streams, Window};
use crate::state::units::MOST_PAGES;

/// The reads of a file that go on: its streams, and what is under way.
#[derive(Debug, Default)]
pub(crate) struct Readahead {
    /// Made by the second miss, or one of several pages: most files of a program with many are read
    /// once.
    streams: OnceBox<Mutex<Streams>>,
    /// The page of the first miss, and 1. 0: none, or `streams` knows it.
    first_miss: AtomicU32,
    /// The pages of fills of several pages that are in flight.
    pub(crate) filling: AtomicU32,
}

impl Readahead {
    /// Returns the bytes that were counted for it.
    pub(crate) fn counted_bytes(&self) -> usize {
        self.streams.get().map_or(0, size_of_val)
    }

    /// Returns the streams. Makes them at the first call, with the first miss: then it calls
    /// `count` with their bytes.
    fn streams(&self, count: impl FnOnce(usize)) -> &Mutex<Streams> {
        if self.streams.get().is_none() {
            let mut streams = Streams::default();
            // Relaxed: a hint, here and below. If two readers miss at once, one miss may be
            // ignored.
            if let Some(first) = self.first_miss.load(Ordering::Relaxed).checked_sub(1) {
                streams.missed(i64::from(first), 1, 1, Bounds::of(0));
            }
            if self.streams.set(Box::new(Mutex::new(streams))).is_ok() {
                count(size_of::<Mutex<Streams>>());
            }
        }
        self.streams.get().expect("they were just set, and stay")
    }

    /// Returns `true` if a miss is the first one, of one page, and remembers it. No window follows.
    fn is_first(&self, first: u32, pages: u32) -> bool {
        let Some(mark) = first.checked_add(1).filter(|_| pages == 1) else { return false };
        let is_unknown = || self.streams.get().is_none();
        is_unknown()
            && self
                .first_miss
                .compare_exchange(0, mark, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
    }

    /// Records a miss of `pages` pages from `first` on. The caller reads as many of them as one
    /// request has. Returns the window to request beside that, of at most `most` pages, or `None`.
    /// Calls `count` with the bytes of memory that it takes.
    pub(crate) fn missed(
        &self,
        first: u32,
        pages: u32,
        most: u32,
        count: impl FnOnce(usize),
    ) -> Option<Window> {
        if self.is_first(first, pages) {
            return None;
        }
        // A hint: if two readers miss at once, one miss may be ignored.
        let request = i64::from(MOST_PAGES);
        let (first, pages) = (i64::from(first), i64::from(pages));
        self.streams(count).try_lock()?.missed(first, pages, request, Bounds::of(most))
    }

    /// Records a miss like [`missed`](Self::missed), of a reader that requests all of its pages.
    pub(crate) fn missed_many(
        &self,
        first: u32,
        pages: u32,
        bounds: Bounds,
        count: impl FnOnce(usize),
    ) -> Option<Window> {
        if self.is_first(first, pages) {
            return None;
        }
        let (first, pages) = (i64::from(first), i64::from(pages));
        self.streams(count).try_lock()?.missed(first, pages, pages, bounds)
    }

    /// Records the miss of a reader that will go on: its stream begins here, unless one does
    /// already. Returns the window to request beside the missed pages.
    pub(crate) fn begun(
        &self,
        first: u32,
        pages: u32,
        bounds: Bounds,
        count: impl FnOnce(usize),
    ) -> Option<Window> {
        let (first, pages) = (i64::from(first), i64::from(pages));
        let mut streams = self.streams(count).try_lock()?;
        if let Some(window) = streams.missed(first, pages, pages, bounds) {
            return Some(window);
        }
        let last = streams.last;
        let stream = &mut streams.all[last];
        if stream.first != first || stream.window > 0 {
            return None;
        }
        (stream.step, stream.repeats) = (pages, STEADY);
        Some(stream.advance(first + pages, bounds))
    }

    /// Records that a reader came to a readahead marker. Returns the window to request next, or
    /// `None` if the stream was dropped.
    pub(crate) fn passed(&self, page: u32, bounds: Bounds) -> Option<Window> {
        let page = i64::from(page);
        // A page with a marker belongs to a stream.
        let mut streams = self.streams.get()?.lock();
        streams.clock += 1;
        let clock = streams.clock;
        let stream = streams.all.iter_mut().find(|stream| stream.marker == Some(page))?;
        stream.seen = clock;
        stream.first = page;
        stream.repeats = stream.repeats.saturating_add(1);
        Some(stream.advance(stream.next, bounds))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::state::streams::MAX_WINDOW;

    /// A reader of one page at a time, and a cache without limit.
    #[derive(Default)]
    struct Reader {
        readahead: Readahead,
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
                let window = self.readahead.missed(page as u32, 1, 4096, |_| ());
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
                    streams.missed_many(page as u32, 1, bounds, |_| ())
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
        let window = readahead.missed(5000, 1000, 4096, |_| ()).unwrap();
        assert_eq!(window, Window { first: 5256, pages: 744, pieces: 1, step: 256, marker: None });
        assert_eq!(readahead.missed(50, 256, 4096, |_| ()), None, "one request needs no readahead");
    }

    #[test]
    fn long_reads_one_after_the_other_are_a_stream() {
        let readahead = Readahead::default();
        let lengths: Vec<_> = (5..10)
            .map(|n| {
                readahead.missed(n * 1000, 1000, 4096, |_| ()).map_or(0, |window| window.pages)
            })
            .collect();
        assert_eq!(lengths[..2], [744, 744]);
        assert!(lengths[2] > 1000, "{lengths:?}");
    }

    #[test]
    fn evictions_before_use_shrink_the_window_and_end_the_stream() {
        let readahead = Readahead::default();
        let missed = |page| readahead.missed(page, 1, 4096, |_| ());
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
            let missed = |page| readahead.missed(page, 1, 4096, |_| ());
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
        let missed = |page| readahead.missed(page, 8, 4096, |_| ());
        assert_eq!((missed(0), missed(8)), (None, None));
        let window = missed(16).unwrap();
        assert_eq!((window.first, window.pages), (24, 32));
        // Two pages of each ten. The page that was evicted before its use ends the stream.
        for (missing, pieces) in [(None, Some(16)), (Some(44), None), (Some(45), Some(16))] {
            let readahead = Readahead::default();
            let missed = |page, pages| readahead.missed(page, pages, 4096, |_| ());
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
}
