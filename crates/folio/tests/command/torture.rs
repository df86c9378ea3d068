//! `folio torture` on good directories, on unusable ones, and on one that changes during the run.
//!
//! `cargo x seeded-bugs` shows that torture notices a broken cache.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::{folio, passed, refused, torture};
use serde_json::Value;

/// Writes `n` files of `len` bytes that differ everywhere.
fn fill(dir: &Path, n: usize, len: usize) {
    let mut random = fastrand::Rng::with_seed(len as u64);
    for n in 0..n {
        let mut bytes = vec![0; len];
        random.fill(&mut bytes);
        fs::write(dir.join(format!("file-{n}")), bytes).unwrap();
    }
}

fn number(report: &Value, key: &str) -> u64 {
    report.pointer(key).and_then(Value::as_u64).unwrap_or_else(|| panic!("no {key} in {report:#}"))
}

#[test]
fn every_scheme_passes_and_every_number_is_reported() {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path(), 40, 400_000);
    for scheme in [
        "zero-frozen",
        "guess-one",
        "frozen-bit",
        "live-bit-high",
        "live-bit-low",
        "generational",
        "tagged",
    ] {
        let report = passed(
            &torture(dir.path(), 1, &["--scheme", scheme, "--seed", "7", "--memory", "16M"])
                .output()
                .unwrap(),
        );
        assert_eq!((&report["scheme"], number(&report, "/seed")), (&scheme.into(), 7));
        assert_eq!((number(&report, "/threads"), number(&report, "/files")), (2, 40));
        for key in [
            "/reads",
            "/bytes",
            "/migrated",
            "/offlined",
            "/onlined",
            "/refused/free",
            "/walked",
            "/split",
            "/contiguous",
            "/forked",
            "/killed",
        ] {
            assert!(number(&report, key) > 0, "{key} is 0 in {report:#}");
        }
        for key in [
            "/compacted",
            "/shrunk",
            "/promised",
            "/reclaimed",
            "/busy",
            "/refused/frozen",
            "/refused/tail",
            "/refused/moved",
        ] {
            number(&report, key);
        }
        for key in ["/wrong_bytes", "/broken_rules", "/leaked_frames", "/changed", "/skipped"] {
            assert_eq!(number(&report, key), 0, "{report:#}");
        }
        let (seconds, hits) =
            (report["seconds"].as_f64().unwrap(), report["hit_ratio"].as_f64().unwrap());
        assert!(seconds >= 1.0 && (0.0..=1.0).contains(&hits), "{report:#}");
    }
}

#[test]
fn the_table_and_the_plot_are_written() {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path(), 4, 100_000);
    let plot = dir.path().join("plot.svg");
    let mut command = folio(["torture", "--seconds", "1", "--plot"]);
    let output = command.arg(&plot).arg(dir.path()).output().unwrap();
    let table = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{table}");
    for row in [
        "hit ratio",
        "refused: tail, moved on",
        "blocks offlined, onlined",
        "processes forked, killed; writes promised",
        "wrong bytes",
        "passed: ",
    ] {
        assert!(table.contains(row), "no '{row}' in\n{table}");
    }
    assert!(!table.contains('\u{1b}'), "colour codes, although the output is not a terminal");
    let plot = fs::read_to_string(plot).unwrap();
    assert!(plot.starts_with("<svg") && plot.trim_end().ends_with("</svg>"), "{plot}");
}

#[test]
fn an_unwritable_plot_path_is_named_before_the_run() {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path(), 1, 5000);
    let plot = dir.path().join("no/such/folder.svg");
    let output = torture(dir.path(), 1, &["--plot", plot.to_str().unwrap()]).output().unwrap();
    assert!(refused(&output).contains("no/such/folder.svg"));
    let output =
        torture(dir.path(), 1, &["--plot", dir.path().to_str().unwrap()]).output().unwrap();
    assert!(refused(&output).contains("it is a directory"));
}

#[test]
fn a_plot_never_replaces_a_file_that_is_read() {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path(), 2, 5000);
    let (file, link) = (dir.path().join("file-1"), dir.path().join("link"));
    symlink(&file, &link).unwrap();
    let before = fs::read(&file).unwrap();
    for plot in [&file, &link] {
        let more = ["--plot", plot.to_str().unwrap()];
        let text = refused(&torture(dir.path(), 1, &more).output().unwrap());
        assert!(text.contains("file-1, which is read: give --plot another path"), "{text}");
    }
    assert_eq!(fs::read(&file).unwrap(), before);
}

