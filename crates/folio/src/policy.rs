//! `folio policy`: replays traces under each policy at several sizes: which policy, and how much
//! memory, for a workload?

use std::collections::{BTreeSet, HashMap};
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs;
use std::iter;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, bail};
use folio_bench::replay::{self, FRAMES_OF_2_MIB, Player, References, Spool};
use serde_json::{Value, json};

use crate::bench::{bar, write};
use crate::cli::Policy;
use crate::curves::{self, Curve};
use crate::machine::{self, Machine};
use crate::{check_place, each, say, table};

/// The name of the policy that knows the future.
const BELADY: &str = "belady";

/// The path that means the standard input.
const STDIN: &str = "-";

/// The most sizes that are chosen if none are given.
const SIZES: usize = 8;

/// The hit ratio of one policy at one size.
struct Row {
    policy: &'static str,
    frames: u64,
    hit_ratio: f64,
}

/// A trace, and what was found out of it.
struct Played {
    name: String,
    format: &'static str,
    /// The column of a CSV file.
    column: Option<String>,
    references: u64,
    pages: u32,
    one_in: u32,
    rows: Vec<Row>,
    notes: Vec<String>,
}

pub(crate) fn run(options: &Policy, stop: &'static AtomicBool) -> Result<ExitCode> {
    if let Some(path) = &options.plot {
        check_place(path)?;
    }
    check_files(options)?;
    if let Some(frames) =
        options.frames.iter().find(|frames| !frames.is_multiple_of(FRAMES_OF_2_MIB.into()))
    {
        bail!("frame count {frames} is not a multiple of {FRAMES_OF_2_MIB} (2 MiB)");
    }
    let players = players(options)?;
    let names = names(&options.files);
    let (mut all, mut failed) = (Vec::new(), Vec::new());
    for (n, (path, name)) in options.files.iter().zip(&names).enumerate() {
        if !stop.load(Ordering::Relaxed) {
            let done = n as f64 / options.files.len() as f64;
            match play(path, name, options, &players, done, stop) {
                Ok(played) => all.push(played),
                // It has no reference yet.
                Err(_) if stop.load(Ordering::Relaxed) => {}
                // The results of the others are not lost.
                Err(error) => failed.push((name, format!("{error:#}"))),
            }
        }
    }
    let mut notes: Vec<String> = all.iter().flat_map(|played| played.notes.clone()).collect();
    if stop.load(Ordering::Relaxed) {
        notes.push("stopped early: not all traces and sizes were played".to_owned());
    }
    notes.extend(failed.iter().map(|(name, error)| format!("{name} was not played: {error}")));
    if !all.is_empty() || failed.is_empty() {
        let machine = Machine::here();
        let text = if options.json {
            format!("{:#}", to_json(&all, &notes, &machine))
        } else {
            to_text(&all, &notes, &machine)
        };
        let said = say(&text);
        // An empty plot would replace one of an earlier run.
        let plot = options.plot.as_ref().filter(|_| all.iter().any(|it| !it.rows.is_empty()));
        let plotted =
            plot.map(|path| write(path, &curves::panels("Hit ratio by memory", &to_curves(&all))?));
        each(iter::once(said).chain(plotted))?;
    }
    if !failed.is_empty() {
        bail!(
            "{}",
            failed.into_iter().map(|failed| failed.1).collect::<Vec<_>>().join("\nerror: ")
        );
    }
    Ok(ExitCode::SUCCESS)
}

