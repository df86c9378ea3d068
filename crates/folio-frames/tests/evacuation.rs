//! Contiguous allocation, compaction and shrinking: movable folios move, the rest is reported, and
//! nothing is lost.

mod common;

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use common::{Index, OURS, arena, assert_all_free, order};
use folio_frames::{
    BLOCK_ORDER, Compacted, ContigError, FrozenFolio, Lookup, MAX_ORDER, MigrateType, OfflineError,
    Order, Owner, Pfn, PfnRange, Slot, UserSpace, Zone,
};
use folio_ref::DefaultScheme;

type Frames = Zone<UserSpace>;

fn range(zone: &Frames, start: u64, end: u64) -> PfnRange {
    let first = zone.pfns().start.as_u64();
    PfnRange { start: Pfn::new(first + start), end: Pfn::new(first + end) }
}

/// Fills `slots` slots with pages, and removes those for which `keep` returns `false`.
fn scatter(zone: &'static Frames, slots: usize, keep: impl Fn(usize) -> bool) -> Index<UserSpace> {
    let index = Index::new(slots);
    for slot in 0..slots {
        let mut folio =
            zone.alloc_frozen_as(Order::ZERO, MigrateType::Movable).expect("room for a page");
        folio.set_owner(OURS, slot as u64);
        folio.as_mut_slice().fill(slot as u8);
        index.0[slot].install(folio).expect("an empty slot").publish();
    }
    (0..slots).filter(|&slot| !keep(slot)).for_each(|slot| index.remove(zone, slot));
    zone.drain();
    index
}

fn check_bytes(zone: &'static Frames, index: &Index<UserSpace>) {
    for (slot, entry) in index.0.iter().enumerate().filter(|(_, entry)| !entry.is_empty()) {
        let Lookup::Hit(folio) = entry.get(zone) else { panic!("{entry:?}") };
        assert!(
            folio.as_slice().iter().step_by(64).all(|&byte| byte == slot as u8),
            "slot {slot} lost its bytes"
        );
    }
}

fn remove_all(zone: &'static Frames, index: &Index<UserSpace>) {
    (0..index.0.len())
        .filter(|&slot| !index.0[slot].is_empty())
        .for_each(|slot| index.remove(zone, slot));
}

#[test]
fn a_range_with_any_edges_is_evacuated_and_taken() {
    let arena = arena::<DefaultScheme>(4);
    let zone = arena.zone();
    let index = scatter(zone, 3 * 512, |slot| slot % 3 == 0);
    for (start, end) in [
        (0, 1),
        (1, 2),
        (5, 1000),
        (511, 513),
        (500, 1536),
        (512, 1024),
        (1, 1024),
        (1023, 1025),
        (2047, 2048),
    ] {
        let before = zone.stats().free_frames;
        let contig = zone.alloc_contig_range(range(zone, start, end), &index).unwrap();
        assert_eq!(contig.pfns(), range(zone, start, end));
        assert_eq!(u64::from(before - zone.stats().free_frames), end - start, "{start}..{end}");
        zone.assert_sound();
        check_bytes(zone, &index);
        // No frame of the range is allocated meanwhile.
        let others: Vec<_> = std::iter::from_fn(|| zone.alloc_frozen(Order::ZERO).ok()).collect();
        assert!(others.iter().all(|other| !contig.pfns().any(|pfn| pfn == other.pfn())));
        others.into_iter().for_each(FrozenFolio::free);
        let mut next = contig.pfns().start;
        let folios: Vec<_> = contig.into_folios().collect();
        for folio in &folios {
            assert_eq!(folio.pfn(), next, "no gap");
            assert!(
                folio.pfn().as_u64().is_multiple_of(u64::from(folio.order().frames())),
                "{folio:?} is not aligned"
            );
            next = Pfn::new(next.as_u64() + u64::from(folio.order().frames()));
        }
        assert_eq!(next, range(zone, start, end).end);
        folios.into_iter().for_each(FrozenFolio::free);
        zone.drain();
        assert_eq!(zone.stats().free_frames, before);
        zone.assert_sound();
    }
    remove_all(zone, &index);
    assert_all_free(zone);
    assert_eq!(zone.stats().whole_blocks, 4);
}

