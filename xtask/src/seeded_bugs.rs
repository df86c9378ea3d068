//! `cargo x seeded-bugs`: tests of the tests. Each seeded bug breaks one rule on purpose; a check
//! that passes on it does not watch that rule.
//!
//! The bugs stand in the code behind `broken!("NAME")`, which is `false` in all other builds. A
//! build with `--cfg broken` has all of them, and the variable `BROKEN` chooses one.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::bugs::{BUGS, Check};
use crate::step::{self, Failure, cargo, root, target_dir};

/// The time in which a check must fail, on a machine that is busy. Building does not count.
const LIMIT: Duration = Duration::from_mins(10);

pub(crate) fn run(arguments: &[String]) -> Result<(), Failure> {
    let (options, names): (Vec<&String>, Vec<&String>) =
        arguments.iter().partition(|word| word.starts_with('-'));
    if let Some(option) = options.iter().find(|&&option| option != "--save") {
        return Err(Failure::Usage(format!(
            "seeded-bugs has no option '{option}'; there is --save"
        )));
    }
    if let Some(name) = names.iter().find(|&&name| BUGS.iter().all(|bug| bug.name != name)) {
        let known: Vec<_> = BUGS.iter().map(|bug| bug.name).collect();
        let known = known.join(", ");
        return Err(Failure::Usage(format!("there is no seeded bug '{name}'; there are {known}")));
    }
    if !options.is_empty() && !names.is_empty() {
        return Err(Failure::Usage("--save needs the whole list: leave out the names".to_owned()));
    }
    let chosen =
        || BUGS.iter().filter(|bug| names.is_empty() || names.contains(&&bug.name.to_owned()));
    let mut rows = Vec::new();
    let mut missed = Vec::new();
    for bug in chosen() {
        let mut caught = false;
        for &check in bug.caught_by {
            let trial = try_one(Some(bug.name), check)?;
            caught = matches!(trial.outcome, Outcome::Failed(_));
            rows.push(Row { name: bug.name, breaks: bug.breaks, trial, check });
            if caught {
                break;
            }
        }
        if !caught {
            missed.push(bug.name);
        }
    }
    // A check that fails without a bug shows nothing.
    let mut tried: Vec<Check> = Vec::new();
    for row in &rows {
        if !tried.contains(&row.check) {
            tried.push(row.check);
        }
    }
    for check in tried {
        let trial = try_one(None, check)?;
        if !matches!(trial.outcome, Outcome::Passed) {
            missed.push(check.name());
        }
        rows.push(Row { name: "(none)", breaks: "nothing: it must pass", trial, check });
    }
    let report = report(&rows);
    print!("\n{report}");
    if !options.is_empty() {
        save(&report)?;
    }
    if missed.is_empty() {
        return Ok(());
    }
    Err(Failure::Failed(format!("not caught, or failing without a bug: {}", missed.join(", "))))
}

/// One line of the report.
struct Row {
    name: &'static str,
    breaks: &'static str,
    check: Check,
    trial: Trial,
}

/// The result of one run of a check.
struct Trial {
    outcome: Outcome,
    took: Duration,
}

enum Outcome {
    Passed,
    /// With the line of its output that gives the reason.
    Failed(String),
    /// It had not ended by the limit, so it shows nothing.
    RanOut,
}

fn try_one(broken: Option<&str>, check: Check) -> Result<Trial, Failure> {
    let run = check.command();
    let name = broken.unwrap_or("none");
    step::run(
        &format!("build with the seeded bugs: {}", check.name()),
        &mut with_bugs(&check.build(), check),
    )?;
    eprintln!("── {name}: cargo {run}");
    let mut command = with_bugs(&run, check);
    if let Some(name) = broken {
        command.env("BROKEN", name);
        // One test that fails is enough. The harness calls its option unstable.
        if check != Check::Torture {
            command.args(["--", "-Zunstable-options", "--fail-fast"]);
        }
    }
    let log = target_dir().join(format!("seeded-bugs/{name}-{}.log", check.name()));
    let started = Instant::now();
    let status = File::create(&log)
        .and_then(|file| {
            // coreutils' timeout ends the whole process group, cargo's children too.
            let mut timeout = Command::new("timeout");
            timeout
                .args(["--kill-after=2", &LIMIT.as_secs().to_string()])
                .arg(command.get_program());
            timeout.args(command.get_args()).current_dir(root());
            timeout.envs(command.get_envs().filter_map(|(key, value)| Some((key, value?))));
            timeout.stdout(file.try_clone()?).stderr(file).status()
        })
        .map_err(|error| {
            Failure::Failed(format!(
                "'timeout' did not start, or no log {}: {error}",
                log.display()
            ))
        })?;
    let took = started.elapsed();
    let outcome = match status.code() {
        Some(0) => Outcome::Passed,
        // 137: it had to be killed.
        Some(124 | 137) => Outcome::RanOut,
        _ => Outcome::Failed(reason(&log)),
    };
    Ok(Trial { outcome, took })
}

