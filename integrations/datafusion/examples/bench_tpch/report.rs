//! The results of all contenders: a table, or JSON.

use std::fmt::Write as _;

use anyhow::{Result, ensure};
use folio_report::machine;
use serde_json::{Value, json};

use crate::Options;
use crate::contender::{Contender, Phase, Place};
use crate::cost::{Cost, Run, median};

/// The runs of a contender, in the order of the rounds.
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
    cold_total: Cost,
    warm_total: Cost,
    /// All queries the first time, in one session.
    first: Cost,
    peak_mib: f64,
}

impl Summary {
    /// Returns the costs of the queries: each with an empty cache, or each the second time.
    pub(crate) fn queries(&self, phase: Phase) -> &[Cost] {
        match phase {
            Phase::Cold => &self.cold,
            Phase::Warm => &self.warm,
        }
    }
}

/// A goal of the project, and what was measured.
struct Goal {
    what: &'static str,
    value: f64,
    most: f64,
}

pub(crate) struct Report {
    rows: Vec<Row>,
    notes: Vec<String>,
    pub(crate) title: String,
    capacity: usize,
}

const MIB: f64 = (1 << 20) as f64;

impl Report {
    pub(crate) fn new(options: &Options, place: &Place, data: u64) -> Self {
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
            "Cold: each query in a session with an empty cache; the footers are read when the \
             tables are registered, and count in the totals. First, second: all queries in one \
             session, twice. no-footers: DataFusion's own cache of metadata is off. Each \
             contender and phase is a process; peak is the largest resident size of the second."
                .to_owned(),
        ];
        Self { rows: Vec::new(), notes, title, capacity: place.capacity }
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
        let Some(folio) = find(Contender::Folio) else { return goals };
        let mut goal = |what, value, most| goals.push(Goal { what, value, most });
        goal("warm: GETs", folio.warm_total.gets as f64, 0.0);
        if let Some(local) = find(Contender::Local) {
            let ratio = folio.warm_total.ms / local.warm_total.ms;
            goal("warm: time, of local files'", ratio, 1.05);
        }
        if let Some(foyer) = find(Contender::Foyer) {
            goal("warm: time, of foyer's", folio.warm_total.ms / foyer.warm_total.ms, 0.95);
        }
        if let Some(bare) = find(Contender::Bare) {
            let (ours, theirs) = (folio.cold_total, bare.cold_total);
            goal("cold: time, of no cache's", ours.ms / theirs.ms, 1.05);
            goal("cold: bytes, of no cache's", ours.bytes as f64 / theirs.bytes as f64, 1.05);
            goal("cold: GETs, of no cache's", ours.gets as f64 / theirs.gets as f64, 1.0);
            let more = (folio.peak_mib - bare.peak_mib) / (self.capacity as f64 / MIB);
            goal("resident above no cache's, of the capacity", more, 1.05);
        }
        let quarters = (find(Contender::FolioQuarter), find(Contender::FoyerQuarter));
        if let (Some(ours), Some(theirs)) = quarters {
            let ratio = ours.warm_total.bytes as f64 / theirs.warm_total.bytes as f64;
            goal("quarter, second run: bytes, of foyer's", ratio, 1.0);
        }
        goals
    }

    pub(crate) fn print(&self, as_json: bool) {
        let summaries = self.summaries();
        if as_json {
            println!("{:#}", self.json(&summaries));
        } else {
            print!("{}", self.table(&summaries));
        }
    }

    fn table(&self, summaries: &[Summary]) -> String {
        let mut text = format!("{}\n{}\n\n", self.title, machine());
        let _ = writeln!(
            text,
            "{:<18}{:>9}{:>7}{:>7}{:>9}{:>10}{:>9}{:>9}{:>7}{:>9}{:>9}",
            "totals",
            "cold ms",
            "GETs",
            "heads",
            "MiB",
            "first ms",
            "MiB",
            "warm ms",
            "GETs",
            "MiB",
            "peak MiB"
        );
        for row in summaries {
            let _ = writeln!(
                text,
                "{:<18}{:>9.0}{:>7}{:>7}{:>9.1}{:>10.0}{:>9.1}{:>9.0}{:>7}{:>9.1}{:>9.1}",
                row.contender.name(),
                row.cold_total.ms,
                row.cold_total.gets,
                row.cold_total.heads,
                row.cold_total.bytes as f64 / MIB,
                row.first.ms,
                row.first.bytes as f64 / MIB,
                row.warm_total.ms,
                row.warm_total.gets,
                row.warm_total.bytes as f64 / MIB,
                row.peak_mib
            );
        }
        for (name, phase) in [("cold ms", Phase::Cold), ("warm ms", Phase::Warm)] {
            let _ = write!(text, "\n{name:<8}");
            for row in summaries {
                let _ = write!(text, " {:>17}", row.contender.name());
            }
            text.push('\n');
            for query in 0..summaries.first().map_or(0, |row| row.queries(phase).len()) {
                let _ = write!(text, "q{:<7}", query + 1);
                for row in summaries {
                    let _ = write!(text, " {:>17.1}", row.queries(phase)[query].ms);
                }
                text.push('\n');
            }
        }
        let _ = writeln!(text, "\n{:<46}{:>9}{:>9}", "goal", "measured", "at most");
        for goal in self.goals(summaries) {
            let _ = writeln!(text, "{:<46}{:>9.3}{:>9.2}", goal.what, goal.value, goal.most);
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
                    "warm": costs(&row.warm), "cold_total": row.cold_total.json(),
                    "first_total": row.first.json(), "warm_total": row.warm_total.json(),
                    "peak_mib": row.peak_mib,
                })
            })
            .collect();
        let goals: Vec<_> = self
            .goals(summaries)
            .iter()
            .map(|goal| json!({ "goal": goal.what, "value": goal.value, "most": goal.most }))
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
        let total = |runs: &[Run], tables: bool| {
            let of = |run: &Run| {
                let mut cost: Cost = run.queries.iter().copied().sum();
                if tables {
                    cost += run.tables;
                }
                cost
            };
            Cost::median(&runs.iter().map(of).collect::<Vec<_>>())
        };
        Summary {
            contender: self.contender,
            cold: queries(&self.cold),
            warm: queries(&self.warm),
            cold_total: total(&self.cold, true),
            warm_total: total(&self.warm, false),
            first: Cost::median(&self.warm.iter().map(|run| run.first).collect::<Vec<_>>()),
            peak_mib: median(self.warm.iter().map(|run| run.peak_mib)),
        }
    }
}
