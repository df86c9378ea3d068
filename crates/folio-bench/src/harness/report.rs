//! The result of a benchmark: rows, ratios, and notes on what could not be measured.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::harness::runner::Run;

/// The unit of the numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Nanoseconds for one operation of one thread. Less is better.
    Ns,
    /// GiB per second, of all threads together. More is better.
    GibPerS,
    /// Operations per second, of all threads together. More is better.
    OpPerS,
    /// Microseconds for one operation of one thread. Less is better.
    Us,
    /// Milliseconds for the whole. Less is better.
    Ms,
    /// A number that is counted and not timed, with its name: `fraction`, `resident/capacity`. More
    /// is better.
    Number(&'static str),
    /// A number that is counted and not timed, with its name. Less is better.
    Less(&'static str),
}

impl Unit {
    /// Returns the name that is printed.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ns => "ns",
            Self::GibPerS => "GiB/s",
            Self::OpPerS => "op/s",
            Self::Us => "us",
            Self::Ms => "ms",
            Self::Number(name) | Self::Less(name) => name,
        }
    }

    /// Converts a run of `threads` threads to a number of this unit.
    pub(crate) fn value(self, run: Run, threads: usize) -> f64 {
        match self {
            Self::Ns => run.seconds * 1e9 * threads as f64 / run.amount as f64,
            Self::GibPerS => run.amount as f64 / run.seconds / f64::from(1 << 30),
            Self::OpPerS => run.amount as f64 / run.seconds,
            Self::Us => run.seconds * 1e6 * threads as f64 / run.amount as f64,
            Self::Ms => run.seconds * 1e3,
            Self::Number(_) | Self::Less(_) => run.amount as f64,
        }
    }

    /// Returns the speed of the first value relative to the second: above 1 if the first is faster.
    pub(crate) fn speed(self, of: f64, to: f64) -> f64 {
        match self {
            Self::Ns | Self::Us | Self::Ms | Self::Less(_) => to / of,
            Self::GibPerS | Self::OpPerS | Self::Number(_) => of / to,
        }
    }
}

/// One situation in which every contender is measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scenario {
    /// The operation, or the place it works on.
    pub name: &'static str,
    /// Threads that run it at once; 0 where a thread count has no meaning.
    pub threads: usize,
}

/// The shape of a plot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Shape {
    /// One panel per scenario, one bar per contender.
    #[default]
    Bars,
    /// One panel per scenario name, one line per contender over the threads, both axes logarithmic.
    Lines,
    /// One panel per scenario name, one line per contender over the percentiles.
    Tails,
}

/// One contender in one scenario.
#[derive(Clone, Debug, Default)]
pub struct Row {
    /// The contender.
    pub name: String,
    /// The scenario.
    pub scenario: Scenario,
    /// The median of all samples.
    pub median: f64,
    /// The least of all samples.
    pub min: f64,
    /// The greatest of all samples.
    pub max: f64,
    /// The unit of the numbers, if it is another one than that of the report.
    pub unit: Option<Unit>,
    /// More numbers, each with its name.
    pub more: Vec<(&'static str, f64)>,
}

impl Row {
    /// Returns the row that summarises `values`, or `None` if there are none.
    pub fn of(name: impl Into<String>, scenario: Scenario, values: &[f64]) -> Option<Self> {
        let min = values.iter().copied().reduce(f64::min)?;
        let max = values.iter().copied().reduce(f64::max)?;
        Some(Self {
            name: name.into(),
            scenario,
            median: median(values),
            min,
            max,
            unit: None,
            more: Vec::new(),
        })
    }
}

/// The speed of one contender relative to another: the median over rounds, above 1 when it is
/// faster.
#[derive(Clone, Debug)]
pub struct Ratio {
    /// The contender.
    pub of: String,
    /// The contender that it is compared with.
    pub to: &'static str,
    /// The scenario.
    pub scenario: Scenario,
    /// The median of the ratios of all rounds.
    pub value: f64,
}

/// A contender and its rows, by threads.
pub type Line<'a> = (&'a str, Vec<&'a Row>);

/// A table of its own, for results that do not fit into rows.
#[derive(Clone, Debug)]
pub struct Table {
    /// The heading.
    pub title: &'static str,
    /// The column titles.
    pub header: Vec<String>,
    /// The rows, each as long as the header.
    pub rows: Vec<Vec<String>>,
}

/// The result of one benchmark.
#[derive(Clone, Debug)]
pub struct Report {
    /// The heading.
    pub title: &'static str,
    /// The unit of the numbers.
    pub unit: Unit,
    /// The thing that one number is about.
    pub per: &'static str,
    /// The contenders that the others are compared with.
    pub compared_with: &'static [&'static str],
    /// The contender that is ours: a plot shows it in another colour.
    pub ours: String,
    /// The shape of the plot.
    pub shape: Shape,
    /// One row per contender and scenario.
    pub rows: Vec<Row>,
    /// The speed of each contender relative to those of `compared_with`.
    pub ratios: Vec<Ratio>,
    /// More tables, printed after the rows.
    pub tables: Vec<Table>,
    /// How the numbers were measured, what could not be measured, and why.
    pub notes: Vec<String>,
}

impl Report {
    /// Returns a report without rows, to be filled by hand: for numbers that are counted or
    /// computed.
    pub fn new(title: &'static str, unit: Unit, per: &'static str, ours: &str) -> Self {
        Self {
            title,
            unit,
            per,
            compared_with: &[],
            ours: ours.to_owned(),
            shape: Shape::Bars,
            rows: Vec::new(),
            ratios: Vec::new(),
            tables: Vec::new(),
            notes: Vec::new(),
        }
    }

