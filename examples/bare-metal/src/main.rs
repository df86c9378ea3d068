//! A kernel that does one thing: it takes the memory that the boot loader's map calls free, hands
//! it to folio-frames, and tries allocation, folios, splits, migration and a short torture on all
//! CPUs. `cargo run --release` here boots it in QEMU.
//!
//! ```text
//! boot.s ─▶ run_first ─▶ firmware: the map ─▶ handover: the zone ─▶ scenes ─▶ torture ─▶ exit
//!    └────▶ run_other ──────────────────────────────────────────────────────────▲ (every other CPU)
//! ```
//!
//! What it shows: all that folio-frames needs of its surroundings is `platform.rs`. What it lacks:
//! interrupts, so a lock need not turn them off, and a way to sleep.

#![no_std]
#![no_main]

mod boot;
mod firmware;
mod handover;
mod machine;
mod platform;
mod scenes;
mod torture;

use core::panic::PanicInfo;
use core::sync::atomic::{AtomicUsize, Ordering};

use folio_frames::{FRAME_SIZE, Order, Zone};

use crate::firmware::StartInfo;
use crate::handover::Early;
use crate::platform::Machine;

/// CPUs that this kernel has numbers for.
const MOST_CPUS: usize = 64;

/// What GS points to on each CPU.
static NUMBERS: [AtomicUsize; MOST_CPUS] = {
    let mut numbers = [const { AtomicUsize::new(0) }; MOST_CPUS];
    let mut n = 0;
    while n < MOST_CPUS {
        numbers[n] = AtomicUsize::new(n);
        n += 1;
    }
    numbers
};

/// CPUs that run.
static ARRIVED: AtomicUsize = AtomicUsize::new(1);

/// The first CPU, after `boot.s`.
fn run_first(start_info: usize) -> ! {
    machine::set_cpu(&NUMBERS[0]);
    let info = StartInfo::at(start_info);
    let memory: usize = info.memory().map(|range| range.len()).sum();
    let (zone, blocks) = Early::behind_the_kernel(&info).into_zone(&info);
    say!(
        "folio on bare metal: {} KiB in the boot loader's map, {blocks} blocks of 2 MiB online",
        memory >> 10
    );

    let (started, cpus, stacks) = start_others(&info, zone);
    say!("cpus: {started} of {cpus} started");

    scenes::allocate(zone);
    scenes::folio(zone);
    scenes::split(zone);
    scenes::migrate(zone);
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
    machine::exit(16)
}

/// Starts all other CPUs, each on a stack of plain frames. How many run, how many there are, and
/// the frames in stacks.
fn start_others(info: &StartInfo, zone: &'static Zone<Machine>) -> (usize, usize, u32) {
    let size = Order::new(4).expect("an order below the largest");
    let this = machine::apic_id();
    boot::place_trampoline();
    let (mut cpus, mut frames) = (1, 0);
    for apic_id in info.cpus().filter(|&id| id != this).take(MOST_CPUS - 1) {
        let mut stack = zone.alloc_frozen(size).expect("room for a stack");
        let end = stack.as_mut_slice().as_mut_ptr_range().end;
        // The CPU owns it from now on, for ever.
        core::mem::forget(stack);
        frames += size.frames();
        boot::start(apic_id, end, zone);
        cpus += 1;
        // Acquire: pairs with Release in run_other.
        while ARRIVED.load(Ordering::Acquire) < cpus {
            machine::pause();
        }
    }
    (ARRIVED.load(Ordering::Relaxed), cpus, frames)
}

/// Every other CPU, after `boot.s`.
fn run_other(zone: &'static Zone<Machine>) -> ! {
    // Relaxed: CPUs are started one after the other.
    let number = ARRIVED.load(Ordering::Relaxed);
    machine::set_cpu(&NUMBERS[number]);
    // Release: pairs with Acquire in start_others, which starts the next only then.
    ARRIVED.store(number + 1, Ordering::Release);
    torture::join(zone);
    machine::halt()
}

/// What frames of one owner hold: its note in every word.
fn fill(bytes: &mut [u8], note: u64) {
    for word in bytes.chunks_exact_mut(8) {
        word.copy_from_slice(&note.to_le_bytes());
    }
}

/// Whether frames hold what [`fill`] put there. Looks at every `step`-th word of a frame, and at
/// the last.
fn holds(bytes: &[u8], note: u64, step: usize) -> bool {
    let expected = note.to_le_bytes();
    bytes.chunks_exact(8).step_by(step).all(|word| *word == expected)
        && bytes[bytes.len() - 8..] == expected
}

const _: () = assert!(FRAME_SIZE.is_multiple_of(8));

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    say!("cpu {}: {info}", machine::cpu());
    machine::exit(1)
}
