//! What callers and callbacks do wrong: it is refused, by a type where one can, and after each
//! every frame is there.
//!
//! A folio that is split or freed twice, freed while others hold it, or used after it was freed is
//! no program: see the examples at `FrozenFolio`, which must not compile. Ranges that are none are
//! in `emptying.rs`, orders too large in `placement.rs`.

mod common;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;

use common::{Index, OURS, arena, assert_all_free, order};
use folio_frames::{
    BLOCK_ORDER, FolioRefs, FrozenFolio, MigrateError, MigrateType, OfflineError, Order, Owner,
    Pfn, PfnRange, Slot, UserSpace, Zone, migrate, put_all,
};
use folio_ref::DefaultScheme;

type P = UserSpace;

/// An index without slots: a folio's references, by the number in its private.
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
            Misbehaviour::PanicsInLend => panic!("an owner that panics"),
            Misbehaviour::LendsNothing => None,
            Misbehaviour::LendsAnother => {
                self.places.lock().unwrap()[1 - owner_data as usize].take()
            }
            _ => self.places.lock().unwrap()[owner_data as usize].take(),
        }
    }

    fn take_back(&self, owner_data: u64, refs: FolioRefs<P>) {
        match self.misbehaviour {
            Misbehaviour::PanicsInTakeBack => panic!("an owner that panics"),
            Misbehaviour::LosesWhatComesBack => drop(refs),
            Misbehaviour::LendsAnother => {
                self.places.lock().unwrap()[1 - owner_data as usize] = Some(refs)
            }
            _ => self.places.lock().unwrap()[owner_data as usize] = Some(refs),
        }
    }
}

/// The frames in use, and that the allocator is sound.
fn in_use(zone: &'static Zone<P>) -> u32 {
    zone.drain();
    zone.assert_sound();
    zone.stats().online_frames - zone.stats().free_frames
}

#[test]
fn an_owner_without_slots_lends_its_references_and_gets_as_many_back() {
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
fn an_owner_that_misbehaves_loses_no_frame_of_ours() {
    use Misbehaviour::{
        LendsAnother, LendsNothing, LosesWhatComesBack, PanicsInLend, PanicsInTakeBack,
    };
    let arena = arena::<DefaultScheme>(2);
    let zone = arena.zone();
    for (misbehaviour, expect, left) in [
        (LendsNothing, Some(Err(MigrateError::NotMovable)), 2),
        (LendsAnother, Some(Err(MigrateError::Moved)), 2),
        (PanicsInLend, None, 2),
        // The copy's references end with the panic; nobody else knows the folio.
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

/// What it does not lend stays counted: the freeze finds more than was lent, and nothing moves.
#[test]
fn an_owner_that_keeps_a_reference_back_is_busy() {
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

/// An owner by slots that says wrong things.
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
            Lie::PanicsBefore => panic!("an owner that panics"),
            Lie::PanicsAfter => {
                visit(slot);
                panic!("an owner that panics");
            }
        }
        true
    }
}

#[test]
fn an_owner_by_slots_that_lies_or_panics_loses_nothing() {
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
        // Twice: the second visit finds it moved, and says so.
        let expect = match lie {
            Lie::AnotherSlot | Lie::TwiceTheSame => Some(Err(MigrateError::Moved)),
            Lie::NeverCalls => Some(Err(MigrateError::NotMovable)),
            Lie::PanicsBefore | Lie::PanicsAfter => None,
        };
        assert_eq!(result.ok(), expect);
        assert_eq!(in_use(zone), 3);
        // It is where its slot says, and usable.
        let block = arena.offline(0, &index).or_else(|_| arena.offline(1, &index)).unwrap();
        arena.online(block);
    }
    index.remove(zone, 0);
    index.remove(zone, 1);
    assert_all_free(zone);
}

/// A panic in the middle of an evacuation ends the isolation on its way out: what was captured is
/// free again.
#[test]
fn an_owner_that_panics_during_an_evacuation_leaves_the_block_online() {
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
        "it is offline already"
    );
    arena.online(offline);
    index.remove(zone, 0);
    index.remove(zone, 1);
    assert_all_free(zone);
}

