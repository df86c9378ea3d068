//! Runs one thing on several threads at once, and says whether they truly ran at once.
//!
//! A thread that is not on a CPU either waits for something that another has, a lock say, and that
//! is part of what is measured; or it could go on and has no CPU, and then the sample is about
//! whoever has that CPU. The system tells the two apart: it counts the time that a thread was ready
//! to run and did not, and how often it went to sleep (`schedstat` and `status` in
//! `/proc/thread-self`). Where it does not, all time off the CPU counts as the latter: then nothing
//! that sleeps gets a sample.
//!
//! Who had the CPU may be a thread of the subject itself, one that fills pages in the background,
//! say. That is part of what is measured too: what the process's other threads used is taken off
//! what its threads here waited.

use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use rustix::time::{ClockId, clock_gettime};

/// The share of the whole time that all threads must have run together, and that each must have had
/// its CPU or have wanted none, for a sample to count.
pub(crate) const TOGETHER: f64 = 0.9;

/// How long it may take until a thread that is woken runs on a CPU that was idle: on a virtual one
/// that was halted, 50 to 230 us were seen where nothing else could have it. So much is the price
/// of the sleep; beyond it, somebody else had the CPU.
const WAKE: Duration = Duration::from_micros(150);

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
    /// Time that it was ready to run, and had no CPU.
    delayed: Duration,
    /// Time that all threads of the process were on a CPU in between.
    process: Duration,
    amount: u64,
}

/// What a run came to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Run {
    /// From the first start to the last end.
    pub(crate) seconds: f64,
    /// What the threads did, added up.
    pub(crate) amount: u64,
    /// The share of its own time that the least served thread had its CPU, or wanted none, or the
    /// subject's other threads had it.
    pub(crate) cpu: f64,
    /// The share of its own time that the thread which slept most did so, waiting for something
    /// else than a CPU.
    pub(crate) slept: f64,
}

/// Runs `work(thread)` on `threads` threads, each on its CPU, from one start. `None`: they did not
/// run at the same time, so whatever they shared was not contended as it should have been.
pub(crate) fn together(
    threads: usize,
    cpus: &[usize],
    work: &(dyn Fn(usize) -> u64 + Sync),
) -> Option<Run> {
    let ready = AtomicUsize::new(0);
    let parts: Vec<Part> = thread::scope(|scope| {
        let handles: Vec<_> = (0..threads)
            .map(|n| {
                let ready = &ready;
                scope.spawn(move || {
                    let mut set = CpuSet::new();
                    set.set(cpus[n % cpus.len()]);
                    // Best effort: where it is refused, the checks below still say whether threads
                    // overlapped.
                    let _ = sched_setaffinity(None, &set);
                    let before = Waits::now();
                    ready.fetch_add(1, Ordering::AcqRel);
                    while ready.load(Ordering::Acquire) < threads {
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
                    Part { start, end, cpu, delayed, process, amount }
                })
            })
            .collect();
        handles
            .into_iter()
            .map(|handle| handle.join().expect("a measurement does not panic"))
            .collect()
    });
    judge(&parts)
}

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
    // What the process's other threads used. Not less: what a part here used before this one began
    // or after it ended is taken off too.
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

/// What this thread waited for, since it began.
#[derive(Clone, Copy)]
struct Waits {
    /// For how long it was ready to run, and did not.
    delayed: Duration,
    /// How often it went to sleep.
    sleeps: u64,
}

impl Waits {
    /// `None` where the system does not say.
    fn now() -> Option<Self> {
        // Time on a CPU, time waiting for one, how often; nanoseconds.
        let schedule = fs::read_to_string("/proc/thread-self/schedstat").ok()?;
        let delayed = Duration::from_nanos(schedule.split_whitespace().nth(1)?.parse().ok()?);
        let status = fs::read_to_string("/proc/thread-self/status").ok()?;
        let sleeps =
            status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))?;
        Some(Self { delayed, sleeps: sleeps.trim().parse().ok()? })
    }

    /// Of the time that a thread was not on a CPU, the part in which it wanted to be. All of it if
    /// it never slept: then whoever had the CPU was not seen by this system, a host perhaps.
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

