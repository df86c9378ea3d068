//! A sample of the pages of a cache: those with a certain hash of their number. Each use of one
//! that a policy finds is kept, for the trials of other policies.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;

use super::{FrameState, Frames};

/// The flag of a frame in the list.
const LISTED: u8 = 1;
/// The flag of a frame: the sample took its referenced bit, which the policy has not seen.
const FOUND: u8 = 2;
/// The flag of a frame with a page that waits for its reader.
const WAITS: u8 = 4;

/// The maximum number of waiting pages that are looked at for each new page.
const MAX_WAITING_LOOKS: usize = 16;

/// The sampled pages, and their uses.
#[derive(Debug)]
pub(super) struct Sample {
    /// One page in so many, a power of two.
    one_in: u32,
    /// By frame: [`LISTED`] and [`FOUND`].
    flags: Vec<Cell<u8>>,
    /// The frames of sampled pages, each once. If its page left, a frame stays until its turn.
    list: Vec<u32>,
    /// The place of the next frame that is looked at.
    next: usize,
    /// The frames of sampled pages that wait for their readers, each once, and the keys.
    waiting: VecDeque<(u32, u32)>,
    /// The frame of the sampled page that came last.
    last: Option<u32>,
    /// The uses that were found, as keys.
    uses: RefCell<Vec<u32>>,
}

/// Returns the hash of a page.
fn hash(page: u64) -> u64 {
    let once = (page ^ page >> 32).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (once ^ once >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9)
}

impl Sample {
    /// Returns an empty sample of one page in `one_in`, a power of two, for frames below `frames`.
    pub(super) fn new(frames: u32, one_in: u32) -> Self {
        Self {
            one_in,
            flags: vec![Cell::new(0); frames as usize],
            list: Vec::new(),
            next: 0,
            waiting: VecDeque::new(),
            last: None,
            uses: RefCell::default(),
        }
    }

    /// Returns the key of a page if it belongs to the sample. Two pages have the same key by chance
    /// only.
    fn key(&self, page: u64) -> Option<u32> {
        let hash = hash(page);
        ((hash >> 40) as u32 & (self.one_in - 1) == 0).then_some(hash as u32)
    }

    /// Sets the share of the pages in the sample. Pages that come from now on follow it.
    pub(super) fn resize(&mut self, one_in: u32) {
        self.one_in = one_in;
    }

    /// Records a new page. A sampled one counts as used, unless it was read ahead: then its first
    /// use is that of its reader.
    ///
    /// The sampled page before it is looked at first. Otherwise the uses of a page in small steps
    /// would be found late, and pass for a later use.
    pub(super) fn insert(&mut self, frames: &dyn Frames, frame: u32, page: u64) {
        self.find_first_uses(frames);
        let before = self.flags[frame as usize].get();
        if before & WAITS != 0 {
            self.waiting.retain(|&(waiting, _)| waiting != frame);
        }
        // What was found of the page before is nothing to this one.
        self.flags[frame as usize].set(before & LISTED);
        let Some(key) = self.key(page) else { return };
        self.set(frame, LISTED);
        if before & LISTED == 0 {
            self.list.push(frame);
        }
        if let Some(last) = self.last.replace(frame).filter(|&last| last != frame) {
            self.look_at(frames, last);
        }
        if frames.is_ahead(frame) {
            self.set(frame, WAITS);
            self.waiting.push_back((frame, key));
        } else {
            self.uses.get_mut().push(key);
        }
    }

    fn set(&self, frame: u32, flag: u8) {
        let flags = &self.flags[frame as usize];
        flags.set(flags.get() | flag);
    }

