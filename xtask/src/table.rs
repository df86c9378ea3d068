//! `cargo x prove --table`: runs the command of each cell of docs/proof.md's table, which has
//! four columns for each of eight rules; R2, R3 and R6 have two rows. Each must pass.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::step::{Failure, root, target_dir};

const COLUMNS: [&str; 4] = ["model", "real code", "at run time", "broken on purpose"];

/// Runs all cells, one after the other. Returns the report, or fails if one did not pass.
pub(crate) fn run() -> Result<String, Failure> {
    let text = fs::read_to_string(root().join("docs/proof.md"))
        .map_err(|error| Failure::Failed(error.to_string()))?;
    let mut report =
        String::from("| rule | column | command | passed | s |\n| --- | --- | --- | --- | --- |\n");
    let (mut cells, mut wrong) = (0, Vec::new());
    for row in text.lines().filter(|line| line.starts_with("| **R")) {
        let mut parts = row.trim_matches('|').split(" | ").map(str::trim);
        let rule = parts.next().unwrap_or_default().get(2..4).unwrap_or("?");
        for (column, cell) in COLUMNS.into_iter().zip(parts) {
            cells += 1;
            let command = command_of(cell).unwrap_or_else(|| format!("(no command for '{cell}')"));
            eprintln!("── {rule}, {column}: {command}");
            let started = Instant::now();
            let passed = passes(&command);
            let (said, seconds) =
                (if passed { "yes" } else { "NO" }, started.elapsed().as_secs_f64());
            eprintln!("{} {seconds:.1} s", if passed { "ok " } else { "BAD" });
            let _ = writeln!(report, "| {rule} | {column} | `{command}` | {said} | {seconds:.0} |");
            if !passed {
                wrong.push(format!("{rule}, {column}"));
            }
        }
    }
    print!("\n{report}");
    if cells != 44 {
        return Err(Failure::Failed(format!(
            "the table has {cells} cells, not 44: eleven rows in four columns"
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
        "seeded" => format!("cargo x seeded-bugs {}", name(0)?),
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
    // Builds with flags of their own get a folder of their own, so that they do not undo other
    // builds.
    let folder = match command {
        _ if command.contains("--cfg loom") => target_dir().join("loom"),
        _ if command.contains("--cfg shuttle") => target_dir().join("shuttle"),
        _ if command.contains(" miri ") => target_dir().join("miri"),
        _ => target_dir(),
    };
    let mut shell = Command::new("sh");
    shell
        .args(["-c", command])
        .current_dir(root())
        .env("CARGO_TARGET_DIR", folder)
        .env_remove("RUSTUP_TOOLCHAIN");
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
