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
//! - If the streams of a file end before their windows do, its next streams get windows of a
//!   quarter of what they have read. Readers of short records have such streams.
//! - All live streams share the memory for pages that are read ahead ([`Live`]). If there is too
//!   little for each, nothing is read ahead.
//! - If a file answers from memory, its own or the system's, the requests of a window wait for
//!   their reader, and no thread is woken.
//! - While no stream has a window, a miss that lies apart from all others of late is not reported
//!   to the streams ([`LoneMisses`]): random readers take no lock.
//! - One read of many pages gives its own range: the range is read ahead too, but not past its end.
//!
//! The state belongs to the mapping, not to the open file: clones and several opens continue each
//! other's streams, and several readers of one file have a stream each.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use once_cell::race::OnceBox;

use crate::rt::lock::Mutex;
use crate::state::lone_misses::{LoneMisses, Miss};
use crate::state::streams::{Bounds, Streams, Window};

/// A request that takes at most this time, and so much for each page, is answered from memory: to
/// wake a thread for it, and to have its pages come from another processor, costs as much.
const AT_ONCE: Duration = Duration::from_micros(5);
const AT_ONCE_PER_PAGE: Duration = Duration::from_nanos(600);

/// The score from which on requests wait for their reader, and the most. A request that is answered
/// at once adds 1 to it, another takes 8: one in a while, as the system took the processor away,
/// changes nothing.
/// Under shuttle no time passes, and one is enough.
const ENOUGH: u32 = if cfg!(shuttle) { 1 } else { 8 };
const MOST: u32 = 32;
const TAKEN: u32 = 8;

/// The reads of a file that go on: its streams, and what is under way.
#[derive(Debug, Default)]
pub(crate) struct Readahead {
    /// Made by the first miss that is not lone; of a distant object by the second one, or one of
    /// several pages. Most files of a program with many are read once.
    streams: OnceBox<StreamState>,
    /// The page of the first miss of a distant object, and 1. 0: none, or `streams` knows it.
    first_miss: AtomicU32,
    /// The pages of fills of several pages that are in flight.
    pub(crate) filling: AtomicU32,
}

/// The readers of a file, as far as they are known.
#[derive(Debug, Default)]
struct StreamState {
    streams: Mutex<Streams>,
    /// The score of requests that were answered at once, up to [`MOST`].
    at_once: AtomicU32,
    /// A stream may have a window: a hint.
    has_windows: AtomicBool,
}

impl StreamState {
    fn note_windows(&self, streams: &Streams) {
        // Relaxed: a hint. It seldom changes, and others read it at each miss.
        if self.has_windows.load(Ordering::Relaxed) != streams.has_windows {
            self.has_windows.store(streams.has_windows, Ordering::Relaxed);
        }
    }
}

impl Readahead {
    /// Returns the bytes that were counted for it.
    pub(crate) fn counted_bytes(&self) -> usize {
        self.streams.get().map_or(0, |_| Streams::BYTES)
    }

    /// Returns the streams. Makes them at the first call, with the first miss: then it calls
    /// `count` with their bytes.
    fn known(&self, count: impl FnOnce(usize)) -> &StreamState {
        if self.streams.get().is_none() {
            let mut streams = Streams::default();
            // Relaxed: a hint, here and below. If two readers miss at once, one miss may be
            // ignored.
            if let Some(first) = self.first_miss.load(Ordering::Relaxed).checked_sub(1) {
                streams.missed(i64::from(first), 1, 1, Bounds::of(0));
            }
            let known = StreamState { streams: Mutex::new(streams), ..StreamState::default() };
            if self.streams.set(Box::new(known)).is_ok() {
                count(Streams::BYTES);
            }
        }
        self.streams.get().expect("they were just set, and stay")
    }

    /// Records the time that a request of `pages` pages took that were read ahead.
    pub(crate) fn answered_in(&self, time: Duration, pages: usize) {
        let Some(known) = self.streams.get() else { return };
        // Relaxed, here and below: a hint.
        let score = known.at_once.load(Ordering::Relaxed);
        let is_slow = !cfg!(shuttle) && time > AT_ONCE + AT_ONCE_PER_PAGE * pages as u32;
        let next = if is_slow { score.saturating_sub(TAKEN) } else { (score + 1).min(MOST) };
        if next != score {
            known.at_once.store(next, Ordering::Relaxed);
        }
    }

    /// Returns `true` if the file answers requests at once.
    pub(crate) fn is_at_once(&self) -> bool {
        let known = self.streams.get();
        known.is_some_and(|known| known.at_once.load(Ordering::Relaxed) >= ENOUGH)
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

    /// Records a miss of `pages` pages from `first` on, of which the caller reads up to `request`
    /// at once. Returns the window to request beside that, or `None` if this is no stream. The
    /// window of a stream is empty if there is no memory, or too little reason. Calls `count` with
    /// the bytes of memory that it takes.
    pub(crate) fn missed(
        &self,
        first: u32,
        pages: u32,
        request: u32,
        bounds: Bounds,
        count: impl FnOnce(usize),
    ) -> Option<Window> {
        if self.is_first(first, pages) {
            return None;
        }
        self.report([first], pages, request, bounds, count)
    }

    /// Records a miss like [`missed`](Self::missed), with the pages of one request at most. If it
    /// is lone, no lock is taken.
    pub(crate) fn missed_unless_lone(
        &self,
        lone_misses: &LoneMisses,
        miss: Miss,
        bounds: Bounds,
        count: impl FnOnce(usize),
    ) -> Option<Window> {
        let Miss { first, pages, .. } = miss;
        let pages = u32::from(pages);
        // Relaxed: a hint.
        let has_windows = |known: &StreamState| known.has_windows.load(Ordering::Relaxed);
        if self.streams.get().is_some_and(has_windows) {
            return self.report([first], pages, pages, bounds, count);
        }
        let unreported = lone_misses.record(miss)?;
        self.report(unreported.into_iter().chain([first]), pages, pages, bounds, count)
    }

    /// Reports misses to the streams, in their order. Returns the first window that follows.
    fn report(
        &self,
        misses: impl IntoIterator<Item = u32>,
        pages: u32,
        request: u32,
        bounds: Bounds,
        count: impl FnOnce(usize),
    ) -> Option<Window> {
        let known = self.known(count);
        // A hint: if two readers miss at once, one miss may be ignored.
        let mut streams = known.streams.try_lock()?;
        let window = misses.into_iter().find_map(|first| {
            streams.missed(i64::from(first), i64::from(pages), i64::from(request), bounds)
        });
        known.note_windows(&streams);
        window
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
        let known = self.known(count);
        let mut streams = known.streams.try_lock()?;
        let window = streams.begun(first, pages, bounds);
        known.note_windows(&streams);
        window
    }

    /// Records that a reader came to a readahead marker. Returns the window to request next, or
    /// `None` if the stream was dropped.
    pub(crate) fn passed(&self, page: u32, bounds: Bounds) -> Option<Window> {
        let page = i64::from(page);
        // A page with a marker belongs to a stream.
        let known = self.streams.get()?;
        let mut streams = known.streams.lock();
        streams.clock += 1;
        let clock = streams.clock;
        let n = streams.all.iter().position(|stream| stream.marker == Some(page))?;
        let stream = &mut streams.all[n];
        stream.seen = clock;
        stream.read += (page - stream.first).abs();
        stream.first = page;
        stream.repeats = stream.repeats.saturating_add(1);
        let next = stream.next;
        let window = streams.advance(n, next, bounds);
        known.note_windows(&streams);
        Some(window)
    }
}

#[cfg(test)]
mod tests;
