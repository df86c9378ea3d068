//! The operations of the frames, each as one function, on a machine without an operating system.
//!
//! It never runs: `cargo x panics` reads its code. A room of unsafe code: the entry's name.

#![no_std]
#![no_main]

use core::hint::black_box;
use core::mem::MaybeUninit;
use core::panic::PanicInfo;
use core::ptr::{self, NonNull};

use folio_frames::{
    AllocError, DirectMap, FolioRef, FrozenFolio, Kind, LockApi04, LockedSlot, Lookup,
    MemmapMemory, MemoryMap, MigrateType, Order, Pfn, Platform, Refusal, Slot, Zone, put_all,
};
use folio_ref::DefaultScheme;

/// A machine with one CPU and a lock that spins.
#[derive(Debug)]
pub struct Machine;

impl Platform for Machine {
    type Scheme = DefaultScheme;
    type Lock = LockApi04<spin::Mutex<()>>;

    fn cpu() -> usize {
        black_box(0)
    }

    fn wait(_key: usize, still: &dyn Fn() -> bool) {
        while still() {
            core::hint::spin_loop();
        }
    }

    fn wake_all(_key: usize) {}
}

type Folio = FolioRef<Machine>;

// get

#[inline(never)]
fn get_by_slot(slot: &Slot<Machine>, zone: &'static Zone<Machine>) -> Lookup<Machine> {
    slot.get(zone)
}

#[inline(never)]
fn get_by_number(zone: &'static Zone<Machine>, pfn: Pfn) -> Result<Folio, Refusal> {
    zone.try_get(pfn)
}

#[inline(never)]
fn get_by_any_number(zone: &'static Zone<Machine>, pfn: Pfn) -> Result<Folio, Refusal> {
    zone.try_get_head(pfn)
}

#[inline(never)]
fn get_another(folio: &Folio) -> Folio {
    folio.clone()
}

#[inline(never)]
fn get_page_lock<'s>(
    slot: &'s Slot<Machine>,
    zone: &'static Zone<Machine>,
) -> Option<LockedSlot<'s, Machine>> {
    slot.try_lock(zone)
}

#[inline(never)]
fn get_copy(slot: &Slot<Machine>, map: DirectMap<'_, Machine>, page: &mut [u8; 4096]) -> bool {
    slot.read(map, 0, page, || true).is_some()
}

// put

#[inline(never)]
fn put_one(folio: Folio) {
    drop(folio);
}

#[inline(never)]
fn put_many(folios: [Folio; 4]) {
    put_all(folios);
}

// alloc

#[inline(never)]
fn alloc_shared(
    zone: &'static Zone<Machine>,
    order: Order,
    kind: Kind,
) -> Result<Folio, AllocError> {
    zone.alloc(order, kind, 0)
}

#[inline(never)]
fn alloc_frozen(
    zone: &'static Zone<Machine>,
    order: Order,
    migrate_type: MigrateType,
) -> Result<FrozenFolio<Machine>, AllocError> {
    zone.alloc_frozen_as(order, migrate_type)
}

#[inline(never)]
fn alloc_up_to(
    zone: &'static Zone<Machine>,
    order: Order,
) -> Result<FrozenFolio<Machine>, AllocError> {
    zone.alloc_frozen_up_to(order, MigrateType::Movable)
}

#[inline(never)]
fn alloc_init(folio: FrozenFolio<Machine>) -> Folio {
    folio.init()
}

// free

#[inline(never)]
fn free_frozen(folio: FrozenFolio<Machine>) {
    folio.free();
}

#[inline(never)]
fn free_drained(zone: &'static Zone<Machine>) -> u32 {
    zone.drain()
}

// Before the first of these.

#[inline(never)]
fn new_zone_of_map(
    place: &'static mut MaybeUninit<Zone<Machine>>,
    metadata: NonNull<u8>,
    map: &MemoryMap<'_>,
) -> &'static mut Zone<Machine> {
    // SAFETY: it never runs.
    unsafe { Zone::from_map_in(place, metadata, MemmapMemory::Zeroed, map, ptr::null_mut(), &[]) }
}

#[inline(never)]
fn new_zone(
    place: &'static mut MaybeUninit<Zone<Machine>>,
    metadata: NonNull<u8>,
    first: Pfn,
) -> &'static mut Zone<Machine> {
    // SAFETY: it never runs.
    unsafe { Zone::new_in(place, metadata, MemmapMemory::Zeroed, first, 512, ptr::null_mut(), &[]) }
}

/// Keeps every operation as a function of its own.
#[unsafe(no_mangle)]
pub extern "C" fn _start() -> ! {
    black_box(get_by_slot as fn(&_, _) -> _);
    black_box(get_by_number as fn(_, _) -> _);
    black_box(get_by_any_number as fn(_, _) -> _);
    black_box(get_another as fn(&_) -> _);
    black_box(get_page_lock as fn(&'static _, _) -> _);
    black_box(get_copy as fn(&_, _, &mut _) -> _);
    black_box(put_one as fn(_));
    black_box(put_many as fn(_));
    black_box(alloc_shared as fn(_, _, _) -> _);
    black_box(alloc_frozen as fn(_, _, _) -> _);
    black_box(alloc_up_to as fn(_, _) -> _);
    black_box(alloc_init as fn(_) -> _);
    black_box(free_frozen as fn(_));
    black_box(free_drained as fn(_) -> _);
    black_box(new_zone as fn(_, _, _) -> _);
    black_box(new_zone_of_map as fn(_, _, &_) -> _);
    loop {
        core::hint::spin_loop();
    }
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    black_box(info);
    loop {
        core::hint::spin_loop();
    }
}
