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
//! - If the streams of a file end before their windows do, as those of readers of short records, its
//!   next streams get windows of a quarter of what they have read.
//! - All live streams share the memory for pages that are read ahead ([`Live`]). If there is too
//!   little for each, nothing is read ahead.
//! - One read of many pages gives its own range: the range is read ahead too, but not past its end.
//!
//! The state belongs to the mapping, not to the open file: clones and several opens continue each
//! other's streams, and several readers of one file have a stream each.

use parking_lot::Mutex;

use crate::state::units::MOST_PAGES;

/// The maximum number of streams of one file.
const STREAMS: usize = 32;

/// The number of equal steps in a row that begin a stream.
const STEADY: u32 = 2;

/// The number of pages of the first window, if there is memory for it.
const MIN_WINDOW: i64 = 16;

/// Smaller windows are no use: nothing is read ahead then.
const LEAST_WINDOW: i64 = 2;

/// The pages that may be read ahead for nothing before the streams of a file get small windows.
const TOLERATED: i64 = 64;

/// The share of its pages that a stream gets as its window in a file of streams that end early, and
/// the share of the pages read ahead that may be for nothing.
const CAUTION: i64 = 4;

/// The pages after which the counts of pages used and pages for nothing are halved.
const REMEMBERED: i64 = 8192;

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
    /// The number of the stream among those of the file.
    pub(crate) stream: usize,
}

/// The shortest and the longest window, in pages.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    pub(crate) least: u32,
    pub(crate) most: u32,
    /// The number of equal steps for each piece of a window with a stride. 0: the first steps are
    /// enough for a whole window.
    pub(crate) steps: u32,
    /// The end of the file, in pages.
    pub(crate) end: i64,
}

impl Bounds {
    /// Returns the bounds for a backing that is near.
    pub(crate) fn of(most: u32) -> Self {
        let least = most.min(MIN_WINDOW as u32);
        Self { least, most: most.min(MAX_WINDOW as u32), steps: 0, end: i64::MAX }
    }

    /// Returns a length within the bounds.
    fn clamp(self, pages: i64) -> i64 {
        let least = i64::from(self.least).max(1);
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
    /// The number of pages of its reader before the last request.
    read: i64,
    /// The page that the reader will miss if no more is requested.
    next: i64,
    marker: Option<i64>,
    /// The pages of the last window that lie in the file, until the reader comes to it.
    pending: i64,
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
        i64::from(bounds.most) >= LEAST_WINDOW
            && self.is_steady()
            && (is_dense || self.repeats >= bounds.steps)
    }

    fn is_steady(&self) -> bool {
        self.repeats >= STEADY
    }