/// Checks before the first replay that each trace is there, and that no file has two uses.
fn check_files(options: &Policy) -> Result<()> {
    let mut seen: HashMap<(u64, u64), &Path> = HashMap::new();
    for path in &options.files {
        let is_stdin = path == Path::new(STDIN);
        let opened = if is_stdin { Path::new("/dev/stdin") } else { path };
        let file = match fs::metadata(opened) {
            // It may be closed: the open says so.
            Err(_) if is_stdin => continue,
            file => file.with_context(|| path.display().to_string())?,
        };
        if file.is_dir() {
            bail!("{} is a directory: give the traces in it", path.display());
        }
        if !file.is_file() {
            continue;
        }
        if let Some(before) = seen.insert((file.dev(), file.ino()), path) {
            bail!("{} and {} are the same trace: give it once", before.display(), path.display());
        }
    }
    let plot = options.plot.as_deref();
    let is_there = plot.and_then(|plot| fs::metadata(plot).ok());
    if let Some(trace) = is_there.and_then(|file| seen.get(&(file.dev(), file.ino()))) {
        bail!("the plot would replace the trace {}: give --plot another path", trace.display());
    }
    Ok(())
}

/// Returns the name of each trace: that of its file, or its path if two files have the same name.
/// Those that look the same are numbered.
fn names(files: &[PathBuf]) -> Vec<String> {
    // A terminal and a plot take these for commands, or not at all.
    let shown = |name: &OsStr| name.to_string_lossy().replace(char::is_control, "\u{fffd}");
    let short = |path: &PathBuf| shown(path.file_name().unwrap_or(path.as_os_str()));
    let all: Vec<String> = files.iter().map(short).collect();
    let mut names: Vec<String> = Vec::new();
    for (path, short) in files.iter().zip(&all) {
        let is_alone = all.iter().filter(|other| *other == short).count() == 1;
        let name = if is_alone { short.clone() } else { shown(path.as_os_str()) };
        let numbered = (2..).map(|n| format!("{name} ({n})"));
        let mut choices = iter::once(name.clone()).chain(numbered);
        names.extend(choices.find(|name| !names.contains(name)));
    }
    names
}

/// Returns the players of the policies that are asked for.
fn players(options: &Policy) -> Result<Vec<(&'static str, Option<Player>)>> {
    let mut all = vec![(BELADY, None)];
    all.extend(replay::players().into_iter().map(|(name, player)| (name, Some(player))));
    for wanted in &options.policies {
        if !all.iter().any(|(name, _)| name == wanted) {
            let names: Vec<_> = all.iter().map(|(name, _)| *name).collect();
            bail!("policy {wanted:?} is unknown: it is none of {}", names.join(", "));
        }
    }
    let policies = &options.policies;
    all.retain(|(name, _)| policies.is_empty() || policies.iter().any(|wanted| wanted == name));
    Ok(all)
}

