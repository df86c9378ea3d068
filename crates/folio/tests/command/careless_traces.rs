//! `folio policy` with traces and options as careless users give them.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::{folio, passed, refused};

/// A folder with traces.
struct Traces(TempDir);

impl Traces {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        path
    }

    /// Plays a trace by Belady's policy. Returns its entry in the report.
    fn played(&self, name: &str, bytes: impl AsRef<[u8]>, more: &[&str]) -> Value {
        let report = passed(&run([self.write(name, bytes)], more));
        report["traces"][0].clone()
    }

    #[track_caller]
    fn refused(&self, name: &str, bytes: impl AsRef<[u8]>, more: &[&str], message: &str) {
        let error = refused(&run([self.write(name, bytes)], more));
        assert!(error.contains(name) && error.contains(message), "{name}: {error}");
    }
}

fn command(files: impl IntoIterator<Item = impl AsRef<Path>>, more: &[&str]) -> Command {
    let mut command = folio(["policy", "--json", "--policy", "belady"]);
    command.args(more).args(files.into_iter().map(|file| file.as_ref().to_owned()));
    command
}

fn run(files: impl IntoIterator<Item = impl AsRef<Path>>, more: &[&str]) -> Output {
    command(files, more).output().unwrap()
}

#[track_caller]
fn assert_counts(trace: &Value, references: u64, pages: u64) {
    assert_eq!((&trace["references"], &trace["pages"]), (&references.into(), &pages.into()));
}

#[test]
fn marks_blank_lines_and_repeated_headers_are_no_references() {
    let traces = Traces::new();
    assert_counts(&traces.played("mark", "\u{feff}1\r\n2\r\n1\r\n", &[]), 3, 2);
    let header = "page,size";
    for (name, text) in [
        ("mark.csv", format!("\u{feff}{header}\n1,4096\n2,4096\n1,1\n")),
        ("blank.csv", format!("\n\n{header}\n1,4096\n2,8\n1,4\n")),
        ("joined.csv", format!("{header}\n1,2\n2,2\n\u{feff}{header}\r\n1,2\n")),
    ] {
        let trace = traces.played(name, text, &[]);
        assert_counts(&trace, 3, 2);
        assert_eq!(trace["column"], "page", "{name}");
    }
}

#[test]
fn a_csv_file_names_its_column_or_is_refused() {
    let traces = Traces::new();
    let no_name = "names no column with pages";
    traces.refused("header", "time,op,address\n1,R,5\n2,W,6\n", &[], no_name);
    traces.refused("comment", "# a, b\n1,5\n", &[], no_name);
    let report = passed(&run([traces.write("text", "1,foo\n2,bar\n3,foo\n")], &[]));
    let (text, note) = (report["traces"][0].clone(), report["notes"].to_string());
    assert!(note.contains("column 2 was taken for the pages, and it has no number"), "{note}");
    let report = passed(&run([traces.write("mixed", "1,foo\n2,7\n")], &[]));
    assert_eq!(report["notes"].as_array().unwrap().len(), 0, "{report}");
    assert_counts(&text, 3, 2);
    assert_eq!(text["column"], "2");
    let quoted = "path,offset,length\n\"a,b\",0,4096\n\"a,c\",0,4096\n\"a,b\",5,8\n";
    assert_counts(&traces.played("quoted", quoted, &[]), 3, 2);
    for text in ["1\t5\n2\t6\n", "1;5\n2;6\n", "1 1 0 0\n1 1 0 1\n"] {
        traces.refused("other", text, &["--format", "csv"], "separated by");
    }
    traces.refused("mac", "1,5\r2,6\r", &[], "end with CR alone");
    traces.refused("negative", "offset,length\n-5,10\n", &[], "line 2: \"-5\" is not an offset");
}

#[test]
fn requests_of_no_pages_are_left_out_and_counted() {
    let traces = Traces::new();
    for (name, text) in
        [("arc", "5 0 0 1\n6 1 0 2\n6 0 0 3\n"), ("csv", "offset,length\n0,0\n4096,1\n9,0\n")]
    {
        let report = passed(&run([traces.write(name, text)], &[]));
        assert_counts(&report["traces"][0], 1, 1);
        let note = report["notes"][0].as_str().unwrap();
        assert!(note.contains("2 requests of no pages left out"), "{note}");
    }
}

