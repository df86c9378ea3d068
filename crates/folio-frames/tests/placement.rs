//! Placement: by migrate type, so that 2 MiB blocks survive, and from the lists of the CPU first.

mod common;

use std::cell::Cell;
use std::collections::BTreeSet;

use common::{arena, assert_all_free, order};
use folio_frames::{
    Arena, BLOCK_ORDER, FrozenFolio, MigrateType, Order, Pfn, Platform, UserSpace, Zone,
};
use folio_ref::DefaultScheme;

type Handle = FrozenFolio<UserSpace>;

fn block_of(zone: &Zone<UserSpace>, pfn: Pfn) -> u64 {
    (pfn.as_u64() - zone.pfns().start.as_u64()) / u64::from(BLOCK_ORDER.frames())
}

#[test]
fn migrate_types_do_not_share_blocks() {
    let arena = arena::<DefaultScheme>(12);
    let zone = arena.zone();
    let mut used: Vec<(MigrateType, Handle)> = Vec::new();
    for n in 0..600 {
        for migrate_type in [MigrateType::Movable, MigrateType::Reclaimable, MigrateType::Unmovable]
        {
            used.push((
                migrate_type,
                zone.alloc_frozen_as(order((n % 3) as u8), migrate_type).unwrap(),
            ));
        }
    }
    for migrate_type in [MigrateType::Movable, MigrateType::Reclaimable, MigrateType::Unmovable] {
        let blocks = |wanted: &dyn Fn(MigrateType) -> bool| -> BTreeSet<u64> {
            used.iter().filter(|one| wanted(one.0)).map(|one| block_of(zone, one.1.pfn())).collect()
        };
        let (ours, others) = (blocks(&|of| of == migrate_type), blocks(&|of| of != migrate_type));
        assert!(ours.is_disjoint(&others), "{migrate_type:?} shares a block: {ours:?} {others:?}");
    }
    zone.assert_sound();
    for (_, handle) in used {
        handle.free();
    }
    assert_all_free(zone);
    assert_eq!(zone.stats().whole_blocks, 12);
}

/// Two page tables that are allocated at different times must not spoil a block each.
#[test]
fn unmovable_allocations_share_blocks() {
    let arena = arena::<DefaultScheme>(4);
    let zone = arena.zone();
    let mut pages: Vec<Handle> = (0..2048)
        .map(|_| zone.alloc_frozen_as(Order::ZERO, MigrateType::Movable).unwrap())
        .collect();
    // A few pages of every block are freed.
    let (freed, kept): (Vec<Handle>, Vec<Handle>) =
        pages.drain(..).partition(|page| page.pfn().as_u64() % 8 < 2);
    freed.into_iter().for_each(Handle::free);
    zone.drain();
    // More pairs than the CPU's list holds, so that they come from the buddy.
    let unmovable: Vec<Handle> = (0..100).map(|_| zone.alloc_frozen(order(1)).unwrap()).collect();
    let blocks: BTreeSet<u64> =
        unmovable.iter().map(|handle| block_of(zone, handle.pfn())).collect();
    assert!(blocks.len() <= 2, "100 pairs of frames, room for 64 pairs in each: {blocks:?}");
    assert!(zone.counters().blocks_claimed >= 2, "{:?}", zone.counters());
    unmovable.into_iter().chain(kept).for_each(Handle::free);
    assert_all_free(zone);
}

#[test]
fn a_movable_page_borrows_a_place_rather_than_a_block() {
    let arena = arena::<DefaultScheme>(1);
    let zone = arena.zone();
    let unmovable: Vec<Handle> = (0..6).map(|_| zone.alloc_frozen(order(6)).unwrap()).collect();
    let page = zone.alloc_frozen_as(order(4), MigrateType::Movable).unwrap();
    assert_eq!((zone.counters().blocks_borrowed, zone.counters().blocks_claimed), (1, 1));
    page.free();
    unmovable.into_iter().for_each(Handle::free);
    assert_all_free(zone);
}

#[test]
fn a_movable_page_takes_over_a_half_free_block() {
    for (used, expected) in [(4, (0, 2)), (5, (1, 1))] {
        let arena = arena::<DefaultScheme>(1);
        let zone = arena.zone();
        let unmovable: Vec<Handle> =
            (0..used).map(|_| zone.alloc_frozen(order(6)).unwrap()).collect();
        let page = zone.alloc_frozen_as(order(4), MigrateType::Movable).unwrap();
        let counters = zone.counters();
        assert_eq!(
            (counters.blocks_borrowed, counters.blocks_claimed),
            expected,
            "{used} of 8 pieces are in use"
        );
        zone.assert_sound();
        page.free();
        unmovable.into_iter().for_each(Handle::free);
        assert_all_free(zone);
    }
}