fn play(
    path: &Path,
    name: &str,
    options: &Policy,
    players: &[(&'static str, Option<Player>)],
    done: f64,
    stop: &'static AtomicBool,
) -> Result<Played> {
    let references = References::open(path, options.format.map(Into::into), stop)?;
    let format = references.format().name();
    let mut trace = Spool::read(references, stop)?;
    let one_in = trace.one_in();
    let mut notes = notes(name, &trace);
    let mut sizes = match &options.frames[..] {
        [] => default_sizes(trace.pages(), one_in),
        frames => frames.iter().copied().collect(),
    };
    for &frames in &sizes {
        sampled_frames(frames, one_in).with_context(|| path.display().to_string())?;
    }
    // Only caches of ours take memory.
    let room = players.iter().any(|(_, player)| player.is_some()).then(frames_of_memory);
    let most = room.map_or(u64::MAX, |room| room.saturating_mul(one_in.into()));
    if let Some(&frames) = sizes.iter().find(|&&frames| frames > most) {
        let what = format!("{frames} frames need more than the {most} that fit in free memory");
        if !options.frames.is_empty() || sizes.first() == Some(&frames) {
            bail!("{}: {what}: give smaller sizes by --frames", path.display());
        }
        sizes.retain(|&frames| frames <= most);
        notes.push(format!("{name}: {what}: this size and larger ones are left out"));
    }
    let bar = bar();
    bar.set_message(name.to_owned());
    let mut rows = Vec::new();
    'sizes: for (n, &frames) in sizes.iter().enumerate() {
        for (policy, player) in players {
            // Of one page in 8, a cache of an eighth holds as many.
            let sampled = sampled_frames(frames, one_in)?;
            let hits = match player {
                Some(player) => player(&trace, u32::try_from(sampled)?, stop),
                None => replay::optimal(&mut trace, sampled, stop),
            };
            if hits.is_err() && stop.load(Ordering::Relaxed) {
                break 'sizes;
            }
            let hits = hits.with_context(|| format!("{}: {frames} frames", path.display()))?;
            rows.push(Row { policy, frames, hit_ratio: hits as f64 / trace.references() as f64 });
        }
        let share = (n + 1) as f64 / sizes.len() as f64;
        bar.set_position(((done + share / options.files.len() as f64) * 1000.0) as u64);
    }
    bar.finish_and_clear();
    let (references, pages) = (trace.references(), trace.pages());
    let column = trace.column().map(str::to_owned);
    Ok(Played { name: name.to_owned(), format, column, references, pages, one_in, rows, notes })
}

/// Returns what a reader of the results should know of a trace.
fn notes(name: &str, trace: &Spool) -> Vec<String> {
    let mut notes = Vec::new();
    if !trace.is_whole() {
        notes.push(format!("{name}: stopped early: only the first references were read"));
    }
    if trace.is_doubtful() {
        notes.push(format!(
            "{name}: without a header, column {} was taken for the pages, and it has no number: \
             name the column with the pages in a first line if it is another one",
            trace.column().unwrap_or_default()
        ));
    }
    if trace.is_cut() {
        notes.push(format!(
            "{name}: the recording ended within a use, as on a full disk: that use is left out"
        ));
    }
    if trace.empty_requests() > 0 {
        notes.push(format!("{name}: {} requests of no pages left out", trace.empty_requests()));
    }
    notes
}

/// Returns the frames for a trace that has one page in `one_in`.
fn sampled_frames(frames: u64, one_in: u32) -> Result<u64> {
    let sampled = frames / u64::from(one_in);
    if sampled == 0 || !sampled.is_multiple_of(FRAMES_OF_2_MIB.into()) {
        bail!(
            "{frames} frames cannot be played: the trace has one page in {one_in}, so give \
             multiples of {}",
            u64::from(one_in) * u64::from(FRAMES_OF_2_MIB)
        );
    }
    Ok(sampled)
}

/// Returns the sizes for a trace of so many different pages: all of them, a half, a quarter, and so
/// on, each rounded up to 2 MiB.
fn default_sizes(pages: u32, one_in: u32) -> BTreeSet<u64> {
    let halves = (0..SIZES).map(|n| (pages >> n).div_ceil(FRAMES_OF_2_MIB).max(1));
    let unit = u64::from(FRAMES_OF_2_MIB) * u64::from(one_in);
    halves.map(|size| u64::from(size) * unit).collect()
}

/// Returns the frames of the largest cache that can be filled now: a part of the memory is for the
/// rest of this program.
fn frames_of_memory() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let free = line.and_then(|line| line.trim().trim_end_matches("kB").trim().parse::<u64>().ok());
    let free = free.map_or(u64::MAX, |kib| kib.saturating_mul(1 << 10));
    free.min(machine::memory_bytes()) / 8 * 7 / 4096
}

fn to_json(all: &[Played], notes: &[String], machine: &Machine) -> Value {
    let rows = all.iter().flat_map(|played| {
        played.rows.iter().map(|row| {
            json!({
                "trace": played.name, "policy": row.policy, "frames": row.frames,
                "hit_ratio": row.hit_ratio,
            })
        })
    });
    let traces = all.iter().map(|played| {
        json!({
            "trace": played.name, "format": played.format, "column": played.column,
            "references": played.references, "pages": played.pages, "one_in": played.one_in,
        })
    });
    json!({
        "rows": rows.collect::<Vec<_>>(), "traces": traces.collect::<Vec<_>>(), "notes": notes,
        "machine": machine.to_json(),
    })
}

