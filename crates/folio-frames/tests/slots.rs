//! The protocol of a slot: the right to use its reference, the view of readers meanwhile, and
//! wakeups.

mod common;

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use common::{Index, OURS, arena, assert_all_free, order, saturate};
use folio_frames::{FolioRefs, Lookup, Order, Platform, Refusal, Slot, UserSpace, Zone};
use folio_ref::{DefaultScheme, Snapshot};

fn frozen(zone: &'static Zone<UserSpace>) -> folio_frames::FrozenFolio<UserSpace> {
    let mut folio = zone.alloc_frozen(Order::ZERO).unwrap();
    folio.set_owner(OURS, 0);
    folio
}

#[test]
fn a_folio_is_in_progress_until_it_is_published() {
    let arena = arena::<DefaultScheme>(1);
    let zone = arena.zone();
    let slot = Slot::<UserSpace>::new();
    assert!(matches!(slot.get(zone), Lookup::Empty));
    assert!(slot.try_lock(zone).is_none());
    // Not the first frames of the zone, which a wrong number could name by chance.
    let others = [frozen(zone), frozen(zone), frozen(zone)];
    let mut locked = slot.install(frozen(zone)).unwrap();
    others.into_iter().for_each(folio_frames::FrozenFolio::free);
    assert_eq!(slot.pfn(zone), Some(locked.folio().pfn()));
    assert!(matches!(slot.get(zone), Lookup::InProgress));
    assert!(slot.try_lock(zone).is_none(), "the filling thread has the page lock");
    let second = slot.install(frozen(zone)).unwrap_err();
    second.free();
    locked.folio_mut().as_mut_slice()[0] = 5;
    let ours = locked.publish_and_get(zone);
    let Lookup::Hit(hit) = slot.get(zone) else { panic!("{slot:?}") };
    assert_eq!((hit.as_slice()[0], zone.peek(hit.pfn()).snapshot), (5, Snapshot::Live(3)));
    drop((hit, ours));
    let locked = slot.try_lock(zone).unwrap();
    drop(locked.remove());
    assert!(matches!(slot.get(zone), Lookup::Empty));
    assert_all_free(zone);
}

#[test]
fn a_page_lock_freezes_only_an_unpinned_folio() {
    let arena = arena::<DefaultScheme>(1);
    let zone = arena.zone();
    let index = Index::new(1);
    let pfn = index.publish(zone, 0, Order::ZERO);
    let Lookup::Hit(pinned) = index.0[0].get(zone) else { panic!() };
    let locked = index.0[0].try_lock(zone).unwrap();
    assert!(index.0[0].try_lock(zone).is_none(), "one page lock at a time");
    let Lookup::Hit(reader) = index.0[0].get(zone) else { panic!("a locked folio is still read") };
    drop(reader);
    let locked = locked.freeze().expect_err("busy");
    drop(pinned);
    let frozen = locked.freeze().expect("there is no other reference");
    assert!(matches!(index.0[0].get(zone), Lookup::InProgress));
    frozen.publish();
    assert_eq!(zone.peek(pfn).snapshot, Snapshot::Live(1));
    index.remove(zone, 0);
    assert_all_free(zone);
}

#[test]
fn a_dropped_page_lock_leaves_the_folio_in_its_slot() {
    let arena = arena::<DefaultScheme>(1);
    let zone = arena.zone();
    let index = Index::new(1);
    let pfn = index.publish(zone, 0, Order::ZERO);
    drop(index.0[0].try_lock(zone).unwrap());
    assert_eq!((index.0[0].pfn(zone), zone.peek(pfn).snapshot), (Some(pfn), Snapshot::Live(1)));
    index.remove(zone, 0);
    assert_all_free(zone);
}

#[test]
fn a_dropped_fill_leaves_an_empty_slot_and_a_free_frame() {
    let arena = arena::<DefaultScheme>(1);
    let zone = arena.zone();
    let slot = Slot::<UserSpace>::new();
    drop(slot.install(frozen(zone)).unwrap());
    assert!(slot.is_empty());
    assert_all_free(zone);
}

