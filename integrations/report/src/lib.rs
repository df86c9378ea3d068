//! Samples of several contenders, as a table with medians and spread, or as JSON.

#![forbid(unsafe_code)]

use std::fmt::Write as _;
use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// A contender in one case, with its samples in the order of the rounds.
#[derive(Clone, Debug)]
struct Row {
    name: &'static str,
    case: &'static str,
    unit: &'static str,
    samples: Vec<f64>,
}

/// Samples of times. Less is better in each unit. The first contender of a case is ours: the others
/// are compared with it.
#[derive(Clone, Debug, Default)]
pub struct Report {
    title: String,
    rows: Vec<Row>,
    notes: Vec<String>,
}

impl Report {
    /// Returns a report without samples.
    pub fn new(title: impl Into<String>) -> Self {
        Self { title: title.into(), ..Self::default() }
    }

    /// Adds a note on how the numbers were measured.
    pub fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }

    /// Adds a time in milliseconds.
    pub fn ms(&mut self, name: &'static str, case: &'static str, time: Duration) {
        self.add(name, case, "ms", time.as_secs_f64() * 1e3);
    }

    /// Adds a time in microseconds for each of `count` operations.
    pub fn us_each(&mut self, name: &'static str, case: &'static str, time: Duration, count: u64) {
        self.add(name, case, "us", time.as_secs_f64() * 1e6 / count as f64);
    }

    fn add(&mut self, name: &'static str, case: &'static str, unit: &'static str, sample: f64) {
        match self.rows.iter_mut().find(|row| row.name == name && row.case == case) {
            Some(row) => row.samples.push(sample),
            None => self.rows.push(Row { name, case, unit, samples: vec![sample] }),
        }
    }

    /// Returns the rows case by case.
    fn by_case(&self) -> Vec<Vec<&Row>> {
        let mut cases: Vec<Vec<&Row>> = Vec::new();
        for row in &self.rows {
            match cases.iter_mut().find(|rows| rows[0].case == row.case) {
                Some(rows) => rows.push(row),
                None => cases.push(vec![row]),
            }
        }
        for rows in &mut cases {
            rows.sort_by_key(|row| !row.name.starts_with("folio"));
        }
        cases
    }

    /// Prints the table, or JSON.
    pub fn print(&self, as_json: bool) {
        if as_json {
            println!("{:#}", self.json());
        } else {
            print!("{}", self.table());
        }
    }

    /// Returns a table: a line for each contender and case, with the ratio of its median to the
    /// first contender's, above 1 where the first is faster.
    pub fn table(&self) -> String {
        let mut text = format!("{}\n{}\n\n", self.title, machine());
        let _ = writeln!(
            text,
            "{:<12} {:<14} {:>10} {:>10} {:>10} {:<5} {:>8}",
            "case", "name", "median", "min", "max", "unit", "ratio"
        );
        for rows in self.by_case() {
            for row in &rows {
                let (least, middle, most) = spread(&row.samples);
                let _ = writeln!(
                    text,
                    "{:<12} {:<14} {middle:>10.3} {least:>10.3} {most:>10.3} {:<5} {:>8.2}",
                    row.case,
                    row.name,
                    row.unit,
                    ratio(rows[0], row)
                );
            }
        }
        for note in &self.notes {
            let _ = writeln!(text, "\n{note}");
        }
        text
    }

    /// Returns rows, ratios and notes in the form of folio's other benchmarks.
    pub fn json(&self) -> Value {
        let (mut rows, mut ratios) = (Vec::new(), Vec::new());
        for case in self.by_case() {
            for row in &case {
                let (min, median, max) = spread(&row.samples);
                rows.push(json!({
                    "name": row.name, "case": row.case, "threads": 1, "unit": row.unit,
                    "median": median, "min": min, "max": max,
                }));
            }
            let ours = case[0];
            ratios.extend(case.iter().skip(1).map(|row| {
                json!({
                    "name": format!("{}/{}", ours.name, row.name), "case": row.case,
                    "threads": 1, "of": ours.name, "to": row.name, "value": ratio(ours, row),
                })
            }));
        }
        json!({
            "title": self.title, "machine": machine(), "rows": rows, "ratios": ratios,
            "notes": self.notes,
        })
    }
}

/// Runs `work`. Returns its time and its result.
pub fn timed<T>(work: impl FnOnce() -> T) -> (Duration, T) {
    let start = Instant::now();
    let result = work();
    (start.elapsed(), result)
}

/// Returns the contenders in the order of a round: each round begins with another one.
pub fn in_turn<T>(contenders: &[T], round: usize) -> impl Iterator<Item = &T> {
    (0..contenders.len()).map(move |at| &contenders[(at + round) % contenders.len()])
}

/// Returns the least, the median and the largest sample.
fn spread(samples: &[f64]) -> (f64, f64, f64) {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    (sorted[0], sorted[sorted.len() / 2], sorted[sorted.len() - 1])
}

/// Returns the median over the rounds of a contender's time divided by ours of the same round.
fn ratio(ours: &Row, other: &Row) -> f64 {
    let pairs = other.samples.iter().zip(&ours.samples).map(|(other, ours)| other / ours);
    spread(&pairs.collect::<Vec<_>>()).1
}

/// Returns processor, CPUs, kernel and commit.
pub fn machine() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let described = Command::new("git").args(["describe", "--always", "--dirty=+"]).output();
    let commit = described.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    format!(
        "{}, {} CPUs, Linux {}, commit {}",
        model.map_or("unknown processor", |(_, name)| name),
        std::thread::available_parallelism().map_or(1, usize::from),
        kernel.trim(),
        commit.unwrap_or_default()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_medians_of_the_rounds() {
        let mut report = Report::new("test");
        for (ours, other) in [(1, 3), (2, 4), (10, 40)] {
            report.ms("file", "load", Duration::from_millis(other));
            report.ms("folio", "load", Duration::from_millis(ours));
        }
        let json = report.json();
        assert_eq!(json["rows"][0]["name"], "folio", "ours comes first");
        assert_eq!(
            (&json["rows"][1]["median"], &json["rows"][1]["max"]),
            (&json!(4.0), &json!(40.0))
        );
        assert_eq!(json["ratios"].as_array().map(Vec::len), Some(1));
        assert_eq!(json["ratios"][0]["value"], json!(3.0), "of 3, 2 and 4");
        assert!(report.table().contains("folio"), "{}", report.table());
    }

    #[test]
    fn each_round_begins_with_another_contender() {
        let order = |round| in_turn(&[1, 2, 3], round).copied().collect::<Vec<_>>();
        assert_eq!((order(0), order(1), order(5)), (vec![1, 2, 3], vec![2, 3, 1], vec![3, 1, 2]));
    }
}
