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

use parking_lot::Mutex;

use crate::state::units::MOST_PAGES;

/// The maximum number of streams of one file.
const STREAMS: usize = 8;

/// The number of equal steps in a row that begin a stream.
const STEADY: u32 = 2;

/// The number of pages of the first window. Smaller windows are not worth their cost.
const MIN_WINDOW: i64 = 16;

/// The maximum number of pages of a window, if there is memory for it: 8 MiB hide 100 ms at 80
/// MiB/s, and 1 ms at 8 GiB/s.
const MAX_WINDOW: i64 = 2048;

/// The maximum number of pieces of a window with a stride.
const MAX_PIECES: i64 = 32;

/// Pages to request: `pieces` pieces of `pages` pages. The first begins at page `first`, each
/// further one `step` pages after the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Window {
    pub(crate) first: i64,
    pub(crate) pages: i64,
    pub(crate) pieces: i64,
    pub(crate) step: i64,
    /// The page with the readahead marker: its use requests the next window.
    pub(crate) marker: Option<i64>,
}

/// The shortest and the longest window, in pages.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    pub(crate) least: u32,
    pub(crate) most: u32,
    /// The number of equal steps for each piece of a window with a stride. 0: the first steps are
    /// enough for a whole window.
    pub(crate) steps: u32,
}

impl Bounds {
    /// Returns the bounds for a backing that is near.
    pub(crate) fn of(most: u32) -> Self {
        Self { least: MIN_WINDOW as u32, most: most.min(MAX_WINDOW as u32), steps: 0 }
    }

    /// Returns a length within the bounds. The shortest window is not worth less than its cost.
    fn clamp(self, pages: i64) -> i64 {
        let least = i64::from(self.least).max(MIN_WINDOW);
        pages.clamp(least, i64::from(self.most).max(least))
    }
}

/// A stream: the state of one reader.
#[derive(Clone, Copy, Debug, Default)]
struct Stream {
    /// The start of the last request, and its number of pages, which is 0 if there is no stream.
    first: i64,
    pages: i64,
    /// The distance from the request before to the last one.
    step: i64,
    /// The number of equal steps in a row.
    repeats: u32,
    /// The number of pages of the last window, which is 0 before the first one.
    window: i64,
    /// The page that the reader will miss if no more is requested.
    next: i64,
    marker: Option<i64>,
    /// The clock at its last request.
    seen: u64,
}

impl Stream {
    fn is_forward(&self) -> bool {
        self.step == self.pages
    }

    fn is_backward(&self) -> bool {
        self.step == -self.pages
    }

    /// Returns `true` if the steps so far are reason enough for a window.
    fn is_worth_a_window(&self, bounds: Bounds) -> bool {
        let is_dense = self.is_forward() || self.is_backward();
        self.repeats >= STEADY && (is_dense || self.repeats >= bounds.steps)
    }

    /// Returns `true` if a miss continues this stream, and records it.
    fn follow(&mut self, first: i64, pages: i64) -> bool {
        if self.pages == 0 {
            return false;
        }
        let steady = if self.window > 0 {
            first == self.next
        } else {
            self.step != 0 && first == self.first + self.step && pages == self.pages
        };
        if steady {
            self.repeats += 1;
            if self.is_forward() {
                self.step = pages;
            }
        } else if self.window == 0
            && (first == self.first + self.pages || first + pages == self.first)
        {
            (self.step, self.repeats) = (if first > self.first { pages } else { -pages }, 1);
        } else {
            return false;
        }
        (self.first, self.pages) = (first, pages);
        true
    }

    /// Returns `true` if a missed page was requested ahead, and thus was evicted before its use.
    fn has_requested(&self, page: i64) -> bool {
        let (low, high) =
            if self.step < 0 { (self.next + 1, self.first) } else { (self.first, self.next - 1) };
        self.window > 0
            && (low..=high).contains(&page)
            && (page - self.first).rem_euclid(self.step.abs().max(1)) < self.pages
    }

    /// Moves to the next window, which begins at page `from`. Returns it.
    fn advance(&mut self, from: i64, bounds: Bounds) -> Window {
        self.window = bounds.clamp((self.window * 2).max(self.pages * 4));
        let window = if self.is_forward() {
            self.next = window_end(from + self.window, self.window);
            Window {
                first: from,
                pages: self.next - from,
                pieces: 1,
                step: self.step,
                marker: Some(from),
            }
        } else if self.is_backward() {
            // `from` is the first page of the next request: the window ends with that request.
            let end = from + self.pages;
            self.next = from - self.window;
            let first = (end - self.window).max(0);
            Window { first, pages: end - first, pieces: 1, step: self.step, marker: Some(end - 1) }
        } else {
            let most = self.repeats.checked_div(bounds.steps).map_or(MAX_PIECES, i64::from);
            let pieces = (self.window / self.pages).min(most).clamp(1, MAX_PIECES);
            self.next = from + pieces * self.step;
            Window { first: from, pages: self.pages, pieces, step: self.step, marker: Some(from) }
        };
        self.marker = window.marker;
        window
    }
}

/// Returns the end of a window. A long window ends at the nearest multiple of a request's size in
/// the file, so that the next window begins with a whole request.
fn window_end(end: i64, window: i64) -> i64 {
    let request = i64::from(MOST_PAGES);
    if window < request { end } else { (end + request / 2) / request * request }
}

/// The streams of a file.
#[derive(Debug, Default)]
pub(crate) struct Readahead {
    /// None before the first miss: most files of a program with many are small.
    streams: Mutex<Option<Box<Streams>>>,
}

