//! A range handed over at once: what waits counts, comes when it is needed, and goes back
//! untouched.

mod common;

use common::{Index, OURS, assert_all_free, order};
use folio_frames::{Arena, BLOCK_ORDER, Level, Order, Pfn, PfnRange, Refusal, UserSpace};
use folio_ref::schemes::{Generational, LiveBitHigh, LiveBitLow, ZeroFrozen};

const BLOCK: u32 = BLOCK_ORDER.frames();

#[test]
fn a_terabyte_is_there_at_once_and_hands_out_its_first_frame() {
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
        "it waits: to a walker it is not there yet"
    );
    let mut folio = zone.alloc_frozen(Order::ZERO).unwrap();
    folio.as_mut_slice().fill(1);
    assert_eq!(zone.stats().free_frames, all - 1);
    folio.free();
    assert_eq!(zone.stats().free_frames, all);
    drop(arena);
    assert_eq!(zone.stats().online_frames, 0, "what waits goes with its arena");
}

#[test]
fn every_frame_of_a_range_that_waits_can_be_allocated() {
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
fn a_block_in_the_middle_of_what_waits_goes_offline_and_comes_back() {
    let arena = Arena::<UserSpace<LiveBitLow>>::new(600 << 21, &[]).unwrap();
    let zone = arena.zone();
    let offline = arena.offline(40, &Index::new(0)).unwrap();
    assert_eq!(zone.stats().online_frames, 599 * BLOCK);
    assert_eq!(zone.stats().free_frames, 599 * BLOCK);
    let folio = zone.alloc(order(3), OURS, 0).unwrap();
    assert!(folio.pfn() < zone.block_range(41).start, "nothing behind it was brought in");
    drop(folio);
    arena.online(offline);
    assert_eq!(zone.stats().free_frames, 600 * BLOCK);
    assert_eq!(
        arena.offline(600, &Index::new(0)).err(),
        Some(folio_frames::OfflineError::NotOnline)
    );
}

#[test]
fn contiguous_memory_is_found_in_what_waits() {
    let arena = Arena::<UserSpace<ZeroFrozen>>::new(600 << 21, &[]).unwrap();
    let zone = arena.zone();
    // A plain block stays in what was brought in: the first place begins behind it and ends in what
    // waits.
    let stays = zone.alloc_frozen(Order::ZERO).unwrap();
    let contig = zone.alloc_contig(30 * BLOCK + 7, BLOCK_ORDER, &Index::new(0)).unwrap();
    let behind = (stays.pfn().as_u64() + 1).next_multiple_of(u64::from(BLOCK));
    assert_eq!(contig.pfns().start.as_u64(), behind);
    contig.free();
    stays.free();
    let contig = zone.alloc_contig(3 * BLOCK + 7, BLOCK_ORDER, &Index::new(0)).unwrap();
    assert_eq!(contig.pfns().frames(), u64::from(3 * BLOCK + 7));
    contig.free();
    let middle = zone.block_range(50);
    let range = PfnRange { start: middle.start, end: Pfn::new(middle.start.as_u64() + 100) };
    zone.alloc_contig_range(range, &Index::new(0)).unwrap().free();
    assert_all_free(zone);
}

#[test]
fn a_huge_block_brings_in_what_it_can_need_and_no_more() {
    let huge = order(13);
    let blocks = huge.frames() / BLOCK;
    let arena =
        Arena::<UserSpace<Generational>>::with_huge_order(40 * huge.bytes(), &[], huge).unwrap();
    let zone = arena.zone();
    let token = zone.alloc_frozen(huge).unwrap();
    let state = |block: u32| zone.try_get(zone.block_range(block as usize).start).err();
    assert_eq!(
        state(2 * blocks - 2),
        Some(Refusal::Free),
        "as much as one can need, wherever its alignment lies"
    );
    assert_eq!(state(2 * blocks), Some(Refusal::Offline), "the next one waits");
    token.free();
    assert_eq!(zone.stats().free_frames, 40 * huge.frames());
    zone.assert_sound();
}

#[test]
fn a_range_that_waits_is_not_handed_over_twice() {
    let arena = Arena::<UserSpace<Generational>>::new(700 << 21, &[]).unwrap();
    let zone = arena.zone();
    let offline = arena.offline(0, &Index::new(0)).unwrap();
    arena.online(offline);
    let stats = zone.stats();
    assert_eq!((stats.online_frames, stats.free_frames), (700 * BLOCK, 700 * BLOCK));
    assert_eq!(stats.whole_blocks, 700);
}
