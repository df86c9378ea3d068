//! Many reads of a file by one system call, into memory that is borrowed meanwhile.
//!
//! The one place where memory is lent to the kernel beyond a single call. What makes it sound is
//! that nobody can look away: [`Ring::read_all`] borrows all buffers, and does not return, or
//! unwind, before each request has its answer. So there are no requests to cancel, and nothing to
//! own until a completion.
//!
//! Beside it stand [`begin_writeback`], a call that lends nothing, and [`Process`], by which a ring
//! notices that it is used after a fork.
//!
//! It lacks on purpose: writes, files registered in advance, and requests that outlive their call.

mod begin;
mod process;
mod ring;

pub use begin::begin_writeback;
pub use process::Process;
pub use ring::{Request, Ring};
