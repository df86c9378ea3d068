//! Runs one thing on several threads at once, and says whether they truly ran at once.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// Share of the whole that all threads must have run together for a sample to count.
const TOGETHER: f64 = 0.9;

/// CPUs that this process may use.
pub(crate) fn cpus() -> Vec<usize> {
    let Ok(set) = sched_getaffinity(None) else { return vec![0] };
    (0..CpuSet::MAX_CPU).filter(|&cpu| set.is_set(cpu)).collect()
}

/// Runs `work(thread)` on `threads` threads, each on its CPU, from one start. The seconds from the first start to the
/// last end; `None`: they did not run at the same time.
pub(crate) fn together(threads: usize, cpus: &[usize], work: &(dyn Fn(usize) + Sync)) -> Option<f64> {
    let ready = AtomicUsize::new(0);
    let spans: Vec<(Instant, Instant)> = thread::scope(|scope| {
        let handles: Vec<_> = (0..threads)
            .map(|n| {
                let ready = &ready;
                scope.spawn(move || {
                    let mut set = CpuSet::new();
                    set.set(cpus[n % cpus.len()]);
                    // Best effort: where it is refused, the check below still says whether threads overlapped.
                    let _ = sched_setaffinity(None, &set);
                    ready.fetch_add(1, Ordering::AcqRel);
                    while ready.load(Ordering::Acquire) < threads {
                        std::hint::spin_loop();
                    }
                    let start = Instant::now();
                    work(n);
                    (start, Instant::now())
                })
            })
            .collect();
        handles.into_iter().map(|handle| handle.join().expect("a measurement does not panic")).collect()
    });
    let first = spans.iter().map(|span| span.0).min()?;
    let last = spans.iter().map(|span| span.1).max()?;
    let (latest_start, earliest_end) = (spans.iter().map(|span| span.0).max()?, spans.iter().map(|span| span.1).min()?);
    let whole = (last - first).as_secs_f64();
    let shared = earliest_end.saturating_duration_since(latest_start).as_secs_f64();
    (shared >= TOGETHER * whole).then_some(whole)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn threads_that_do_not_run_at_once_give_no_sample() {
        let uneven = |n: usize| thread::sleep(Duration::from_millis(if n == 0 { 40 } else { 1 }));
        assert_eq!(together(2, &cpus(), &uneven), None);
        let seconds = together(2, &cpus(), &|_| thread::sleep(Duration::from_millis(200))).expect("together");
        assert!((0.2..5.0).contains(&seconds), "{seconds}");
    }
}
