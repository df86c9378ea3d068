//! The search over schedules for shuttle: depth first, all of them up to a number of preemptions,
//! or a random sample.
//!
//! A *preemption* switches away from a thread that could continue. Switches at the end or the sleep
//! of a thread are free, and all of them are tried. Most bugs need one or two preemptions. Without
//! a bound the number of schedules grows with the factorial of the steps.
//!
//! If many threads sleep and wake, the free switches alone are too many. A *delay* counts them as
//! well. The default is the running thread, otherwise the oldest runnable one, and each thread that
//! is passed over is one delay. (Emmi et al., "Delay-bounded scheduling", POPL 2011.)

use core::cell::Cell;
use std::boxed::Box;
use std::println;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread_local;
use std::vec::Vec;

use shuttle::scheduler::{PctScheduler, Schedule, Scheduler, Task, TaskId};
use shuttle::{Config, Runner};

use crate::testing::choices::{self, Among};
use crate::testing::memory;
use crate::testing::stepped::arm;

/// The schedules that a search runs.
#[derive(Clone, Copy, Debug)]
pub enum Search {
    /// Depth first: all schedules with at most this many preemptions.
    Preemptions(usize),
    /// Depth first: all schedules with at most this many delays.
    Delays(usize),
    /// Probabilistic concurrency testing: random priorities, with `depth` - 1 changes of them.
    Pct {
        /// The number of ordering constraints that a bug may need.
        depth: usize,
        /// The number of schedules.
        executions: usize,
        /// The seed of the random numbers.
        seed: u64,
    },
    /// Depth first over a weak memory: all executions with at most this many preemptions, in which
    /// loads return at most `old` different values that are older than the last one.
    Weak {
        /// The maximum number of preemptions.
        preemptions: usize,
        /// The maximum number of old values.
        old: usize,
    },
    /// Probabilistic concurrency testing over a weak memory: one load in four that may return an
    /// older value than the last one does so.
    WeakPct {
        /// As in `Pct`.
        depth: usize,
        /// As in `Pct`.
        executions: usize,
        /// As in `Pct`.
        seed: u64,
    },
}

impl Search {
    /// Returns the maximum number of old values in one execution. `None`: the memory is
    /// sequentially consistent.
    fn old(self) -> Option<usize> {
        match self {
            Self::Weak { old, .. } => Some(old),
            Self::WeakPct { .. } => Some(usize::MAX),
            _ => None,
        }
    }
}

/// Returns a depth-first search with at most `preemptions` preemptions, one more if the environment
/// variable `DEEP` is set.
pub fn deeper(preemptions: usize) -> Search {
    Search::Preemptions(preemptions + one_more())
}

/// Returns a depth-first search with at most `delays` delays, one more if the environment variable
/// `DEEP` is set.
pub fn delays(delays: usize) -> Search {
    Search::Delays(delays + one_more())
}

fn one_more() -> usize {
    usize::from(std::env::var_os("DEEP").is_some())
}

thread_local! {
    /// True if the memory of the running search is weak.
    static WEAK: Cell<bool> = const { Cell::new(false) };
}

/// The maximum number of executions of a depth-first search.
const MOST: usize = 5_000_000;

/// Runs `case` once for each schedule. Prints and returns the number of schedules. If the
/// environment variable `WEAK` is set, searches over a memory that is not weak are left out.
///
/// # Panics
///
/// Panics if an execution panics, or if all its threads sleep; the number of the execution is
/// printed. Panics also if a depth-first search has not ended after five million executions.
/// Panics at a race between two accesses to the bytes of a frame in a weak memory.
pub fn explore(name: &str, search: Search, case: impl Fn() + Send + Sync + 'static) -> usize {
    if std::env::var_os("WEAK").is_some() && search.old().is_none() {
        return 0;
    }
    let mut config = Config::new();
    config.stack_size = 1 << 18;
    config.silence_warnings = true;
    let begun = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&begun);
    let case = move || {
        counted.fetch_add(1, Ordering::Relaxed);
        // The previous execution may have ended in a panic.
        arm(false);
        WEAK.set(search.old().is_some());
        choices::restart();
        case();
    };
    let seed = if let Search::WeakPct { seed, .. } = search { Some(seed) } else { None };
    choices::begin(search.old().unwrap_or(0), seed);
    let _failed = Failed { name, search, begun };
    let started = std::time::Instant::now();
    let left = Arc::new(AtomicUsize::new(0));
    let executions = match search {
        Search::Preemptions(most)
        | Search::Delays(most)
        | Search::Weak { preemptions: most, .. } => {
            let left = Arc::clone(&left);
            let delays = matches!(search, Search::Delays(_));
            let scheduler = DepthFirst { most, delays, used: 0, left, executions: 0 };
            Runner::new(scheduler, config).run(case)
        }
        Search::Pct { depth, executions, seed } | Search::WeakPct { depth, executions, seed } => {
            Runner::new(PctScheduler::new_from_seed(seed, depth, executions), config).run(case)
        }
    };
    let seconds = started.elapsed().as_secs_f64();
    println!("{name}: {executions} executions, {search:?}, {seconds:.1} s");
    assert_eq!(
        left.load(Ordering::Relaxed),
        0,
        "{name}: the search has not ended after {executions} executions"
    );
    executions
}

/// Prints the number of the execution in which a search failed.
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

/// Runs the threads of a case with steps switched on, and joins all of them.
///
/// # Panics
///
/// Panics if one of the threads does.
pub fn race(threads: Vec<Box<dyn FnOnce() + Send>>) {
    let threads: Vec<_> =
        threads.into_iter().map(|thread| shuttle::thread::spawn(thread)).collect();
    arm(true);
    memory::switch(WEAK.get());
    for thread in threads {
        thread.join().expect("a thread of the case");
    }
    arm(false);
    memory::switch(false);
}

/// The scheduler of a depth-first search: it replays all decisions of the previous execution except
/// the last, which it changes.
struct DepthFirst {
    /// The maximum number of preemptions, or of delays.
    most: usize,
    delays: bool,
    used: usize,
    executions: usize,
    /// 1 if the search was stopped before its end.
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
        if self.executions > 0 && !choices::advance() {
            return None;
        }
        if self.executions == MOST {
            self.left.store(1, Ordering::Relaxed);
            return None;
        }
        self.executions += 1;
        self.used = 0;
        choices::restart();
        Some(Schedule::new(0))
    }

    fn next_task(
        &mut self,
        runnable: &[&Task],
        current: Option<TaskId>,
        is_yielding: bool,
    ) -> Option<TaskId> {
        // The first task only starts and joins the others: running it first loses no schedule.
        let first = TaskId::from(0);
        if runnable.iter().any(|task| task.id() == first) {
            return Some(first);
        }
        let mut among: Vec<_> = runnable.iter().map(|task| task.id()).collect();
        let continues = current.filter(|current| !is_yielding && among.contains(current));
        if let Some(current) = continues {
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
        let skipped = choices::take(Among::Threads(among.clone()));
        let taken = among[skipped];
        self.used += if self.delays {
            skipped
        } else {
            usize::from(continues.is_some_and(|current| current != taken))
        };
        Some(taken)
    }

    fn next_u64(&mut self) -> u64 {
        unreachable!("no case uses random numbers")
    }
}
