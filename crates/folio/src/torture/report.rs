//! The report of a run: its counters, samples and notes, as a table or as JSON.

use std::time::Instant;

use folio_cache::{Cache, CacheStats};
use folio_ref::Scheme;
use serde_json::{Value, json};

use super::tally::{Tally, Totals};
use super::{Plan, totals};
use crate::size::Size;
use crate::table;

/// Maximum number of notes that are printed.
const NOTES: usize = 20;

/// All counters at one instant.
#[derive(Clone, Default)]
pub(crate) struct Sample {
    pub(crate) seconds: f64,
    pub(crate) totals: Totals,
    pub(crate) cache: CacheStats,
}

/// The report of a run.
pub(crate) struct Report {
    scheme: &'static str,
    seed: u64,
    threads: usize,
    memory: usize,
    files: usize,
    skipped: u64,
    started: Instant,
    pub(crate) samples: Vec<Sample>,
    /// The number of samples between which there are rates.
    rates: usize,
    pub(crate) leaked_frames: u64,
    broken: Vec<String>,
    /// About the whole run.
    about: Vec<String>,
    is_stopped: bool,
    peak_rss_bytes: u64,
}

impl Report {
    pub(crate) fn new<S: Scheme>(plan: &Plan) -> Self {
        Self {
            scheme: S::NAME,
            seed: plan.seed,
            threads: plan.threads,
            memory: plan.memory,
            files: plan.corpus.files.len(),
            skipped: plan.corpus.skipped,
            started: Instant::now(),
            samples: vec![Sample::default()],
            rates: usize::MAX,
            leaked_frames: 0,
            broken: Vec::new(),
            about: Vec::new(),
            is_stopped: false,
            peak_rss_bytes: 0,
        }
    }

    pub(crate) fn broken(&mut self, what: String) {
        self.broken.push(what);
    }

    /// Adds a note about the whole run.
    pub(crate) fn note(&mut self, what: String) {
        self.about.push(what);
    }

    /// Notes that the run was interrupted.
    pub(crate) fn stopped(&mut self) {
        self.is_stopped = true;
        self.note("stopped early: the run was interrupted".to_owned());
    }

    pub(crate) fn sample<S: Scheme>(&mut self, tallies: &[Tally], cache: &Cache<S>) {
        let seconds = self.started.elapsed().as_secs_f64();
        self.samples.push(Sample { seconds, totals: totals(tallies), cache: cache.stats() });
        self.peak_rss_bytes = self.peak_rss_bytes.max(resident_bytes());
    }

    /// Takes the last sample, after all threads have ended: what came since the sample before is no
    /// rate, as some threads end later than others.
    pub(crate) fn end<S: Scheme>(&mut self, tallies: &[Tally], cache: &Cache<S>) {
        self.rates = self.samples.len();
        self.sample(tallies, cache);
    }

    fn last(&self) -> &Sample {
        self.samples.last().expect("the first sample is taken at the start")
    }

    /// Returns the number of bytes that were compared.
    pub(crate) fn bytes(&self) -> u64 {
        self.last().totals.bytes
    }

    fn broken_rules(&self) -> u64 {
        self.last().totals.broken_rules + self.broken.len() as u64
    }

    pub(crate) fn has_passed(&self) -> bool {
        self.last().totals.wrong_bytes == 0 && self.broken_rules() == 0 && self.leaked_frames == 0
    }

    fn hit_ratio(&self) -> f64 {
        let last = self.last();
        let lookups = last.totals.lookups.max(last.cache.misses).max(1);
        1.0 - last.cache.misses as f64 / lookups as f64
    }

    /// Returns the throughput between each two samples: time in seconds, MiB per second.
    pub(crate) fn mib_per_s(&self) -> Vec<(f64, f64)> {
        let rate = |pair: &[Sample]| {
            let seconds = (pair[1].seconds - pair[0].seconds).max(1e-3);
            (
                pair[1].seconds,
                (pair[1].totals.bytes - pair[0].totals.bytes) as f64 / seconds / f64::from(1 << 20),
            )
        };
        // The last sample may be too short to give a rate.
        let samples = self.samples.get(..self.rates).unwrap_or(&self.samples);
        samples
            .windows(2)
            .filter(|pair| pair[1].seconds - pair[0].seconds > 0.1)
            .map(rate)
            .collect()
    }

    /// Returns the text beside the progress bar.
    pub(crate) fn status(&self) -> String {
        let last = self.last();
        format!(
            "{:.0} s  {} read, {:.0} MiB/s, {} wrong bytes, {} broken rules",
            last.seconds,
            Size(last.totals.bytes as usize),
            self.mib_per_s().last().map_or(0.0, |rate| rate.1),
            last.totals.wrong_bytes,
            self.broken_rules()
        )
    }

    fn notes(&self) -> Vec<&String> {
        let notes = self.about.iter().chain(&self.last().totals.notes);
        notes.chain(&self.broken).take(NOTES).collect()
    }

