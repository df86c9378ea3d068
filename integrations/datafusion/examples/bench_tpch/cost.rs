//! The cost of queries, and its form between the processes.

use std::iter::Sum;
use std::ops::AddAssign;

use anyhow::{Context, Result};
use serde_json::{Value, json};

/// Time, requests and bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Cost {
    pub(crate) ms: f64,
    /// Requests for bytes.
    pub(crate) gets: u64,
    /// Other requests: heads and listings.
    pub(crate) others: u64,
    pub(crate) bytes: u64,
}

impl AddAssign for Cost {
    fn add_assign(&mut self, other: Self) {
        self.ms += other.ms;
        self.gets += other.gets;
        self.others += other.others;
        self.bytes += other.bytes;
    }
}

impl Sum for Cost {
    fn sum<I: Iterator<Item = Self>>(costs: I) -> Self {
        costs.fold(Self::default(), |mut sum, cost| {
            sum += cost;
            sum
        })
    }
}

impl Cost {
    pub(crate) fn json(self) -> Value {
        json!({ "ms": self.ms, "gets": self.gets, "others": self.others, "bytes": self.bytes })
    }

    fn parse(value: &Value) -> Result<Self> {
        let number = |name: &str| value[name].as_u64().with_context(|| format!("no {name}"));
        Ok(Self {
            ms: value["ms"].as_f64().context("no ms")?,
            gets: number("gets")?,
            others: number("others")?,
            bytes: number("bytes")?,
        })
    }

    /// Returns the median of each number.
    pub(crate) fn median(costs: &[Self]) -> Self {
        let whole = |of: fn(&Self) -> u64| {
            let mut all: Vec<u64> = costs.iter().map(of).collect();
            all.sort_unstable();
            all.get(all.len() / 2).copied().unwrap_or_default()
        };
        Self {
            ms: median(costs.iter().map(|cost| cost.ms)),
            gets: whole(|cost| cost.gets),
            others: whole(|cost| cost.others),
            bytes: whole(|cost| cost.bytes),
        }
    }
}

/// Returns the median, and 0 of no numbers.
pub(crate) fn median(numbers: impl Iterator<Item = f64>) -> f64 {
    let mut all: Vec<f64> = numbers.collect();
    all.sort_by(f64::total_cmp);
    all.get(all.len() / 2).copied().unwrap_or_default()
}

/// One process's run.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Run {
    /// To register the tables: footers, for their schemas.
    pub(crate) tables: Cost,
    /// All queries, the first time. Only of the warm phase.
    pub(crate) first: Cost,
    pub(crate) queries: Vec<Cost>,
    pub(crate) answers: Vec<String>,
    pub(crate) peak_mib: f64,
}

impl Run {
    pub(crate) fn json(&self) -> Value {
        json!({
            "tables": self.tables.json(), "first": self.first.json(),
            "queries": self.queries.iter().map(|cost| cost.json()).collect::<Vec<_>>(),
            "answers": self.answers, "peak_mib": self.peak_mib,
        })
    }

    pub(crate) fn parse(text: &str) -> Result<Self> {
        let value: Value = serde_json::from_str(text)?;
        let list = |name: &str| value[name].as_array().with_context(|| format!("no {name}"));
        let answer = |answer: &Value| Some(answer.as_str()?.to_owned());
        Ok(Self {
            tables: Cost::parse(&value["tables"])?,
            first: Cost::parse(&value["first"])?,
            queries: list("queries")?.iter().map(Cost::parse).collect::<Result<_>>()?,
            answers: list("answers")?.iter().filter_map(answer).collect(),
            peak_mib: value["peak_mib"].as_f64().context("no peak_mib")?,
        })
    }
}
