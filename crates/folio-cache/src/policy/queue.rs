//! A queue of frames in order of arrival, with removal from the middle, for SIEVE and CLOCK. It
//! takes 8 bytes for each frame.

const NONE: u32 = u32::MAX;

/// The neighbours of a frame, towards the oldest and towards the newest. A frame that is not in the
/// queue has itself as both.
#[derive(Clone, Copy, Debug)]
struct Links {
    older: u32,
    newer: u32,
}

/// Frames from the oldest to the newest.
#[derive(Debug, Default)]
pub(super) struct Queue {
    links: Vec<Links>,
    oldest: Option<u32>,
    newest: Option<u32>,
    len: usize,
}

impl Queue {
    /// Returns an empty queue for frames below `frames`.
    pub(super) fn new(frames: u32) -> Self {
        let mut queue = Self::default();
        queue.grow(frames);
        queue
    }

    /// Makes room for frames below `frames`.
    pub(super) fn grow(&mut self, frames: u32) {
        let known = self.links.len() as u32;
        self.links.extend((known..frames).map(|frame| Links { older: frame, newer: frame }));
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn oldest(&self) -> Option<u32> {
        self.oldest
    }

    /// Returns the next newer frame, or `None` for the newest.
    pub(super) fn newer(&self, frame: u32) -> Option<u32> {
        let newer = self.links[frame as usize].newer;
        (newer != NONE && newer != frame).then_some(newer)
    }

    pub(super) fn contains(&self, frame: u32) -> bool {
        self.links[frame as usize].older != frame
    }

    /// Adds a frame as the newest. It must not be in the queue.
    pub(super) fn push(&mut self, frame: u32) {
        debug_assert!(!self.contains(frame), "frame {frame} is already in the queue");
        self.links[frame as usize] = Links { older: self.newest.unwrap_or(NONE), newer: NONE };
        match self.newest {
            Some(newest) => self.links[newest as usize].newer = frame,
            None => self.oldest = Some(frame),
        }
        self.newest = Some(frame);
        self.len += 1;
    }

    /// Removes a frame from any place in the queue. It must be in the queue.
    pub(super) fn remove(&mut self, frame: u32) {
        debug_assert!(self.contains(frame), "frame {frame} is not in the queue");
        let Links { older, newer } = self.links[frame as usize];
        let some = |frame: u32| (frame != NONE).then_some(frame);
        match some(older) {
            Some(older) => self.links[older as usize].newer = newer,
            None => self.oldest = some(newer),
        }
        match some(newer) {
            Some(newer) => self.links[newer as usize].older = older,
            None => self.newest = some(older),
        }
        self.links[frame as usize] = Links { older: frame, newer: frame };
        self.len -= 1;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    #[test]
    fn the_queue_agrees_with_a_list() {
        let seed = fastrand::u64(..);
        let mut random = fastrand::Rng::with_seed(seed);
        let (mut queue, mut naive) = (Queue::new(20), VecDeque::new());
        for _ in 0..10_000 {
            let frame = random.u32(..20);
            assert_eq!(queue.contains(frame), naive.contains(&frame), "seed {seed}");
            if queue.contains(frame) {
                queue.remove(frame);
                naive.retain(|&other| other != frame);
            } else {
                queue.push(frame);
                naive.push_back(frame);
            }
            let walk = std::iter::successors(queue.oldest(), |&frame| queue.newer(frame));
            assert!(
                walk.eq(naive.iter().copied()) && queue.len() == naive.len(),
                "seed {seed}: {queue:?}"
            );
        }
    }
}
