//! Deferred initialisation: deferred blocks count as free, are initialised when needed, and go back
//! untouched.

mod common;

use common::{Index, OURS, assert_all_free, order};
use folio_frames::{Arena, BLOCK_ORDER, Level, Order, Pfn, PfnRange, Refusal, UserSpace};
use folio_ref::schemes::{Generational, LiveBitHigh, LiveBitLow, ZeroFrozen};

const BLOCK: u32 = BLOCK_ORDER.frames();

#[test]
fn a_terabyte_is_online_at_once_and_allocates() {
    let arena = Arena::<UserSpace<Generational>>::new(1 << 40, &[]).unwrap();
    let zone = arena.zone();
    let all = 1 << 28;
    assert_eq!(
        (zone.stats().online_frames, zone.stats().free_frames, zone.free_frames()),
        (all, all, all)
    );
    assert_eq!(zone.level(), Level::Enough);
    let last = Pfn::new(zone.pfns().end.as_u64() - 1);
    assert_eq!(
        zone.try_get(last).err(),
        Some(Refusal::Offline),
        "a walker does not find a deferred block"
    );
    let mut folio = zone.alloc_frozen(Order::ZERO).unwrap();
    folio.as_mut_slice().fill(1);
    assert_eq!(zone.stats().free_frames, all - 1);
    folio.free();
    assert_eq!(zone.stats().free_frames, all);
    drop(arena);
    assert_eq!(zone.stats().online_frames, 0, "deferred blocks go offline with their arena");
}

#[test]
fn every_deferred_block_can_be_allocated() {
    let blocks = 513;
    let arena = Arena::<UserSpace<LiveBitHigh>>::new(blocks << 21, &[]).unwrap();
    let zone = arena.zone();
    let taken: Vec<_> = std::iter::from_fn(|| zone.alloc_frozen(BLOCK_ORDER).ok()).collect();
    assert_eq!(taken.len(), blocks);
    assert_eq!(zone.stats().free_frames, 0);
    taken.into_iter().for_each(folio_frames::FrozenFolio::free);
    assert_all_free(zone);
    zone.assert_sound();
}

#[test]
fn a_deferred_block_goes_offline_and_comes_back() {
    let arena = Arena::<UserSpace<LiveBitLow>>::new(600 << 21, &[]).unwrap();
    let zone = arena.zone();
    let offline = arena.offline(40, &Index::new(0)).unwrap();
    assert_eq!(zone.stats().online_frames, 599 * BLOCK);
    assert_eq!(zone.stats().free_frames, 599 * BLOCK);
    let folio = zone.alloc(order(3), OURS, 0).unwrap();
    assert!(folio.pfn() < zone.block_range(41).start, "no block behind it is initialised");
    drop(folio);
    arena.online(offline);
    assert_eq!(zone.stats().free_frames, 600 * BLOCK);
    assert_eq!(
        arena.offline(600, &Index::new(0)).err(),
        Some(folio_frames::OfflineError::NotOnline)
    );
}

#[test]
fn contiguous_memory_is_found_in_deferred_blocks() {
    let arena = Arena::<UserSpace<ZeroFrozen>>::new(600 << 21, &[]).unwrap();
    let zone = arena.zone();
    // A plain block stays in the initialised blocks. The first place begins behind it and ends in
    // deferred blocks.
    let plain = zone.alloc_frozen(Order::ZERO).unwrap();
    let contig = zone.alloc_contig(30 * BLOCK + 7, BLOCK_ORDER, &Index::new(0)).unwrap();
    let behind = (plain.pfn().as_u64() + 1).next_multiple_of(u64::from(BLOCK));
    assert_eq!(contig.pfns().start.as_u64(), behind);
    contig.free();
    plain.free();
    let contig = zone.alloc_contig(3 * BLOCK + 7, BLOCK_ORDER, &Index::new(0)).unwrap();
    assert_eq!(contig.pfns().frames(), u64::from(3 * BLOCK + 7));
    contig.free();
    let middle = zone.block_range(50);
    let range = PfnRange { start: middle.start, end: Pfn::new(middle.start.as_u64() + 100) };
    zone.alloc_contig_range(range, &Index::new(0)).unwrap().free();
    assert_all_free(zone);
}

#[test]
fn a_huge_block_initialises_only_the_blocks_it_can_need() {
    let huge = order(13);
    let blocks = huge.frames() / BLOCK;
    let arena =
        Arena::<UserSpace<Generational>>::with_huge_order(40 * huge.bytes(), &[], huge).unwrap();
    let zone = arena.zone();
    let handle = zone.alloc_frozen(huge).unwrap();
    let state = |block: u32| zone.try_get(zone.block_range(block as usize).start).err();
    assert_eq!(
        state(2 * blocks - 2),
        Some(Refusal::Free),
        "as many blocks as it can need at any alignment"
    );
    assert_eq!(state(2 * blocks), Some(Refusal::Offline), "the next block is deferred");
    handle.free();
    assert_eq!(zone.stats().free_frames, 40 * huge.frames());
    zone.assert_sound();
}

#[test]
fn a_deferred_range_is_initialised_once() {
    let arena = Arena::<UserSpace<Generational>>::new(700 << 21, &[]).unwrap();
    let zone = arena.zone();
    let offline = arena.offline(0, &Index::new(0)).unwrap();
    arena.online(offline);
    let stats = zone.stats();
    assert_eq!((stats.online_frames, stats.free_frames), (700 * BLOCK, 700 * BLOCK));
    assert_eq!(stats.whole_blocks, 700);
}
