//! Attempts by code without `unsafe` to get memory that is unmapped, or in use elsewhere. Each is
//! refused.

mod common;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;

use common::{Index, OURS, assert_all_free, order};
use folio_frames::{
    Arena, ContigError, FrozenSlot, LockedSlot, Lookup, MigrateError, Order, Owner, Pfn, PfnRange,
    Slot, UserSpace, migrate,
};
use folio_ref::schemes::FrozenBit;
use folio_ref::{DefaultScheme, Snapshot};

/// Takes the page out of its slot during its migration, and drops the arena of the page.
struct Dropper {
    index: Index<UserSpace<FrozenBit>>,
    arena: Mutex<Option<Arena<UserSpace<FrozenBit>>>>,
}

impl Owner<UserSpace<FrozenBit>> for Dropper {
    fn with_slot(&self, _: Pfn, _: u64, _: &mut dyn FnMut(&Slot<UserSpace<FrozenBit>>)) -> bool {
        if let Some(arena) = self.arena.lock().unwrap().take() {
            self.index.remove(arena.zone(), 0);
        }
        false
    }
}

/// An arena must not take an isolated block for an offline one, and unmap its bytes. A zone
/// outlives its arena. So the call that is emptying the block would get frames without memory: by a
/// contiguous range, as here, or from the allocator, after a compaction or an attempt to take the
/// block offline. The zone is closed, and allocates nothing.
#[test]
fn an_isolated_block_keeps_its_bytes_when_its_arena_drops() {
    let arena = Arena::new(4 << 20, &[]).unwrap();
    let zone = arena.zone();
    let index = Index::new(1);
    let pfn = index.publish(zone, 0, Order::ZERO);
    let owner = Dropper { index, arena: Mutex::new(Some(arena)) };
    let range = PfnRange { start: pfn, end: Pfn::new(pfn.as_u64() + 1) };
    let refused = zone.alloc_contig_range(range, &owner).unwrap_err();
    assert_eq!(refused, ContigError::NotOnline, "a closed zone allocates nothing");
    assert!(owner.arena.lock().unwrap().is_none());
    assert_all_free(zone);
    assert_eq!(zone.stats().online_frames, 1024, "the bytes were mapped until the call ended");
    // The next arena unmaps the bytes, and gets the metadata.
    let next = Arena::<UserSpace<FrozenBit>>::new(4 << 20, &[]).unwrap();
    assert!(!std::ptr::eq(zone, next.zone()));
    assert_eq!(zone.stats().online_frames, 0);
    assert_eq!(next.zone().stats().online_frames, 1024);
}

/// `publish_and_get` must not return a reference to the frame of the same number in another zone.
/// That reference would not be counted, and its drop would free the frame under its users.
#[test]
fn publish_and_get_refuses_another_zone() {
    let (here, there) = (common::arena::<DefaultScheme>(1), common::arena::<DefaultScheme>(1));
    let others: Vec<_> =
        (0..512).map(|_| there.zone().alloc(Order::ZERO, OURS, 0).unwrap()).collect();
    let slot = Slot::new();
    let locked = slot.install(here.zone().alloc_frozen(Order::ZERO).unwrap()).unwrap();
    assert!(catch_unwind(AssertUnwindSafe(|| drop(locked.publish_and_get(there.zone())))).is_err());
    assert!(slot.is_empty());
    assert_all_free(here.zone());
    assert_eq!(there.zone().stats().free_frames, 0);
    drop(others);
    assert_all_free(there.zone());
}

