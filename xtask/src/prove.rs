//! `cargo x prove`: loom walks every interleaving of small cases of the word.

use crate::step::{self, Failure, cargo, no_arguments, target_dir};

pub(crate) fn run(arguments: &[String]) -> Result<(), Failure> {
    no_arguments("prove", arguments)?;
    let mut prove = cargo("test --release -p page-ref --test loom");
    prove.env("RUSTFLAGS", "--cfg loom").env("CARGO_TARGET_DIR", target_dir().join("loom"));
    step::run("loom", &mut prove)
}
