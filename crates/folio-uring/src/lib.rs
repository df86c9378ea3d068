//! Many reads of a file by one system call, into borrowed memory.
//!
//! This crate is the only place that lends memory to the kernel beyond a single system call. It is
//! sound because [`Ring::read_all`] borrows all buffers, and neither returns nor unwinds before
//! every request has completed. So no request needs cancelling, and no buffer needs an owner until
//! its completion.
//!
//! Beside it stand [`begin_writeback`], a call that lends nothing, and [`Process`], by which a ring
//! notices that it is used after a fork. [`in_child`] runs a test after one.
//!
//! Not provided on purpose: writes, registered files, and requests that outlive their call.

mod begin;
mod child;
mod process;
mod ring;

pub use begin::begin_writeback;
pub use child::{ChildEnd, in_child};
pub use process::Process;
pub use ring::{Request, Ring};

/// The example of the README is a test as well.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
