//! Plots: throughput over time with the operations on the frames, and a measurement as bars or
//! lines.

use std::path::Path;

use anyhow::{Result, anyhow};
use folio_bench::{Line, Report as BenchReport, Row, Shape};
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::torture::report::{Report, Sample};

const BLUE: RGBColor = RGBColor(0, 114, 178);
const ORANGE: RGBColor = RGBColor(213, 94, 0);
pub(crate) const GREY: RGBColor = RGBColor(120, 120, 120);
/// Colours that stay distinct with colour blindness (Okabe and Ito).
pub(crate) const LINES: [RGBColor; 8] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(90, 90, 90),
    RGBColor(140, 86, 75),
];
pub(crate) const FONT: &str = "sans-serif";

pub(crate) type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

pub(crate) fn failed(error: impl std::fmt::Display) -> anyhow::Error {
    anyhow!("{error}")
}

/// Formats a number on an axis without trailing zeros.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "as plotters calls it")]
pub(crate) fn short(number: &f64) -> String {
    format!("{number:.2}").trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Draws the throughput on top, and below it one lane for each operation on the frames.
pub(crate) fn timeline(path: &Path, report: &Report) -> Result<()> {
    type Lane = (&'static str, fn(&Sample) -> u64);
    let lanes: [Lane; 5] = [
        ("reclaimed", |sample| sample.cache.reclaimed),
        ("migrated", |sample| sample.totals.migrated),
        ("offlined", |sample| sample.totals.offlined),
        ("split", |sample| sample.totals.split),
        ("busy", |sample| sample.totals.busy),
    ];
    let root = SVGBackend::new(path, (1000, 620)).into_drawing_area();
    root.fill(&WHITE).map_err(failed)?;
    let (top, bottom) = root.split_vertically(340);
    let rates = report.mib_per_s();
    let end = rates.last().map_or(1.0, |rate| rate.0);
    let most = rates.iter().map(|rate| rate.1).fold(1.0, f64::max);
    let mut chart = ChartBuilder::on(&top)
        .caption("Bytes read and compared while the frames move", (FONT, 20))
        .margin(12)
        .set_label_area_size(LabelAreaPosition::Left, 70)
        .set_label_area_size(LabelAreaPosition::Bottom, 36)
        .build_cartesian_2d(0.0..end, 0.0..most * 1.08)
        .map_err(failed)?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .light_line_style(TRANSPARENT)
        .x_desc("seconds")
        .y_desc("MiB/s")
        .x_label_formatter(&short)
        .y_label_formatter(&short)
        .label_style((FONT, 14))
        .draw()
        .map_err(failed)?;
    chart
        .draw_series(AreaSeries::new(rates.iter().copied(), 0.0, BLUE.mix(0.2)).border_style(BLUE))
        .map_err(failed)?;
    for (area, (name, count)) in bottom.split_evenly((lanes.len(), 1)).iter().zip(lanes) {
        let deltas: Vec<(f64, u64)> = report
            .samples
            .windows(2)
            .map(|pair| (pair[1].seconds, count(&pair[1]) - count(&pair[0])))
            .collect();
        let most = deltas.iter().map(|delta| delta.1).max().unwrap_or(0).max(1) as f64;
        let mut chart = ChartBuilder::on(area)
            .margin_left(12)
            .margin_right(12)
            .margin_top(6)
            .set_label_area_size(LabelAreaPosition::Left, 70)
            .build_cartesian_2d(0.0..end, 0.0..most)
            .map_err(failed)?;
        chart
            .draw_series(deltas.iter().map(|&(at, n)| {
                PathElement::new(vec![(at, 0.0), (at, n as f64)], ORANGE.stroke_width(2))
            }))
            .map_err(failed)?;
        let total: u64 = deltas.iter().map(|delta| delta.1).sum();
        area.draw_text(name, &(FONT, 14).into_text_style(area), (8, 12)).map_err(failed)?;
        area.draw_text(&total.to_string(), &(FONT, 13).into_text_style(area).color(&GREY), (8, 30))
            .map_err(failed)?;
    }
    root.present().map_err(failed)
}

/// Returns a measurement as an SVG in the shape that its report asks for.
pub(crate) fn report(report: &BenchReport) -> Result<String> {
    match report.shape {
        Shape::Bars => bars(report),
        Shape::Lines => lines(report),
        Shape::Tails => tails(report),
    }
}

/// Draws one panel for each scenario and one bar for each contender, with whiskers from minimum to
/// maximum.
fn bars(report: &BenchReport) -> Result<String> {
    let panels = report.panels();
    let axis = format!("{} per {}", report.unit.name(), report.per);
    let longest = panels.iter().map(|panel| panel.1.len()).max().unwrap_or(1) as u32;
    let height = 100 + 24 * longest.max(3);
    let mut picture = String::new();
    let size = (1000, 60 + height * (panels.len() as u32).div_ceil(2).max(1));
    let root = SVGBackend::with_string(&mut picture, size).into_drawing_area();
    root.fill(&WHITE).map_err(failed)?;
    let titled = root.titled(report.title, (FONT, 22)).map_err(failed)?;
    for (area, (title, rows)) in
        titled.split_evenly((panels.len().div_ceil(2).max(1), 2)).iter().zip(&panels)
    {
        let unit = rows.first().and_then(|row| row.unit);
        let axis = unit.map_or_else(|| axis.clone(), |unit| unit.name().to_owned());
        panel(area, title, rows, &axis, report)?;
    }
    root.present().map_err(failed)?;
    drop((titled, root));
    Ok(picture)
}

fn panel(
    area: &Area<'_>,
    title: &str,
    rows: &[&Row],
    axis: &str,
    report: &BenchReport,
) -> Result<()> {
    let most = rows.iter().map(|row| row.max).fold(0.0, f64::max);
    let most = if most > 0.0 { most } else { 1.0 };
    let n = rows.len();
    let widest = rows.iter().map(|row| row.name.len()).max().unwrap_or(0) as u32;
    let mut chart = ChartBuilder::on(area)
        .caption(title, (FONT, 16))
        .margin(10)
        .margin_right(24)
        .set_label_area_size(LabelAreaPosition::Left, (widest * 7 + 16).max(60))
        .set_label_area_size(LabelAreaPosition::Bottom, 36)
        .build_cartesian_2d(0.0..most * 1.2, 0.0..n as f64)
        .map_err(failed)?;
    chart
        .configure_mesh()
        .disable_y_mesh()
        .light_line_style(TRANSPARENT)
        .y_labels(0)
        .x_labels(5)
        .x_label_formatter(&short)
        .x_desc(axis)
        .label_style((FONT, 13))
        .draw()
        .map_err(failed)?;
    for (place, row) in rows.iter().rev().enumerate() {
        let (low, mid, high) = (place as f64 + 0.18, place as f64 + 0.5, place as f64 + 0.82);
        let colour = match row.name.as_str() {
            name if name == report.ours => ORANGE,
            name if report.compared_with.contains(&name) => GREY,
            _ => BLUE,
        };
        chart
            .draw_series([Rectangle::new(
                [(0.0, low), (row.median, high)],
                colour.mix(0.75).filled(),
            )])
            .map_err(failed)?;
        if row.min < row.max {
            let whisker = [
                vec![(row.min, mid), (row.max, mid)],
                vec![(row.min, mid - 0.12), (row.min, mid + 0.12)],
                vec![(row.max, mid - 0.12), (row.max, mid + 0.12)],
            ];
            chart.draw_series(whisker.map(|line| PathElement::new(line, BLACK))).map_err(failed)?;
        }
        let (x, y) = chart.backend_coord(&(0.0, mid));
        let (right, _) = chart.backend_coord(&(row.max, mid));
        let (left, above) = area.get_base_pixel();
        let label = (FONT, 13).into_text_style(area).pos(Pos::new(HPos::Right, VPos::Center));
        area.draw_text(&row.name, &label, (x - left - 6, y - above)).map_err(failed)?;
        let number = (FONT, 12).into_text_style(area).pos(Pos::new(HPos::Left, VPos::Center));
        area.draw_text(&label_of(row.median), &number, (right - left + 6, y - above))
            .map_err(failed)?;
    }
    Ok(())
}

/// Formats the number beside a bar: about three digits, large numbers with k, M or G.
fn label_of(number: f64) -> String {
    match number.abs() {
        0.0 => "0".to_owned(),
        size if size >= 1e9 => format!("{:.2} G", number / 1e9),
        size if size >= 1e6 => format!("{:.2} M", number / 1e6),
        size if size >= 1e5 => format!("{:.0} k", number / 1e3),
        size if size >= 1e3 => format!("{number:.0}"),
        size if size < 0.1 => format!("{number:.4}"),
        size if size < 10.0 => format!("{number:.2}"),
        _ => format!("{number:.1}"),
    }
}

/// Draws one panel for each scenario and a line with a band for each contender; both axes are
/// logarithmic.
fn lines(report: &BenchReport) -> Result<String> {
    let panels = report.lines();
    let axis = format!("{} per {}", report.unit.name(), report.per);
    let mut picture = String::new();
    let root = SVGBackend::with_string(&mut picture, (1000, 50 + 420 * panels.len().max(1) as u32))
        .into_drawing_area();
    root.fill(&WHITE).map_err(failed)?;
    let titled = root.titled(report.title, (FONT, 22)).map_err(failed)?;
    for (area, (title, contenders)) in
        titled.split_evenly((panels.len().max(1), 1)).iter().zip(&panels)
    {
        let rows = || contenders.iter().flat_map(|contender| &contender.1);
        let io_threads = rows().map(|row| row.scenario.threads).max().unwrap_or(1) as f64;
        let least = rows().map(|row| row.min).fold(f64::INFINITY, f64::min).max(1e-3);
        let most = rows().map(|row| row.max).fold(least * 2.0, f64::max);
        let mut chart = ChartBuilder::on(area)
            .caption(title, (FONT, 16))
            .margin(10)
            .margin_right(190)
            .set_label_area_size(LabelAreaPosition::Left, 70)
            .set_label_area_size(LabelAreaPosition::Bottom, 40)
            .build_cartesian_2d(
                (0.9..io_threads * 1.1).log_scale(),
                (least * 0.8..most * 1.25).log_scale(),
            )
            .map_err(failed)?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .x_desc("threads")
            .y_desc(&axis)
            .x_label_formatter(&short)
            .y_label_formatter(&short)
            .label_style((FONT, 13))
            .draw()
            .map_err(failed)?;
        let (left, above) = area.get_base_pixel();
        let mut ends = Vec::new();
        for (at, (name, rows)) in contenders.iter().enumerate() {
            let colour = LINES[at % LINES.len()];
            let x = |row: &&Row| row.scenario.threads as f64;
            let mut band: Vec<(f64, f64)> =
                rows.iter().map(|row| (x(row), row.min.max(1e-3))).collect();
            band.extend(rows.iter().rev().map(|row| (x(row), row.max)));
            chart.draw_series([Polygon::new(band, colour.mix(0.15))]).map_err(failed)?;
            let line: Vec<(f64, f64)> =
                rows.iter().map(|row| (x(row), row.median.max(1e-3))).collect();
            chart
                .draw_series([PathElement::new(line.clone(), colour.stroke_width(2))])
                .map_err(failed)?;
            chart
                .draw_series(line.iter().map(|&point| Circle::new(point, 2, colour.filled())))
                .map_err(failed)?;
            if let Some(&last) = line.last() {
                let (x, y) = chart.backend_coord(&last);
                ends.push((y - above, x - left + 8, *name, colour));
            }
        }
        write_names(area, ends)?;
    }
    root.present().map_err(failed)?;
    drop((titled, root));
    Ok(picture)
}

/// Writes each name beside the end of its line: at `(y, x)`, in a colour. Names do not overlap.
pub(crate) fn write_names(
    area: &Area<'_>,
    mut ends: Vec<(i32, i32, &str, RGBColor)>,
) -> Result<()> {
    ends.sort_by_key(|end| end.0);
    let mut lowest = i32::MIN;
    for (y, x, name, colour) in ends {
        lowest = y.max(lowest.saturating_add(15));
        let style =
            (FONT, 13).into_text_style(area).color(&colour).pos(Pos::new(HPos::Left, VPos::Center));
        area.draw_text(name, &style, (x, lowest)).map_err(failed)?;
    }
    Ok(())
}

/// The percentiles of a tail, by their keys in a row. The place of each is its number of nines.
const PERCENTILES: [(&str, f64, &str); 4] = [
    ("p50", 0.3, "50 %"),
    ("p99", 2.0, "99 %"),
    ("p999", 3.0, "99.9 %"),
    ("p9999", 4.0, "99.99 %"),
];

/// Draws one panel for each scenario, and a line over the percentiles for each contender. The times
/// are logarithmic.
fn tails(report: &BenchReport) -> Result<String> {
    let panels = report.lines();
    let axis = format!("{} per {}", report.unit.name(), report.per);
    let mut picture = String::new();
    let down = panels.len().div_ceil(2).max(1);
    let root =
        SVGBackend::with_string(&mut picture, (1300, 50 + 330 * down as u32)).into_drawing_area();
    root.fill(&WHITE).map_err(failed)?;
    let titled = root.titled(report.title, (FONT, 22)).map_err(failed)?;
    for (area, (title, contenders)) in titled.split_evenly((down, 2)).iter().zip(&panels) {
        tail_panel(area, title, contenders, &axis)?;
    }
    root.present().map_err(failed)?;
    drop((titled, root));
    Ok(picture)
}

fn tail_panel(area: &Area<'_>, title: &str, contenders: &[Line<'_>], axis: &str) -> Result<()> {
    // The maximum stands at the right end.
    let line = |row: &Row| {
        let of = |key| row.more.iter().find(|pair| pair.0 == key).map(|pair| pair.1.max(1.0));
        let points = PERCENTILES.iter().filter_map(|&(key, x, _)| Some((x, of(key)?)));
        points.chain([(5.0, row.max.max(1.0))]).collect::<Vec<_>>()
    };
    let rows = || contenders.iter().flat_map(|contender| &contender.1);
    let most = rows().map(|row| row.max).fold(10.0, f64::max);
    let least = rows().map(|row| row.median).fold(most, f64::min).max(1.0);
    let mut chart = ChartBuilder::on(area)
        .caption(title, (FONT, 16))
        .margin(10)
        .margin_right(110)
        .set_label_area_size(LabelAreaPosition::Left, 80)
        .set_label_area_size(LabelAreaPosition::Bottom, 40)
        .build_cartesian_2d(0.0..5.1, (least * 0.8..most * 1.25).log_scale())
        .map_err(failed)?;
    let name = |x: &f64| {
        let at = PERCENTILES.iter().find(|percentile| (percentile.1.round() - x).abs() < 0.1);
        at.map_or(if *x > 4.5 { "most" } else { "" }, |percentile| percentile.2).to_owned()
    };
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .x_labels(6)
        .x_label_formatter(&name)
        .y_desc(axis)
        .y_label_formatter(&|value| label_of(*value))
        .label_style((FONT, 13))
        .draw()
        .map_err(failed)?;
    let (left, above) = area.get_base_pixel();
    let mut ends = Vec::new();
    for (at, (name, rows)) in contenders.iter().enumerate() {
        let colour = LINES[at % LINES.len()];
        for points in rows.iter().map(|row| line(row)) {
            chart
                .draw_series([PathElement::new(points.clone(), colour.stroke_width(2))])
                .map_err(failed)?;
            chart
                .draw_series(points.iter().map(|&point| Circle::new(point, 2, colour.filled())))
                .map_err(failed)?;
            if let Some(last) = points.last() {
                let (x, y) = chart.backend_coord(last);
                ends.push((y - above, x - left + 8, *name, colour));
            }
        }
    }
    write_names(area, ends)
}
