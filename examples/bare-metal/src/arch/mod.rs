//! What differs by processor: the start of the CPUs, the processor and its devices, and the tables
//! of the firmware.

mod x86_64;

pub use x86_64::{boot, firmware, machine};
