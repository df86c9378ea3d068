//! Test doubles: a backing in memory with faults on demand.
//!
//! [`Memory`] is a [`Backing`](crate::Backing) with bytes in memory. It fails, falls short or takes
//! its time when it is told to. It serves tests of this crate and of programs built on it. A fault
//! is met inside the loops that drive the system calls of a local file: a short read here is what a
//! short `pread` is there.
//!
//! [`Distant`] is an [`AsyncBacking`](crate::AsyncBacking) with bytes in memory: a store that
//! answers late, short, wrong or never.

pub use crate::backing::distant::{Distant, DistantError, DistantFault};
pub use crate::backing::testing::{Call, Fault, Memory};
