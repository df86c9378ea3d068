//! Compiles and runs the quick starts of README.md from its own text, in a crate outside the
//! workspace, as a user would.
//!
//! The crate depends on the published crates by path and is built offline, with the versions of the
//! workspace's lock file. It shares the target folder, so other packages are not built again.

#[allow(dead_code, reason = "each test file uses a part")]
mod common;

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{read, root, section};

/// The programs in the order of the README: one for each kind of user.
const PROGRAMS: [&str; 3] = ["cache", "frames", "word"];

/// The crates that a user of the README depends on, beside `parking_lot`.
const CRATES: [&str; 3] = ["folio-cache", "folio-frames", "folio-ref"];

/// Returns the Rust blocks of a Markdown text.
fn rust_blocks(text: &str) -> Vec<&str> {
    text.split("```rust\n").skip(1).filter_map(|rest| Some(rest.split_once("```")?.0)).collect()
}

/// Returns the manifest of the crate. It is a workspace of its own.
fn manifest() -> String {
    let mut text = concat!(
        "[workspace]\n\n[package]\nname = \"quick-starts\"\nversion = \"0.0.0\"\n",
        "edition = \"2024\"\npublish = false\n\n[dependencies]\n"
    )
    .to_owned();
    for name in CRATES {
        let path = root().join("crates").join(name);
        writeln!(text, "{name} = {{ path = {:?} }}", path.display().to_string()).expect("a String");
    }
    let shared = read("Cargo.toml");
    let lock = shared.lines().find(|line| line.starts_with("parking_lot = ")).expect("its version");
    text + lock + "\n"
}

/// Writes the crate, with the programs as its binaries. Returns its folder.
fn write_crate(programs: &[&str]) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("quick-starts");
    let bin = folder.join("src/bin");
    fs::create_dir_all(&bin).expect("a folder in the target folder");
    let mut files = vec![
        (folder.join("Cargo.toml"), manifest()),
        (folder.join("Cargo.lock"), read("Cargo.lock")),
    ];
    let sources = PROGRAMS.iter().zip(programs);
    files.extend(sources.map(|(name, text)| (bin.join(format!("{name}.rs")), (*text).to_owned())));
    for (path, text) in files {
        fs::write(&path, text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }
    folder
}

/// Runs one binary of the crate by cargo. Returns what it printed, if it failed.
fn run(folder: &Path, program: &str) -> Result<(), String> {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("the target folder");
    let output = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["run", "--offline", "--quiet", "--bin", program])
        .current_dir(folder)
        .env("CARGO_TARGET_DIR", target)
        .output()
        .expect("cargo starts");
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{program}: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr)))
}

#[test]
fn the_quick_starts_of_the_readme_compile_and_run() {
    let readme = read("README.md");
    let programs = rust_blocks(section(&readme, "Quick start"));
    assert_eq!(programs.len(), PROGRAMS.len(), "one program for each of {PROGRAMS:?}");
    assert_eq!(rust_blocks(&readme).len(), PROGRAMS.len(), "no other Rust block in README.md");
    let folder = write_crate(&programs);
    let failed: Vec<_> =
        PROGRAMS.iter().filter_map(|program| run(&folder, program).err()).collect();
    assert!(failed.is_empty(), "of README.md's quick starts:\n{}", failed.join("\n"));
}

#[test]
fn blocks_of_other_languages_are_no_programs() {
    let text = "a\n```rust\nb\n```\n```sh\nc\n```\n```rust\nd\n```\n";
    assert_eq!(rust_blocks(text), ["b\n", "d\n"]);
}
