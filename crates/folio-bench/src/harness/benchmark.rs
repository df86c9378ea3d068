//! The questions, each with its name: the one table that the command, `bench all` and the tests go
//! by.
//!
//! To add a question, write its module with a function `ask`, and add a line to [`QUESTIONS`].

use std::fmt;
use std::io;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use crate::harness::report::Report;

/// How a question is asked.
pub struct Ask<'a> {
    /// For about how long it may be measured.
    pub time: Duration,
    /// Set when somebody wants an end of it.
    pub stop: &'a AtomicBool,
    /// Is told the share that is done, up to 1.
    pub progress: &'a mut dyn FnMut(f64),
}

impl fmt::Debug for Ask<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ask").field("time", &self.time).finish_non_exhaustive()
    }
}

/// A question about page frames.
#[derive(Clone, Copy, Debug)]
pub struct Benchmark {
    /// Its name on the command line and in results.
    pub name: &'static str,
    /// What it asks.
    pub about: &'static str,
    /// What a case is called in its rows, besides `case`.
    pub case_key: &'static str,
    /// Its share of the time when all are asked.
    pub weight: u32,
    /// Measures it. The error says why it can not be measured here.
    pub ask: fn(&mut Ask<'_>) -> io::Result<Report>,
}
