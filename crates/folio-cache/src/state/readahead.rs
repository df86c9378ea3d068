//! Readahead: what the readers of a file will want next, from what they missed.
//!
//! A stream is a reader that moves in equal steps: forward or backward without gaps, or with a
//! stride. Three misses in such steps make one: fewer would be chance among random readers, whose
//! pages would then be read in vain. (Linux needs one to begin, as most files there are read from
//! their start; here the first two cost two small requests.)
//!
//! ```text
//!   forward          read, missed                    window                        reader is here: next window
//!                  [ 0 ][ 1 ][ 2 ][ 3 ................................ 18 ][ 19 .................. 50 ]
//!                    miss miss miss │                                        │
//!                                   └ milestone                              └ milestone
//! ```
//!
//! From then on the stream is always one window ahead of its reader. The first page of each window
//! is a **milestone**: whoever comes to it is told so by its mark, and the next window, twice as
//! long, is requested, while the one that begins there is consumed. So hits write nothing here, and
//! no lock is taken but at a miss and once in a window.
//!
//! - A reader that misses where the window ends was faster than the requests: the window grows at
//!   once.
//! - One that misses inside it finds pages gone again before their use: there is too little memory,
//!   the window halves, and below a few pages the stream is forgotten.
//! - A stream whose reader went elsewhere is overwritten when others need its place. What was read
//!   in vain is at most two windows.
//! - One read of many pages says itself what it wants: it is read ahead too, but not beyond its
//!   end.
//!
//! The state is the mapping's, not the open file's: clones and several opens follow each other, and
//! several readers of one file have a stream each.

use parking_lot::Mutex;

use crate::state::units::MOST_PAGES;

/// Streams of one file.
const STREAMS: usize = 8;

/// Steps in a row that make a stream.
const STEADY: u32 = 2;

/// Pages of the first window; below it a window is not worth having.
const LEAST: i64 = 16;

/// Pages of the longest window, where there is memory for it: 8 MiB hide 100 ms at 80 MiB/s, and 1
/// ms at 8 GiB/s.
const MOST: i64 = 2048;

/// Pieces of the longest window with a stride.
const MOST_PIECES: i64 = 32;

/// What to request: `pieces` times `pages` pages, the first from page `first` on, the others `step`
/// pages further each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Window {
    pub(crate) first: i64,
    pub(crate) pages: i64,
    pub(crate) pieces: i64,
    pub(crate) step: i64,
    /// The page whose use asks for the next window.
    pub(crate) marker: Option<i64>,
}

/// A reader, as far as it is known.
#[derive(Clone, Copy, Debug, Default)]
struct Stream {
    /// The last request: where it began, and its pages; 0: there is no stream here.
    first: i64,
    pages: i64,
    /// From the request before to the last.
    step: i64,
    /// How often that was the same.
    repeats: u32,
    /// Pages of the last window; 0: nothing is requested ahead.
    window: i64,
    /// Where the reader will miss if nothing more is requested.
    next: i64,
    marker: Option<i64>,
    /// When it was last seen.
    seen: u64,
}

impl Stream {
    fn is_forward(&self) -> bool {
        self.step == self.pages
    }

    fn is_backward(&self) -> bool {
        self.step == -self.pages
    }

    /// Whether a miss goes on where this stream should; notes it if so.
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

    /// Whether a miss is of a page that was requested ahead, and is gone.
    fn has_requested(&self, page: i64) -> bool {
        let (low, high) =
            if self.step < 0 { (self.next + 1, self.first) } else { (self.first, self.next - 1) };
        self.window > 0
            && (low..=high).contains(&page)
            && (page - self.first).rem_euclid(self.step.abs().max(1)) < self.pages
    }

    /// The next window, from page `from` on.
    fn advance(&mut self, from: i64, most: i64) -> Window {
        self.window = (self.window * 2).max(self.pages * 4).clamp(LEAST, most.max(LEAST));
        let window = if self.is_forward() {
            self.next = whole_runs(from + self.window, self.window);
            Window {
                first: from,
                pages: self.next - from,
                pieces: 1,
                step: self.step,
                marker: Some(from),
            }
        } else if self.is_backward() {
            // `from` is the page of the next miss, which begins a request: its end is the window's.
            let end = from + self.pages;
            self.next = from - self.window;
            let first = (end - self.window).max(0);
            Window { first, pages: end - first, pieces: 1, step: self.step, marker: Some(end - 1) }
        } else {
            let pieces = (self.window / self.pages).clamp(1, MOST_PIECES);
            self.next = from + pieces * self.step;
            Window { first: from, pages: self.pages, pieces, step: self.step, marker: Some(from) }
        };
        self.marker = window.marker;
        window
    }
}

/// Where a window ends: as a long one, where the nearest run of the file does, so that the next
/// begins with one.
fn whole_runs(end: i64, window: i64) -> i64 {
    let run = i64::from(MOST_PAGES);
    if window < run { end } else { (end + run / 2) / run * run }
}

