//! The processor and the devices: serial port, local APIC, registers. A room of unsafe code: the
//! instructions that Rust cannot express.

use core::arch::asm;
use core::fmt::{self, Write};
use core::ptr;
use core::sync::atomic::AtomicUsize;

use crate::MAX_CPUS;

/// An APIC command: reset, then wait for STARTUP.
pub const INIT: u32 = 0x4500;
/// An APIC command: start at the page in the low byte.
pub const STARTUP: u32 = 0x4600;

const COM1: u16 = 0x3f8;
const DEBUG_EXIT: u16 = 0xf4;
const APIC: usize = 0xfee0_0000;
const GS_BASE: u32 = 0xc000_0101;

fn out(port: u16, value: u8) {
    // SAFETY: called only with the ports above, which access no memory.
    unsafe {
        asm!("out dx, al", in("dx") port, in("al") value, options(nomem, nostack, preserves_flags));
    };
}

fn input(port: u16) -> u8 {
    let value;
    // SAFETY: called only with the ports above, which access no memory.
    unsafe {
        asm!("in al, dx", in("dx") port, out("al") value, options(nomem, nostack, preserves_flags));
    };
    value
}

/// Sets the serial port to 115200 baud, eight bits, no interrupts.
pub fn open_serial() {
    for (register, value) in [(1, 0x00), (3, 0x80), (0, 0x01), (1, 0x00), (3, 0x03), (2, 0xc7)] {
        out(COM1 + register, value);
    }
}

/// The serial port as a writer.
pub struct Serial;

impl Write for Serial {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            while input(COM1 + 5) & 0x20 == 0 {
                pause();
            }
            out(COM1, byte);
        }
        Ok(())
    }
}

/// Ends QEMU with status 33 if all tests passed, otherwise 3: its exit device makes `2 * code + 1`
/// of a code. On a machine without that device, stops this CPU.
pub fn exit(passed: bool) -> ! {
    let code: u32 = if passed { 16 } else { 1 };
    // SAFETY: the port is QEMU's debug exit, or belongs to no device.
    unsafe {
        asm!(
            "out dx, eax",
            in("dx") DEBUG_EXIT,
            in("eax") code,
            options(nomem, nostack, preserves_flags)
        );
    };
    halt()
}

/// Stops this CPU permanently.
pub fn halt() -> ! {
    loop {
        // SAFETY: `hlt` accesses no memory. Interrupts are off, so the CPU does not wake.
        unsafe { asm!("hlt", options(nomem, nostack, preserves_flags)) };
    }
}

/// Hints to the processor (and QEMU) that this CPU waits.
pub fn pause() {
    core::hint::spin_loop();
}

/// The numbers of the CPUs. GS points to one of them on each CPU.
static NUMBERS: [AtomicUsize; MAX_CPUS] = {
    let mut numbers = [const { AtomicUsize::new(0) }; MAX_CPUS];
    let mut n = 0;
    while n < MAX_CPUS {
        numbers[n] = AtomicUsize::new(n);
        n += 1;
    }
    numbers
};

/// Sets the number of this CPU.
pub fn set_cpu(number: usize) {
    let address = ptr::from_ref(&NUMBERS[number]).expose_provenance() as u64;
    let (low, high) = (address as u32, (address >> 32) as u32);
    // SAFETY: only `cpu` uses GS. It reads a number through it, which lives forever and never
    // changes.
    unsafe {
        asm!(
            "wrmsr",
            in("ecx") GS_BASE,
            in("eax") low,
            in("edx") high,
            options(nostack, preserves_flags)
        );
    };
}

/// Returns the number of this CPU, set by [`set_cpu`].
pub fn cpu() -> usize {
    let number;
    // SAFETY: every CPU calls `set_cpu` first.
    unsafe { asm!("mov {}, gs:[0]", out(reg) number, options(nostack, readonly, preserves_flags)) };
    number
}

/// Returns `true` if the processor has pages of 1 GiB (CPUID `8000_0001`, bit 26 of EDX).
pub fn has_pages_of_1_gib() -> bool {
    use core::arch::x86_64::__cpuid;
    const EXTENDED: u32 = 0x8000_0000;
    __cpuid(EXTENDED).eax > EXTENDED && __cpuid(EXTENDED + 1).edx & 1 << 26 != 0
}

fn apic(register: usize) -> *mut u32 {
    ptr::with_exposed_provenance_mut(APIC + register)
}

/// Returns the APIC id of this CPU, which interrupts use.
pub fn apic_id() -> u8 {
    // SAFETY: the local APIC is identity-mapped, and is not memory.
    (unsafe { apic(0x20).read_volatile() } >> 24) as u8
}

/// Sends an interrupt to one CPU and waits until the APIC has sent it.
pub fn send_interrupt(apic_id: u8, command: u32) {
    // SAFETY: the local APIC is identity-mapped, and is not memory. The write to the lower half
    // below sends the interrupt.
    unsafe { apic(0x310).write_volatile(u32::from(apic_id) << 24) };
    // SAFETY: the local APIC is identity-mapped, and is not memory.
    unsafe { apic(0x300).write_volatile(command) };
    // SAFETY: the local APIC is identity-mapped, and is not memory.
    while unsafe { apic(0x300).read_volatile() } & 1 << 12 != 0 {
        pause();
    }
}