#[test]
fn a_folio_of_two_blocks_moves_away_from_either() {
    for half in [0, 1] {
        let arena = arena::<DefaultScheme>(6);
        let zone = arena.zone();
        let index = Index::new(1);
        let pfn = index.publish(zone, 0, MAX_ORDER);
        let block = ((pfn.as_u64() - zone.pfns().start.as_u64()) / 512) as usize + half;
        let offline = arena.offline(block, &index).expect("there is room for it elsewhere");
        zone.assert_sound();
        assert_eq!(zone.stats().free_frames, 3 * 512, "one block is offline, two are in use");
        check_bytes(zone, &index);
        arena.online(offline);
        remove_all(zone, &index);
        assert_all_free(zone);
        assert_eq!(zone.stats().whole_blocks, 6);
    }
}

#[test]
fn compaction_begins_with_the_emptier_block() {
    let arena = arena::<DefaultScheme>(2);
    let zone = arena.zone();
    let index = scatter(zone, 2 * 512, |_| true);
    let middle = zone.block_range(1).start;
    // Every second page of the first block stays, and every eighth of the other.
    for slot in 0..index.0.len() {
        let pfn = index.0[slot].pfn(zone).unwrap();
        if !pfn.as_u64().is_multiple_of(if pfn < middle { 2 } else { 8 }) {
            index.remove(zone, slot);
        }
    }
    let done = zone.compact(1, &index);
    assert_eq!((done.emptied, done.busy), (1, 0));
    check_bytes(zone, &index);
    let mut pages = index.0.iter().filter_map(|slot| slot.pfn(zone));
    assert!(pages.all(|pfn| pfn < middle), "64 pages move rather than 256");
    remove_all(zone, &index);
    assert_all_free(zone);
}

#[test]
fn a_contiguous_range_skips_a_place_with_a_pinned_page() {
    let arena = arena::<DefaultScheme>(4);
    let zone = arena.zone();
    let mut blocks: Vec<_> = (0..4).map(|_| zone.alloc_frozen(BLOCK_ORDER).unwrap()).collect();
    blocks.sort_by_key(FrozenFolio::pfn);
    // The page lies in the second block, the only free one.
    blocks.remove(1).free();
    let index = Index::new(1);
    let pfn = index.publish(zone, 0, Order::ZERO);
    blocks.into_iter().for_each(FrozenFolio::free);
    let pinned = zone.try_get(pfn).unwrap();
    let contig = zone.alloc_contig(2 * 512, BLOCK_ORDER, &index).unwrap();
    assert_eq!(
        contig.pfns(),
        range(zone, 2 * 512, 4 * 512),
        "the next place without a block of the first"
    );
    contig.free();
    let error = zone.alloc_contig(3 * 512, BLOCK_ORDER, &index).unwrap_err();
    assert_eq!(error, ContigError::Busy { frames: 1, first: pfn });
    drop(pinned);
    remove_all(zone, &index);
    assert_all_free(zone);
}

#[test]
fn alloc_contig_finds_a_place_around_immovable_frames() {
    let arena = arena::<DefaultScheme>(4);
    let zone = arena.zone();
    let index = scatter(zone, 4 * 512, |slot| slot % 4 == 0);
    // An immovable frame in the first block.
    let immovable = zone.alloc_contig_range(range(zone, 100, 101), &index).unwrap();
    for (frames, align) in [(1, 0), (3, 0), (700, 4), (1000, 9), (512, 9), (1024, 10), (100, 5)] {
        let contig = zone.alloc_contig(frames, order(align), &index).unwrap();
        let start = contig.pfns().start.as_u64();
        assert!(start.is_multiple_of(1 << align), "{contig:?} is not aligned to order {align}");
        assert_eq!(contig.pfns().frames(), u64::from(frames));
        assert!(contig.pfns().all(|pfn| pfn != immovable.pfns().start));
        check_bytes(zone, &index);
        contig.free();
    }
    assert_eq!(
        zone.alloc_contig(2048, Order::ZERO, &index).unwrap_err(),
        ContigError::NoPlace,
        "a frame in the way is immovable"
    );
    assert_eq!(zone.alloc_contig(512, order(12), &index).unwrap_err(), ContigError::NoPlace);
    assert_eq!(
        zone.alloc_contig(1500, Order::ZERO, &index).unwrap_err(),
        ContigError::OutOfFrames,
        "512 pages stay in use"
    );
    assert_eq!(zone.alloc_contig(2049, Order::ZERO, &index).unwrap_err(), ContigError::Unknown);
    immovable.free();
    remove_all(zone, &index);
    assert_all_free(zone);
}