#[test]
fn the_report_is_printed_even_if_the_plot_fails() {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path(), 1, 5000);
    let output = torture(dir.path(), 1, &["--plot", "/dev/full"]).output().unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).expect("a report on stdout");
    assert!(number(&report, "/reads") > 0, "{report:#}");
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(text.contains("/dev/full cannot be written"), "{text}");
    // And the plot is written even if the report cannot be printed.
    let (plot, full) = (dir.path().join("plot.svg"), File::options().write(true).open("/dev/full"));
    let mut run = torture(dir.path(), 1, &["--plot", plot.to_str().unwrap()]);
    assert_eq!(run.stdout(full.unwrap()).status().unwrap().code(), Some(2));
    assert!(fs::read_to_string(plot).unwrap().contains("</svg>"));
}

#[test]
fn an_unusable_directory_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a-file");
    let empty = dir.path().join("empty");
    let hollow = dir.path().join("hollow");
    fs::write(&file, "x").unwrap();
    fs::create_dir(&empty).unwrap();
    fs::create_dir(&hollow).unwrap();
    fs::write(hollow.join("nothing"), "").unwrap();
    for (dir, reason) in [
        (dir.path().join("missing").as_path(), "missing cannot be read: No such file"),
        (&file, "a-file is not a directory"),
        (&empty, "empty has no file to read: 0 entries"),
        (&hollow, "hollow has no file to read: 1 entries"),
    ] {
        let text = refused(&torture(dir, 1, &[]).output().unwrap());
        assert!(text.contains(reason), "'{reason}' is not in: {text}");
    }
}

#[test]
fn an_error_that_cannot_be_printed_keeps_its_exit_status() {
    let full = || fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    for arguments in [&["torture", "/nonexistent"][..], &["torture", "--threads", "0"]] {
        let status = folio(arguments).stderr(full()).status().unwrap();
        assert_eq!(status.code(), Some(2), "{arguments:?}");
    }
}

/// No thread has room for so large a stack.
#[test]
fn a_thread_that_cannot_start_ends_the_run() {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path(), 3, 5000);
    let mut run = torture(dir.path(), 600, &[]);
    let output = run.env("RUST_MIN_STACK", (1_u64 << 60).to_string()).output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0), "{text}");
    assert!(text.contains("only 0 of 13 threads could be started: give fewer"), "{text}");
    assert!(!text.contains("panicked"), "{text}");
}

/// A cache reads no pseudo files: no user can read these through it.
#[test]
fn a_run_that_reads_nothing_does_not_pass() {
    let pseudo = Path::new("/sys/kernel/mm/transparent_hugepage");
    if fs::read_dir(pseudo).is_err() {
        eprintln!("skipped: no {}", pseudo.display());
        return;
    }
    let text = refused(&torture(pseudo, 1, &[]).output().unwrap());
    assert!(text.contains("no file could be read: /sys/kernel/mm/"), "{text}");
}

#[test]
fn a_wrong_option_is_refused_with_the_allowed_values() {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path(), 1, 5000);
    for (option, value, reason) in [
        ("--memory", "12Q", "'12Q' is not a size"),
        ("--memory", "-5", "'-5' is not a size"),
        ("--memory", "many", "'many' is not a size"),
        ("--memory", "900000G", "900000.00 GiB"),
        ("--memory", "99999999T", "exceeds the maximum of 10^18 bytes"),
        ("--threads", "0", "0 is not in 1..=1024"),
        ("--threads", "5000", "5000 is not in 1..=1024"),
        ("--seconds", "0", "0 is not in 1..=86400"),
        ("--seconds", "-1", "-1 is not in 1..=86400"),
        ("--threads", "-1", "-1 is not in 1..=1024"),
        ("--scheme", "best", "possible values: zero-frozen, guess-one"),
        ("--seed", "x", "invalid value 'x'"),
    ] {
        let output = folio(["torture", option, value]).arg(dir.path()).output().unwrap();
        let text = refused(&output);
        assert!(text.contains(reason), "{option} {value}: '{reason}' is not in: {text}");
    }
    let few = folio(["torture", "--memory", "1M", "--threads", "2"]).arg(dir.path()).output();
    let text = refused(&few.unwrap());
    assert!(text.contains("with --threads 2 it must be 4 MiB to "), "{text}");
}

