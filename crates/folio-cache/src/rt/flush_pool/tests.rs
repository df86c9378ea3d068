//! The cost of many jobs, and the patience of flushes.

use rustix::time::{ClockId, clock_gettime};

use super::*;
use crate::rt::flush_jobs::MAX_THREADS;

/// A file that is written when the lock is free.
struct Numbered(u32, Arc<Mutex<u32>>);

impl Flushable for Numbered {
    fn id(&self) -> u32 {
        self.0
    }
    fn flush(self: &Arc<Self>) -> io::Result<()> {
        *self.1.lock() += 1;
        Ok(())
    }
    fn forget(self: &Arc<Self>) {
        drop(self.1.lock());
    }
    fn panicked(&self) {}
    fn copy(error: &io::Error) -> io::Error {
        error.kind().into()
    }
    fn hung(&self, _: Duration) -> Vec<u32> {
        Vec::new()
    }
}

#[test]
fn a_job_costs_the_same_beside_many_that_wait() {
    const FILES: u32 = 100_000;
    let (pool, written) = (FlushPool::new("test"), Arc::new(Mutex::new(0)));
    let numbered = |n| Arc::new(Numbered(n, Arc::clone(&written)));
    let files: Vec<_> = (0..FILES).map(numbered).collect();
    // Seconds of this thread: a busy machine does not count.
    let time = || clock_gettime(ClockId::ThreadCPUTime).tv_sec;
    let (begun, hold) = (time(), written.lock());
    for _ in 0..2 {
        for file in &files {
            pool.request_to_forget(file);
        }
        assert!(files.iter().all(|file| pool.request(file)));
    }
    assert!(time() - begun < 20, "that many seconds of a processor");
    drop(hold);
    pool.quiesce(|_| Vec::new());
    // A look is no write. Some may be under way at the second request.
    assert!((FILES..FILES + 2 * MAX_THREADS as u32).contains(&written.lock()));
}

/// The files that hang are known, but the others have no thread.
#[test]
fn a_flush_gives_up_files_for_which_no_thread_comes() {
    let pool = FlushPool::new("test");
    let files: Vec<_> = (0..2).map(|n| Arc::new(Numbered(n, Arc::default()))).collect();
    let mut state = pool.inner.state.lock();
    for file in &files {
        state.add(Job { file: Arc::clone(file), flushes: vec![0], may_forget_only: false });
    }
    let left: HashSet<_> = [0, 1].into();
    let mut begin = |ago: Duration| {
        let since = Instant::now().checked_sub(ago).expect("the machine runs for longer");
        state.flushes.insert(0, Flush { since, left: left.clone(), ..Flush::new() });
        state.running.set_moved(since);
        (state.check_patience(0, &files), state.is_quiesced(&[], since))
    };
    assert!(matches!(begin(Duration::ZERO), (Ok(()), false)));
    let (given_up, is_quiesced) = begin(2 * PATIENCE);
    assert_eq!(given_up.unwrap_err().kind(), io::ErrorKind::TimedOut);
    assert!(is_quiesced);
}
