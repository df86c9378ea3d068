//! Multi-slot folios: made, pinned by any subpage, removed slot by slot, split, moved.

mod common;

use std::panic::AssertUnwindSafe;

use common::{Index, OURS, arena, assert_all_free, order};
use folio_frames::{
    Adjacent, FRAME_SIZE, FolioRef, FrozenSlot, LockedSlot, Lookup, MigrateError, Order, Owner,
    Pfn, Refusal, Slot, UserSpace, Zone, migrate,
};
use folio_ref::{DefaultScheme, Snapshot};

type Frames = UserSpace<DefaultScheme>;
type FrozenSlots<'s> = Vec<Option<FrozenSlot<'s, Frames>>>;

/// Installs frozen folios of neighbouring frames in the slots from `first`, each filled with its
/// slot's number.
fn install_frozen<'i>(
    zone: &'static Zone<Frames>,
    index: &'i Index<Frames>,
    first: usize,
    n: u8,
) -> FrozenSlots<'i> {
    let block = zone.alloc_frozen(order(n)).unwrap();
    let locked_slots = block.split(Order::ZERO).zip(first..).map(|(mut folio, slot)| {
        folio.set_owner(OURS, slot as u64);
        folio.as_mut_slice().fill(slot as u8);
        Some(index.0[slot].install(folio).expect("an empty slot"))
    });
    locked_slots.collect()
}

fn pin(slot: &Slot<Frames>, zone: &'static Zone<Frames>) -> FolioRef<Frames> {
    match slot.get(zone) {
        Lookup::Hit(folio) => folio,
        other => panic!("{other:?} in {slot:?}"),
    }
}

fn lock_four<'i>(
    index: &'i Index<Frames>,
    zone: &'static Zone<Frames>,
    first: usize,
) -> Vec<Option<LockedSlot<'i, Frames>>> {
    index.0[first..first + 4].iter().map(|slot| slot.try_lock(zone)).collect()
}

#[test]
fn all_slots_of_a_folio_count_in_one_word() {
    let arena = arena::<DefaultScheme>(1);
    let (zone, index) = (arena.zone(), Index::new(8));
    let mut installed = install_frozen(zone, &index, 2, 2);
    let head = installed[0].as_ref().unwrap().folio().pfn();
    installed[1].as_mut().unwrap().folio_mut().set_readahead(true);
    assert_eq!(FrozenSlot::largest_as_one(installed.iter().flatten(), order(9)), order(2));
    let first = FrozenSlot::publish_as_one(&mut installed);
    assert!(installed.iter().all(Option::is_none));
    assert_eq!(
        (first.order(), first.pfn(), zone.peek(head).snapshot),
        (order(2), head, Snapshot::Live(5))
    );
    assert_eq!(first.set_referenced_behind(3), Some(1), "each subpage keeps its readahead marker");
    assert_eq!(first.set_referenced_behind(3), None);
    drop(first);
    for n in 0..4 {
        let folio = pin(&index.0[2 + n], zone);
        assert_eq!((folio.pfn(), folio.frame_pfn().as_u64()), (head, head.as_u64() + n as u64));
        assert_eq!((folio.owner_data(), folio.frames_behind()), (2 + n as u64, 3 - n as u32));
        assert_eq!(
            (*folio.frame(), folio.as_slice_from_frame().len()),
            ([2 + n as u8; 4096], (4 - n) * FRAME_SIZE)
        );
        assert_eq!(zone.peek(head).snapshot, Snapshot::Live(5));
        assert!(index.0[2 + n].get_alone(zone).is_none(), "other subpages have slots too");
        // An optimistic read.
        let mut bytes = [0; 4096];
        assert!(index.0[2 + n].read(arena.direct_map(), 0, &mut bytes, || true).is_some());
        assert_eq!(bytes, *folio.frame());
        // By frame number.
        let tail = folio.frame_pfn();
        assert_eq!(zone.try_get_head(tail).unwrap().pfn(), head);
        assert_eq!(zone.try_get(tail).err(), (n > 0).then_some(Refusal::Tail));
        assert_eq!(zone.peek_around(tail).unwrap().0, head);
    }
    // One page lock is not enough to freeze a folio of several slots.
    let locked = index.0[3].try_lock(zone).unwrap();
    assert_eq!((locked.subpage_of(), locked.pfn().as_u64()), (Some(order(2)), head.as_u64() + 1));
    assert!(locked.freeze().is_err());
    (2..6).for_each(|slot| index.remove(zone, slot));
    assert_all_free(zone);
}

