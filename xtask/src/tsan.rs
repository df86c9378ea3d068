//! `cargo x tsan`: runs the tests of the three libraries under `ThreadSanitizer`, with a standard
//! library that is built with it.

use std::process::Command;

use crate::step::{self, Failure, nightly, no_arguments, succeeds, target_dir};

/// A target must be named, so that build scripts are built without the sanitizer.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// The crates that share memory between threads.
const PACKAGES: &str = "-p folio-ref -p folio-frames -p folio-cache";

pub(crate) fn run(arguments: &[String]) -> Result<(), Failure> {
    no_arguments("tsan", arguments)?;
    if !available() {
        eprintln!(
            "SKIPPED: ThreadSanitizer: nightly or rust-src is missing, or the host is not {TARGET}"
        );
        return Ok(());
    }
    let mut tests = nightly(&format!(
        "run nightly cargo test {PACKAGES} --lib --tests -Zbuild-std --target {TARGET}"
    ));
    tests.env("RUSTFLAGS", "-Zsanitizer=thread").env("CARGO_TARGET_DIR", target_dir().join("tsan"));
    step::run("the tests of the three libraries, by ThreadSanitizer", &mut tests)
}

/// Installs nightly and the standard library's sources where that is needed and possible. Returns
/// `true` if they are there and the host is the target.
fn available() -> bool {
    let there = || {
        let sysroot = nightly("run nightly rustc --print sysroot").output();
        sysroot.is_ok_and(|output| {
            let root = String::from_utf8_lossy(&output.stdout).trim().to_owned();
            std::path::Path::new(&root).join("lib/rustlib/src/rust/library/Cargo.lock").exists()
        })
    };
    if !there() {
        succeeds(&mut nightly("toolchain install nightly --profile minimal --component rust-src"));
    }
    let here = Command::new("rustc").arg("-vV").output();
    there()
        && here.is_ok_and(|output| {
            String::from_utf8_lossy(&output.stdout).contains(&format!("host: {TARGET}"))
        })
}
