//! The harness: how a benchmark is described, run, sampled and reported.

mod benchmark;
mod matrix;
mod report;
mod runner;

pub use benchmark::{Ask, Benchmark, Distance};
pub(crate) use matrix::{Contender, Matrix, one_and_all, thread_counts};
pub(crate) use report::median;
pub use report::{Line, Ratio, Report, Row, Scenario, Shape, Table, Unit};
pub(crate) use runner::{SetOnDrop, cpus, start_thread, together};
