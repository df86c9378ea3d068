//! The processor's page tables: their entries, the register with the topmost table, and the TLB. A
//! room of unsafe code: the instructions that Rust cannot express.
//!
//! The TLB keeps entries with the number of their address space, also while a CPU uses another one.
//! So an entry that changes is removed from the TLBs of all CPUs, by a broadcast. (Arm Architecture
//! Reference Manual, D8.)

use core::arch::asm;

use folio_frames::Pfn;

/// A page, or a table of the next level.
const PRESENT: u64 = 0b11;
/// Programs may access the page.
const USER: u64 = 1 << 6;
const READ_ONLY: u64 = 1 << 7;
/// The page is coherent on all CPUs.
const SHARED: u64 = 0b11 << 8;
/// The processor need not set it at the first access.
const ACCESSED: u64 = 1 << 10;
/// The TLB keeps the entry for its address space only.
const NOT_GLOBAL: u64 = 1 << 11;
/// Neither the kernel nor programs execute the page.
const NOT_EXECUTED: u64 = 0b11 << 53;
const FRAME: u64 = 0x0000_ffff_ffff_f000;
/// `true` if [`invalidate`] is a broadcast to all CPUs.
pub const BROADCASTS: bool = true;
/// The place of the number of an address space, in a root and in an operand of `tlbi`.
const NUMBER: u32 = 48;

/// Returns the entry of a page, for programs and the kernel.
pub fn page(pfn: Pfn, writable: bool) -> u64 {
    let entry = pfn.as_u64() << 12 | PRESENT | USER | SHARED | ACCESSED | NOT_GLOBAL | NOT_EXECUTED;
    entry | if writable { 0 } else { READ_ONLY }
}

/// Returns the entry of a table of the next level.
pub fn table(pfn: Pfn) -> u64 {
    pfn.as_u64() << 12 | PRESENT
}

/// Returns `true` if the processor uses the entry. It ignores all other bits if not.
pub fn is_present(entry: u64) -> bool {
    entry & 1 != 0
}

/// Returns `true` if the processor lets the kernel write to the page of a present entry.
pub fn is_writable(entry: u64) -> bool {
    entry & READ_ONLY == 0
}

/// Returns the frame in an entry or in a root.
pub fn pfn_of(entry: u64) -> Pfn {
    Pfn::new((entry & FRAME) >> 12)
}

/// Returns the root of an address space: its topmost table, and its number.
///
/// # Panics
///
/// Panics if the number is above 254: some processors have only eight bits, and the kernel has 0.
pub fn root(pfn: Pfn, number: usize) -> u64 {
    assert!(number < 255, "address space {number} is above the maximum, 254");
    (number as u64 + 1) << NUMBER | pfn.as_u64() << 12
}

/// Returns the root of the page tables that this CPU uses.
pub fn current() -> u64 {
    let root;
    // SAFETY: it reads a register.
    unsafe { asm!("mrs {}, ttbr0_el1", out(reg) root, options(nomem, nostack, preserves_flags)) };
    root
}

/// Lets this CPU use other page tables, which map the kernel as the present ones do. Returns the
/// root of the present ones. The CPU sees all earlier changes of entries that were absent.
pub fn load(root: u64) -> u64 {
    let before = current();
    publish();
    // SAFETY: the caller's tables map the kernel, its stack and all frames at the same addresses.
    unsafe {
        asm!("msr ttbr0_el1, {}", "isb", in(reg) root, options(nostack, preserves_flags));
    };
    before
}

/// Makes earlier changes of entries that were absent visible to the CPUs' table walks.
pub fn publish() {
    // SAFETY: barriers only.
    unsafe { asm!("dsb ishst", "isb", options(nostack, preserves_flags)) };
}

/// Removes the entry of an address in the tables of `root` from the TLBs of all CPUs. The caller
/// has removed it from the tables. Returns as soon as no CPU uses it any more.
pub fn invalidate(root: u64, address: usize) {
    let operand = root >> NUMBER << NUMBER | address as u64 >> 12;
    // SAFETY: a TLB without an entry reads the tables again.
    unsafe {
        asm!(
            "dsb ishst",
            "tlbi vae1is, {}",
            "dsb ish",
            "isb",
            in(reg) operand,
            options(nostack, preserves_flags)
        );
    };
}