/// If a slot named its frame by the place in the zone, the page lock taken with another zone would
/// get the reference of the frame at the same place there. The bytes of that frame may be written,
/// or belong to another page. Past the end of a smaller zone, it would read behind the metadata.
#[test]
fn a_slot_refuses_another_zone() {
    let (here, there) = (common::arena::<DefaultScheme>(2), common::arena::<DefaultScheme>(1));
    let (here_zone, there_zone) = (here.zone(), there.zone());
    let others: Vec<_> =
        (0..512).map(|_| there_zone.alloc(Order::ZERO, OURS, 0).unwrap()).collect();
    let index = Index::<UserSpace>::new(1024);
    (0..1024).for_each(|slot| _ = index.publish(here_zone, slot, Order::ZERO));
    for slot in &index.0 {
        assert!(catch_unwind(AssertUnwindSafe(|| drop(slot.get(there_zone)))).is_err());
        assert!(catch_unwind(AssertUnwindSafe(|| drop(slot.try_lock(there_zone)))).is_err());
        assert!(slot.get_alone(there_zone).is_none() && slot.pfn(there_zone).is_none());
        assert_eq!(slot.read(there.direct_map(), 0, &mut [0; 8], || true), None);
        assert!(slot.read(here.direct_map(), 0, &mut [0; 8], || true).is_some());
    }
    // An owner with slots of another zone moves nothing.
    let theirs = others.iter().map(|folio| migrate(there_zone, folio.pfn(), &index));
    assert!(theirs.into_iter().all(|moved| moved == Err(MigrateError::Moved)));
    // A suspended handle of one zone does not resume a page lock with a folio of another.
    let locked = Slot::new();
    let handle = locked
        .install(index.0[0].try_lock(here_zone).unwrap().freeze().unwrap().remove())
        .unwrap()
        .suspend();
    let place = handle.pfn().as_u64() - here_zone.pfns().start.as_u64();
    let same = Pfn::new(there_zone.pfns().start.as_u64() + place);
    let other = others.into_iter().find(|folio| folio.pfn() == same);
    if let Some(other) = other {
        locked.resume(other.freeze().unwrap()).unwrap_err().free();
    }
    locked.resume(handle).unwrap().remove().free();
    (1..1024).for_each(|slot| index.remove(here_zone, slot));
    assert_all_free(here_zone);
    assert_all_free(there_zone);
}

/// The dirty state of a multi-slot folio must reach each subpage when it is split. Otherwise the
/// bytes of the others pass for those of the backing.
#[test]
fn each_subpage_of_a_dirty_folio_is_dirty_after_a_split() {
    let arena = common::arena::<DefaultScheme>(1);
    let zone = arena.zone();
    let slots: Vec<Slot<UserSpace>> = (0..4).map(|_| Slot::new()).collect();
    let mut pieces: Vec<_> = zone.alloc_frozen(order(2)).unwrap().split(Order::ZERO).collect();
    for piece in &mut pieces {
        piece.set_owner(OURS, 0);
    }
    let locked_slots = slots.iter().zip(pieces).map(|(slot, piece)| slot.install(piece).ok());
    drop(FrozenSlot::publish_as_one(&mut locked_slots.collect::<Vec<_>>()));
    slots[2].try_lock(zone).unwrap().set_dirty(true);
    assert!(LockedSlot::split(
        &mut slots.iter().map(|slot| slot.try_lock(zone)).collect::<Vec<_>>()
    ));
    for slot in &slots {
        let locked = slot.try_lock(zone).unwrap();
        assert!(locked.folio().is_dirty());
        locked.freeze().unwrap().remove().free();
    }
    assert_all_free(zone);
}

