//! `cargo x prove --table`: runs the command of each cell of the two tables in docs/proof.md. The
//! first has four columns for each of eight rules; R2, R3 and R6 have two rows. The second has
//! three columns for each promise beside the rules. Each must pass.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::step::{Failure, build_for, root, target_dir};

const COLUMNS: [&str; 4] = ["model", "real code", "at run time", "broken on purpose"];

/// Runs all cells, one after the other. Returns the report, or fails if one did not pass.
pub(crate) fn run() -> Result<String, Failure> {
    let text = fs::read_to_string(root().join("docs/proof.md"))
        .map_err(|error| Failure::Failed(error.to_string()))?;
    let mut report =
        String::from("| row | column | command | passed |\n| --- | --- | --- | --- |\n");
    if !crate::prove::has_miri() {
        eprintln!("Miri is missing and could not be installed: its cells fail");
    }
    let (mut cells, mut wrong) = (0, Vec::new());
    for row in text.lines().filter(|line| line.starts_with("| **")) {
        let mut parts: Vec<_> = row.trim_matches('|').split(" | ").map(str::trim).collect();
        let rule = parts.remove(0).split("**").nth(1).unwrap_or("?");
        // A promise beside the rules has no model.
        let columns = COLUMNS.into_iter().skip(COLUMNS.len().saturating_sub(parts.len()));
        for (column, cell) in columns.zip(parts) {
            cells += 1;
            let command = command_of(cell).unwrap_or_else(|| format!("(no command for '{cell}')"));
            eprintln!("── {rule}, {column}: {command}");
            let started = Instant::now();
            let passed = passes(&command);
            let (outcome, said) = if passed { ("ok ", "yes") } else { ("BAD", "NO") };
            eprintln!("{outcome} {:.1} s", started.elapsed().as_secs_f64());
            let _ = writeln!(report, "| {rule} | {column} | `{command}` | {said} |");
            if !passed {
                wrong.push(format!("{rule}, {column}"));
            }
        }
    }
    print!("\n{report}");
    if cells != 62 {
        return Err(Failure::Failed(format!(
            "the tables have {cells} cells, not 62: eleven rows of four and six of three"
        )));
    }
    if wrong.is_empty() {
        Ok(report)
    } else {
        Err(Failure::Failed(format!("did not pass: {}", wrong.join("; "))))
    }
}

/// Returns the command that shows a cell, by the cell's kind and the names in it.
fn command_of(cell: &str) -> Option<String> {
    let kind = cell.split_whitespace().next()?;
    let name = |n: usize| cell.split('`').nth(2 * n + 1);
    Some(match kind {
        "model" => format!("cargo x prove --model '{}'", name(0)?),
        "loom" => format!(
            "RUSTFLAGS='--cfg loom' cargo test --release -p folio-ref --test loom {}",
            name(0)?
        ),
        "shuttle" => format!(
            "RUSTFLAGS='--cfg shuttle' cargo test --release -p {} --test shuttle {}",
            package_of(name(0)?)?,
            name(0)?
        ),
        "weak" => format!(
            "RUSTFLAGS='--cfg shuttle' cargo test --release -p {} --test weak {}",
            package_of(name(0)?)?,
            name(0)?
        ),
        "Miri" => format!(
            "MIRIFLAGS='-Zmiri-ignore-leaks -Zmiri-disable-isolation -Zmiri-many-seeds=0..8' \
             rustup run nightly cargo miri test -p folio-frames --test {}",
            name(0)?.trim_end_matches(".rs")
        ),
        "test" | "forced" => test(name(0)?)?,
        // The first name is the message, the second the test that triggers it.
        "check" => test(name(1)?)?,
        "seeded" => {
            let names: Vec<_> = (0..).map_while(name).collect();
            format!("cargo x seeded-bugs {}", names.join(" "))
        }
        "command" => format!("cargo x {}", name(0)?),
        _ => return None,
    })
}

/// Returns the command of a test, whatever package has it.
fn test(name: &str) -> Option<String> {
    Some(format!("cargo test -p {} {name}", package_of(name)?))
}

fn package_of(test: &str) -> Option<String> {
    let mut files = Vec::new();
    collect(&root().join("crates"), &mut files);
    let declared = format!("fn {test}(");
    let file = files
        .iter()
        .find(|path| fs::read_to_string(path).is_ok_and(|text| text.contains(&declared)))?;
    Some(file.strip_prefix(root().join("crates")).ok()?.iter().next()?.to_str()?.to_owned())
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for path in fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()) {
        if path.is_dir() && !path.ends_with("target") {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// Returns `true` if a command succeeds. A command that runs tests must also run at least one.
fn passes(command: &str) -> bool {
    let mut shell = Command::new("sh");
    shell.args(["-c", command]).current_dir(root()).env_remove("RUSTUP_TOOLCHAIN");
    // Builds with flags of their own get a folder of their own, so that they do not undo other
    // builds.
    match ["loom", "shuttle"].into_iter().find(|cfg| command.contains(&format!("--cfg {cfg}"))) {
        Some(checker) => build_for(checker, &mut shell),
        None if command.contains(" miri ") => {
            _ = shell.env("CARGO_TARGET_DIR", target_dir().join("miri"));
        }
        None => _ = shell.env("CARGO_TARGET_DIR", target_dir()),
    }
    shell.env_remove("CARGO").env_remove("RUSTC").env_remove("RUSTDOC");
    let Ok(output) = shell.stdin(Stdio::null()).output() else { return false };
    let said = String::from_utf8_lossy(&output.stdout);
    let ran =
        said.lines().filter_map(|line| line.strip_prefix("test result: ok. ")?.split(' ').next());
    let ran: u64 = ran.filter_map(|n| n.parse::<u64>().ok()).sum();
    let passed = output.status.success() && (ran > 0 || !command.contains(" test "));
    if !passed {
        eprintln!("{said}{}", String::from_utf8_lossy(&output.stderr));
    }
    passed
}
