//! `cargo x seeded-bugs`: tests of the tests. Each seeded bug is a build with one rule broken on
//! purpose; a check that passes on it does not watch that rule.
//!
//! The bugs stand in the code behind `cfg(broken = "NAME")`, which no other build sets.

use std::fmt::Write as _;
use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::step::{self, Failure, cargo, root, target_dir};

/// The time in which a check must fail. Building does not count.
const LIMIT: Duration = Duration::from_mins(2);

/// A check that may catch a seeded bug.
#[derive(Clone, Copy, PartialEq)]
enum Check {
    /// The tests of the word.
    Word,
    /// The tests of the frames.
    Frames,
    /// The tests of the cache.
    Cache,
    /// The crash tests of the cache.
    Crash,
    /// The frames and the cache under shuttle's schedules.
    Shuttle,
    /// The torture run on this checkout.
    Torture,
}

impl Check {
    const ALL: [Self; 6] =
        [Self::Word, Self::Frames, Self::Cache, Self::Crash, Self::Shuttle, Self::Torture];

    fn name(self) -> &'static str {
        match self {
            Self::Word => "word",
            Self::Frames => "frames",
            Self::Cache => "cache",
            Self::Crash => "crash",
            Self::Shuttle => "shuttle",
            Self::Torture => "torture",
        }
    }

    /// Returns cargo's arguments: those that build the check, and those that run it.
    fn commands(self) -> (&'static str, &'static str) {
        match self {
            Self::Word => ("test --release -p folio-ref --no-run", "test --release -p folio-ref"),
            Self::Frames => {
                ("test --release -p folio-frames --no-run", "test --release -p folio-frames")
            }
            Self::Cache => {
                ("test --release -p folio-cache --no-run", "test --release -p folio-cache")
            }
            Self::Crash => (
                "test --release -p folio-cache --test crash --no-run",
                "test --release -p folio-cache --test crash",
            ),
            Self::Shuttle => (
                "test --release -p folio-frames -p folio-cache --test shuttle --no-run",
                "test --release -p folio-frames -p folio-cache --test shuttle --no-fail-fast",
            ),
            Self::Torture => {
                ("build --release -p folio", "run --release -p folio -- torture . --seconds 20")
            }
        }
    }
}

struct Bug {
    name: &'static str,
    breaks: &'static str,
    /// Run in this order until one fails. The fastest comes first.
    caught_by: &'static [Check],
}

