//! The results of all contenders: a table, or JSON.

use std::fmt::Write as _;

use anyhow::{Result, ensure};
use folio_report::machine;
use serde_json::{Value, json};

use crate::Options;
use crate::contender::Contender::{
    self, Bare, Folio, FolioQuarter, Foyer, FoyerLayer, FoyerLayerQuarter, FoyerQuarter, Local,
};
use crate::contender::{Phase, Place};
use crate::cost::{Cost, Run, median};

/// The runs of a contender, in the order of the rounds. Those with a quarter of the capacity have
/// no cold ones.
struct Row {
    contender: Contender,
    cold: Vec<Run>,
    warm: Vec<Run>,
}

/// The costs of a contender: medians over the rounds.
pub(crate) struct Summary {
    pub(crate) contender: Contender,
    cold: Vec<Cost>,
    warm: Vec<Cost>,
    /// The sums over all queries in each round: with an empty cache for each; the first time in one
    /// session; the second time.
    totals: [Vec<Cost>; 3],
    /// The largest resident size in each round, in MiB.
    peaks: Vec<f64>,
}

const COLD: usize = 0;
const FIRST: usize = 1;
const SECOND: usize = 2;

impl Summary {
    /// Returns the costs of the queries: each with an empty cache, or each the second time.
    pub(crate) fn queries(&self, phase: Phase) -> &[Cost] {
        match phase {
            Phase::Cold => &self.cold,
            Phase::Warm => &self.warm,
        }
    }

    fn total(&self, part: usize) -> Cost {
        Cost::median(&self.totals[part])
    }

    fn peak(&self) -> f64 {
        median(self.peaks.iter().copied())
    }
}

/// A goal of the project, and what was measured: the median over the rounds, and its spread.
struct Goal {
    what: &'static str,
    value: f64,
    spread: (f64, f64),
    most: f64,
}

impl Goal {
    fn new(what: &'static str, most: f64, values: impl Iterator<Item = f64>) -> Self {
        let values: Vec<f64> = values.collect();
        Self { what, value: median(values.iter().copied()), spread: spread(&values), most }
    }
}

/// Returns the least and the largest number, and zeros of none.
fn spread(numbers: &[f64]) -> (f64, f64) {
    match numbers {
        [] => (0.0, 0.0),
        all => (
            all.iter().copied().fold(f64::INFINITY, f64::min),
            all.iter().copied().fold(f64::NEG_INFINITY, f64::max),
        ),
    }
}

pub(crate) struct Report {
    rows: Vec<Row>,
    notes: Vec<String>,
    pub(crate) title: String,
    place: Place,
}

const MIB: f64 = (1 << 20) as f64;

impl Report {
    /// Returns a report without runs. `small_gets` says how long gets of few bytes take.
    pub(crate) fn new(options: &Options, place: &Place, data: u64, small_gets: &str) -> Self {
        let title = format!(
            "TPC-H at scale {} over S3 on loopback, {} ms a request",
            options.scale, options.delay
        );
        let notes = vec![
            format!(
                "{} rounds; {:.1} MiB of Parquet with {} rows a row group; capacity {} MiB, \
                 quarter {} MiB; 2 partitions. Profile `engines`: opt-level 1, folio 3.",
                options.rounds,
                data as f64 / MIB,
                options.group_rows,
                place.capacity >> 20,
                place.quarter >> 20
            ),
            format!(
                "Requests and bytes are counted by the server, to which the tables were uploaded. \
                 {small_gets}"
            ),
            "Cold: each query in a session with an empty cache; the footers are read when the \
             tables are registered, and count in the totals. First, second: all queries in one \
             session, twice. foyer caches the ranges that are asked for; foyer-layer is the layer \
             of opendal, which caches whole objects. no-footers: DataFusion's own cache of \
             metadata is off. Each contender and phase is a process, in turn; peak is the largest \
             resident size of the one that runs all queries twice. Totals are medians over the \
             rounds, with the least and the largest; goals are medians of the ratios in a round."
                .to_owned(),
        ];
        Self { rows: Vec::new(), notes, title, place: place.clone() }
    }

