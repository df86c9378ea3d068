//! `cargo x integrations`: checks `integrations/`, the workspace of the engines over folio.
//!
//! Its builds lie in a folder of their own below the folder of builds.

use std::process::Command;

use crate::step::{self, Failure, cargo, no_arguments, root, target_dir};

pub(crate) fn run(arguments: &[String]) -> Result<(), Failure> {
    no_arguments("integrations", arguments)?;
    step::run("format of the integrations", &mut inside("fmt --all --check"))?;
    step::run("clippy on the integrations", &mut inside("clippy --all-targets -- -D warnings"))?;
    step::run(
        "docs of the integrations",
        inside("doc --no-deps").env("RUSTDOCFLAGS", "-Dwarnings"),
    )?;
    step::run("tests of the integrations", &mut inside("test --quiet"))
}

/// Returns cargo in that workspace, which is for its default members if none is named.
pub(crate) fn inside(arguments: &str) -> Command {
    let mut command = cargo(arguments);
    command
        .current_dir(root().join("integrations"))
        .env("CARGO_TARGET_DIR", target_dir().join("integrations"));
    command
}
