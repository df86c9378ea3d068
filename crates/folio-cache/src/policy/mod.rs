//! Replacement policies: the choice of the pages that are evicted when memory is short.
//!
//! There is one trait, [`Policy`], and one file for each policy. A cache informs its policy of
//! pages that came ([`Policy::insert`]) and asks it for victims ([`Policy::pick_victims`]). A
//! policy names a frame by its number in the zone, from 0, and inspects frames through [`Frames`].
//!
//! **Hits.** A policy learns one thing about hits: the number of **uses** of a page since the
//! policy last took it, up to 3, and about when the last of these was. If there are any, the
//! **referenced bit** of the frame is set. A hit counts by a plain store, and only below 3, so a
//! hot page is read without a shared write. A policy that needs more counts by itself, each time it
//! visits the frame.
//!
//! **Pages that leave unseen.** Pages also leave without the choice of the policy: their file is
//! truncated, or their last pin is dropped. The policy is not informed, except of pages that are
//! evicted with a victim of the same folio ([`Policy::evicted_with`]). It may visit a frame and
//! find it [`FrameState::NotCached`], or have a page inserted into a frame that it believes
//! occupied, and must handle both. So a policy cannot leak, and code that frees pages does not take
//! its lock.
//!
//! **Pages that come.** A policy is informed of each page that comes to a frame, though perhaps
//! late. So it need not search for pages that were never inserted.
//!
//! The cache calls its policy under one lock: once for each batch of new pages and of victims,
//! never for a hit. A thread's new pages wait in its batch until it has about 32, or asks for
//! victims. So the policy is informed of all pages of a thread before it chooses victims for it.
//! docs/reclaim.md compares the policies and gives measurements.
//!
//! # Example
//!
//! A policy that evicts the oldest pages first, used or not:
//!
//! ```
//! use std::collections::VecDeque;
//! use std::sync::Arc;
//!
//! use folio_cache::Cache;
//! use folio_cache::policy::{FrameState, Frames, Policy};
//! use folio_cache::testing::Memory;
//!
//! #[derive(Debug)]
//! struct Fifo {
//!     queue: VecDeque<u32>,
//!     /// By frame: it is in the queue, once.
//!     queued: Vec<bool>,
//! }
//!
//! impl Fifo {
//!     fn new(frames: u32) -> Self {
//!         Self { queue: VecDeque::new(), queued: vec![false; frames as usize] }
//!     }
//!
//!     fn push(&mut self, frame: u32) {
//!         if !std::mem::replace(&mut self.queued[frame as usize], true) {
//!             self.queue.push_back(frame);
//!         }
//!     }
//! }
//!
//! impl Policy for Fifo {
//!     fn name(&self) -> &'static str {
//!         "fifo"
//!     }
//!
//!     fn insert(&mut self, _: &dyn Frames, frame: u32, _page: u64) {
//!         self.push(frame); // it may be queued: the page before this one left unseen
//!     }
//!
//!     fn pick_victims(&mut self, frames: &dyn Frames, wanted: usize, victims: &mut Vec<u32>) {
//!         for _ in 0..self.queue.len() {
//!             if victims.len() >= wanted {
//!                 break;
//!             }
//!             let Some(frame) = self.queue.pop_front() else { break };
//!             self.queued[frame as usize] = false;
//!             match frames.inspect(frame) {
//!                 FrameState::Evictable(_) => victims.push(frame),
//!                 FrameState::Pinned => self.push(frame),
//!                 FrameState::NotCached => {} // its page left unseen
//!             }
//!         }
//!     }
//!
//!     fn restore(&mut self, frame: u32) {
//!         self.push(frame);
//!     }
//!
//!     fn moved(&mut self, _: &dyn Frames, _from: u32, to: u32) {
//!         self.push(to); // `from` is found not cached later
//!     }
//!
//!     fn resize(&mut self, _frames: u32) {}
//! }
//!
//! # fn main() -> std::io::Result<()> {
//! let make = |frames| -> Box<dyn Policy> { Box::new(Fifo::new(frames)) };
//! let cache = Cache::builder().capacity(4 << 20).policy(make).build()?;
//! let file = cache.open_backing(Arc::new(Memory::new(&[7; 8192])))?;
//! file.page(0)?;
//! let pinned = file.page(4096)?;
//! assert_eq!(cache.reclaim(2), 1); // the handle pins its page
//! # drop(pinned);
//! # Ok(())
//! # }
//! ```

use std::fmt;

mod advice;
mod clock;
mod ghosts;
mod hot_cold;
mod keys;
mod plan;
mod queue;
mod s3_fifo;
mod sample;
mod sieve;
mod trials;

/// The maximum number of pinned pages that one choice of victims visits.
const MAX_PINNED: usize = 256;

pub use advice::Advice;
pub use clock::Clock;
pub use folio_frames::Uses;
pub use hot_cold::HotCold;
pub use s3_fifo::S3Fifo;
pub use sieve::Sieve;

/// Chooses the pages that are evicted when memory is short.
///
/// The cache calls each method while it holds the lock of its policy, from any thread that misses,
/// writes, reclaims, migrates or resizes. So calls are never concurrent, and a method must be
/// short. A method must not call the cache or its files: that may take the same lock, and never
/// return. It may call the methods of the [`Frames`] that it is given, which do not wait. The cache
/// does nothing to a page under this lock.
///
/// A frame number is always less than [`Frames::count`], which is the number of frames that the
/// policy was made for. A wrong choice costs hits and nothing else: the cache checks each victim
/// again under its page lock. If a method panics, the panic reaches the caller of the cache, and
/// the cache loses no page.
pub trait Policy: Send + fmt::Debug {
    /// Returns the name of the policy, for reports.
    fn name(&self) -> &'static str;