#[test]
fn a_removed_folio_lives_as_long_as_its_pin_owners() {
    let arena = arena::<DefaultScheme>(1);
    let zone = arena.zone();
    let index = Index::new(1);
    let pfn = index.publish(zone, 0, Order::ZERO);
    let Lookup::Hit(pinned) = index.0[0].get(zone) else { panic!() };
    index.remove(zone, 0);
    assert_eq!((pinned.pfn(), zone.peek(pfn).snapshot), (pfn, Snapshot::Live(1)));
    assert!(!zone.stats().free_frames.is_multiple_of(512));
    drop(pinned);
    assert_all_free(zone);
}

#[test]
fn replace_switches_the_slot_and_returns_the_old_folio() {
    let arena = arena::<DefaultScheme>(1);
    let zone = arena.zone();
    let index = Index::new(1);
    let pfn = index.publish(zone, 0, Order::ZERO);
    let locked = index.0[0].try_lock(zone).unwrap().freeze().unwrap();
    let new = frozen(zone);
    let moved_to = new.pfn();
    let old = locked.replace(new);
    assert_eq!((old.pfn(), index.0[0].pfn(zone)), (pfn, Some(moved_to)));
    old.free();
    index.remove(zone, 0);
    assert_all_free(zone);
}

#[test]
fn a_busy_folio_is_replaced_while_pinned() {
    let arena = arena::<DefaultScheme>(1);
    let zone = arena.zone();
    let index = Index::new(1);
    let pfn = index.publish(zone, 0, Order::ZERO);
    let Lookup::Hit(pinned) = index.0[0].get(zone) else { panic!() };
    let locked = index.0[0].try_lock(zone).unwrap().freeze().expect_err("busy");
    let mut new = frozen(zone);
    let moved_to = new.pfn();
    new.as_mut_slice().copy_from_slice(locked.folio().as_slice());
    new.as_mut_slice()[5] = 9;
    let old = locked.replace(new);
    assert_eq!((old.pfn(), zone.peek(pfn).snapshot), (pfn, Snapshot::Live(2)));
    drop(old);
    let Lookup::Hit(reader) = index.0[0].get(zone) else { panic!("{:?}", index.0[0]) };
    assert_eq!((reader.pfn(), zone.peek(moved_to).snapshot), (moved_to, Snapshot::Live(2)));
    assert_eq!((pinned.as_slice()[5], reader.as_slice()[5]), (0, 9));
    drop((pinned, reader));
    index.remove(zone, 0);
    assert_all_free(zone);
}

/// Wakes all sleepers of a slot when dropped, so that a failed test ends.
struct WakeAll<'s>(&'s Slot<UserSpace>);

impl Drop for WakeAll<'_> {
    fn drop(&mut self) {
        UserSpace::<DefaultScheme>::wake_all(std::ptr::from_ref(self.0).addr());
    }
}