/// Returns cargo with these arguments, for builds that have all seeded bugs.
fn with_bugs(arguments: &str, check: Check) -> Command {
    let (flags, folder) = match check {
        Check::FramesShuttle | Check::CacheShuttle => {
            ("--cfg broken --cfg shuttle", "seeded-bugs/shuttle")
        }
        Check::Loom => ("--cfg broken --cfg loom", "seeded-bugs/loom"),
        _ => ("--cfg broken", "seeded-bugs"),
    };
    let mut command = cargo(arguments);
    command.env("RUSTFLAGS", flags).env("CARGO_TARGET_DIR", target_dir().join(folder));
    // The bugs are found without them too, and builds are faster.
    command.env("CARGO_PROFILE_RELEASE_LTO", "off").env("CARGO_PROFILE_RELEASE_DEBUG", "0");
    // For `--fail-fast` of the test harness; for the build as well, which else would be another.
    command.env("RUSTC_BOOTSTRAP", "1");
    command.env_remove("BROKEN");
    command
}

/// Returns the line of a log that describes the failure best: a panic's message, a failed test,
/// otherwise the last line.
fn reason(log: &Path) -> String {
    let output =
        fs::read(log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let mut lines = output.lines().map(str::trim).filter(|line| !line.is_empty());
    let test = lines.clone().find(|line| line.starts_with("test ") && line.ends_with("FAILED"));
    let panic = lines.clone().skip_while(|line| !line.contains("panicked at")).nth(1);
    let test = test.and_then(|line| line.split_whitespace().nth(1));
    // Of a test with many schedules.
    let execution = lines.clone().find(|line| line.starts_with("failed in execution "));
    let panic = panic.map(|panic| match execution {
        Some(execution) => format!("{panic} ({execution})"),
        None => panic.to_owned(),
    });
    match (test, panic) {
        (Some(test), Some(panic)) => format!("`{test}`: {panic}"),
        (Some(test), None) => format!("`{test}`"),
        (None, Some(panic)) => panic,
        (None, None) => lines.next_back().unwrap_or("no output").to_owned(),
    }
}

fn report(rows: &[Row]) -> String {
    let mut text = String::from("| broken | what that breaks | check | outcome | s |\n");
    text.push_str("| --- | --- | --- | --- | --- |\n");
    for row in rows {
        let outcome = match &row.trial.outcome {
            Outcome::Passed => "passed".to_owned(),
            Outcome::Failed(why) => format!("failed: {}", why.replace('|', "/")),
            Outcome::RanOut => format!("did not end in {} s", LIMIT.as_secs()),
        };
        let seconds = row.trial.took.as_secs_f64();
        let command = row.check.command();
        let _ = writeln!(
            text,
            "| {} | {} | `cargo {command}` | {outcome} | {seconds:.1} |",
            row.name, row.breaks
        );
    }
    text
}

fn save(report: &str) -> Result<(), Failure> {
    let machine = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let machine =
        machine.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let machine = machine.map_or("an unknown processor", |(_, name)| name);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let text = format!(
        "# Seeded bugs\n\n\
         Written by `cargo x seeded-bugs --save` on {machine}, {threads} threads,\n\
         {}. docs/seeded-bugs.md describes each bug.\n\n{report}",
        step::commit_and_day()
    );
    let folder = root().join("results");
    fs::create_dir_all(&folder)
        .and_then(|()| fs::write(folder.join("seeded-bugs.md"), text))
        .map_err(|error| Failure::Failed(format!("results/seeded-bugs.md: {error}")))
}