    pub(crate) fn to_json(&self) -> Value {
        let Sample { seconds, totals, cache } = self.last();
        json!({
            "reads": totals.reads,
            "bytes": totals.bytes,
            "seconds": seconds,
            "threads": self.threads,
            "scheme": self.scheme,
            "seed": self.seed,
            "memory": self.memory,
            "files": self.files,
            "skipped": self.skipped + totals.skipped,
            "changed": totals.changed,
            "opened": totals.opened,
            "hit_ratio": self.hit_ratio(),
            "misses": cache.misses,
            "walked": totals.walked,
            "refused": {
                "frozen": totals.frozen + cache.refused_frozen,
                "free": totals.free,
                "tail": totals.tail,
                "moved": totals.moved + cache.refused_moved,
                "offline": totals.offline_frames,
            },
            "reclaimed": cache.reclaimed,
            "migrated": totals.migrated,
            "offlined": totals.offlined,
            "onlined": totals.onlined,
            "busy": totals.busy,
            "split": totals.split,
            "written": totals.written,
            "synced": totals.synced,
            "compacted": totals.compacted,
            "contiguous": totals.contiguous,
            "shrunk": totals.shrunk,
            "forked": totals.forked,
            "killed": totals.killed,
            "promised": totals.promised,
            "wrong_bytes": totals.wrong_bytes,
            "broken_rules": self.broken_rules(),
            "leaked_frames": self.leaked_frames,
            "peak_rss_bytes": self.peak_rss_bytes,
            "mib_per_s": self.mib_per_s().iter().map(|rate| rate.1).collect::<Vec<_>>(),
            "notes": self.notes(),
        })
    }

    pub(crate) fn table(&self) -> String {
        let Sample { seconds, totals, cache } = self.last();
        let rates: Vec<f64> = self.mib_per_s().iter().map(|rate| rate.1).collect();
        let mut sorted = rates.clone();
        sorted.sort_by(f64::total_cmp);
        let of = |n: usize| sorted.get(n).copied().unwrap_or(0.0);
        let mut table = table::new(&[]);
        let mut row = |name: &str, value: String| table::add(&mut table, [name.to_owned(), value]);
        row("scheme, threads, seed", format!("{}, {}, {}", self.scheme, self.threads, self.seed));
        row(
            "files; skipped, changed meanwhile",
            format!("{}; {}, {}", self.files, self.skipped + totals.skipped, totals.changed),
        );
        row("time", format!("{seconds:.1} s"));
        row("reads, bytes", format!("{}, {}", totals.reads, Size(totals.bytes as usize)));
        row("hit ratio", format!("{:.3}", self.hit_ratio()));
        row(
            "MiB/s: median, least, most",
            format!(
                "{:.0}, {:.0}, {:.0}",
                of(sorted.len() / 2),
                of(0),
                of(sorted.len().saturating_sub(1))
            ),
        );
        row("MiB/s over time", sparkline(&rates));
        row(
            "refused: frozen, free",
            format!("{}, {}", totals.frozen + cache.refused_frozen, totals.free),
        );
        row(
            "refused: tail, moved on",
            format!("{}, {}", totals.tail, totals.moved + cache.refused_moved),
        );
        row(
            "reclaimed, migrated, split",
            format!("{}, {}, {}", cache.reclaimed, totals.migrated, totals.split),
        );
        let moved = format!("{}, {}, {}", totals.compacted, totals.contiguous, totals.shrunk);
        row("blocks compacted, contiguous, shrunk", moved);
        row("blocks offlined, onlined", format!("{}, {}", totals.offlined, totals.onlined));
        row(
            "bytes written, syncs",
            format!("{}, {}", Size(totals.written as usize), totals.synced),
        );
        row(
            "processes forked, killed; writes promised",
            format!("{}, {}; {}", totals.forked, totals.killed, totals.promised),
        );
        row("busy", totals.busy.to_string());
        row(
            "memory: capacity, peak resident",
            format!("{}, {}", Size(self.memory), Size(self.peak_rss_bytes as usize)),
        );
        row("wrong bytes", totals.wrong_bytes.to_string());
        row("broken rules", self.broken_rules().to_string());
        row("leaked frames", self.leaked_frames.to_string());
        let mut lines = vec![table.to_string()];
        lines.extend(self.notes().into_iter().map(|note| format!("  {note}")));
        let end = match (self.has_passed(), self.is_stopped) {
            (true, false) => "passed: every byte matched",
            (true, true) => "stopped early: every byte matched until then",
            (false, _) => "FAILED",
        };
        lines.push(end.to_owned());
        lines.join("\n")
    }
}

/// Draws the values as at most 40 bars.
fn sparkline(values: &[f64]) -> String {
    let most = values.iter().copied().fold(1e-9, f64::max);
    let per_bar = values.len().div_ceil(40).max(1);
    let bar = |values: &[f64]| {
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'][(mean / most * 7.99) as usize]
    };
    values.chunks(per_bar).map(bar).collect()
}

/// Returns the resident memory of the process in bytes; 0 if the system does not report it.
fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(0);
    pages * rustix::param::page_size() as u64
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use folio_ref::schemes::Generational;

    use super::*;

    fn sample(seconds: f64, mib: u64) -> Sample {
        let totals = Totals { bytes: mib << 20, ..Totals::default() };
        Sample { seconds, totals, ..Sample::default() }
    }

    /// The threads end one after the other, and some take long.
    #[test]
    fn the_time_in_which_threads_end_has_no_rate() {
        let mut report = Report {
            scheme: "",
            seed: 0,
            threads: 1,
            memory: 4 << 20,
            files: 0,
            skipped: 0,
            started: Instant::now().checked_sub(Duration::from_secs(3)).unwrap(),
            samples: vec![sample(0.0, 0), sample(1.0, 5), sample(2.0, 10)],
            rates: usize::MAX,
            leaked_frames: 0,
            broken: Vec::new(),
            about: Vec::new(),
            is_stopped: false,
            peak_rss_bytes: 0,
        };
        report.end(&[], &Cache::<Generational>::new(4 << 20).unwrap());
        assert_eq!(report.samples.len(), 4);
        let rates: Vec<_> = report.mib_per_s().iter().map(|rate| rate.1.round() as u64).collect();
        assert_eq!(rates, [5, 5]);
    }
}
