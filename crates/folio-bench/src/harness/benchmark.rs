//! A benchmark, and the request to run one.

use std::fmt;
use std::io;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use crate::harness::report::Report;

/// A request to run a benchmark.
pub struct Ask<'a> {
    /// The time that the measurement may take, about.
    pub time: Duration,
    /// Set to end the measurement early.
    pub stop: &'a AtomicBool,
    /// Called with the share that is done, up to 1.
    pub progress: &'a mut dyn FnMut(f64),
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
