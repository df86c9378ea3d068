//! The threads of the flusher: one job for each file at a time, so that a file with requests that
//! hang holds one thread and delays no other file.
//!
//! Threads start when there are jobs and end when there were none for a while. `flush_jobs.rs` says
//! how many there may be.
//!
//! Without a thread, the caller does the job itself.

use std::any::Any;
use std::collections::{HashMap, HashSet, VecDeque};
use std::io;
use std::panic;
use std::sync::Arc;
use std::time::{Duration, Instant};

use folio_ref::broken;

use crate::rt::busy::HUNG_AFTER;
use crate::rt::flush_jobs::FlushJobs;
use crate::rt::foreign::catch_panic;
use crate::rt::shim::{Condvar, Mutex, MutexGuard, spawn, wait_for};

/// The time that a thread waits for more jobs.
const IDLE: Duration = Duration::from_secs(2);

/// The time between two looks at what a caller waits for.
const PAUSE: Duration = Duration::from_millis(1);

/// The time after which [`FlushPool::flush`] gives up a file with a request that does not end, and
/// one that waits for a thread while none has a job that begins or ends.
const PATIENCE: Duration = Duration::from_secs(30);

/// A file that can be flushed.
pub(crate) trait Flushable: Send + Sync + 'static {
    /// Returns the number of the file.
    fn id(&self) -> u32;

    /// Writes everything that was dirty before the call.
    ///
    /// # Errors
    ///
    /// The first error of the backing.
    fn flush(self: &Arc<Self>) -> io::Result<()>;

    /// Forgets what is dirty if nothing can need it any more.
    fn forget(self: &Arc<Self>);

    /// Notes that a flush by a thread of the pool panicked.
    fn panicked(&self);

    /// Returns the same error for another caller.
    fn copy(error: &io::Error) -> io::Error;

    /// Returns the numbers of the files with a request that takes longer than `time`.
    fn hung(&self, time: Duration) -> Vec<u32>;
}

/// The flush threads of a cache.
pub(crate) struct FlushPool<F: Flushable> {
    inner: Arc<Inner<F>>,
}

struct Inner<F: Flushable> {
    thread_name: String,
    state: Mutex<State<F>>,
    /// There is a job, or the thread must end.
    work: Condvar,
    /// A job ended.
    ended: Condvar,
}

struct State<F: Flushable> {
    /// The numbers of the files that wait, in order. **Invariant:** a file is here or in `running`,
    /// and once.
    queue: VecDeque<u32>,
    /// The jobs of the files in the queue.
    waiting: HashMap<u32, Job<F>>,
    running: FlushJobs<Job<F>>,
    /// The flushes that callers wait for, by number.
    flushes: HashMap<u64, Flush>,
    next_flush: u64,
    threads: usize,
    /// The number of threads that wait for a job.
    idle: usize,
    /// The number of threads that were started and have not looked for a job yet.
    starting: usize,
    may_start: bool,
}

/// A file to write, and the flushes that wait for it.
struct Job<F: Flushable> {
    file: Arc<F>,
    flushes: Vec<u64>,
    /// It is not due to be written: it may only be forgotten.
    may_forget_only: bool,
}

/// A flush of several files.
struct Flush {
    since: Instant,
    /// The numbers of the mappings that are not written yet.
    left: HashSet<u32>,
    result: io::Result<()>,
    panic: Option<Box<dyn Any + Send>>,
}

impl<F: Flushable> FlushPool<F> {
    /// Returns a pool without threads. `prefix` begins their names.
    pub(crate) fn new(prefix: &str) -> Self {
        let thread_name = format!("{prefix}-flush");
        let state = State {
            queue: VecDeque::new(),
            waiting: HashMap::new(),
            running: FlushJobs::new(),
            flushes: HashMap::new(),
            next_flush: 0,
            threads: 0,
            idle: 0,
            starting: 0,
            // Under shuttle the test sets it.
            may_start: !cfg!(shuttle),
        };
        let (work, ended) = (Condvar::new(), Condvar::new());
        Self { inner: Arc::new(Inner { thread_name, state: Mutex::new(state), work, ended }) }
    }

