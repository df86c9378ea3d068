//! What code without `unsafe` could do to be given memory that is not there, or that others have:
//! each was found by trying to break it.

mod common;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;

use common::{Index, OURS, assert_all_free, order};
use folio_frames::{
    Arena, Claim, ContigError, FrozenClaim, MigrateError, Order, Owner, Pfn, PfnRange, Slot,
    UserSpace, migrate,
};
use folio_ref::DefaultScheme;
use folio_ref::schemes::FrozenBit;

/// Takes the page out of its slot while it should be moved, and drops the arena that it lies in.
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

/// An arena took an isolated block for one that is offline already, and unmapped its bytes. A zone
/// outlives its arena, so the call that was emptying the block got frames without memory a moment
/// later: with a contiguous range, as here, or from the allocator, after a compaction or an attempt
/// to take it offline. Now the zone is closed, and gives out nothing.
#[test]
fn an_arena_that_goes_while_a_block_is_emptied_keeps_its_bytes_until_that_ends() {
    let arena = Arena::new(4 << 20, &[]).unwrap();
    let zone = arena.zone();
    let index = Index::new(1);
    let pfn = index.publish(zone, 0, Order::ZERO);
    let owner = Dropper { index, arena: Mutex::new(Some(arena)) };
    let range = PfnRange { start: pfn, end: Pfn::new(pfn.as_u64() + 1) };
    let refused = zone.alloc_contig_range(range, &owner).unwrap_err();
    assert_eq!(refused, ContigError::NotOnline, "a closed zone gives out nothing");
    assert!(owner.arena.lock().unwrap().is_none());
    assert_all_free(zone);
    assert_eq!(zone.stats().online_frames, 1024, "the bytes were there until that ended");
    // What is left of it goes when the next arena looks, and that one gets its metadata.
    let next = Arena::<UserSpace<FrozenBit>>::new(4 << 20, &[]).unwrap();
    assert!(!std::ptr::eq(zone, next.zone()));
    assert_eq!(zone.stats().online_frames, 0);
    assert_eq!(next.zone().stats().online_frames, 1024);
}

/// The reference that it gave was of a frame with the same number there, which nobody had counted:
/// freed when it was dropped, whoever else had it.
#[test]
fn who_publishes_a_folio_gets_a_reference_of_that_one() {
    let (here, there) = (common::arena::<DefaultScheme>(1), common::arena::<DefaultScheme>(1));
    let others: Vec<_> =
        (0..512).map(|_| there.zone().alloc(Order::ZERO, OURS, 0).unwrap()).collect();
    let slot = Slot::new();
    let claim = slot.install(here.zone().alloc_frozen(Order::ZERO).unwrap()).unwrap();
    assert!(catch_unwind(AssertUnwindSafe(|| drop(claim.publish_and_get(there.zone())))).is_err());
    assert!(slot.is_empty());
    assert_all_free(here.zone());
    assert_eq!(there.zone().stats().free_frames, 0);
    drop(others);
    assert_all_free(there.zone());
}

/// A slot named frames by their place in the zone, and whoever looked said which zone: with another
/// one its claim had the reference of whoever held the frame of the same place there, who then read
/// bytes that somebody wrote, or that were another's. Past the end of a smaller zone, it read what
/// lies behind the metadata.
#[test]
fn a_slot_that_is_asked_with_another_zone_says_so() {
    let (here, there) = (common::arena::<DefaultScheme>(2), common::arena::<DefaultScheme>(1));
    let (here_zone, there_zone) = (here.zone(), there.zone());
    let others: Vec<_> =
        (0..512).map(|_| there_zone.alloc(Order::ZERO, OURS, 0).unwrap()).collect();
    let index = Index::<UserSpace>::new(1024);
    (0..1024).for_each(|slot| _ = index.publish(here_zone, slot, Order::ZERO));
    for slot in &index.0 {
        assert!(catch_unwind(AssertUnwindSafe(|| drop(slot.get(there_zone)))).is_err());
        assert!(catch_unwind(AssertUnwindSafe(|| drop(slot.claim(there_zone)))).is_err());
        assert!(slot.get_alone(there_zone).is_none() && slot.pfn(there_zone).is_none());
        assert_eq!(slot.read(there.direct_map(), 0, &mut [0; 8], || true), None);
        assert!(slot.read(here.direct_map(), 0, &mut [0; 8], || true).is_some());
    }
    // An owner whose slots are of another zone moves nothing.
    let theirs = others.iter().map(|folio| migrate(there_zone, folio.pfn(), &index));
    assert!(theirs.into_iter().all(|moved| moved == Err(MigrateError::Moved)));
    // A token whose claim is in another zone is no way to a second claim.
    let claimed = Slot::new();
    let token = claimed
        .install(index.0[0].claim(here_zone).unwrap().freeze().unwrap().remove())
        .unwrap()
        .suspend();
    let place = token.pfn().as_u64() - here_zone.pfns().start.as_u64();
    let same = Pfn::new(there_zone.pfns().start.as_u64() + place);
    let other = others.into_iter().find(|folio| folio.pfn() == same);
    if let Some(other) = other {
        claimed.resume(other.freeze().unwrap()).unwrap_err().free();
    }
    claimed.resume(token).unwrap().remove().free();
    (1..1024).for_each(|slot| index.remove(here_zone, slot));
    assert_all_free(here_zone);
    assert_all_free(there_zone);
}

