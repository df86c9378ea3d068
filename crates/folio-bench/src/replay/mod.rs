//! Replays of traces: reads a trace of any format, and plays it through caches of several sizes.
//!
//! A trace is read once, as a stream, and kept in a temporary file of 4 bytes for each reference.
//! So it may be longer than the memory of the machine: only its different pages are kept in memory.

mod compressed;
mod csv;
mod format;
mod optimal;
mod play;
mod record;
mod references;
mod spool;
mod stoppable;

pub use format::Format;
pub use optimal::optimal;
pub use play::{FRAMES_OF_2_MIB, Player, players};
pub use references::References;
pub use spool::Spool;
