//! The second half of `cargo x orderings`: weakens each ordering and fence of slots, page locks,
//! optimistic reads, lengths and truncation by one step; a test over a weak memory must fail.
//!
//! No build is needed for each: the stepped atomics compare the place of the caller with the
//! environment variable `WEAKEN` (`testing/memory.rs` of folio-ref).

use std::cmp::Reverse;
use std::fmt::Write as _;
use std::fs;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::step::{Failure, checker, root};

/// The files with these orderings.
const FILES: [&str; 12] = [
    "crates/folio-frames/src/index/slot.rs",
    "crates/folio-frames/src/index/optimistic.rs",
    "crates/folio-frames/src/zone/folio.rs",
    "crates/folio-frames/src/zone/adjacent.rs",
    "crates/folio-frames/src/os/lazy_range.rs",
    "crates/folio-frames/src/os/futex_lock.rs",
    "crates/folio-cache/src/state/mapping.rs",
    "crates/folio-cache/src/coherence/refresh.rs",
    "crates/folio-cache/src/read/extent.rs",
    "crates/folio-cache/src/write/resize.rs",
    "crates/folio-cache/src/write/write_pages.rs",
    "crates/folio-cache/src/write/discard.rs",
];

/// Operations that no test notices: a part of the file and the line, and why it stays.
const EXPLAINED: [(&str, &str, &str); 8] = [
    (
        "futex_lock.rs",
        "word.load",
        "a process sleeps by it on an address; in these tests, the stepped `wait` stands for it",
    ),
    ("futex_lock.rs", "word.fetch_add", "as above: the stepped `wake_all` stands for it"),
    (
        "mapping.rs",
        "self.opens.load",
        "the number of opens does not step, and no page or length depends on it",
    ),
    (
        "mapping.rs",
        "self.truncate_seq.load",
        "the fence of an optimistic read gives the same edge; a `try_get` that a processor makes \
         before this load is not played",
    ),
    (
        "write_pages.rs",
        "mapping.len.store(part.ends()",
        "the fence of as_mut_slice before it gives the same edge; it stays as the partner of len",
    ),
    (
        "refresh.rs",
        "mapping.backed.store",
        "the fence of a truncation in `set_len` before it gives the same edge",
    ),
    (
        "extent.rs",
        "self.mapping.backed.load",
        "the fence of `MemoryWait::notify` at the end of the fill gives the same edge; it is there \
         for another reason",
    ),
    (
        "refresh.rs",
        "mapping.len.store(unwritten",
        "a gap: a reader between two lengths, beside a write; 300,000 random executions do not \
         show it",
    ),
];

/// Each ordering and its weaker ones. A relaxed fence does not exist: the weaker form is no fence.
const WEAKER: [(&str, &[&str]); 4] = [
    ("Acquire", &["Relaxed"]),
    ("Release", &["Relaxed"]),
    ("AcqRel", &["Acquire", "Release"]),
    ("SeqCst", &["AcqRel"]),
];

/// The time that a test has. One that takes longer stands still: that is neither a success nor what
/// should be noticed.
const LIMIT: Duration = Duration::from_mins(10);

/// An operation with an ordering.
#[derive(Debug, PartialEq)]
struct Site {
    /// The line of its name, from 1.
    line: usize,
    was: &'static str,
    code: String,
}

/// A test of one of the programs.
struct Test {
    program: String,
    name: String,
    /// How often it has noticed something, for each file.
    noticed: Vec<usize>,
    /// Its time without a weaker ordering.
    time: Duration,
}

/// Weakens all. Returns the report and the places that no test noticed.
pub(crate) fn run() -> Result<(String, Vec<String>), Failure> {
    let mut tests = tests()?;
    for test in &mut tests {
        let started = Instant::now();
        if noticed(test, None)? {
            return Err(Failure::Failed(format!(
                "{} fails although nothing is weakened",
                test.name
            )));
        }
        test.time = started.elapsed();
    }
    let mut report = String::from(
        "| place | was | weakened to | caught by | s |\n| --- | --- | --- | --- | --- |\n",
    );
    let mut survivors = Vec::new();
    for (number, file) in FILES.into_iter().enumerate() {
        let text = fs::read_to_string(root().join(file))
            .map_err(|error| Failure::Failed(format!("{file}: {error}")))?;
        for site in sites(&text) {
            let weaker = WEAKER.iter().find(|(was, _)| *was == site.was);
            for is in weaker.map_or(&[][..], |(_, weaker)| weaker) {
                let place = format!("{file}:{} `{}`", site.line, site.code);
                let started = Instant::now();
                let caught = weaken(&mut tests, (number, file), &site, is)?;
                let why = EXPLAINED
                    .iter()
                    .find(|(part, code, _)| file.ends_with(part) && site.code.contains(code));
                let outcome = match (&caught, why) {
                    (Some(catcher), _) => format!("`{catcher}`"),
                    (None, Some((_, _, why))) => format!("nothing: {why}"),
                    (None, None) => "**nothing**".to_owned(),
                };
                let is_right = caught.is_some() || why.is_some();
                let said = if is_right { "ok " } else { "BAD" };
                eprintln!("{said} {place}: {} → {is}: {outcome}", site.was);
                let seconds = started.elapsed().as_secs_f64();
                let was = site.was;
                let _ = writeln!(report, "| {place} | {was} | {is} | {outcome} | {seconds:.0} |");
                if !is_right {
                    survivors.push(place);
                }
            }
        }
    }
    Ok((report, survivors))
}