#[test]
fn unknown_formats_say_what_they_may_be() {
    let traces = Traces::new();
    let mut bzip2 = b"BZh91AY&SY".to_vec();
    bzip2.extend(0..60);
    traces.refused("t.bz2", bzip2, &[], "it may be packed by bzip2");
    traces.refused("t.zip", b"PK\x03\x04\x14\0", &[], "it may be packed by zip");
    traces.refused("t.tar", [&[0; 257][..], b"ustar"].concat(), &[], "packed by tar");
    traces.refused("wide", b"1\0\n\x002\0\n\0", &[], "it may be text in UTF-16");
    traces.refused("tabs", "1\t5\n", &[], "it begins with the line \"1\\t5\"");
    for text in ["\n", "*\n*\n", "\n \r\n\n", "\u{feff}\n"] {
        traces.refused("none", text, &[], "the trace has no references");
    }
    let forced = ["--format", "oracle-general"];
    traces.refused("text", "1,2\n3,4\n5,6\n7,8\n9,0\n1,2\n", &forced, "the trace is text");
}

/// A pipe gives what there is: the first bytes may be less than a line.
#[test]
fn a_slow_pipe_has_the_format_of_its_first_line() {
    let mut child = command(["-"], &[])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut pipe = child.stdin.take().unwrap();
    for piece in ["1", " 1 0 0\n2 1", " 0 1\n"] {
        pipe.write_all(piece.as_bytes()).unwrap();
        thread::sleep(Duration::from_millis(100));
    }
    drop(pipe);
    let report = passed(&child.wait_with_output().unwrap());
    assert_eq!(report["traces"][0]["format"], "arc");
    assert_counts(&report["traces"][0], 2, 2);
}

#[test]
fn a_recording_of_any_share_has_sizes() {
    let traces = Traces::new();
    let recording =
        |one_in: u32| [folio_cache::USES_MAGIC, &one_in.to_le_bytes()[..], &[1; 16]].concat();
    let report = passed(&run([traces.write("least", recording(1 << 24))], &[]));
    assert_eq!(report["rows"][0]["frames"], 1_u64 << 33);
    for one_in in [0, 3, 1 << 25, 1 << 31] {
        traces.refused("odd", recording(one_in), &[], "no trace that folio recorded");
    }
}

#[test]
fn sizes_beyond_the_memory_are_refused_before_any_is_played() {
    let traces = Traces::new();
    let path = traces.write("t", "1\n2\n");
    let most = (u64::MAX / 512 * 512).to_string();
    for frames in ["512,4294966784", &*most] {
        let arguments = ["policy", "--json", "--frames", frames];
        let error = refused(&folio(arguments).arg(&path).output().unwrap());
        assert!(error.contains("fit in free memory: give smaller sizes"), "{error}");
        // Belady's policy takes no memory for pages.
        passed(&run([&path], &["--frames", frames]));
    }
}

