//! `folio policy`: replays traces under each policy at several sizes: which policy, and how much
//! memory, for a workload?

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, bail};
use folio_bench::replay::{self, FRAMES_OF_2_MIB, Player, References, Spool};
use serde_json::{Value, json};

use crate::bench::{bar, write};
use crate::cli::Policy;
use crate::curves::{self, Curve};
use crate::machine::Machine;
use crate::{check_place, say, table};

/// The name of the policy that knows the future.
const BELADY: &str = "belady";

/// The most sizes that are chosen if none are given.
const SIZES: usize = 8;

/// The hit ratio of one policy at one size.
struct Row {
    policy: &'static str,
    frames: u32,
    hit_ratio: f64,
}

/// A trace, and what was found out of it.
struct Played {
    name: String,
    format: &'static str,
    references: u64,
    pages: u32,
    one_in: u32,
    rows: Vec<Row>,
}

pub(crate) fn run(options: &Policy, stop: &AtomicBool) -> Result<ExitCode> {
    if let Some(path) = &options.plot {
        check_place(path)?;
    }
    if let Some(frames) =
        options.frames.iter().find(|frames| !frames.is_multiple_of(FRAMES_OF_2_MIB))
    {
        bail!("frame count {frames} is not a multiple of {FRAMES_OF_2_MIB} (2 MiB)");
    }
    let players = players(options)?;
    let mut all = Vec::new();
    for (n, path) in options.files.iter().enumerate() {
        if !stop.load(Ordering::Relaxed) {
            let done = n as f64 / options.files.len() as f64;
            all.push(play(path, options, &players, done, stop)?);
        }
    }
    let machine = Machine::here();
    let note = stop.load(Ordering::Relaxed).then_some("stopped early: not all sizes were played");
    if options.json {
        say(&format!("{:#}", to_json(&all, note, &machine)))?;
    } else {
        say(&to_text(&all, note, &machine))?;
    }
    // The result is printed first, so that a failure here does not lose it.
    if let Some(path) = &options.plot {
        write(path, &curves::panels("Hit ratio by memory", &to_curves(&all))?)?;
    }
    Ok(ExitCode::SUCCESS)
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
    options: &Policy,
    players: &[(&'static str, Option<Player>)],
    done: f64,
    stop: &AtomicBool,
) -> Result<Played> {
    let references = References::open(path, options.format.map(Into::into))?;
    let format = references.format().name();
    let mut trace = Spool::read(references, stop)?;
    let sizes = match &options.frames[..] {
        [] => default_sizes(trace.pages(), trace.one_in()),
        frames => frames.to_vec(),
    };
    let bar = bar();
    let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
    bar.set_message(name.clone());
    let mut rows = Vec::new();
    for (n, &frames) in sizes.iter().enumerate() {
        for (policy, player) in players {
            if stop.load(Ordering::Relaxed) {
                break;
            }
            // Of one page in 8, a cache of an eighth holds as many.
            let sampled = sampled_frames(frames, trace.one_in())?;
            let hits = match player {
                Some(player) => player(&trace, sampled),
                None => replay::optimal(&mut trace, u64::from(sampled)),
            };
            let hits = hits.with_context(|| format!("{}: {frames} frames", path.display()))?;
            rows.push(Row { policy, frames, hit_ratio: hits as f64 / trace.references() as f64 });
        }
        let share = (n + 1) as f64 / sizes.len() as f64;
        bar.set_position(((done + share / options.files.len() as f64) * 1000.0) as u64);
    }
    bar.finish_and_clear();
    let (references, pages, one_in) = (trace.references(), trace.pages(), trace.one_in());
    Ok(Played { name, format, references, pages, one_in, rows })
}

/// Returns the frames for a trace that has one page in `one_in`.
fn sampled_frames(frames: u32, one_in: u32) -> Result<u32> {
    let sampled = frames / one_in;
    if sampled == 0 || !sampled.is_multiple_of(FRAMES_OF_2_MIB) {
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
fn default_sizes(pages: u32, one_in: u32) -> Vec<u32> {
    let halves = (0..SIZES).map(|n| (pages >> n).div_ceil(FRAMES_OF_2_MIB).max(1));
    let sizes: BTreeSet<u32> = halves.collect();
    sizes.into_iter().map(|size| size.saturating_mul(FRAMES_OF_2_MIB * one_in)).collect()
}

fn to_json(all: &[Played], note: Option<&str>, machine: &Machine) -> Value {
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
            "trace": played.name, "format": played.format, "references": played.references,
            "pages": played.pages, "one_in": played.one_in,
        })
    });
    json!({
        "rows": rows.collect::<Vec<_>>(), "traces": traces.collect::<Vec<_>>(), "note": note,
        "machine": machine.to_json(),
    })
}

/// Returns the policies of a trace, and its sizes.
fn axes(played: &Played) -> (Vec<&'static str>, BTreeSet<u32>) {
    let mut policies = Vec::new();
    for row in &played.rows {
        if !policies.contains(&row.policy) {
            policies.push(row.policy);
        }
    }
    (policies, played.rows.iter().map(|row| row.frames).collect())
}

fn to_text(all: &[Played], note: Option<&str>, machine: &Machine) -> String {
    let mut text = String::new();
    for played in all {
        let (policies, sizes) = axes(played);
        let sample = match played.one_in {
            1 => String::new(),
            one_in => format!(", one page in {one_in} of the program's"),
        };
        let _ = writeln!(
            text,
            "{}: {}, {} references to {} pages{sample}\n",
            played.name, played.format, played.references, played.pages
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
    if let Some(note) = note {
        let _ = writeln!(text, "note: {note}\n");
    }
    text.push_str("A hit is a use that found its page. Nothing is read ahead.\n\n");
    text + &machine.lines()
}

fn to_curves(all: &[Played]) -> Vec<(String, Vec<Curve>)> {
    let panel = |played: &Played| {
        let curve = |policy: &&'static str| {
            let rows = played.rows.iter().filter(|row| row.policy == *policy);
            let points = rows.map(|row| (f64::from(row.frames), row.hit_ratio));
            Curve { name: policy, points: points.collect(), is_limit: *policy == BELADY }
        };
        (played.name.clone(), axes(played).0.iter().map(curve).collect())
    };
    all.iter().map(panel).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_halved_down_to_2_mib() {
        assert_eq!(default_sizes(1, 1), [512]);
        assert_eq!(default_sizes(2529, 1), [512, 1024, 1536, 2560]);
        let sizes = default_sizes(186_880, 1);
        assert_eq!((sizes.len(), sizes[0], sizes[7]), (8, 1536, 186_880));
        assert_eq!(default_sizes(600, 8), [4096, 8192]);
    }

    #[test]
    fn a_sample_is_played_to_a_smaller_cache() {
        assert_eq!(sampled_frames(1024, 1).unwrap(), 1024);
        assert_eq!(sampled_frames(8192, 8).unwrap(), 1024);
        assert!(sampled_frames(1024, 8).is_err());
    }
}
