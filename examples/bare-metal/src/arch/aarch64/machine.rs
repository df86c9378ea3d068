//! The processor and the devices: serial port, PSCI, semihosting, registers. A room of unsafe code:
//! the instructions that Rust cannot express.

use core::arch::asm;
use core::fmt::{self, Write};
use core::ptr;

use super::firmware::{Conduit, Cpu};

/// A PL011.
const SERIAL: usize = 0x0900_0000;
const DATA: usize = 0x00;
const FLAGS: usize = 0x18;
/// In the flags: no room for a byte.
const FULL: u32 = 1 << 5;

/// PSCI: starts a CPU.
const CPU_ON: u64 = 0xc400_0003;

/// Semihosting: ends the program with a status.
const EXIT_EXTENDED: u64 = 0x20;
/// The reason of an exit: the program has ended.
const APPLICATION_EXIT: u64 = 0x2_0026;

fn serial(register: usize) -> *mut u32 {
    ptr::with_exposed_provenance_mut(SERIAL + register)
}

/// The serial port as a writer. The firmware has opened it.
pub struct Serial;

impl Write for Serial {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            // SAFETY: the serial port is identity-mapped, and is not memory.
            while unsafe { serial(FLAGS).read_volatile() } & FULL != 0 {
                pause();
            }
            // SAFETY: the serial port is identity-mapped, and is not memory.
            unsafe { serial(DATA).write_volatile(u32::from(byte)) };
        }
        Ok(())
    }
}

/// Ends QEMU with status 33 if all tests passed, otherwise 3, through semihosting. On a machine
/// without semihosting, ends in an exception that no code handles.
pub fn exit(passed: bool) -> ! {
    let status: [u64; 2] = [APPLICATION_EXIT, if passed { 33 } else { 3 }];
    // SAFETY: the host reads the two words of `status`, and ends the machine.
    unsafe {
        asm!(
            "hlt #0xf000",
            inout("x0") EXIT_EXTENDED => _,
            in("x1") &raw const status,
            options(readonly, nostack, preserves_flags)
        );
    };
    halt()
}

/// Stops this CPU permanently.
pub fn halt() -> ! {
    loop {
        // SAFETY: `wfi` accesses no memory. Interrupts are off, so nothing runs if it wakes.
        unsafe { asm!("wfi", options(nomem, nostack, preserves_flags)) };
    }
}

/// Hints to the processor (and QEMU) that this CPU waits.
pub fn pause() {
    core::hint::spin_loop();
}

/// Sets the number of this CPU.
pub fn set_cpu(number: usize) {
    // SAFETY: only `cpu` uses this register.
    unsafe { asm!("msr tpidr_el1, {}", in(reg) number, options(nomem, nostack, preserves_flags)) };
}

/// Returns the number of this CPU, set by [`set_cpu`].
pub fn cpu() -> usize {
    let number;
    // SAFETY: it reads a register.
    unsafe { asm!("mrs {}, tpidr_el1", out(reg) number, options(nomem, nostack, preserves_flags)) };
    number
}

/// Returns the number of this CPU in the device tree and in PSCI.
pub fn cpu_id() -> u64 {
    /// The four levels of affinity.
    const AFFINITY: u64 = 0xff_00ff_ffff;
    let register: u64;
    // SAFETY: it reads a register.
    unsafe {
        asm!("mrs {}, mpidr_el1", out(reg) register, options(nomem, nostack, preserves_flags));
    };
    register & AFFINITY
}

/// Lets the firmware start a CPU at `entry` with an argument in its first register. Returns PSCI's
/// result: 0, or a negative error.
pub fn start_cpu(cpu: &Cpu, entry: u64, argument: u64) -> i64 {
    // The firmware changes no other registers than those of a C function (SMC Calling Convention).
    macro_rules! call {
        ($instruction:literal) => {{
            let result;
            // SAFETY: the CPU runs the code at `entry` on the stack that `argument` points to; the
            // caller has given it away. The barrier makes earlier writes visible to the CPU.
            unsafe {
                asm!(
                    "dsb ishst",
                    $instruction,
                    inout("x0") CPU_ON => result,
                    in("x1") cpu.id,
                    in("x2") entry,
                    in("x3") argument,
                    clobber_abi("C")
                );
            };
            result
        }};
    }
    match cpu.conduit {
        Conduit::Hypervisor => call!("hvc #0"),
        Conduit::SecureMonitor => call!("smc #0"),
    }
}
