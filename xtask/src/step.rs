//! One step of a command: a program that is started in the workspace's root and must succeed.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Why a command of the menu did not succeed.
pub(crate) enum Failure {
    /// It was called in a way that it does not know; exit status 2.
    Usage(String),
    /// It did its work, and something is wrong; exit status 1.
    Failed(String),
}

/// The root of the workspace.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the workspace's root")
}

/// Where builds go; each command with flags of its own takes a folder below it, so that none undoes
/// another's.
pub(crate) fn target_dir() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// The cargo that runs this, with arguments separated by blanks.
pub(crate) fn cargo(arguments: &str) -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments.split_whitespace()).current_dir(root());
    command
}

/// rustup, with arguments separated by blanks: how a nightly toolchain is called beside the one
/// that runs this.
pub(crate) fn nightly(arguments: &str) -> Command {
    let mut command = Command::new("rustup");
    command.args(arguments.split_whitespace()).current_dir(root()).env_remove("RUSTUP_TOOLCHAIN");
    // What the outer cargo set for itself would speak for another toolchain.
    command.env_remove("RUSTC").env_remove("RUSTDOC").env_remove("CARGO");
    command
}

/// Whether a program can be started and says that all is well; what it prints is nobody's business.
pub(crate) fn succeeds(command: &mut Command) -> bool {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// Runs one step and says which.
pub(crate) fn run(what: &str, command: &mut Command) -> Result<(), Failure> {
    eprintln!("── {what}");
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(Failure::Failed(format!("{what}: {status}"))),
        Err(error) => {
            Err(Failure::Failed(format!("{what}: {} did not start: {error}", program(command))))
        }
    }
}

/// Refuses arguments, for commands that take none.
pub(crate) fn no_arguments(command: &str, arguments: &[String]) -> Result<(), Failure> {
    match arguments.first() {
        None => Ok(()),
        Some(first) => {
            Err(Failure::Usage(format!("{command} takes no arguments, but was given '{first}'")))
        }
    }
}

/// Of what and when a record is: the commit, with a `+` where files differ from it, and the day.
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