    pub(crate) fn add(&mut self, contender: Contender, phase: Phase, run: Run) {
        let at = self.rows.iter().position(|row| row.contender == contender);
        let at = at.unwrap_or_else(|| {
            self.rows.push(Row { contender, cold: Vec::new(), warm: Vec::new() });
            self.rows.len() - 1
        });
        match phase {
            Phase::Cold => self.rows[at].cold.push(run),
            Phase::Warm => self.rows[at].warm.push(run),
        }
    }

    /// Compares all answers of all runs.
    pub(crate) fn check_answers(&self) -> Result<()> {
        let mut first: Option<(String, &Run)> = None;
        for row in &self.rows {
            for run in row.cold.iter().chain(&row.warm) {
                let name = row.contender.name();
                let (of, expected) = first.get_or_insert_with(|| (name.clone(), run));
                for (number, pair) in (1..).zip(run.answers.iter().zip(&expected.answers)) {
                    ensure!(pair.0 == pair.1, "{name} and {of} answer query {number} differently");
                }
            }
        }
        Ok(())
    }

    pub(crate) fn summaries(&self) -> Vec<Summary> {
        self.rows.iter().map(Row::summary).collect()
    }

    fn goals(&self, summaries: &[Summary]) -> Vec<Goal> {
        let find = |contender| summaries.iter().find(|summary| summary.contender == contender);
        let mut goals = Vec::new();
        // Compares two contenders round by round.
        let mut goal = |what, most, ours, part: usize, theirs, of: fn(&Cost) -> f64| {
            if let (Some(ours), Some(theirs)) = (find(ours), find(theirs)) {
                let pairs = ours.totals[part].iter().zip(&theirs.totals[part]);
                goals.push(Goal::new(what, most, pairs.map(|(a, b)| of(a) / of(b))));
            }
        };
        let ms: fn(&Cost) -> f64 = |cost| cost.ms;
        let bytes: fn(&Cost) -> f64 = |cost| cost.bytes as f64;
        let gets: fn(&Cost) -> f64 = |cost| cost.gets as f64;
        goal("second: time, of local files'", 1.05, Folio, SECOND, Local, ms);
        goal("second: time, of foyer's", 0.95, Folio, SECOND, Foyer, ms);
        goal("second: time, of foyer's layer's", 0.95, Folio, SECOND, FoyerLayer, ms);
        goal("cold: time, of no cache's", 1.05, Folio, COLD, Bare, ms);
        goal("cold: bytes, of no cache's", 1.05, Folio, COLD, Bare, bytes);
        goal("cold: GETs, of no cache's", 1.0, Folio, COLD, Bare, gets);
        let what = "quarter, second: bytes, of foyer's";
        goal(what, 1.0, FolioQuarter, SECOND, FoyerQuarter, bytes);
        let what = "quarter, second: bytes, of foyer's layer's";
        goal(what, 1.0, FolioQuarter, SECOND, FoyerLayerQuarter, bytes);
        if let Some(folio) = find(Folio) {
            let gets = folio.totals[SECOND].iter().map(|cost| cost.gets as f64);
            goals.push(Goal::new("second: GETs", 0.0, gets));
        }
        for (what, contender, capacity) in [
            ("resident above no cache's, of the capacity", Folio, self.place.capacity),
            ("quarter: the same, of its capacity", FolioQuarter, self.place.quarter),
        ] {
            if let (Some(ours), Some(bare)) = (find(contender), find(Bare)) {
                let pairs = ours.peaks.iter().zip(&bare.peaks);
                let capacity = capacity as f64 / MIB;
                goals.push(Goal::new(what, 1.05, pairs.map(|(a, b)| (a - b) / capacity)));
            }
        }
        goals
    }

    /// Prints the table; or JSON, with the table on the error output.
    pub(crate) fn print(&self, as_json: bool) {
        let summaries = self.summaries();
        if as_json {
            eprint!("{}", self.table(&summaries));
            println!("{:#}", self.json(&summaries));
        } else {
            print!("{}", self.table(&summaries));
        }
    }

