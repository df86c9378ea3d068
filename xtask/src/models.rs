//! Checks the models in every interleaving, by SPIN: `models/frame.pml`, and the others where the
//! flags name them. Right variants must hold, broken ones must be refuted.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::model_list::{CONFIGS, Config, Must};
use crate::step::{Failure, root, succeeds, target_dir};

/// Installs SPIN and gcc where that is needed and possible. Returns `true` if they can be run.
pub(crate) fn available() -> bool {
    let there = |program: &str, argument: &str| succeeds(Command::new(program).arg(argument));
    let both = || there("spin", "-V") && there("gcc", "--version");
    if !both() {
        succeeds(Command::new("apt-get").args(["install", "-y", "spin", "gcc"]));
    }
    both()
}

/// Runs the configurations, and prints a line for each as it ends. Returns the report, or fails if
/// an outcome is wrong.
pub(crate) fn run(all: bool) -> Result<String, Failure> {
    explore_all(CONFIGS.iter().filter(|config| all || !config.long))
}

/// Runs the configurations of one name.
pub(crate) fn only(name: &str) -> Result<(), Failure> {
    if CONFIGS.iter().all(|config| config.what != name) {
        return Err(Failure::Usage(format!(
            "there is no model '{name}'; xtask/src/model_list.rs lists them"
        )));
    }
    explore_all(CONFIGS.iter().filter(|config| config.what == name)).map(drop)
}

fn explore_all(configs: impl Iterator<Item = &'static Config>) -> Result<String, Failure> {
    let mut report = String::from(
        "| rules | configuration | must | outcome | states | depth | s |\n\
         | --- | --- | --- | --- | --- | --- | --- |\n",
    );
    let mut wrong = Vec::new();
    for config in configs {
        let outcome = explore(config)?;
        let must = if config.must == Must::Hold { "hold" } else { "be refuted" };
        let found = match &outcome.error {
            Some(error) => error.replace('|', "/"),
            None if outcome.exhausted => "holds in every state".to_owned(),
            None => "holds in every state visited; not exhausted: out of memory or time".to_owned(),
        };
        let as_it_must = match config.must {
            // A long one may run out of time or memory here, and its report says so.
            Must::Hold => outcome.error.is_none() && (outcome.exhausted || config.long),
            Must::Fail => outcome.error.is_some(),
        };
        if !as_it_must {
            wrong.push(config.what);
        }
        let (what, flags) = (config.what, config.flags);
        let (seconds, states, depth) = (outcome.took.as_secs_f64(), outcome.states, outcome.depth);
        eprintln!(
            "{} {what}: {found}; {states} states, {seconds:.1} s",
            if as_it_must { "ok " } else { "BAD" }
        );
        let _ = writeln!(
            report,
            "| {} | {what}: `{flags}` | {must} | {found} | {states} | {depth} | {seconds:.1} |",
            config.rules
        );
    }
    if wrong.is_empty() {
        return Ok(report);
    }
    Err(Failure::Failed(format!("models with the wrong outcome: {}", wrong.join("; "))))
}

struct Outcome {
    error: Option<String>,
    exhausted: bool,
    states: String,
    depth: String,
    took: Duration,
}

fn explore(config: &Config) -> Result<Outcome, Failure> {
    let folder = target_dir().join("models");
    fs::create_dir_all(&folder)
        .map_err(|error| Failure::Failed(format!("{}: {error}", folder.display())))?;
    let file = match config.flags.split_whitespace().next() {
        Some("SLOT") => "models/slot.pml",
        Some("LENGTH") => "models/length.pml",
        Some("PARTS") => "models/parts.pml",
        Some("FLIGHT") => "models/flight.pml",
        _ => "models/frame.pml",
    };
    let model = root().join(file);
    let flags = config.flags.split_whitespace().map(|flag| format!("-D{flag}"));
    run_in(&folder, Command::new("spin").arg("-a").args(flags).arg(&model))?;
    let options = [
        "-O2",
        "-w",
        "-DSAFETY",
        "-DCOLLAPSE",
        "-DVECTORSZ=2048",
        "-DMEMLIM=12000",
        "-o",
        "pan",
        "pan.c",
    ];
    run_in(&folder, Command::new("gcc").args(options))?;
    let limit = if config.long { "1800" } else { "120" };
    let started = Instant::now();
    let output =
        run_in(&folder, Command::new("timeout").args([limit, "./pan", "-m5000000", "-n"]))?;
    let took = started.elapsed();
    let line = |what: &str| output.lines().find(|line| line.contains(what)).unwrap_or_default();
    let number = |what: &str, at: usize| {
        line(what).split_whitespace().nth(at).unwrap_or("?").trim_end_matches(',').to_owned()
    };
    Ok(Outcome {
        error: output.lines().find_map(|line| line.strip_prefix("pan:1: ")).map(str::to_owned),
        // SPIN prints one of these when it stops before it has visited every state.
        exhausted: !line("errors: 0").is_empty()
            && !output.contains("Search not completed")
            && !output.contains("max search depth too small"),
        states: number("states, stored", 0),
        depth: number("depth reached", 5),
        took,
    })
}

/// Runs a program until it ends, or until its time limit ends it. Returns its output.
fn run_in(folder: &Path, command: &mut Command) -> Result<String, Failure> {
    let output = command.current_dir(folder).output().map_err(|error| {
        Failure::Failed(format!("{} did not start: {error}", command.get_program().display()))
    })?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() || output.status.code() == Some(124) {
        return Ok(text);
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    Err(Failure::Failed(format!(
        "{}: {}\n{text}{errors}",
        command.get_program().display(),
        output.status
    )))
}
