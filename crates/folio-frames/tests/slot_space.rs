//! Ranges of slots: leaves that are closed have no memory and take no folio.

use std::sync::Barrier;
use std::thread;

use folio_frames::{Arena, FRAME_SIZE, Lookup, Order, SlotRange, SlotSpace, UserSpace, Zone};

const LEAF: usize = SlotRange::<UserSpace>::LEAF;

fn install(zone: &'static Zone<UserSpace>, range: &SlotRange<UserSpace>, slot: usize) -> bool {
    let folio = zone.alloc_frozen(Order::ZERO).unwrap();
    match range.get(slot).unwrap().install(folio) {
        Ok(frozen) => {
            frozen.publish();
            true
        }
        Err(folio) => {
            folio.free();
            false
        }
    }
}

fn remove(zone: &'static Zone<UserSpace>, range: &SlotRange<UserSpace>, slot: usize) {
    drop(range.get(slot).unwrap().try_lock(zone).unwrap().remove());
}

/// Returns the memory of the process in bytes.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * FRAME_SIZE
}

#[test]
fn a_closed_slot_is_empty_and_takes_no_folio() {
    let arena = Arena::<UserSpace>::new(2 << 20, &[]).unwrap();
    let zone = arena.zone();
    let space = SlotSpace::<UserSpace>::new();
    let range = space.reserve(3 * LEAF).unwrap();
    assert_eq!(range.len(), 4 * LEAF, "a power of two");
    assert!(range.get(range.len()).is_none());
    let slot = range.get(LEAF + 5).unwrap();
    let is_closed = || {
        slot.is_closed()
            && slot.is_empty()
            && slot.try_lock(zone).is_none()
            && matches!(slot.get(zone), Lookup::Empty)
            && !install(zone, &range, LEAF + 5)
    };
    assert!(is_closed());
    slot.wait();

    range.lock().open(1, 77);
    assert_eq!(range.next_open(0..4), Some(1));
    assert_eq!((range.next_open(0..1), range.next_open(2..9)), (None, None));
    assert_eq!(space.next_open(0).unwrap().1, 77);
    assert!(install(zone, &range, LEAF + 5));
    assert!(!range.lock().close(1), "a folio is in it");
    // To open it again changes nothing.
    range.lock().open(1, 78);
    assert!(slot.pfn(zone).is_some());
    let locked = slot.try_lock(zone).unwrap();
    assert!(!range.lock().close(1), "a slot is locked");
    drop(locked);
    remove(zone, &range, LEAF + 5);
    assert!(range.lock().close(1));
    assert!(is_closed());
    assert!(range.lock().close(1), "it is closed already");
    assert_eq!((range.next_open(0..4), space.next_open(0)), (None, None));
}

#[test]
fn a_slot_never_has_an_entry_of_an_earlier_life() {
    let arena = Arena::<UserSpace>::new(2 << 20, &[]).unwrap();
    let zone = arena.zone();
    let range = SlotSpace::<UserSpace>::new().reserve(1).unwrap();
    let map = arena.direct_map();
    for life in 0..10 {
        range.lock().open(0, 0);
        assert!(install(zone, &range, 3));
        let slot = range.get(3).unwrap();
        let frame = slot.pfn(zone).unwrap();
        // The copy lasts into the next life, in which the same frame lies in the slot.
        let copied = slot.read(map, 0, &mut [0; 8], || {
            remove(zone, &range, 3);
            assert!(range.lock().close(0));
            range.lock().open(0, 0);
            assert!(install(zone, &range, 3));
            assert_eq!(slot.pfn(zone), Some(frame), "the test needs the same frame");
            true
        });
        assert!(copied.is_none(), "life {life}");
        remove(zone, &range, 3);
        assert!(range.lock().close(0));
    }
}

#[test]
fn only_open_leaves_are_resident() {
    const LEAVES: usize = 20_000;
    let space = SlotSpace::<UserSpace>::new();
    let range = space.reserve(1 << 32).unwrap();
    let all = range.len() / LEAF;
    let before = resident();
    // Neighbours, which share a table of the system, and leaves that have one each.
    for step in [1, all / LEAVES] {
        for n in 0..LEAVES {
            range.lock().open(n * step, 0);
        }
        let tables = (LEAVES * step).div_ceil(512).min(LEAVES);
        let counted = space.resident_bytes();
        assert!(
            counted.abs_diff((LEAVES + tables) * FRAME_SIZE) <= FRAME_SIZE,
            "{counted} for {LEAVES} leaves and {tables} tables"
        );
        assert!(resident() >= before + LEAVES * FRAME_SIZE / 2, "they are in use");
        for n in 0..LEAVES {
            assert!(range.lock().close(n * step));
        }
        assert_eq!(space.resident_bytes(), 0);
        let left = resident().saturating_sub(before);
        assert!(left < LEAVES * FRAME_SIZE / 2, "{left} bytes are still resident");
    }
}

