//! Benchmarks of frames and the page cache: interleaved, with spread, baselines in the same run.
//!
//! Most benchmarks are a matrix of contenders and scenarios. Measuring one goes round and round:
//! each round runs every contender once in every scenario, in another order each time. Whatever
//! the machine does meanwhile therefore happens to all of them. Ratios are medians over rounds. A
//! sample is discarded if its threads did not run at the same time, or waited for a CPU.
//!
//! Folders, each of which uses only those before it: `harness` (how a benchmark is described, run,
//! sampled and reported), `support` (what several benchmarks share, such as temporary files:
//! [`scratch`]), [`replay`] (traces of page references), `benchmarks` (one file each, and the table
//! [`BENCHMARKS`]).

#![forbid(unsafe_code)]

mod benchmarks;
mod harness;
pub mod replay;
mod support;

pub use benchmarks::BENCHMARKS;
pub use harness::{
    Ask, Benchmark, Distance, Line, Ratio, Report, Row, Scenario, Shape, Table, Unit,
};
pub use support::scratch;