#[test]
fn memory_that_runs_out_while_a_block_is_emptied_backs_out() {
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

/// A split needs no memory: with none left it works as ever.
#[test]
fn a_split_works_when_no_frame_is_free() {
    let arena = arena::<DefaultScheme>(1);
    let zone = arena.zone();
    let whole = zone.alloc_frozen(BLOCK_ORDER).unwrap();
    assert_eq!(zone.stats().free_frames, 0);
    let mut parts: Vec<_> = whole.split(order(3)).collect();
    assert_eq!(parts.len(), 64);
    parts.drain(..).rev().flat_map(|part| part.split(Order::ZERO)).for_each(FrozenFolio::free);
    assert_all_free(zone);
}

/// A token that is dropped by mistake leaks its frames and nothing else, and says so in debug
/// builds.
#[test]
#[cfg(debug_assertions)]
fn a_split_that_is_too_large_panics_and_leaks_just_its_folio() {
    let arena = arena::<DefaultScheme>(1);
    let zone = arena.zone();
    let folio = zone.alloc_frozen(order(2)).unwrap();
    assert!(
        catch_unwind(AssertUnwindSafe(|| folio.split(order(3)).for_each(FrozenFolio::free)))
            .is_err()
    );
    assert_eq!(in_use(zone), 4);
}

/// References, or tokens, that were left in an iterator were leaked without a word: it had only
/// their number.
#[test]
fn what_nobody_takes_from_an_iterator_is_returned_or_reported() {
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

    let mut parts = zone.alloc_frozen(order(2)).unwrap().split(Order::ZERO);
    assert_eq!(parts.size_hint(), (4, Some(4)));
    parts.next().unwrap().free();
    let dropped = catch_unwind(AssertUnwindSafe(|| drop(parts)));
    let nobody = Index::new(0);
    let range =
        PfnRange { start: zone.pfns().start, end: Pfn::new(zone.pfns().start.as_u64() + 200) };
    let range = PfnRange { start: Pfn::new(range.start.as_u64() + 100), ..range };
    let mut folios = zone.alloc_contig_range(range, &nobody).unwrap().into_folios();
    folios.next().unwrap().free();
    let also_dropped = catch_unwind(AssertUnwindSafe(|| drop(folios)));
    assert_eq!(
        (dropped.is_err(), also_dropped.is_err()),
        (cfg!(debug_assertions), cfg!(debug_assertions))
    );
    assert_eq!(in_use(zone), 3 + 96);
}

#[test]
fn shrinking_gives_whole_blocks_back_and_growing_brings_them() {
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
    assert_eq!(arena.grow_to(99), 6, "all there are");
    for slot in (0..900).step_by(3) {
        let folio_frames::Lookup::Hit(folio) = index.0[slot].get(zone) else {
            panic!("{:?}", index.0[slot])
        };
        assert!(folio.as_slice().iter().all(|&byte| byte == slot as u8));
    }
    (0..900).step_by(3).for_each(|slot| index.remove(zone, slot));
    assert_all_free(zone);
    // Fresh from the system: zeroes.
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

#[test]
fn put_together_folios_are_freed_those_that_others_hold_are_not() {
    let arena = arena::<DefaultScheme>(2);
    let zone = arena.zone();
    let folios: Vec<_> =
        (0..100u32).map(|n| zone.alloc(order((n % 5) as u8), OURS, 0).unwrap()).collect();
    let held: Vec<_> = folios.iter().step_by(10).cloned().collect();
    put_all(folios);
    let frames: u32 = held.iter().map(|folio| folio.order().frames()).sum();
    assert_eq!(in_use(zone), frames);
    for folio in held {
        folio.drop_expecting_last();
    }
    assert_all_free(zone);
    let folio = zone.alloc(Order::ZERO, OURS, 0).unwrap();
    let other = folio.clone();
    let folio = folio.freeze().expect_err("two hold it");
    drop(other);
    folio.freeze().expect("the last").free();
    assert_all_free(zone);
}