    /// Records that a page came into a frame: a miss read it, or a write created it.
    ///
    /// Called some time after the page was published, for several pages in a row, by any thread.
    /// The page may have been used since, or have left already. `page` is the same number each time
    /// that the page comes, while its file is open. The policy may know the frame already, from a
    /// page that left unseen.
    fn insert(&mut self, frames: &dyn Frames, frame: u32, page: u64);

    /// Records that a page came into a frame, with the advice of the reader that it came for.
    ///
    /// Called instead of [`insert`](Self::insert) for pages of a distant store, and for those that
    /// come with [`Advice::Once`]. With that the cache evicts the page itself once its reader has
    /// passed it, unless another one used it. Pages of gaps between wanted ranges, which a request
    /// reads through, come with that advice too. The default calls `insert`.
    fn insert_advised(&mut self, frames: &dyn Frames, frame: u32, page: u64, advice: Advice) {
        let _ = advice;
        self.insert(frames, frame, page);
    }

    /// Appends up to `wanted` frames to `victims`. Their pages are evicted in this order.
    ///
    /// Called when frames are needed, again and again until enough are free or no victim is named.
    /// A policy may name some more than `wanted` if their pages should leave together.
    /// A victim is [`FrameState::Evictable`] when it is named, and is named once. The policy
    /// forgets it; a victim that cannot be evicted after all is [restored](Self::restore). The
    /// policy may name fewer than `wanted` if it met many pinned pages, and none at all. Then the
    /// cache looks through the frames itself, in no good order. So a policy need not, and should
    /// not, visit all pages if most of them are pinned.
    fn pick_victims(&mut self, frames: &dyn Frames, wanted: usize, victims: &mut Vec<u32>);

    /// Returns `true` if the page in a frame may be evicted with a victim of the same folio.
    ///
    /// Called only if the page's referenced bit is not set, which may be because the policy took it
    /// a moment ago. If one page of the folio is not cold, the folio is split instead, and its
    /// other pages stay. The default returns `true`.
    fn is_cold(&self, _frame: u32) -> bool {
        true
    }

    /// Returns `true` if the policy keeps the page in a frame for its earlier uses. A use that it
    /// has only seen by now does not count. The default returns `true` for pages that are not cold.
    fn is_hot(&self, frame: u32) -> bool {
        !self.is_cold(frame)
    }

    /// Records that a page is evicted together with a victim of the same folio.
    ///
    /// `page` is the number that it was inserted with. Called before the frame can have another
    /// page. The victims of the folio are among the pages, and so may be pages that were never
    /// inserted. A policy with a queue should remove the frame from it: otherwise the next page in
    /// the frame inherits its place. The default does nothing.
    fn evicted_with(&mut self, _frame: u32, _page: u64) {}

    /// Takes back a victim that could not be evicted: it was pinned, locked or moved meanwhile.
    ///
    /// Called at the end of the reclaim that asked for the victim. The policy must name the frame
    /// again later if its page is evictable then.
    fn restore(&mut self, frame: u32);

    /// Records that the page in frame `from` was moved to frame `to`.
    ///
    /// Called after a migration. By then either frame may hold another page, or none.
    fn moved(&mut self, frames: &dyn Frames, from: u32, to: u32);

    /// Sets the number of frames that can hold pages.
    ///
    /// Called once before the first page comes, and each time the capacity changes. `frames` is at
    /// most the number that the policy was made for, less the frames that the cache keeps free.
    /// Frame numbers may still be larger than `frames`.
    fn resize(&mut self, frames: u32);
}

/// The frames of a cache, as its policy sees them. Each answer may be stale when it is returned.
pub trait Frames {
    /// Returns the number of frames. All frame numbers are below it.
    fn count(&self) -> u32;

    /// Returns the state of a frame.
    fn inspect(&self, frame: u32) -> FrameState;

    /// Takes the referenced bit of a frame. Returns `true` if the page was used since it was last
    /// taken.
    fn take_referenced(&self, frame: u32) -> bool;

    /// Returns `true` if the page in a frame was read ahead, and not used yet. It counts as
    /// referenced until its first use; a policy that takes the bit ends that. The default returns
    /// `false`.
    fn is_ahead(&self, _frame: u32) -> bool {
        false
    }

    /// Takes the referenced bit of a frame like [`take_referenced`](Self::take_referenced). Returns
    /// the uses since it was last taken. They are a hint: of uses by several threads at once some
    /// may be lost. If the page [is ahead](Self::is_ahead) of its reader, returns `None` and leaves
    /// the bit. The default returns at most one use, of now.
    fn take_uses(&self, frame: u32) -> Option<Uses> {
        if self.is_ahead(frame) {
            return None;
        }
        Some(Uses { count: u8::from(self.take_referenced(frame)), age: 0 })
    }

    /// Returns the time that the ages of [`take_uses`](Self::take_uses) are differences of. It
    /// advances as pages come, and as they are used for the first time since their uses were taken:
    /// by 1 for a 32nd to a 16th of all frames. The default returns 0.
    fn now(&self) -> u32 {
        0
    }
}

/// The state of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameState {
    /// It holds no page of a file.
    NotCached,
    /// It holds a page that cannot be evicted now: pinned, dirty, or in progress.
    Pinned,
    /// It holds a page that can be evicted, with its page number.
    Evictable(u64),
}

#[cfg(test)]
mod models;
#[cfg(test)]
mod tests;