/// Returns the policies of a trace, and its sizes.
fn axes(played: &Played) -> (Vec<&'static str>, BTreeSet<u64>) {
    let mut policies = Vec::new();
    for row in &played.rows {
        if !policies.contains(&row.policy) {
            policies.push(row.policy);
        }
    }
    (policies, played.rows.iter().map(|row| row.frames).collect())
}

fn to_text(all: &[Played], notes: &[String], machine: &Machine) -> String {
    let mut text = String::new();
    for played in all {
        let (policies, sizes) = axes(played);
        let sample = match played.one_in {
            1 => String::new(),
            one_in => format!(", one page in {one_in} of the program's"),
        };
        let column = played.column.as_ref().map(|column| format!(", column {column}"));
        let _ = writeln!(
            text,
            "{}: {}{}, {} references to {} pages{sample}\n",
            played.name,
            played.format,
            column.unwrap_or_default(),
            played.references,
            played.pages
        );
        let mut header = vec!["frames", "MiB"];
        header.extend(&policies);
        let mut table = table::new(&header);
        for frames in sizes {
            let ratio = |policy: &&str| {
                let is_it = |row: &&Row| row.frames == frames && row.policy == *policy;
                let row = played.rows.iter().find(is_it);
                row.map_or("-".to_owned(), |row| format!("{:.4}", row.hit_ratio))
            };
            let mut cells = vec![frames.to_string(), (frames >> 8).to_string()];
            cells.extend(policies.iter().map(ratio));
            table::add(&mut table, cells);
        }
        let _ = writeln!(text, "{table}\n");
    }
    for note in notes {
        let _ = writeln!(text, "note: {note}\n");
    }
    text.push_str("A hit is a use that found its page. Nothing is read ahead.\n\n");
    text + &machine.lines()
}

fn to_curves(all: &[Played]) -> Vec<(String, Vec<Curve>)> {
    let panel = |played: &Played| {
        let curve = |policy: &&'static str| {
            let rows = played.rows.iter().filter(|row| row.policy == *policy);
            let points = rows.map(|row| (row.frames as f64, row.hit_ratio));
            Curve { name: policy, points: points.collect(), is_limit: *policy == BELADY }
        };
        (played.name.clone(), axes(played).0.iter().map(curve).collect())
    };
    all.iter().map(panel).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt as _;

    use super::*;

    fn sizes(pages: u32, one_in: u32) -> Vec<u64> {
        default_sizes(pages, one_in).into_iter().collect()
    }

    #[test]
    fn sizes_are_halved_down_to_2_mib() {
        assert_eq!(sizes(1, 1), [512]);
        assert_eq!(sizes(2529, 1), [512, 1024, 1536, 2560]);
        let of_many = sizes(186_880, 1);
        assert_eq!((of_many.len(), of_many[0], of_many[7]), (8, 1536, 186_880));
        assert_eq!(sizes(600, 8), [4096, 8192]);
        assert_eq!(sizes(u32::MAX, 1 << 24).last(), Some(&(1 << 56)));
    }

    #[test]
    fn a_sample_is_played_to_a_smaller_cache() {
        assert_eq!(sampled_frames(1024, 1).unwrap(), 1024);
        assert_eq!(sampled_frames(8192, 8).unwrap(), 1024);
        assert!(sampled_frames(1024, 8).is_err());
    }

    #[test]
    fn files_of_one_name_have_their_paths() {
        let files = ["a/t", "b/t", "b/u\u{1b}"].map(PathBuf::from);
        assert_eq!(names(&files), ["a/t", "b/t", "u\u{fffd}"]);
        let bytes = [&b"t\xff"[..], b"t\xfe", b"t\xfd", b"t\xef\xbf\xbd (2)"];
        let invalid = bytes.map(|name| PathBuf::from(OsStr::from_bytes(name)));
        let t = "t\u{fffd}";
        let numbered = [t, &format!("{t} (2)"), &format!("{t} (3)"), &format!("{t} (2) (2)")];
        assert_eq!(names(&invalid), numbered);
    }
}