#[test]
fn special_files_are_read_or_counted_as_skipped() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    // Read: a sparse file longer than any memory, a name that is not UTF-8, odd lengths.
    File::create(at("sparse")).unwrap().set_len(1 << 40).unwrap();
    fs::write(dir.path().join(OsStr::from_bytes(b"not-utf8-\xff\xfe")), "some bytes").unwrap();
    fs::write(at("one-byte"), "1").unwrap();
    fs::write(at("a-page"), [7; 4096]).unwrap();
    fs::write(at("a-page-and-one"), [8; 4097]).unwrap();
    // Skipped: an empty file, a pipe, a link to itself, a link to the parent directory, a dangling
    // link.
    fs::write(at("empty"), "").unwrap();
    assert!(Command::new("mkfifo").arg(at("pipe")).status().unwrap().success());
    symlink("circle", at("circle")).unwrap();
    symlink("..", at("up")).unwrap();
    symlink("nowhere", at("dangling")).unwrap();
    let report = passed(&torture(dir.path(), 1, &["--memory", "4M"]).output().unwrap());
    assert_eq!((number(&report, "/files"), number(&report, "/skipped")), (5, 5), "{report:#}");
    assert!(number(&report, "/reads") > 100, "{report:#}");
}

/// The writer begins with a copy of the first few MiB of a file and must not read the rest.
#[test]
fn a_large_file_is_not_read_into_memory_as_a_whole() {
    let dir = tempfile::tempdir().unwrap();
    File::create(dir.path().join("sparse")).unwrap().set_len(1 << 30).unwrap();
    let report = passed(&torture(dir.path(), 2, &["--memory", "4M"]).output().unwrap());
    assert!(number(&report, "/peak_rss_bytes") < 256 << 20, "{report:#}");
}

#[test]
fn a_run_without_a_temporary_directory_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path(), 1, 5000);
    let output = torture(dir.path(), 600, &[]).env("TMPDIR", "/nonexistent").output().unwrap();
    assert!(refused(&output).contains("cannot create a temporary directory"));
}

/// Runs for two seconds while this thread changes a file every few milliseconds.
fn run_while_files_change(random: &mut fastrand::Rng) -> Value {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path(), 20, 300_000);
    let mut run = torture(dir.path(), 2, &[]).stdout(Stdio::piped()).spawn().unwrap();
    let started = Instant::now();
    // Until the run ends: on a busy machine its start can be arbitrarily late.
    while run.try_wait().unwrap().is_none() && started.elapsed() < Duration::from_mins(2) {
        let path = dir.path().join(format!("file-{}", random.u8(..20)));
        match random.u8(..6) {
            0 => drop(fs::remove_file(&path)),
            1 => fs::write(&path, vec![random.u8(..); random.usize(..200_000)]).unwrap(),
            2 => drop(
                File::options()
                    .write(true)
                    .open(&path)
                    .map(|file| file.set_len(random.u64(..600_000)).unwrap()),
            ),
            3 => drop(
                File::options()
                    .append(true)
                    .open(&path)
                    .map(|mut file| file.write_all(&[1; 5000]).unwrap()),
            ),
            // The file is replaced by a pipe without a writer.
            4 => {
                let pipe = dir.path().join("pipe");
                assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
                fs::rename(pipe, &path).unwrap();
                thread::sleep(Duration::from_millis(20));
                fs::remove_file(&path).unwrap();
            }
            // The file is replaced by a directory, which is removed again.
            _ => {
                let _ = fs::remove_file(&path);
                fs::create_dir(&path).unwrap();
                thread::sleep(Duration::from_millis(2));
                fs::remove_dir(&path).unwrap();
            }
        }
        thread::sleep(Duration::from_millis(5));
    }
    passed(&run.wait_with_output().unwrap())
}

/// A change is counted if it falls between a reader's open or read of the file and its comparison.
/// On a busy machine none of the changes of a run may do so; the run is then repeated.
#[test]
fn files_that_change_during_the_run_are_counted_as_changed() {
    let mut random = fastrand::Rng::with_seed(3);
    let is_counted =
        |report: &Value| number(report, "/changed") > 0 && number(report, "/skipped") > 0;
    let found = (0..5).map(|_| run_while_files_change(&mut random)).find(is_counted);
    assert!(found.is_some(), "no change was counted in five runs");
}

