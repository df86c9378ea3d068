//! `folio policy`: traces of each format, and bad ones.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use serde_json::Value;

use crate::{folio, passed, refused};

/// Writes a trace into a folder. Returns its path.
fn trace(dir: &Path, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
    let path = dir.join(name);
    fs::write(&path, bytes).unwrap();
    path
}

fn run(path: &Path, more: &[&str]) -> Output {
    folio(["policy", "--json"]).args(more).arg(path).output().unwrap()
}

/// Returns the hit ratio of a policy in a report.
fn ratio(report: &Value, policy: &str, frames: u64) -> f64 {
    let rows = report["rows"].as_array().unwrap();
    let is_it = |row: &&Value| row["policy"] == policy && row["frames"] == frames;
    rows.iter().find(is_it).unwrap()["hit_ratio"].as_f64().unwrap()
}

/// Returns a loop of 600 pages, as numbers.
fn pages() -> impl Iterator<Item = u64> {
    (0..6000).map(|n| (1 << 60) + n % 600)
}

fn records() -> Vec<u8> {
    let record = |(at, page): (usize, u64)| {
        let mut record = (at as u32).to_le_bytes().to_vec();
        record.extend(page.to_le_bytes());
        record.extend(4096_u32.to_le_bytes());
        record.extend((-1_i64).to_le_bytes());
        record
    };
    pages().enumerate().flat_map(record).collect()
}

#[test]
fn each_format_gives_the_same_hits() {
    let dir = tempfile::tempdir().unwrap();
    let lines = |line: &dyn Fn(u64) -> String| pages().map(line).collect::<String>();
    let traces = [
        ("lirs", "lirs", lines(&|page| format!("{page}\n")).into_bytes()),
        ("arc", "arc", lines(&|page| format!("{page} 1 0 9\n")).into_bytes()),
        ("csv", "csv", ("time,obj_id\n".to_owned() + &lines(&|page| format!("1,{page}\n"))).into()),
        ("oracle-general", "bin", records()),
    ];
    for (format, name, bytes) in traces {
        let report = passed(&run(&trace(dir.path(), name, bytes), &["--frames", "512,1024"]));
        assert_eq!(report["traces"][0]["format"], format);
        assert_eq!(report["traces"][0]["pages"], 600);
        for policy in ["hot-cold", "s3-fifo", "sieve", "clock", "belady"] {
            assert!((ratio(&report, policy, 1024) - 0.9).abs() < 1e-9, "{format}, {policy}");
        }
        assert!(ratio(&report, "clock", 512) < 1e-9, "{format}");
        assert!(ratio(&report, "belady", 512) > 0.75, "{format}");
    }
}

#[test]
fn offsets_in_bytes_are_pages_of_each_file() {
    let dir = tempfile::tempdir().unwrap();
    let text = "file,offset,length\na,0,8192\nb,0,1\na,4096,1\na,100,0\n";
    let report = passed(&run(&trace(dir.path(), "t", text), &[]));
    assert_eq!(
        (&report["traces"][0]["references"], &report["traces"][0]["pages"]),
        (&4.into(), &3.into())
    );
}

#[test]
fn a_plot_shows_each_policy() {
    let dir = tempfile::tempdir().unwrap();
    let (path, plot) = (trace(dir.path(), "t", "1\n2\n1\n"), dir.path().join("plot.svg"));
    let output = folio(["policy", "--plot"]).arg(&plot).arg(&path).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && text.contains("3 references to 2 pages"), "{text}");
    let plot = fs::read_to_string(plot).unwrap();
    assert!(
        ["hot-cold", "s3-fifo", "sieve", "clock", "belady"].iter().all(|name| plot.contains(name))
    );
}

