//! The processor aarch64, in QEMU's machine `virt`: a device tree, PSCI, a PL011 serial port.

pub mod boot;
mod device_tree;
pub mod firmware;
pub mod machine;
pub mod tables;
