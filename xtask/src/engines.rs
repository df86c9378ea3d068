//! `cargo x engines`: checks the members of `integrations/` that build for minutes, `DataFusion`
//! and Ballista over folio. They are no part of `.ci/run`: their last record is kept instead.

use std::fmt::Write as _;
use std::fs;
use std::time::Instant;

use crate::step::{self, Failure, cargo, commit_and_day, root};

const RESULTS: &str = "results/engines.md";

/// Both packages at once, so that they share the features of their dependencies, and one profile:
/// nothing is built twice.
const WHAT: &str = "--profile engines -p folio-datafusion -p folio-ballista";

pub(crate) fn run(arguments: &[String]) -> Result<(), Failure> {
    if let Some(unknown) = arguments.iter().find(|argument| *argument != "--save") {
        return Err(Failure::Usage(format!(
            "engines has no argument '{unknown}'; there is --save"
        )));
    }
    let mut report = String::from("| command | s |\n| --- | --- |\n");
    for command in [
        format!("clippy {WHAT} --all-targets -- -D warnings"),
        // Not `--all-targets`: that makes tests of the examples, and one test starts an example.
        format!("test {WHAT}"),
    ] {
        let started = Instant::now();
        // Into the folder that a plain `cargo` uses there, so that it is built once.
        let mut cargo = cargo(&command);
        cargo.current_dir(root().join("integrations"));
        step::run(&format!("{command}, in integrations"), &mut cargo)?;
        let _ = writeln!(report, "| `cargo {command}` | {} |", started.elapsed().as_secs());
    }
    if arguments.is_empty() {
        return Ok(());
    }
    let text = format!(
        "# DataFusion and Ballista over folio\n\nWritten by `cargo x engines --save` {}.\nBoth \
         passed in `integrations/`. The times include what had to be built.\n\n{report}",
        commit_and_day()
    );
    fs::write(root().join(RESULTS), text)
        .map_err(|error| Failure::Failed(format!("{RESULTS}: {error}")))
}
