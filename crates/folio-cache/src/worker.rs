//! A worker: a thread of a cache that does one thing when it is rung for, and sleeps otherwise.
//!
//! It starts when it is first needed. It holds the cache weakly: when that goes, the thread ends.
//! Where no thread can be started, the next ring tries again, and the work is done by who can not
//! wait for it any longer: each job says by whom.

use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use folio_ref::Scheme;

use crate::cache::Inner;
use crate::sync::{Condvar, Mutex, rest, spawn, wait_for};

/// After a panic in somebody's backing.
const REST: Duration = Duration::from_secs(1);

#[derive(Debug, PartialEq, Eq)]
enum Wanted {
    Nothing,
    /// After the job's delay.
    Soon,
    Now,
    End,
}

#[derive(Debug)]
struct State {
    wanted: Wanted,
    may_start: bool,
    has_thread: bool,
    is_working: bool,
}

#[derive(Debug)]
struct Bell {
    state: Mutex<State>,
    rung: Condvar,
    /// Somebody rang for now, and the thread did not come yet: so that many can ring often.
    is_ringing: AtomicBool,
    /// It did what it was rung for.
    settled: Condvar,
}

/// What a worker does.
pub(crate) struct Job<S: Scheme> {
    /// The thread's name.
    pub(crate) name: &'static str,
    /// How soon is soon.
    pub(crate) delay: Duration,
    /// The work; how long to rest after it, whoever rings.
    pub(crate) work: fn(&Inner<S>) -> Duration,
}

/// The thread, as its cache sees it.
pub(crate) struct Worker<S: Scheme> {
    job: &'static Job<S>,
    bell: Arc<Bell>,
    me: Weak<Inner<S>>,
}

impl<S: Scheme> Worker<S> {
    pub(crate) fn new(job: &'static Job<S>, me: Weak<Inner<S>>) -> Self {
        let bell = Bell {
            // Under shuttle a test says whether there is a thread.
            state: Mutex::new(State {
                wanted: Wanted::Nothing,
                may_start: !cfg!(shuttle),
                has_thread: false,
                is_working: false,
            }),
            rung: Condvar::new(),
            is_ringing: AtomicBool::new(false),
            settled: Condvar::new(),
        };
        Self { job, bell: Arc::new(bell), me }
    }

    /// Whether it may have a thread. One that it must not have ends after what it does.
    pub(crate) fn set_may_start(&self, may_start: bool) {
        let mut state = self.bell.state.lock();
        state.may_start = may_start;
        if !may_start {
            state.wanted = Wanted::End;
        } else if state.wanted == Wanted::End {
            state.wanted = Wanted::Now;
        }
        self.bell.is_ringing.store(false, Ordering::Relaxed);
        self.bell.rung.notify_one();
        // What they wait for will not be done.
        self.bell.settled.notify_all();
    }

    /// There is something to do, after a while.
    #[cold]
    pub(crate) fn ring_soon(&self) {
        self.ring(Wanted::Soon);
    }

    /// There is something to do. Cheap while the thread is on its way.
    #[inline]
    pub(crate) fn ring_now(&self) {
        // Relaxed: a hint; who rings in vain will ring again.
        if !self.bell.is_ringing.load(Ordering::Relaxed) {
            self.bell.is_ringing.store(true, Ordering::Relaxed);
            self.ring(Wanted::Now);
        }
    }

    /// Waits until it is not at work, nor about to be, and holds no file.
    pub(crate) fn settle(&self) {
        let mut state = self.bell.state.lock();
        while state.is_working || (state.has_thread && state.wanted == Wanted::Now) {
            self.bell.settled.wait(&mut state);
        }
    }

    #[cold]
    fn ring(&self, what: Wanted) {
        let mut state = self.bell.state.lock();
        if state.may_start && !state.has_thread {
            let (job, bell, cache) = (self.job, Arc::clone(&self.bell), self.me.clone());
            state.has_thread = spawn(job.name, move || run(job, &bell, &cache));
        }
        if state.wanted == Wanted::Nothing || (state.wanted == Wanted::Soon && what == Wanted::Now)
        {
            state.wanted = what;
            self.bell.rung.notify_one();
        }
    }
}

impl<S: Scheme> Drop for Worker<S> {
    fn drop(&mut self) {
        self.set_may_start(false);
    }
}

fn run<S: Scheme>(job: &Job<S>, bell: &Bell, cache: &Weak<Inner<S>>) {
    loop {
        {
            let mut state = bell.state.lock();
            while state.wanted == Wanted::Nothing {
                bell.rung.wait(&mut state);
            }
            if state.wanted == Wanted::Soon {
                wait_for(&bell.rung, &mut state, job.delay);
            }
            if state.wanted == Wanted::End {
                state.has_thread = false;
                return;
            }
            state.wanted = Wanted::Nothing;
            state.is_working = true;
            // Relaxed, before the work: who rings from now on is heard again.
            bell.is_ringing.store(false, Ordering::Relaxed);
        }
        let Some(cache) = cache.upgrade() else { return };
        let time =
            panic::catch_unwind(AssertUnwindSafe(|| (job.work)(&cache))).unwrap_or_else(|_| {
                // What it did not come to has its turn later.
                let mut state = bell.state.lock();
                if state.wanted == Wanted::Nothing {
                    state.wanted = Wanted::Soon;
                }
                REST
            });
        drop(cache);
        bell.state.lock().is_working = false;
        bell.settled.notify_all();
        rest(time);
    }
}