/// Frees the pages of some slots, one at a time, when a folio has no room.
struct MakesRoom<'a> {
    index: &'a Index<UserSpace>,
    zone: &'static Frames,
    evictable: Range<usize>,
    /// The next page to evict.
    next: AtomicUsize,
    calls: AtomicUsize,
}

impl Owner<UserSpace> for MakesRoom<'_> {
    fn with_slot(&self, pfn: Pfn, data: u64, visit: &mut dyn FnMut(&Slot<UserSpace>)) -> bool {
        self.index.with_slot(pfn, data, visit)
    }

    fn make_room(&self, order: Order) -> bool {
        assert_eq!(order, Order::ZERO);
        self.calls.fetch_add(1, Ordering::Relaxed);
        let next = self.next.fetch_add(1, Ordering::Relaxed);
        let is_there = self.evictable.contains(&next);
        if is_there {
            self.index.remove(self.zone, next);
        }
        is_there
    }
}

#[test]
fn the_owner_makes_room_for_what_has_to_leave_a_block() {
    // All 1024 frames have a page. Those of block 1 leave, so as many others have to go.
    for (evictable, is_emptied) in [(0..1024, true), (0..512, true), (0..511, false)] {
        let arena = arena::<DefaultScheme>(2);
        let zone = arena.zone();
        let index = scatter(zone, 1024, |_| true);
        let first = zone.pfns().start.as_u64();
        let is_in_first = |slot: usize| index.0[slot].pfn(zone).unwrap().as_u64() < first + 512;
        assert!((0..512).all(is_in_first), "the first pages fill the first block");
        let next = AtomicUsize::new(0);
        let calls = AtomicUsize::new(0);
        let owner = MakesRoom { index: &index, zone, evictable: evictable.clone(), next, calls };
        let offline = arena.offline(1, &owner);
        let calls = owner.calls.into_inner();
        if is_emptied {
            assert_eq!((offline.unwrap().block(), calls), (1, 512), "{evictable:?}");
            assert_eq!(zone.stats().free_frames, 0);
        } else {
            assert_eq!((offline.unwrap_err(), calls), (OfflineError::OutOfFrames, 512));
        }
        check_bytes(zone, &index);
        remove_all(zone, &index);
        assert_all_free(zone);
    }
}

#[test]
fn an_owner_that_frees_nothing_useful_is_not_asked_for_ever() {
    /// Says that it made room, and did not.
    struct Boasts<'a>(&'a Index<UserSpace>, AtomicUsize);

    impl Owner<UserSpace> for Boasts<'_> {
        fn with_slot(&self, pfn: Pfn, data: u64, visit: &mut dyn FnMut(&Slot<UserSpace>)) -> bool {
            self.0.with_slot(pfn, data, visit)
        }

        fn make_room(&self, _: Order) -> bool {
            self.1.fetch_add(1, Ordering::Relaxed);
            true
        }
    }

    let arena = arena::<DefaultScheme>(2);
    let zone = arena.zone();
    let index = scatter(zone, 1024, |_| true);
    let owner = Boasts(&index, AtomicUsize::new(0));
    assert_eq!(arena.offline(1, &owner).unwrap_err(), OfflineError::OutOfFrames);
    assert!((1..=100).contains(&owner.1.load(Ordering::Relaxed)));
    // Compaction fills holes, and there are none: it asks for no room.
    let asked = owner.1.load(Ordering::Relaxed);
    zone.compact(1, &owner);
    assert_eq!(owner.1.load(Ordering::Relaxed), asked);
    check_bytes(zone, &index);
    remove_all(zone, &index);
    assert_all_free(zone);
}