/// A caller can exchange the exclusive handle that it borrows to write. The page lock must follow
/// its handle. Otherwise a slot has two page locks, and with a third folio one of them opens a
/// folio that another thread fills.
#[test]
fn a_page_lock_follows_its_exclusive_handle() {
    let arena = common::arena::<DefaultScheme>(1);
    let zone = arena.zone();
    let frozen = || zone.alloc_frozen(Order::ZERO).unwrap();
    let slot = Slot::<UserSpace>::new();
    let mut locked = slot.install(frozen()).unwrap();
    let mut handle = frozen();
    std::mem::swap(locked.folio_mut(), &mut handle);
    let second = slot.resume(handle).unwrap();
    let panic = catch_unwind(AssertUnwindSafe(|| locked.publish())).unwrap_err();
    assert!(
        panic
            .downcast_ref::<String>()
            .unwrap()
            .contains("has the exclusive handle of another folio")
    );
    second.publish();
    drop(slot.try_lock(zone).unwrap().remove());
    assert_all_free(zone);

    // Dropped with a foreign handle, it leaves the slot to the handle that belongs there.
    let mut locked = slot.install(frozen()).unwrap();
    let mut handle = frozen();
    std::mem::swap(locked.folio_mut(), &mut handle);
    drop(locked);
    assert!(!slot.is_empty());
    slot.resume(handle).unwrap().remove().free();
    assert_all_free(zone);

    let slots = [Slot::<UserSpace>::new(), Slot::new()];
    let both = zone.alloc_frozen(order(1)).unwrap().split(Order::ZERO);
    let mut locked_slots: Vec<_> =
        slots.iter().zip(both).map(|(slot, piece)| slot.install(piece).ok()).collect();
    let [Some(first), Some(second)] = &mut locked_slots[..] else { panic!("both are installed") };
    std::mem::swap(first.folio_mut(), second.folio_mut());
    let mut exchanged: Vec<_> = locked_slots.into_iter().rev().collect();
    assert!(
        catch_unwind(AssertUnwindSafe(|| drop(FrozenSlot::publish_as_one(&mut exchanged))))
            .is_err()
    );
    drop(exchanged);
    assert_all_free(zone);
}

/// A handle that stands for a page lock can be opened without its slot, as one with bytes that may
/// change, and so can a later one of the same frame. A lookup by the slot, which names the frame
/// still, must not return it: a reference from a slot shows slices.
#[test]
fn a_locked_slot_gives_no_reference_to_bytes_that_may_change() {
    let arena = common::arena::<DefaultScheme>(1);
    let zone = arena.zone();
    let frozen = || zone.alloc_frozen(Order::ZERO).unwrap();
    let refuses = |slot: &Slot<UserSpace>| {
        matches!(slot.get(zone), Lookup::InProgress)
            && slot.get_alone(zone).is_none()
            && slot.try_lock(zone).is_none()
    };
    // The suspended handle itself.
    let slot = Slot::<UserSpace>::new();
    let page = slot.install(frozen()).unwrap().suspend().init_volatile();
    assert!(refuses(&slot));
    page.write(0, &[7]);
    assert_eq!(zone.peek(page.pfn()).snapshot, Snapshot::Live(1), "each refused get was put back");
    let frozen_again = page.freeze().expect("the only reference");
    slot.resume(frozen_again).unwrap().remove().free();

    // A later handle of its frame, after it was freed.
    let suspended = slot.install(frozen()).unwrap().suspend();
    let pfn = suspended.pfn();
    suspended.free();
    let all: Vec<_> = std::iter::from_fn(|| zone.alloc_frozen(Order::ZERO).ok()).collect();
    let (same, others): (Vec<_>, Vec<_>) = all.into_iter().partition(|folio| folio.pfn() == pfn);
    others.into_iter().for_each(folio_frames::FrozenFolio::free);
    let page = same.into_iter().next().expect("each free frame").init_volatile();
    assert!(refuses(&slot));
    slot.resume(page.freeze().expect("the only reference")).unwrap().remove().free();

    // A handle that was exchanged for another one.
    let mut locked = slot.install(frozen()).unwrap();
    let page = std::mem::replace(locked.folio_mut(), frozen()).init_volatile();
    assert!(refuses(&slot));
    drop(locked);
    assert!(refuses(&slot));
    slot.resume(page.freeze().expect("the only reference")).unwrap().publish();
    assert!(matches!(slot.get(zone), Lookup::Hit(_)), "its bytes do not change now");
    let locked = slot.try_lock(zone).unwrap();
    assert!(matches!(slot.get(zone), Lookup::Hit(_)), "readers ignore the page lock");
    drop(locked.remove());
    assert_all_free(zone);
}
