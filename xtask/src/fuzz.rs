//! `cargo x fuzz`: compares sequences of operations, chosen by coverage, with naive models. The
//! targets lie in `fuzz/`.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::step::{self, Failure, cargo, root, succeeds, target_dir};

/// The fuzzers' binaries: of the word, the frames and the cache.
const TARGETS: [&str; 3] = ["word", "frames", "cache"];

/// The flags with which `cargo fuzz build -s none` counts the edges that a run takes, for
/// libFuzzer. They need neither that tool nor nightly.
const COUNTERS: &str = "--cfg fuzzing -Cdebug-assertions -Ccodegen-units=1 -Cpasses=sancov-module \
                        -Cllvm-args=-sanitizer-coverage-level=4 \
                        -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
                        -Cllvm-args=-sanitizer-coverage-pc-table \
                        -Cllvm-args=-sanitizer-coverage-trace-compares \
                        -Cllvm-args=-simplifycfg-branch-fold-threshold=0";

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
    let Some(host) = host() else {
        return Err(Failure::Failed("'rustc -vV' names no host".to_owned()));
    };
    if !succeeds(Command::new("c++").arg("--version")) {
        eprintln!("SKIPPED: fuzzing: libFuzzer is compiled by c++, which is missing");
        return Ok(());
    }
    // A target must be named, so that build scripts are built without counters.
    let build = format!("build --release --manifest-path fuzz/Cargo.toml --target {host}");
    let mut build = cargo(&build);
    build.env("RUSTFLAGS", COUNTERS).env("CARGO_TARGET_DIR", target_dir().join("fuzz"));
    step::run("the fuzzers", &mut build)?;
    let binaries = target_dir().join("fuzz").join(host).join("release");
    // All run at once: each is one thread.
    let mut running = Vec::new();
    for target in TARGETS {
        running.push((
            target,
            start(target, &binaries, seconds)
                .map_err(|error| failed(target, &error.to_string()))?,
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
fn start(target: &str, binaries: &Path, seconds: u32) -> std::io::Result<(Child, PathBuf)> {
    let folder = target_dir().join("fuzz/run").join(target);
    let found = folder.join("corpus");
    fs::create_dir_all(&found)?;
    unpack(&root().join("fuzz/corpus").join(target), &found)?;
    let log = folder.join("log");
    let output = File::create(&log)?;
    let mut artifacts = folder.into_os_string();
    artifacts.push("/");
    let mut command = Command::new(binaries.join(target));
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

/// Returns the triple of this machine.
fn host() -> Option<String> {
    let output = Command::new("rustc").arg("-vV").current_dir(root()).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines().find_map(|line| line.strip_prefix("host: ")).map(str::to_owned)
}

fn failed(target: &str, why: &str) -> Failure {
    Failure::Failed(format!("the fuzzer of the {target}: {why}"))
}