#[test]
fn an_invalid_range_is_refused_and_loses_nothing() {
    let arena = arena::<DefaultScheme>(2);
    let zone = arena.zone();
    let no_owner = Index::new(0);
    let refused = |start: u64, end: u64| {
        let range = PfnRange { start: Pfn::new(start), end: Pfn::new(end) };
        let error = zone.alloc_contig_range(range, &no_owner).unwrap_err();
        assert_eq!(zone.stats().free_frames, 1024);
        error
    };
    let first = zone.pfns().start.as_u64();
    assert_eq!(refused(first, first), ContigError::Empty);
    assert_eq!(refused(first + 9, first + 3), ContigError::Empty, "reversed");
    assert_eq!(refused(first + 9, 3), ContigError::Empty, "wrapped");
    assert_eq!(refused(first, u64::MAX), ContigError::Unknown);
    assert_eq!(refused(first - 1, first + 1), ContigError::Unknown);
    assert_eq!(refused(first + 1023, first + 1025), ContigError::Unknown);
    assert_eq!(zone.alloc_contig(0, Order::ZERO, &no_owner).unwrap_err(), ContigError::Empty);
    assert_eq!(
        zone.alloc_contig(u32::MAX, order(18), &no_owner).unwrap_err(),
        ContigError::Unknown
    );

    // The range overlaps an offline block, then another range in use.
    let offline = arena.offline(1, &no_owner).unwrap();
    let across = || zone.alloc_contig_range(range(zone, 500, 600), &no_owner);
    assert_eq!(across().unwrap_err(), ContigError::NotOnline);
    arena.online(offline);
    let used = across().unwrap();
    let error = zone.alloc_contig_range(range(zone, 590, 700), &no_owner).unwrap_err();
    assert_eq!(error, ContigError::Busy { frames: 10, first: range(zone, 590, 591).start });
    assert!(error.to_string().contains("10 frames of the range are in use"), "{error}");
    used.free();
    for (error, expected) in [
        (ContigError::Empty, "no frame"),
        (ContigError::Unknown, "within the zone"),
        (ContigError::NotOnline, "not online"),
        (ContigError::OutOfFrames, "elsewhere"),
        (ContigError::NoPlace, "frames that cannot move"),
    ] {
        assert!(error.to_string().contains(expected), "{error}");
    }
    assert_all_free(zone);
}

#[test]
fn compaction_makes_whole_blocks_of_95_percent_of_free_memory() {
    let arena = arena::<DefaultScheme>(40);
    let zone = arena.zone();
    let index =
        scatter(zone, 40 * 512, |slot| (slot.wrapping_mul(0x9E37_79B9) >> 7).is_multiple_of(4));
    let before = zone.stats();
    assert_eq!(before.whole_blocks, 0);
    let done = zone.compact(u32::MAX, &index);
    zone.drain();
    let after = zone.stats();
    assert_eq!((after.free_frames, done.busy), (before.free_frames, 0));
    assert_eq!(after.whole_blocks, done.emptied);
    let share = f64::from(after.whole_blocks * 512) / f64::from(after.free_frames);
    assert!(share >= 0.95, "{share:.3} of the free memory is in whole blocks");
    check_bytes(zone, &index);
    assert_eq!(zone.compact(u32::MAX, &index), Compacted::default(), "there is nothing left to do");
    remove_all(zone, &index);
    assert_all_free(zone);
}

#[test]
fn compaction_skips_pinned_and_immovable_frames() {
    let arena = arena::<DefaultScheme>(6);
    let zone = arena.zone();
    let index = scatter(zone, 6 * 512, |slot| slot % 8 == 0);
    // A pinned page in one block, an immovable frame in another.
    let Lookup::Hit(pinned) = index.0[0].get(zone) else { panic!("{index:?}", index = index.0[0]) };
    let other =
        (0..6).find(|&block| zone.block_range(block).all(|pfn| pfn != pinned.pfn())).unwrap();
    let start = zone.block_range(other).start.as_u64() - zone.pfns().start.as_u64();
    let immovable = zone.alloc_contig_range(range(zone, start, start + 1), &index).unwrap();
    let done = zone.compact(u32::MAX, &index);
    zone.drain();
    assert_eq!((done.emptied, done.busy), (4, 1), "384 pages are left for the holes of two blocks");
    assert_eq!(zone.stats().whole_blocks, 4);
    check_bytes(zone, &index);
    drop(pinned);
    immovable.free();
    remove_all(zone, &index);
    assert_all_free(zone);
}

/// Compaction makes whole free blocks, so it must not split one to place what it moves.
#[test]
fn compaction_splits_no_whole_block() {
    let arena = arena::<DefaultScheme>(3);
    let zone = arena.zone();
    // One block is full except for one frame. Another has two pages, one of which has no room
    // there.
    let index = scatter(zone, 514, |slot| slot != 100);
    assert_eq!(zone.stats().whole_blocks, 1);
    assert_eq!(zone.compact(9, &index).emptied, 0);
    zone.drain();
    assert_eq!(zone.stats().whole_blocks, 1);
    index.remove(zone, 101);
    zone.drain();
    assert_eq!(zone.compact(9, &index).emptied, 1);
    assert_eq!(zone.stats().whole_blocks, 2);
    assert!(zone.alloc_frozen(BLOCK_ORDER).map(FrozenFolio::free).is_ok());
    remove_all(zone, &index);
    assert_all_free(zone);
}
