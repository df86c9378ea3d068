//! Runs one thing on several threads at once, and says whether they truly ran at once.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use rustix::time::{ClockId, clock_gettime};

/// The share of the whole time that all threads must have run together, and that each must have had its CPU, for a
/// sample to count.
pub(crate) const TOGETHER: f64 = 0.9;

/// CPUs that this process may use.
pub(crate) fn cpus() -> Vec<usize> {
    let Ok(set) = sched_getaffinity(None) else { return vec![0] };
    (0..CpuSet::MAX_CPU).filter(|&cpu| set.is_set(cpu)).collect()
}

/// One thread's part of a run.
struct Part {
    start: Instant,
    end: Instant,
    /// Time that the thread was on a CPU in between.
    cpu: Duration,
    amount: u64,
}

/// What a run came to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Run {
    /// From the first start to the last end.
    pub(crate) seconds: f64,
    /// What the threads did, added up.
    pub(crate) amount: u64,
    /// The share of its own time that the least served thread had its CPU.
    pub(crate) cpu: f64,
}

/// Runs `work(thread)` on `threads` threads, each on its CPU, from one start. `None`: they did not run at the same
/// time, so whatever they shared was not contended as it should have been.
pub(crate) fn together(threads: usize, cpus: &[usize], work: &(dyn Fn(usize) -> u64 + Sync)) -> Option<Run> {
    let ready = AtomicUsize::new(0);
    let parts: Vec<Part> = thread::scope(|scope| {
        let handles: Vec<_> = (0..threads)
            .map(|n| {
                let ready = &ready;
                scope.spawn(move || {
                    let mut set = CpuSet::new();
                    set.set(cpus[n % cpus.len()]);
                    // Best effort: where it is refused, the checks below still say whether threads overlapped.
                    let _ = sched_setaffinity(None, &set);
                    ready.fetch_add(1, Ordering::AcqRel);
                    while ready.load(Ordering::Acquire) < threads {
                        std::hint::spin_loop();
                    }
                    let (start, cpu) = (Instant::now(), cpu_time());
                    let amount = work(n);
                    let cpu = cpu_time().saturating_sub(cpu);
                    Part { start, end: Instant::now(), cpu, amount }
                })
            })
            .collect();
        handles.into_iter().map(|handle| handle.join().expect("a measurement does not panic")).collect()
    });
    judge(&parts)
}

fn judge(parts: &[Part]) -> Option<Run> {
    let (first, last) = (parts.iter().map(|part| part.start).min()?, parts.iter().map(|part| part.end).max()?);
    let (latest, earliest) = (parts.iter().map(|part| part.start).max()?, parts.iter().map(|part| part.end).min()?);
    let seconds = (last - first).as_secs_f64();
    let shared = earliest.saturating_duration_since(latest).as_secs_f64();
    let on_cpu = |part: &Part| (part.cpu.as_secs_f64() / (part.end - part.start).as_secs_f64()).min(1.0);
    let cpu = parts.iter().map(on_cpu).fold(1.0, f64::min);
    let counts = shared >= TOGETHER * seconds && cpu >= TOGETHER;
    counts.then_some(Run { seconds, amount: parts.iter().map(|part| part.amount).sum(), cpu })
}

fn cpu_time() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(now.tv_sec.cast_unsigned(), u32::try_from(now.tv_nsec).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A part from one millisecond to another, with this much time on a CPU.
    fn part(zero: Instant, start: u64, end: u64, cpu: u64) -> Part {
        let at = |milliseconds| zero + Duration::from_millis(milliseconds);
        Part { start: at(start), end: at(end), cpu: Duration::from_millis(cpu), amount: 5 }
    }

    #[test]
    fn threads_that_do_not_run_at_once_give_no_sample() {
        let zero = Instant::now();
        let run = |parts: &[(u64, u64, u64)]| {
            judge(&parts.iter().map(|&(start, end, cpu)| part(zero, start, end, cpu)).collect::<Vec<_>>())
        };
        assert_eq!(run(&[(0, 100, 100), (0, 100, 98)]), Some(Run { seconds: 0.1, amount: 10, cpu: 0.98 }));
        assert_eq!(run(&[(0, 100, 100), (0, 50, 50)]), None, "half the time there was one thread");
        assert_eq!(run(&[(0, 100, 100), (0, 100, 60)]), None, "one waited for a CPU");
        assert_eq!(run(&[(0, 100, 100), (100, 200, 100)]), None, "one after the other");
    }

    #[test]
    fn every_thread_works_and_is_counted() {
        // Short, so that it comes through between two preemptions on a busy machine as well.
        let spin = |thread: usize| {
            let start = Instant::now();
            while start.elapsed() < Duration::from_millis(2) {}
            thread as u64 + 1
        };
        let run = (0..500).find_map(|_| together(1, &cpus(), &spin)).expect("one attempt of 500");
        assert!(run.amount == 1 && (0.002..0.003).contains(&run.seconds), "{run:?}");
        for run in (0..5).filter_map(|_| together(2, &cpus(), &spin)) {
            assert!(run.amount == 3 && (0.002..0.003).contains(&run.seconds), "{run:?}");
        }
    }
}
