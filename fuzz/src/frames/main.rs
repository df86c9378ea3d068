//! One zone against a list of the frames in use: allocation, folios, slots, migration, offline,
//! walks.
//!
//! Not covered: two threads.

#![no_main]

mod model;
mod steps;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|steps: Vec<steps::Step>| steps::run(&steps));
