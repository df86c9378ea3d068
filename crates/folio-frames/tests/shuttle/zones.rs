//! Counts of a zone while frames move between its lists, and lookups among several zones while a
//! folio moves from one to another.

use folio_frames::{FrozenFolio, Lookup, Order, Zones, migrate_to};
use folio_ref::DefaultScheme;
use folio_ref::testing::explore::{Search, deeper, explore, race};
use folio_ref::testing::stepped::step;

use crate::common::{OURS, assert_all_free, order, zone_at};
use crate::{BY_CHANCE, Space, WEAK, World};

/// Frames move between the buddy and the lists of a CPU while another thread reads the statistics.
fn stats_against_moves(search: Search) {
    let world = World::<DefaultScheme>::new(&[]);
    explore("stats against moves between buddy and lists", search, move || {
        let zone = world.zone();
        let all = zone.stats().online_frames;
        race(vec![
            world.thread(|world| {
                world.zone().alloc_frozen(Order::ZERO).expect("a free frame").free();
                world.zone().drain();
            }),
            world.thread(move |world| {
                for _ in 0..2 {
                    let free = world.zone().stats().free_frames;
                    assert!((all - 1..=all).contains(&free), "{free} of {all} frames are free");
                    step();
                }
            }),
        ]);
        world.end();
    });
}

#[test]
fn stats_count_each_frame_that_moves_once() {
    stats_against_moves(deeper(1));
    stats_against_moves(BY_CHANCE);
}

/// Two threads need blocks that are whole only once the lists of the CPU are empty. Both may find
/// none, and one of them then finds the lists empty.
fn allocations_against_drains(search: Search) {
    let world = World::<DefaultScheme>::new(&[]);
    explore("allocations that empty the lists at the same time", search, move || {
        let half = || world.zone().alloc_frozen(order(8)).expect("half of the frames");
        for half in [half(), half()] {
            let mut first = half;
            while let Some(smaller) = first.order().as_u8().checked_sub(1) {
                let mut halves = first.split(order(smaller));
                first = halves.next().expect("two halves");
                halves.for_each(FrozenFolio::free);
            }
            first.free();
        }
        let take = || {
            world.thread(|world| {
                world.zone().alloc_frozen(order(8)).expect("half of the frames").free();
            })
        };
        race(vec![take(), take()]);
        world.end();
    });
}

#[test]
fn an_allocation_finds_what_another_thread_merged() {
    allocations_against_drains(deeper(2));
    allocations_against_drains(BY_CHANCE);
}

/// A reader looks a folio up among two zones while another thread moves it from one to the other
/// and back, and a third one replaces it.
fn zones_against_migration(search: Search) {
    static ZONES: Zones<Space, 2> = Zones::new();
    if ZONES.iter().next().is_none() {
        ZONES.insert(zone_at(1 << 20, 1)).expect("an empty table");
        ZONES.insert(zone_at(1 << 21, 1)).expect("another block");
    }
    let [near, far] = [0, 1].map(|n| ZONES.iter().nth(n).expect("two zones"));
    let world = World::<DefaultScheme>::new(&[]);
    explore("lookups among zones against migration", search, move || {
        world.index.publish(near, 7, Order::ZERO);
        race(vec![
            world.thread(|world| {
                let slot = &world.index.0[7];
                loop {
                    match ZONES.get(slot) {
                        Lookup::Hit(folio) => {
                            assert_eq!(folio.as_slice()[..2], [7; 2]);
                            assert_eq!(folio.owner_data(), 7, "the folio of another slot (R8)");
                            break;
                        }
                        Lookup::InProgress => slot.wait(),
                        Lookup::Moved => {}
                        lookup => panic!("the slot is never empty: {lookup:?}"),
                    }
                }
            }),
            world.thread(move |world| {
                for to in [far, near] {
                    if let Some((zone, pfn)) = ZONES.find(&world.index.0[7]) {
                        let _ = migrate_to(zone, pfn, &world.index, to);
                    }
                }
            }),
            world.thread(|world| {
                if let Some(locked) = ZONES.try_lock(&world.index.0[7]) {
                    let mut new = locked.zone().alloc_frozen(Order::ZERO).expect("a free frame");
                    new.set_owner(OURS, 7);
                    new.as_mut_slice().fill(7);
                    drop(locked.replace(new));
                }
            }),
        ]);
        drop(ZONES.try_lock(&world.index.0[7]).expect("a folio").remove());
        assert_all_free(near);
        assert_all_free(far);
    });
}

#[test]
fn a_lookup_among_zones_finds_a_folio_that_moves() {
    zones_against_migration(deeper(1));
    zones_against_migration(BY_CHANCE);
    zones_against_migration(WEAK);
}
