//! A worker: a thread of a cache that does one thing when it is notified for, and sleeps otherwise.
//!
//! It starts when it is first needed. It holds the cache weakly: when that goes, the thread ends.
//! Where no thread can be started, the next ring tries again, and the work is done by who can not
//! wait for it any longer: each job says by whom.

use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use crate::rt::shim::{Condvar, Mutex, rest, spawn, wait_for};

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
struct Signal {
    state: Mutex<State>,
    notified: Condvar,
    /// Somebody rang for now, and the thread did not come yet: so that many can ring often.
    is_notified: AtomicBool,
    /// It did what it was notified for.
    quiesced: Condvar,
}

/// What a worker does.
pub(crate) struct Job<T> {
    /// The thread's name.
    pub(crate) name: &'static str,
    /// How soon is soon.
    pub(crate) delay: Duration,
    /// The work; how long to rest after it, whoever rings.
    pub(crate) work: fn(&T) -> Duration,
}

/// The thread, as its cache sees it.
pub(crate) struct Worker<T: Send + Sync + 'static> {
    job: &'static Job<T>,
    signal: Arc<Signal>,
    me: Weak<T>,
}

impl<T: Send + Sync + 'static> Worker<T> {
    pub(crate) fn new(job: &'static Job<T>, me: Weak<T>) -> Self {
        let signal = Signal {
            // Under shuttle a test says whether there is a thread.
            state: Mutex::new(State {
                wanted: Wanted::Nothing,
                may_start: !cfg!(shuttle),
                has_thread: false,
                is_working: false,
            }),
            notified: Condvar::new(),
            is_notified: AtomicBool::new(false),
            quiesced: Condvar::new(),
        };
        Self { job, signal: Arc::new(signal), me }
    }

    /// Whether it may have a thread. One that it must not have ends after what it does.
    pub(crate) fn set_may_start(&self, may_start: bool) {
        let mut state = self.signal.state.lock();
        state.may_start = may_start;
        if !may_start {
            state.wanted = Wanted::End;
        } else if state.wanted == Wanted::End {
            state.wanted = Wanted::Now;
        }
        self.signal.is_notified.store(false, Ordering::Relaxed);
        self.signal.notified.notify_one();
        // What they wait for will not be done.
        self.signal.quiesced.notify_all();
    }

    /// There is something to do, after a while.
    #[cold]
    pub(crate) fn notify_soon(&self) {
        self.notify(Wanted::Soon);
    }

    /// There is something to do. Cheap while the thread is on its way.
    #[inline]
    pub(crate) fn notify_now(&self) {
        // Relaxed: a hint; who rings in vain will ring again.
        if !self.signal.is_notified.load(Ordering::Relaxed) {
            self.signal.is_notified.store(true, Ordering::Relaxed);
            self.notify(Wanted::Now);
        }
    }

    /// Waits until it is not at work, nor about to be, and holds no file.
    pub(crate) fn quiesce(&self) {
        let mut state = self.signal.state.lock();
        while state.is_working || (state.has_thread && state.wanted == Wanted::Now) {
            self.signal.quiesced.wait(&mut state);
        }
    }

    #[cold]
    fn notify(&self, what: Wanted) {
        let mut state = self.signal.state.lock();
        if state.may_start && !state.has_thread {
            let (job, signal, cache) = (self.job, Arc::clone(&self.signal), self.me.clone());
            state.has_thread = spawn(job.name, move || run(job, &signal, &cache));
            if !state.has_thread {
                // No thread clears it: the next notification tries again. Relaxed: a hint.
                self.signal.is_notified.store(false, Ordering::Relaxed);
            }
        }
        if state.wanted == Wanted::Nothing || (state.wanted == Wanted::Soon && what == Wanted::Now)
        {
            state.wanted = what;
            self.signal.notified.notify_one();
        }
    }
}

impl<T: Send + Sync + 'static> Drop for Worker<T> {
    fn drop(&mut self) {
        self.set_may_start(false);
    }
}

fn run<T>(job: &Job<T>, signal: &Signal, cache: &Weak<T>) {
    loop {
        {
            let mut state = signal.state.lock();
            while state.wanted == Wanted::Nothing {
                signal.notified.wait(&mut state);
            }
            if state.wanted == Wanted::Soon {
                wait_for(&signal.notified, &mut state, job.delay);
            }
            if state.wanted == Wanted::End {
                state.has_thread = false;
                return;
            }
            state.wanted = Wanted::Nothing;
            state.is_working = true;
            // Relaxed, before the work: who rings from now on is heard again.
            signal.is_notified.store(false, Ordering::Relaxed);
        }
        let Some(cache) = cache.upgrade() else { return };
        let time =
            panic::catch_unwind(AssertUnwindSafe(|| (job.work)(&cache))).unwrap_or_else(|_| {
                // What it did not come to has its turn later.
                let mut state = signal.state.lock();
                if state.wanted == Wanted::Nothing {
                    state.wanted = Wanted::Soon;
                }
                REST
            });
        drop(cache);
        signal.state.lock().is_working = false;
        signal.quiesced.notify_all();
        rest(time);
    }
}