/// Each free list is nearly sorted: a freed block is linked at the nearer end of the list, or next
/// to the block there.
#[test]
fn a_low_free_block_of_an_order_is_allocated_first() {
    let arena = arena::<DefaultScheme>(2);
    let zone = arena.zone();
    // An order without a CPU list.
    let size = order(4);
    let mut pieces: Vec<Handle> =
        std::iter::from_fn(|| zone.alloc_frozen_as(size, MigrateType::Movable).ok()).collect();
    pieces.sort_by_key(Handle::pfn);
    let first = zone.pfns().start.as_u64();
    let place = |handle: &Handle| (handle.pfn().as_u64() - first) / u64::from(size.frames());
    // No two of them merge.
    for freed in [20, 40, 10, 60, 12, 50, 35, 14] {
        let at = pieces.iter().position(|handle| place(handle) == freed).unwrap();
        pieces.remove(at).free();
        zone.assert_sound();
    }
    for expected in [10, 14, 35, 12, 20, 40, 50, 60] {
        let next = zone.alloc_frozen_as(size, MigrateType::Movable).unwrap();
        assert_eq!(place(&next), expected);
        pieces.push(next);
    }
    zone.assert_sound();
    pieces.into_iter().for_each(Handle::free);
    assert_all_free(zone);
}

#[test]
fn each_migrate_type_can_allocate_all_frames() {
    let arena = arena::<DefaultScheme>(3);
    let zone = arena.zone();
    for migrate_type in [MigrateType::Unmovable, MigrateType::Movable, MigrateType::Reclaimable] {
        let all: Vec<Handle> =
            std::iter::from_fn(|| zone.alloc_frozen_as(Order::ZERO, migrate_type).ok()).collect();
        assert_eq!(all.len(), 3 * 512);
        zone.assert_sound();
        all.into_iter().for_each(Handle::free);
        assert_all_free(zone);
        assert_eq!(zone.stats().whole_blocks, 3, "{zone:?}");
    }
}

/// Frames in the list of another CPU are free: an allocation that finds no others takes them.
#[test]
fn lists_of_other_cpus_are_drained_before_out_of_frames() {
    let arena = arena::<DefaultScheme>(1);
    let zone = arena.zone();
    std::thread::scope(|scope| {
        scope.spawn(|| zone.alloc_frozen(Order::ZERO).unwrap().free()).join().unwrap();
    });
    assert_eq!(zone.stats().free_frames, 512);
    assert!(zone.free_frames() < 512, "some are in the other thread's list");
    zone.alloc_frozen(BLOCK_ORDER).expect("all of it").free();
    assert_all_free(zone);
}

#[test]
fn small_orders_go_through_the_list_of_their_cpu() {
    let arena = arena::<DefaultScheme>(2);
    let zone = arena.zone();
    for n in 0..=4 {
        let before = zone.counters();
        for _ in 0..1000 {
            zone.alloc_frozen(order(n)).unwrap().free();
        }
        let after = zone.counters();
        let (through, buddy) = (
            after.per_cpu_allocated - before.per_cpu_allocated,
            after.buddy_allocated - before.buddy_allocated,
        );
        match n {
            0..=3 => assert!(through == 1000 && buddy <= 32, "{after:?}"),
            _ => assert!(through == 0 && buddy == 1000, "{after:?}"),
        }
        assert_eq!(after.per_cpu_freed - before.per_cpu_freed, through);
    }
    assert_all_free(zone);
}

#[test]
fn a_cpu_list_holds_64_frames_and_gives_back_half() {
    for n in 0..=3 {
        let arena = arena::<DefaultScheme>(4);
        let zone = arena.zone();
        let capacity = 64 >> n;
        let mut handles: Vec<Handle> =
            (0..=capacity).map(|_| zone.alloc_frozen(order(n)).unwrap()).collect();
        zone.drain();
        let listed = || (zone.stats().free_frames - zone.free_frames()) >> n;
        handles.drain(1..).for_each(Handle::free);
        assert_eq!(listed(), capacity, "blocks of order {n}");
        handles.into_iter().for_each(Handle::free);
        assert_eq!(listed(), capacity / 2 + 1, "blocks of order {n}");
        assert_all_free(zone);
    }
}

/// User space in which each thread sets its CPU number.
struct Numbered;

thread_local! {
    static CPU: Cell<usize> = const { Cell::new(0) };
}

impl Platform for Numbered {
    type Scheme = DefaultScheme;
    type Lock = <UserSpace as Platform>::Lock;

