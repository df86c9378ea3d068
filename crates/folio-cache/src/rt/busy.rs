//! The work that the threads of a pool do, for which mapping, and since when. A thread with work
//! that takes long counts less against the maximum number of threads, so that other files find a
//! thread.

use std::time::{Duration, Instant};

/// The time after which a request to change a file counts as hung.
pub(crate) const HUNG_AFTER: Duration = Duration::from_millis(250);

/// The time after which a thread that reads counts as hung. Until then the maximum number of
/// threads bounds the requests in flight: a distant store may need this time.
const READ_HUNG_AFTER: Duration = Duration::from_secs(1);

/// The time after which a thread that reads does not count against other files.
pub(super) const SLOW_AFTER: Duration = Duration::from_millis(100);

/// The maximum number of threads that do not count because their work hangs or is slow.
pub(super) const MAX_HUNG: usize = 256;

/// Work under way.
struct Begun {
    number: u64,
    mapping: u32,
    since: Instant,
}

/// The work under way, in the order of its beginning.
#[derive(Default)]
pub(super) struct Busy {
    next: u64,
    begun: Vec<Begun>,
}

/// The mappings of slow work, one for each thread, those that hang first.
#[derive(Default)]
pub(super) struct Slow {
    mappings: Vec<u32>,
    hung: usize,
}

impl Busy {
    /// Notes that work for a mapping begins. Returns its number.
    pub(super) fn begin(&mut self, mapping: u32) -> u64 {
        self.next += 1;
        self.begun.push(Begun { number: self.next, mapping, since: Instant::now() });
        self.next
    }

    /// Notes that the work with a number ended.
    pub(super) fn end(&mut self, number: u64) {
        self.begun.retain(|begun| begun.number != number);
    }

    /// Returns the number of threads with work that hangs, up to [`MAX_HUNG`].
    pub(super) fn hung(&self) -> usize {
        self.longer_than(READ_HUNG_AFTER).count()
    }

    /// Returns the number of threads with work that takes long, up to [`MAX_HUNG`].
    pub(super) fn slow_len(&self) -> usize {
        self.longer_than(SLOW_AFTER).count()
    }

    /// Returns the work that takes long.
    pub(super) fn slow(&self) -> Slow {
        Slow { mappings: self.longer_than(SLOW_AFTER).collect(), hung: self.hung() }
    }

    /// Returns the mappings of work that takes longer, one for each thread, up to [`MAX_HUNG`].
    /// There is none under shuttle, where no time passes.
    fn longer_than(&self, time: Duration) -> impl Iterator<Item = u32> {
        let is_long = move |begun: &&Begun| !cfg!(shuttle) && begun.since.elapsed() > time;
        self.begun.iter().take_while(is_long).map(|begun| begun.mapping).take(MAX_HUNG)
    }
}

impl Slow {
    /// Returns the number of threads with slow work.
    pub(super) fn len(&self) -> usize {
        self.mappings.len()
    }

    /// Returns the number of threads with slow work for a mapping.
    pub(super) fn of(&self, mapping: u32) -> usize {
        count(&self.mappings, mapping)
    }

    /// Returns the number of threads with work for a mapping that hangs.
    pub(super) fn hung_of(&self, mapping: u32) -> usize {
        count(&self.mappings[..self.hung.min(self.mappings.len())], mapping)
    }
}

fn count(mappings: &[u32], mapping: u32) -> usize {
    mappings.iter().filter(|&&other| other == mapping).count()
}
