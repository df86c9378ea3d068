//! One step of a command: a program that is started in the workspace's root and must succeed.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

/// The reason for which a command of the menu failed.
pub(crate) enum Failure {
    /// It was called with wrong arguments; exit status 2.
    Usage(String),
    /// It found a fault, or could not do its work; exit status 1.
    Failed(String),
}

/// Returns the root of the workspace.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the workspace's root")
}

/// Returns the folder of builds. Each command with flags of its own builds in a folder below it, so
/// that no command undoes another's builds.
pub(crate) fn target_dir() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// Returns the cargo that runs this, with arguments separated by blanks.
///
/// `cargo run` describes xtask in variables. They are removed: build scripts that look at them
/// (ring's) would run anew, and all that depends on them, beside a cargo that is called directly.
pub(crate) fn cargo(arguments: &str) -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments.split_whitespace()).current_dir(root());
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
            command.env_remove(&name);
        }
    }
    command
}

/// Returns cargo with `--cfg CHECKER`, for `loom` or `shuttle`.
pub(crate) fn checker(checker: &str, arguments: &str) -> Command {
    let mut command = cargo(arguments);
    command.env("RUSTFLAGS", format!("--cfg {checker}"));
    build_for(checker, &mut command);
    command
}

/// Sets the folder of builds of a checker. Link-time optimisation, of which its tests have no use,
/// is off.
pub(crate) fn build_for(checker: &str, command: &mut Command) {
    command.env("CARGO_TARGET_DIR", target_dir().join(checker));
    command.env("CARGO_PROFILE_RELEASE_LTO", "off");
}

/// Returns rustup, with arguments separated by blanks. It runs a nightly toolchain beside the
/// toolchain that runs this.
pub(crate) fn nightly(arguments: &str) -> Command {
    let mut command = Command::new("rustup");
    command.args(arguments.split_whitespace()).current_dir(root()).env_remove("RUSTUP_TOOLCHAIN");
    // The outer cargo set these for its own toolchain.
    command.env_remove("RUSTC").env_remove("RUSTDOC").env_remove("CARGO");
    command
}

/// Returns `true` if a program starts and succeeds. Its output is dropped.
pub(crate) fn succeeds(command: &mut Command) -> bool {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// Returns `true` if a target's core library is there. Asked of the compiler, as rustup need not
/// exist.
pub(crate) fn is_installed(target: &str) -> bool {
    let output = Command::new("rustc")
        .args(["--print", "target-libdir", "--target", target])
        .current_dir(root())
        .output();
    output.is_ok_and(|output| {
        let folder = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        std::fs::read_dir(folder).is_ok_and(|mut files| files.next().is_some())
    })
}

/// Installs a target where that is needed and possible. Returns `true` if it is there.
pub(crate) fn has_target(target: &str) -> bool {
    let mut add = Command::new("rustup");
    add.args(["target", "add", target]).current_dir(root());
    is_installed(target) || (succeeds(&mut add) && is_installed(target))
}

/// Prints the name of a step, runs it, and prints its seconds. Fails if the program fails or does
/// not start.
pub(crate) fn run(what: &str, command: &mut Command) -> Result<(), Failure> {
    eprintln!("── {what}");
    let started = Instant::now();
    match command.status() {
        Ok(status) if status.success() => {
            eprintln!("── {what}: {:.1} s", started.elapsed().as_secs_f64());
            Ok(())
        }
        Ok(status) => Err(Failure::Failed(format!("{what}: {status}"))),
        Err(error) => {
            Err(Failure::Failed(format!("{what}: {} did not start: {error}", program(command))))
        }
    }
}

/// Fails if a command that takes no arguments was given one.
pub(crate) fn no_arguments(command: &str, arguments: &[String]) -> Result<(), Failure> {
    match arguments.first() {
        None => Ok(()),
        Some(first) => Err(Failure::Usage(format!("{command} takes no arguments, not '{first}'"))),
    }
}

/// Returns the commit and the day of a record, with a `+` after the commit if files differ from it.
pub(crate) fn commit_and_day() -> String {
    let said = |program: &str, arguments: &str| {
        let output =
            Command::new(program).args(arguments.split_whitespace()).current_dir(root()).output();
        output.ok().filter(|output| output.status.success()).map_or_else(
            || "?".to_owned(),
            |output| String::from_utf8_lossy(&output.stdout).trim().to_owned(),
        )
    };
    let commit = said("git", "describe --always --dirty=+ --exclude=*");
    format!("at commit {commit}, on {}", said("date", "-u +%F"))
}

fn program(command: &Command) -> String {
    command.get_program().to_string_lossy().into_owned()
}