    fn cpu() -> usize {
        CPU.get()
    }
    fn wait(key: usize, still: &dyn Fn() -> bool) {
        UserSpace::<DefaultScheme>::wait(key, still);
    }
    fn wake_all(key: usize) {
        UserSpace::<DefaultScheme>::wake_all(key);
    }
}

#[test]
fn each_of_16_cpus_has_its_own_lists_and_more_share_them() {
    let arena = Arena::<Numbered>::new(4 << 21, &[]).unwrap();
    let zone = arena.zone();
    let from_buddy = |cpu: usize| {
        CPU.set(cpu);
        let before = zone.counters().buddy_allocated;
        zone.alloc_frozen(Order::ZERO).unwrap().free();
        zone.counters().buddy_allocated - before
    };
    assert_eq!([0, 1, 15].map(from_buddy), [32; 3], "each fills its list");
    assert_eq!([0, 1, 15, 16, 17, 1023].map(from_buddy), [0; 6]);
    assert_all_free(zone);
}

#[test]
fn a_cpu_that_drains_its_lists_leaves_those_of_others() {
    let arena = Arena::<Numbered>::new(4 << 21, &[]).unwrap();
    let zone = arena.zone();
    let listed = || zone.stats().free_frames - zone.free_frames();
    for cpu in [0, 1] {
        CPU.set(cpu);
        zone.alloc_frozen(Order::ZERO).unwrap().free();
    }
    assert_eq!(listed(), 64, "each filled its list");
    assert_eq!((zone.drain_this_cpu(), listed()), (32, 32));
    assert_eq!((zone.drain_this_cpu(), listed()), (0, 32));
    assert_eq!((zone.drain(), listed()), (32, 0));
    assert_all_free(zone);
}

/// Allocates the whole zone as single frames. Returns them by 2 MiB block.
fn full(zone: &'static Zone<UserSpace>) -> Vec<Vec<Handle>> {
    let mut blocks: Vec<Vec<Handle>> = (0..zone.blocks()).map(|_| Vec::new()).collect();
    while let Ok(handle) = zone.alloc_frozen_as(Order::ZERO, MigrateType::Movable) {
        blocks[block_of(zone, handle.pfn()) as usize].push(handle);
    }
    blocks
}

/// A nearly empty 2 MiB block must not give out the frames that were freed in it last, or it is
/// never free as a whole.
#[test]
fn a_high_block_is_left_alone_while_a_lower_one_has_room() {
    let arena = arena::<DefaultScheme>(16);
    let zone = arena.zone();
    let mut blocks = full(zone);
    // Every other frame, so that nothing merges.
    let mut every_other = |block: usize, frames: std::ops::Range<u64>| {
        let is_in = |handle: &mut Handle| {
            let within = handle.pfn().as_u64() % u64::from(BLOCK_ORDER.frames());
            within.is_multiple_of(2) && frames.contains(&within)
        };
        blocks[block].extract_if(.., is_in).for_each(Handle::free);
        zone.drain();
    };
    every_other(9, 0..40);
    every_other(3, 0..16);
    every_other(9, 40..512);
    let next: Vec<Handle> =
        (0..8).map(|_| zone.alloc_frozen_as(Order::ZERO, MigrateType::Movable).unwrap()).collect();
    let from: Vec<u64> = next.iter().map(|handle| block_of(zone, handle.pfn())).collect();
    assert_eq!(from, [3; 8], "block 3 has 8 free frames, block 9 has 256");
    zone.assert_sound();
    blocks.into_iter().flatten().chain(next).for_each(Handle::free);
    assert_all_free(zone);
}

/// With one page in eight in use this keeps 9.6 blocks whole instead of 9.
#[test]
fn a_roomy_block_is_spared_even_if_it_fits_better() {
    let arena = arena::<DefaultScheme>(16);
    let zone = arena.zone();
    let mut blocks = full(zone);
    let mut free = |block: usize, which: &dyn Fn(u64) -> bool| {
        let is_in =
            |handle: &mut Handle| which(handle.pfn().as_u64() % u64::from(BLOCK_ORDER.frames()));
        blocks[block].extract_if(.., is_in).for_each(Handle::free);
        zone.drain();
        zone.assert_sound();
    };
    let takes = |frames: usize, block: u64| {
        let next: Vec<Handle> = (0..frames)
            .map(|_| zone.alloc_frozen_as(Order::ZERO, MigrateType::Movable).unwrap())
            .collect();
        assert!(
            next.iter().all(|handle| block_of(zone, handle.pfn()) == block),
            "{frames} of block {block}: {next:?}"
        );
        zone.drain();
        zone.assert_sound();
        next
    };
    // Block 3: single frames and a pair, one frame more than half of it. Block 9: one hole of 32.
    free(3, &|within| within.is_multiple_of(2) || within == 1);
    free(9, &|within| (32..64).contains(&within));
    let mut next = takes(32, 9);
    // With 65 of these frames gone, block 3 is as good as any.
    next.extend(takes(66, 3));
    free(9, &|within| within < 8);
    next.extend(takes(8, 3));
    blocks.into_iter().flatten().chain(next).for_each(Handle::free);
    assert_all_free(zone);
}

