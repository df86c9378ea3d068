//! Mistakes of callers and callbacks: each is refused, by a type if possible, and no frame is lost.
//!
//! Some mistakes do not compile: a folio that is split or freed twice, freed while shared, or used
//! after it was freed. The examples at `FrozenFolio` show them. Invalid ranges are in
//! `evacuation.rs`, orders that are too large in `huge_order.rs`.

mod common;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;

use common::{Index, OURS, arena, assert_all_free, order};
use folio_frames::{
    BLOCK_ORDER, FolioRefs, FrozenFolio, Kind, Level, MigrateError, MigrateType, OfflineError,
    Order, Owner, Pfn, PfnRange, Slot, UserSpace, Watermarks, Zone, migrate, put_all,
};
use folio_ref::DefaultScheme;

type P = UserSpace;

/// An index without slots: the references to each folio, by the number in its owner data.
#[derive(Default)]
struct Shelf {
    places: Mutex<Vec<Option<FolioRefs<P>>>>,
    misbehaviour: Misbehaviour,
}

#[derive(Clone, Copy, Default, PartialEq)]
enum Misbehaviour {
    #[default]
    None,
    LendsNothing,
    LendsAnother,
    PanicsInLend,
    PanicsInTakeBack,
    LosesWhatComesBack,
}

impl Shelf {
    fn put(&self, zone: &'static Zone<P>, order: Order, references: u32) -> Pfn {
        let mut places = self.places.lock().unwrap();
        let mut folio = zone.alloc_frozen_as(order, MigrateType::Movable).unwrap();
        folio.set_owner(OURS, places.len() as u64);
        folio.as_mut_slice().fill(places.len() as u8 + 1);
        let pfn = folio.pfn();
        places.push(Some(folio.init_many(references)));
        pfn
    }

    fn pfn(&self, place: usize) -> Option<Pfn> {
        self.places.lock().unwrap()[place].as_ref().map(FolioRefs::pfn)
    }
}

impl Owner<P> for Shelf {
    fn with_slot(&self, _: Pfn, _: u64, _: &mut dyn FnMut(&Slot<P>)) -> bool {
        false
    }

    fn lend(&self, _: Pfn, owner_data: u64) -> Option<FolioRefs<P>> {
        match self.misbehaviour {
            Misbehaviour::PanicsInLend => panic!("the owner panics"),
            Misbehaviour::LendsNothing => None,
            Misbehaviour::LendsAnother => {
                self.places.lock().unwrap()[1 - owner_data as usize].take()
            }
            _ => self.places.lock().unwrap()[owner_data as usize].take(),
        }
    }

    fn take_back(&self, owner_data: u64, refs: FolioRefs<P>) {
        match self.misbehaviour {
            Misbehaviour::PanicsInTakeBack => panic!("the owner panics"),
            Misbehaviour::LosesWhatComesBack => drop(refs),
            Misbehaviour::LendsAnother => {
                self.places.lock().unwrap()[1 - owner_data as usize] = Some(refs);
            }
            _ => self.places.lock().unwrap()[owner_data as usize] = Some(refs),
        }
    }
}

/// Returns the number of frames in use, and asserts that the zone is sound.
fn in_use(zone: &'static Zone<P>) -> u32 {
    zone.drain();
    zone.assert_sound();
    zone.stats().online_frames - zone.stats().free_frames
}

#[test]
fn an_owner_without_slots_gets_as_many_references_back() {
    let arena = arena::<DefaultScheme>(2);
    let zone = arena.zone();
    let shelf = Shelf::default();
    let from = shelf.put(zone, order(2), 3);
    let to = migrate(zone, from, &shelf).unwrap();
    assert!(to != from && shelf.pfn(0) == Some(to));
    let refs = shelf.places.lock().unwrap()[0].take().unwrap();
    assert_eq!((refs.count(), in_use(zone)), (3, 4));
    let each: Vec<_> = refs.into_each().collect();
    assert!(each.iter().all(|folio| folio.as_slice().iter().all(|&byte| byte == 1)));
    let mut refs = FolioRefs::from(each[0].clone());
    let other = zone.alloc(Order::ZERO, OURS, 9).unwrap();
    assert!(refs.join(other).is_err(), "a reference of another folio");
    assert!(refs.join(each[1].clone()).is_ok());
    assert_eq!(format!("{refs:?}"), format!("2 references of the folio at {to:?}"));
    drop(refs);
    drop(each);
    assert_all_free(zone);
}

