//! `cargo x lint`: the checks that need no run of the programs.

use crate::step::{self, Failure, cargo, has_target, is_installed, root, succeeds, target_dir};

/// A target without std: a crate that builds for it is truly `no_std`.
const BARE: &str = "x86_64-unknown-none";

/// The other target of the bare-metal example.
const BARE_ARM: &str = "aarch64-unknown-none";

/// Targets without atomics of 64 bits: the word is there, without the schemes of that width.
const NARROW: [&str; 2] = ["riscv32imac-unknown-none-elf", "thumbv7em-none-eabi"];

/// The features of folio-cache that no other crate turns on.
const FEATURES: &str = "--features metrics,hits,track";

/// Cargo's arguments for tests with these features. All of them run in one build: `cargo x prove`
/// has those of the statistics and metrics.
pub(crate) const WITH_FEATURES: &str = "test --quiet -p folio-frames -p folio-cache --features \
     folio-frames/track,folio-cache/track,folio-cache/metrics,folio-cache/hits";

const LIBRARIES: &str = "-p folio-ref -p folio-frames -p folio-uring -p folio-cache";

pub(crate) fn run(arguments: &[String]) -> Result<(), Failure> {
    let tests = match arguments {
        [] => true,
        [option] if option == "--no-tests" => false,
        _ => return Err(Failure::Usage("lint takes nothing, or --no-tests".to_owned())),
    };
    step::run("format", &mut cargo("fmt --all --check"))?;
    step::run("clippy", &mut cargo("clippy --workspace --all-targets -- -D warnings"))?;
    step::run(
        "clippy on folio-cache's features",
        &mut cargo(&format!("clippy -p folio-cache --all-targets {FEATURES} -- -D warnings")),
    )?;
    step::run(
        "pin owners of frames and pages",
        &mut cargo(&format!("{WITH_FEATURES} --test pin_owners")),
    )?;
    step::run("docs", cargo("doc --workspace --no-deps").env("RUSTDOCFLAGS", "-Dwarnings"))?;
    step::run(
        "docs of the libraries with all features",
        cargo(&format!("doc --no-deps --all-features {LIBRARIES}"))
            .env("RUSTDOCFLAGS", "-Dwarnings"),
    )?;
    build_without_std()?;
    narrow_targets()?;
    bare_metal()?;
    fuzzers()?;
    // `cargo test --workspace` runs them as well.
    if tests { step::run("house rules", &mut cargo("test --quiet -p xtask")) } else { Ok(()) }
}

fn build_without_std() -> Result<(), Failure> {
    if has_target(BARE) {
        let mut build = cargo(&format!("build -p folio-ref -p folio-frames --target {BARE}"));
        return step::run("the two lower crates without std", &mut build);
    }
    eprintln!(
        "SKIPPED: the build for {BARE}: the target is missing and 'rustup target add' failed"
    );
    step::run(
        "the two lower crates for this machine instead",
        &mut cargo("check -p folio-ref -p folio-frames"),
    )
}

/// Checks the word for processors without atomics of 64 bits.
fn narrow_targets() -> Result<(), Failure> {
    for target in NARROW {
        if has_target(target) {
            let mut check = cargo(&format!("check -p folio-ref --target {target}"));
            step::run(&format!("the word without atomics of 64 bits, {target}"), &mut check)?;
        } else {
            eprintln!(
                "SKIPPED: the word for {target}: the target is missing and 'rustup target add' \
                 failed"
            );
        }
    }
    Ok(())
}

/// Checks the fuzzers, which are a workspace of their own. A check needs neither nightly nor a C++
/// compiler, unlike a build.
fn fuzzers() -> Result<(), Failure> {
    let inside = |arguments: &str| {
        let mut command = cargo(&format!("{arguments} --manifest-path fuzz/Cargo.toml"));
        // A check does not link: any file may stand for libfuzzer, and no C++ is compiled.
        command
            .env("CARGO_TARGET_DIR", target_dir())
            .env("CUSTOM_LIBFUZZER_PATH", root().join("fuzz/Cargo.toml"));
        command
    };
    step::run("format of the fuzzers", inside("fmt").arg("--check"))?;
    if !succeeds(&mut inside("fetch")) {
        eprintln!("SKIPPED: the check of the fuzzers: their dependencies could not be fetched");
        return Ok(());
    }
    step::run("check of the fuzzers", &mut inside("check"))
}

/// Checks the bare-metal example, which is no member, with its own folder's settings.
fn bare_metal() -> Result<(), Failure> {
    let inside = |arguments: &str| {
        let mut command = cargo(arguments);
        command
            .current_dir(root().join("examples/bare-metal"))
            .env_remove("CARGO_TARGET_DIR")
            .env_remove("RUSTFLAGS");
        command
    };
    step::run("format of the bare-metal example", &mut inside("fmt --check"))?;
    for target in [BARE, BARE_ARM].into_iter().filter(|target| is_installed(target)) {
        step::run(
            &format!("clippy on the bare-metal example for {target}"),
            &mut inside(&format!("clippy --release --target {target} -- -D warnings")),
        )?;
    }
    Ok(())
}