    fn table(&self, summaries: &[Summary]) -> String {
        let mut text = format!("{}\n{}\n", self.title, machine());
        for (part, name) in [(COLD, "cold"), (FIRST, "first"), (SECOND, "second")] {
            let _ = writeln!(
                text,
                "\n{name:<22}{:>10}{:>10}{:>10}{:>8}{:>8}{:>10}{:>10}",
                "ms", "least", "largest", "GETs", "others", "MiB", "peak MiB"
            );
            for row in summaries.iter().filter(|row| !row.totals[part].is_empty()) {
                let total = row.total(part);
                let times: Vec<f64> = row.totals[part].iter().map(|cost| cost.ms).collect();
                let (least, largest) = spread(&times);
                let _ = write!(
                    text,
                    "{:<22}{:>10.0}{least:>10.0}{largest:>10.0}{:>8}{:>8}{:>10.1}",
                    row.contender.name(),
                    total.ms,
                    total.gets,
                    total.others,
                    total.bytes as f64 / MIB,
                );
                if part == SECOND {
                    let _ = write!(text, "{:>10.1}", row.peak());
                }
                text.push('\n');
            }
        }
        for (name, phase) in [("cold ms", Phase::Cold), ("second ms", Phase::Warm)] {
            let shown: Vec<_> =
                summaries.iter().filter(|row| !row.queries(phase).is_empty()).collect();
            let _ = write!(text, "\n{name:<9}");
            for row in &shown {
                let _ = write!(text, " {:>21}", row.contender.name());
            }
            text.push('\n');
            for query in 0..shown.first().map_or(0, |row| row.queries(phase).len()) {
                let _ = write!(text, "q{:<8}", query + 1);
                for row in &shown {
                    let _ = write!(text, " {:>21.1}", row.queries(phase)[query].ms);
                }
                text.push('\n');
            }
        }
        let _ = writeln!(
            text,
            "\n{:<46}{:>9}{:>9}{:>9}{:>9}",
            "goal", "measured", "least", "largest", "at most"
        );
        for Goal { what, value, spread: (least, largest), most } in self.goals(summaries) {
            let _ = writeln!(text, "{what:<46}{value:>9.3}{least:>9.3}{largest:>9.3}{most:>9.2}");
        }
        for note in &self.notes {
            let _ = writeln!(text, "\n{note}");
        }
        text
    }

    fn json(&self, summaries: &[Summary]) -> Value {
        let costs = |costs: &[Cost]| costs.iter().map(|cost| cost.json()).collect::<Vec<_>>();
        let rows: Vec<_> = summaries
            .iter()
            .map(|row| {
                json!({
                    "name": row.contender.name(), "cold": costs(&row.cold),
                    "second": costs(&row.warm), "cold_totals": costs(&row.totals[COLD]),
                    "first_totals": costs(&row.totals[FIRST]),
                    "second_totals": costs(&row.totals[SECOND]), "peaks_mib": row.peaks,
                })
            })
            .collect();
        let goals: Vec<_> = self
            .goals(summaries)
            .iter()
            .map(|goal| {
                json!({
                    "goal": goal.what, "value": goal.value, "least": goal.spread.0,
                    "largest": goal.spread.1, "most": goal.most,
                })
            })
            .collect();
        json!({
            "title": self.title, "machine": machine(), "contenders": rows, "goals": goals,
            "notes": self.notes,
        })
    }
}

impl Row {
    fn summary(&self) -> Summary {
        let queries = |runs: &[Run]| -> Vec<Cost> {
            let count = runs.first().map_or(0, |run| run.queries.len());
            (0..count)
                .map(|query| {
                    Cost::median(&runs.iter().map(|run| run.queries[query]).collect::<Vec<_>>())
                })
                .collect()
        };
        let sum = |run: &Run| run.queries.iter().copied().sum::<Cost>();
        let with_tables = |run: &Run| [run.tables, sum(run)].into_iter().sum::<Cost>();
        Summary {
            contender: self.contender,
            cold: queries(&self.cold),
            warm: queries(&self.warm),
            totals: [
                self.cold.iter().map(with_tables).collect(),
                self.warm.iter().map(|run| run.first).collect(),
                self.warm.iter().map(sum).collect(),
            ],
            peaks: self.warm.iter().map(|run| run.peak_mib).collect(),
        }
    }
}
