//! A long random sequence of all operations against a naive model, with counts compared after each.
//!
//! The model knows no orders and no lists: it is a map of free ranges. Its verdict is sharp all the
//! same: an allocation may fail only if no aligned place is free.
//!
//! `MODEL_STEPS` sets the length, `MODEL_SEED` repeats a run. Not covered: two threads.

#[path = "../common/mod.rs"]
mod common;
mod free_ranges;
mod world;

use world::World;

/// Steps in an ordinary test run.
const STEPS: u64 = 1_000_000;

/// Steps between two audits.
const AUDIT: u64 = 5_000;

fn from_environment(name: &str) -> Option<u64> {
    std::env::var(name)
        .ok()
        .map(|text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")))
}

#[test]
fn a_million_operations_agree_with_a_map_of_free_ranges() {
    let steps = from_environment("MODEL_STEPS").unwrap_or(STEPS);
    let seed = from_environment("MODEL_SEED").unwrap_or_else(|| fastrand::u64(..));
    println!("MODEL_SEED={seed}");
    let mut world = World::new(seed);
    for step in 0..steps {
        world.step();
        world.compare_counts();
        if step % AUDIT == 0 {
            world.audit();
        }
    }
    println!("{:#?}", world.done());
    world.end();
}