#[test]
fn a_block_is_emptied_through_an_owner_without_slots() {
    let arena = arena::<DefaultScheme>(2);
    let zone = arena.zone();
    let shelf = Shelf::default();
    let places: Vec<Pfn> = (0..100).map(|n| shelf.put(zone, Order::ZERO, n % 3 + 1)).collect();
    let block = (0..2).find(|&block| zone.block_range(block).any(|pfn| pfn == places[0])).unwrap();
    let offline = arena.offline(block, &shelf).unwrap();
    assert!((0..100).all(|n| zone.block_range(block).all(|pfn| shelf.pfn(n) != Some(pfn))));
    arena.online(offline);
    drop(shelf);
    assert_all_free(zone);
}

#[test]
fn a_misbehaving_owner_loses_no_frame() {
    use Misbehaviour::{
        LendsAnother, LendsNothing, LosesWhatComesBack, PanicsInLend, PanicsInTakeBack,
    };
    let arena = arena::<DefaultScheme>(2);
    let zone = arena.zone();
    for (misbehaviour, expect, left) in [
        (LendsNothing, Some(Err(MigrateError::NotMovable)), 2),
        (LendsAnother, Some(Err(MigrateError::Moved)), 2),
        (PanicsInLend, None, 2),
        // The copy's references end with the panic, and there is no other reference to the folio.
        (PanicsInTakeBack, None, 1),
        (LosesWhatComesBack, Some(Ok(())), 1),
    ] {
        let mut shelf = Shelf::default();
        let pfn = shelf.put(zone, Order::ZERO, 1);
        shelf.put(zone, Order::ZERO, 1);
        shelf.misbehaviour = misbehaviour;
        let result = catch_unwind(AssertUnwindSafe(|| migrate(zone, pfn, &shelf).map(drop))).ok();
        assert_eq!(result, expect);
        assert_eq!(in_use(zone), left);
        drop(shelf);
        assert_all_free(zone);
    }
}

/// References that the owner does not lend stay counted: the freeze finds more than were lent, and
/// nothing moves.
#[test]
fn a_reference_that_is_not_lent_makes_migration_busy() {
    let arena = arena::<DefaultScheme>(1);
    let zone = arena.zone();
    let shelf = Shelf::default();
    let pfn = shelf.put(zone, order(1), 2);
    let kept = zone.try_get(pfn).unwrap();
    assert_eq!(migrate(zone, pfn, &shelf), Err(MigrateError::Busy));
    assert_eq!((shelf.pfn(0), in_use(zone)), (Some(pfn), 2));
    drop(kept);
    assert!(migrate(zone, pfn, &shelf).is_ok());
    drop(shelf);
    assert_all_free(zone);
}

/// An owner with slots that visits wrong slots, or panics.
struct Liar<'a> {
    index: &'a Index<P>,
    lie: Lie,
}

#[derive(Clone, Copy)]
enum Lie {
    AnotherSlot,
    TwiceTheSame,
    NeverCalls,
    PanicsBefore,
    PanicsAfter,
}

impl Owner<P> for Liar<'_> {
    fn with_slot(&self, _: Pfn, owner_data: u64, visit: &mut dyn FnMut(&Slot<P>)) -> bool {
        let slot = &self.index.0[owner_data as usize];
        match self.lie {
            Lie::AnotherSlot => visit(&self.index.0[1 - owner_data as usize]),
            Lie::TwiceTheSame => {
                visit(slot);
                visit(slot);
            }
            Lie::NeverCalls => {}
            Lie::PanicsBefore => panic!("the owner panics"),
            Lie::PanicsAfter => {
                visit(slot);
                panic!("the owner panics");
            }
        }
        true
    }
}

#[test]
fn an_owner_with_slots_that_lies_or_panics_loses_nothing() {
    let arena = arena::<DefaultScheme>(2);
    let zone = arena.zone();
    let index = Index::new(2);
    index.publish(zone, 0, Order::ZERO);
    index.publish(zone, 1, order(1));
    for lie in
        [Lie::AnotherSlot, Lie::TwiceTheSame, Lie::NeverCalls, Lie::PanicsBefore, Lie::PanicsAfter]
    {
        let pfn = index.0[0].pfn(zone).unwrap();
        let owner = Liar { index: &index, lie };
        let result = catch_unwind(AssertUnwindSafe(|| migrate(zone, pfn, &owner)));
        // Twice: the second visit finds that the folio has moved.
        let expect = match lie {
            Lie::AnotherSlot | Lie::TwiceTheSame => Some(Err(MigrateError::Moved)),
            Lie::NeverCalls => Some(Err(MigrateError::NotMovable)),
            Lie::PanicsBefore | Lie::PanicsAfter => None,
        };
        assert_eq!(result.ok(), expect);
        assert_eq!(in_use(zone), 3);
        // The folio is where its slot says, and usable.
        let block = arena.offline(0, &index).or_else(|_| arena.offline(1, &index)).unwrap();
        arena.online(block);
    }
    index.remove(zone, 0);
    index.remove(zone, 1);
    assert_all_free(zone);
}

