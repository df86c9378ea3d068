//! The work that the threads of a pool do, and since when. A thread with work that hangs does not
//! count against the maximum number of threads, so that other files find a thread.

use std::time::{Duration, Instant};

/// The time after which a request to change a file counts as hung.
pub(crate) const HUNG_AFTER: Duration = Duration::from_millis(250);

/// The time after which a thread that reads counts as hung. Until then the maximum number of
/// threads bounds the requests in flight: a distant store may need this time.
const READ_HUNG_AFTER: Duration = Duration::from_secs(1);

/// The maximum number of threads that do not count because their work hangs.
pub(super) const MAX_HUNG: usize = 128;

/// The work under way.
#[derive(Default)]
pub(super) struct Busy {
    next: u64,
    begun: Vec<(u64, Instant)>,
}

impl Busy {
    /// Notes that work begins. Returns its number.
    pub(super) fn begin(&mut self) -> u64 {
        self.next += 1;
        self.begun.push((self.next, Instant::now()));
        self.next
    }

    /// Notes that the work with a number ended.
    pub(super) fn end(&mut self, number: u64) {
        self.begun.retain(|&(begun, _)| begun != number);
    }

    /// Returns the number of threads with work that hangs, up to [`MAX_HUNG`]. It is 0 under
    /// shuttle, where no time passes.
    pub(super) fn hung(&self) -> usize {
        if cfg!(shuttle) {
            return 0;
        }
        // In the order of their beginnings.
        let hung = self.begun.iter().take_while(|(_, since)| since.elapsed() > READ_HUNG_AFTER);
        hung.count().min(MAX_HUNG)
    }
}
