//! The streams of a file: which pages its readers need next.
//! [`Readahead`](super::readahead::Readahead) says what a stream is.

use crate::rt::lock::Mutex;
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
pub(super) const MAX_WINDOW: i64 = 2048;

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

/// The low bits of the pages that a stream expects, and one unused number: 16 bytes, which the
/// processor compares at once.
type Expected = [u32; 4];

/// A stream: the state of one reader.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Stream {
    /// The start of the last request, and its number of pages, which is 0 if there is no stream.
    pub(super) first: i64,
    pages: i64,
    /// The distance from the request before to the last one.
    pub(super) step: i64,
    /// The number of equal steps in a row.
    pub(super) repeats: u32,
    /// The number of pages of the last window, which is 0 before the first one.
    pub(super) window: i64,
    /// The number of pages of its reader before the last request.
    pub(super) read: i64,
    /// The page that the reader will miss if no more is requested.
    pub(super) next: i64,
    pub(super) marker: Option<i64>,
    /// The pages of the last window that lie in the file, until the reader comes to it.
    pending: i64,
    /// The clock at its last request.
    pub(super) seen: u64,
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

    /// Returns the low bits of the pages at which a miss may continue this stream: where the
    /// request may begin, twice, and where it may end.
    fn expected(&self) -> Expected {
        let begins = if self.window > 0 { self.next } else { self.first + self.step };
        [begins as u32, (self.first + self.pages) as u32, self.first as u32, 0]
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

#[derive(Debug, Default)]
pub(super) struct Streams {
    /// At most [`STREAMS`].
    pub(super) all: Vec<Stream>,
    /// The stream of the last miss.
    last: usize,
    pub(super) clock: u64,
    /// A stream may have a window. Random readers have none, and their misses look at less.
    pub(super) has_windows: bool,
    /// The pages that each stream expects, while none has a window. A random miss looks at them
    /// alone.
    expected: Vec<Expected>,
    /// A stream had a window since `expected` was made.
    is_stale: bool,
    /// The place that the next stream takes if none has a window.
    turn: usize,
    /// Pages of windows that a reader came to, and of windows that no reader came to.
    used: i64,
    for_nothing: i64,
}

impl Streams {
    /// The bytes of memory that are counted for the streams of a file. A file with more than four
    /// streams has a few hundred bytes more.
    pub(super) const BYTES: usize =
        size_of::<(Mutex<Self>, u32)>() + 4 * (size_of::<Stream>() + size_of::<Expected>());

    /// Records a miss of `wanted` pages, of which the reader requests `request` at once. Returns
    /// the window to request beside the first request.
    pub(super) fn missed(
        &mut self,
        first: i64,
        wanted: i64,
        request: i64,
        bounds: Bounds,
    ) -> Option<Window> {
        let pages = wanted.min(request);
        self.clock += 1;
        if self.has_windows {
            if let Some(stream) = self.all.iter_mut().find(|stream| stream.has_requested(first)) {
                (stream.seen, stream.window) = (self.clock, stream.window / 2);
                if stream.window < i64::from(bounds.least) {
                    *stream = Stream::default();
                }
                return None;
            }
            self.has_windows = self.all.iter().any(|stream| stream.window > 0);
        }
        let followed = if self.is_expected(first, pages) {
            self.all.iter_mut().position(|stream| stream.follow(first, pages))
        } else {
            None
        };
        self.last = followed.unwrap_or_else(|| self.begin(first, pages));
        let stream = &mut self.all[self.last];
        stream.seen = self.clock;
        match self.expected.get_mut(self.last) {
            Some(expected) => *expected = stream.expected(),
            None => self.is_stale = true,
        }
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
        (self.has_windows, self.is_stale) = (true, true);
        Some(Window {
            first: first + pages,
            pages: rest,
            pieces: 1,
            step: pages,
            marker: None,
            stream: self.last,
        })
    }

    /// Records a miss like [`missed`](Self::missed), of a reader that will go on: its stream begins
    /// here, unless one does already.
    pub(super) fn begun(&mut self, first: i64, pages: i64, bounds: Bounds) -> Option<Window> {
        if let Some(window) = self.missed(first, pages, pages, bounds) {
            return Some(window);
        }
        let stream = self.all.get_mut(self.last)?;
        if stream.first != first || stream.window > 0 {
            return None;
        }
        (stream.step, stream.repeats) = (pages, STEADY);
        Some(self.advance(self.last, first + pages, bounds))
    }

    /// Returns `false` if a miss continues no stream.
    fn is_expected(&mut self, first: i64, pages: i64) -> bool {
        if self.has_windows {
            return true;
        }
        if std::mem::take(&mut self.is_stale) {
            self.expected.clear();
            self.expected.extend(self.all.iter().map(Stream::expected));
        }
        let (begins, ends) = (first as u32, (first + pages) as u32);
        // All of them, without a branch for each.
        let equal = |one: u32, other: u32| u32::from(one == other);
        let count = |expected: &Expected| {
            equal(expected[0], begins) + equal(expected[1], begins) + equal(expected[2], ends)
        };
        self.expected.iter().map(count).sum::<u32>() > 0
    }

    /// Moves a stream to its next window, from page `from` on. Returns it: empty if there is no
    /// memory, or if the stream should read more pages first.
    pub(super) fn advance(&mut self, n: usize, from: i64, bounds: Bounds) -> Window {
        (self.has_windows, self.is_stale) = (true, true);
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

    /// Begins a stream in a free place, or in that of the one that is unused for longest. While
    /// none has a window, the places are taken in turn. The step is the distance from the last
    /// miss: it may be a stride. Returns its number.
    fn begin(&mut self, first: i64, pages: i64) -> usize {
        let before = self.all.get(self.last).copied().unwrap_or_default();
        let step = if before.pages == pages { first - before.first } else { 0 };
        let repeats = u32::from(step != 0);
        let stream = Stream { first, pages, step, repeats, ..Stream::default() };
        if self.all.len() < STREAMS && self.all.iter().all(|stream| stream.pages > 0) {
            self.all.push(stream);
            return self.all.len() - 1;
        }
        self.turn = (self.turn + 1) % self.all.len();
        let place = if self.has_windows {
            let seen = |n: &usize| self.all[*n].seen;
            (0..self.all.len()).min_by_key(seen).unwrap_or(self.turn)
        } else {
            self.turn
        };
        self.for_nothing += self.all[place].pending;
        self.all[place] = stream;
        place
    }
}
