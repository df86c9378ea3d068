//! `cargo x orderings`: weakens each memory ordering by one step, one at a time; a test must fail
//! each time.
//!
//! The orderings of the word are weakened in the text of a copy, and loom's tests must fail. Those
//! of slots, page locks, optimistic reads, lengths and truncation: see `weakened.rs`.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use crate::step::{Failure, build_for, cargo, commit_and_day, root, target_dir};
use crate::weakened;

/// The files with the orderings that R6 needs.
const FILES: [&str; 3] = [
    "crates/folio-ref/src/schemes/bit.rs",
    "crates/folio-ref/src/schemes/tagged.rs",
    "crates/folio-ref/src/schemes/zero.rs",
];

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

const RESULTS: &str = "results/orderings.md";

/// The headings of the two halves in the results.
const WORD: &str = "## The word";
const MEMORY: &str = "## Slots, page locks, optimistic reads, lengths";

pub(crate) fn run(arguments: &[String]) -> Result<(), Failure> {
    let known = ["word", "memory", "--save"];
    if let Some(unknown) = arguments.iter().find(|argument| !known.contains(&argument.as_str())) {
        return Err(Failure::Usage(format!(
            "orderings has no argument '{unknown}'; there are {}",
            known.join(", ")
        )));
    }
    let has = |argument: &str| arguments.iter().any(|given| given == argument);
    let mut survivors = Vec::new();
    for (half, heading) in [("word", WORD), ("memory", MEMORY)] {
        if has("word") != has("memory") && !has(half) {
            continue;
        }
        let (report, more) = if half == "word" { word()? } else { weakened::run()? };
        survivors.extend(more);
        if has("--save") {
            save(half, heading, &report)?;
        }
    }
    if survivors.is_empty() {
        return Ok(());
    }
    Err(Failure::Failed(format!("weakened, but no test failed: {}", survivors.join("; "))))
}

/// Replaces one half of the results.
fn save(half: &str, heading: &str, report: &str) -> Result<(), Failure> {
    let path = root().join(RESULTS);
    let text = with_half(&read(&path)?, half, heading, report, &commit_and_day())?;
    write(&path, &text)
}

/// Returns the results with one half replaced: from its heading to the next, or to the end.
fn with_half(
    text: &str,
    half: &str,
    heading: &str,
    report: &str,
    when: &str,
) -> Result<String, Failure> {
    let missing = || Failure::Failed(format!("{RESULTS} has no line '{heading}'"));
    let (before, rest) = text.split_once(&format!("{heading}\n")).ok_or_else(missing)?;
    let after = rest.find("\n## ").map_or("", |at| &rest[at..]);
    Ok(format!(
        "{before}{heading}\n\nWritten by `cargo x orderings {half} --save` {when}.\n\n\
         {report}{after}"
    ))
}

/// Weakens the orderings of the word. Returns the report and the places that no test noticed.
fn word() -> Result<(String, Vec<String>), Failure> {
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
    Ok((report, survivors))
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
    build_for("orderings/target", &mut loom);
    let output = loom
        .current_dir(copy)
        .env("RUSTFLAGS", "--cfg loom")
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
    fn one_half_of_the_results_is_replaced() {
        let text = "# Title\n\n## The word\n\nold\n\n## Others\n\nkept\n";
        let new = with_half(text, "word", WORD, "new\n", "now");
        let said = "# Title\n\n## The word\n\nWritten by `cargo x orderings word --save` now.\n\n\
                    new\n\n## Others\n\nkept\n";
        assert!(matches!(new, Ok(text) if text == said));
        assert!(with_half(text, "memory", MEMORY, "", "now").is_err());
    }

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