/// All seeded bugs. A new one also needs its `cfg(broken = "...")` in the code.
const BUGS: [Bug; 39] = [
    Bug {
        name: "put-clears-frozen",
        breaks: "R2, R3: a put clears the frozen state it has won",
        caught_by: &[Check::Word, Check::Frames, Check::Torture],
    },
    Bug {
        name: "freed-left-dying",
        breaks: "R1, R3: a freed frame is left Dying",
        caught_by: &[Check::Word, Check::Frames, Check::Cache],
    },
    Bug {
        name: "tail-left-live",
        breaks: "R1: a tail is left live",
        caught_by: &[Check::Frames, Check::Torture],
    },
    Bug {
        name: "no-recheck",
        breaks: "R8: a reader does not check the slot again after try_get",
        caught_by: &[Check::Shuttle, Check::Frames, Check::Cache, Check::Torture],
    },
    Bug {
        name: "early-destructor",
        breaks: "R4: the destructor is chosen before the compare-and-swap",
        caught_by: &[Check::Shuttle, Check::Frames, Check::Torture],
    },
    Bug {
        name: "undo-by-subtraction",
        breaks: "R2: a refused try_get takes its increment back",
        caught_by: &[Check::Word, Check::Frames],
    },
    Bug {
        name: "stale-unbounded",
        breaks: "R5: stale increments are never reset",
        caught_by: &[Check::Word],
    },
    Bug {
        name: "count-into-the-bit",
        breaks: "R5: a count does not saturate",
        caught_by: &[Check::Word],
    },
    Bug {
        name: "init-keeps-stale",
        breaks: "R2: stale increments are counted as references",
        caught_by: &[Check::Word, Check::Frames],
    },
    Bug {
        name: "freeze-one-more",
        breaks: "R3: freeze succeeds with one reference more than expected",
        caught_by: &[Check::Word, Check::Frames],
    },
    Bug {
        name: "generation-not-bumped",
        breaks: "R4: a freeze keeps the generation, so a late put wins the next life",
        caught_by: &[Check::Word, Check::Frames],
    },
    Bug {
        name: "slot-version-not-bumped",
        breaks: "R8: unlocking a slot leaves its version",
        caught_by: &[Check::Frames],
    },
    Bug {
        name: "no-second-load",
        breaks: "R8: an optimistic read returns its copy without checking the slot again",
        caught_by: &[Check::Frames, Check::Shuttle],
    },
    Bug {
        name: "head-opened-first",
        breaks: "R8: a split of a multi-slot folio opens its head before its slots change",
        caught_by: &[Check::Shuttle],
    },
    Bug {
        name: "read-by-count",
        breaks: "R8: an optimistic read is validated by the count instead of the slot's version",
        caught_by: &[Check::Shuttle, Check::Frames],
    },
    Bug {
        name: "leaf-version-forgotten",
        breaks: "R8: slots that are opened again have versions that they had before",
        caught_by: &[Check::Frames, Check::Shuttle],
    },
    Bug {
        name: "leaf-closed-in-use",
        breaks: "a leaf is closed though a slot has a page, or a thread that sleeps on it",
        caught_by: &[Check::Shuttle, Check::Frames],
    },
    Bug {
        name: "closed-slot-filled",
        breaks: "a slot without memory takes a page, which is lost",
        caught_by: &[Check::Frames, Check::Shuttle],
    },
    Bug {
        name: "write-without-freeze",
        breaks: "R2: a page is written in place without a freeze, although handles may share it",
        caught_by: &[Check::Shuttle, Check::Cache],
    },
    Bug {
        name: "one-waiter-woken",
        breaks: "a store that wakes a request wakes one of its waiters only",
        caught_by: &[Check::Shuttle, Check::Cache],
    },
    Bug {
        name: "missed-poll-ignored",
        breaks: "a poll that met another one is not made up for",
        caught_by: &[Check::Shuttle],
    },
    Bug {
        name: "last-waiter-leaves",
        breaks: "a request goes on without a waiter, if a driver has it",
        caught_by: &[Check::Cache],
    },
    Bug {
        name: "driver-leaves-silently",
        breaks: "a driver that is dropped does not wake the waiters",
        caught_by: &[Check::Shuttle, Check::Cache],
    },
    Bug {
        name: "permit-not-passed-on",
        breaks: "a permit that comes back is not granted to the next in the queue",
        caught_by: &[Check::Shuttle, Check::Cache],
    },
    Bug {
        name: "threads-unshared",
        breaks: "one file may have all threads, so a sick one takes them from the others",
        caught_by: &[Check::Cache],
    },
    Bug {
        name: "failed-fill-untold",
        breaks: "the readers that wait for a fill are not told its error, and ask again in turn",
        caught_by: &[Check::Cache],
    },
    Bug {
        name: "stale-publish",
        breaks: "an answer is published though its object was invalidated meanwhile",
        caught_by: &[Check::Shuttle, Check::Cache],
    },
    Bug {
        name: "length-before-pages",
        breaks: "writeback loads the length before it pins the pages: appended bytes are lost",
        caught_by: &[Check::Cache, Check::Shuttle],
    },
    Bug {
        name: "appends-out-of-order",
        breaks: "appended pages are written in any order, so a kill leaves a hole",
        caught_by: &[Check::Crash, Check::Cache, Check::Shuttle],
    },
    Bug {
        name: "failed-sync-forgets",
        breaks: "what a failed sync covers is not written again, and the next sync succeeds",
        caught_by: &[Check::Crash, Check::Cache, Check::Shuttle],
    },
    Bug {
        name: "close-forgets-unsynced",
        breaks: "a close forgets what is not durable, and a sync after the next open says ok",
        caught_by: &[Check::Cache],
    },
    Bug {
        name: "batch-freed-before-read",
        breaks: "a batch of new pages counts as taken before it is read",
        caught_by: &[Check::Shuttle],
    },
    Bug {
        name: "clean-before-written",
        breaks: "pages count as clean before they are written: a sync beside that returns early",
        caught_by: &[Check::Crash],
    },
    Bug {
        name: "older-sync-shared",
        breaks: "a sync shares one that began before its bytes were written",
        caught_by: &[Check::Crash],
    },
    Bug {
        name: "last-page-whole",
        breaks: "the last page is written whole, so the file is longer than its bytes",
        caught_by: &[Check::Crash],
    },
    Bug {
        name: "truncated-tail-kept",
        breaks: "bytes past the end of a truncated page stay, and return with a longer file",
        caught_by: &[Check::Crash],
    },
    Bug {
        name: "drop-without-write",
        breaks: "the last drop of a file writes nothing",
        caught_by: &[Check::Crash],
    },
    Bug { name: "flusher-idle", breaks: "the flusher writes nothing", caught_by: &[Check::Crash] },
    Bug {
        name: "metadata-zeroed",
        breaks: "R7: metadata is zeroed when a block goes offline",
        caught_by: &[Check::Frames],
    },
];

