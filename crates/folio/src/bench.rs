//! `folio bench`: a question of page-bench, answered as a table, a plot, or JSON.

use std::fmt::Write as _;
use std::process::ExitCode;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::{Context, Result};
use indicatif::ProgressBar;
use page_bench::{Matrix, Report, alloc, free, read, word};

use crate::cli::{BenchOptions, Question};
use crate::{plot, say, table};

/// The file that `bench read` reads: larger than any cache of a processor.
const READ_BYTES: usize = 256 << 20;

pub(crate) fn run(question: &Question, stop: &AtomicBool) -> Result<ExitCode> {
    match question {
        Question::Word(options) => answer(&word::matrix(), options, "placement", stop),
        Question::Alloc(options) => {
            let matrix = alloc::matrix().context("no memory for the frames")?;
            answer(&matrix, options, "case", stop)
        }
        Question::Free(options) => answer(&free::matrix(), options, "case", stop),
        Question::Read(options) => {
            let bytes = read::Bytes::new(READ_BYTES).context("no temporary file to read can be made")?;
            let matrix = read::matrix(&bytes).context("the temporary file can not be read")?;
            answer(&matrix, options, "case", stop)
        }
    }
}

fn answer(matrix: &Matrix<'_>, options: &BenchOptions, case_key: &str, stop: &AtomicBool) -> Result<ExitCode> {
    let bar = ProgressBar::new(100);
    let report = matrix.measure(Duration::from_secs(options.seconds), stop, &mut |share| {
        bar.set_position((share * 100.0) as u64);
    });
    bar.finish_and_clear();
    if let Some(path) = &options.plot {
        plot::bars(path, &report).with_context(|| format!("{} can not be written", path.display()))?;
    }
    if options.json {
        say(&format!("{:#}", report.to_json(case_key)))?;
    } else {
        say(&tables(&report))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn tables(report: &Report) -> String {
    let mut text = format!("{}: {} per {}\n\n", report.title, report.unit.name(), report.per);
    let columns = ["", "median", "least", "most"].map(str::to_owned).into_iter();
    let columns: Vec<String> =
        columns.chain(report.compared_with.iter().map(|name| format!("speed to {name}"))).collect();
    for (title, rows) in report.panels() {
        let mut table = table::new(&columns.iter().map(String::as_str).collect::<Vec<_>>());
        for row in rows {
            let ratio = |to: &&str| report.ratio(row, to).map_or("-".to_owned(), |value| format!("{value:.2}"));
            let numbers = [row.median, row.min, row.max].map(|number| format!("{number:.2}"));
            let cells = [row.name.clone()].into_iter().chain(numbers).chain(report.compared_with.iter().map(ratio));
            table::add(&mut table, cells);
        }
        let _ = writeln!(text, "{title}\n{table}\n");
    }
    for note in &report.notes {
        let _ = writeln!(text, "note: {note}");
    }
    text
}
