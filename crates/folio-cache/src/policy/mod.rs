//! Reclaim: which page goes when memory is short. One trait, a file for each policy.
//!
//! A policy is told what came ([`Policy::insert`]) and asked what goes ([`Policy::pick_victims`]). It
//! names frames by their number in the zone, from 0; what is in them it asks of [`Frames`]. Of hits
//! it learns one thing: a **mark**, set since it last took it. A hit sets it by a plain store, and
//! only when it is not set, so a hot page is read without a shared write; what a policy needs
//! beyond one bit it counts itself, each time it comes by.
//!
//! Pages leave without its choice as well: their file is cut, their last holder lets go. Nobody
//! tells a policy, but of those whose folio goes with a page that it chose. It finds a frame
//! [`FrameState::NotCached`] when it comes there, or one admitted that it took for taken, and must be right
//! with both. So it can not leak, and nothing that frees pages takes its lock. Of a page that comes
//! to a frame it is always told, though perhaps late: what it was never told of it need not search
//! for.
//!
//! A policy is called under a lock, at most once for each miss and once for each batch of victims,
//! never for a hit. What each is good for, measured, stands in docs/reclaim.md.

use std::fmt;

mod clock;
mod ghosts;
mod hot_cold;
mod queue;
mod s3_fifo;
mod sieve;

pub use clock::Clock;
pub use hot_cold::HotCold;
pub use s3_fifo::S3Fifo;
pub use sieve::Sieve;

/// Chooses the pages that go.
pub trait Policy: Send + fmt::Debug {
    /// Its name, for reports.
    fn name(&self) -> &'static str;

    /// A page came into a frame: it was read, by a miss. `page` is the same number each time that
    /// the page comes, while its file is open.
    fn insert(&mut self, frames: &dyn Frames, frame: u32, page: u64);

    /// Names up to `wanted` frames whose pages shall go, in `victims`. They are [`FrameState::Evictable`] now,
    /// and forgotten by the policy: what can not be taken after all is given back. Fewer only
    /// when everything is held.
    fn pick_victims(&mut self, frames: &dyn Frames, wanted: usize, victims: &mut Vec<u32>);

    /// Whether a page may go with the victim whose folio it is a part of. Its mark is not set.
    fn is_cold(&self, _frame: u32) -> bool {
        true
    }

    /// A page leaves with the victim whose folio it is a part of, by the same number as it was
    /// admitted. Told before its frame can have another. It may have been named as well, or
    /// never admitted.
    fn evicted_with(&mut self, _frame: u32, _page: u64) {}

    /// A victim that could not be taken: somebody came to hold it meanwhile, or it moved.
    fn restore(&mut self, frame: u32);

    /// The page in one frame is in another one now. By the time it is told, either may hold another
    /// page.
    fn moved(&mut self, from: u32, to: u32);

    /// How many frames there are from now on, of those that the policy was made for: the budget
    /// changed.
    fn resize(&mut self, frames: u32);
}

/// What a policy may ask about frames. Everything is stale as soon as it is known.
pub trait Frames {
    /// Frames there are: all numbers are below it.
    fn count(&self) -> u32;

    /// What is in a frame.
    fn look(&self, frame: u32) -> FrameState;

    /// Whether the page was used since this was last asked.
    fn take_referenced(&self, frame: u32) -> bool;
}

/// What is in a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameState {
    /// No page of a file.
    NotCached,
    /// A page that can not go now: held, changed and not yet written, or somebody is at work on it.
    Pinned,
    /// A page that can go, by its number.
    Evictable(u64),
}

#[cfg(test)]
mod tests;
