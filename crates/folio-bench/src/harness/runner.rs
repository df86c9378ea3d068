//! Runs work on several threads at once, and discards runs in which they did not run at once.
//!
//! A thread that is not on a CPU waits for one of two reasons. It may wait for something that
//! another thread has, such as a lock: that is part of the measurement. Or it is ready to run and
//! has no CPU: then the sample says more about the thread that has the CPU. The system tells the
//! two apart: `schedstat` and `status` in `/proc/thread-self` count the time that a thread was
//! ready and did not run, and its sleeps. Where they are missing, all time off the CPU counts as
//! lack of a CPU; then no thread that sleeps gets a sample.
//!
//! The CPU may be taken by another thread of the contender, for example one that fills pages in the
//! background. That is part of the measurement too. Therefore the time that the process's other
//! threads used is subtracted from the time that the measured threads waited.

use std::fs;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use rustix::time::{ClockId, clock_gettime};

/// A sample counts if all threads ran together for this share of the whole time, and if each thread
/// had its CPU or needed none for this share of its own.
pub(crate) const TOGETHER: f64 = 0.9;

/// The time that a woken thread may need to reach an idle CPU. On a virtual CPU that was halted, 50
/// to 230 us were seen with no competitor for it. This much is the price of the sleep; any longer,
/// and another process had the CPU.
const WAKE: Duration = Duration::from_micros(150);

/// Returns the CPUs that this process may use.
pub(crate) fn cpus() -> Vec<usize> {
    let Ok(set) = sched_getaffinity(None) else { return vec![0] };
    (0..CpuSet::MAX_CPU).filter(|&cpu| set.is_set(cpu)).collect()
}

/// One thread's part of a run.
struct Part {
    start: Instant,
    end: Instant,
    /// The time that the thread was on a CPU in between.
    cpu: Duration,
    /// The time that the thread was ready to run and had no CPU.
    delayed: Duration,
    /// The time that all threads of the process were on a CPU in between.
    process: Duration,
    amount: u64,
}

/// The result of a run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Run {
    /// Seconds from the first start to the last end.
    pub(crate) seconds: f64,
    /// The amount that all threads did.
    pub(crate) amount: u64,
    /// For the thread with the least of it: the share of its own time in which it had its CPU,
    /// needed none, or the contender's other threads had it.
    pub(crate) cpu: f64,
    /// For the thread that slept most: the share of its own time in which it waited for something
    /// other than a CPU.
    pub(crate) slept: f64,
}

/// Sets a flag when it is dropped, also by a panic: threads that wait for it end then.
pub(crate) struct SetOnDrop<'a>(pub(crate) &'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        // Relaxed: a flag of its own.
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Runs `work(thread)` on `threads` threads, each on its CPU, from one start. Returns `None` if
/// they did not run at the same time, as contention was then less than intended.
///
/// # Errors
///
/// The system's error if it does not start so many threads.
pub(crate) fn together(
    threads: usize,
    cpus: &[usize],
    work: &(dyn Fn(usize) -> u64 + Sync),
) -> io::Result<Option<Run>> {
    let (ready, over) = (AtomicUsize::new(0), AtomicBool::new(false));
    let parts = thread::scope(|scope| {
        // The scope waits for the threads that started, and they for those that did not.
        let _over = SetOnDrop(&over);
        let handles: Vec<_> = (0..threads)
            .map(|n| {
                let (ready, over) = (&ready, &over);
                let run = move || {
                    let mut set = CpuSet::new();
                    set.set(cpus[n % cpus.len()]);
                    // Best effort. Where it is refused, the checks below still find out if the
                    // threads overlapped.
                    let _ = sched_setaffinity(None, &set);
                    let before = Waits::now();
                    ready.fetch_add(1, Ordering::AcqRel);
                    while ready.load(Ordering::Acquire) < threads {
                        if over.load(Ordering::Relaxed) {
                            return None;
                        }
                        std::hint::spin_loop();
                    }
                    let process = cpu_time(ClockId::ProcessCPUTime);
                    let (start, cpu) = (Instant::now(), cpu_time(ClockId::ThreadCPUTime));
                    let amount = work(n);
                    let cpu = cpu_time(ClockId::ThreadCPUTime).saturating_sub(cpu);
                    let end = Instant::now();
                    let process = cpu_time(ClockId::ProcessCPUTime).saturating_sub(process);
                    let delayed =
                        Waits::delayed(before, Waits::now(), (end - start).saturating_sub(cpu));
                    Some(Part { start, end, cpu, delayed, process, amount })
                };
                start_thread(n, threads, thread::Builder::new().spawn_scoped(scope, run))
            })
            .collect::<io::Result<_>>()?;
        let join = |handle: thread::ScopedJoinHandle<'_, Option<Part>>| {
            handle.join().expect("the measured work does not panic")
        };
        Ok::<_, io::Error>(handles.into_iter().filter_map(join).collect::<Vec<_>>())
    })?;
    Ok(judge(&parts))
}

