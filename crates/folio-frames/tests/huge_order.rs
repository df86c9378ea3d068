//! The huge order, one above the largest that buddies merge into: formed on demand, and kept whole.

mod common;

use common::{Index, OURS, arena, assert_all_free, order};
use folio_frames::{
    AllocError, Arena, BLOCK_ORDER, FRAME_SIZE, FrozenFolio, MAX_ORDER, MigrateType, Order, Pfn,
    UserSpace,
};
use folio_ref::DefaultScheme;

type Handle = FrozenFolio<UserSpace>;

/// 32 MiB, so that a test has room for several.
const HUGE: u8 = 13;

#[test]
fn one_huge_order_is_formed_on_demand_and_stays_whole() {
    let huge = order(HUGE);
    let arena = Arena::<UserSpace>::with_huge_order(huge.bytes() * 2, &[], huge).unwrap();
    let zone = arena.zone();
    assert_eq!(
        zone.stats().largest_free_order,
        Some(MAX_ORDER),
        "no huge block is formed before one is asked for"
    );
    let mut folio = zone.alloc_frozen(huge).unwrap();
    assert_eq!((folio.order(), folio.as_slice().len()), (huge, huge.bytes()));
    assert_eq!(
        folio.as_slice().as_ptr().addr() % huge.bytes(),
        0,
        "its bytes are aligned as its frames are"
    );
    folio.as_mut_slice()[huge.bytes() - FRAME_SIZE..].fill(7);
    let head = folio.init();
    let tail = Pfn::new(head.pfn().as_u64() + u64::from(huge.frames()) - 1);
    assert_eq!(zone.try_get_head(tail).unwrap().pfn(), head.pfn(), "the last tail knows its head");
    drop(head);
    assert_eq!(zone.stats().largest_free_order, Some(huge), "the freed block stays whole");
    // Smaller blocks come from elsewhere at first.
    let half: Vec<Handle> = (0..8).map(|_| zone.alloc_frozen(order(10)).unwrap()).collect();
    assert_eq!(zone.stats().largest_free_order, Some(huge));
    assert!(zone.alloc_frozen(huge).map(Handle::free).is_ok());
    // Now nothing is left except the huge block.
    let rest: Vec<Handle> = (0..8).map(|_| zone.alloc_frozen(order(10)).unwrap()).collect();
    assert_eq!(zone.alloc_frozen(huge).unwrap_err(), AllocError::OutOfFrames);
    half.into_iter().chain(rest).for_each(Handle::free);
    assert_eq!(zone.alloc_frozen(order(12)).unwrap_err(), AllocError::TooLarge { max: huge });
    assert_all_free(zone);
    let folio = zone.alloc_frozen(huge).unwrap();
    folio.split(order(9)).for_each(Handle::free);
    assert_all_free(zone);
    assert_eq!(zone.stats().whole_blocks, 32);
}

/// One above the largest order that halves merge into.
#[test]
fn the_smallest_huge_order_is_counted_like_all_others() {
    let huge = order(MAX_ORDER.as_u8() + 1);
    let arena = Arena::<UserSpace>::with_huge_order(huge.bytes() * 2, &[], huge).unwrap();
    let zone = arena.zone();
    let before = zone.counters();
    let both = [(); 2].map(|()| zone.alloc_frozen(huge).unwrap());
    assert_eq!(zone.alloc_frozen(huge).unwrap_err(), AllocError::OutOfFrames);
    assert_eq!(zone.counters().buddy_allocated - before.buddy_allocated, 2);
    both.into_iter().for_each(Handle::free);
    let after = zone.counters();
    assert_eq!(after.buddy_freed - before.buddy_freed, 2);
    assert_eq!(zone.stats().largest_free_order, Some(huge));
    assert_all_free(zone);
    // One of the two is split, and the other stays whole.
    let piece = zone.alloc_frozen(BLOCK_ORDER).unwrap();
    zone.assert_sound();
    assert_eq!(zone.stats().largest_free_order, Some(huge));
    zone.alloc_frozen(huge).unwrap().free();
    piece.free();
    assert_all_free(zone);
}

#[test]
fn alloc_up_to_returns_the_largest_free_block() {
    let huge = order(HUGE);
    let arena = Arena::<UserSpace>::with_huge_order(huge.bytes(), &[], huge).unwrap();
    let zone = arena.zone();
    zone.alloc_frozen(huge).unwrap().free();
    let up_to = |n: u8| zone.alloc_frozen_up_to(order(n), MigrateType::Movable);
    let piece = up_to(9).unwrap();
    assert_eq!(piece.order(), order(9), "one huge block is all that is free");
    piece.free();
    assert_all_free(zone);
    for (size, wanted, expected) in [(4, 5, 4), (4, 4, 4), (4, 2, 2), (0, 4, 0), (0, 0, 0)] {
        let pieces =
            std::iter::from_fn(|| zone.alloc_frozen_as(order(size), MigrateType::Movable).ok());
        let (free, used): (Vec<Handle>, Vec<Handle>) =
            pieces.partition(|piece| (piece.pfn().as_u64() >> size).is_multiple_of(2));
        free.into_iter().for_each(Handle::free);
        zone.drain();
        let before = zone.counters().per_cpu_allocated;
        let piece = up_to(wanted).unwrap();
        assert_eq!(piece.order(), order(expected), "up to {wanted} where {size} is the largest");
        // Only single frames come from the lists of CPUs.
        assert_eq!(zone.counters().per_cpu_allocated - before, u64::from(expected == 0));
        used.into_iter().chain([piece]).for_each(Handle::free);
        assert_all_free(zone);
    }
}

#[test]
fn a_block_of_a_free_huge_block_goes_offline_alone() {
    let huge = order(HUGE);
    let arena = Arena::<UserSpace>::with_huge_order(huge.bytes(), &[], huge).unwrap();
    let zone = arena.zone();
    zone.alloc_frozen(huge).unwrap().free();
    let offline = arena.offline(5, &Index::new(0)).unwrap();
    assert_eq!(zone.stats().free_frames, 15 * 512);
    assert_eq!(zone.alloc_frozen(huge).unwrap_err(), AllocError::Fragmented { largest: MAX_ORDER });
    zone.assert_sound();
    // With the huge block in use, none of its blocks goes offline. Freed afterwards, all of it is
    // free again.
    arena.online(offline);
    let folio = zone.alloc(huge, OURS, 0).unwrap();
    assert!(arena.offline(3, &Index::new(0)).is_err());
    drop(folio);
    assert_all_free(zone);
    assert_eq!(zone.stats().whole_blocks, 16);
}

#[test]
fn an_unavailable_order_is_refused_and_loses_nothing() {
    let arena = arena::<DefaultScheme>(2);
    let zone = arena.zone();
    assert_eq!(zone.alloc_frozen(order(11)).unwrap_err(), AllocError::TooLarge { max: MAX_ORDER });
    assert_eq!(zone.alloc_frozen(order(18)).unwrap_err(), AllocError::TooLarge { max: MAX_ORDER });
    assert_eq!(Order::new(19), None);
    let blocks: Vec<_> =
        (0..2).map(|block| arena.offline(block, &Index::new(0)).unwrap()).collect();
    assert_eq!(zone.alloc_frozen(Order::ZERO).unwrap_err(), AllocError::Offline);
    for block in blocks {
        arena.online(block);
    }
    assert_all_free(zone);
}
