//! R1, frame by frame: what is free, frozen, a tail or offline is refused, with the reason, under
//! every scheme.

mod common;

use common::{Index, OURS, arena, assert_all_free, order};
use folio_frames::{BLOCK_ORDER, Order, Pfn, Refusal, UserSpace, Zone};
use folio_ref::Scheme;
use folio_ref::schemes::{FrozenBit, Generational, GuessOne, LiveBitHigh, LiveBitLow, ZeroFrozen};

fn why<S: Scheme>(zone: &'static Zone<UserSpace<S>>, pfn: Pfn) -> Option<Refusal> {
    zone.try_get(pfn).err()
}

fn refuses<S: Scheme>() {
    let arena = arena::<S>(2);
    let zone = arena.zone();
    let all = zone.pfns();
    assert!(all.clone().all(|pfn| why(zone, pfn) == Some(Refusal::Free)), "in the buddy");
    assert!(all.clone().all(|pfn| zone.try_get_head(pfn).err() == Some(Refusal::Free)));

    let single = zone.alloc(Order::ZERO, OURS, 0).unwrap();
    let pfn = single.pfn();
    assert!(why(zone, pfn).is_none());
    drop(single);
    assert_eq!(why(zone, pfn), Some(Refusal::Free), "in a per-CPU list");

    for n in 1..=10 {
        let plain = zone.alloc_frozen(order(n)).unwrap();
        let first = plain.pfn().as_u64();
        let tails = || (first + 1..first + u64::from(order(n).frames())).map(Pfn::new);
        assert_eq!(why(zone, Pfn::new(first)), Some(Refusal::Frozen));
        assert!(
            tails().all(|tail| why(zone, tail) == Some(Refusal::Tail)),
            "tails of a plain block of order {n}"
        );
        let folio = plain.init();
        assert!(
            tails().all(|tail| why(zone, tail) == Some(Refusal::Tail)),
            "tails of a folio of order {n}"
        );
        assert!(
            tails().all(|tail| zone.try_get_head(tail).is_ok_and(|head| head.pfn() == folio.pfn()))
        );
        drop(folio);
        assert!(tails().all(|tail| why(zone, tail) == Some(Refusal::Free)));
        zone.drain();
    }

    assert_eq!(why(zone, Pfn::new(all.end.as_u64())), Some(Refusal::Offline), "past the zone");
    assert_eq!(why(zone, Pfn::new(0)), Some(Refusal::Offline), "before the zone");
    let offline = arena.offline(1, &Index::new(0)).unwrap();
    assert!(zone.block_range(1).all(|pfn| why(zone, pfn) == Some(Refusal::Offline)));
    assert!(zone.block_range(1).all(|pfn| zone.try_get_head(pfn).err() == Some(Refusal::Offline)));
    arena.online(offline);
    assert!(zone.block_range(1).all(|pfn| why(zone, pfn) == Some(Refusal::Free)));
    assert_all_free(zone);
}

#[test]
fn every_scheme_refuses_what_is_free_frozen_a_tail_or_offline() {
    refuses::<ZeroFrozen>();
    refuses::<GuessOne>();
    refuses::<FrozenBit>();
    refuses::<LiveBitHigh>();
    refuses::<LiveBitLow>();
    refuses::<Generational>();
}

/// Noise that piled up on a tail is not counted when the tail becomes a head.
#[test]
fn a_tail_that_was_refused_often_begins_its_life_with_one_reference() {
    let arena = arena::<LiveBitHigh>(1);
    let zone = arena.zone();
    let block = zone.alloc_frozen(order(3)).unwrap();
    let tail = Pfn::new(block.pfn().as_u64() + 5);
    for _ in 0..1000 {
        assert_eq!(why(zone, tail), Some(Refusal::Tail));
    }
    let mut parts: Vec<_> = block.split(Order::ZERO).collect();
    let folio = parts.swap_remove(5).init();
    assert_eq!(folio.pfn(), tail);
    assert_eq!(zone.peek(tail).snapshot, folio_ref::Snapshot::Live(1));
    drop(folio);
    parts.into_iter().for_each(folio_frames::FrozenFolio::free);
    assert_all_free(zone);
}

/// R8. A scan looked, the frame was freed and reused, and only then the scan takes it.
#[test]
fn a_frame_that_is_another_folio_by_now_is_refused_as_moved() {
    let arena = arena::<Generational>(1);
    let zone = arena.zone();
    let folio = zone.alloc(Order::ZERO, OURS, 1).unwrap();
    let pfn = folio.pfn();
    let seen = zone.peek(pfn);
    assert_eq!(zone.try_get_as(pfn, &seen).unwrap().owner_data(), 1);
    drop(folio);
    assert_eq!(zone.try_get_as(pfn, &seen).err(), Some(Refusal::Free));
    // The list of this CPU gives the frame that was freed last.
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
fn a_folio_that_a_walker_holds_last_is_freed_by_the_walker() {
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
fn a_token_that_is_dropped_is_caught_in_debug_builds() {
    let arena = arena::<Generational>(1);
    let zone = arena.zone();
    let drops = std::panic::AssertUnwindSafe(|| drop(zone.alloc_frozen(Order::ZERO).unwrap()));
    let dropped = std::panic::catch_unwind(drops);
    let text = dropped.unwrap_err().downcast::<String>().unwrap();
    assert!(text.starts_with("a token was dropped: token of the folio at"), "{text}");
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
        "a token was dropped: token of the 3 frames from pfn 0x100000 is leaked, frozen for ever"
    );
}