fn cpu_time(of: ClockId) -> Duration {
    let now = clock_gettime(of);
    Duration::new(now.tv_sec.cast_unsigned(), u32::try_from(now.tv_nsec).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A part from one millisecond to another, with this much time on a CPU, and this much waiting
    /// for one. No other thread used any.
    fn part(zero: Instant, (start, end, cpu, delayed): (u64, u64, u64, u64)) -> Part {
        let at = |milliseconds| zero + Duration::from_millis(milliseconds);
        let [cpu, delayed] = [cpu, delayed].map(Duration::from_millis);
        Part { start: at(start), end: at(end), cpu, delayed, process: cpu, amount: 5 }
    }

    /// A cache that fills its pages in threads of its own got its best samples thrown away: on two
    /// CPUs they and the readers take turns.
    #[test]
    fn a_wait_for_the_subjects_other_threads_is_measured_too() {
        let zero = Instant::now();
        let run = |process| {
            let parts = [(0, 100, 70, 30), (0, 100, 95, 5)].map(|times| part(zero, times));
            judge(&parts.map(|part| Part { process: Duration::from_millis(process), ..part }))
        };
        assert_eq!(run(165), None, "others outside of the process had the CPU");
        // 35 of waiting, of which 30 were for threads of the same process.
        assert_eq!(run(195), Some(Run { seconds: 0.1, amount: 10, cpu: 0.95, slept: 0.0 }));
        assert_eq!(run(200), Some(Run { seconds: 0.1, amount: 10, cpu: 1.0, slept: 0.0 }));
        assert_eq!(run(185), None, "15 were for others, of 100");
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
            "half the time there was one thread"
        );
        assert_eq!(run([(0, 100, 100, 0), (0, 100, 60, 40)]), None, "one waited for a CPU");
        assert_eq!(run([(0, 100, 100, 0), (100, 200, 100, 0)]), None, "one after the other");
    }

    /// Two threads that took turns under a lock never gave a sample, as each slept while the other
    /// had it.
    #[test]
    fn a_thread_that_waits_for_another_is_measured_waiting() {
        let zero = Instant::now();
        let run = judge(&[part(zero, (0, 100, 60, 5)), part(zero, (0, 100, 50, 0))]).unwrap();
        assert_eq!(run, Run { seconds: 0.1, amount: 10, cpu: 0.95, slept: 0.5 });
    }

    #[test]
    fn time_off_the_cpu_is_a_wait_for_it_unless_the_thread_slept() {
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
        assert_eq!(Waits::delayed(waits(1, 5), waits(1, 5), off), off, "nobody here had the CPU");
        assert_eq!(Waits::delayed(None, None, off), off);
    }

    /// On this system, if it counts: however busy it is, what was slept is not among what was
    /// waited for a CPU.
    #[test]
    fn sleeping_is_no_wait_for_a_cpu() {
        let nap = Duration::from_millis(20);
        let (before, start, cpu) = (Waits::now(), Instant::now(), cpu_time(ClockId::ThreadCPUTime));
        thread::sleep(nap);
        let off =
            start.elapsed().saturating_sub(cpu_time(ClockId::ThreadCPUTime).saturating_sub(cpu));
        let after = Waits::now();
        if before.is_some() {
            let delayed = Waits::delayed(before, after, off);
            // A tick for the clocks, which are not read at once.
            assert!(delayed + nap < off + Duration::from_millis(4), "{delayed:?} of {off:?}");
        }
    }

    #[test]
    fn every_thread_works_and_is_counted() {
        // Short, so that it comes through between two preemptions on a busy machine as well.
        let spin = |thread: usize| {
            let start = Instant::now();
            while start.elapsed() < Duration::from_millis(2) {}
            thread as u64 + 1
        };
        // No longer than that only where no other test has the CPU, which counts as ours: it is in
        // this process.
        let run = (0..500).find_map(|_| together(1, &cpus(), &spin)).expect("one attempt of 500");
        assert!(run.amount == 1 && run.seconds >= 0.002, "{run:?}");
        for run in (0..5).filter_map(|_| together(2, &cpus(), &spin)) {
            assert!(run.amount == 3 && run.seconds >= 0.002, "{run:?}");
        }
    }
}
