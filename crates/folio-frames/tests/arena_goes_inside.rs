//! The arena is dropped while a call is inside its zone, at each place where the call takes or
//! releases a lock. Another arena gets the metadata at once, and uses all its memory. All frames
//! that the call gets are exclusively its own.

mod common;

use std::rc::Rc;

use common::hooked::{HOOK, Hooks, assert_closed, assert_retired, hook, shared};
use common::{Index, assert_all_free, order};
use folio_frames::{
    Arena, FolioRef, FrozenFolio, MigrateType, Order, Pfn, PfnRange, Zone, migrate,
};

type P = Hooks<0>;

/// The result of a call during which the arena was dropped.
enum Got {
    Nothing,
    Folios(Vec<FrozenFolio<P>>),
}

/// Fills a zone of four blocks: two pages in slots, in different blocks, and some pinned pages.
/// Returns the pinned ones.
fn fill(zone: &'static Zone<P>, index: &Index<P>) -> Vec<FolioRef<P>> {
    let filler: Vec<_> = (0..700).map(|_| zone.alloc_frozen(Order::ZERO).unwrap()).collect();
    index.publish(zone, 0, Order::ZERO);
    let mut pinned = Vec::new();
    for (n, folio) in filler.into_iter().enumerate() {
        if n % 350 == 0 { pinned.push(folio.init()) } else { folio.free() }
    }
    index.publish(zone, 1, Order::ZERO);
    pinned
}

/// Repeats one call. Its arena is dropped at the first place where the call takes or releases a
/// lock, then at the second, and so on. Then another arena uses all its memory.
fn drop_arena_at_each_place(call: impl Fn(&'static Zone<P>, &Index<P>) -> Got) {
    let mut places = 0;
    loop {
        let mut arena = Some(Arena::<P>::with_huge_order(8 << 20, &[], order(11)).unwrap());
        let zone = arena.as_ref().unwrap().zone();
        let index = Rc::new(Index::<P>::new(2));
        let pinned = fill(zone, &index);
        let (put, second) = shared();
        let mut left = places;
        hook(move || {
            if left > 0 {
                left -= 1;
                return false;
            }
            drop(arena.take());
            let again = Arena::<P>::new(8 << 20, &[]).unwrap();
            assert!(!std::ptr::eq(zone, again.zone()));
            let all = std::iter::from_fn(|| again.zone().alloc_frozen(order(3)).ok());
            let all: Vec<_> = all
                .map(|mut folio| {
                    folio.as_mut_slice().fill(0xBB);
                    folio.init()
                })
                .collect();
            assert_eq!(all.len(), 2048 / 8);
            *put.borrow_mut() = Some((again, all));
            true
        });
        let got = call(zone, &index);
        HOOK.take();
        if let Got::Folios(folios) = got {
            for mut folio in folios {
                folio.as_mut_slice().fill(0xCC);
                assert!(folio.as_slice().iter().all(|&byte| byte == 0xCC));
                folio.free();
            }
        }
        for (slot, byte) in index.0.iter().zip([0, 1]) {
            let folio = slot.try_lock(zone).unwrap().remove();
            assert!(folio.as_slice().iter().all(|&found| found == byte));
        }
        let Some((again, all)) = second.take() else { break };
        places += 1;
        for folio in &all {
            assert!(folio.as_slice().iter().all(|&byte| byte == 0xBB), "{folio:?}");
        }
        assert_closed(zone);
        drop(pinned);
        drop(all);
        assert_all_free(again.zone());
        drop(again);
        assert_retired(zone);
    }
    assert!(places > 0, "the call takes no lock");
}

fn folio(got: Option<FrozenFolio<P>>) -> Got {
    got.map_or(Got::Nothing, |folio| Got::Folios(vec![folio]))
}

#[test]
fn an_arena_can_drop_anywhere_in_an_allocation() {
    for n in [0, 3, 4, 9, 10, 11] {
        drop_arena_at_each_place(|zone, _| folio(zone.alloc_frozen(order(n)).ok()));
    }
    drop_arena_at_each_place(|zone, _| {
        folio(zone.alloc_frozen_up_to(order(10), MigrateType::Movable).ok())
    });
}

#[test]
fn an_arena_can_drop_anywhere_in_alloc_contig() {
    drop_arena_at_each_place(|zone, index| match zone.alloc_contig(700, order(2), index) {
        Ok(contig) => Got::Folios(contig.into_folios().collect()),
        Err(_) => Got::Nothing,
    });
    drop_arena_at_each_place(|zone, index| {
        let start = index.0[1].pfn(zone).unwrap();
        let range = PfnRange { start, end: Pfn::new(start.as_u64() + 1) };
        match zone.alloc_contig_range(range, index) {
            Ok(contig) => Got::Folios(contig.into_folios().collect()),
            Err(_) => Got::Nothing,
        }
    });
}

#[test]
fn an_arena_can_drop_anywhere_in_a_compaction() {
    drop_arena_at_each_place(|zone, index| {
        zone.compact(4, index);
        Got::Nothing
    });
}

#[test]
fn an_arena_can_drop_anywhere_in_a_migration() {
    drop_arena_at_each_place(|zone, index| {
        _ = migrate(zone, index.0[0].pfn(zone).unwrap(), index);
        Got::Nothing
    });
}

#[test]
fn an_arena_can_drop_anywhere_while_a_block_goes_offline() {
    for block in 0..4 {
        drop_arena_at_each_place(move |zone, index| {
            _ = zone.offline(block, index);
            Got::Nothing
        });
    }
}

#[test]
fn an_arena_can_drop_anywhere_in_a_drain_and_a_report() {
    drop_arena_at_each_place(|zone, _| {
        zone.drain();
        zone.stats();
        zone.counters();
        zone.assert_sound();
        Got::Nothing
    });
}
