//! The page table under schedules that shuttle chooses: pins beside forks, unmaps and migrations.

use std::sync::{Arc, Mutex};

use folio_frames::{Arena, FRAME_SIZE, MigrateError, UserSpace, migrate};
use folio_ref::testing::explore::{Search, deeper, explore, race};

use super::{Pin, World};
use crate::common::assert_all_free;

const WEAK: Search = Search::Weak { preemptions: 2, old: 2 };
const BY_CHANCE: Search = Search::Pct { depth: 4, executions: 3_000, seed: 1 };

/// Runs `case` in each schedule, with two address spaces. Place 0 of the first has a page of ones.
fn with_spaces(name: &str, search: Search, case: impl Fn(&Arc<World>) + Send + Sync + 'static) {
    let arena = Arena::<UserSpace>::new(2 << 20, &[]).expect("memory for a test");
    explore(name, search, move || {
        let zone = arena.zone();
        let world = Arc::new(World::new(zone, 2));
        assert!(world.map(0, 0, &[1; FRAME_SIZE]));
        case(&world);
        for (space, place) in [(0, 0), (0, 1), (1, 0)] {
            world.unmap(space, place);
        }
        drop(Arc::into_inner(world).expect("the threads have ended"));
        assert_all_free(zone);
    });
}

fn thread(
    world: &Arc<World>,
    act: impl FnOnce(&World) + Send + 'static,
) -> Box<dyn FnOnce() + Send> {
    let world = Arc::clone(world);
    Box::new(move || act(&world))
}

/// A thread that pins the page at place 0, and writes to it as a device does. Its pin stays.
fn device(world: &Arc<World>) -> (Arc<Mutex<Option<Pin>>>, Box<dyn FnOnce() + Send>) {
    let pinned = Arc::new(Mutex::new(None));
    let kept = Arc::clone(&pinned);
    let act = move |world: &World| {
        if let Some(pin) = world.pin(0, 0) {
            pin.page.write(100, &[7]);
            *kept.lock().unwrap() = Some(pin);
        }
    };
    (pinned, thread(world, act))
}

/// Returns a byte of the page at place 0 of a space.
fn byte(world: &World, space: usize, at: usize) -> u8 {
    let mut byte = [0];
    assert!(world.read(space, 0, at, &mut byte));
    byte[0]
}

/// The parent forks and writes while a device pins its page.
fn fork_against_pin(search: Search) {
    with_spaces("fork against pin", search, |world| {
        let (pinned, device) = device(world);
        let parent = thread(world, |world| {
            world.fork(0, 1, 1);
            assert!(world.write(0, 0, 0, &[9]));
        });
        race(vec![device, parent]);
        assert_eq!((byte(world, 0, 0), byte(world, 1, 0)), (9, 1), "a write reached the child");
        if let Some(pin) = pinned.lock().unwrap().take() {
            assert_eq!(byte(world, 0, 100), 7, "the pinned page is not the parent's any more");
            let mut seen = [0];
            pin.page.read(0, &mut seen);
            assert_eq!(seen, [9]);
        }
    });
}

#[test]
fn a_pinned_page_stays_the_parents() {
    fork_against_pin(deeper(2));
    fork_against_pin(WEAK);
}

/// A page is unmapped, and its frame is mapped at another place, while a thread pins it.
fn unmap_against_pin(search: Search) {
    with_spaces("unmap against pin", search, |world| {
        race(vec![
            thread(world, |world| {
                if let Some(pin) = world.pin(0, 0) {
                    let mut seen = [0; 2];
                    pin.page.read(0, &mut seen);
                    assert_eq!(seen, [1; 2], "the page of another place was pinned (R8)");
                }
            }),
            thread(world, |world| {
                assert!(world.unmap(0, 0));
                assert!(world.map(0, 1, &[2; FRAME_SIZE]));
            }),
        ]);
    });
}

#[test]
fn a_pin_gets_the_page_of_its_entry() {
    unmap_against_pin(deeper(2));
    unmap_against_pin(WEAK);
}

/// A shared page migrates while one of its spaces writes, and a device pins it.
fn migrate_against_write_and_pin(search: Search) {
    with_spaces("migrate against write and pin", search, |world| {
        let pfn = world.frame_of(0, 0);
        let (pinned, device) = device(world);
        let writer = thread(world, |world| assert!(world.write(0, 0, 0, &[9])));
        let mover = thread(world, move |world| {
            let result = migrate(world.zone, pfn, world);
            assert!(
                matches!(result, Ok(_) | Err(MigrateError::Busy | MigrateError::NotMovable)),
                "{result:?}"
            );
        });
        race(vec![device, writer, mover]);
        assert_eq!((byte(world, 0, 0), byte(world, 0, 1)), (9, 1));
        let was_pinned = pinned.lock().unwrap().take().is_some();
        assert_eq!(byte(world, 0, 100), if was_pinned { 7 } else { 1 });
    });
}

/// Two threads move a page that two spaces share.
fn migrate_against_migrate(search: Search) {
    with_spaces("migrate against migrate", search, |world| {
        world.fork(0, 1, 1);
        let pfn = world.frame_of(0, 0);
        let movers = (0..2).map(|_| {
            thread(world, move |world| match migrate(world.zone, pfn, world) {
                Ok(_) | Err(MigrateError::Busy | MigrateError::NotMovable) => {}
                Err(error) => panic!("{error:?}"),
            })
        });
        race(movers.collect());
        assert_eq!(world.frame_of(0, 0), world.frame_of(1, 0), "the spaces share the page");
        assert_eq!((byte(world, 0, 0), byte(world, 1, FRAME_SIZE - 1)), (1, 1));
    });
}

#[test]
fn two_migrations_of_a_page_keep_its_entries() {
    migrate_against_migrate(deeper(2));
}

#[test]
fn a_migration_beside_a_pin_loses_no_write() {
    migrate_against_write_and_pin(deeper(1));
    migrate_against_write_and_pin(BY_CHANCE);
}
