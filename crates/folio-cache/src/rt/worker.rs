//! A worker: a lazily started background thread that runs one job each time it is notified.
//!
//! The thread holds its target, the cache, weakly, and ends when the target is dropped. If no
//! thread can be started, the next notification tries again. Until then, the callers that cannot
//! wait any longer do the work themselves: each job documents which callers these are.

use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use crate::rt::shim::{Condvar, Mutex, back_off, spawn, wait_for};

/// The time to back off after a job panicked, as a backing may.
const PANIC_BACK_OFF: Duration = Duration::from_secs(1);

/// The next step of the thread.
#[derive(Debug, PartialEq, Eq)]
enum Wanted {
    Nothing,
    /// The job, after its delay.
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
    /// There is something to do, or the thread must end.
    wanted: Condvar,
    /// [`Worker::notify_now`] was called, and the job has not begun since. It makes frequent
    /// notifications cheap.
    is_notified: AtomicBool,
    /// The job ended, or will not run.
    quiesced: Condvar,
}

/// The job of a worker.
pub(crate) struct Job<T> {
    /// The end of the thread's name.
    pub(crate) name: &'static str,
    /// The delay of [`Worker::notify_soon`].
    pub(crate) delay: Duration,
    /// Does the work. Returns the time to back off after it, during which notifications wait.
    pub(crate) work: fn(&T) -> Duration,
}

/// The handle of a worker thread.
pub(crate) struct Worker<T: Send + Sync + 'static> {
    job: &'static Job<T>,
    thread_name: String,
    signal: Arc<Signal>,
    target: Weak<T>,
}

impl<T: Send + Sync + 'static> Worker<T> {
    /// Returns a worker without a thread, which runs `job` on `target`. `prefix` begins the
    /// thread's name.
    pub(crate) fn new(job: &'static Job<T>, prefix: &str, target: Weak<T>) -> Self {
        let signal = Signal {
            // Under shuttle each test decides if there is a thread.
            state: Mutex::new(State {
                wanted: Wanted::Nothing,
                may_start: !cfg!(shuttle),
                has_thread: false,
                is_working: false,
            }),
            wanted: Condvar::new(),
            is_notified: AtomicBool::new(false),
            quiesced: Condvar::new(),
        };
        let thread_name = format!("{prefix}-{}", job.name);
        Self { job, thread_name, signal: Arc::new(signal), target }
    }

    /// Allows or forbids a thread. A thread that is forbidden ends after its current job.
    pub(crate) fn set_may_start(&self, may_start: bool) {
        let mut state = self.signal.state.lock();
        state.may_start = may_start;
        if !may_start {
            state.wanted = Wanted::End;
        } else if state.wanted == Wanted::End {
            state.wanted = Wanted::Now;
        }
        self.signal.is_notified.store(false, Ordering::Relaxed);
        self.signal.wanted.notify_one();
        // The job they wait for will not run.
        self.signal.quiesced.notify_all();
    }

    /// Notifies the worker of work to do after the job's delay.
    #[cold]
    pub(crate) fn notify_soon(&self) {
        self.notify(Wanted::Soon);
    }

    /// Notifies the worker of work to do now. Cheap while an earlier notification is pending.
    #[inline]
    pub(crate) fn notify_now(&self) {
        // Relaxed: a hint. If a notification is lost, its caller will notify again.
        if !self.signal.is_notified.load(Ordering::Relaxed) {
            self.signal.is_notified.store(true, Ordering::Relaxed);
            self.notify(Wanted::Now);
        }
    }

    /// Waits until the thread is neither at work nor about to be, and holds no file.
    pub(crate) fn quiesce(&self) {
        let mut state = self.signal.state.lock();
        while state.is_working || (state.has_thread && state.wanted == Wanted::Now) {
            self.signal.quiesced.wait(&mut state);
        }
    }

    /// Sets what is wanted, unless more is wanted already, and starts the thread if there is none.
    #[cold]
    fn notify(&self, what: Wanted) {
        let mut state = self.signal.state.lock();
        if state.may_start && !state.has_thread {
            let (job, signal, target) = (self.job, Arc::clone(&self.signal), self.target.clone());
            state.has_thread = spawn(&self.thread_name, move || run(job, &signal, &target));
            if !state.has_thread {
                // No thread clears it: the next notification tries again. Relaxed: a hint.
                self.signal.is_notified.store(false, Ordering::Relaxed);
            }
        }
        if state.wanted == Wanted::Nothing || (state.wanted == Wanted::Soon && what == Wanted::Now)
        {
            state.wanted = what;
            self.signal.wanted.notify_one();
        }
    }
}

impl<T: Send + Sync + 'static> Drop for Worker<T> {
    fn drop(&mut self) {
        self.set_may_start(false);
    }
}

/// Runs the thread until it must end.
fn run<T>(job: &Job<T>, signal: &Signal, target: &Weak<T>) {
    loop {
        {
            let mut state = signal.state.lock();
            while state.wanted == Wanted::Nothing {
                signal.wanted.wait(&mut state);
            }
            if state.wanted == Wanted::Soon {
                wait_for(&signal.wanted, &mut state, job.delay);
            }
            if state.wanted == Wanted::End {
                state.has_thread = false;
                return;
            }
            state.wanted = Wanted::Nothing;
            state.is_working = true;
            // Relaxed, before the work: a notification from now on asks for another run.
            signal.is_notified.store(false, Ordering::Relaxed);
        }
        let Some(target) = target.upgrade() else { return };
        let time =
            panic::catch_unwind(AssertUnwindSafe(|| (job.work)(&target))).unwrap_or_else(|_| {
                // The rest of the work has its turn later.
                let mut state = signal.state.lock();
                if state.wanted == Wanted::Nothing {
                    state.wanted = Wanted::Soon;
                }
                PANIC_BACK_OFF
            });
        drop(target);
        signal.state.lock().is_working = false;
        signal.quiesced.notify_all();
        back_off(time);
    }
}
