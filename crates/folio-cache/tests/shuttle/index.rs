//! Leaves of the index that are closed and opened, under the schedules of shuttle. Leaves are
//! small here: pages 508 to 511 have one.

use std::sync::Arc;

use folio_cache::testing::Memory;
use folio_frames::FRAME_SIZE;
use folio_ref::testing::explore::{Search, deeper, explore, race};

use crate::{LAST, RANDOM, World, read};

/// The page before [`LAST`], which has its slot in the same leaf.
const BEFORE: u64 = LAST - FRAME_SIZE as u64;

/// A world with two pages that share a leaf: the first of 1, the second of 2.
fn two_pages() -> World {
    World::at(BEFORE, &[[1; FRAME_SIZE], [2; FRAME_SIZE]].concat())
}

/// A page is copied while it is evicted, its leaf closed and opened again, and the page read again
/// with other bytes. The reader gets the old ones or the new ones.
///
/// Seeded bug: `leaf-version-forgotten`.
fn reader_against_a_new_life_of_the_leaf(search: Search) {
    explore("a reader against a leaf that is opened again", search, || {
        let world = World::at(LAST, &[1; FRAME_SIZE]);
        assert_eq!(read::<64>(&world.file, LAST), (64, [1; 64]));
        let (cache, backing) = (world.cache.clone(), Arc::clone(&world.backing));
        race(vec![
            world.thread(|file| {
                let (n, bytes) = read::<64>(file, LAST + 8);
                assert!(n == 64 && (bytes == [1; 64] || bytes == [9; 64]), "mixed: {bytes:?}");
            }),
            world.thread(move |file| {
                cache.reclaim(1);
                backing.scribble(LAST, &[9; FRAME_SIZE]);
                let (n, bytes) = read::<64>(file, LAST + 8);
                assert!(n == 64 && (bytes == [1; 64] || bytes == [9; 64]), "mixed: {bytes:?}");
            }),
        ]);
        world.end();
    });
}

#[test]
fn a_copy_never_spans_two_lives_of_a_leaf() {
    reader_against_a_new_life_of_the_leaf(deeper(2));
    reader_against_a_new_life_of_the_leaf(RANDOM);
}

/// One page leaves its leaf while another one comes, which two threads read: one of them sleeps.
///
/// Seeded bugs: `leaf-closed-in-use`, `closed-slot-filled`.
fn fill_against_close(search: Search) {
    explore("a fill against the close of its leaf", search, || {
        let world = two_pages();
        world.cache.set_io_threads(0);
        assert_eq!(read::<64>(&world.file, BEFORE), (64, [1; 64]));
        let cache = world.cache.clone();
        let reader = |file: &folio_cache::File| {
            assert_eq!(read::<2048>(file, LAST), (2048, [2; 2048]));
        };
        race(vec![
            world.thread(reader),
            world.thread(reader),
            Box::new(move || {
                cache.reclaim(1);
            }),
        ]);
        assert_eq!(read::<64>(&world.file, LAST), (64, [2; 64]));
        assert_eq!(read::<64>(&world.file, BEFORE), (64, [1; 64]));
        world.end();
    });
}

#[test]
fn a_leaf_with_a_page_or_a_sleeper_stays_open() {
    fill_against_close(deeper(1));
    fill_against_close(RANDOM);
}

/// A page is written into a leaf while its only other page leaves. The write stays.
///
/// Seeded bugs: `leaf-closed-in-use`, `closed-slot-filled`.
fn write_against_close(search: Search) {
    explore("a write against the close of its leaf", search, || {
        let world = two_pages();
        world.cache.set_io_threads(0);
        assert_eq!(read::<64>(&world.file, BEFORE), (64, [1; 64]));
        let cache = world.cache.clone();
        race(vec![
            world.thread(|file| {
                assert_eq!(file.write_at(&[7; FRAME_SIZE], LAST).unwrap(), FRAME_SIZE);
            }),
            Box::new(move || {
                cache.reclaim(1);
            }),
        ]);
        assert_eq!(read::<64>(&world.file, LAST), (64, [7; 64]));
        world.file.sync_data().unwrap();
        assert_eq!(world.backing.contents()[LAST as usize..], [7; FRAME_SIZE]);
        world.end();
    });
}

#[test]
fn a_write_into_a_leaf_that_closes_is_not_lost() {
    write_against_close(deeper(1));
    write_against_close(RANDOM);
}

/// A truncation closes a leaf while a page behind the new end is read, and the file grows again.
fn truncation_against_fill(search: Search) {
    explore("a truncation against a fill in its leaf", search, || {
        let world = two_pages();
        world.cache.set_io_threads(0);
        race(vec![
            world.thread(|file| {
                let (n, bytes) = read::<64>(file, LAST);
                assert!(n == 0 || bytes == [2; 64] || bytes == [0; 64], "{n}: {bytes:?}");
            }),
            world.thread(|file| file.set_len(LAST - 100).unwrap()),
        ]);
        world.file.set_len(LAST + 64).unwrap();
        assert_eq!(read::<64>(&world.file, LAST), (64, [0; 64]));
        world.end();
    });
}

#[test]
fn no_page_stays_behind_a_truncation() {
    truncation_against_fill(deeper(1));
    truncation_against_fill(RANDOM);
}

/// The backing of a closed file, and with it its leaves, are gone while those of another stay.
#[test]
fn leaves_of_two_files_have_addresses_of_their_own() {
    explore("two files that open leaves at once", RANDOM, || {
        let world = World::at(LAST, &[1; FRAME_SIZE]);
        let other = Arc::new(Memory::new(&[]));
        other.scribble(LAST, &[3; FRAME_SIZE]);
        let cache = world.cache.clone();
        race(vec![
            world.thread(|file| assert_eq!(read::<64>(file, LAST), (64, [1; 64]))),
            Box::new(move || {
                let file = cache.open_backing(other).unwrap();
                assert_eq!(read::<64>(&file, LAST), (64, [3; 64]));
            }),
        ]);
        assert_eq!(read::<64>(&world.file, LAST), (64, [1; 64]));
        world.end();
    });
}
