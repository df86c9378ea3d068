//! The arena goes while a call is inside its zone, wherever the call takes a lock or lets go of one;
//! another arena has the metadata at once, and all its memory in use. What the call gets, if
//! anything, is its own alone.

mod common;

use std::rc::Rc;

use common::hooked::{HOOK, Hooks, assert_closed, assert_retired, hook, shared};
use common::{Index, assert_all_free, order};
use folio_frames::{
    Arena, FolioRef, FrozenFolio, MigrateType, Order, Pfn, PfnRange, Zone, migrate,
};

type Swept = Hooks<0>;

/// What a call inside a zone got while the arena went.
enum Got {
    Nothing,
    Folios(Vec<FrozenFolio<Swept>>),
}

/// A zone of four blocks: two pages in slots, in blocks of their own, and some pages that stay.
fn furnish(zone: &'static Zone<Swept>, index: &Index<Swept>) -> Vec<FolioRef<Swept>> {
    let filler: Vec<_> = (0..700).map(|_| zone.alloc_frozen(Order::ZERO).unwrap()).collect();
    index.publish(zone, 0, Order::ZERO);
    let mut stay = Vec::new();
    for (n, folio) in filler.into_iter().enumerate() {
        if n % 350 == 0 { stay.push(folio.init()) } else { folio.free() }
    }
    index.publish(zone, 1, Order::ZERO);
    stay
}

/// Plays one call again and again; its arena goes at the first place where the call takes a lock or
/// lets go of one, then at the second, and so on, and another arena has all its memory in use.
fn arena_goes_everywhere_in(call: impl Fn(&'static Zone<Swept>, &Index<Swept>) -> Got) {
    let mut places = 0;
    loop {
        let mut arena = Some(Arena::<Swept>::with_huge_order(8 << 20, &[], order(11)).unwrap());
        let zone = arena.as_ref().unwrap().zone();
        let index = Rc::new(Index::<Swept>::new(2));
        let stay = furnish(zone, &index);
        let (put, second) = shared();
        let mut left = places;
        hook(move || {
            if left > 0 {
                left -= 1;
                return false;
            }
            drop(arena.take());
            let again = Arena::<Swept>::new(8 << 20, &[]).unwrap();
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
        drop(stay);
        drop(all);
        assert_all_free(again.zone());
        drop(again);
        assert_retired(zone);
    }
    assert!(places > 0, "the call takes no lock");
}

fn folio(got: Option<FrozenFolio<Swept>>) -> Got {
    got.map_or(Got::Nothing, |folio| Got::Folios(vec![folio]))
}

#[test]
fn an_arena_may_go_anywhere_in_an_allocation() {
    for n in [0, 3, 4, 9, 10, 11] {
        arena_goes_everywhere_in(|zone, _| folio(zone.alloc_frozen(order(n)).ok()));
    }
    arena_goes_everywhere_in(|zone, _| {
        folio(zone.alloc_frozen_up_to(order(10), MigrateType::Movable).ok())
    });
}

#[test]
fn an_arena_may_go_anywhere_in_alloc_contig() {
    arena_goes_everywhere_in(|zone, index| match zone.alloc_contig(700, order(2), index) {
        Ok(contig) => Got::Folios(contig.into_folios().collect()),
        Err(_) => Got::Nothing,
    });
    arena_goes_everywhere_in(|zone, index| {
        let start = index.0[1].pfn(zone).unwrap();
        let range = PfnRange { start, end: Pfn::new(start.as_u64() + 1) };
        match zone.alloc_contig_range(range, index) {
            Ok(contig) => Got::Folios(contig.into_folios().collect()),
            Err(_) => Got::Nothing,
        }
    });
}

#[test]
fn an_arena_may_go_anywhere_in_a_compaction() {
    arena_goes_everywhere_in(|zone, index| {
        zone.compact(4, index);
        Got::Nothing
    });
}

#[test]
fn an_arena_may_go_anywhere_in_a_migration() {
    arena_goes_everywhere_in(|zone, index| {
        _ = migrate(zone, index.0[0].pfn(zone).unwrap(), index);
        Got::Nothing
    });
}

#[test]
fn an_arena_may_go_anywhere_while_a_block_goes_offline() {
    for block in 0..4 {
        arena_goes_everywhere_in(move |zone, index| {
            _ = zone.offline(block, index);
            Got::Nothing
        });
    }
}

#[test]
fn an_arena_may_go_anywhere_in_a_drain_and_a_report() {
    arena_goes_everywhere_in(|zone, _| {
        zone.drain();
        zone.stats();
        zone.counters();
        zone.assert_sound();
        Got::Nothing
    });
}
