//! Whole 2 MiB blocks, some of which stay in the lists of their CPU.

mod common;

use std::iter;

use common::{Index, arena, assert_all_free, order};
use folio_frames::{BLOCK_ORDER, FrozenFolio, MAX_ORDER, MigrateType, Order, Pfn, UserSpace};
use folio_ref::DefaultScheme;

type Handle = FrozenFolio<UserSpace>;

#[test]
fn the_whole_block_freed_last_is_allocated_first() {
    let arena = arena::<DefaultScheme>(4);
    let zone = arena.zone();
    let mut handles: Vec<Handle> =
        (0..4).map(|_| zone.alloc_frozen(BLOCK_ORDER).unwrap()).collect();
    handles.sort_by_key(Handle::pfn);
    let last = handles[3].pfn();
    // Memory is short at the first ones, so the list keeps none of them.
    handles.remove(0).free();
    handles.remove(0).free();
    handles.remove(1).free();
    let next = zone.alloc_frozen(BLOCK_ORDER).unwrap();
    assert_eq!(next.pfn(), last, "its bytes may still be in the processor's cache");
    handles.into_iter().chain([next]).for_each(Handle::free);
    assert_all_free(zone);
}

/// A whole block needs no lock of the zone, which two threads would contend for.
#[test]
fn a_whole_block_goes_through_the_list_of_its_cpu() {
    let arena = arena::<DefaultScheme>(4);
    let zone = arena.zone();
    let block = || zone.alloc_frozen(BLOCK_ORDER).unwrap();
    let listed = || zone.stats().free_frames - zone.free_frames();
    block().free();
    assert_eq!(listed(), 512);
    let before = zone.counters();
    (0..1000).for_each(|_| block().free());
    let after = zone.counters();
    assert_eq!(after.per_cpu_allocated - before.per_cpu_allocated, 1000);
    assert_eq!(
        (after.buddy_allocated, after.buddy_freed),
        (before.buddy_allocated, before.buddy_freed)
    );
    // The list keeps one block. It counts as free and whole, and larger requests find it.
    let all: Vec<Handle> = (0..4).map(|_| block()).collect();
    all.into_iter().for_each(Handle::free);
    assert_eq!((listed(), zone.stats().free_frames, zone.stats().whole_blocks), (512, 4 * 512, 4));
    assert_eq!(zone.stats().largest_free_order, Some(MAX_ORDER));
    let pieces: Vec<Handle> = (0..2).map(|_| zone.alloc_frozen(MAX_ORDER).unwrap()).collect();
    assert_eq!(zone.stats().free_frames, 0);
    pieces.into_iter().for_each(Handle::free);
    assert_all_free(zone);
}

/// `alloc_frozen_up_to` takes nothing from the lists of CPUs: neither single frames, which make no
/// large piece, nor a whole block while another is free.
#[test]
fn alloc_up_to_takes_from_cpu_lists_only_as_a_last_resort() {
    let arena = arena::<DefaultScheme>(2);
    let zone = arena.zone();
    let listed = || zone.stats().free_frames - zone.free_frames();
    let up_to = |order| zone.alloc_frozen_up_to(order, MigrateType::Movable).unwrap();
    zone.alloc_frozen(BLOCK_ORDER).unwrap().free();
    let other = up_to(BLOCK_ORDER);
    assert_eq!((other.order(), listed()), (BLOCK_ORDER, 512));
    other.free();
    let mut all: Vec<Handle> = (0..1024).map(|_| up_to(Order::ZERO)).collect();
    all.swap_remove(700).free();
    all.swap_remove(300).free();
    let before = (listed(), zone.counters().buddy_allocated);
    all.push(up_to(BLOCK_ORDER));
    assert_eq!((before.0, all[1022].order(), listed()), (2, Order::ZERO, 1));
    assert_eq!(zone.counters().buddy_allocated, before.1, "it went through the buddy");
    all.into_iter().for_each(Handle::free);
    assert_all_free(zone);
}

#[test]
fn a_block_is_taken_at_its_place_if_enough_is_free_there() {
    let arena = arena::<DefaultScheme>(4);
    let zone = arena.zone();
    let first = zone.pfns().start.as_u64();
    let at = |frame: u64, frames: u32, order: Order| {
        zone.alloc_frozen_at(Pfn::new(first + frame), frames, order, MigrateType::Movable)
    };
    let place = |folio: &Handle| (folio.pfn().as_u64() - first, folio.order());
    let mut all = vec![at(0, 2048, MAX_ORDER).unwrap()];
    assert_eq!(place(&all[0]), (0, MAX_ORDER));
    assert!(at(1024, 1025, MAX_ORDER).is_none(), "not behind the zone");
    all.push(at(1024, 1024, order(4)).unwrap());
    assert_eq!(place(&all[1]), (1024, order(4)), "the first part of a larger block");
    all.push(at(1040, 1008, MAX_ORDER).unwrap());
    assert_eq!(place(&all[2]), (1040, order(4)), "the block that begins there");
    for (frame, frames) in [(0, 1), (1023, 2), (1057, 1), (2048, 1), (u64::MAX - first, 1)] {
        assert!(at(frame, frames, MAX_ORDER).is_none(), "{frames} frames from {frame} on");
    }
    all.push(at(1536, 0, Order::ZERO).unwrap());
    assert!(at(1056, 481, MAX_ORDER).is_none(), "a frame behind the blocks is taken");
    let unmovable = MigrateType::Unmovable;
    let other = zone.alloc_frozen_at(Pfn::new(first + 1056), 1, MAX_ORDER, unmovable);
    assert!(other.is_none(), "of another migrate type");
    all.push(at(1056, 480, MAX_ORDER).unwrap());
    all.into_iter().for_each(Handle::free);
    assert_all_free(zone);
}

