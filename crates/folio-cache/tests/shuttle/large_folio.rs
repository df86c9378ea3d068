//! Large folios under the schedules of shuttle.

use folio_frames::FRAME_SIZE;
use folio_ref::testing::explore::{Search, deeper, explore, race};
use folio_ref::testing::stepped::step;

use crate::{RANDOM, WEAK, World, read};

/// Four pages are one folio. One thread pins a range of it, one writes to a page of it, and one
/// reclaims or takes a page handle. The range has the bytes that the file held when it was taken,
/// and keeps them.
fn subpages_against_a_writer(search: Search, reclaim: bool) {
    let others = if reclaim { "reclaim" } else { "a page handle" };
    explore(
        &format!("a range of a large folio against a writer and {others}"),
        search,
        move || {
            let world = World::new(4);
            assert_eq!(read::<{ 4 * FRAME_SIZE }>(&world.file, 0).0, 4 * FRAME_SIZE);
            let cache = world.cache.clone();
            let third: Box<dyn FnOnce() + Send> = if reclaim {
                Box::new(move || assert!(cache.reclaim(4) <= 4))
            } else {
                world.thread(|file| {
                    let page = file.page(2 * FRAME_SIZE as u64).unwrap().unwrap();
                    assert_eq!(*page, [3; FRAME_SIZE]);
                })
            };
            race(vec![
                world.thread(|file| {
                    let range = file.range(FRAME_SIZE as u64, 3 * FRAME_SIZE).unwrap();
                    let sample = || {
                        let bytes = range.chunks().collect::<Vec<_>>().concat();
                        [0, 1, 2]
                            .map(|page| (bytes[page * FRAME_SIZE], bytes[page * FRAME_SIZE + 99]))
                    };
                    let seen = sample();
                    assert!(matches!(seen, [(2 | 9, 2), (3, 3), (4, 4)]), "{seen:?}");
                    step();
                    assert_eq!(sample(), seen, "a pinned range changed");
                }),
                world.thread(|file| {
                    assert_eq!(file.write_at(&[9; 64], FRAME_SIZE as u64).unwrap(), 64);
                }),
                third,
            ]);
            let (_, bytes) = read::<{ 4 * FRAME_SIZE }>(&world.file, 0);
            let expected =
                (1..=4).map(|page: usize| (if page == 2 { 9 } else { page as u8 }, page as u8));
            assert!(
                expected
                    .eq((0..4)
                        .map(|page| (bytes[page * FRAME_SIZE], bytes[page * FRAME_SIZE + 99])))
            );
            world.end();
        },
    );
}

#[test]
fn a_range_keeps_its_bytes_while_its_folio_is_split() {
    for reclaim in [false, true] {
        subpages_against_a_writer(deeper(1), reclaim);
        subpages_against_a_writer(RANDOM, reclaim);
        subpages_against_a_writer(WEAK, reclaim);
    }
}
