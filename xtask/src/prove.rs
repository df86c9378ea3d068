//! `cargo x prove`: shows the rules by model checkers. A tool that is missing is skipped with a
//! message.

use std::fs;
use std::process::Command;

use crate::lint::WITH_FEATURES;
use crate::models;
use crate::step::{self, Failure, cargo, checker, nightly, root, succeeds, target_dir};
use crate::table;

const NO_SPIN: &str = "spin and gcc are missing, and 'apt-get install spin gcc' failed";

/// Cargo's arguments for shuttle's tests of the frames and the cache.
pub(crate) const SHUTTLE: &str =
    "test --release -p folio-frames -p folio-cache --test shuttle --test weak";

pub(crate) fn run(arguments: &[String]) -> Result<(), Failure> {
    let known = ["--all", "--save", "--table"];
    if let [option, name] = arguments
        && option == "--model"
    {
        return if models::available() {
            models::only(name)
        } else {
            Err(Failure::Failed(NO_SPIN.to_owned()))
        };
    }
    if let Some(unknown) = arguments.iter().find(|word| !known.contains(&word.as_str())) {
        let all = known.join(", ");
        return Err(Failure::Usage(format!(
            "prove has no option '{unknown}'; there are {all}, and --model NAME"
        )));
    }
    let has = |option: &str| arguments.iter().any(|word| word == option);
    if has("--table") {
        let report = table::run()?;
        return if has("--save") { save_table(&report) } else { Ok(()) };
    }
    if models::available() {
        eprintln!("── models, by SPIN");
        let report = models::run(has("--all"))?;
        if has("--save") {
            save(&report, has("--all"))?;
        }
    } else {
        eprintln!("SKIPPED: the models: {NO_SPIN}");
    }
    invariant()?;
    let seeing = format!("{WITH_FEATURES} --test observability --test metrics");
    step::run("the statistics and metrics of the cache, with all features", &mut cargo(&seeing))?;
    let word = "test --release -p folio-ref --test loom --test frame_table";
    step::run("every interleaving of the word, by loom", &mut checker("loom", word))?;
    let mut larger = checker("shuttle", SHUTTLE);
    if has("--all") {
        larger.env("DEEP", "1");
    }
    step::run("larger schedules of the frames and the cache, by shuttle", &mut larger)?;
    let memory = "test --release -p folio-ref --test memory";
    step::run(
        "the weak memory of those tests, by small programs",
        &mut checker("shuttle", memory),
    )?;
    miri(if has("--all") { 64 } else { 8 })?;
    if has("--all") { crate::tsan::run(&[]) } else { Ok(()) }
}

/// Returns `true` if Miri is there. Installs it if it is not.
pub(crate) fn has_miri() -> bool {
    let is_there = || succeeds(&mut nightly("run nightly cargo miri --version"));
    let install =
        "toolchain install nightly --profile minimal --component miri --component rust-src";
    is_there() || succeeds(&mut nightly(install)) && is_there()
}

/// Runs Miri over the word and the frames, one schedule for each seed.
fn miri(seeds: u32) -> Result<(), Failure> {
    if !has_miri() {
        eprintln!("SKIPPED: Miri: it is missing and 'rustup toolchain install nightly' failed");
        return Ok(());
    }
    let target = target_dir().join("miri");
    let word = "run nightly cargo miri test -p folio-ref --test transitions";
    step::run("the word, by Miri", nightly(word).env("CARGO_TARGET_DIR", &target))?;
    // A schedule of the guest takes a minute.
    for (name, test, seeds) in
        [("the frames", "racing", seeds), ("a guest's memory", "guest_memory", seeds / 8)]
    {
        let frames = format!("run nightly cargo miri test -p folio-frames --test {test}");
        // Zones live forever on purpose, so their memory is no leak.
        let flags =
            format!("-Zmiri-ignore-leaks -Zmiri-disable-isolation -Zmiri-many-seeds=0..{seeds}");
        step::run(
            &format!("{name}, by Miri"),
            nightly(&frames).env("CARGO_TARGET_DIR", &target).env("MIRIFLAGS", flags),
        )?;
    }
    Ok(())
}

/// Proves the invariant for any number of threads, by z3. Its Python package is installed from
/// `PyPI` if it is missing.
fn invariant() -> Result<(), Failure> {
    let packages = target_dir().join("python");
    let script = root().join("models/invariant.py");
    let python = || {
        let mut command = Command::new("python3");
        command.env("PYTHONPATH", &packages);
        command
    };
    let there = || succeeds(python().args(["-c", "import z3"]));
    if !there() {
        succeeds(
            python()
                .args(["-m", "pip", "install", "--quiet", "z3-solver", "--target"])
                .arg(&packages),
        );
    }
    if there() {
        return step::run("the invariant for any number of threads, by z3", python().arg(script));
    }
    eprintln!("SKIPPED: the invariant: python3 has no z3, and 'pip install z3-solver' failed");
    Ok(())
}

fn save(report: &str, all: bool) -> Result<(), Failure> {
    let option = if all { " --all" } else { "" };
    let text = format!(
        "# Models\n\n\
         Written by `cargo x prove{option} --save`: every interleaving of each configuration, by\n\
         SPIN 6.5. The model is `models/frame.pml`, in which the first process always holds a\n\
         reference in the frame's first life, or the one that the first flag names.\n\n{report}"
    );
    fs::write(root().join("results/models.md"), text)
        .map_err(|error| Failure::Failed(format!("results/models.md: {error}")))
}

fn save_table(report: &str) -> Result<(), Failure> {
    let text = format!(
        "# The table\n\n\
         Written by `cargo x prove --table --save`, {}: the\n\
         command that shows each rule, and each promise beside the rules (docs/proof.md), cell by\n\
         cell, and whether it passed.\n\n{report}",
        step::commit_and_day()
    );
    fs::write(root().join("results/table.md"), text)
        .map_err(|error| Failure::Failed(format!("results/table.md: {error}")))
}
