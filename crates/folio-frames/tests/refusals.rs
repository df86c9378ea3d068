//! R1, frame by frame: a frame that is free, frozen, a tail or offline is refused, with the reason,
//! under every scheme.

mod common;

use common::{Index, OURS, arena, assert_all_free, order};
use folio_frames::{BLOCK_ORDER, Order, Pfn, Refusal, UserSpace, Zone};
use folio_ref::Scheme;
use folio_ref::schemes::{
    FrozenBit, Generational, GuessOne, LiveBitHigh, LiveBitLow, Tagged, ZeroFrozen,
};

fn refusal<S: Scheme>(zone: &'static Zone<UserSpace<S>>, pfn: Pfn) -> Option<Refusal> {
    zone.try_get(pfn).err()
}

fn refuses<S: Scheme>() {
    let arena = arena::<S>(2);
    let zone = arena.zone();
    let all = zone.pfns();
    assert!(all.clone().all(|pfn| refusal(zone, pfn) == Some(Refusal::Free)), "in the buddy");
    assert!(all.clone().all(|pfn| zone.try_get_head(pfn).err() == Some(Refusal::Free)));

    let single = zone.alloc(Order::ZERO, OURS, 0).unwrap();
    let pfn = single.pfn();
    assert!(refusal(zone, pfn).is_none());
    drop(single);
    assert_eq!(refusal(zone, pfn), Some(Refusal::Free), "in a per-CPU list");

    for n in 1..=10 {
        let plain = zone.alloc_frozen(order(n)).unwrap();
        let first = plain.pfn().as_u64();
        let tails = || (first + 1..first + u64::from(order(n).frames())).map(Pfn::new);
        assert_eq!(refusal(zone, Pfn::new(first)), Some(Refusal::Frozen));
        assert!(
            tails().all(|tail| refusal(zone, tail) == Some(Refusal::Tail)),
            "tails of a plain block of order {n}"
        );
        let folio = plain.init();
        assert!(
            tails().all(|tail| refusal(zone, tail) == Some(Refusal::Tail)),
            "tails of a folio of order {n}"
        );
        assert!(
            tails().all(|tail| zone.try_get_head(tail).is_ok_and(|head| head.pfn() == folio.pfn()))
        );
        drop(folio);
        assert!(tails().all(|tail| refusal(zone, tail) == Some(Refusal::Free)));
        zone.drain();
    }

    assert_eq!(refusal(zone, Pfn::new(all.end.as_u64())), Some(Refusal::Offline), "past the zone");
    assert_eq!(refusal(zone, Pfn::new(0)), Some(Refusal::Offline), "before the zone");
    let offline = arena.offline(1, &Index::new(0)).unwrap();
    assert!(zone.block_range(1).all(|pfn| refusal(zone, pfn) == Some(Refusal::Offline)));
    assert!(zone.block_range(1).all(|pfn| zone.try_get_head(pfn).err() == Some(Refusal::Offline)));
    arena.online(offline);
    assert!(zone.block_range(1).all(|pfn| refusal(zone, pfn) == Some(Refusal::Free)));
    assert_all_free(zone);
}

#[test]
fn every_scheme_refuses_free_frozen_tail_and_offline_frames() {
    refuses::<ZeroFrozen>();
    refuses::<GuessOne>();
    refuses::<FrozenBit>();
    refuses::<LiveBitHigh>();
    refuses::<LiveBitLow>();
    refuses::<Generational>();
    refuses::<Tagged>();
}

/// Stale increments on a tail do not count when the tail becomes a head.
#[test]
fn a_refused_tail_begins_its_life_with_one_reference() {
    let arena = arena::<LiveBitHigh>(1);
    let zone = arena.zone();
    let block = zone.alloc_frozen(order(3)).unwrap();
    let tail = Pfn::new(block.pfn().as_u64() + 5);
    for _ in 0..1000 {
        assert_eq!(refusal(zone, tail), Some(Refusal::Tail));
    }
    let mut pieces: Vec<_> = block.split(Order::ZERO).collect();
    let folio = pieces.swap_remove(5).init();
    assert_eq!(folio.pfn(), tail);
    assert_eq!(zone.peek(tail).snapshot, folio_ref::Snapshot::Live(1));
    drop(folio);
    pieces.into_iter().for_each(folio_frames::FrozenFolio::free);
    assert_all_free(zone);
}

/// R8: a scan peeks at a frame, which is freed and reused before the scan takes it.
#[test]
fn a_frame_reused_since_the_peek_is_refused_as_moved() {
    let arena = arena::<Generational>(1);
    let zone = arena.zone();
    let folio = zone.alloc(Order::ZERO, OURS, 1).unwrap();
    let pfn = folio.pfn();
    let seen = zone.peek(pfn);
    assert_eq!(zone.try_get_as(pfn, &seen).unwrap().owner_data(), 1);
    drop(folio);
    assert_eq!(zone.try_get_as(pfn, &seen).err(), Some(Refusal::Free));
    // The list of this CPU allocates the frame that was freed last.
    let next = zone.alloc(Order::ZERO, OURS, 2).unwrap();
    assert_eq!(next.pfn(), pfn);
    assert_eq!(zone.try_get_as(pfn, &seen).err(), Some(Refusal::Moved));
    assert_eq!(
        zone.peek(pfn).snapshot,
        folio_ref::Snapshot::Live(1),
        "the refused reference was put back"
    );
    drop(next);
    assert_all_free(zone);
}

#[test]
fn a_walker_with_the_last_reference_frees_the_folio() {
    let arena = arena::<Generational>(1);
    let zone = arena.zone();
    let folio = zone.alloc(order(2), OURS, 9).unwrap();
    let found = zone.try_get_head(Pfn::new(folio.pfn().as_u64() + 3)).unwrap();
    assert_eq!(
        (found.pfn(), found.order(), found.owner_data(), found.kind()),
        (folio.pfn(), order(2), 9, OURS)
    );
    drop(folio);
    assert_eq!(zone.stats().free_frames, BLOCK_ORDER.frames() - 4);
    drop(found);
    assert_all_free(zone);
}

#[test]
#[cfg(debug_assertions)]
fn a_dropped_exclusive_handle_panics_in_debug_builds() {
    let arena = arena::<Generational>(1);
    let zone = arena.zone();
    let drops = std::panic::AssertUnwindSafe(|| drop(zone.alloc_frozen(Order::ZERO).unwrap()));
    let dropped = std::panic::catch_unwind(drops);
    let text = dropped.unwrap_err().downcast::<String>().unwrap();
    assert!(
        text.starts_with(
            "an exclusive handle was dropped, which leaks its frames: frozen folio at"
        ),
        "{text}"
    );
    let drops = std::panic::AssertUnwindSafe(|| {
        let range = folio_frames::PfnRange {
            start: zone.pfns().start,
            end: Pfn::new(zone.pfns().start.as_u64() + 3),
        };
        drop(zone.alloc_contig_range(range, &Index::new(0)).unwrap());
    });
    let text = std::panic::catch_unwind(drops).unwrap_err().downcast::<String>().unwrap();
    assert_eq!(
        text.as_str(),
        "an exclusive handle was dropped, which leaks its frames: 3 frozen frames from pfn 0x100000"
    );
}