/// The run blocks: it writes its plot to a FIFO that has no reader.
#[test]
fn a_second_ctrl_c_ends_a_blocked_run_at_once() {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path(), 1, 5000);
    let fifo = tempfile::tempdir().unwrap();
    let plot = fifo.path().join("plot");
    assert!(Command::new("mkfifo").arg(&plot).status().unwrap().success());
    let mut run =
        torture(dir.path(), 600, &["--plot", plot.to_str().unwrap()]).stdout(Stdio::null()).spawn();
    let run = run.as_mut().unwrap();
    thread::sleep(Duration::from_secs(1));
    for _ in 0..2000 {
        if run.try_wait().unwrap().is_some() {
            break;
        }
        assert!(
            Command::new("kill").args(["-INT", &run.id().to_string()]).status().unwrap().success()
        );
        thread::sleep(Duration::from_millis(10));
    }
    // In case it still runs.
    let _ = run.kill();
    assert_eq!(run.wait().unwrap().code(), Some(130));
}

#[test]
fn ctrl_c_ends_the_run_early_with_the_same_report() {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path(), 10, 100_000);
    // A terminal sends the signal to a whole group: also to the processes that the run forks and
    // kills.
    let mut command = torture(dir.path(), 600, &[]);
    let mut run = command.process_group(0).stdout(Stdio::piped()).spawn();
    let run = run.as_mut().unwrap();
    thread::sleep(Duration::from_secs(1));
    let asked = Instant::now();
    let group = format!("-{}", run.id());
    assert!(Command::new("kill").args(["-INT", "--", &group]).status().unwrap().success());
    let mut text = String::new();
    run.stdout.take().unwrap().read_to_string(&mut text).unwrap();
    assert_eq!(run.wait().unwrap().code(), Some(0), "{text}");
    assert!(
        asked.elapsed() < Duration::from_mins(1),
        "the run continued for {:?}",
        asked.elapsed()
    );
    let report: Value = serde_json::from_str(&text).unwrap();
    assert!(number(&report, "/reads") > 0 && number(&report, "/leaked_frames") == 0, "{report:#}");
    assert!(report["notes"].to_string().contains("stopped early"), "{report:#}");
}

/// As `nohup` starts it.
#[test]
fn a_signal_that_is_ignored_at_the_start_stays_so() {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path(), 10, 100_000);
    let run = r#"trap '' HUP; exec "$0" torture --json --threads 2 --seconds 3 "$1""#;
    let mut command = Command::new("sh");
    command.args(["-c", run, env!("CARGO_BIN_EXE_folio")]).arg(dir.path());
    let run = command.stdout(Stdio::piped()).spawn().unwrap();
    thread::sleep(Duration::from_secs(1));
    assert!(Command::new("kill").args(["-HUP", &run.id().to_string()]).status().unwrap().success());
    let report = passed(&run.wait_with_output().unwrap());
    assert!(!report["notes"].to_string().contains("stopped early"), "{report:#}");
}

/// With too few descriptors the own files cannot be compared, and on a full disk they cannot be
/// written: the largest size of a file stands for one. Neither is a fault of the cache.
#[test]
fn an_environment_at_fault_is_named_and_nothing_is_left() {
    let (dir, scratch) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fill(dir.path(), 3, 100_000);
    for (limit, name) in [("-n 24", "`ulimit -n`"), ("-f 1", "`ulimit -f`")] {
        let run = r#"exec "$0" torture --json --threads 2 --seconds 600 "$1""#;
        let shell = format!("ulimit {limit}; {run}");
        let output = Command::new("sh")
            .args(["-c", &shell, env!("CARGO_BIN_EXE_folio")])
            .arg(dir.path())
            .env("TMPDIR", scratch.path())
            .output()
            .unwrap();
        let text = refused(&output);
        assert!(text.contains("no fault of the cache was found"), "{limit}: {text}");
        assert!(text.contains(name), "{limit}: {text}");
        let left: Vec<_> = fs::read_dir(scratch.path()).unwrap().collect();
        assert!(left.is_empty(), "{limit}: {left:?}");
    }
}