#[test]
fn a_block_is_no_longer_roomy_once_enough_is_taken() {
    let arena = arena::<DefaultScheme>(16);
    let zone = arena.zone();
    let mut blocks = full(zone);
    let mut free = |block: usize, frames: std::ops::Range<u64>| {
        let is_in = |handle: &mut Handle| {
            frames.contains(&(handle.pfn().as_u64() % u64::from(BLOCK_ORDER.frames())))
        };
        blocks[block].extract_if(.., is_in).for_each(Handle::free);
        zone.drain();
    };
    // An order without a CPU list, so that nothing is freed into block 3.
    let take = || zone.alloc_frozen_as(order(4), MigrateType::Movable).unwrap();
    free(3, 0..384);
    let mut taken: Vec<Handle> = (0..13).map(|_| take()).collect();
    // 176 of 512 frames are left in block 3, a hole of 16 among them. Block 9 has a hole of 32.
    free(9, 0..32);
    taken.push(take());
    assert!(taken.iter().all(|handle| block_of(zone, handle.pfn()) == 3), "{taken:?}");
    zone.assert_sound();
    blocks.into_iter().flatten().chain(taken).for_each(Handle::free);
    assert_all_free(zone);
}

/// In a zone of 128 blocks, pairs and larger in CPU lists cost a tenth of a whole block, single
/// frames hardly anything.
#[test]
fn a_cpu_list_keeps_only_single_frames_when_memory_is_short() {
    let arena = arena::<DefaultScheme>(16);
    let zone = arena.zone();
    let listed = || zone.stats().free_frames - zone.free_frames();
    let pair = || zone.alloc_frozen_as(order(1), MigrateType::Movable).unwrap();
    let kept = [pair(), pair()];
    pair().free();
    assert!(listed() >= 16, "{} frames in the list of one CPU", listed());
    let mut rest: Vec<Handle> = (0..15 * 512)
        .map(|_| zone.alloc_frozen_as(Order::ZERO, MigrateType::Movable).unwrap())
        .collect();
    let before = zone.counters();
    kept.into_iter().for_each(Handle::free);
    let pairs: Vec<Handle> = (0..20).map(|_| pair()).collect();
    let after = zone.counters();
    assert_eq!(
        (after.per_cpu_freed, after.per_cpu_allocated),
        (before.per_cpu_freed, before.per_cpu_allocated)
    );
    assert!(listed() <= 16, "{} frames in the list of one CPU", listed());
    rest.swap_remove(0).free();
    rest.extend((0..20).map(|_| zone.alloc_frozen_as(Order::ZERO, MigrateType::Movable).unwrap()));
    let singles = zone.counters();
    let (freed, taken) = (
        singles.per_cpu_freed - after.per_cpu_freed,
        singles.per_cpu_allocated - after.per_cpu_allocated,
    );
    assert_eq!(
        (freed, taken),
        (1, 20),
        "one freed while all others are in use, and more taken than a list holds"
    );
    rest.extend(pairs);
    rest.into_iter().for_each(Handle::free);
    assert_all_free(zone);
}

#[test]
fn a_cpu_list_keeps_fewer_frames_when_memory_is_short() {
    let arena = arena::<DefaultScheme>(16);
    let zone = arena.zone();
    let mut blocks = full(zone);
    let before = zone.counters().per_cpu_freed;
    blocks.pop().unwrap().into_iter().for_each(Handle::free);
    let listed = zone.stats().free_frames - zone.free_frames();
    assert!(listed <= 16, "{listed} of 512 free frames are in the list of one CPU");
    let listed = zone.counters().per_cpu_freed - before;
    assert!(listed < 64, "{listed} of 512 frames of a block that empties went through the lists");
    // With room again, frames go through the lists again.
    blocks.drain(..8).flatten().for_each(Handle::free);
    let before = zone.counters().per_cpu_freed;
    (0..1000).for_each(|_| zone.alloc_frozen_as(Order::ZERO, MigrateType::Movable).unwrap().free());
    assert_eq!(zone.counters().per_cpu_freed - before, 1000);
    blocks.into_iter().flatten().for_each(Handle::free);
    assert_all_free(zone);
    assert_eq!(zone.stats().whole_blocks, 16);
}