    /// Allows threads to start, or not. If not, jobs that wait are dropped, and threads end.
    pub(crate) fn set_may_start(&self, may_start: bool) {
        let mut state = self.inner.state.lock();
        state.may_start = may_start;
        let dropped = if may_start { Vec::new() } else { state.take_all() };
        self.inner.work.notify_all();
        self.inner.ended.notify_all();
        drop(state);
        // Not under the lock: each may hold the last reference to its file.
        drop(dropped);
    }

    /// Requests a flush of a file. Returns `false` if there is no thread for it.
    pub(crate) fn request(&self, file: &Arc<F>) -> bool {
        let mut state = self.inner.state.lock();
        self.inner.push(&mut state, file, None, false)
    }

    /// Requests a look at a file that is not due to be written: it may have lost its name.
    pub(crate) fn request_to_forget(&self, file: &Arc<F>) {
        let mut state = self.inner.state.lock();
        self.inner.push(&mut state, file, None, true);
    }

    /// Flushes files, many at a time. The jobs of this call begin after the call.
    ///
    /// # Errors
    ///
    /// The first error of a backing; `TimedOut` if a request of a backing does not end for a long
    /// time: the other files are flushed then.
    ///
    /// # Panics
    ///
    /// If a backing panics, after the other files were flushed.
    pub(crate) fn flush(&self, files: &[Arc<F>]) -> io::Result<()> {
        let mut alone = Vec::new();
        let mut state = self.inner.state.lock();
        let flush = state.next_flush;
        state.next_flush += 1;
        state.flushes.insert(flush, Flush::new());
        for file in files {
            if self.inner.push(&mut state, file, Some(flush), false) {
                state.flush(flush).left.insert(file.id());
            } else {
                alone.push(file);
            }
        }
        for file in alone {
            let written = MutexGuard::unlocked(&mut state, || catch_panic(|| file.flush()));
            state.flush(flush).note(written);
        }
        let mut result = Ok(());
        while result.is_ok() && !state.flush(flush).left.is_empty() {
            wait_a_moment(&self.inner.ended, &mut state);
            if let Some(file) = files.first().filter(|_| !cfg!(shuttle) && state.has_waiting()) {
                // Jobs under way may be slow by now, or hang.
                self.inner.make_room(&mut state, file);
            }
            result = state.check_patience(flush, files);
        }
        let Some(flush) = state.flushes.remove(&flush) else { return result };
        drop(state);
        if let Some(panic) = flush.panic {
            panic::resume_unwind(panic);
        }
        result.and(flush.result)
    }

    /// Waits until `is_enough` returns `true`, for at most `time`.
    pub(crate) fn wait_until(&self, time: Duration, is_enough: impl Fn() -> bool) -> bool {
        let end = Instant::now() + time;
        let mut state = self.inner.state.lock();
        loop {
            if is_enough() {
                return true;
            }
            if Instant::now() >= end {
                return false;
            }
            wait_for(&self.inner.ended, &mut state, PAUSE);
            if cfg!(shuttle) {
                return is_enough();
            }
        }
    }

    /// Waits until no file is written by these threads, and they hold none, except files with
    /// requests that hang.
    pub(crate) fn quiesce(&self, hung: impl Fn(Duration) -> Vec<u32>) {
        let since = Instant::now();
        let mut state = self.inner.state.lock();
        while !state.is_quiesced(&hung(HUNG_AFTER), since) {
            wait_a_moment(&self.inner.ended, &mut state);
        }
    }

    /// Waits until these threads do not write a file, unless a request of it hangs.
    pub(crate) fn quiesce_file(&self, file: &F) {
        let since = Instant::now();
        let mut state = self.inner.state.lock();
        while state.has(file.id()) && !state.hangs(file.id(), &file.hung(HUNG_AFTER), since) {
            wait_a_moment(&self.inner.ended, &mut state);
        }
    }
}