/// Returns a thread that was started, or an error that says how many of `all` threads were.
pub(crate) fn start_thread<T>(before: usize, all: usize, started: io::Result<T>) -> io::Result<T> {
    started.map_err(|error| {
        let message = format!("only {before} of {all} threads could be started: {error}");
        io::Error::new(error.kind(), message)
    })
}

/// Combines the parts of a run. Returns `None` if the run does not count.
fn judge(parts: &[Part]) -> Option<Run> {
    let (first, last) =
        (parts.iter().map(|part| part.start).min()?, parts.iter().map(|part| part.end).max()?);
    let (latest, earliest) =
        (parts.iter().map(|part| part.start).max()?, parts.iter().map(|part| part.end).min()?);
    let seconds = (last - first).as_secs_f64();
    let shared = earliest.saturating_duration_since(latest).as_secs_f64();
    let share = |time: Duration, part: &Part| {
        (time.as_secs_f64() / (part.end - part.start).as_secs_f64()).min(1.0)
    };
    let sum = |time: fn(&Part) -> Duration| parts.iter().map(time).sum::<Duration>();
    // The time that the process's other threads used. It is an upper bound: the time of a measured
    // thread before this one began or after it ended is subtracted too.
    let others =
        parts.iter().map(|part| part.process.saturating_sub(sum(|part| part.cpu))).max()?;
    let foreign = sum(|part| part.delayed).saturating_sub(others);
    let cpu =
        1.0 - parts.iter().map(|part| share(part.delayed.min(foreign), part)).fold(0.0, f64::max);
    let off = |part: &Part| (part.end - part.start).saturating_sub(part.cpu + part.delayed);
    let slept = parts.iter().map(|part| share(off(part), part)).fold(0.0, f64::max);
    let counts = shared >= TOGETHER * seconds && cpu >= TOGETHER;
    counts.then_some(Run {
        seconds,
        amount: parts.iter().map(|part| part.amount).sum(),
        cpu,
        slept,
    })
}

/// The waits of this thread since it began.
#[derive(Clone, Copy)]
struct Waits {
    /// The time that it was ready and did not run.
    delayed: Duration,
    /// The number of times that it went to sleep.
    sleeps: u64,
}

impl Waits {
    /// Reads the counters of this thread. Returns `None` where the system does not have them.
    fn now() -> Option<Self> {
        // The fields: time on a CPU, time waiting for one, number of time slices; in nanoseconds.
        let schedule = fs::read_to_string("/proc/thread-self/schedstat").ok()?;
        let delayed = Duration::from_nanos(schedule.split_whitespace().nth(1)?.parse().ok()?);
        let status = fs::read_to_string("/proc/thread-self/status").ok()?;
        let sleeps =
            status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))?;
        Some(Self { delayed, sleeps: sleeps.trim().parse().ok()? })
    }

    /// Returns the part of `off`, the time that a thread was not on a CPU, in which it was ready to
    /// run. That is all of it if the thread never slept: then a competitor had the CPU that this
    /// system does not see, such as the host.
    fn delayed(before: Option<Self>, after: Option<Self>, off: Duration) -> Duration {
        match before.zip(after) {
            Some((before, after)) if before.sleeps < after.sleeps => {
                let woken = u32::try_from(after.sleeps - before.sleeps).unwrap_or(u32::MAX);
                after
                    .delayed
                    .saturating_sub(before.delayed)
                    .saturating_sub(WAKE.saturating_mul(woken))
            }
            _ => off,
        }
    }
}

