//! Memory pressure: when the cache gives memory back, and when it takes it again.
//!
//! A cache that was built with [`CacheBuilder::pressure`](crate::CacheBuilder::pressure) watches
//! [sources](PressureSource) of two kinds of facts:
//!
//! - **headroom** ([`Headroom`]): a limit, and the memory used under it. [`Pressure::system`] reads
//!   those of the control groups of this process, of version 1 and 2, and of the machine.
//! - **signals**: memory is short, by an amount that is not known. [`Pressure::system`] waits for
//!   pressure stall information of the kernel.
//!
//! A thread of the cache waits for them. A hit or a miss reads none. The capacity moves between a
//! floor and the capacity that the user set:
//!
//! - If less than a reserve is free under the tightest limit, or soon will be, the cache gives back
//!   what is missing, and the reserve once more. The blocks with the fewest pages in use go, with
//!   their pages: to move these would take time that a fast neighbour may not leave.
//! - A signal halves the memory in use.
//! - After a pause without either, the capacity grows slowly, never into the reserve.
//!
//! # Examples
//!
//! A program that knows when its memory is short:
//!
//! ```
//! use folio_cache::Cache;
//! use folio_cache::pressure::{Pressure, PressureHandle};
//!
//! # fn main() -> std::io::Result<()> {
//! let short = PressureHandle::new()?;
//! let pressure = Pressure::new().source(short.clone()).floor(2 << 20);
//! let cache = Cache::builder().capacity(16 << 20).pressure(pressure).io_threads(0).build()?;
//! short.set_room(64 << 20, 60 << 20); // 4 MiB are free, and 8 MiB are the reserve
//! cache.relieve(); // without a thread, a call does it
//! assert!(cache.capacity() < 16 << 20);
//! # Ok(())
//! # }
//! ```

pub(crate) mod decide;
pub(crate) mod groups;
mod handle;
mod options;
mod sensors;
mod source;
mod stall;
mod system;

pub use handle::PressureHandle;
pub use options::Pressure;
pub(crate) use sensors::Sensors;
pub use source::{Headroom, PressureSource, Reading, Wait};