impl<F: Flushable> Drop for FlushPool<F> {
    fn drop(&mut self) {
        // Nothing waits: each job holds the cache. This may be one of the threads.
        self.set_may_start(false);
    }
}

impl Flush {
    fn new() -> Self {
        Self { since: Instant::now(), left: HashSet::new(), result: Ok(()), panic: None }
    }

    fn note(&mut self, written: std::thread::Result<io::Result<()>>) {
        match written {
            Ok(written) if self.result.is_ok() => self.result = written,
            Ok(_) => {}
            Err(panic) => _ = self.panic.get_or_insert(panic),
        }
    }
}

impl<F: Flushable> State<F> {
    /// Takes all jobs that wait. The flushes do not wait for them any longer.
    fn take_all(&mut self) -> Vec<Job<F>> {
        self.queue.clear();
        let mut jobs: Vec<_> = self.waiting.drain().map(|(_, job)| job).collect();
        jobs.extend(self.running.take_after());
        for job in &jobs {
            let error = io::Error::new(io::ErrorKind::Interrupted, "the cache's threads ended");
            let id = job.file.id();
            let mut error = Some(error);
            for flush in &job.flushes {
                if let Some(flush) = self.flushes.get_mut(flush) {
                    flush.left.remove(&id);
                    flush.note(Ok(Err(error
                        .take()
                        .unwrap_or_else(|| io::ErrorKind::Interrupted.into()))));
                }
            }
        }
        jobs
    }

    fn add(&mut self, job: Job<F>) {
        self.queue.push_back(job.file.id());
        self.waiting.insert(job.file.id(), job);
    }

    fn next(&mut self) -> Option<Job<F>> {
        self.waiting.remove(&self.queue.pop_front()?)
    }

    fn flush(&mut self, number: u64) -> &mut Flush {
        self.flushes.get_mut(&number).expect("the caller of a flush removes it")
    }

    fn has(&self, id: u32) -> bool {
        self.running.contains(id) || self.waiting.contains_key(&id)
    }

    fn has_waiting(&self) -> bool {
        !self.queue.is_empty()
    }

    /// Returns `true` if a file hangs, or waits for a thread that will not come. `since` is when
    /// the caller came.
    fn hangs(&self, id: u32, hung: &[u32], since: Instant) -> bool {
        hung.contains(&id)
            || self.waiting.contains_key(&id) && self.running.are_stuck(since, PATIENCE)
    }

    fn is_quiesced(&self, hung: &[u32], since: Instant) -> bool {
        let mut ids = self.waiting.keys().copied().chain(self.running.ids());
        ids.all(|id| self.hangs(id, hung, since))
    }

    /// Returns an error if all files that a flush still waits for have hung for a long time.
    fn check_patience(&self, flush: u64, files: &[Arc<F>]) -> io::Result<()> {
        let Some((flush, file)) = self.flushes.get(&flush).zip(files.first()) else {
            return Ok(());
        };
        if flush.left.is_empty() {
            return Ok(());
        }
        let hung = file.hung(PATIENCE);
        if !flush.left.iter().all(|&id| self.hangs(id, &hung, flush.since)) {
            return Ok(());
        }
        let waiting = flush.left.iter().filter(|id| !hung.contains(id)).count();
        let hung = flush.left.len() - waiting;
        let others = match waiting {
            0 => String::new(),
            _ => format!(", and {waiting} files wait for their threads"),
        };
        let message = format!(
            "requests of {hung} files have not ended for {PATIENCE:?}{others}; the rest is flushed"
        );
        Err(io::Error::new(io::ErrorKind::TimedOut, message))
    }
}

