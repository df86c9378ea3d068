//! The flusher: a thread that writes dirty pages after a while.
//!
//! It starts with the first dirty page of a cache and sleeps while nothing is dirty. It holds the cache weakly: when that
//! goes, the thread ends. Where no thread can be started, dirty pages are written by syncs, by the last close, and by
//! writers past the limit.

use std::sync::{Arc, OnceLock, Weak};
use std::thread;
use std::time::Duration;

use page_ref::Scheme;
use parking_lot::{Condvar, Mutex};

use crate::cache::Inner;

/// How long a page may stay dirty before its turn comes.
const AGE: Duration = Duration::from_secs(1);

#[derive(Debug, PartialEq, Eq)]
enum Wanted {
    Nothing,
    Soon,
    Now,
    End,
}

#[derive(Debug)]
struct Bell {
    wanted: Mutex<Wanted>,
    rung: Condvar,
    /// Held by the thread while it writes.
    working: Mutex<()>,
}

/// The thread, as its cache sees it.
pub(crate) struct Flusher<S: Scheme> {
    bell: Arc<Bell>,
    started: OnceLock<()>,
    me: Weak<Inner<S>>,
}

impl<S: Scheme> Flusher<S> {
    pub(crate) fn new(me: Weak<Inner<S>>) -> Self {
        let bell = Bell { wanted: Mutex::new(Wanted::Nothing), rung: Condvar::new(), working: Mutex::new(()) };
        Self { bell: Arc::new(bell), started: OnceLock::new(), me }
    }

    /// Something is dirty: the thread is to write it after a while.
    #[cold]
    pub(crate) fn wake(&self) {
        if cfg!(shuttle) {
            // Nobody plays its turns.
            return;
        }
        self.started.get_or_init(|| {
            let (bell, cache) = (Arc::clone(&self.bell), self.me.clone());
            // Without it: see above.
            let _ = thread::Builder::new().name("folio-flusher".to_owned()).spawn(move || run(&bell, &cache));
        });
        self.ring(Wanted::Soon);
    }

    /// Much is dirty: it is to begin at once.
    pub(crate) fn hurry(&self) {
        self.ring(Wanted::Now);
    }

    /// Waits until it is not at work, and holds no file.
    pub(crate) fn settle(&self) {
        drop(self.bell.working.lock());
    }

    fn ring(&self, what: Wanted) {
        let mut wanted = self.bell.wanted.lock();
        if *wanted == Wanted::Nothing || what == Wanted::End || (*wanted == Wanted::Soon && what == Wanted::Now) {
            *wanted = what;
            self.bell.rung.notify_one();
        }
    }
}

impl<S: Scheme> Drop for Flusher<S> {
    fn drop(&mut self) {
        self.ring(Wanted::End);
    }
}

fn run<S: Scheme>(bell: &Bell, cache: &Weak<Inner<S>>) {
    loop {
        {
            let mut wanted = bell.wanted.lock();
            while *wanted == Wanted::Nothing {
                bell.rung.wait(&mut wanted);
            }
            if *wanted == Wanted::Soon {
                bell.rung.wait_for(&mut wanted, AGE);
            }
            if *wanted == Wanted::End {
                return;
            }
            *wanted = Wanted::Nothing;
        }
        let working = bell.working.lock();
        let Some(cache) = cache.upgrade() else { return };
        // The errors are told to who has the files open.
        let failed = cache.write_back_all().is_err();
        if cache.dirty_pages() > 0 {
            // Dirty again meanwhile, or it failed: then not at once.
            cache.flusher.wake();
        }
        drop(cache);
        drop(working);
        if failed {
            thread::sleep(AGE);
        }
    }
}