/// Dirt of a folio whose frames have a slot each was its head's alone after a cut: the bytes of the
/// others passed for what their backing has.
#[test]
fn each_page_of_a_dirty_folio_is_dirty_after_the_cut() {
    let arena = common::arena::<DefaultScheme>(1);
    let zone = arena.zone();
    let slots: Vec<Slot<UserSpace>> = (0..4).map(|_| Slot::new()).collect();
    let mut parts: Vec<_> = zone.alloc_frozen(order(2)).unwrap().split(Order::ZERO).collect();
    for part in &mut parts {
        part.set_owner(OURS, 0);
    }
    let claims = slots.iter().zip(parts).map(|(slot, part)| slot.install(part).ok());
    drop(FrozenClaim::publish_as_one(&mut claims.collect::<Vec<_>>()));
    slots[2].claim(zone).unwrap().set_dirty(true);
    assert!(Claim::split(&mut slots.iter().map(|slot| slot.claim(zone)).collect::<Vec<_>>()));
    for slot in &slots {
        let claim = slot.claim(zone).unwrap();
        assert!(claim.folio().is_dirty());
        claim.freeze().unwrap().remove().free();
    }
    assert_all_free(zone);
}

/// A token can be exchanged where it is borrowed to be written to. The claim stayed with the claim
/// that had another token then, and its own was as good: two claims on one slot, and with a third
/// folio one of them opened what somebody else was filling.
#[test]
fn a_claim_goes_with_its_token() {
    let arena = common::arena::<DefaultScheme>(1);
    let zone = arena.zone();
    let frozen = || zone.alloc_frozen(Order::ZERO).unwrap();
    let slot = Slot::<UserSpace>::new();
    let mut claim = slot.install(frozen()).unwrap();
    let mut token = frozen();
    std::mem::swap(claim.folio_mut(), &mut token);
    let second = slot.resume(token).unwrap();
    let said = catch_unwind(AssertUnwindSafe(|| claim.publish())).unwrap_err();
    assert!(said.downcast_ref::<String>().unwrap().contains("has the token of another folio"));
    second.publish();
    drop(slot.claim(zone).unwrap().remove());
    assert_all_free(zone);

    // Dropped, it leaves the slot to who has the right to it.
    let mut claim = slot.install(frozen()).unwrap();
    let mut token = frozen();
    std::mem::swap(claim.folio_mut(), &mut token);
    drop(claim);
    assert!(!slot.is_empty());
    slot.resume(token).unwrap().remove().free();
    assert_all_free(zone);

    let slots = [Slot::<UserSpace>::new(), Slot::new()];
    let both = zone.alloc_frozen(order(1)).unwrap().split(Order::ZERO);
    let mut claims: Vec<_> =
        slots.iter().zip(both).map(|(slot, part)| slot.install(part).ok()).collect();
    let [Some(first), Some(second)] = &mut claims[..] else { panic!("both are installed") };
    std::mem::swap(first.folio_mut(), second.folio_mut());
    let mut exchanged: Vec<_> = claims.into_iter().rev().collect();
    assert!(
        catch_unwind(AssertUnwindSafe(|| drop(FrozenClaim::publish_as_one(&mut exchanged))))
            .is_err()
    );
    drop(exchanged);
    assert_all_free(zone);
}
