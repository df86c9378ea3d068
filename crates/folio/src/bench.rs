//! `folio bench word`: the measurement of page-bench, as a table, a plot, or JSON.

use std::process::ExitCode;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::{Context, Result};
use indicatif::ProgressBar;

use crate::cli::BenchWord;
use crate::{plot, table};

pub(crate) fn word(options: &BenchWord, stop: &AtomicBool) -> Result<ExitCode> {
    let bar = ProgressBar::new(100);
    let report = page_bench::word::measure(Duration::from_secs(options.seconds), stop, &mut |share| {
        bar.set_position((share * 100.0) as u64);
    });
    bar.finish_and_clear();
    if let Some(path) = &options.plot {
        plot::bars(path, &report).with_context(|| format!("{} can not be written", path.display()))?;
    }
    if options.json {
        println!("{:#}", report.to_json());
        return Ok(ExitCode::SUCCESS);
    }
    for (title, rows) in report.panels() {
        let mut table = table::new(&["scheme", "ns: median", "least", "most", "speed to raw", "to zero-frozen"]);
        for row in rows {
            let ratio = |to: &str| report.ratio(row, to).map_or("-".to_owned(), |value| format!("{value:.2}"));
            let ns = [row.median, row.min, row.max].map(|ns| format!("{ns:.2}"));
            table::add(&mut table, [row.name.clone()].into_iter().chain(ns).chain(["raw", "zero-frozen"].map(ratio)));
        }
        println!("{title}\n{table}\n");
    }
    report.notes.iter().for_each(|note| println!("note: {note}"));
    Ok(ExitCode::SUCCESS)
}
