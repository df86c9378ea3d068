//! The processor x86-64, in a PC that a PVH boot loader starts.

pub mod boot;
pub mod firmware;
pub mod machine;
pub mod tables;