    /// Returns the pages that a careful window may have: with those that are requested already, a
    /// share of what the reader has read. 0: none yet.
    fn careful(&self, from: i64) -> i64 {
        let ahead = (from - self.first).abs() - self.pages;
        let most = (self.read + self.pages) / CAUTION - ahead;
        if most < 2 { 0 } else { most }
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
        self.read += (first - self.first).abs();
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
    fn advance(&mut self, from: i64, bounds: Bounds, most: i64) -> Window {
        self.window = bounds.clamp((self.window * 2).max(self.pages * 4)).min(most);
        self.pending = 0;
        let window = if self.is_forward() {
            self.next = window_end(from + self.window, self.window);
            Window {
                first: from,
                pages: self.next - from,
                pieces: 1,
                step: self.step,
                marker: Some(from),
                stream: 0,
            }
        } else if self.is_backward() {
            // `from` is the first page of the next request: the window ends with that request.
            let end = from + self.pages;
            self.next = from - self.window;
            let first = (end - self.window).max(0);
            Window {
                first,
                pages: end - first,
                pieces: 1,
                step: self.step,
                marker: Some(end - 1),
                stream: 0,
            }
        } else {
            let most = self.repeats.checked_div(bounds.steps).map_or(MAX_PIECES, i64::from);
            let pieces = (self.window / self.pages).min(most).clamp(1, MAX_PIECES);
            self.next = from + pieces * self.step;
            Window {
                first: from,
                pages: self.pages,
                pieces,
                step: self.step,
                marker: Some(from),
                stream: 0,
            }
        };
        self.marker = window.marker;
        if self.is_forward() || self.is_backward() {
            let end = (window.first + window.pages).min(bounds.end);
            self.pending = (end - window.first).max(0);
        }
        window
    }

    /// Waits for the miss of page `from`, without a window. Returns an empty one.
    fn pause(&mut self, from: i64) -> Window {
        (self.next, self.marker) = (from, None);
        Window { first: from, pages: 0, pieces: 0, step: self.step, marker: None, stream: 0 }
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
    /// At most [`STREAMS`].
    all: Vec<Stream>,
    /// The stream of the last miss.
    last: usize,
    clock: u64,
    /// Pages of windows that a reader came to, and of windows that no reader came to.
    used: i64,
    for_nothing: i64,
}

impl Readahead {
    /// Records a miss of `pages` pages from `first` on. The caller reads as many of them as one
    /// request has. Returns the window to request beside that, or `None` if this is no stream. The
    /// window of a stream is empty if there is no memory, or too little reason.
    pub(crate) fn missed(&self, first: u32, pages: u32, bounds: Bounds) -> Option<Window> {
        // A hint: if two readers miss at once, one miss may be ignored.
        let request = i64::from(MOST_PAGES);
        let (first, pages) = (i64::from(first), i64::from(pages));
        self.streams.try_lock()?.get_or_insert_default().missed(first, pages, request, bounds)
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
        let stream = streams.all.get_mut(last)?;
        if stream.first != first || stream.window > 0 {
            return None;
        }
        (stream.step, stream.repeats) = (pages, STEADY);
        Some(streams.advance(last, first + pages, bounds))
    }

    /// Records that a reader came to a readahead marker. Returns the window to request next, or
    /// `None` if the stream was dropped.
    pub(crate) fn passed(&self, page: u32, bounds: Bounds) -> Option<Window> {
        let page = i64::from(page);
        let mut streams = self.streams.lock();
        let streams = streams.get_or_insert_default();
        streams.clock += 1;
        let clock = streams.clock;
        let n = streams.all.iter().position(|stream| stream.marker == Some(page))?;
        let stream = &mut streams.all[n];
        stream.seen = clock;
        stream.read += (page - stream.first).abs();
        stream.first = page;
        stream.repeats = stream.repeats.saturating_add(1);
        let next = stream.next;
        Some(streams.advance(n, next, bounds))
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
            if stream.window < i64::from(bounds.least) {
                *stream = Stream::default();
            }
            return None;
        }
        let followed = self.all.iter_mut().position(|stream| stream.follow(first, pages));
        self.last = followed.unwrap_or_else(|| self.begin(first, pages));
        let stream = &mut self.all[self.last];
        stream.seen = self.clock;
        if stream.is_steady() && (bounds.steps == 0 || stream.is_worth_a_window(bounds)) {
            let from = first + stream.step;
            return Some(self.advance(self.last, from, bounds));
        }
        // The rest of what the reader itself asked for.
        let rest = (wanted - pages).min(i64::from(bounds.most));
        if rest == 0 {
            return None;
        }
        (stream.step, stream.window, stream.next) = (pages, rest, first + pages + rest);
        Some(Window {
            first: first + pages,
            pages: rest,
            pieces: 1,
            step: pages,
            marker: None,
            stream: self.last,
        })
    }

    /// Moves a stream to its next window, from page `from` on. Returns it: empty if there is no
    /// memory, or if the stream should read more pages first.
    fn advance(&mut self, n: usize, from: i64, bounds: Bounds) -> Window {
        let stream = &mut self.all[n];
        // The reader came to the last window.
        self.used += std::mem::take(&mut stream.pending);
        let is_dense = stream.is_forward() || stream.is_backward();
        let is_wasteful = self.for_nothing > self.used / CAUTION + TOLERATED;
        let most = if is_wasteful && is_dense && bounds.steps == 0 {
            stream.careful(from)
        } else {
            i64::MAX
        };
        if self.used + self.for_nothing > REMEMBERED {
            (self.used, self.for_nothing) = (self.used / 2, self.for_nothing / 2);
        }
        if most == 0 || !stream.is_worth_a_window(bounds) {
            return Window { stream: n, ..stream.pause(from) };
        }
        Window { stream: n, ..stream.advance(from, bounds, most) }
    }

    /// Begins a stream in the place of the one that is unused for longest. Its step is the distance
    /// from the last miss: it may be a stride. Returns its number.
    fn begin(&mut self, first: i64, pages: i64) -> usize {
        let before = self.all.get(self.last).copied().unwrap_or_default();
        let step = if before.pages == pages { first - before.first } else { 0 };
        let repeats = u32::from(step != 0);
        let stream = Stream { first, pages, step, repeats, ..Stream::default() };
        let oldest = self.all.iter().enumerate().min_by_key(|(_, stream)| stream.seen);
        match oldest {
            Some((oldest, replaced)) if self.all.len() == STREAMS || replaced.pages == 0 => {
                self.for_nothing += replaced.pending;
                self.all[oldest] = stream;
                oldest
            }
            _ => {
                self.all.push(stream);
                self.all.len() - 1
            }
        }
    }
}

#[cfg(test)]
mod tests;
