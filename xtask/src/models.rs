//! Checks the models in every interleaving, by SPIN: `models/frame.pml`, and the others where the
//! flags name them. Right variants must hold, broken ones must be refuted.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
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

/// Runs the configurations. Returns the report, or fails if an outcome is wrong.
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

/// Explores one configuration on each processor at once. A long one needs most of the memory, and
/// runs alone.
fn explore_all(configs: impl Iterator<Item = &'static Config>) -> Result<String, Failure> {
    let all: Vec<_> = configs.map(|config| (config, OnceLock::new())).collect();
    let explore_those = |long: bool, workers: usize| {
        let next = AtomicUsize::new(0);
        let work = |worker: usize| {
            // Relaxed: each number is given once, and the end of the scope publishes the outcomes.
            while let Some((config, outcome)) = all.get(next.fetch_add(1, Ordering::Relaxed)) {
                if config.long == long {
                    _ = outcome.set(explore(config, worker));
                }
            }
        };
        let work = &work;
        thread::scope(|scope| {
            for worker in 0..workers {
                scope.spawn(move || work(worker));
            }
        });
    };
    explore_those(false, thread::available_parallelism().map_or(1, usize::from));
    explore_those(true, 1);
    let mut report = String::from(
        "| rules | configuration | must | outcome | states | depth | s |\n\
         | --- | --- | --- | --- | --- | --- | --- |\n",
    );
    let mut wrong = Vec::new();
    for (config, outcome) in all {
        let outcome = outcome.into_inner().expect("each was explored")?;
        if !is_right(config, &outcome) {
            wrong.push(config.what);
        }
        let must = if config.must == Must::Hold { "hold" } else { "be refuted" };
        let _ = writeln!(
            report,
            "| {} | {}: `{}` | {must} | {} | {} | {} | {:.1} |",
            config.rules,
            config.what,
            config.flags,
            outcome.found(),
            outcome.states,
            outcome.depth,
            outcome.took.as_secs_f64()
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

impl Outcome {
    fn found(&self) -> String {
        match &self.error {
            Some(error) => error.replace('|', "/"),
            None if self.exhausted => "holds in every state".to_owned(),
            None => "holds in every state visited; not exhausted: out of memory or time".to_owned(),
        }
    }
}

/// Returns `true` if an outcome is what the configuration must have.
fn is_right(config: &Config, outcome: &Outcome) -> bool {
    match config.must {
        // A long one may run out of time or memory here, and its report says so.
        Must::Hold => outcome.error.is_none() && (outcome.exhausted || config.long),
        Must::Fail => outcome.error.is_some(),
    }
}

/// Explores a configuration in the folder of a worker, and prints a line when it ends.
fn explore(config: &Config, worker: usize) -> Result<Outcome, Failure> {
    let folder = target_dir().join("models").join(worker.to_string());
    fs::create_dir_all(&folder)
        .map_err(|error| Failure::Failed(format!("{}: {error}", folder.display())))?;
    let file = match config.flags.split_whitespace().next() {
        Some("SLOT") => "models/slot.pml",
        Some("LENGTH") => "models/length.pml",
        Some("PARTS") => "models/parts.pml",
        Some("FLIGHT") => "models/flight.pml",
        Some("VERSION") => "models/version.pml",
        _ => "models/frame.pml",
    };
    let model = root().join(file);
    let flags = config.flags.split_whitespace().map(|flag| format!("-D{flag}"));
    run_in(&folder, Command::new("spin").arg("-a").args(flags).arg(&model))?;
    // Most have few states: gcc would take longer to optimise them than to run them.
    let options = [
        if config.long { "-O2" } else { "-O0" },
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
    let limit = if config.long { "1800" } else { "600" };
    let started = Instant::now();
    let output =
        run_in(&folder, Command::new("timeout").args([limit, "./pan", "-m5000000", "-n"]))?;
    let took = started.elapsed();
    let line = |what: &str| output.lines().find(|line| line.contains(what)).unwrap_or_default();
    let number = |what: &str, at: usize| {
        line(what).split_whitespace().nth(at).unwrap_or("?").trim_end_matches(',').to_owned()
    };
    let outcome = Outcome {
        error: output.lines().find_map(|line| line.strip_prefix("pan:1: ")).map(str::to_owned),
        // SPIN prints one of these when it stops before it has visited every state.
        exhausted: !line("errors: 0").is_empty()
            && !output.contains("Search not completed")
            && !output.contains("max search depth too small"),
        states: number("states, stored", 0),
        depth: number("depth reached", 5),
        took,
    };
    let said = if is_right(config, &outcome) { "ok " } else { "BAD" };
    let (found, states, seconds) = (outcome.found(), &outcome.states, took.as_secs_f64());
    eprintln!("{said} {}: {found}; {states} states, {seconds:.1} s", config.what);
    Ok(outcome)
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
