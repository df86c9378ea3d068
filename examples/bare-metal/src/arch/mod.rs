//! The code that differs by processor. Each processor's folder has the same modules:
//!
//! - `boot`: starts CPUs on a stack, and maps the memory.
//! - `firmware`: reads the map of usable memory and the list of CPUs.
//! - `machine`: the serial port, the number of this CPU, the end of QEMU.
//! - `tables`: the entries of page tables, and the TLB.

#[cfg(target_arch = "aarch64")]
mod aarch64;
#[cfg(target_arch = "x86_64")]
mod x86_64;

#[cfg(target_arch = "aarch64")]
pub use aarch64::{boot, firmware, machine, tables};
#[cfg(target_arch = "x86_64")]
pub use x86_64::{boot, firmware, machine, tables};
