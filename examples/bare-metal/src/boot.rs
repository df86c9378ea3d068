//! Starting CPUs: the first by the boot loader, the others by INIT and SIPI through a trampoline
//! below 1 MiB. The way itself is `boot.s`. A room of unsafe code: what the assembly and we owe
//! each other.

use core::arch::global_asm;
use core::ptr;
use core::sync::atomic::{AtomicU32, Ordering};

use folio_frames::Zone;

use crate::machine;
use crate::platform::Machine;
use crate::{run_first, run_other};

global_asm!(include_str!("boot.s"), options(att_syntax));

/// Where the trampoline is copied to; the startup interrupt names its page. Free memory on every
/// PC.
const TRAMPOLINE: usize = 0x8000;

/// Read by the trampoline.
#[unsafe(no_mangle)]
static next_cpu_stack: AtomicU32 = AtomicU32::new(0);
/// Read by the trampoline.
#[unsafe(no_mangle)]
static next_cpu_argument: AtomicU32 = AtomicU32::new(0);

unsafe extern "C" {
    static trampoline: u8;
    static trampoline_end: u8;
    static kernel_end: u8;
}

/// The first address behind the kernel.
pub fn end_of_kernel() -> usize {
    (&raw const kernel_end).addr()
}

#[unsafe(no_mangle)]
extern "C" fn first_cpu(start_info: usize) -> ! {
    machine::open_serial();
    run_first(start_info)
}

#[unsafe(no_mangle)]
extern "C" fn other_cpu(zone: *const Zone<Machine>) -> ! {
    // SAFETY: `start` put a zone there, which lives for ever.
    run_other(unsafe { &*zone })
}

/// Copies the trampoline to its place.
pub fn place_trampoline() {
    let from = &raw const trampoline;
    let len = (&raw const trampoline_end).addr() - from.addr();
    let to = ptr::with_exposed_provenance_mut(TRAMPOLINE);
    // SAFETY: `len` bytes of our image, to memory that the identity map covers and nobody uses: it
    // is below the first block that goes online, and the boot loader has handed over.
    unsafe { ptr::copy_nonoverlapping(from, to, len) };
}

/// Starts the CPU with this APIC id on the stack that ends at `stack_end`. It takes its stack and
/// argument on its way: so no other may be started before it has arrived.
pub fn start(apic_id: u8, stack_end: *mut u8, zone: &'static Zone<Machine>) {
    next_cpu_stack.store(stack_end.expose_provenance() as u32, Ordering::Relaxed);
    // Release: the trampoline reads both; x86 keeps the order, and the interrupt comes after.
    next_cpu_argument.store(ptr::from_ref(zone).expose_provenance() as u32, Ordering::Release);
    machine::send_interrupt(apic_id, machine::INIT);
    for _ in 0..1000 {
        machine::pause();
    }
    machine::send_interrupt(apic_id, machine::STARTUP | (TRAMPOLINE >> 12) as u32);
}