/// A panic during an evacuation ends the isolation: captured frames are free again.
#[test]
fn a_panic_during_an_evacuation_leaves_the_block_online() {
    let arena = arena::<DefaultScheme>(2);
    let zone = arena.zone();
    let index = Index::new(2);
    let pfn = index.publish(zone, 0, Order::ZERO);
    index.publish(zone, 1, Order::ZERO);
    let owner = Liar { index: &index, lie: Lie::PanicsBefore };
    let block = (0..2).find(|&block| zone.block_range(block).any(|at| at == pfn)).unwrap();
    let range = || PfnRange { start: pfn, end: Pfn::new(pfn.as_u64() + 1) };
    assert!(catch_unwind(AssertUnwindSafe(|| arena.offline(block, &owner).is_ok())).is_err());
    assert!(
        catch_unwind(AssertUnwindSafe(|| zone.alloc_contig_range(range(), &owner).is_ok()))
            .is_err()
    );
    assert!(
        catch_unwind(AssertUnwindSafe(|| zone.compact(1, &owner))).is_ok(),
        "there is nothing to compact"
    );
    assert_eq!((zone.stats().online_frames, in_use(zone)), (1024, 2));
    let offline = arena.offline(block, &index).unwrap();
    assert_eq!(
        arena.offline(block, &index).unwrap_err(),
        OfflineError::NotOnline,
        "the block is offline already"
    );
    arena.online(offline);
    index.remove(zone, 0);
    index.remove(zone, 1);
    assert_all_free(zone);
}

#[test]
fn running_out_of_memory_during_an_evacuation_backs_out() {
    let arena = arena::<DefaultScheme>(2);
    let zone = arena.zone();
    let index = Index::new(700);
    (0..700).for_each(|slot| {
        index.publish(zone, slot, Order::ZERO);
    });
    let free = zone.stats().free_frames;
    assert_eq!(arena.offline(0, &index).unwrap_err(), OfflineError::OutOfFrames);
    assert_eq!(arena.shrink_to(0, &index).unwrap_err(), OfflineError::OutOfFrames);
    assert_eq!((zone.stats().free_frames, arena.online_blocks()), (free, 2));
    zone.drain();
    zone.assert_sound();
    (0..700).for_each(|slot| index.remove(zone, slot));
    assert_all_free(zone);
}

/// A split needs no memory.
#[test]
fn a_split_works_when_no_frame_is_free() {
    let arena = arena::<DefaultScheme>(1);
    let zone = arena.zone();
    let whole = zone.alloc_frozen(BLOCK_ORDER).unwrap();
    assert_eq!(zone.stats().free_frames, 0);
    let mut pieces: Vec<_> = whole.split(order(3)).collect();
    assert_eq!(pieces.len(), 64);
    pieces.drain(..).rev().flat_map(|piece| piece.split(Order::ZERO)).for_each(FrozenFolio::free);
    assert_all_free(zone);
}

/// An exclusive handle that is dropped by mistake leaks its frames and nothing else, and panics in
/// debug builds.
#[test]
#[cfg(debug_assertions)]
fn a_split_into_a_larger_order_panics_and_leaks_its_folio() {
    let arena = arena::<DefaultScheme>(1);
    let zone = arena.zone();
    let folio = zone.alloc_frozen(order(2)).unwrap();
    assert!(
        catch_unwind(AssertUnwindSafe(|| folio.split(order(3)).for_each(FrozenFolio::free)))
            .is_err()
    );
    assert_eq!(in_use(zone), 4);
}

/// References that are left in an iterator are put. Exclusive handles that are left in one leak,
/// which debug builds report by a panic.
#[test]
fn leftovers_of_an_iterator_are_put_or_reported() {
    let arena = arena::<DefaultScheme>(1);
    let zone = arena.zone();
    let folio = zone.alloc_frozen(order(1)).unwrap();
    let mut each = folio.init_many(3).into_each();
    let first = each.next().unwrap();
    assert_eq!(zone.peek(first.pfn()).snapshot, folio_ref::Snapshot::Live(3));
    drop(each);
    assert_eq!(zone.peek(first.pfn()).snapshot, folio_ref::Snapshot::Live(1));
    drop(first);
    assert_all_free(zone);

    let mut pieces = zone.alloc_frozen(order(2)).unwrap().split(Order::ZERO);
    assert_eq!(pieces.size_hint(), (4, Some(4)));
    pieces.next().unwrap().free();
    let dropped = catch_unwind(AssertUnwindSafe(|| drop(pieces)));
    let no_owner = Index::new(0);
    let range =
        PfnRange { start: zone.pfns().start, end: Pfn::new(zone.pfns().start.as_u64() + 200) };
    let range = PfnRange { start: Pfn::new(range.start.as_u64() + 100), ..range };
    let mut folios = zone.alloc_contig_range(range, &no_owner).unwrap().into_folios();
    folios.next().unwrap().free();
    let also_dropped = catch_unwind(AssertUnwindSafe(|| drop(folios)));
    assert_eq!(
        (dropped.is_err(), also_dropped.is_err()),
        (cfg!(debug_assertions), cfg!(debug_assertions))
    );
    assert_eq!(in_use(zone), 3 + 96);
}