    /// Notes the first uses of pages that waited for their readers: such a use leaves no referenced
    /// bit. Most pages of a request wait until the next one comes, so few are visited without need.
    pub(super) fn find_first_uses(&mut self, frames: &dyn Frames) {
        for _ in 0..self.waiting.len().min(MAX_WAITING_LOOKS) {
            let Some((frame, key)) = self.waiting.pop_front() else { break };
            if frames.is_ahead(frame) {
                self.waiting.push_back((frame, key));
                continue;
            }
            let flags = &self.flags[frame as usize];
            flags.set(flags.get() & !WAITS);
            // It may have left without a use.
            let is_there = match frames.inspect(frame) {
                FrameState::NotCached => false,
                FrameState::Pinned => true,
                FrameState::Evictable(page) => self.key(page) == Some(key),
            };
            if is_there {
                self.uses.get_mut().push(key);
            }
        }
    }

    /// Returns the number of frames in the list.
    pub(super) fn len(&self) -> usize {
        self.list.len()
    }

    /// Looks at the next frame of the list. Notes whether its page was used.
    pub(super) fn look(&mut self, frames: &dyn Frames) {
        self.next = if self.next < self.list.len() { self.next } else { 0 };
        let Some(&frame) = self.list.get(self.next) else { return };
        if self.look_at(frames, frame) {
            self.next += 1;
        } else {
            let flags = &self.flags[frame as usize];
            flags.set(flags.get() & !LISTED);
            self.list.swap_remove(self.next);
        }
    }

    /// Notes whether the page in a frame was used. Returns `false` if the sample has no such page.
    fn look_at(&mut self, frames: &dyn Frames, frame: u32) -> bool {
        match frames.inspect(frame) {
            // The bit of a page that was read ahead belongs to its reader.
            _ if frames.is_ahead(frame) => true,
            FrameState::Pinned => true,
            FrameState::Evictable(page) if let Some(key) = self.key(page) => {
                if frames.take_referenced(frame) {
                    let flags = &self.flags[frame as usize];
                    flags.set(flags.get() | FOUND);
                    self.uses.get_mut().push(key);
                }
                true
            }
            FrameState::Evictable(_) | FrameState::NotCached => false,
        }
    }

    /// Returns the frames with their referenced bits, those that the sample took among them.
    pub(super) fn watch<'a>(&'a self, frames: &'a dyn Frames) -> Watched<'a> {
        Watched { sample: self, frames }
    }

    /// Returns `true` if the sample took the referenced bit of a frame, and the policy has not seen
    /// it yet.
    pub(super) fn is_found(&self, frame: u32) -> bool {
        self.flags[frame as usize].get() & FOUND != 0
    }

    /// Returns `true` if uses were found and not drained.
    pub(super) fn has_uses(&mut self) -> bool {
        !self.uses.get_mut().is_empty()
    }

    /// Calls `visit` with the key of each use that was found, and forgets them.
    pub(super) fn drain_uses(&mut self, visit: impl FnMut(u32)) {
        self.uses.get_mut().drain(..).for_each(visit);
    }
}

/// The frames of a cache, as a policy with a sample sees them.
pub(super) struct Watched<'a> {
    sample: &'a Sample,
    frames: &'a dyn Frames,
}

impl Watched<'_> {
    /// Notes the referenced bit of a frame, as it was taken. Returns `true` if the page was used:
    /// the sample may have found it before.
    #[inline]
    fn note(&self, frame: u32, is_used: bool) -> bool {
        let flags = &self.sample.flags[frame as usize];
        if flags.get() == 0 {
            return is_used;
        }
        let was_found = flags.replace(flags.get() & !FOUND) & FOUND != 0;
        if is_used
            && let FrameState::Evictable(page) = self.frames.inspect(frame)
            && let Some(key) = self.sample.key(page)
        {
            self.sample.uses.borrow_mut().push(key);
        }
        is_used || was_found
    }
}

