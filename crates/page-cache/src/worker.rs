//! A worker: a thread of a cache that does one thing when it is rung for, and sleeps otherwise.
//!
//! It starts when it is first needed. It holds the cache weakly: when that goes, the thread ends. Where no thread can be
//! started, the work is done by who can not wait for it any longer: each job says by whom.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::thread;
use std::time::Duration;

use page_ref::Scheme;
use parking_lot::{Condvar, Mutex};

use crate::cache::Inner;

#[derive(Debug, PartialEq, Eq)]
enum Wanted {
    Nothing,
    /// After the job's delay.
    Soon,
    Now,
    End,
}

#[derive(Debug)]
struct Bell {
    wanted: Mutex<Wanted>,
    rung: Condvar,
    /// Somebody rang for now, and the thread did not come yet: so that many can ring often.
    is_ringing: AtomicBool,
    /// Held by the thread while it works.
    working: Mutex<()>,
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
    started: OnceLock<()>,
    me: Weak<Inner<S>>,
}

impl<S: Scheme> Worker<S> {
    pub(crate) fn new(job: &'static Job<S>, me: Weak<Inner<S>>) -> Self {
        let bell = Bell {
            wanted: Mutex::new(Wanted::Nothing),
            rung: Condvar::new(),
            is_ringing: AtomicBool::new(false),
            working: Mutex::new(()),
        };
        Self { job, bell: Arc::new(bell), started: OnceLock::new(), me }
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

    /// Waits until it is not at work, and holds no file.
    pub(crate) fn settle(&self) {
        drop(self.bell.working.lock());
    }

    #[cold]
    fn ring(&self, what: Wanted) {
        if cfg!(shuttle) {
            // Nobody plays its turns.
            return;
        }
        self.started.get_or_init(|| {
            let (job, bell, cache) = (self.job, Arc::clone(&self.bell), self.me.clone());
            // Without it: see above.
            let _ = thread::Builder::new().name(job.name.to_owned()).spawn(move || run(job, &bell, &cache));
        });
        let mut wanted = self.bell.wanted.lock();
        if *wanted == Wanted::Nothing || what == Wanted::End || (*wanted == Wanted::Soon && what == Wanted::Now) {
            *wanted = what;
            self.bell.rung.notify_one();
        }
    }
}

impl<S: Scheme> Drop for Worker<S> {
    fn drop(&mut self) {
        if self.started.get().is_some() {
            self.ring(Wanted::End);
        }
    }
}

fn run<S: Scheme>(job: &Job<S>, bell: &Bell, cache: &Weak<Inner<S>>) {
    loop {
        {
            let mut wanted = bell.wanted.lock();
            while *wanted == Wanted::Nothing {
                bell.rung.wait(&mut wanted);
            }
            if *wanted == Wanted::Soon {
                bell.rung.wait_for(&mut wanted, job.delay);
            }
            if *wanted == Wanted::End {
                return;
            }
            *wanted = Wanted::Nothing;
            // Relaxed, before the work: who rings from now on is heard again.
            bell.is_ringing.store(false, Ordering::Relaxed);
        }
        let working = bell.working.lock();
        let Some(cache) = cache.upgrade() else { return };
        let rest = (job.work)(&cache);
        drop(cache);
        drop(working);
        thread::sleep(rest);
    }
}