    /// Returns the rows by scenario, each group with its title.
    pub fn panels(&self) -> Vec<(String, Vec<&Row>)> {
        let mut panels: Vec<(Scenario, Vec<&Row>)> = Vec::new();
        for row in &self.rows {
            match panels.iter_mut().find(|panel| panel.0 == row.scenario) {
                Some(panel) => panel.1.push(row),
                None => panels.push((row.scenario, vec![row])),
            }
        }
        let title = |scenario: Scenario| match scenario.threads {
            0 => scenario.name.to_owned(),
            1 => format!("1 thread, {}", scenario.name),
            n => format!("{n} threads, {}", scenario.name),
        };
        let with_unit = |title, rows: &[&Row]| match rows.first().and_then(|row| row.unit) {
            Some(unit) => format!("{title}: {}", unit.name()),
            None => title,
        };
        panels
            .into_iter()
            .map(|(scenario, rows)| (with_unit(title(scenario), &rows), rows))
            .collect()
    }

    /// Returns the rows as lines: by the scenario's name, then by contender, in the order of the
    /// rows.
    pub fn lines(&self) -> Vec<(&'static str, Vec<Line<'_>>)> {
        let mut panels: Vec<(&'static str, Vec<Line<'_>>)> = Vec::new();
        for row in &self.rows {
            let at =
                panels.iter().position(|panel| panel.0 == row.scenario.name).unwrap_or_else(|| {
                    panels.push((row.scenario.name, Vec::new()));
                    panels.len() - 1
                });
            let lines = &mut panels[at].1;
            match lines.iter_mut().find(|line| line.0 == row.name) {
                Some(line) => line.1.push(row),
                None => lines.push((&row.name, vec![row])),
            }
        }
        panels
    }

    /// Returns the speed of a row's contender relative to `to`, or `None` if it was not measured.
    pub fn ratio(&self, row: &Row, to: &str) -> Option<f64> {
        let same = |ratio: &&Ratio| {
            ratio.of == row.name && ratio.to == to && ratio.scenario == row.scenario
        };
        self.ratios.iter().find(same).map(|ratio| ratio.value)
    }

    /// Returns the report as JSON. `case_key` is one more key for the scenario in each row.
    pub fn to_json(&self, case_key: &str) -> Value {
        let rows = self.rows.iter().map(|row| {
            let mut json = json!({
                "name": row.name, "case": row.scenario.name, "threads": row.scenario.threads,
                "median": row.median, "min": row.min, "max": row.max,
                "unit": row.unit.unwrap_or(self.unit).name(),
            });
            json[case_key] = json["case"].clone();
            for &(key, value) in &row.more {
                json[key] = json!(value);
            }
            json
        });
        let ratios = self.ratios.iter().map(|ratio| {
            let mut row = json!({
                "name": format!("{}/{}", ratio.of, ratio.to), "of": ratio.of, "to": ratio.to,
                "case": ratio.scenario.name, "threads": ratio.scenario.threads,
                "value": ratio.value,
            });
            row[case_key] = row["case"].clone();
            row
        });
        let tables = self.tables.iter().map(
            |table| json!({ "title": table.title, "header": table.header, "rows": table.rows }),
        );
        let (rows, ratios): (Vec<_>, Vec<_>) = (rows.collect(), ratios.collect());
        let mut all = json!({ "rows": rows, "ratios": ratios, "notes": self.notes });
        if !self.tables.is_empty() {
            all["tables"] = tables.collect();
        }
        all
    }

    /// Returns the names of all additional numbers of the rows.
    pub fn more_columns(&self) -> Vec<&'static str> {
        let names: BTreeMap<_, _> = self.rows.iter().flat_map(|row| &row.more).copied().collect();
        names.into_keys().collect()
    }
}

/// Returns the median; of an even number of values, the upper one.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_unit_is_per_thread_or_of_all_threads() {
        let run = Run { seconds: 2.0, amount: 4 << 30, cpu: 1.0, slept: 0.0 };
        for (unit, value) in [
            (Unit::Ns, 4e9 / f64::from(1 << 30) / 4.0),
            (Unit::GibPerS, 2.0),
            (Unit::Us, 4e6 / f64::from(1 << 30) / 4.0),
            (Unit::Ms, 2000.0),
            (Unit::OpPerS, f64::from(1 << 30) * 2.0),
            (Unit::Number("things"), f64::from(1 << 30) * 4.0),
        ] {
            assert!((unit.value(run, 2) - value).abs() < 1e-9, "{unit:?}");
        }
    }

    #[test]
    fn lines_gather_a_contender_over_its_threads() {
        let mut report = Report::new("a test", Unit::Ns, "thing", "ours");
        for threads in [1, 2] {
            for name in ["ours", "theirs"] {
                report.rows.extend(Row::of(
                    name,
                    Scenario { name: "one", threads },
                    &[3.0, 1.0, 2.0],
                ));
            }
        }
        let lines = report.lines();
        assert_eq!((lines.len(), lines[0].0, lines[0].1.len()), (1, "one", 2));
        assert!(
            lines[0]
                .1
                .iter()
                .all(|line| line.1.len() == 2 && (line.1[0].median - 2.0).abs() < 1e-9)
        );
        assert_eq!(report.panels().len(), 2);
    }
}