#[test]
fn bad_traces_are_refused_with_the_place() {
    let dir = tempfile::tempdir().unwrap();
    let whole = records();
    let bad: [(&str, &[u8], &str); 10] = [
        ("empty", b"", "the trace is empty"),
        ("unknown", b"hello world\n", "the format is unknown"),
        ("elf", b"\x7fELF\0\0\0\0", "the format is unknown"),
        ("cut", &whole[..whole.len() - 5], "record 6000: the trace is cut short"),
        ("words", b"1\n2\nthree\n", "line 3: \"three\" is not a page number"),
        ("large", b"1\n18446744073709551616\n", "at most 64 bits"),
        ("arc", b"1 1 0 0\n2 1\n", "line 2: 4 numbers are wanted, 2 found"),
        ("open", b"obj_id,x\n\"a\nb\",2\n3,4\n", "line 2: a quote is not closed"),
        ("many", b"1 99999999 0 0\n", "a request of 99999999 pages"),
        ("end", b"18446744073709551615 2 0 0\n", "past the addresses of 64 bits"),
    ];
    for (name, bytes, message) in bad {
        let error = refused(&run(&trace(dir.path(), name, bytes), &[]));
        assert!(error.contains(message) && error.contains(name), "{name}: {error}");
    }
    let error = refused(&run(&trace(dir.path(), "stars", "*\n*\n"), &["--format", "lirs"]));
    assert!(error.contains("the trace has no references"), "{error}");
    let error = refused(&run(&dir.path().join("absent"), &[]));
    assert!(error.contains("absent"), "{error}");
}

#[test]
fn bad_options_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = trace(dir.path(), "t", "1\n2\n");
    let error = refused(&run(&path, &["--frames", "513"]));
    assert!(error.contains("frame count 513 is not a multiple of 512 (2 MiB)"), "{error}");
    for frames in ["-5", "0", "many"] {
        let error = refused(&run(&path, &["--frames", frames]));
        let wanted = format!("{frames} is not a number of frames: give multiples of 512");
        assert!(error.contains(&wanted), "{error}");
    }
    let error = refused(&run(&path, &["--policy", "lru"]));
    assert!(error.contains("policy \"lru\" is unknown") && error.contains("hot-cold"), "{error}");
}

#[test]
fn an_error_of_a_recording_names_the_recording() {
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let cache = folio_cache::Cache::builder().capacity(4 << 20).record_uses(full, 1);
    let error = cache.build().map(drop).unwrap_err();
    assert!(error.to_string().starts_with("the recording of uses cannot be"), "{error}");
    assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
    assert_eq!(folio_cache::raw_os_error(&error), Some(28));
}

/// A cache records its uses, and the command reads them back.
#[test]
fn what_a_cache_records_is_replayed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("uses");
    let uses = fs::File::create(&path).unwrap();
    let cache = folio_cache::Cache::builder().capacity(4 << 20).record_uses(uses, 1);
    let cache = cache.build().unwrap();
    let file = cache.create(dir.path().join("data")).unwrap();
    for n in 0..300_u64 {
        file.write_all_at(&[7; 100], n % 100 * 4096).unwrap();
    }
    for n in 0..700_u64 {
        file.read_exact_at(&mut [0; 64], n % 100 * 4096).unwrap();
    }
    drop((file, cache));
    let report = passed(&run(&path, &["--frames", "512"]));
    assert_eq!(report["traces"][0]["format"], "folio");
    assert_eq!(report["traces"][0]["pages"], 100);
    let references = report["traces"][0]["references"].as_u64().unwrap();
    assert!((1000..1200).contains(&references), "{references}");
    let clock = ratio(&report, "clock", 512);
    assert!((clock - (1.0 - 100.0 / references as f64)).abs() < 1e-9, "{clock}");
    // A full disk ended it within a use.
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() - 3]).unwrap();
    let report = passed(&run(&path, &["--frames", "512"]));
    assert_eq!(report["traces"][0]["references"], references - 1);
    let note = report["notes"].to_string();
    assert!(note.contains("the recording ended within a use"), "{note}");
    // Or within its header.
    fs::write(&path, &bytes[..17]).unwrap();
    let error = refused(&run(&path, &[]));
    assert!(error.contains("cut short"), "{error}");
}
