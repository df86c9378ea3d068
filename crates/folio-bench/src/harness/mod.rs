//! The harness: how a benchmark is described, run, sampled and reported.

pub(crate) mod benchmark;
pub(crate) mod matrix;
pub(crate) mod report;
pub(crate) mod runner;