/// Weakens one ordering. Returns the name of the first test that notices. Those that noticed most
/// in this file come first, then those that are fast.
fn weaken(
    tests: &mut [Test],
    (number, file): (usize, &str),
    site: &Site,
    is: &str,
) -> Result<Option<String>, Failure> {
    let weaken = format!("{file}:{} {} {is}", site.line, site.was);
    tests.sort_by_key(|test| (Reverse(test.noticed[number]), test.time));
    for test in tests {
        if noticed(test, Some(&weaken))? {
            test.noticed[number] += 1;
            return Ok(Some(test.name.clone()));
        }
    }
    Ok(None)
}

/// Returns `true` if a test fails.
///
/// # Errors
///
/// An error if the test does not start, or stands still.
fn noticed(test: &Test, weaken: Option<&str>) -> Result<bool, Failure> {
    let mut command = Command::new(&test.program);
    command.args(["--exact", &test.name]).current_dir(root()).env("WEAK", "1");
    command.env("RUST_BACKTRACE", "0").env_remove("WEAKEN");
    if let Some(weaken) = weaken {
        command.env("WEAKEN", weaken);
    }
    let failed = |error| Failure::Failed(format!("{}: {error}", test.program));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let (mut child, started) = (command.spawn().map_err(failed)?, Instant::now());
    loop {
        if let Some(status) = child.try_wait().map_err(failed)? {
            return Ok(!status.success());
        }
        if started.elapsed() > LIMIT {
            child.kill().map_err(failed)?;
            child.wait().map_err(failed)?;
            let weaken = weaken.unwrap_or("as it is");
            return Err(Failure::Failed(format!("{} stands still: {weaken}", test.name)));
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// Builds the programs, and returns their tests.
fn tests() -> Result<Vec<Test>, Failure> {
    let build = "test --release -p folio-frames -p folio-cache --test weak --no-run --color never";
    let output = checker("shuttle", build)
        .output()
        .map_err(|error| Failure::Failed(format!("cargo did not start: {error}")))?;
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        return Err(Failure::Failed(said.into_owned()));
    }
    let mut tests = Vec::new();
    for program in said.lines().filter_map(program) {
        let output = Command::new(&program).arg("--list").output();
        let output = output.map_err(|error| Failure::Failed(format!("{program}: {error}")))?;
        for line in String::from_utf8_lossy(&output.stdout).lines() {
            if let Some(name) = line.strip_suffix(": test") {
                let (program, name) = (program.clone(), name.to_owned());
                let noticed = vec![0; FILES.len()];
                tests.push(Test { program, name, noticed, time: Duration::ZERO });
            }
        }
    }
    if tests.is_empty() {
        return Err(Failure::Failed(format!("cargo names no test:\n{said}")));
    }
    Ok(tests)
}

/// Returns the path of a program in a line of cargo's: `Executable tests/weak.rs (PATH)`.
fn program(line: &str) -> Option<String> {
    let (_, path) = line.trim_start().strip_prefix("Executable ")?.split_once('(')?;
    let path = path.strip_suffix(')')?;
    Some(root().join(path).to_string_lossy().into_owned())
}

/// Returns the operations with an ordering that can be weakened, comments and unit tests left out.
fn sites(text: &str) -> Vec<Site> {
    let uncommented = |line: &str| line.split("//").next().unwrap_or_default().to_owned();
    let code = text.lines().map(uncommented).collect::<Vec<_>>().join("\n");
    let code = code.split("#[cfg(test)]").next().unwrap_or_default();
    let mut found = Vec::new();
    for (was, _) in WEAKER {
        for (at, _) in code.match_indices(&format!("Ordering::{was}")) {
            let Some(name) = name_of_the_call(code, at) else { continue };
            let line = code[..name].matches('\n').count() + 1;
            let shown = text.lines().nth(line - 1).unwrap_or_default().trim().to_owned();
            found.push(Site { line, was, code: shown });
        }
    }
    found.sort_by_key(|site| site.line);
    found
}

/// Returns where the name begins of the call that has an argument at `at`.
fn name_of_the_call(code: &str, at: usize) -> Option<usize> {
    let mut depth = 0;
    let open = code[..at].char_indices().rev().find(|(_, character)| {
        match character {
            ')' => depth += 1,
            '(' if depth == 0 => return true,
            '(' => depth -= 1,
            _ => {}
        }
        false
    });
    let (open, _) = open?;
    let is_name = |character: char| character.is_alphanumeric() || character == '_';
    Some(code[..open].trim_end_matches(is_name).len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_operation_stands_at_the_line_of_its_name() {
        let text = "x.load(Ordering::Relaxed); // Ordering::Acquire\n\
                    y\n.swap(f(1),\nOrdering::AcqRel); fence(Ordering::SeqCst);\n\
                    #[cfg(test)]\nz.load(Ordering::Acquire);\n";
        let site = |line, was, code: &str| Site { line, was, code: code.to_owned() };
        let expected = [
            site(3, "AcqRel", ".swap(f(1),"),
            site(4, "SeqCst", "Ordering::AcqRel); fence(Ordering::SeqCst);"),
        ];
        assert_eq!(sites(text), expected);
    }

    #[test]
    fn the_programs_are_those_that_cargo_names() {
        let line = "  Executable tests/weak.rs (/a/weak-1)";
        assert_eq!(program(line).as_deref(), Some("/a/weak-1"));
        assert_eq!(program("   Compiling folio-ref (/a)"), None);
    }
}
