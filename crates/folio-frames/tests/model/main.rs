//! All operations at once, against a naive model: long random sequences, counts compared after
//! each.
//!
//! The model knows no orders and no lists: it is a map of free ranges. What it can say is sharp all
//! the same: an allocation that fails must have had no aligned free place at all.
//!
//! `MODEL_STEPS` and `MODEL_SEED` choose another length and repeat a run. What this can not see:
//! two threads.

#[path = "../common/mod.rs"]
mod common;
mod free_ranges;
mod world;

use world::World;

/// Steps in an ordinary test run.
const STEPS: u64 = 1_000_000;

/// Steps between two looks at everything.
const AUDIT: u64 = 5_000;

fn from_environment(name: &str) -> Option<u64> {
    std::env::var(name)
        .ok()
        .map(|text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
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
