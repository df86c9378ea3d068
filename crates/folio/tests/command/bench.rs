//! `folio bench`: the shape of its output. The measured values depend on the machine.

use std::io::Read as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::{folio, passed, refused};
use serde_json::Value;

const SCHEMES: [&str; 8] = [
    "raw",
    "zero-frozen",
    "guess-one",
    "frozen-bit",
    "live-bit-high",
    "live-bit-low",
    "generational",
    "tagged",
];

#[test]
fn every_scheme_has_its_rows_and_ratios() {
    let report = passed(&folio(["bench", "word", "--seconds", "1", "--json"]).output().unwrap());
    let rows = report["rows"].as_array().unwrap();
    let most = std::thread::available_parallelism().map_or(1, usize::from) as u64;
    let notes = report["notes"].as_array().unwrap();
    for name in SCHEMES {
        for (threads, placement) in
            [(1, "one"), (most, "one"), (most, "own")].into_iter().take(most.min(3) as usize)
        {
            let is_it = |row: &&Value| {
                row["name"] == name && row["threads"] == threads && row["placement"] == placement
            };
            let Some(row) = rows.iter().find(is_it) else {
                // On a busy machine the threads may never have run at once; a note then says so.
                let note = format!("{name} at {threads} threads, {placement}: ");
                let is_noted = |noted: &Value| noted.as_str().unwrap().starts_with(&note);
                assert!(notes.iter().any(is_noted), "no row and no note '{note}': {report:#}");
                continue;
            };
            let [least, median, max] =
                ["min", "median", "max"].map(|key| row[key].as_f64().unwrap());
            assert!(0.0 < least && least <= median && median <= max, "{row:#}");
            assert_eq!(row["unit"], "ns");
        }
    }
    let ratios = report["ratios"].as_array().unwrap();
    for to in ["raw", "zero-frozen"] {
        let value = ratios.iter().find(|ratio| ratio["of"] == "generational" && ratio["to"] == to);
        let Some(value) = value else {
            // The last note gives the number of samples; any other note reports too few of them.
            assert!(notes.len() > 1, "no ratio of generational to {to}: {report:#}");
            continue;
        };
        assert!(
            value["value"].as_f64().unwrap() > 0.0
                && value["name"].is_string()
                && value["threads"].is_u64()
        );
    }
}

#[test]
fn the_table_and_the_plot_name_every_scheme() {
    let dir = tempfile::tempdir().unwrap();
    let plot = dir.path().join("word.svg");
    let output = folio(["bench", "word", "--seconds", "1", "--plot"]).arg(&plot).output().unwrap();
    let table = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{table}");
    let plot = std::fs::read_to_string(plot).unwrap();
    for name in SCHEMES {
        let noted = table.contains(&format!("note: {name} at "));
        assert!(
            table.contains(name) && (plot.contains(name) || noted),
            "no {name} in\n{table}\n{plot}"
        );
    }
}

#[test]
fn saved_results_name_the_machine_and_the_thread_overlap() {
    let dir = tempfile::tempdir().unwrap();
    let output =
        folio(["bench", "free", "--seconds", "1", "--save"]).arg(dir.path()).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let read = |name: &str| std::fs::read_to_string(dir.path().join(name)).unwrap();
    let json: Value = serde_json::from_str(&read("free.json")).unwrap();
    for key in ["processor", "kernel", "compiler", "commit"] {
        let value = json["machine"][key].as_str().unwrap();
        assert!(!value.is_empty() && read("free.txt").contains(value), "{key}: {json:#}");
    }
    let last = json["notes"].as_array().unwrap().last().unwrap().as_str().unwrap();
    assert!(
        last.contains("samples all threads ran at once") && last.contains("with its CPU"),
        "{last}"
    );
    assert!(read("free.svg").starts_with("<svg"));
}

/// Runs in a separate process: its other resident memory stays constant.
#[test]
fn a_terabyte_is_brought_up_without_touching_a_mebibyte() {
    let report = passed(&folio(["bench", "bringup", "--seconds", "1", "--json"]).output().unwrap());
    let rows = report["rows"].as_array().unwrap();
    let large: Vec<_> = rows.iter().filter(|row| row["case"] == "1TiB").collect();
    assert_eq!(large.len(), 6, "one row for each scheme where zero means frozen: {report:#}");
    for row in large {
        assert!(row["touched_bytes"].as_f64().unwrap() < f64::from(1 << 20), "{row:#}");
        assert_eq!(row["unit"], "ms");
    }
    let written = rows.iter().find(|row| row["name"] == "frozen-bit").unwrap();
    assert!(
        written["touched_bytes"].as_f64().unwrap() >= f64::from(16 << 22),
        "frozen-bit writes 16 bytes for each frame: {written:#}"
    );
}

#[test]
fn an_unknown_benchmark_is_refused_with_the_known_names() {
    let text = refused(&folio(["bench", "speed"]).output().unwrap());
    assert!(text.contains("word") && text.contains("all"), "{text}");
}

/// No thread has room for so large a stack. A thread that waits for another would wait for ever.
#[test]
fn a_measurement_without_threads_is_refused() {
    for name in ["word", "noise", "isolation"] {
        let mut run = folio(["bench", name, "--seconds", "1"]);
        let output = run.env("RUST_MIN_STACK", (1_u64 << 60).to_string()).output().unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0), "{name}: {text}");
        assert!(text.contains("only 0 of ") && !text.contains("panicked"), "{name}: {text}");
    }
}

#[test]
fn a_folder_that_takes_no_file_is_named_before_the_run() {
    // No user can place a file there, root included.
    let output = folio(["bench", "all", "--seconds", "3600", "--save", "/proc/self"]).output();
    assert!(refused(&output.unwrap()).contains("/proc/self cannot be written"));
}

/// Both signals come while the benchmark fills a file of 1 GiB.
#[test]
fn a_second_signal_leaves_no_files() {
    let dir = tempfile::tempdir().unwrap();
    let is_empty = || std::fs::read_dir(dir.path()).unwrap().next().is_none();
    let mut command = folio(["bench", "disk", "--seconds", "1"]);
    let command = command.env("TMPDIR", dir.path());
    let mut run = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    while is_empty() && run.try_wait().unwrap().is_none() {
        std::thread::sleep(Duration::from_millis(1));
    }
    for _ in 0..2 {
        let id = run.id().to_string();
        // It may have ended.
        let _ = Command::new("kill").args(["-INT", &id]).stderr(Stdio::null()).status().unwrap();
        std::thread::sleep(Duration::from_millis(350));
    }
    run.wait().unwrap();
    assert!(is_empty());
}

#[test]
fn a_closed_output_pipe_is_not_an_error() {
    let mut run = folio(["bench", "word", "--seconds", "1"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let run = run.as_mut().unwrap();
    drop(run.stdout.take());
    let mut errors = String::new();
    run.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
    assert_eq!((run.wait().unwrap().code(), &*errors), (Some(0), ""));
}

#[test]
fn a_store_beyond_all_measure_is_refused() {
    let most = u64::MAX.to_string();
    for option in ["--latency-ms", "--bandwidth-mib", "--request-us", "--held"] {
        let error = refused(&folio(["bench", "remote", option, &most]).output().unwrap());
        assert!(error.contains(option) && error.contains(&most), "{error}");
    }
}