impl Frames for Watched<'_> {
    fn count(&self) -> u32 {
        self.frames.count()
    }

    fn inspect(&self, frame: u32) -> FrameState {
        self.frames.inspect(frame)
    }

    fn take_referenced(&self, frame: u32) -> bool {
        self.note(frame, self.frames.take_referenced(frame))
    }

    fn take_uses(&self, frame: u32) -> Option<u8> {
        let uses = self.frames.take_uses(frame)?;
        Some(uses.max(u8::from(self.note(frame, uses > 0))))
    }

    fn is_ahead(&self, frame: u32) -> bool {
        self.frames.is_ahead(frame)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The frames, by their number: the page, `true` if it was read ahead, and the referenced bit.
    struct Pages([(u64, Cell<bool>, Cell<bool>); 3]);

    impl Frames for Pages {
        fn count(&self) -> u32 {
            self.0.len() as u32
        }

        fn inspect(&self, frame: u32) -> FrameState {
            FrameState::Evictable(self.0[frame as usize].0)
        }

        fn take_referenced(&self, frame: u32) -> bool {
            self.0[frame as usize].1.set(false);
            self.0[frame as usize].2.take()
        }

        fn is_ahead(&self, frame: u32) -> bool {
            self.0[frame as usize].1.get()
        }
    }

    /// Returns a sample of all pages, and frames of which some were read ahead.
    fn sample(ahead: [bool; 3]) -> (Sample, Pages) {
        let mut pages = [7, 8, 9].into_iter();
        let pages =
            ahead.map(|is_ahead| (pages.next().unwrap(), Cell::new(is_ahead), Cell::new(is_ahead)));
        (Sample::new(3, 1), Pages(pages))
    }

    /// Takes the uses that were found. Returns their pages.
    fn uses(sample: &mut Sample) -> Vec<u64> {
        let keys = [7, 8, 9].map(|page| (sample.key(page).unwrap(), page));
        let mut found = Vec::new();
        sample.drain_uses(|key| {
            found.extend(keys.iter().filter(|(of, _)| *of == key).map(|(_, page)| *page));
        });
        found
    }

    #[test]
    fn uses_in_small_steps_are_found_before_the_next_page() {
        let (mut sample, pages) = sample([false; 3]);
        sample.insert(&pages, 0, 7);
        pages.0[0].2.set(true);
        sample.insert(&pages, 1, 8);
        assert_eq!(uses(&mut sample), [7, 7, 8]);
        sample.insert(&pages, 2, 9);
        assert_eq!(uses(&mut sample), [9], "page 8 was not used");
        assert!(sample.is_found(0), "the policy has not seen the use of page 7");
        assert!(sample.watch(&pages).take_referenced(0) && !sample.is_found(0));
    }

    #[test]
    fn a_page_that_was_read_ahead_is_first_used_by_its_reader() {
        let (mut sample, pages) = sample([true, true, false]);
        (0..3).for_each(|frame| sample.insert(&pages, frame, u64::from(frame) + 7));
        (0..3).for_each(|_| sample.look(&pages));
        assert_eq!(uses(&mut sample), [9], "two pages wait for their reader");
        assert!(pages.0[0].2.get(), "the bit of a page that was read ahead was taken");
        // The readers use pages 7 and 8, which leaves no bit, and another one uses page 7 again.
        pages.0[..2].iter().for_each(|page| (page.1.set(false), page.2.set(false)).0);
        sample.find_first_uses(&pages);
        assert_eq!(uses(&mut sample), [7, 8]);
        pages.0[0].2.set(true);
        sample.find_first_uses(&pages);
        (0..3).for_each(|_| sample.look(&pages));
        (0..3).for_each(|_| sample.look(&pages));
        assert_eq!(uses(&mut sample), [7], "once");
    }

    #[test]
    fn a_page_that_leaves_before_its_reader_comes_was_not_used() {
        let (mut sample, mut pages) = sample([true, true, false]);
        sample.insert(&pages, 0, 7);
        sample.insert(&pages, 1, 8);
        // Page 9 takes the frame of page 7, and another page that of page 8, unseen.
        (pages.0[0].0, pages.0[1].0) = (9, 5);
        sample.insert(&pages, 0, 9);
        pages.0.iter().for_each(|page| page.1.set(false));
        sample.find_first_uses(&pages);
        assert_eq!(uses(&mut sample), [9], "the page that waited in its frame");
    }
}