#[test]
fn one_pin_keeps_all_subpages_after_their_slots() {
    let arena = arena::<DefaultScheme>(1);
    let (zone, index) = (arena.zone(), Index::new(4));
    drop(FrozenSlot::publish_as_one(&mut install_frozen(zone, &index, 0, 2)));
    let pinned = pin(&index.0[3], zone);
    (0..4).for_each(|slot| index.remove(zone, slot));
    assert!(
        pinned.as_slice().chunks(FRAME_SIZE).zip(0..).all(|(frame, n)| frame == [n; FRAME_SIZE])
    );
    assert_eq!(zone.stats().free_frames, 512 - 4);
    drop(pinned);
    assert_all_free(zone);
}

#[test]
fn a_split_fails_while_pinned_and_frees_removed_subpages() {
    let arena = arena::<DefaultScheme>(1);
    let (zone, index) = (arena.zone(), Index::new(4));
    drop(FrozenSlot::publish_as_one(&mut install_frozen(zone, &index, 0, 2)));
    let head = index.0[0].pfn(zone).unwrap();
    pin(&index.0[2], zone).set_referenced();
    let pinned = pin(&index.0[0], zone);
    let mut all = lock_four(&index, zone, 0);
    assert!(!LockedSlot::split(&mut all));
    assert!(all.iter().all(Option::is_some), "all page locks are kept");
    drop(pinned);
    let missing = all[1].take();
    assert!(
        !LockedSlot::split(&mut all),
        "one page lock is missing, but its slot's reference counts"
    );
    drop((all, missing));

    // A removed subpage has no reference, and none is expected.
    index.remove(zone, 1);
    let mut all = lock_four(&index, zone, 0);
    assert!(LockedSlot::split(&mut all) && all.iter().all(Option::is_none));
    assert_eq!(zone.stats().free_frames, 512 - 3);
    for n in [0, 2, 3] {
        let folio = pin(&index.0[n], zone);
        assert_eq!((folio.order(), folio.pfn().as_u64()), (Order::ZERO, head.as_u64() + n as u64));
        assert_eq!((folio.owner_data(), *folio.frame()), (n as u64, [n as u8; FRAME_SIZE]));
        assert_eq!(zone.peek(folio.pfn()).snapshot, Snapshot::Live(2));
        assert_eq!(
            zone.is_referenced(folio.pfn()),
            n == 2,
            "the referenced bit stays with its subpage"
        );
    }
    // The subpages are ordinary folios now.
    assert_eq!(index.0[3].get_alone(zone).unwrap().frame()[0], 3);
    index.0[3].try_lock(zone).unwrap().freeze().unwrap().publish();
    assert!(!LockedSlot::<Frames>::split(&mut [index.0[3].try_lock(zone)]), "it is not a subpage");
    assert!(!LockedSlot::<Frames>::split(&mut []));
    for slot in [0, 2, 3] {
        index.remove(zone, slot);
    }
    assert_all_free(zone);
}

#[test]
fn an_unpinned_folio_leaves_all_its_slots_at_once() {
    let arena = arena::<DefaultScheme>(1);
    let (zone, index) = (arena.zone(), Index::new(4));
    drop(FrozenSlot::publish_as_one(&mut install_frozen(zone, &index, 0, 2)));
    let pinned = pin(&index.0[3], zone);
    let mut all = lock_four(&index, zone, 0);
    assert!(LockedSlot::remove_all(&mut all).is_none() && all.iter().all(Option::is_some));
    drop(all);
    let head = pinned.pfn();
    drop(pinned);
    index.remove(zone, 2);
    let folio = LockedSlot::remove_all(&mut lock_four(&index, zone, 0)).unwrap();
    assert_eq!((folio.pfn(), folio.order(), folio.as_slice()[FRAME_SIZE]), (head, order(2), 1));
    assert!(index.0.iter().all(Slot::is_empty));
    folio.free();
    assert_all_free(zone);
}

