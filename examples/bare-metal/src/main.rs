//! A kernel that runs folio-frames on bare metal. It passes the firmware's map of usable memory to
//! folio-frames, whole, and tests allocation, folios, splits, migration, page tables and a short
//! torture on all CPUs. `cargo run --release` in this folder boots it in QEMU.
//!
//! ```text
//! boot.s ─▶ run_first ─▶ firmware: the map ─▶ handover: the zone ─▶ scenes ─▶ paging ─▶ torture
//!    └────▶ run_other ────────────────────────────────────────────────────────▲ (other CPUs)
//! ```
//!
//! `arch` is what differs by processor. `platform.rs` is all that folio-frames needs from its
//! environment. The kernel has no interrupts, so its locks do not disable them, and no way to
//! sleep.

#![no_std]
#![no_main]

mod arch;
mod console;
mod handover;
mod paging;
mod platform;
mod scenes;
mod torture;

use core::panic::PanicInfo;
use core::sync::atomic::{AtomicUsize, Ordering};

use folio_frames::{FRAME_SIZE, Order, Zone};

use crate::arch::firmware::Firmware;
use crate::arch::{boot, machine};
use crate::handover::{Early, Memory};
use crate::platform::Machine;

/// Maximum number of CPUs that this kernel uses.
const MAX_CPUS: usize = 64;

/// Number of CPUs that run.
static ARRIVED: AtomicUsize = AtomicUsize::new(1);

/// Runs the first CPU, after `boot.s`.
fn run_first(firmware: usize) -> ! {
    machine::set_cpu(0);
    let firmware = Firmware::at(firmware);
    let bytes: u64 = firmware.memory().map(|range| range.end - range.start).sum();
    let Memory { zone, ranges, frames, reserved } =
        Early::behind_the_kernel(&firmware).into_zone(&firmware);
    let online = zone.stats().online_frames;
    assert_eq!(u64::from(online) + reserved, frames, "each whole frame is online or reserved");
    say!(
        "folio on bare metal: {} KiB in {ranges} ranges of the firmware's map, {online} frames \
         online, {reserved} reserved",
        bytes >> 10
    );

    let (started, cpus, stacks) = start_others(&firmware, zone);
    say!("cpus: {started} of {cpus} started");

    scenes::allocate(zone);
    scenes::folio(zone);
    scenes::split(zone);
    scenes::migrate(zone);
    paging::conduct(zone, cpus);
    torture::conduct(zone, cpus);

    zone.drain();
    let stats = zone.stats();
    assert_eq!(stats.free_frames + stacks, stats.online_frames, "frames were lost: {zone:?}");
    say!(
        "audit: {} frames online, {stacks} in stacks, {} free",
        stats.online_frames,
        stats.free_frames
    );
    say!("passed");
    machine::exit(true)
}

/// Starts all other CPUs, each on a stack of plain frames. Returns the number of running CPUs, the
/// number of CPUs that were to run, and the number of frames in stacks.
fn start_others(firmware: &Firmware, zone: &'static Zone<Machine>) -> (usize, usize, u32) {
    let size = Order::new(4).expect("an order below the largest");
    let (mut cpus, mut frames) = (1, 0);
    for cpu in firmware.other_cpus().take(MAX_CPUS - 1) {
        let mut stack = zone.alloc_frozen(size).expect("room for a stack");
        let end = stack.as_mut_slice().as_mut_ptr_range().end;
        // The CPU owns the stack from now on; it is never freed.
        core::mem::forget(stack);
        frames += size.frames();
        boot::start(&cpu, end, zone);
        cpus += 1;
        // Acquire: pairs with Release in run_other.
        while ARRIVED.load(Ordering::Acquire) < cpus {
            machine::pause();
        }
    }
    (ARRIVED.load(Ordering::Relaxed), cpus, frames)
}

/// Runs every other CPU, after `boot.s`.
fn run_other(zone: &'static Zone<Machine>) -> ! {
    // Relaxed: CPUs are started one at a time.
    let number = ARRIVED.load(Ordering::Relaxed);
    machine::set_cpu(number);
    // Release: pairs with Acquire in start_others, which then starts the next CPU.
    ARRIVED.store(number + 1, Ordering::Release);
    paging::join(zone);
    torture::join(zone);
    machine::halt()
}

/// Fills frames with the owner data of their owner in every word.
fn fill(bytes: &mut [u8], owner_data: u64) {
    for word in bytes.chunks_exact_mut(8) {
        word.copy_from_slice(&owner_data.to_le_bytes());
    }
}

/// Returns `true` if frames contain what [`fill`] wrote. Checks every `step`-th word and the last.
fn holds(bytes: &[u8], owner_data: u64, step: usize) -> bool {
    let expected = owner_data.to_le_bytes();
    bytes.chunks_exact(8).step_by(step).all(|word| *word == expected)
        && bytes[bytes.len() - 8..] == expected
}

const _: () = assert!(FRAME_SIZE.is_multiple_of(8));

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    say!("cpu {}: {info}", machine::cpu());
    machine::exit(false)
}
