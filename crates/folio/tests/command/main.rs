//! Tests of the command `folio`, started as a separate process.

mod bench;
mod careless_traces;
mod policy;
mod torture;

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

/// Returns the command with arguments.
pub(crate) fn folio(arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_folio"));
    command.args(arguments);
    command
}

/// Returns `folio torture DIR` with two readers and a JSON report.
pub(crate) fn torture(dir: &Path, seconds: u64, more: &[&str]) -> Command {
    let mut command =
        folio(["torture", "--json", "--threads", "2", "--seconds", &seconds.to_string()]);
    command.args(more).arg(dir);
    command
}

/// Returns the JSON report of a run. Panics if the run did not pass.
#[track_caller]
pub(crate) fn passed(output: &Output) -> Value {
    let (out, err) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{}\n{out}\n{err}", output.status);
    serde_json::from_str(&out).unwrap_or_else(|error| panic!("no JSON: {error}\n{out}\n{err}"))
}

/// Returns the error text of a run that refused its arguments: exit status 2, empty stdout.
#[track_caller]
pub(crate) fn refused(output: &Output) -> String {
    let (out, err) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!((output.status.code(), &*out), (Some(2), ""), "{err}");
    assert!(err.starts_with("error: ") && !err.contains("panicked"), "{err}");
    err.into_owned()
}