/// Each end of a page lock wakes its sleepers, and nothing sleeps on a slot without a page lock.
#[test]
fn sleepers_wake_when_the_page_lock_ends() {
    type End = fn(folio_frames::FrozenSlot<'_, UserSpace>);
    let ends: [End; 3] =
        [|locked| locked.publish(), |locked| locked.remove().free(), |locked| drop(locked)];
    let arena = arena::<DefaultScheme>(1);
    let zone = arena.zone();
    for end in ends {
        let slot = Slot::<UserSpace>::new();
        slot.wait();
        let locked = slot.install(frozen(zone)).unwrap();
        let (woken, wakes) = mpsc::channel();
        thread::scope(|scope| {
            let _end = WakeAll(&slot);
            for _ in 0..3 {
                let (slot, woken) = (&slot, woken.clone());
                scope.spawn(move || {
                    while matches!(slot.get(zone), Lookup::InProgress) {
                        slot.wait();
                    }
                    woken.send(()).unwrap();
                });
            }
            assert!(
                wakes.recv_timeout(Duration::from_millis(30)).is_err(),
                "a sleeper woke before the page lock ended"
            );
            end(locked);
            for _ in 0..3 {
                wakes.recv_timeout(Duration::from_secs(20)).expect("a sleeper was not woken");
            }
        });
        if !slot.is_empty() {
            drop(slot.try_lock(zone).unwrap().remove());
        }
    }
    assert_all_free(zone);
}

#[test]
fn a_referenced_bit_is_taken_once() {
    let arena = arena::<DefaultScheme>(1);
    let zone = arena.zone();
    let folio = zone.alloc(Order::ZERO, OURS, 0).unwrap();
    assert!(!zone.take_referenced(folio.pfn()));
    folio.set_referenced();
    assert!(zone.is_referenced(folio.pfn()));
    assert!(zone.take_referenced(folio.pfn()) && !zone.take_referenced(folio.pfn()));
    assert!(!folio.set_referenced());
    assert!(format!("{folio:?}").starts_with("folio at pfn 0x100"), "{folio:?}");
    drop(folio);
    assert_all_free(zone);
}

#[test]
fn uses_are_counted_up_to_three() {
    let arena = arena::<DefaultScheme>(1);
    let zone = arena.zone();
    let folio = frozen(zone).init();
    let pfn = folio.pfn();
    for uses in 0..6 {
        (0..uses).for_each(|_| _ = folio.set_referenced());
        assert_eq!(zone.is_referenced(pfn), uses > 0);
        assert_eq!(zone.take_uses(pfn).unwrap().count, uses.min(3));
        assert!(!zone.is_referenced(pfn));
    }
    drop(folio);
    let mut ahead = frozen(zone);
    ahead.set_readahead(false);
    let ahead = ahead.init();
    assert_eq!(zone.take_uses(pfn), None, "the page waits for its reader");
    (0..2).for_each(|_| _ = ahead.set_referenced());
    assert_eq!(zone.take_uses(pfn).unwrap().count, 1, "its reader came, and then one use more");
    drop(ahead);
    assert_all_free(zone);
}

/// Neither allocations nor hits on a hot page move it.
#[test]
fn the_time_of_uses_advances_when_it_is_told() {
    let arena = arena::<DefaultScheme>(1);
    let zone = arena.zone();
    let (unit, frames) = (u64::from(zone.uses_unit()), zone.pfns().frames());
    assert!((frames / 32..=frames / 16).contains(&unit), "{unit} of {frames}");
    let folio = frozen(zone).init();
    let before = zone.uses_now();
    _ = folio.set_referenced();
    let first_use = zone.uses_now();
    (0..70).for_each(|_| zone.advance_uses());
    let others: Vec<_> = (0..16).map(|_| frozen(zone)).collect();
    others.into_iter().for_each(folio_frames::FrozenFolio::free);
    assert_eq!(zone.uses_now() - first_use, 70);
    let uses = zone.take_uses(folio.pfn()).unwrap();
    assert_eq!((uses.count, uses.age), (1, 70 % 64));
    assert!(first_use - before <= 1, "at most for its first use");
    drop(folio);
    assert_all_free(zone);
}

#[test]
fn the_first_use_of_a_readahead_page_reports_its_marker() {
    let arena = arena::<DefaultScheme>(1);
    let zone = arena.zone();
    for is_marker in [false, true] {
        let mut folio = frozen(zone);
        folio.set_readahead(is_marker);
        let folio = folio.init();
        let is_referenced = || zone.is_referenced(folio.pfn());
        assert!(is_referenced());
        assert_eq!(folio.set_referenced(), is_marker);
        assert!(!is_referenced(), "the bit kept the page for its first use");
        assert!(!folio.set_referenced() && is_referenced());
        let pfn = folio.pfn();
        drop(folio);
        let mut again = frozen(zone);
        assert_eq!(again.pfn(), pfn, "the frame freed last is allocated first");
        again.set_readahead(true);
        assert!(zone.take_referenced(pfn) && !zone.take_referenced(pfn));
        again.free();
    }
    assert_all_free(zone);
}

#[test]
fn a_suspended_page_lock_resumes_only_in_its_slot() {
    let arena = arena::<DefaultScheme>(1);
    let zone = arena.zone();
    let [slot, other] = [const { Slot::<UserSpace>::new() }; 2];
    let handle = slot.install(frozen(zone)).unwrap().suspend();
    assert!(matches!(slot.get(zone), Lookup::InProgress));
    assert!(slot.try_lock(zone).is_none());
    let Err(handle) = other.resume(handle) else { panic!("an empty slot is not locked") };
    let theirs = other.install(frozen(zone)).unwrap();
    let Err(handle) = other.resume(handle) else { panic!("the slot is locked for another folio") };
    drop(theirs);
    slot.resume(handle).expect("its own slot").publish();
    let Lookup::Hit(folio) = slot.get(zone) else { panic!("{slot:?}") };
    // The slot has a folio and is not locked: there is nothing to resume.
    let Err(free) = slot.resume(frozen(zone)) else { panic!("the slot is not locked") };
    free.free();
    drop((folio, slot.try_lock(zone).unwrap().remove()));
    assert_all_free(zone);
}

#[test]
fn a_migrated_page_stays_dirty_and_a_new_owner_begins_clean() {
    let arena = arena::<DefaultScheme>(2);
    let zone = arena.zone();
    let index = Index::new(1);
    let pfn = index.publish(zone, 0, order(1));
    let mut locked = index.0[0].try_lock(zone).unwrap();
    assert!(!locked.folio().is_dirty() && !zone.peek(pfn).dirty);
    locked.set_dirty(true);
    assert!(locked.folio().is_dirty());
    drop(locked);
    let to = folio_frames::migrate(zone, pfn, &index).unwrap();
    assert!(zone.peek(to).dirty);
    let frozen = index.0[0].try_lock(zone).unwrap().freeze().unwrap().remove();
    for mut piece in frozen.split(Order::ZERO) {
        assert!(piece.is_dirty());
        piece.set_owner(OURS, 0);
        assert!(!piece.is_dirty());
        piece.set_dirty(true);
        piece.free();
    }
    assert_all_free(zone);
}

#[test]
fn a_saturated_folio_stays_refused_and_is_replaced() {
    let arena = arena::<DefaultScheme>(1);
    let zone = arena.zone();
    let index = Index::new(1);
    let pfn = index.publish(zone, 0, Order::ZERO);
    let slot = &index.0[0];
    let Lookup::Hit(pinned) = slot.get(zone) else { panic!("{slot:?}") };
    saturate(&pinned);
    assert!(matches!(slot.get(zone), Lookup::Saturated), "{:?}", zone.peek(pfn));
    assert_eq!(zone.try_get(pfn).unwrap_err(), Refusal::Saturated);
    // The page lock can still share the folio, but cannot freeze it.
    let locked = slot.try_lock(zone).unwrap();
    drop(locked.folio().clone());
    let locked = locked.freeze().expect_err("2^30 references are busy");
    drop(locked.replace(frozen(zone)));
    drop(pinned);
    assert_eq!(zone.try_get(pfn).unwrap_err(), Refusal::Saturated);
    let Lookup::Hit(other) = slot.get(zone) else { panic!("{slot:?}") };
    assert_ne!(other.pfn(), pfn);
    drop(other);
    index.remove(zone, 0);
    zone.drain();
    zone.assert_sound();
    assert_eq!(zone.stats().free_frames, zone.stats().online_frames - 1, "one frame is leaked");
}

#[test]
fn many_references_are_cloned_as_one() {
    let arena = arena::<DefaultScheme>(1);
    let zone = arena.zone();
    let many = frozen(zone).init_many(3);
    let more = many.clone();
    assert_eq!(
        (more.count(), more.pfn(), zone.peek(more.pfn()).snapshot),
        (3, many.pfn(), Snapshot::Live(6))
    );
    let more = FolioRefs::freeze(more).expect_err("there are six references");
    drop(many);
    more.freeze().expect("these are all three references").free();
    assert_all_free(zone);
}
