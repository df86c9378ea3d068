//! The share of the queue: how many frames it should have.

use crate::policy::trials::MAX_TRIAL;

/// The share of the queue without trials.
pub(super) const COLD: f64 = 0.05;

/// The least share of the queue while many pages are read ahead: more than all their windows (a
/// 48th twice, in `read/prefetch.rs`).
const AHEAD: f64 = 0.045;

/// The least number of frames of the queue: two choices of victims in the smallest cache.
const MIN_COLD: u32 = 8;

/// The least number in a trial: a young frame and an old one. The shortest share of a trial must be
/// that of its cache, otherwise it hits where the cache does not.
const MIN_OF_TRIAL: u32 = 2;

/// The count of pages that were read ahead loses one in this many at each tick in which none came.
const FADING: u32 = 64;

/// The number of frames that the queue should have, by its share and by the pages that wait in it
/// for their readers.
#[derive(Debug)]
pub(super) struct QueueShare {
    frames: u32,
    /// The number of frames that the cache has, and the share that `frames` moves to.
    all: u32,
    share: f64,
    /// The number of frames that `frames` moves to, without and with many pages that are read
    /// ahead.
    wanted: [u32; 2],
    /// Twice the number of pages that were read ahead lately, up to `wanted[1]`.
    ahead: u32,
    /// A page came in this tick that was read ahead.
    is_any_ahead: bool,
}

impl QueueShare {
    /// Returns the share in a cache of `all` frames, with this share of them.
    pub(super) fn new(all: u32, share: f64) -> Self {
        let wanted = wanted(all, share);
        Self { frames: wanted[0], all, share, wanted, ahead: 0, is_any_ahead: false }
    }

    /// Returns the number of frames.
    pub(super) fn frames(&self) -> u32 {
        self.frames
    }

    /// Sets the number of frames of the cache. The queue has its share of them at once.
    pub(super) fn resize(&mut self, all: u32) {
        self.aim(all, self.share);
        self.frames = self.wanted[0];
    }

    /// Sets the share of the frames that the queue moves to.
    pub(super) fn set_share(&mut self, share: f64) {
        if share.to_bits() != self.share.to_bits() {
            self.aim(self.all, share);
        }
    }

    fn aim(&mut self, all: u32, share: f64) {
        (self.all, self.share, self.wanted) = (all, share, wanted(all, share));
        self.ahead = self.ahead.min(self.wanted[1]);
    }

    /// Moves by one frame, as a page came. Pages that are read ahead wait in the queue for their
    /// readers: it has room for those that came lately, and as many others.
    pub(super) fn adapt(&mut self, is_ahead: bool) {
        if is_ahead {
            self.is_any_ahead = true;
            self.ahead = (self.ahead + 2).min(self.wanted[1]);
        }
        let wanted = self.wanted[0].max(self.ahead);
        self.frames = wanted.clamp(self.frames.saturating_sub(1), self.frames + 1);
    }

    /// Forgets some of the pages that were read ahead, at the end of a tick in which none came.
    pub(super) fn tick(&mut self) {
        if !std::mem::take(&mut self.is_any_ahead) {
            self.ahead -= self.ahead.div_ceil(FADING);
        }
    }
}

/// Returns the number of frames of a share.
fn frames_of(all: u32, share: f64) -> u32 {
    let least = if all > MAX_TRIAL { MIN_COLD } else { MIN_OF_TRIAL };
    ((f64::from(all) * share) as u32).max(least)
}

/// Returns the number of frames of a share, without and with many pages that are read ahead.
fn wanted(all: u32, share: f64) -> [u32; 2] {
    [share, share.max(AHEAD)].map(|share| frames_of(all, share))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A trial with a longer queue hits where its cache does not.
    #[test]
    fn the_shortest_queue_of_a_trial_has_the_share_of_its_cache() {
        for frames in [512, 1024, 1536, 2048, 1 << 20] {
            let share = |frames| f64::from(frames_of(frames, 0.01)) / f64::from(frames);
            let ratio = share((frames / 8).min(MAX_TRIAL)) / share(frames);
            assert!((0.7..2.1).contains(&ratio), "{frames} frames: {ratio}");
        }
    }

    #[test]
    fn a_window_by_chance_gets_room_for_itself_and_for_a_while() {
        let mut queue = QueueShare::new(10_000, 0.01);
        (0..16).for_each(|_| queue.adapt(true));
        (0..500).for_each(|_| queue.adapt(false));
        assert_eq!(queue.frames(), 100, "16 pages fit into the share");
        (0..200).for_each(|_| queue.adapt(true));
        (0..500).for_each(|_| queue.adapt(false));
        assert_eq!(queue.frames(), 432, "room for 216, and for as many others");
        (0..2000).for_each(|_| queue.adapt(true));
        assert_eq!(queue.frames(), 450, "the most");
        queue.tick();
        queue.adapt(false);
        assert_eq!(queue.frames(), 450, "some came in the tick that ended");
        for _ in 0..500 {
            queue.tick();
            queue.adapt(false);
        }
        assert_eq!(queue.frames(), 100, "all are forgotten");
        queue.resize(600);
        assert_eq!(queue.frames(), 8, "the least");
        queue.resize(100);
        assert_eq!(queue.frames(), 2, "the least of a trial");
    }
}