#[test]
fn a_bad_trace_does_not_lose_the_results_of_the_others() {
    let traces = Traces::new();
    let files = [("good", "1\n2\n1\n"), ("bad", "1\ntwo\n"), ("last", "1\n")];
    let output = run(files.map(|(name, text)| traces.write(name, text)), &[]);
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{error}");
    assert!(error.contains("bad: line 2: \"two\""), "{error}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let names: Vec<_> = report["traces"].as_array().unwrap().iter().map(|t| &t["trace"]).collect();
    assert_eq!(names, ["good", "last"]);
    assert!(report["notes"][0].as_str().unwrap().contains("bad was not played"));
    // One that is not there is said before any is played.
    let absent = traces.0.path().join("absent");
    let error = refused(&run([traces.write("good", "1\n"), absent], &[]));
    assert!(error.contains("absent"), "{error}");
    let error = refused(&run([traces.0.path()], &[]));
    assert!(error.contains("is a directory: give the traces in it"), "{error}");
}

#[test]
fn a_trace_is_played_once_and_its_rows_are_told_apart() {
    let traces = Traces::new();
    let files = [traces.write("a/t", "1\n"), traces.write("b/t", "1\n1\n")];
    let report = passed(&run(&files, &["--frames", "1024,512,512"]));
    let rows = report["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 4, "{report}");
    assert_eq!(rows[0]["frames"], 512);
    assert_ne!(rows[0]["trace"], rows[2]["trace"]);
    let error = refused(&run([&files[0], &files[1], &files[0]], &[]));
    assert!(error.contains("are the same trace: give it once"), "{error}");
}

#[test]
fn a_plot_never_replaces_a_trace() {
    let traces = Traces::new();
    let path = traces.write("t", "1\n2\n");
    let error = refused(&run([&path], &["--plot", path.to_str().unwrap()]));
    assert!(error.contains("the plot would replace the trace"), "{error}");
    let stdin = fs::File::open(&path).unwrap();
    let plot = ["--plot", path.to_str().unwrap()];
    let error = refused(&command(["-"], &plot).stdin(stdin).output().unwrap());
    assert!(error.contains("the plot would replace the trace -"), "{error}");
    assert_eq!(fs::read_to_string(path).unwrap(), "1\n2\n");
}

/// The largest size of a file stands for a full disk.
#[test]
fn a_full_disk_is_named() {
    let traces = Traces::new();
    let path = traces.write("t", "1\n".repeat(100_000));
    let shell = "ulimit -f 1; exec \"$0\" policy \"$1\"";
    let output = Command::new("sh")
        .args(["-c", shell, env!("CARGO_BIN_EXE_folio")])
        .arg(&path)
        .env("TMPDIR", traces.0.path())
        .output()
        .unwrap();
    let error = refused(&output);
    let folder = traces.0.path().to_str().unwrap();
    assert!(error.contains(folder) && error.contains("set TMPDIR"), "{error}");
}

/// Starts a run that reads the standard input, and sends it `text`. Returns its report after one
/// signal.
fn interrupted(file: &Path, text: &str, more: &[&str]) -> Value {
    let mut run = command([file], more);
    let run = run.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut run = run.unwrap();
    let mut pipe = run.stdin.take().unwrap();
    pipe.write_all(text.as_bytes()).unwrap();
    let (id, begin) = (run.id().to_string(), Instant::now());
    // Until it handles signals, one ends it.
    while !fs::read_to_string(format!("/proc/{id}/status")).unwrap().lines().any(catches_signals) {
        thread::sleep(Duration::from_millis(5));
        assert!(begin.elapsed() < Duration::from_mins(1), "it handles no signal");
    }
    // Until it has read what was sent.
    while rustix::io::ioctl_fionread(&pipe).unwrap() > 0 {
        thread::sleep(Duration::from_millis(5));
        assert!(begin.elapsed() < Duration::from_mins(1), "it does not read");
    }
    thread::sleep(Duration::from_millis(200));
    assert!(Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
    let asked = Instant::now();
    while run.try_wait().unwrap().is_none() && asked.elapsed() < Duration::from_mins(1) {
        thread::sleep(Duration::from_millis(10));
    }
    let _ = run.kill();
    let report = passed(&run.wait_with_output().unwrap());
    drop(pipe);
    report
}

/// Returns `true` if a line of the status of a process says that it handles SIGTERM.
fn catches_signals(line: &str) -> bool {
    let caught =
        line.strip_prefix("SigCgt:").and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    caught.is_some_and(|mask| mask & 1 << 14 != 0)
}

#[test]
fn one_signal_ends_a_wait_for_a_trace() {
    let traces = Traces::new();
    let fifo = traces.0.path().join("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let stdin = Path::new("-");
    for (file, text) in [(&*fifo, ""), (stdin, ""), (stdin, "*\n*\n")] {
        let report = interrupted(file, text, &[]);
        assert!(report["notes"].to_string().contains("stopped early"), "{report}");
    }
    // What came before is played.
    let report = interrupted(stdin, "1\n2\n1\n", &[]);
    assert_counts(&report["traces"][0], 3, 2);
    // A plot of an earlier run is not replaced by an empty one.
    let plot = traces.write("plot", "<svg/>");
    interrupted(&fifo, "", &["--plot", plot.to_str().unwrap()]);
    assert_eq!(fs::read_to_string(&plot).unwrap(), "<svg/>");
}

/// As timeout(1) does it: two signals, which the process may see as two.
#[test]
fn two_signals_at_once_end_the_run_with_a_report() {
    for _ in 0..3 {
        let mut run =
            command(["-"], &[]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut pipe = run.stdin.take().unwrap();
        let trace = "1\n2\n3\n".repeat(100_000);
        // A trace without an end.
        let writer = thread::spawn(move || while pipe.write_all(trace.as_bytes()).is_ok() {});
        thread::sleep(Duration::from_millis(300));
        for _ in 0..2 {
            let id = run.id().to_string();
            assert!(Command::new("kill").args(["-INT", &id]).status().unwrap().success());
            thread::sleep(Duration::from_millis(5));
        }
        let report = passed(&run.wait_with_output().unwrap());
        writer.join().unwrap();
        let notes = report["notes"].to_string();
        assert!(notes.contains("stopped early: not all traces and sizes"), "{notes}");
        assert!(notes.contains("only the first references were read"), "{notes}");
    }
}