/// Reads a CPU-time clock.
fn cpu_time(of: ClockId) -> Duration {
    let now = clock_gettime(of);
    Duration::new(now.tv_sec.cast_unsigned(), u32::try_from(now.tv_nsec).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Makes a part from one millisecond to another, with this much time on a CPU and this much
    /// waiting for one. No other thread used any.
    fn part(zero: Instant, (start, end, cpu, delayed): (u64, u64, u64, u64)) -> Part {
        let at = |milliseconds| zero + Duration::from_millis(milliseconds);
        let [cpu, delayed] = [cpu, delayed].map(Duration::from_millis);
        Part { start: at(start), end: at(end), cpu, delayed, process: cpu, amount: 5 }
    }

    /// On two CPUs the threads of a cache and its readers take turns.
    #[test]
    fn a_wait_for_the_contenders_own_threads_counts() {
        let zero = Instant::now();
        let run = |process| {
            let parts = [(0, 100, 70, 30), (0, 100, 95, 5)].map(|times| part(zero, times));
            judge(&parts.map(|part| Part { process: Duration::from_millis(process), ..part }))
        };
        assert_eq!(run(165), None, "another process had the CPU");
        // Waits of 35 ms, of which 30 ms were for threads of the same process.
        assert_eq!(run(195), Some(Run { seconds: 0.1, amount: 10, cpu: 0.95, slept: 0.0 }));
        assert_eq!(run(200), Some(Run { seconds: 0.1, amount: 10, cpu: 1.0, slept: 0.0 }));
        assert_eq!(run(185), None, "15 ms of 100 were for another process");
    }

    #[test]
    fn threads_that_do_not_run_at_once_give_no_sample() {
        let zero = Instant::now();
        let run = |parts: [(u64, u64, u64, u64); 2]| judge(&parts.map(|times| part(zero, times)));
        let good = run([(0, 100, 100, 0), (0, 100, 98, 2)]).unwrap();
        assert_eq!(good, Run { seconds: 0.1, amount: 10, cpu: 0.98, slept: 0.0 });
        assert_eq!(
            run([(0, 100, 100, 0), (0, 50, 50, 0)]),
            None,
            "one thread ran alone for half the time"
        );
        assert_eq!(run([(0, 100, 100, 0), (0, 100, 60, 40)]), None, "one thread waited for a CPU");
        assert_eq!(
            run([(0, 100, 100, 0), (100, 200, 100, 0)]),
            None,
            "one thread ran after the other"
        );
    }

    /// Two threads that take turns under a lock: each sleeps while the other has it.
    #[test]
    fn a_thread_that_waits_for_another_counts() {
        let zero = Instant::now();
        let run = judge(&[part(zero, (0, 100, 60, 5)), part(zero, (0, 100, 50, 0))]).unwrap();
        assert_eq!(run, Run { seconds: 0.1, amount: 10, cpu: 0.95, slept: 0.5 });
    }

    #[test]
    fn time_off_the_cpu_is_a_wait_unless_the_thread_slept() {
        let waits =
            |delayed, sleeps| Some(Waits { delayed: Duration::from_millis(delayed), sleeps });
        let off = Duration::from_millis(10);
        assert_eq!(
            Waits::delayed(waits(1, 5), waits(3, 6), off) + WAKE,
            Duration::from_millis(2),
            "less one wake-up"
        );
        assert_eq!(
            Waits::delayed(waits(1, 5), waits(3, 205), off),
            Duration::ZERO,
            "nothing but wake-ups"
        );
        assert_eq!(
            Waits::delayed(waits(1, 5), waits(1, 5), off),
            off,
            "no thread seen here had the CPU"
        );
        assert_eq!(Waits::delayed(None, None, off), off);
    }

    /// On this system, if it has the counters: time asleep does not count as a wait for a CPU,
    /// under any load.
    #[test]
    fn sleeping_is_not_a_wait_for_a_cpu() {
        let nap = Duration::from_millis(20);
        let (before, start, cpu) = (Waits::now(), Instant::now(), cpu_time(ClockId::ThreadCPUTime));
        thread::sleep(nap);
        let off =
            start.elapsed().saturating_sub(cpu_time(ClockId::ThreadCPUTime).saturating_sub(cpu));
        let after = Waits::now();
        if before.is_some() {
            let delayed = Waits::delayed(before, after, off);
            // Allows one tick, as the clocks are not read at the same moment.
            assert!(delayed + nap < off + Duration::from_millis(4), "{delayed:?} of {off:?}");
        }
    }

    #[test]
    fn every_thread_works_and_is_counted() {
        // Short enough to fit between two preemptions on a busy machine.
        let spin = |thread: usize| {
            let start = Instant::now();
            while start.elapsed() < Duration::from_millis(2) {}
            thread as u64 + 1
        };
        // The time may be longer: another test of this process may have the CPU, and that counts as
        // the contender's own threads.
        let run = (0..500)
            .find_map(|_| together(1, &cpus(), &spin).unwrap())
            .expect("one attempt of 500");
        assert!(run.amount == 1 && run.seconds >= 0.002, "{run:?}");
        for run in (0..5).filter_map(|_| together(2, &cpus(), &spin).unwrap()) {
            assert!(run.amount == 3 && run.seconds >= 0.002, "{run:?}");
        }
    }
}