#[test]
fn closed_leaves_keep_their_memory_within_the_bound() {
    const LEAVES: usize = 800;
    let space = SlotSpace::<UserSpace>::new();
    let range = space.reserve(LEAVES * LEAF).unwrap();
    (0..LEAVES).for_each(|leaf| range.lock().open(leaf, 0));
    let all = space.resident_bytes();
    let mut times_given_back = 0;
    for leaf in 0..LEAVES {
        let (before, bound) = (space.resident_bytes(), space.max_resident_bytes());
        assert!(range.lock().close(leaf));
        let now = space.resident_bytes();
        assert!(now <= bound, "{now} bytes after {leaf}, at most {bound}");
        assert!(space.max_resident_bytes() <= bound);
        times_given_back += usize::from(now < before);
        if leaf < 64 {
            assert_eq!(now, all, "leaf {leaf} waits for others");
        }
    }
    assert!(times_given_back >= LEAVES / 65, "{times_given_back} times");
    assert_eq!(space.resident_bytes(), 0);
}

/// Seeded bug: `spare-leaf-forgotten`.
#[test]
fn a_leaf_that_is_opened_again_keeps_what_it_gets() {
    let arena = Arena::<UserSpace>::new(2 << 20, &[]).unwrap();
    let zone = arena.zone();
    let space = SlotSpace::<UserSpace>::new();
    let range = space.reserve(128 * LEAF).unwrap();
    (0..128).for_each(|leaf| range.lock().open(leaf, 0));
    assert!(range.lock().close(7));
    range.lock().open(7, 0);
    assert!(install(zone, &range, 7 * LEAF + 3));
    let before = space.resident_bytes();
    for leaf in 20..60 {
        assert!(range.lock().close(leaf));
    }
    assert!(space.resident_bytes() < before, "some were given back");
    assert!(range.get(7 * LEAF + 3).unwrap().pfn(zone).is_some());
    remove(zone, &range, 7 * LEAF + 3);
    zone.drain();
    assert_eq!(zone.stats().free_frames, zone.stats().online_frames);
}

#[test]
fn addresses_are_used_again_and_zeroed() {
    let arena = Arena::<UserSpace>::new(4 << 20, &[]).unwrap();
    let zone = arena.zone();
    let space = SlotSpace::<UserSpace>::new();
    let mut addresses = std::collections::BTreeSet::new();
    for round in 0..2000 {
        let range = space.reserve(1 << (9 + round % 8)).unwrap();
        let slot = range.get(LEAF - 1).unwrap();
        assert!(slot.is_closed());
        addresses.insert(std::ptr::from_ref(slot).addr());
        range.lock().open(0, 0);
        // The range is dropped with its leaf open, and at times with a folio, which is lost.
        if round % 100 == 0 {
            assert!(install(zone, &range, LEAF - 1));
        }
    }
    assert!(addresses.len() <= 64, "{} places for one range at a time", addresses.len());
    assert_eq!(space.resident_bytes(), 0);
    assert!(space.reserve(usize::MAX).is_err());
    assert!(space.reserve(1 << 55).is_err());
    assert_eq!(space.reserve(0).unwrap().len(), LEAF);
}

#[test]
fn installs_and_closes_at_once_lose_no_folio() {
    const THREADS: usize = 4;
    let arena = Arena::<UserSpace>::new(8 << 20, &[]).unwrap();
    let zone = arena.zone();
    let space = SlotSpace::<UserSpace>::new();
    let range = space.reserve(2 * LEAF).unwrap();
    let barrier = Barrier::new(THREADS);
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let (range, barrier) = (&range, &barrier);
            scope.spawn(move || {
                barrier.wait();
                for round in 0..2000 {
                    let slot = thread * 13 + round % 2 * LEAF;
                    let leaf = slot / LEAF;
                    while !install(zone, range, slot) {
                        range.lock().open(leaf, 0);
                    }
                    assert!(!range.lock().close(leaf), "it has a folio of this thread");
                    remove(zone, range, slot);
                    range.lock().close(leaf);
                }
            });
        }
    });
    assert!((0..2).all(|leaf| range.lock().close(leaf)));
    zone.drain();
    assert_eq!(zone.stats().free_frames, zone.stats().online_frames);
}