#[test]
fn shrinking_removes_whole_blocks_and_growing_adds_them() {
    let arena = arena::<DefaultScheme>(6);
    let zone = arena.zone();
    let index = Index::new(900);
    (0..900).for_each(|slot| {
        index.publish(zone, slot, Order::ZERO);
    });
    (0..900).filter(|slot| slot % 3 != 0).for_each(|slot| index.remove(zone, slot));
    arena.shrink_to(1, &index).unwrap();
    assert_eq!((arena.online_blocks(), zone.stats().free_frames), (1, 212));
    assert_eq!(arena.shrink_to(0, &index).unwrap_err(), OfflineError::OutOfFrames);
    assert_eq!(arena.grow_to(4), 4);
    assert_eq!(arena.grow_to(3), 4, "growing never shrinks");
    assert_eq!(arena.grow_to(99), 6, "there are no more blocks");
    for slot in (0..900).step_by(3) {
        let folio_frames::Lookup::Hit(folio) = index.0[slot].get(zone) else {
            panic!("{:?}", index.0[slot])
        };
        assert!(folio.as_slice().iter().all(|&byte| byte == slot as u8));
    }
    (0..900).step_by(3).for_each(|slot| index.remove(zone, slot));
    assert_all_free(zone);
    // Memory from the system is zeroed.
    arena.shrink_to(0, &index).unwrap();
    assert_eq!(arena.grow_to(1), 1);
    let all: Vec<_> = std::iter::from_fn(|| zone.alloc_frozen(Order::ZERO).ok()).collect();
    assert!(
        all.len() == 512 && all.iter().all(|folio| folio.as_slice().iter().all(|&byte| byte == 0))
    );
    all.into_iter().for_each(FrozenFolio::free);
    arena.grow_to(6);
    assert_all_free(zone);
}

/// An allocation on another CPU finds the frames by that count.
#[test]
fn a_batch_of_frees_counts_what_the_lists_hold() {
    let arena = arena::<DefaultScheme>(1);
    let zone = arena.zone();
    let watermarks = |frames| Watermarks { min: frames, low: frames, high: frames };
    let mut all: Vec<_> = std::iter::from_fn(|| zone.alloc(Order::ZERO, OURS, 0).ok()).collect();
    assert_eq!(all.len(), 512);
    for n in [1, 20, 64] {
        put_all(all.drain(..n as usize));
        // Without a lock and a drain, which would count again.
        zone.set_watermarks(watermarks(n));
        assert_eq!(zone.level(), Level::Enough, "{n} frames were freed: {zone:?}");
        zone.set_watermarks(watermarks(n + 1));
        assert_eq!(zone.level(), Level::BelowMin, "{n} frames were freed: {zone:?}");
        all.extend(std::iter::from_fn(|| zone.alloc(Order::ZERO, OURS, 0).ok()));
        assert_eq!(all.len(), 512);
    }
    zone.set_watermarks(watermarks(0));
    put_all(all);
    assert_all_free(zone);
}

#[test]
fn put_all_frees_the_folios_without_another_reference() {
    let arena = arena::<DefaultScheme>(2);
    let zone = arena.zone();
    let folios: Vec<_> =
        (0..100u32).map(|n| zone.alloc(order((n % 5) as u8), OURS, 0).unwrap()).collect();
    let pinned: Vec<_> = folios.iter().step_by(10).cloned().collect();
    put_all(folios);
    let frames: u32 = pinned.iter().map(|folio| folio.order().frames()).sum();
    assert_eq!(in_use(zone), frames);
    for folio in pinned {
        folio.drop_expecting_last();
    }
    assert_all_free(zone);
    let folio = zone.alloc(Order::ZERO, OURS, 0).unwrap();
    let other = folio.clone();
    let folio = folio.freeze().expect_err("there are two references");
    drop(other);
    folio.freeze().expect("the last reference").free();
    assert_all_free(zone);
}

#[test]
fn a_wrong_kind_is_refused_before_it_costs_a_frame() {
    let arena = arena::<DefaultScheme>(1);
    let free = arena.zone().free_frames();
    for kind in [Kind::FREE, Kind::HOLE, Kind::INTERIOR] {
        let refused = catch_unwind(AssertUnwindSafe(|| arena.zone().alloc(Order::ZERO, kind, 0)));
        assert!(refused.is_err(), "{kind:?}");
    }
    assert_eq!(arena.zone().free_frames(), free);
}
