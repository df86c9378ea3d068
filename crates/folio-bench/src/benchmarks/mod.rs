//! The benchmarks, one per file.

pub mod alloc;
pub mod between;
pub mod bringup;
pub mod coherence;
pub mod disk;
pub mod fragment;
pub mod free;
pub mod hit_ratio;
pub mod life;
pub mod memory;
pub mod migrate;
pub mod miss;
pub mod noise;
pub mod patch;
pub mod range;
pub mod read;
pub mod sizes;
pub mod word;
pub mod write;
