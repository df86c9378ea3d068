//! One zone against a list of who has which frames: allocation, folios, slots, migration, offline,
//! walks.
//!
//! What this can not see: two threads.

#![no_main]

mod model;
mod steps;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|steps: Vec<steps::Step>| steps::run(&steps));