#[test]
fn only_aligned_clean_neighbours_of_one_kind_form_a_folio() {
    let arena = arena::<DefaultScheme>(1);
    let (zone, index) = (arena.zone(), Index::new(8));
    let mut all = install_frozen(zone, &index, 0, 3);
    let largest = |all: &FrozenSlots<'_>, from: usize| {
        FrozenSlot::largest_as_one(all[from..].iter().map_while(Option::as_ref), order(9)).as_u8()
    };
    assert_eq!(
        (0..8).map(|from| largest(&all, from)).collect::<Vec<_>>(),
        [3, 0, 1, 0, 2, 0, 1, 0]
    );
    assert_eq!(
        FrozenSlot::largest_as_one(all.iter().flatten(), order(2)),
        order(2),
        "not larger than asked for"
    );
    assert_eq!(FrozenSlot::<Frames>::largest_as_one([], order(2)), Order::ZERO);
    all[5].as_mut().unwrap().folio_mut().set_dirty(true);
    assert_eq!((largest(&all, 0), largest(&all, 4), largest(&all, 5)), (2, 0, 0));
    all[5].as_mut().unwrap().folio_mut().set_dirty(false);
    all[2].as_mut().unwrap().folio_mut().set_owner(folio_frames::Kind::owner(1), 0);
    assert_eq!((largest(&all, 0), largest(&all, 2)), (1, 0));
    let gap = all.remove(6);
    assert_eq!((largest(&all, 4), largest(&all, 5)), (1, 0));
    drop((all, gap));
    assert_all_free(zone);
}

#[test]
#[should_panic(expected = "3 folios cannot be published as one: they form at most order 1")]
fn three_frames_do_not_form_a_folio() {
    let arena = arena::<DefaultScheme>(1);
    let index = Index::new(4);
    let mut all = install_frozen(arena.zone(), &index, 0, 2);
    all.truncate(3);
    drop(FrozenSlot::publish_as_one(&mut all));
}

#[test]
fn frames_before_a_new_folio_stay_single() {
    let arena = arena::<DefaultScheme>(1);
    let (zone, index) = (arena.zone(), Index::new(8));
    let mut all = install_frozen(zone, &index, 0, 3);
    drop(FrozenSlot::publish_as_one(&mut all[4..]));
    all.into_iter().flatten().for_each(FrozenSlot::publish);
    assert_eq!(zone.count_kind(OURS), 8);
    (0..8).for_each(|slot| index.remove(zone, slot));
    assert_all_free(zone);
}

#[test]
fn a_split_with_locks_of_other_frames_panics() {
    let arena = arena::<DefaultScheme>(1);
    let (zone, index) = (arena.zone(), Index::new(8));
    for first in [0, 4] {
        drop(FrozenSlot::publish_as_one(&mut install_frozen(zone, &index, first, 2)));
    }
    let refused = |slots: [usize; 4]| {
        let mut locked_slots = slots.map(|slot| index.0[slot].try_lock(zone));
        std::panic::catch_unwind(AssertUnwindSafe(|| LockedSlot::split(&mut locked_slots))).is_err()
    };
    assert!(refused([0, 1, 6, 7]), "of two folios");
    assert!(refused([0, 2, 1, 3]), "in another order");
    assert!(!refused([0, 1, 2, 3]) && !refused([4, 5, 6, 7]));
    (0..8).for_each(|slot| index.remove(zone, slot));
    assert_all_free(zone);
}

