//! A sample of the pages of a cache: those with a certain hash of their number. Each use of one
//! that a policy finds is kept, for the trials of other policies.

use std::cell::{Cell, RefCell};
use std::cmp::Reverse;

use super::{FrameState, Frames, Uses};

/// The flag of a frame in the list.
const LISTED: u8 = 1;
/// The flag of a frame: the sample took its uses, which the policy has not seen. The bits above
/// [`TIME`] are the time of the last one, modulo 64.
const FOUND: u8 = 2;
const TIME: u32 = 2;
/// The flag of a frame without [`FOUND`]: its page was read ahead, and its reader did not come yet.
const AHEAD: u8 = 4;

/// A use of a sampled page.
#[derive(Debug)]
struct Found {
    key: u32,
    time: u16,
    /// The page missed, or would have if it had not been read ahead.
    is_miss: bool,
}

/// The sampled pages, and their uses.
#[derive(Debug)]
pub(super) struct Sample {
    /// One page in so many, a power of two.
    one_in: u32,
    /// By frame: [`LISTED`], [`FOUND`] and [`AHEAD`].
    flags: Vec<Cell<u8>>,
    /// The frames of sampled pages, each once. If its page left, a frame stays until its turn.
    list: Vec<u32>,
    /// The frame of the sampled page that came last.
    last: Option<u32>,
    /// The uses that were found.
    uses: RefCell<Vec<Found>>,
}

/// Returns the hash of a page.
fn hash(page: u64) -> u64 {
    let once = (page ^ page >> 32).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (once ^ once >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9)
}

/// Returns `true` if the first use of a page with these flags stands for a miss.
fn is_miss(flags: u8) -> bool {
    flags & (FOUND | AHEAD) == AHEAD
}

/// Returns `true` if the uses that were taken of a page with these flags are one for the sample.
/// The use by the reader of a page that was read ahead is not counted.
fn is_use(uses: Uses, flags: u8) -> bool {
    uses.count > 0 || is_miss(flags)
}

