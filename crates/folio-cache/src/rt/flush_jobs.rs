//! The jobs under way of the flush threads, and the number of threads that they may have.
//!
//! | jobs | the maximum |
//! | --- | --- |
//! | that began less than 100 ms ago | [`MAX_BUSY`] |
//! | of files that do not hang | [`MAX_SLOW`] |
//! | in all | [`MAX_THREADS`] |
//!
//! So slow files do not hold up fast ones, and files that hang do not hold up slow ones.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use crate::rt::busy::SLOW_AFTER;

/// The maximum number of jobs that began a moment ago.
const MAX_BUSY: usize = 64;

/// The maximum number of jobs of files that do not hang.
const MAX_SLOW: usize = 4 * MAX_BUSY;

/// The maximum number of threads, with those of files that hang.
pub(super) const MAX_THREADS: usize = 16 * MAX_BUSY;

/// The time after which a file counts as hung for the number of threads. It is long: on a busy
/// machine, more threads would make all jobs slower.
const HUNG_AFTER: Duration = Duration::from_secs(1);

/// A job under way.
struct Begun<J> {
    since: Instant,
    /// The job to do after it.
    after: Option<J>,
}

/// The jobs under way, by the number of the file.
pub(super) struct FlushJobs<J> {
    jobs: HashMap<u32, Begun<J>>,
    /// The time when a job last began or ended.
    moved: Instant,
}

impl<J> FlushJobs<J> {
    pub(super) fn new() -> Self {
        Self { jobs: HashMap::new(), moved: Instant::now() }
    }

    pub(super) fn begin(&mut self, id: u32) {
        self.moved = Instant::now();
        self.jobs.insert(id, Begun { since: self.moved, after: None });
    }

    /// Notes that a job ended. Returns the job to do after it.
    pub(super) fn end(&mut self, id: u32) -> Option<J> {
        self.moved = Instant::now();
        self.jobs.remove(&id)?.after
    }

    /// Returns the place of the job to do after that of a file, if that is under way.
    pub(super) fn after(&mut self, id: u32) -> Option<&mut Option<J>> {
        self.jobs.get_mut(&id).map(|begun| &mut begun.after)
    }

    /// Takes all jobs that wait for one under way.
    pub(super) fn take_after(&mut self) -> impl Iterator<Item = J> {
        self.jobs.values_mut().filter_map(|begun| begun.after.take())
    }

    pub(super) fn contains(&self, id: u32) -> bool {
        self.jobs.contains_key(&id)
    }

    pub(super) fn ids(&self) -> impl Iterator<Item = u32> {
        self.jobs.keys().copied()
    }

    /// Returns `true` if no job began or ended for `time`, counted from `since` at the earliest:
    /// those that wait for a thread will not get one. Never under shuttle, where no time passes.
    pub(super) fn are_stuck(&self, since: Instant, time: Duration) -> bool {
        !cfg!(shuttle) && self.moved.max(since).elapsed() > time
    }

    /// Sets the time when a job last began or ended.
    #[cfg(test)]
    pub(super) fn set_moved(&mut self, time: Instant) {
        self.moved = time;
    }

    /// Returns `true` if there may be one thread more than `threads`. `hung` returns the numbers of
    /// the files that hang for a time.
    pub(super) fn may_have_more(
        &self,
        threads: usize,
        hung: impl FnOnce(Duration) -> Vec<u32>,
    ) -> bool {
        if threads < MAX_BUSY {
            return true;
        }
        let is_new = |begun: &&Begun<J>| cfg!(shuttle) || begun.since.elapsed() <= SLOW_AFTER;
        if threads >= MAX_THREADS || self.jobs.values().filter(is_new).count() >= MAX_BUSY {
            return false;
        }
        threads < MAX_SLOW || {
            let hung: HashSet<_> = hung(HUNG_AFTER).into_iter().collect();
            self.ids().filter(|id| !hung.contains(id)).count() < MAX_SLOW
        }
    }
}

#[cfg(all(test, not(shuttle)))]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_mins(1);

    /// Makes everything older.
    fn age(jobs: &mut FlushJobs<()>) {
        let older = |time: Instant| time.checked_sub(LONG).expect("the machine runs for longer");
        jobs.moved = older(jobs.moved);
        jobs.jobs.values_mut().for_each(|begun| begun.since = older(begun.since));
    }

    /// Makes all jobs begin in a moment, however slow this test is.
    fn make_new(jobs: &mut FlushJobs<()>) {
        jobs.jobs.values_mut().for_each(|begun| begun.since = Instant::now() + LONG);
    }

    fn begin(jobs: &mut FlushJobs<()>, ids: std::ops::Range<usize>) {
        ids.for_each(|id| jobs.begin(id as u32));
    }

    #[test]
    fn slow_jobs_leave_threads_to_others_and_hung_ones_to_slow_ones() {
        let mut jobs = FlushJobs::new();
        let none = |_| Vec::new();
        assert!(jobs.may_have_more(MAX_BUSY - 1, none));
        begin(&mut jobs, 0..MAX_BUSY);
        make_new(&mut jobs);
        assert!(!jobs.may_have_more(MAX_BUSY, none));
        age(&mut jobs);
        age(&mut jobs);
        assert!(jobs.may_have_more(MAX_BUSY, none));
        begin(&mut jobs, MAX_BUSY..MAX_SLOW);
        age(&mut jobs);
        assert!(!jobs.may_have_more(MAX_SLOW, none));
        assert!(jobs.may_have_more(MAX_SLOW, |_| vec![7]));
        begin(&mut jobs, MAX_SLOW..MAX_THREADS);
        age(&mut jobs);
        let all = |_| (0..MAX_THREADS as u32).collect();
        assert!(jobs.may_have_more(MAX_THREADS - 1, all));
        assert!(!jobs.may_have_more(MAX_THREADS, all));
    }

    #[test]
    fn jobs_are_stuck_while_none_begins_or_ends() {
        let mut jobs = FlushJobs::new();
        let since = jobs.moved.checked_sub(2 * LONG).expect("the machine runs for longer");
        begin(&mut jobs, 0..2);
        assert!(!jobs.are_stuck(since, LONG / 2));
        age(&mut jobs);
        assert!(jobs.are_stuck(since, LONG / 2));
        // The caller came later.
        assert!(!jobs.are_stuck(Instant::now(), LONG / 2));
        assert!(jobs.end(1).is_none() && !jobs.contains(1));
        assert!(!jobs.are_stuck(since, LONG / 2));
    }
}
