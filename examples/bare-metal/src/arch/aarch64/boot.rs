//! The start of the CPUs: the boot loader starts the first, and PSCI the others. `boot.s` has the
//! code. A room of unsafe code: the contract between the assembly and Rust.

use core::arch::global_asm;
use core::ops::Range;
use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

use folio_frames::Zone;

use super::firmware::Cpu;
use super::{machine, tables};
use crate::platform::Machine;
use crate::{run_first, run_other, say};

global_asm!(include_str!("boot.s"));

/// The zone of the CPUs that start.
static ZONE: AtomicPtr<Zone<Machine>> = AtomicPtr::new(ptr::null_mut());

unsafe extern "C" {
    static start_other: u8;
    static kernel_end: u8;
    /// The table that `boot.s` made. Its entries are of 1 GiB.
    static gibibytes: [AtomicU64; 512];
}

const GIB: u64 = 1 << 30;
/// The start of memory. All below are devices.
pub const MEMORY: u64 = GIB;
/// The end of the memory that `boot.s` maps.
pub const MAPPED: u64 = 2 * GIB;
/// The address at which the kernel's image begins (`kernel.ld`).
const KERNEL: usize = MEMORY as usize + 0x20_0000;

/// Returns the addresses of the kernel's image.
pub fn image() -> Range<usize> {
    KERNEL..(&raw const kernel_end).addr()
}

/// Identity-maps the memory from [`MAPPED`] up to `end`, in pages of 1 GiB. Returns all memory that
/// is mapped.
pub fn map_up_to(end: u64) -> Range<u64> {
    // SAFETY: a table of `boot.s`, aligned, which lives forever. All its words are atomics here.
    let entries = unsafe { &gibibytes };
    // Relaxed: this CPU alone runs. The entry of the first GiB of memory is made by `boot.s`.
    let first = entries[(MEMORY / GIB) as usize].load(Ordering::Relaxed);
    let end = end.div_ceil(GIB).clamp(MAPPED / GIB, entries.len() as u64);
    for n in MAPPED / GIB..end {
        entries[n as usize].store(first - MEMORY + n * GIB, Ordering::Relaxed);
    }
    tables::publish();
    MEMORY..end * GIB
}

#[unsafe(no_mangle)]
extern "C" fn first_cpu(device_tree: usize) -> ! {
    run_first(device_tree)
}

#[unsafe(no_mangle)]
extern "C" fn other_cpu() -> ! {
    // Acquire: pairs with Release in start.
    let zone = NonNull::new(ZONE.load(Ordering::Acquire)).expect("stored by start");
    // SAFETY: it was a reference that lives forever.
    run_other(unsafe { zone.as_ref() })
}

#[unsafe(no_mangle)]
extern "C" fn unexpected_exception(syndrome: u64, instruction: u64, address: u64) -> ! {
    say!(
        "cpu {}: exception with syndrome {syndrome:#x} at {instruction:#x}, address {address:#x}",
        machine::cpu()
    );
    machine::exit(false)
}

/// Starts a CPU on the stack that ends at `stack_end`.
///
/// # Panics
///
/// Panics if the firmware refuses to start it.
pub fn start(cpu: &Cpu, stack_end: *mut u8, zone: &'static Zone<Machine>) {
    // Release: pairs with Acquire in other_cpu.
    ZONE.store(ptr::from_ref(zone).cast_mut(), Ordering::Release);
    let entry = (&raw const start_other).expose_provenance() as u64;
    let result = machine::start_cpu(cpu, entry, stack_end.expose_provenance() as u64);
    assert_eq!(result, 0, "PSCI cannot start CPU {:#x} (error {result})", cpu.id);
}