impl Sample {
    /// Returns an empty sample of one page in `one_in`, a power of two, for frames below `frames`.
    pub(super) fn new(frames: u32, one_in: u32) -> Self {
        // A miss seldom allocates: hardly more pages are in the sample.
        let pages = (frames / one_in * 5 / 4) as usize;
        Self {
            one_in,
            flags: vec![Cell::new(0); frames as usize],
            list: Vec::with_capacity(pages),
            last: None,
            uses: RefCell::new(Vec::with_capacity(pages)),
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

    /// Records a new page, which came at the time `now`. A sampled one counts as used, unless it
    /// was read ahead: then its first use is that of its reader.
    ///
    /// The sampled page before it is looked at first. Otherwise the uses of a page in small steps
    /// would be found late, and pass for a later use.
    #[inline]
    pub(super) fn insert(&mut self, frames: &dyn Frames, frame: u32, page: u64, now: u32) {
        let flags = &self.flags[frame as usize];
        // What was found of the page before is nothing to this one.
        flags.set(flags.get() & LISTED);
        if let Some(key) = self.key(page) {
            self.insert_sampled(frames, frame, key, now);
        }
    }

    #[cold]
    #[inline(never)]
    fn insert_sampled(&mut self, frames: &dyn Frames, frame: u32, key: u32, now: u32) {
        let flags = &self.flags[frame as usize];
        if flags.get() & LISTED == 0 {
            flags.set(LISTED);
            self.list.push(frame);
        }
        if let Some(last) = self.last.replace(frame).filter(|&last| last != frame) {
            self.look_at(frames, last);
        }
        if frames.is_ahead(frame) {
            let flags = &self.flags[frame as usize];
            flags.set(flags.get() | AHEAD);
        } else {
            self.uses.get_mut().push(Found { key, time: now as u16, is_miss: true });
        }
    }

    /// Looks at all frames of the list. Notes which pages were used.
    pub(super) fn look_at_all(&mut self, frames: &dyn Frames) {
        let mut at = 0;
        while let Some(&frame) = self.list.get(at) {
            if self.look_at(frames, frame) {
                at += 1;
            } else {
                let flags = &self.flags[frame as usize];
                flags.set(flags.get() & !LISTED);
                self.list.swap_remove(at);
            }
        }
    }

    /// Notes whether the page in a frame was used. Returns `false` if the sample has no such page.
    fn look_at(&mut self, frames: &dyn Frames, frame: u32) -> bool {
        match frames.inspect(frame) {
            // The bit of a page that was read ahead belongs to its reader.
            _ if frames.is_ahead(frame) => true,
            FrameState::Pinned => true,
            FrameState::Evictable(page) if let Some(key) = self.key(page) => {
                let flags = &self.flags[frame as usize];
                if let Some(uses) = frames.take_uses(frame)
                    && is_use(uses, flags.get())
                {
                    let time = self.push(frames, key, uses, flags.get());
                    let taken = if uses.count > 0 { FOUND | (time << TIME) as u8 } else { 0 };
                    flags.set(flags.get() & LISTED | taken);
                }
                true
            }
            FrameState::Evictable(_) | FrameState::NotCached => false,
        }
    }

    /// Adds a use that was just taken of the page with a key, which had these flags. Returns its
    /// time.
    fn push(&self, frames: &dyn Frames, key: u32, uses: Uses, flags: u8) -> u16 {
        let time = (frames.now() as u16).wrapping_sub(u16::from(uses.age));
        self.uses.borrow_mut().push(Found { key, time, is_miss: is_miss(flags) });
        time
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

    /// Calls `visit` with the key of each use that was found, in their order, and forgets them. The
    /// other value is `true` if the page missed.
    pub(super) fn drain_uses(&mut self, mut visit: impl FnMut(u32, bool)) {
        let uses = self.uses.get_mut();
        if let Some(now) = uses.last().map(|newest| newest.time) {
            uses.sort_by_key(|one| Reverse(now.wrapping_sub(one.time).cast_signed()));
        }
        uses.drain(..).for_each(|found| visit(found.key, found.is_miss));
    }
}

/// The frames of a cache, as a policy with a sample sees them.
pub(super) struct Watched<'a> {
    sample: &'a Sample,
    frames: &'a dyn Frames,
}

impl Watched<'_> {
    /// Notes the uses of a page, as they were taken. Returns them, with those that the sample found
    /// before.
    #[inline(always)]
    fn note(&self, frame: u32, uses: Uses) -> Uses {
        let had = self.sample.flags[frame as usize].get();
        if had == 0 { uses } else { self.note_sampled(frame, uses, had) }
    }

    /// Does so for a frame that has flags.
    #[cold]
    #[inline(never)]
    fn note_sampled(&self, frame: u32, uses: Uses, had: u8) -> Uses {
        self.sample.flags[frame as usize].set(had & LISTED);
        if is_use(uses, had) {
            if let FrameState::Evictable(page) = self.frames.inspect(frame)
                && let Some(key) = self.sample.key(page)
            {
                self.sample.push(self.frames, key, uses, had);
            }
            return uses;
        }
        let age = (self.frames.now() as u8).wrapping_sub(had >> TIME) & (u8::MAX >> TIME);
        if had & FOUND != 0 { Uses { count: 1, age } } else { uses }
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
        let count = u8::from(self.frames.take_referenced(frame));
        self.note(frame, Uses { count, age: 0 }).count > 0
    }

    fn now(&self) -> u32 {
        self.frames.now()
    }

    fn take_uses(&self, frame: u32) -> Option<Uses> {
        self.frames.take_uses(frame).map(|uses| self.note(frame, uses))
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
        sample.drain_uses(|key, _| {
            found.extend(keys.iter().filter(|(of, _)| *of == key).map(|(_, page)| *page));
        });
        found
    }

    #[test]
    fn uses_in_small_steps_are_found_before_the_next_page() {
        let (mut sample, pages) = sample([false; 3]);
        sample.insert(&pages, 0, 7, 0);
        pages.0[0].2.set(true);
        sample.insert(&pages, 1, 8, 0);
        assert_eq!(uses(&mut sample), [7, 7, 8]);
        sample.insert(&pages, 2, 9, 0);
        assert_eq!(uses(&mut sample), [9], "page 8 was not used");
        assert!(sample.is_found(0), "the policy has not seen the use of page 7");
        assert!(sample.watch(&pages).take_referenced(0) && !sample.is_found(0));
    }

    #[test]
    fn a_page_that_was_read_ahead_is_first_used_by_its_reader() {
        let (mut sample, pages) = sample([true, true, false]);
        (0..3).for_each(|frame| sample.insert(&pages, frame, u64::from(frame) + 7, 0));
        sample.look_at_all(&pages);
        assert_eq!(uses(&mut sample), [9], "two pages wait for their reader");
        assert!(pages.0[0].2.get(), "the bit of a page that was read ahead was taken");
        // The reader uses page 7.
        pages.0[0].1.set(false);
        (0..2).for_each(|_| sample.look_at_all(&pages));
        assert_eq!(uses(&mut sample), [7], "once");
    }
}
