//! `cargo x fuzz`: compares sequences of operations, chosen by coverage, with naive models. The
//! targets lie in `fuzz/`.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::step::{self, Failure, nightly, root, succeeds, target_dir};

/// The fuzzers' binaries: of the word, the frames and the cache.
const TARGETS: [&str; 3] = ["word", "frames", "cache"];

/// The maximum length of an input: some hundred steps.
const LONGEST: &str = "-max_len=600";

pub(crate) fn run(arguments: &[String]) -> Result<(), Failure> {
    let seconds = match arguments {
        [] => 60,
        [option, n] if option == "--seconds" => {
            n.parse().map_err(|_| Failure::Usage(format!("'{n}' is not a number of seconds")))?
        }
        _ => return Err(Failure::Usage("fuzz takes nothing, or --seconds N".to_owned())),
    };
    if !available() {
        eprintln!("SKIPPED: fuzzing: nightly or cargo-fuzz is missing and could not be installed");
        return Ok(());
    }
    let build = format!(
        "run nightly cargo fuzz build -s none --target-dir {}",
        target_dir().join("fuzz").display()
    );
    step::run("the fuzzers", &mut nightly(&build))?;
    // All run at once: each is one thread.
    let mut running = Vec::new();
    for target in TARGETS {
        running.push((
            target,
            start(target, seconds).map_err(|error| failed(target, &error.to_string()))?,
        ));
    }
    let mut wrong = Vec::new();
    for (target, (mut child, log)) in running {
        let status = child.wait().map_err(|error| failed(target, &error.to_string()))?;
        let output = fs::read(&log).unwrap_or_default();
        let output = String::from_utf8_lossy(&output);
        let done = output.lines().rfind(|line| line.starts_with("Done ")).unwrap_or("did not end");
        eprintln!(
            "{} {target}: {done}; log {}",
            if status.success() { "ok " } else { "BAD" },
            log.display()
        );
        if !status.success() {
            // The end of the log has the failure and its steps. The input lies beside the log.
            let tail: Vec<_> = output.lines().rev().take(40).collect();
            tail.iter().rev().for_each(|line| eprintln!("    {line}"));
            wrong.push(target);
        }
    }
    if wrong.is_empty() {
        Ok(())
    } else {
        Err(Failure::Failed(format!("fuzzing found: {}", wrong.join(", "))))
    }
}

/// Starts one fuzzer on a copy of its corpus, so that new inputs stay out of the tree. Returns the
/// process and its log.
fn start(target: &str, seconds: u32) -> std::io::Result<(Child, PathBuf)> {
    let folder = target_dir().join("fuzz/run").join(target);
    let found = folder.join("corpus");
    fs::create_dir_all(&found)?;
    unpack(&root().join("fuzz/corpus").join(target), &found)?;
    let log = folder.join("log");
    let output = File::create(&log)?;
    let mut artifacts = folder.into_os_string();
    artifacts.push("/");
    let mut command = Command::new(binary(target));
    command.arg(LONGEST).arg(format!("-max_total_time={seconds}"));
    command.arg(format!("-artifact_prefix={}", artifacts.display())).arg(&found);
    let child = command.stdout(Stdio::null()).stderr(output).stdin(Stdio::null()).spawn()?;
    Ok((child, log))
}

/// Unpacks a corpus: one committed file with an input in each line, in hexadecimal.
fn unpack(packed: &Path, folder: &Path) -> std::io::Result<()> {
    let text = fs::read_to_string(packed)?;
    for (n, line) in text.lines().enumerate() {
        let byte =
            |at: usize| line.get(at..at + 2).and_then(|digits| u8::from_str_radix(digits, 16).ok());
        let bytes: Option<Vec<u8>> = (0..line.len()).step_by(2).map(byte).collect();
        let bytes = bytes
            .ok_or_else(|| std::io::Error::other(format!("line {} is not hexadecimal", n + 1)))?;
        File::create(folder.join(format!("seed-{n}")))?.write_all(&bytes)?;
    }
    Ok(())
}

/// Returns the path of a fuzzer's binary, which cargo-fuzz puts below the target's triple.
fn binary(target: &str) -> PathBuf {
    let triples = fs::read_dir(target_dir().join("fuzz")).into_iter().flatten().flatten();
    let built = triples.map(|entry| entry.path().join("release").join(target));
    let mut built: Vec<_> =
        built.filter(|path| path.parent().and_then(Path::parent).is_some_and(is_triple)).collect();
    built.sort();
    built.pop().unwrap_or_else(|| target.into())
}

fn is_triple(path: &Path) -> bool {
    path.file_name().and_then(OsStr::to_str).is_some_and(|name| name.contains("-linux-"))
}

/// Installs nightly and cargo-fuzz where that is needed and possible. Returns `true` if they run.
fn available() -> bool {
    let there = || succeeds(&mut nightly("run nightly cargo fuzz --version"));
    if !there() {
        succeeds(&mut nightly("toolchain install nightly --profile minimal"));
        succeeds(&mut nightly("run nightly cargo install --locked cargo-fuzz"));
    }
    there()
}

fn failed(target: &str, why: &str) -> Failure {
    Failure::Failed(format!("the fuzzer of the {target}: {why}"))
}
