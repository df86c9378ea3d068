//! The example runs small: a scheduler and executors as processes, one of which dies.

use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

/// Returns the program of the example, which cargo builds beside the tests.
fn program() -> PathBuf {
    let test = std::env::current_exe().expect("the path of this test");
    let folder = test.parent().and_then(|deps| deps.parent()).expect("a folder of builds");
    let program = folder.join("examples/cluster");
    assert!(
        program.exists(),
        "{} is missing: build it by `cargo build --example cluster` with the profile of the tests",
        program.display()
    );
    program
}

#[test]
fn executors_keep_their_bytes_and_answers_survive_a_death() {
    let output = Command::new(program())
        .args(["--executors", "2", "--scale", "0.01", "--group-rows", "2000", "--delay", "1"])
        .args(["--partitions", "16", "--queries", "1,3,5,6,9,18,21", "--json"])
        .output()
        .expect("the example starts");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}\n{errors}", output.status);
    let record: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let number =
        |name: &str| record[name].as_f64().unwrap_or_else(|| panic!("no {name}: {record}"));
    assert!(number("second_run_from_caches") >= 0.98, "{record:#}");
    // The bytes of the executor that left belong to those that had them before.
    assert!(number("read_again_after_leave") <= 0.05, "{record:#}");
    let runs = record["runs"].as_array().expect("runs");
    assert_eq!(runs.len(), 5, "the cluster works after a death too: {record:#}");
    for part in runs[0]["executors"].as_array().expect("executors") {
        assert!(part["fetched"].as_u64() > Some(0), "each executor has a part: {record:#}");
    }
    // On a busy machine an executor may be behind for a moment.
    let tasks = |what: &str| record["scheduler"][what].as_u64().expect("a number");
    assert!(tasks("spilled") * 50 <= tasks("at_home"), "{record:#}");
}
