//! Migration, offline and online: every step that backs out leaves no trace.

mod common;

use common::{Index, OURS, arena, assert_all_free, order};
use folio_frames::{
    AllocError, BLOCK_ORDER, Lookup, MigrateError, OfflineError, Order, Owner, Pfn, Refusal, Slot,
    UserSpace, Zone, migrate,
};
use folio_ref::{DefaultScheme, Snapshot};

fn hit(
    slot: &Slot<UserSpace>,
    zone: &'static Zone<UserSpace>,
) -> folio_frames::FolioRef<UserSpace> {
    let Lookup::Hit(folio) = slot.get(zone) else { panic!("{slot:?}") };
    folio
}

#[test]
fn migration_moves_bytes_and_owner_and_frees_the_old_frame() {
    let arena = arena::<DefaultScheme>(2);
    let zone = arena.zone();
    for n in 0..=4 {
        let index = Index::new(8);
        let from = index.publish(zone, 7, order(n));
        let to = migrate(zone, from, &index).unwrap();
        assert_ne!(from, to);
        assert_eq!(zone.try_get(from).unwrap_err(), Refusal::Free);
        let folio = hit(&index.0[7], zone);
        assert_eq!(
            (folio.pfn(), folio.order(), folio.kind(), folio.owner_data()),
            (to, order(n), OURS, 7)
        );
        assert!(folio.as_slice().iter().all(|&byte| byte == 7));
        drop(folio);
        assert_eq!(zone.peek(to).snapshot, Snapshot::Live(1));
        index.remove(zone, 7);
        assert_all_free(zone);
    }
}

#[test]
fn a_refused_migration_leaves_no_trace() {
    let arena = arena::<DefaultScheme>(1);
    let zone = arena.zone();
    let index = Index::new(600);
    let pfn = index.publish(zone, 0, Order::ZERO);
    let refused_with = |error| {
        let state = || {
            zone.drain();
            (zone.peek(pfn), index.0[0].pfn(zone), zone.stats())
        };
        let before = state();
        assert_eq!(migrate(zone, pfn, &index), Err(error));
        assert_eq!(state(), before, "{error:?} left a trace");
    };

    let pinned = hit(&index.0[0], zone);
    refused_with(MigrateError::Busy);
    drop(pinned);
    let locked = index.0[0].try_lock(zone).unwrap();
    refused_with(MigrateError::Busy);
    drop(locked);

    let others: Vec<_> = std::iter::from_fn(|| zone.alloc_frozen(Order::ZERO).ok()).collect();
    refused_with(MigrateError::OutOfFrames);
    others.into_iter().for_each(folio_frames::FrozenFolio::free);
    zone.drain();

    let end = zone.pfns().end;
    assert_eq!(migrate(zone, end, &index), Err(MigrateError::NotMovable), "past the zone");
    let plain = zone.alloc_frozen(order(1)).unwrap();
    assert_eq!(migrate(zone, plain.pfn(), &index), Err(MigrateError::NotMovable));
    let tail = Pfn::new(plain.pfn().as_u64() + 1);
    assert_eq!(migrate(zone, tail, &index), Err(MigrateError::NotMovable));
    plain.free();
    assert_eq!(migrate(zone, tail, &index), Err(MigrateError::NotMovable), "free");

    let unknown = zone.alloc(Order::ZERO, OURS, 1 << 40).unwrap();
    assert_eq!(
        migrate(zone, unknown.pfn(), &index),
        Err(MigrateError::NotMovable),
        "its owner has no slot for it"
    );
    let elsewhere = zone.alloc(Order::ZERO, OURS, 0).unwrap();
    assert_eq!(
        migrate(zone, elsewhere.pfn(), &index),
        Err(MigrateError::Moved),
        "its slot holds another folio"
    );
    drop((unknown, elsewhere));
    index.remove(zone, 0);
    assert_all_free(zone);
}

