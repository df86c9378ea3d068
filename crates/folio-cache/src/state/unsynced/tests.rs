//! The sets, exact and vague, and those of closed files.

use super::*;

fn room(ranges: &AtomicUsize, most: usize) -> Room<'_> {
    Room { ranges, most }
}

#[test]
fn a_bounded_number_of_closed_files_is_remembered() {
    let ranges = AtomicUsize::new(0);
    let room = room(&ranges, 1 << 20);
    let key = |n: usize| Key::new("test", n.to_le_bytes());
    let left = || {
        let unsynced = Unsynced::default();
        unsynced.wrote(&(0..1), room);
        unsynced.take(room).unwrap()
    };
    let mut all = Left::default();
    for n in 0..MAX_LEFT + 10 {
        all.insert(key(n), left(), room);
        // One that is opened and closed again and again stays, and pushes no other out.
        all.insert(key(0), left(), room);
    }
    assert_eq!((all.files.len(), all.order.len()), (MAX_LEFT, MAX_LEFT));
    assert_eq!(ranges.load(Ordering::Relaxed), MAX_LEFT);
    assert!(all.take(&key(1)).is_none() && all.take(&key(0)).is_some());
    assert!(all.take(&key(MAX_LEFT + 9)).is_some());
}

#[test]
fn too_many_ranges_become_vague_and_then_lost() {
    let ranges = AtomicUsize::new(0);
    let room = room(&ranges, 100);
    let unsynced = Unsynced::default();
    let page = |n: u32| bytes_of(2 * n);
    for n in 0..200 {
        unsynced.wrote(&page(n), room);
        unsynced.evict(2 * n, || room);
    }
    assert!(ranges.load(Ordering::Relaxed) <= 100);
    unsynced.begin_sync();
    let mut asked = Vec::new();
    unsynced.failed(room, |page| {
        asked.push(page);
        true
    });
    // What is known exactly had left, and the rest is not touched.
    assert!(asked.is_empty(), "{asked:?}");
    assert!(unsynced.lost_bytes() >= 200 * FRAME_SIZE as u64);
    unsynced.check().unwrap_err();
    // Another sync can only say so again. One file that gives all up gives its ranges back.
    unsynced.forget_lost(room);
    unsynced.check().unwrap();
    assert_eq!(ranges.load(Ordering::Relaxed), unsynced.sets.lock().counted);
    unsynced.forget(&(0..u64::MAX));
    assert!(unsynced.take(room).is_none());
    assert_eq!(ranges.load(Ordering::Relaxed), 0);
}

/// While a failed sync is noted, other threads evict, and other files take the room.
#[test]
fn pages_that_leave_while_a_sync_fails_are_lost() {
    let ranges = AtomicUsize::new(0);
    let rooms = [1000, 0].map(|most| room(&ranges, most));
    let unsynced = Unsynced::default();
    (0..200).for_each(|n| unsynced.wrote(&bytes_of(2 * n), rooms[0]));
    unsynced.begin_sync();
    unsynced.failed(rooms[1], |page| {
        (page..400).for_each(|page| unsynced.evict(page, || rooms[1]));
        unsynced.evict_tracked(bytes_of(page), rooms[1]);
        false
    });
    // Merged at the end, as there is no room.
    assert!(unsynced.lost_bytes() >= 200 * FRAME_SIZE as u64);
    assert!((0..200).all(|n| !unsynced.sets.lock().lost.within(&bytes_of(2 * n)).is_empty()));
    unsynced.begin_sync();
    unsynced.synced(rooms[1]);
    unsynced.check().unwrap_err();
}

#[test]
fn a_good_sync_forgets_what_is_vague_too() {
    let ranges = AtomicUsize::new(0);
    let room = room(&ranges, 100);
    let unsynced = Unsynced::default();
    (0..200).for_each(|n| unsynced.wrote(&bytes_of(2 * n), room));
    unsynced.begin_sync();
    unsynced.wrote(&bytes_of(7), room);
    unsynced.synced(room);
    unsynced.begin_sync();
    let mut asked = Vec::new();
    unsynced.failed(room, |page| {
        asked.push(page);
        true
    });
    assert_eq!((asked, unsynced.lost_bytes()), (vec![7], 0));
}