#[test]
fn what_is_freed_in_a_row_is_taken_in_a_row() {
    let arena = arena::<DefaultScheme>(32);
    let zone = arena.zone();
    let mut all = Vec::new();
    for round in 0..4 {
        all.extend(iter::from_fn(|| zone.alloc_frozen(MAX_ORDER).ok()));
        assert_eq!(all.len(), 16);
        assert!(all.is_sorted_by_key(Handle::pfn), "round {round}: {all:?}");
        match round {
            0 => all.reverse(),
            1 => all.rotate_right(1),
            _ => all.rotate_left(1),
        }
        all.drain(..).for_each(Handle::free);
    }
    assert_all_free(zone);
}

#[test]
fn a_whole_block_in_a_list_is_found_when_needed() {
    let arena = arena::<DefaultScheme>(2);
    let zone = arena.zone();
    let listed = || {
        zone.alloc_frozen(BLOCK_ORDER).unwrap().free();
        assert_eq!(zone.stats().free_frames - zone.free_frames(), 512);
    };
    listed();
    // Takes the rest of the zone as single frames, so that the list has the only whole block.
    let rest: Vec<Handle> = (0..512)
        .map(|_| zone.alloc_frozen_as(Order::ZERO, MigrateType::Movable).unwrap())
        .collect();
    assert_eq!((zone.free_frames(), zone.stats().largest_free_order), (0, Some(BLOCK_ORDER)));
    let largest = zone.alloc_frozen_up_to(MAX_ORDER, MigrateType::Movable).unwrap();
    assert_eq!(largest.order(), BLOCK_ORDER, "not a single frame");
    largest.free();
    rest.into_iter().for_each(Handle::free);
    assert_all_free(zone);
    // Offline takes the block.
    listed();
    for block in [0, 1] {
        let offline = arena.offline(block, &Index::new(0)).unwrap();
        assert_eq!((zone.stats().free_frames, zone.stats().whole_blocks), (512, 1));
        arena.online(offline);
    }
    // Single frames take the block.
    listed();
    let all: Vec<Handle> =
        std::iter::from_fn(|| zone.alloc_frozen_as(Order::ZERO, MigrateType::Movable).ok())
            .collect();
    assert_eq!(all.len(), 2 * 512);
    all.into_iter().for_each(Handle::free);
    assert_all_free(zone);
}

#[test]
fn no_whole_block_is_listed_when_memory_is_short() {
    let arena = arena::<DefaultScheme>(16);
    let zone = arena.zone();
    let mut all: Vec<Handle> = (0..16).map(|_| zone.alloc_frozen(BLOCK_ORDER).unwrap()).collect();
    for freed in 1..=16 {
        all.pop().unwrap().free();
        let listed = zone.stats().free_frames - zone.free_frames();
        // The list reads the number of free blocks when the third comes, and finds two: an eighth.
        // From then on it keeps an eighth of the zone.
        let most = [0, 0, 0, 512, 2 * 512][freed.min(5) as usize - 1];
        assert_eq!(listed, most, "{freed} of 16 blocks are free");
        assert_eq!(zone.stats().free_frames, freed * 512);
    }
    assert_all_free(zone);
}

/// Blocks that are allocated in a row, and freed in a row, take the zone's lock once for several.
#[test]
fn whole_blocks_in_a_row_move_to_the_zone_in_batches() {
    let arena = arena::<DefaultScheme>(64);
    let zone = arena.zone();
    let round = || {
        let all: Vec<Handle> = (0..16).map(|_| zone.alloc_frozen(BLOCK_ORDER).unwrap()).collect();
        all.into_iter().for_each(Handle::free);
    };
    round();
    let before = zone.counters();
    (0..10).for_each(|_| round());
    let after = zone.counters();
    assert_eq!(after.per_cpu_allocated - before.per_cpu_allocated, 160);
    assert_eq!(after.buddy_allocated - before.buddy_allocated, 80, "the list has 8 at the start");
    assert_eq!(zone.stats().free_frames - zone.free_frames(), 8 * 512);
    assert_eq!((zone.stats().free_frames, zone.stats().whole_blocks), (64 * 512, 64));
    assert_all_free(zone);
}
