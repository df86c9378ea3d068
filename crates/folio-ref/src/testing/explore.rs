//! For shuttle: which schedules are played. Depth first, all of them up to a number of preemptions;
//! or some, by chance.
//!
//! A *preemption* takes the turn from a thread that could go on. Switches where a thread ends or
//! sleeps are free, and all of them are tried. Most bugs need one or two preemptions; with no bound
//! the number of schedules grows with the factorial of the steps.
//!
//! Where many threads sleep and wake, the free switches alone are too many. A *delay* counts them
//! as well: of those that could go on it is the one that runs already, or else the oldest, and each
//! that is passed over is a delay. (Emmi et al., "Delay-bounded scheduling", POPL 2011.)

use std::boxed::Box;
use std::format;
use std::println;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::vec::Vec;

use shuttle::scheduler::{PctScheduler, Schedule, Scheduler, Task, TaskId};
use shuttle::{Config, Runner};

use crate::testing::stepped::arm;

/// Which schedules.
#[derive(Clone, Copy, Debug)]
pub enum Search {
    /// Depth first: all with at most so many preemptions.
    Preemptions(usize),
    /// Depth first: all with at most so many delays.
    Delays(usize),
    /// Probabilistic concurrency testing: priorities by chance, with `depth` - 1 changes of them.
    Pct {
        /// How deep a bug may lie.
        depth: usize,
        /// How many schedules.
        executions: usize,
        /// Of the random numbers.
        seed: u64,
    },
}

/// Depth first, with one more preemption where the environment says `DEEP`.
pub fn deeper(preemptions: usize) -> Search {
    Search::Preemptions(preemptions + one_more())
}

/// The same with delays.
pub fn delays(delays: usize) -> Search {
    Search::Delays(delays + one_more())
}

fn one_more() -> usize {
    usize::from(std::env::var_os("DEEP").is_some())
}

/// A search that takes longer than this many executions is not for a test.
const MOST: usize = 5_000_000;

/// Plays `case` once for each schedule, and prints how many there were. How many.
///
/// # Panics
///
/// When one of them does, or all its threads sleep: in which schedule is printed. When a
/// depth-first search is not at its end after five million.
pub fn explore(name: &str, search: Search, case: impl Fn() + Send + Sync + 'static) -> usize {
    let mut config = Config::new();
    config.stack_size = 1 << 18;
    config.silence_warnings = true;
    let begun = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&begun);
    let case = move || {
        counted.fetch_add(1, Ordering::Relaxed);
        // An execution before this one may have ended in a panic.
        arm(false);
        case();
    };
    let _failed = Failed { name, search, begun };
    let started = std::time::Instant::now();
    let left = Arc::new(AtomicUsize::new(0));
    let executions = match search {
        Search::Preemptions(most) | Search::Delays(most) => {
            let (path, left) = (Vec::new(), Arc::clone(&left));
            let delays = matches!(search, Search::Delays(_));
            let scheduler = DepthFirst { most, delays, path, at: 0, used: 0, left, executions: 0 };
            Runner::new(scheduler, config).run(case)
        }
        Search::Pct { depth, executions, seed } => {
            Runner::new(PctScheduler::new_from_seed(seed, depth, executions), config).run(case)
        }
    };
    let seconds = started.elapsed().as_secs_f64();
    println!("{name}: {executions} executions, {search:?}, {seconds:.1} s");
    assert_eq!(
        left.load(Ordering::Relaxed),
        0,
        "{name}: not at its end after {executions} executions"
    );
    executions
}

/// Says in which execution a search found something.
struct Failed<'n> {
    name: &'n str,
    search: Search,
    begun: Arc<AtomicUsize>,
}

impl Drop for Failed<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!(
                "failed in execution {} of {}, {:?}",
                self.begun.load(Ordering::Relaxed),
                self.name,
                self.search
            );
        }
    }
}

/// Runs the threads of a case, stepping, and waits for all.
///
/// # Panics
///
/// When one of them does.
pub fn race(threads: Vec<Box<dyn FnOnce() + Send>>) {
    let threads: Vec<_> =
        threads.into_iter().map(|thread| shuttle::thread::spawn(thread)).collect();
    arm(true);
    for thread in threads {
        thread.join().expect("a thread of the case");
    }
    arm(false);
}

/// All schedules, the same decisions first and another one last.
struct DepthFirst {
    /// Preemptions at the most, or delays.
    most: usize,
    delays: bool,
    /// Where there was a choice: among whom, and who was taken.
    path: Vec<(Vec<TaskId>, usize)>,
    at: usize,
    used: usize,
    executions: usize,
    /// 1: it was stopped before its end.
    left: Arc<AtomicUsize>,
}

impl core::fmt::Debug for DepthFirst {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(
            f,
            "depth first, {} {}",
            self.most,
            if self.delays { "delays" } else { "preemptions" }
        )
    }
}

impl Scheduler for DepthFirst {
    fn new_execution(&mut self) -> Option<Schedule> {
        if self.executions > 0 {
            while self.path.last().is_some_and(|(among, taken)| taken + 1 == among.len()) {
                self.path.pop();
            }
            self.path.last_mut()?.1 += 1;
        }
        if self.executions == MOST {
            self.left.store(1, Ordering::Relaxed);
            return None;
        }
        self.executions += 1;
        (self.at, self.used) = (0, 0);
        Some(Schedule::new(0))
    }

    fn next_task(
        &mut self,
        runnable: &[&Task],
        current: Option<TaskId>,
        is_yielding: bool,
    ) -> Option<TaskId> {
        // The first one only starts and awaits the others: when it can go on, nothing is lost by
        // letting it.
        let first = TaskId::from(0);
        if runnable.iter().any(|task| task.id() == first) {
            return Some(first);
        }
        let mut among: Vec<_> = runnable.iter().map(|task| task.id()).collect();
        let goes_on = current.filter(|current| !is_yielding && among.contains(current));
        if let Some(current) = goes_on {
            among.retain(|&task| task != current);
            among.insert(0, current);
            if self.used == self.most {
                among.truncate(1);
            }
        }
        if self.delays {
            if let Some(yields) = current.filter(|current| is_yielding && among.contains(current)) {
                among.retain(|&task| task != yields);
                among.push(yields);
            }
            among.truncate(self.most - self.used + 1);
        }
        if among.len() == 1 {
            return Some(among[0]);
        }
        if self.at == self.path.len() {
            self.path.push((among, 0));
        } else {
            let before = &self.path[self.at].0;
            assert!(
                *before == among,
                "{}",
                format!("an execution went another way: {before:?}, then {among:?}")
            );
        }
        let (among, taken) = &self.path[self.at];
        let passed_over = *taken;
        let taken = among[passed_over];
        self.at += 1;
        self.used += if self.delays {
            passed_over
        } else {
            usize::from(goes_on.is_some_and(|current| current != taken))
        };
        Some(taken)
    }

    fn next_u64(&mut self) -> u64 {
        unreachable!("no case draws lots")
    }
}
