//! A benchmark, and the request to run one.

use std::fmt;
use std::io;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use crate::harness::report::Report;

/// How far a simulated store is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Distance {
    /// The time from a request to the first byte of its answer.
    pub latency: Duration,
    /// The time in which the store takes one request, and no other.
    pub request: Duration,
    /// The bytes in a second of all requests together. 0: no limit.
    pub bandwidth: u64,
}

impl Distance {
    /// A store that answers at once.
    pub const NONE: Self = Self { latency: Duration::ZERO, request: Duration::ZERO, bandwidth: 0 };
}

impl Default for Distance {
    /// Returns the distance of an object store: 100 ms, without limit of bandwidth.
    fn default() -> Self {
        Self { latency: Duration::from_millis(100), ..Self::NONE }
    }
}

/// A request to run a benchmark.
pub struct Ask<'a> {
    /// The time that the measurement may take, about.
    pub time: Duration,
    /// Set to end the measurement early.
    pub stop: &'a AtomicBool,
    /// How far the store of the benchmark `remote` is.
    pub distance: Distance,
    /// The number of handles that the benchmark `remote` holds.
    pub held: usize,
    /// Called with the share that is done, up to 1.
    pub progress: &'a mut dyn FnMut(f64),
}

impl<'a> Ask<'a> {
    /// The number of handles held by default.
    pub const HELD: usize = 65_536;

    /// Returns a request with the defaults for the benchmark `remote`.
    pub fn new(time: Duration, stop: &'a AtomicBool, progress: &'a mut dyn FnMut(f64)) -> Self {
        Self { time, stop, distance: Distance::default(), held: Self::HELD, progress }
    }
}

impl fmt::Debug for Ask<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ask").field("time", &self.time).finish_non_exhaustive()
    }
}

/// A benchmark: its name, its description and how to run it.
#[derive(Clone, Copy, Debug)]
pub struct Benchmark {
    /// The name on the command line and in results.
    pub name: &'static str,
    /// One line: what it measures.
    pub about: &'static str,
    /// The JSON key of the scenario in each row, besides `case`.
    pub case_key: &'static str,
    /// The share of the time that `bench all` gives it.
    pub weight: u32,
    /// Runs the benchmark. The error says why it cannot run here.
    pub ask: fn(&mut Ask<'_>) -> io::Result<Report>,
}