#[test]
fn an_adjacent_range_of_subpages_is_one_reference() {
    let arena = arena::<DefaultScheme>(1);
    let (zone, index) = (arena.zone(), Index::new(9));
    drop(FrozenSlot::publish_as_one(&mut install_frozen(zone, &index, 0, 3)));
    let head = index.0[0].pfn(zone).unwrap();
    let bytes =
        |range: std::ops::Range<u8>| range.flat_map(|n| [n; FRAME_SIZE]).collect::<Vec<_>>();
    let mut piece = Adjacent::from(pin(&index.0[2], zone));
    assert_eq!((piece.frames(), piece.as_slice()), (6, &bytes(2..8)[..]));
    piece.shorten(3);
    assert_eq!((piece.frames(), piece.as_slice()), (3, &bytes(2..5)[..]));
    // The frames behind the range are pinned already, so joining takes no reference. Other frames
    // are refused.
    piece.join(pin(&index.0[6], zone)).unwrap_err();
    piece.join(pin(&index.0[5], zone)).unwrap();
    assert_eq!((piece.as_slice(), zone.peek(head).snapshot), (&bytes(2..8)[..], Snapshot::Live(9)));
    let clone = piece.clone();
    assert_eq!(zone.peek(head).snapshot, Snapshot::Live(10));
    drop(piece);
    assert_eq!((clone.as_slice(), zone.peek(head).snapshot), (&bytes(2..8)[..], Snapshot::Live(9)));
    drop(clone);
    assert_eq!(zone.peek(head).snapshot, Snapshot::Live(8));
    let too_short = std::panic::catch_unwind(AssertUnwindSafe(|| {
        Adjacent::from(pin(&index.0[2], zone)).shorten(0);
    }));
    assert!(too_short.is_err(), "no frame of the range would be left");
    (0..8).for_each(|slot| index.remove(zone, slot));
    assert_all_free(zone);
}

/// An owner of multi-slot folios.
struct MultiSlot<'i>(&'i Index<Frames>, &'static Zone<Frames>);

impl Owner<Frames> for MultiSlot<'_> {
    fn with_slot(&self, pfn: Pfn, owner_data: u64, visit: &mut dyn FnMut(&Slot<Frames>)) -> bool {
        self.0.with_slot(pfn, owner_data, visit)
    }

    fn split(&self, _: Pfn, order: Order, owner_data: u64) -> bool {
        let slots = &self.0.0[owner_data as usize..][..order.frames() as usize];
        LockedSlot::split(&mut slots.iter().map(|slot| slot.try_lock(self.1)).collect::<Vec<_>>())
    }
}

#[test]
fn a_multi_slot_folio_is_split_before_it_moves() {
    let arena = arena::<DefaultScheme>(2);
    let (zone, index) = (arena.zone(), Index::new(16));
    for first in [0, 4, 8, 12] {
        drop(FrozenSlot::publish_as_one(&mut install_frozen(zone, &index, first, 2)));
    }
    let head = index.0[4].pfn(zone).unwrap();
    assert_eq!(migrate(zone, head, &index), Err(MigrateError::Busy), "its owner does not split");
    let pinned = pin(&index.0[5], zone);
    assert_eq!(migrate(zone, head, &MultiSlot(&index, zone)), Err(MigrateError::Busy));
    drop(pinned);
    let to = migrate(zone, head, &MultiSlot(&index, zone)).unwrap();
    assert_eq!(
        (index.0[4].pfn(zone), index.0[5].pfn(zone).unwrap().as_u64()),
        (Some(to), head.as_u64() + 1)
    );

    let block =
        ((index.0[8].pfn(zone).unwrap().as_u64() - zone.pfns().start.as_u64()) / 512) as usize;
    let offline = zone.offline(block, &MultiSlot(&index, zone)).unwrap();
    for (n, slot) in (0..).zip(&index.0) {
        assert_eq!(*pin(slot, zone).frame(), [n; FRAME_SIZE]);
        assert!(!zone.block_range(block).any(|pfn| slot.pfn(zone) == Some(pfn)));
    }
    (0..16).for_each(|slot| index.remove(zone, slot));
    drop(offline);
}
