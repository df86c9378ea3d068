//! For tests under `--cfg shuttle` only: stepped atomics, and a search over schedules.

pub mod explore;
pub mod stepped;
