//! The cache against the plain contents of its files: reads, handles, reclaim, migration, offline,
//! files that change, a file that is written through it.
//!
//! Not covered: two threads; a file that another program rewrites in place without a revalidation.

#![no_main]

mod files;
mod steps;
mod written;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|steps: Vec<steps::Step>| steps::run(&steps));