impl<F: Flushable> Inner<F> {
    /// Queues a job, or adds the flush to that of the same file. Returns `false` if there is no
    /// thread for it.
    fn push(
        self: &Arc<Self>,
        state: &mut State<F>,
        file: &Arc<F>,
        flush: Option<u64>,
        may_forget_only: bool,
    ) -> bool {
        if !state.may_start {
            return false;
        }
        if let Some(job) = state.waiting.get_mut(&file.id()) {
            job.flushes.extend(flush);
            job.may_forget_only &= may_forget_only || broken!("look-absorbs-flush");
            // Threads may have hung since it was queued.
            self.make_room(state, file);
            return true;
        }
        let flushes = flush.into_iter().collect();
        let job = Job { file: Arc::clone(file), flushes, may_forget_only };
        if let Some(after) = state.running.after(file.id()) {
            // Pages may have become dirty behind the job under way.
            match after {
                Some(after) => {
                    after.flushes.extend(flush);
                    after.may_forget_only &= may_forget_only;
                }
                None => *after = Some(job),
            }
            return true;
        }
        self.make_room(state, file);
        if state.threads == 0 {
            return false;
        }
        state.add(job);
        self.work.notify_one();
        true
    }

    /// Starts a thread if none is idle or about to look for a job. A thread that finds more than
    /// one job starts the next, so that fast files need few threads.
    fn make_room(self: &Arc<Self>, state: &mut State<F>, file: &F) {
        if state.idle > 0 || state.starting > 0 || !state.may_start {
            return;
        }
        if !state.running.may_have_more(state.threads, |time| file.hung(time)) {
            return;
        }
        let inner = Arc::clone(self);
        if spawn(&self.thread_name, move || inner.serve()) {
            (state.threads, state.starting) = (state.threads + 1, state.starting + 1);
        }
    }

    /// Runs one thread.
    fn serve(self: &Arc<Self>) {
        let mut is_new = true;
        while let Some(job) = self.next(std::mem::take(&mut is_new)) {
            self.work_on(job);
        }
    }

    /// Returns the next job, or `None` if there was none for a while.
    fn next(self: &Arc<Self>, is_new: bool) -> Option<Job<F>> {
        let mut state = self.state.lock();
        state.starting -= usize::from(is_new);
        let mut was_idle = false;
        loop {
            if let Some(job) = state.next() {
                state.running.begin(job.file.id());
                if !state.queue.is_empty() {
                    self.make_room(&mut state, &job.file);
                }
                return Some(job);
            }
            if was_idle || !state.may_start {
                state.threads -= 1;
                return None;
            }
            state.idle += 1;
            was_idle = wait_for(&self.work, &mut state, IDLE);
            state.idle -= 1;
        }
    }

    fn work_on(&self, job: Job<F>) {
        let Job { file, flushes, may_forget_only } = job;
        let id = file.id();
        let work = || {
            if may_forget_only {
                file.forget();
                return Ok(());
            }
            file.flush()
        };
        let mut written = Some(catch_panic(work));
        if matches!(written, Some(Err(_))) {
            file.panicked();
        }
        // Before the end of the job: its file may be closed. Not under the lock.
        drop(file);
        let mut state = self.state.lock();
        for number in flushes {
            if let Some(flush) = state.flushes.get_mut(&number) {
                flush.left.remove(&id);
                flush.note(match &written {
                    Some(Ok(Ok(()))) | None => Ok(Ok(())),
                    Some(Ok(Err(error))) => Ok(Err(F::copy(error))),
                    Some(Err(_)) => written.take().unwrap_or(Ok(Ok(()))),
                });
            }
        }
        if let Some(after) = state.running.end(id) {
            state.add(after);
        }
        self.ended.notify_all();
    }
}

/// Waits until a job ends, or for a moment: files may hang meanwhile.
fn wait_a_moment<T>(ended: &Condvar, guard: &mut MutexGuard<'_, T>) {
    if cfg!(shuttle) {
        ended.wait(guard);
    } else {
        wait_for(ended, guard, 10 * PAUSE);
    }
}

#[cfg(all(test, not(shuttle)))]
mod tests;
