//! `folio bench`: runs the benchmarks of folio-bench; writes tables, plots, JSON, or one report.

use std::fmt::Write as _;
use std::fs;
use std::iter;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::{Context, Result};
use folio_bench::{Ask, BENCHMARKS, Benchmark, Distance, Report};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Map, Value, json};

use crate::cli::Bench;
use crate::machine::Machine;
use crate::{check_place, each, html, plot, say, table};

const SECONDS_ONE: u64 = 10;
const SECONDS_ALL: u64 = 120;

/// The default folder for the report of all benchmarks.
const FOLDER_ALL: &str = "folio-bench";

/// Steps of the progress bar.
const STEPS: u64 = 1000;

/// One benchmark with its report, or with the reason why it was not measured.
pub(crate) struct Answer {
    pub(crate) benchmark: &'static Benchmark,
    pub(crate) report: Result<Report, String>,
}

pub(crate) fn run(options: &Bench, stop: &AtomicBool) -> Result<ExitCode> {
    match BENCHMARKS.iter().find(|benchmark| benchmark.name == options.benchmark) {
        Some(benchmark) => one(benchmark, options, stop),
        None => all(options, stop),
    }
}

fn one(benchmark: &'static Benchmark, options: &Bench, stop: &AtomicBool) -> Result<ExitCode> {
    if let Some(folder) = &options.save {
        create_folder(folder)?;
    }
    // After the folder, which may be at the same path.
    if let Some(path) = &options.plot {
        check_place(path)?;
    }
    let bar = bar();
    let time = Duration::from_secs(options.seconds.unwrap_or(SECONDS_ONE));
    let report = ask(benchmark, options, time, stop, &mut |share| {
        bar.set_position((share * STEPS as f64) as u64);
    });
    bar.finish_and_clear();
    let report = report.with_context(|| format!("{} cannot be measured", benchmark.name))?;
    let machine = Machine::here();
    let said = if options.json {
        say(&format!("{:#}", with_machine(&report, benchmark, &machine)))
    } else {
        say(&tables(&report, &machine))
    };
    // Each is tried, so that the failure of one does not lose the result.
    let plotted = options.plot.as_ref().map(|path| write(path, &plot::report(&report)?));
    let saved = options.save.as_ref().map(|folder| save(folder, benchmark, &report, &machine));
    each(iter::once(said).chain(plotted).chain(saved))?;
    Ok(ExitCode::SUCCESS)
}

/// Runs all benchmarks. The report names each one that cannot be measured here, with the reason.
fn all(options: &Bench, stop: &AtomicBool) -> Result<ExitCode> {
    let folder = options.save.clone().unwrap_or_else(|| PathBuf::from(FOLDER_ALL));
    create_folder(&folder)?;
    let machine = Machine::here();
    let time = Duration::from_secs(options.seconds.unwrap_or(SECONDS_ALL));
    let weights: u32 = BENCHMARKS.iter().map(|benchmark| benchmark.weight).sum();
    let bar = bar();
    let (mut answers, mut before) = (Vec::new(), 0.0);
    for benchmark in BENCHMARKS {
        let part = f64::from(benchmark.weight) / f64::from(weights);
        bar.set_message(benchmark.name);
        let report = ask(benchmark, options, time.mul_f64(part), stop, &mut |share| {
            bar.set_position(((before + part * share) * STEPS as f64) as u64);
        });
        before += part;
        answers.push(Answer { benchmark, report: report.map_err(|error| format!("{error:#}")) });
    }
    bar.finish_and_clear();
    let (mut text, mut parts) = (String::new(), Map::new());
    for Answer { benchmark, report } in &answers {
        match report {
            Ok(report) => {
                let _ = writeln!(
                    text,
                    "── {}: {}\n\n{}",
                    benchmark.name,
                    benchmark.about,
                    body(report)
                );
                parts.insert(benchmark.name.to_owned(), report.to_json(benchmark.case_key));
            }
            Err(reason) => {
                let _ = writeln!(text, "── {}: not measured: {reason}\n", benchmark.name);
                parts.insert(benchmark.name.to_owned(), json!({ "not_measured": reason }));
            }
        }
    }
    let page = folder.join("report.html");
    let said = if options.json {
        say(&format!("{:#}", json!({ "machine": machine.to_json(), "benchmarks": parts })))
    } else {
        say(&format!("{}\n{text}report with plots: {}", machine.lines(), page.display()))
    };
    // Each is tried, so that the failure of one does not lose the results.
    let saved = answers.iter().filter_map(|Answer { benchmark, report }| {
        report.as_ref().ok().map(|report| save(&folder, benchmark, report, &machine))
    });
    let written = html::page(&answers, &machine).and_then(|text| write(&page, &text));
    each(iter::once(said).chain(saved).chain([written]))?;
    Ok(ExitCode::SUCCESS)
}

