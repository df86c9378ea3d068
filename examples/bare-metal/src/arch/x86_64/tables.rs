//! The processor's page tables: their entries, and the register with the topmost table. A room of
//! unsafe code: the instructions that Rust cannot express.
//!
//! A write to CR3 empties the TLB. (Intel SDM 3A, 4.5 and 4.10.4.1.)

use core::arch::asm;

use folio_frames::Pfn;

const PRESENT: u64 = 1;
const WRITABLE: u64 = 2;
const USER: u64 = 4;
const FRAME: u64 = 0x000f_ffff_ffff_f000;

/// `true` if [`invalidate`] is a broadcast to all CPUs.
pub const BROADCASTS: bool = false;

/// Returns the entry of a page, for programs and the kernel.
pub fn page(pfn: Pfn, writable: bool) -> u64 {
    pfn.as_u64() << 12 | PRESENT | USER | if writable { WRITABLE } else { 0 }
}

/// Returns the entry of a table of the next level.
pub fn table(pfn: Pfn) -> u64 {
    page(pfn, true)
}

/// Returns `true` if the processor uses the entry. It ignores all other bits if not.
pub fn is_present(entry: u64) -> bool {
    entry & PRESENT != 0
}

/// Returns `true` if the processor lets the kernel write to the page of a present entry.
pub fn is_writable(entry: u64) -> bool {
    entry & WRITABLE != 0
}

/// Returns the frame in an entry or in a root.
pub fn pfn_of(entry: u64) -> Pfn {
    Pfn::new((entry & FRAME) >> 12)
}

/// Returns the root of an address space: its topmost table. The number of the space is not used.
pub fn root(pfn: Pfn, _number: usize) -> u64 {
    pfn.as_u64() << 12
}

/// Returns the root of the page tables that this CPU uses.
pub fn current() -> u64 {
    let root;
    // SAFETY: it reads a register.
    unsafe { asm!("mov {}, cr3", out(reg) root, options(nomem, nostack, preserves_flags)) };
    root
}

/// Lets this CPU use other page tables, which map the kernel as the present ones do. Returns the
/// root of the present ones. The TLB is empty afterwards.
pub fn load(root: u64) -> u64 {
    let before = current();
    // SAFETY: the caller's tables map the kernel, its stack and all frames at the same addresses.
    unsafe { asm!("mov cr3, {}", in(reg) root, options(nostack, preserves_flags)) };
    before
}

/// Does nothing: [`load`] has emptied the TLB of each CPU that used the tables of `root`. On a
/// processor with broadcasts, TLBs keep the entry of an address until this call.
pub fn invalidate(_root: u64, _address: usize) {}
