//! Records how long single operations take: a histogram for each thread, by the processor's clock.
//!
//! A thread that loses its processor within an operation says more about the thread that has it.
//! The system counts these switches. It is asked after each operation that took long enough to hold
//! one, and such samples are kept apart. A switch because the thread itself went to sleep counts:
//! the operation waited for something.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};

use hdrhistogram::Histogram;
use quanta::Clock;

/// The shortest time that may hold a switch to another thread and back, in nanoseconds.
const SWITCH: u64 = 1000;

/// The longest time that a histogram tells from longer ones, in nanoseconds: a minute.
const LONGEST: u64 = 60_000_000_000;

/// Operations between two looks at the flag that ends the recording.
const BATCH: usize = 32;

/// The samples of one kind of operation.
#[derive(Clone, Debug)]
pub(crate) struct Latency {
    /// In nanoseconds, of operations during which the thread kept its processor, or slept.
    pub(crate) kept: Histogram<u64>,
    /// The same of those during which another thread took the processor.
    pub(crate) lost: Histogram<u64>,
    /// The number of operations that turned out to be of another kind, such as a hit that missed.
    pub(crate) others: u64,
}

impl Latency {
    pub(crate) fn new() -> Self {
        let empty = || Histogram::new_with_bounds(1, LONGEST, 3).expect("the bounds are in order");
        Self { kept: empty(), lost: empty(), others: 0 }
    }

    /// Adds the samples of another thread or round.
    pub(crate) fn add(&mut self, other: &Self) {
        self.kept.add(&other.kept).expect("all have the same bounds");
        self.lost.add(&other.lost).expect("all have the same bounds");
        self.others += other.others;
    }

    /// Runs an operation again and again until `stop` is set. The operation returns `false` if it
    /// was of another kind than the one that is measured.
    ///
    /// # Errors
    ///
    /// The system's error if it does not count the switches of threads.
    pub(crate) fn record(
        &mut self,
        clock: &Clock,
        stop: &AtomicBool,
        mut operation: impl FnMut() -> bool,
    ) -> io::Result<()> {
        let switches = Switches::open()?;
        let long = ticks(clock, SWITCH);
        let mut last_count = switches.count()?;
        let mut idle = clock.raw();
        // Relaxed: a flag of its own.
        while !stop.load(Ordering::Relaxed) {
            for _ in 0..BATCH {
                let start = clock.raw();
                let is_counted = operation();
                let end = clock.raw();
                // The clocks of two processors may differ by some ticks.
                let is_long = end.saturating_sub(start) > long;
                let mut was_lost = false;
                if is_long || start.saturating_sub(idle) > long {
                    let before = std::mem::replace(&mut last_count, switches.count()?);
                    was_lost = is_long && before != last_count;
                    idle = clock.raw();
                } else {
                    idle = end;
                }
                let samples = if was_lost { &mut self.lost } else { &mut self.kept };
                if is_counted {
                    samples.saturating_record(clock.delta_as_nanos(start, end).max(1));
                } else {
                    self.others += 1;
                }
            }
        }
        Ok(())
    }
}

/// Returns the number of ticks in so many nanoseconds.
fn ticks(clock: &Clock, nanoseconds: u64) -> u64 {
    let many = 1 << 30;
    let ratio = many as f64 / clock.delta_as_nanos(0, many).max(1) as f64;
    (nanoseconds as f64 * ratio) as u64
}

/// The counter of this thread's switches to other threads that it did not ask for.
struct Switches(File);

impl Switches {
    const LINE: &str = "nonvoluntary_ctxt_switches:";

    fn open() -> io::Result<Self> {
        File::open("/proc/thread-self/status").map(Self)
    }

    fn count(&self) -> io::Result<u64> {
        let mut text = [0; 4096];
        let read = self.0.read_at(&mut text, 0)?;
        let text = String::from_utf8_lossy(&text[..read]);
        let line = text.lines().find_map(|line| line.strip_prefix(Self::LINE));
        line.and_then(|count| count.trim().parse().ok()).ok_or_else(|| {
            let message = format!("/proc/thread-self/status has no line {:?}", Self::LINE);
            io::Error::new(io::ErrorKind::Unsupported, message)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn a_microsecond_has_so_many_ticks() {
        let clock = Clock::new();
        let nanoseconds = clock.delta_as_nanos(0, ticks(&clock, 1000));
        assert!((990..=1010).contains(&nanoseconds), "{nanoseconds}");
    }

    /// A sleep is a part of the operation. An operation that says it is of another kind is counted,
    /// and no sample.
    #[test]
    fn a_sleep_is_kept_and_another_kind_is_counted_apart() {
        let (clock, stop, mut latency) = (Clock::new(), AtomicBool::new(false), Latency::new());
        let mut runs = 0;
        let operation = || {
            runs += 1;
            stop.store(runs == 2 * BATCH, Ordering::Relaxed);
            if runs % 8 == 0 {
                std::thread::sleep(Duration::from_micros(100));
            }
            runs % 2 == 0
        };
        latency.record(&clock, &stop, operation).unwrap();
        assert_eq!(latency.others, BATCH as u64);
        assert_eq!(latency.kept.len() + latency.lost.len(), BATCH as u64);
        let slept = latency.kept.iter_recorded().chain(latency.lost.iter_recorded());
        let slept: u64 = slept
            .filter(|bucket| bucket.value_iterated_to() >= 100_000)
            .map(|bucket| bucket.count_since_last_iteration())
            .sum();
        assert!(slept >= BATCH as u64 / 4, "{slept}");
        let mut sum = Latency::new();
        sum.add(&latency);
        sum.add(&latency);
        assert_eq!((sum.kept.len(), sum.others), (2 * latency.kept.len(), 2 * latency.others));
    }

    /// With more threads than processors, threads lose them; the system counts it.
    #[test]
    fn a_lost_processor_is_noticed() {
        let threads = 2 * std::thread::available_parallelism().map_or(1, usize::from);
        let begin = Instant::now();
        let stop = AtomicBool::new(false);
        let lost = std::thread::scope(|scope| {
            let spins: Vec<_> = (0..threads)
                .map(|_| {
                    scope.spawn(|| {
                        let (clock, mut latency) = (Clock::new(), Latency::new());
                        let spin = || {
                            let begin = Instant::now();
                            while begin.elapsed() < Duration::from_millis(1) {}
                            true
                        };
                        latency.record(&clock, &stop, spin).unwrap();
                        latency.lost.len()
                    })
                })
                .collect();
            while begin.elapsed() < Duration::from_millis(500) {
                std::thread::sleep(Duration::from_millis(10));
            }
            stop.store(true, Ordering::Relaxed);
            spins.into_iter().map(|spin| spin.join().unwrap()).sum::<u64>()
        });
        assert!(lost > 0);
    }
}