#[derive(Debug, Default)]
struct Streams {
    all: [Stream; STREAMS],
    /// The stream of the last miss.
    last: usize,
    clock: u64,
}

impl Readahead {
    /// Records a miss of `pages` pages from `first` on. The caller reads as many of them as one
    /// request has. Returns the window to request beside that, of at most `most` pages, or `None`.
    pub(crate) fn missed(&self, first: u32, pages: u32, most: u32) -> Option<Window> {
        // A hint: if two readers miss at once, one miss may be ignored.
        let request = i64::from(MOST_PAGES);
        let (first, pages) = (i64::from(first), i64::from(pages));
        self.streams.try_lock()?.get_or_insert_default().missed(
            first,
            pages,
            request,
            Bounds::of(most),
        )
    }

    /// Records a miss like [`missed`](Self::missed), of a reader that requests all of its pages.
    pub(crate) fn missed_many(&self, first: u32, pages: u32, bounds: Bounds) -> Option<Window> {
        let (first, pages) = (i64::from(first), i64::from(pages));
        self.streams.try_lock()?.get_or_insert_default().missed(first, pages, pages, bounds)
    }

    /// Records the miss of a reader that will go on: its stream begins here, unless one does
    /// already. Returns the window to request beside the missed pages.
    pub(crate) fn begun(&self, first: u32, pages: u32, bounds: Bounds) -> Option<Window> {
        let (first, pages) = (i64::from(first), i64::from(pages));
        let mut streams = self.streams.try_lock()?;
        let streams = streams.get_or_insert_default();
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
        let mut streams = self.streams.lock();
        let streams = streams.get_or_insert_default();
        streams.clock += 1;
        let clock = streams.clock;
        let stream = streams.all.iter_mut().find(|stream| stream.marker == Some(page))?;
        stream.seen = clock;
        stream.first = page;
        stream.repeats = stream.repeats.saturating_add(1);
        Some(stream.advance(stream.next, bounds))
    }
}

impl Streams {
    /// Records a miss of `wanted` pages, of which the reader requests `request` at once. Returns
    /// the window to request beside the first request.
    fn missed(&mut self, first: i64, wanted: i64, request: i64, bounds: Bounds) -> Option<Window> {
        let pages = wanted.min(request);
        self.clock += 1;
        if let Some(stream) = self.all.iter_mut().find(|stream| stream.has_requested(first)) {
            (stream.seen, stream.window) = (self.clock, stream.window / 2);
            if stream.window < MIN_WINDOW {
                *stream = Stream::default();
            }
            return None;
        }
        let followed = self.all.iter_mut().position(|stream| stream.follow(first, pages));
        self.last = followed.unwrap_or_else(|| self.begin(first, pages));
        let stream = &mut self.all[self.last];
        stream.seen = self.clock;
        if stream.is_worth_a_window(bounds) {
            return Some(stream.advance(first + stream.step, bounds));
        }
        // The rest of what the reader itself asked for.
        let rest = (wanted - pages).min(i64::from(bounds.most));
        if rest == 0 {
            return None;
        }
        (stream.step, stream.window, stream.next) = (pages, rest, first + pages + rest);
        Some(Window { first: first + pages, pages: rest, pieces: 1, step: pages, marker: None })
    }

    /// Begins a stream in the place of the one that is unused for longest. Its step is the distance
    /// from the last miss: it may be a stride. Returns its number.
    fn begin(&mut self, first: i64, pages: i64) -> usize {
        let before = self.all[self.last];
        let oldest = (0..STREAMS).min_by_key(|&n| self.all[n].seen).unwrap_or(0);
        let step = if before.pages == pages { first - before.first } else { 0 };
        self.all[oldest] =
            Stream { first, pages, step, repeats: u32::from(step != 0), ..Stream::default() };
        oldest
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

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
                let window = self.readahead.missed(page as u32, 1, 4096);
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
                    streams.missed_many(page as u32, 1, bounds)
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
        let window = readahead.missed(5000, 1000, 4096).unwrap();
        assert_eq!(window, Window { first: 5256, pages: 744, pieces: 1, step: 256, marker: None });
        assert_eq!(readahead.missed(50, 256, 4096), None, "one request needs no readahead");
    }

    #[test]
    fn long_reads_one_after_the_other_are_a_stream() {
        let readahead = Readahead::default();
        let lengths: Vec<_> = (5..10)
            .map(|n| readahead.missed(n * 1000, 1000, 4096).map_or(0, |window| window.pages))
            .collect();
        assert_eq!(lengths[..2], [744, 744]);
        assert!(lengths[2] > 1000, "{lengths:?}");
    }

    #[test]
    fn evictions_before_use_shrink_the_window_and_end_the_stream() {
        let readahead = Readahead::default();
        let missed = |page| readahead.missed(page, 1, 4096);
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
            let missed = |page| readahead.missed(page, 1, 4096);
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
        let missed = |page| readahead.missed(page, 8, 4096);
        assert_eq!((missed(0), missed(8)), (None, None));
        let window = missed(16).unwrap();
        assert_eq!((window.first, window.pages), (24, 32));
        // Two pages of each ten. The page that was evicted before its use ends the stream.
        for (missing, pieces) in [(None, Some(16)), (Some(44), None), (Some(45), Some(16))] {
            let readahead = Readahead::default();
            let missed = |page, pages| readahead.missed(page, pages, 4096);
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
