//! For tests under `--cfg shuttle` only: stepped atomics, a memory that is
//! weak, and a search over schedules.

mod choices;
pub mod explore;
pub mod memory;
pub mod stepped;
