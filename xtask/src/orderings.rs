//! `cargo x orderings`: weakens each memory ordering of the word by one step, one at a time; a loom
//! test must fail each time.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use crate::step::{Failure, cargo, commit_and_day, root, target_dir};

/// The files with the orderings that R6 needs.
const FILES: [&str; 2] =
    ["crates/folio-ref/src/schemes/bit.rs", "crates/folio-ref/src/schemes/zero.rs"];

/// Each ordering and its weaker ones. Relaxed cannot be weakened.
const WEAKER: [(&str, &[&str]); 3] =
    [("Acquire", &["Relaxed"]), ("Release", &["Relaxed"]), ("AcqRel", &["Acquire", "Release"])];

/// One ordering, at one place.
struct Mutant {
    file: &'static str,
    line: usize,
    /// The file's text with the weaker ordering.
    text: String,
    was: &'static str,
    is: &'static str,
    code: String,
}

pub(crate) fn run(arguments: &[String]) -> Result<(), Failure> {
    if let Some(unknown) = arguments.iter().find(|word| *word != "--save") {
        return Err(Failure::Usage(format!(
            "orderings has no option '{unknown}'; there is --save"
        )));
    }
    let copy = copy_of_the_workspace()?;
    let original = try_loom(&copy)?;
    if let Some(test) = original {
        return Err(Failure::Failed(format!("loom fails although nothing is weakened: {test}")));
    }
    let mut report = String::from(
        "| place | was | weakened to | caught by | s |\n| --- | --- | --- | --- | --- |\n",
    );
    let mut survivors = Vec::new();
    for file in FILES {
        let text = read(&root().join(file))?;
        for mutant in mutants(file, &text) {
            write(&copy.join(file), &mutant.text)?;
            let started = Instant::now();
            let caught = try_loom(&copy)?;
            let seconds = started.elapsed().as_secs_f64();
            let place = format!("{}:{} `{}`", mutant.file, mutant.line, mutant.code);
            let outcome =
                caught.clone().map_or("**nothing**".to_owned(), |test| format!("`{test}`"));
            eprintln!(
                "{} {place}: {} → {}: {outcome}",
                if caught.is_some() { "ok " } else { "BAD" },
                mutant.was,
                mutant.is
            );
            let _ = writeln!(
                report,
                "| {place} | {} | {} | {outcome} | {seconds:.0} |",
                mutant.was, mutant.is
            );
            if caught.is_none() {
                survivors.push(place);
            }
        }
        write(&copy.join(file), &text)?;
    }
    if !arguments.is_empty() {
        let text = format!(
            "# Orderings\n\nWritten by `cargo x orderings --save` {}:\n\
             each ordering of the word, one step weaker.\n\n{report}",
            commit_and_day()
        );
        write(&root().join("results/orderings.md"), &text)?;
    }
    if survivors.is_empty() {
        return Ok(());
    }
    Err(Failure::Failed(format!("weakened, but no test failed: {}", survivors.join("; "))))
}

/// Returns a mutant for each ordering in code, comments left out.
fn mutants(file: &'static str, text: &str) -> Vec<Mutant> {
    let mut found = Vec::new();
    let mut begins = 0;
    for (number, line) in text.split_inclusive('\n').enumerate() {
        let code = line.split("//").next().unwrap_or_default();
        for (was, weaker) in WEAKER {
            let name = format!("Ordering::{was}");
            for (at, _) in code.match_indices(&name) {
                for &is in weaker {
                    let (from, to) = (begins + at, begins + at + name.len());
                    let text = format!("{}Ordering::{is}{}", &text[..from], &text[to..]);
                    // A relaxed fence does not exist: the weaker form is no fence.
                    let text = text.replace("fence(Ordering::Relaxed)", "()");
                    found.push(Mutant {
                        file,
                        line: number + 1,
                        text,
                        was,
                        is,
                        code: code.trim().to_owned(),
                    });
                }
            }
        }
        begins += line.len();
    }
    found
}

/// Runs the loom tests of a copy. Returns the name of the first that fails, if any.
fn try_loom(copy: &Path) -> Result<Option<String>, Failure> {
    let mut loom = cargo("test --release -p folio-ref --test loom");
    let output = loom
        .current_dir(copy)
        .env("RUSTFLAGS", "--cfg loom")
        .env("CARGO_TARGET_DIR", target_dir().join("orderings/target"))
        .output()
        .map_err(|error| Failure::Failed(format!("cargo did not start: {error}")))?;
    if output.status.success() {
        return Ok(None);
    }
    let (text, errors) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let failed =
        text.lines().find_map(|line| line.strip_prefix("test ")?.strip_suffix(" ... FAILED"));
    // A panic inside a panic ends the process before any test is reported.
    let aborted =
        || errors.lines().find_map(|line| Some(line.strip_prefix("thread '")?.split_once('\'')?.0));
    let noticed = failed.or_else(aborted).map(str::to_owned);
    noticed
        .map(Some)
        .ok_or_else(|| Failure::Failed(format!("the mutant does not build:\n{errors}")))
}

/// Copies the tree into the target folder, as a mutant must not touch the real one.
fn copy_of_the_workspace() -> Result<PathBuf, Failure> {
    let copy = target_dir().join("orderings/tree");
    let _ = fs::remove_dir_all(&copy);
    fs::create_dir_all(&copy)
        .map_err(|error| Failure::Failed(format!("{}: {error}", copy.display())))?;
    let mut command = Command::new("cp");
    command
        .args(["-r", "Cargo.toml", "Cargo.lock", "README.md", "crates", "xtask"])
        .arg(&copy)
        .current_dir(root());
    match command.status() {
        Ok(status) if status.success() => Ok(copy),
        other => Err(Failure::Failed(format!("cp of the workspace: {other:?}"))),
    }
}

fn read(path: &Path) -> Result<String, Failure> {
    fs::read_to_string(path)
        .map_err(|error| Failure::Failed(format!("{}: {error}", path.display())))
}

fn write(path: &Path, text: &str) -> Result<(), Failure> {
    fs::write(path, text).map_err(|error| Failure::Failed(format!("{}: {error}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_ordering_in_code_is_weakened_once() {
        assert!(mutants("a", "fence(Ordering::Acquire);")[0].text.starts_with("();"));
        let text = "// Ordering::Release is not code\n\
                    x.swap(1, Ordering::AcqRel); y.load(Ordering::Relaxed);\n";
        let found: Vec<_> =
            mutants("a", text).into_iter().map(|mutant| (mutant.line, mutant.text)).collect();
        let weaker = |is: &str| (2, text.replace("Ordering::AcqRel", &format!("Ordering::{is}")));
        assert_eq!(found, [weaker("Acquire"), weaker("Release")]);
    }
}