fn ask(
    benchmark: &Benchmark,
    options: &Bench,
    time: Duration,
    stop: &AtomicBool,
    progress: &mut dyn FnMut(f64),
) -> Result<Report> {
    let distance = Distance {
        latency: Duration::from_millis(options.latency_ms),
        request: Duration::from_micros(options.request_us),
        bandwidth: options.bandwidth_mib << 20,
    };
    let mut ask = Ask::new(time, stop, progress);
    (ask.distance, ask.held) = (distance, options.held);
    Ok((benchmark.ask)(&mut ask)?)
}

/// Returns a bar that shows the progress.
pub(crate) fn bar() -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:40} {percent:>3} % {msg}");
    ProgressBar::new(STEPS).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

/// Creates the folder for the results of a measurement, and checks that a file can be placed in it.
/// Called before the measurement.
fn create_folder(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder)
        .with_context(|| format!("{} cannot be created", folder.display()))?;
    // Permissions alone do not say it: the file system may be read-only.
    tempfile::tempfile_in(folder)
        .map(drop)
        .with_context(|| format!("{} cannot be written", folder.display()))
}

/// Writes the table, JSON and plot of one benchmark, named after it, into an existing folder.
fn save(folder: &Path, benchmark: &Benchmark, report: &Report, machine: &Machine) -> Result<()> {
    let file = |extension: &str| folder.join(format!("{}.{extension}", benchmark.name));
    write(&file("txt"), &tables(report, machine))?;
    write(&file("json"), &format!("{:#}\n", with_machine(report, benchmark, machine)))?;
    write(&file("svg"), &plot::report(report)?)
}

/// Writes a result into a file.
pub(crate) fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("{} cannot be written", path.display()))
}

fn with_machine(report: &Report, benchmark: &Benchmark, machine: &Machine) -> Value {
    let mut value = report.to_json(benchmark.case_key);
    value["machine"] = machine.to_json();
    value
}

/// Returns the report as text for the terminal.
fn tables(report: &Report, machine: &Machine) -> String {
    let mut text = body(report);
    let _ = writeln!(text, "\n{}", machine.lines());
    text.lines().fold(String::new(), |text, line| text + line.trim_end() + "\n")
}

fn body(report: &Report) -> String {
    let mut text = format!("{}: {} per {}\n\n", report.title, report.unit.name(), report.per);
    for (title, header, rows) in cells(report) {
        let mut table = table::new(&header.iter().map(String::as_str).collect::<Vec<_>>());
        for row in rows {
            table::add(&mut table, row);
        }
        let _ = writeln!(text, "{title}\n{table}\n");
    }
    for note in &report.notes {
        let _ = writeln!(text, "note: {note}");
    }
    text
}

/// Returns the tables of a report: title, header, rows.
pub(crate) fn cells(report: &Report) -> Vec<(String, Vec<String>, Vec<Vec<String>>)> {
    let more = report.more_columns();
    let mut header: Vec<String> = ["", "median", "least", "most"].map(str::to_owned).into();
    header.extend(more.iter().map(|&name| name.to_owned()));
    header.extend(report.compared_with.iter().map(|name| format!("speed to {name}")));
    let row = |row: &folio_bench::Row| {
        let mut cells = vec![row.name.clone()];
        cells.extend([row.median, row.min, row.max].map(number));
        let find = |key| row.more.iter().find(|pair| pair.0 == key);
        cells.extend(
            more.iter().map(|&key| find(key).map_or("-".to_owned(), |pair| number(pair.1))),
        );
        let ratio =
            |to: &&str| report.ratio(row, to).map_or("-".to_owned(), |value| format!("{value:.2}"));
        cells.extend(report.compared_with.iter().map(ratio));
        cells
    };
    let panels = report.panels().into_iter();
    let panels =
        panels.map(|(title, rows)| (title, header.clone(), rows.into_iter().map(row).collect()));
    let tables = report
        .tables
        .iter()
        .map(|table| (table.title.to_owned(), table.header.clone(), table.rows.clone()));
    panels.chain(tables).collect()
}

/// Formats a number with its significant digits only.
pub(crate) fn number(number: f64) -> String {
    match number.abs() {
        0.0 => "0".to_owned(),
        size if size < 0.1 => format!("{number:.4}"),
        size if size < 1e5 => format!("{number:.2}"),
        _ => format!("{number:.0}"),
    }
}