/// The streams of a file.
#[derive(Debug, Default)]
pub(crate) struct Readahead {
    streams: Mutex<Streams>,
}

#[derive(Debug, Default)]
struct Streams {
    all: [Stream; STREAMS],
    /// The one that was seen last.
    last: usize,
    clock: u64,
}

impl Readahead {
    /// A miss of `pages` pages from `first` on, of which the caller reads as many as one request
    /// has. What to request beside that, with at most `most` pages.
    pub(crate) fn missed(&self, first: u32, pages: u32, most: u32) -> Option<Window> {
        // A hint: of readers that miss at once, one may go unseen.
        self.streams.try_lock()?.missed(
            i64::from(first),
            i64::from(pages),
            i64::from(most).min(MOST),
        )
    }

    /// A reader came to a milestone. What to request next.
    pub(crate) fn passed(&self, page: u32, most: u32) -> Option<Window> {
        let (page, most) = (i64::from(page), i64::from(most).min(MOST));
        let mut streams = self.streams.lock();
        streams.clock += 1;
        let clock = streams.clock;
        let stream = streams.all.iter_mut().find(|stream| stream.marker == Some(page))?;
        stream.seen = clock;
        stream.first = page;
        Some(stream.advance(stream.next, most))
    }
}

impl Streams {
    fn missed(&mut self, first: i64, wanted: i64, most: i64) -> Option<Window> {
        let pages = wanted.min(i64::from(MOST_PAGES));
        self.clock += 1;
        if let Some(stream) = self.all.iter_mut().find(|stream| stream.has_requested(first)) {
            (stream.seen, stream.window) = (self.clock, stream.window / 2);
            if stream.window < LEAST {
                *stream = Stream::default();
            }
            return None;
        }
        let which = self.all.iter_mut().position(|stream| stream.follow(first, pages));
        self.last = which.unwrap_or_else(|| self.begin(first, pages));
        let stream = &mut self.all[self.last];
        stream.seen = self.clock;
        if stream.repeats >= STEADY {
            return Some(stream.advance(first + stream.step, most));
        }
        // What the reader wants of itself.
        let rest = (wanted - pages).min(most);
        if rest == 0 {
            return None;
        }
        (stream.step, stream.window, stream.next) = (pages, rest, first + pages + rest);
        Some(Window { first: first + pages, pages: rest, pieces: 1, step: pages, marker: None })
    }

    /// A new stream, in the place of the one not seen for longest. Its step is from the miss before
    /// it: perhaps a stride.
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

    /// A reader of one page at a time, and a cache without end.
    #[derive(Default)]
    struct Reader {
        readahead: Readahead,
        /// Pages that are there, with their milestone.
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
                let window = self.readahead.passed(page as u32, 4096);
                self.request(window);
            }
        }
    }

    #[test]
    fn a_sequential_reader_misses_three_times_and_its_window_grows_to_the_most() {
        let mut reader = Reader::default();
        (1000..20_000).for_each(|page| reader.read(page));
        assert_eq!(reader.misses, [1000, 1001, 1002]);
        let lengths: Vec<_> = reader.windows.iter().map(|window| window.pages).collect();
        assert_eq!(lengths[..9], [16, 32, 64, 128, 293, 512, 1024, 2048, 2048]);
        assert!(
            reader.windows[5..].iter().all(|window| window.first % i64::from(MOST_PAGES) == 0),
            "they begin with a run"
        );
        let ahead = reader.cached.last().unwrap() - 20_000;
        assert!((0..=2 * MOST).contains(&ahead), "{ahead} pages ahead");
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
    fn random_readers_get_no_page_that_they_do_not_ask_for() {
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
    fn one_long_read_is_read_ahead_to_its_end_and_no_further() {
        let readahead = Readahead::default();
        let window = readahead.missed(5000, 1000, 4096).unwrap();
        assert_eq!(window, Window { first: 5256, pages: 744, pieces: 1, step: 256, marker: None });
        assert_eq!(readahead.missed(50, 256, 4096), None, "one request is not ahead");
    }

    #[test]
    fn a_window_whose_pages_are_gone_before_their_use_shrinks_until_it_is_given_up() {
        let readahead = Readahead::default();
        let missed = |page| readahead.missed(page, 1, 4096);
        assert_eq!((missed(0), missed(1)), (None, None));
        assert_eq!(missed(2).unwrap().pages, 16);
        assert_eq!(readahead.passed(3, 4096).unwrap().pages, 32);
        // Up to 51 all was requested.
        assert_eq!(missed(4), None);
        assert_eq!(missed(51).unwrap().pages, 32, "half of 32, and grown again");
        assert_eq!((missed(60), missed(61)), (None, None));
        assert_eq!(missed(62), None, "a new reader, for the stream is forgotten");
        assert_eq!(readahead.passed(52, 4096), None);
    }
}