#[test]
fn a_block_goes_offline_and_its_pages_move() {
    let arena = arena::<DefaultScheme>(2);
    let zone = arena.zone();
    let index = Index::new(200);
    let places: Vec<_> = (0..200).map(|slot| index.publish(zone, slot, Order::ZERO)).collect();
    let block = (0..2).find(|&block| zone.block_range(block).any(|pfn| pfn == places[0])).unwrap();
    let offline = arena.offline(block, &index).unwrap();
    assert_eq!(offline.block(), block);
    assert_eq!(zone.stats().online_frames, BLOCK_ORDER.frames());
    assert!(
        zone.block_range(block).all(|pfn| zone.peek(pfn).snapshot.is_frozen()),
        "R1: offline is frozen"
    );
    for slot in 0..200 {
        let folio = hit(&index.0[slot], zone);
        assert!(zone.block_range(block).all(|pfn| pfn != folio.pfn()));
        assert!(
            folio.as_slice().iter().all(|&byte| byte == slot as u8),
            "slot {slot} lost its bytes"
        );
    }
    assert_eq!(arena.offline(block, &index).unwrap_err(), OfflineError::NotOnline);
    assert_eq!(arena.offline(99, &index).unwrap_err(), OfflineError::NotOnline);
    arena.online(offline);
    let fresh = std::iter::from_fn(|| zone.alloc_frozen(Order::ZERO).ok()).collect::<Vec<_>>();
    let back: Vec<_> = fresh
        .iter()
        .filter(|folio| zone.block_range(block).any(|pfn| pfn == folio.pfn()))
        .collect();
    assert_eq!(back.len(), 512);
    assert!(
        back.iter().all(|folio| folio.as_slice().iter().all(|&byte| byte == 0)),
        "its memory was returned to the system"
    );
    fresh.into_iter().for_each(folio_frames::FrozenFolio::free);
    (0..200).for_each(|slot| index.remove(zone, slot));
    assert_all_free(zone);
}

#[test]
fn a_block_with_a_pinned_page_stays_online() {
    let arena = arena::<DefaultScheme>(2);
    let zone = arena.zone();
    let index = Index::new(50);
    (0..50).for_each(|slot| {
        index.publish(zone, slot, Order::ZERO);
    });
    let pinned = hit(&index.0[9], zone);
    let block =
        (0..2).find(|&block| zone.block_range(block).any(|pfn| pfn == pinned.pfn())).unwrap();
    let free = zone.stats().free_frames;
    assert_eq!(
        arena.offline(block, &index).unwrap_err(),
        OfflineError::Busy { frames: 1, first: pinned.pfn() }
    );
    assert_eq!((zone.stats().free_frames, zone.stats().online_frames), (free, 1024));
    drop(pinned);
    let offline = arena.offline(block, &index).unwrap();
    arena.online(offline);
    (0..50).for_each(|slot| index.remove(zone, slot));
    assert_all_free(zone);
}

#[test]
fn a_block_without_room_elsewhere_stays_online() {
    let arena = arena::<DefaultScheme>(1);
    let zone = arena.zone();
    let index = Index::new(1);
    index.publish(zone, 0, Order::ZERO);
    assert_eq!(arena.offline(0, &index).unwrap_err(), OfflineError::OutOfFrames);
    assert_eq!(zone.stats().free_frames, 511);
    index.remove(zone, 0);
    assert_all_free(zone);
}

/// Frames that are freed after a failed offline are neither lost nor left isolated. A plain block
/// that spans both blocks of 2 MiB is the hard case.
#[test]
fn a_plain_block_of_two_blocks_loses_no_frame_to_offline() {
    let arena = arena::<DefaultScheme>(2);
    let zone = arena.zone();
    let index = Index::new(0);
    let large = zone.alloc_frozen(order(10)).unwrap();
    let first = zone.block_range(1).start;
    assert_eq!(arena.offline(1, &index).unwrap_err(), OfflineError::Busy { frames: 512, first });
    let first = zone.block_range(0).start;
    assert_eq!(arena.offline(0, &index).unwrap_err(), OfflineError::Busy { frames: 512, first });
    large.free();
    assert_all_free(zone);
    assert_eq!(zone.stats().largest_free_order, Some(order(10)));
    let first = arena.offline(0, &index).unwrap();
    assert_eq!(zone.stats().largest_free_order, Some(BLOCK_ORDER), "the other half stays free");
    let second = arena.offline(1, &index).unwrap();
    assert_eq!(zone.stats().online_frames, 0);
    assert!(zone.alloc_frozen(Order::ZERO).is_err());
    arena.online(second);
    arena.online(first);
    assert_all_free(zone);
    assert_eq!(
        zone.stats().largest_free_order,
        Some(order(10)),
        "buddies of two blocks merge again"
    );
}

