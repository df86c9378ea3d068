//! `folio torture`: readers that compare every byte, antagonists that move the frames, and an audit
//! at the end.

mod antagonists;
mod audit;
mod corpus;
mod environment;
mod forker;
pub(crate) mod killer;
mod readers;
pub(crate) mod report;
mod stage;
pub(crate) mod tally;
mod writer;

use std::fs;
use std::iter;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use folio_bench::scratch::{self, ScratchFolder};
use folio_cache::{Cache, CacheBuilder};
use folio_frames::FRAME_SIZE;
use folio_ref::Scheme;
use indicatif::{ProgressBar, ProgressStyle};

use crate::scheme_name::with_scheme;
use crate::size::Size;
use crate::{cli, each, machine, say};
use corpus::Corpus;
use report::Report;
use stage::Stage;
use tally::{Tally, Totals};

/// Time between two samples.
const SAMPLE: Duration = Duration::from_millis(250);

/// Time without progress after which a thread counts as stuck.
const STUCK: Duration = Duration::from_secs(30);

/// Ends all threads of a run when it is dropped.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The parameters of a run, decided before its start.
pub(crate) struct Plan {
    seconds: u64,
    threads: usize,
    memory: usize,
    seed: u64,
    corpus: Corpus,
}

pub(crate) fn run(options: &cli::Torture, stop: &'static AtomicBool) -> Result<ExitCode> {
    let threads = options
        .threads
        .map_or_else(|| thread::available_parallelism().map_or(1, usize::from), usize::from);
    if let Some(path) = &options.plot {
        crate::check_place(path)?;
    }
    // The writer puts its file there. Checked before the run, so that the run does not fail later.
    drop(
        ScratchFolder::new()
            .context("cannot create a temporary directory (set TMPDIR to a writable directory)")?,
    );
    let spinner = ProgressBar::new_spinner();
    let corpus = Corpus::find(&options.dir, stop, |n| {
        if n.is_multiple_of(1000) {
            spinner.set_message(format!("{n} files found"));
            spinner.tick();
        }
    })?;
    spinner.finish_and_clear();
    check_plot(options.plot.as_deref(), &corpus)?;
    let most = usize::try_from(machine::memory_bytes()).unwrap_or(usize::MAX);
    let memory = memory(options.memory, corpus.bytes(), threads, most)?;
    let seed = options.seed.unwrap_or_else(|| fastrand::u64(..));
    let plan = Plan { seconds: options.seconds, threads, memory, seed, corpus };
    let report = with_scheme!(options.scheme, torture(&plan, stop))?;
    let said =
        if options.json { say(&format!("{:#}", report.to_json())) } else { say(&report.table()) };
    // Each is tried, so that the failure of one does not lose the result.
    let plotted = options.plot.as_ref().map(|path| {
        let cannot = || format!("{} cannot be written", path.display());
        crate::plot::timeline(path, &report).with_context(cannot)
    });
    each(iter::once(said).chain(plotted))?;
    Ok(if report.has_passed() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Checks that the plot replaces no file that is read.
///
/// # Errors
///
/// Fails if the plot is one of the files.
fn check_plot(plot: Option<&Path>, corpus: &Corpus) -> Result<()> {
    let of = |path: &Path| fs::metadata(path).map(|file| (file.dev(), file.ino())).ok();
    let Some((plot, file)) = plot.and_then(|plot| Some((plot, of(plot)?))) else { return Ok(()) };
    match corpus.files.iter().find(|path| of(path) == Some(file)) {
        Some(path) => bail!(
            "the plot {} would replace {}, which is read: give --plot another path",
            plot.display(),
            path.display()
        ),
        None => Ok(()),
    }
}

/// Returns the capacity of the cache: the requested size, or a quarter of the data.
///
/// # Errors
///
/// Fails if the requested size is too small for `threads` readers or exceeds `most`, the memory
/// that this process may use.
fn memory(asked: Option<Size>, data: u64, threads: usize, most: usize) -> Result<usize> {
    // Each reader needs a folio to read into, and pins some pages.
    let least = (4 << 20).max(threads * 16 * FRAME_SIZE);
    let Some(Size(bytes)) = asked else {
        return Ok((usize::try_from(data / 4).unwrap_or(most)).min(most / 2).max(least));
    };
    if bytes < least || bytes > most {
        bail!(
            "--memory {} ({bytes} bytes) is out of range: \
             with --threads {threads} it must be {} to {}, the memory that this \
             process may use",
            Size(bytes),
            Size(least),
            Size(most)
        );
    }
    Ok(bytes)
}

fn torture<S: Scheme>(plan: &Plan, stop: &'static AtomicBool) -> Result<Report> {
    let cache = CacheBuilder::<S>::with_scheme().capacity(plan.memory).build()?;
    let frames = plan.memory / FRAME_SIZE;
    // A block with a pinned page stays online. The limit keeps most blocks without one.
    let pinned_per_reader = (frames / 256 / plan.threads).clamp(1, 32);
    let stage = Stage::new(cache.clone(), &plan.corpus, pinned_per_reader);
    let antagonists = antagonists::all::<S>();
    let names: Vec<String> = (0..plan.threads)
        .map(|n| format!("reader {n}"))
        .chain(antagonists.iter().map(|(name, _)| (*name).to_owned()))
        .collect();
    let tallies: Vec<Tally> = names.iter().map(|_| Tally::default()).collect();
    let mut report = Report::new::<S>(plan);

    thread::scope(|scope| -> Result<()> {
        // The scope waits for all threads, also after a panic or an error.
        let ends = Ends(&stage.over);
        let mut threads = Vec::new();
        for (n, tally) in tallies.iter().enumerate() {
            let stage = &stage;
            let random = fastrand::Rng::with_seed(plan.seed.wrapping_add(n as u64));
            let antagonist = n.checked_sub(plan.threads).map(|n| antagonists[n].1);
            let work = move || match antagonist {
                Some(act) => act(stage, tally, random),
                None => readers::read(stage, tally, random),
            };
            let started = thread::Builder::new().spawn_scoped(scope, work);
            threads.push(started.with_context(|| {
                let all = names.len();
                format!("only {n} of {all} threads could be started: give fewer --threads")
            })?);
        }
        watch(plan, stop, &cache, &names, &tallies, &mut report, &|| {
            threads.iter().any(thread::ScopedJoinHandle::is_finished)
        });
        drop(ends);
        for (thread, name) in threads.into_iter().zip(&names) {
            if let Err(panic) = thread.join() {
                let text = panic.downcast::<String>().map_or_else(
                    |panic| panic.downcast::<&str>().map_or("", |text| *text).to_owned(),
                    |text| *text,
                );
                report.broken(format!("{name} panicked: {text}"));
            }
        }
        Ok(())
    })?;
    if stop.load(Ordering::Relaxed) {
        report.stopped();
    }
    report.end(&tallies, &cache);
    audit(stage, &mut report, names.len())?;
    Ok(report)
}

/// Checks all frames after the threads have ended.
///
/// # Errors
///
/// Fails if no broken rule is found, but the environment ended the run, or nothing was compared.
fn audit<S: Scheme>(stage: Stage<'_, S>, report: &mut Report, threads: usize) -> Result<()> {
    let cache = stage.cache.clone();
    for (pfn, seen) in audit::open(&cache) {
        report.broken(format!("after all readers ended, {pfn:?} is {seen:?}"));
    }
    let (problem, first_skip) = (stage.problem.get().cloned(), stage.first_skip.get().cloned());
    // The last close drops all pages.
    drop(stage);
    if let Some(problem) = &problem {
        // What the disk did not take stays in the cache otherwise.
        cache.quiesce();
        for unwritten in cache.unwritten() {
            cache.discard(unwritten.file_id)?;
        }
        report.note(problem.clone());
    }
    let (leaked, broken) = audit::closed(&cache, threads);
    report.leaked_frames = leaked;
    for what in broken {
        report.broken(what);
    }
    match (problem, first_skip) {
        _ if !report.has_passed() => Ok(()),
        (Some(problem), _) => Err(environment::error(&problem)),
        // A run that compared nothing has not shown that the cache works.
        (None, Some(why)) if report.bytes() == 0 => bail!("no file could be read: {why}"),
        (None, None) if report.bytes() == 0 => {
            bail!("no file could be read: the run ended before the first byte was compared")
        }
        _ => Ok(()),
    }
}

/// Samples until the time is over, the run is interrupted, or a thread ends or is stuck.
fn watch<S: Scheme>(
    plan: &Plan,
    stop: &AtomicBool,
    cache: &Cache<S>,
    names: &[String],
    tallies: &[Tally],
    report: &mut Report,
    any_ended: &dyn Fn() -> bool,
) {
    let bar = ProgressBar::new(plan.seconds * 1000);
    bar.set_style(ProgressStyle::with_template("{bar:30} {msg}").expect("a constant template"));
    let started = Instant::now();
    let mut pulses: Vec<(u64, Instant)> = tallies.iter().map(|_| (0, started)).collect();
    while started.elapsed() < Duration::from_secs(plan.seconds)
        && !stop.load(Ordering::Relaxed)
        && !any_ended()
    {
        thread::sleep(
            SAMPLE.min(Duration::from_secs(plan.seconds).saturating_sub(started.elapsed())),
        );
        report.sample(tallies, cache);
        bar.set_position(started.elapsed().as_millis() as u64);
        bar.set_message(report.status());
        for ((pulse, name), tally) in pulses.iter_mut().zip(names).zip(tallies) {
            let now = tally.progress.get();
            if now != pulse.0 {
                *pulse = (now, Instant::now());
            } else if pulse.1.elapsed() > STUCK {
                bar.finish_and_clear();
                report.broken(format!("{name} made no progress for {} s", STUCK.as_secs()));
                crate::complain(&report.table());
                let _ = scratch::remove_all();
                // A stuck thread cannot be joined.
                std::process::exit(1);
            }
        }
    }
    bar.finish_and_clear();
}

/// Returns the sum of all threads' counters.
fn totals(tallies: &[Tally]) -> Totals {
    let mut totals = Totals::default();
    for tally in tallies {
        totals.add(tally);
    }
    totals
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A group may allow much less than the machine has.
    #[test]
    fn the_capacity_is_half_of_what_the_process_may_use() {
        let most = 64 << 20;
        assert_eq!(memory(None, 1 << 40, 2, most).unwrap(), most / 2);
        assert_eq!(memory(None, 40 << 20, 2, most).unwrap(), 10 << 20);
        assert!(memory(Some(Size(most + 1)), 0, 2, most).is_err());
        let allowed = usize::try_from(machine::memory_bytes()).unwrap();
        let default: Cache = Cache::builder().build().unwrap();
        assert!(allowed / 4 <= default.capacity(), "{allowed}");
    }
}
