//! The start of the CPUs: the boot loader starts the first; INIT and SIPI start the others through
//! a trampoline below 1 MiB. `boot.s` has the code. A room of unsafe code: the contract between the
//! assembly and Rust.

use core::arch::global_asm;
use core::ops::Range;
use core::ptr;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use folio_frames::{FRAME_SIZE, Zone};

use super::firmware::Cpu;
use super::machine;
use crate::platform::Machine;
use crate::{run_first, run_other};

global_asm!(include_str!("boot.s"), options(att_syntax));

/// The address that the trampoline is copied to. The startup interrupt names its page. This memory
/// is free on every PC.
const TRAMPOLINE: usize = 0x8000;

/// The stack of the next CPU, read by the trampoline.
#[unsafe(no_mangle)]
static next_cpu_stack: AtomicU32 = AtomicU32::new(0);
/// The argument of the next CPU, read by the trampoline.
#[unsafe(no_mangle)]
static next_cpu_argument: AtomicU32 = AtomicU32::new(0);

unsafe extern "C" {
    static trampoline: u8;
    static trampoline_end: u8;
    static kernel_end: u8;
    /// The table of page directories that `boot.s` made. Its entries are of 1 GiB.
    static pdpt: [AtomicU64; 512];
}

/// The address at which the kernel's image begins (`kernel.ld`).
const KERNEL: usize = 0x10_0000;

const GIB: u64 = 1 << 30;
/// The end of the memory that `boot.s` maps.
pub const MAPPED: u64 = 4 * GIB;

/// Returns the addresses of the kernel's image.
pub fn image() -> Range<usize> {
    KERNEL..(&raw const kernel_end).addr()
}

/// Returns the page of the trampoline.
pub fn trampoline_page() -> Range<usize> {
    TRAMPOLINE..TRAMPOLINE + FRAME_SIZE
}

/// Identity-maps the memory from [`MAPPED`] up to `end`, in pages of 1 GiB. Returns all that is
/// mapped: not more than before if the processor has no such pages.
pub fn map_up_to(end: u64) -> Range<u64> {
    // SAFETY: a table of `boot.s`, aligned, which lives forever. All its words are atomics here.
    let entries = unsafe { &pdpt };
    let end = if machine::has_pages_of_1_gib() { end.div_ceil(GIB).clamp(4, 512) } else { 4 };
    for n in 4..end {
        // Present, writable, a page of 1 GiB. Relaxed: this CPU alone runs, and no table walk has
        // cached the absent entry.
        entries[n as usize].store((n * GIB) | 0x83, Ordering::Relaxed);
    }
    0..end * GIB
}

#[unsafe(no_mangle)]
extern "C" fn first_cpu(start_info: usize) -> ! {
    machine::open_serial();
    run_first(start_info)
}

#[unsafe(no_mangle)]
extern "C" fn other_cpu(zone: *const Zone<Machine>) -> ! {
    // SAFETY: `start` stored the address of a zone, which is never freed.
    run_other(unsafe { &*zone })
}

/// Copies the trampoline to its place.
fn place_trampoline() {
    let from = &raw const trampoline;
    let len = (&raw const trampoline_end).addr() - from.addr();
    let to = ptr::with_exposed_provenance_mut(TRAMPOLINE);
    // SAFETY: copies `len` bytes of our image to memory that the identity map covers. Nothing else
    // uses that memory: it is reserved in the memory map, the boot loader has ended, and each CPU
    // that has started has left it.
    unsafe { ptr::copy_nonoverlapping(from, to, len) };
}

/// Starts a CPU on the stack that ends at `stack_end`. The CPU reads its stack and argument while
/// it starts, so start the next CPU only after this one has arrived.
///
/// # Panics
///
/// Panics if the stack or the zone is above 4 GiB, where a CPU that starts cannot reach it.
pub fn start(cpu: &Cpu, stack_end: *mut u8, zone: &'static Zone<Machine>) {
    place_trampoline();
    let low = |address| u32::try_from(address).expect("a stack and a zone below 4 GiB");
    next_cpu_stack.store(low(stack_end.expose_provenance()), Ordering::Relaxed);
    // Release: the trampoline reads both. x86 keeps the order of the stores, and the interrupt is
    // sent after them.
    next_cpu_argument.store(low(ptr::from_ref(zone).expose_provenance()), Ordering::Release);
    machine::send_interrupt(cpu.apic_id, machine::INIT);
    for _ in 0..1000 {
        machine::pause();
    }
    machine::send_interrupt(cpu.apic_id, machine::STARTUP | (TRAMPOLINE >> 12) as u32);
}