/// Checks the zone's statistics before each migration of a folio.
struct Counting<'a> {
    index: &'a Index<UserSpace>,
    zone: &'static Zone<UserSpace>,
    used: u32,
}

impl Owner<UserSpace> for Counting<'_> {
    fn with_slot(
        &self,
        pfn: Pfn,
        owner_data: u64,
        visit: &mut dyn FnMut(&Slot<UserSpace>),
    ) -> bool {
        let stats = self.zone.stats();
        assert_eq!(
            stats.online_frames - stats.free_frames,
            self.used,
            "captured frames count as free: {stats:?}"
        );
        self.index.with_slot(pfn, owner_data, visit)
    }
}

/// Takes each block offline in turn, with used and free frames mixed in all of them.
#[test]
fn every_block_can_go_offline_and_come_back() {
    let arena = arena::<DefaultScheme>(3);
    let zone = arena.zone();
    let index = Index::new(1100);
    for slot in 0..1100 {
        index.publish(zone, slot, Order::ZERO);
    }
    // Leaves holes, so that each block is partly free.
    (0..1100).filter(|slot| slot % 3 != 0).for_each(|slot| index.remove(zone, slot));
    zone.drain();
    for block in 0..3 {
        let before = zone.stats();
        let used = before.online_frames - before.free_frames;
        let offline = arena.offline(block, &Counting { index: &index, zone, used }).unwrap();
        assert_eq!(offline.block(), block);
        assert!(format!("{zone:?}").contains("online"), "{zone:?}");
        let during = zone.stats();
        let used = |stats: folio_frames::ZoneStats| stats.online_frames - stats.free_frames;
        assert_eq!((used(during), during.online_frames), (used(before), 2 * BLOCK_ORDER.frames()));
        for slot in (0..1100).step_by(3) {
            let folio = hit(&index.0[slot], zone);
            assert!(zone.block_range(block).all(|pfn| pfn != folio.pfn()));
            assert!(
                folio.as_slice().iter().all(|&byte| byte == slot as u8),
                "slot {slot} lost its bytes"
            );
        }
        arena.online(offline);
    }
    assert_eq!(arena.offline(3, &index).unwrap_err(), OfflineError::NotOnline, "one past the last");
    (0..1100).step_by(3).for_each(|slot| index.remove(zone, slot));
    assert_all_free(zone);
}

#[test]
fn errors_name_the_cause() {
    let texts = [
        MigrateError::NotMovable.to_string(),
        MigrateError::Busy.to_string(),
        MigrateError::OutOfFrames.to_string(),
        MigrateError::Moved.to_string(),
        OfflineError::NotOnline.to_string(),
        OfflineError::Busy { frames: 3, first: Pfn::new(16) }.to_string(),
        OfflineError::OutOfFrames.to_string(),
        AllocError::OutOfFrames.to_string(),
        AllocError::Fragmented { largest: order(2) }.to_string(),
        AllocError::Offline.to_string(),
        AllocError::TooLarge { max: order(10) }.to_string(),
    ];
    for (text, expected) in texts.iter().zip([
        "can move",
        "references",
        "to move",
        "moved",
        "online",
        "3 frames of the block are in use and could not be moved, the first is pfn 0x10",
        "elsewhere",
        "free",
        "order 2",
        "no block of the zone is online",
        "order 10 is the largest",
    ]) {
        assert!(text.contains(expected), "'{expected}' is not in '{text}'");
    }
}
