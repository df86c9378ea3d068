//! Questions about page frames, each a measurement: interleaved, with medians and spread, rivals in the same run.

#![forbid(unsafe_code)]

mod runner;
pub mod word;