pub(crate) fn run(arguments: &[String]) -> Result<(), Failure> {
    let (options, names): (Vec<&String>, Vec<&String>) =
        arguments.iter().partition(|word| word.starts_with('-'));
    if let Some(option) = options.iter().find(|&&option| option != "--save") {
        return Err(Failure::Usage(format!(
            "seeded-bugs has no option '{option}'; there is --save"
        )));
    }
    if let Some(name) = names.iter().find(|&&name| BUGS.iter().all(|bug| bug.name != name)) {
        let known = BUGS.map(|bug| bug.name).join(", ");
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
    let tried = |check: &Check| rows.iter().any(|row| row.check == *check);
    for check in Check::ALL.into_iter().filter(tried).collect::<Vec<_>>() {
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
    let (build, run) = check.commands();
    let name = broken.unwrap_or("none");
    let mut build = with_bug(cargo(build), broken, check)?;
    step::run(&format!("build with the seeded bug '{name}'"), &mut build)?;
    eprintln!("── cargo {run}");
    let command = with_bug(cargo(run), broken, check)?;
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

fn with_bug(mut command: Command, broken: Option<&str>, check: Check) -> Result<Command, Failure> {
    let (flags, folder) = if check == Check::Shuttle {
        ("--cfg shuttle", "seeded-bugs/shuttle")
    } else {
        ("", "seeded-bugs")
    };
    command.env("RUSTFLAGS", flags).env("CARGO_TARGET_DIR", target_dir().join(folder));
    // The bugs are found without it too, and builds are faster.
    command.env("CARGO_PROFILE_RELEASE_LTO", "off");
    if let Some(name) = broken {
        command.env("RUSTC_WORKSPACE_WRAPPER", wrapper(name)?);
    }
    Ok(command)
}

/// Writes a compiler that sets the bug's `cfg` for our own crates, so that their dependencies are
/// built only once. Returns its path.
fn wrapper(name: &str) -> Result<PathBuf, Failure> {
    let folder = target_dir().join("seeded-bugs/rustc");
    let path = folder.join(name);
    let text =
        format!("#!/bin/sh\nrustc=$1\nshift\nexec \"$rustc\" \"$@\" --cfg 'broken=\"{name}\"'\n");
    fs::create_dir_all(&folder)
        .and_then(|()| fs::write(&path, text))
        .and_then(|()| fs::set_permissions(&path, Permissions::from_mode(0o755)))
        .map_err(|error| Failure::Failed(format!("{}: {error}", path.display())))?;
    Ok(path)
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
        let (_, command) = row.check.commands();
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
