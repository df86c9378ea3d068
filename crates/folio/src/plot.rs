//! Pictures: throughput over time with what happened underneath, and bars of a measurement.

use std::path::Path;

use anyhow::{Result, anyhow};
use page_bench::Report as BenchReport;
use plotters::prelude::*;

use crate::torture::report::{Report, Sample};

const BLUE: RGBColor = RGBColor(0, 114, 178);
const ORANGE: RGBColor = RGBColor(213, 94, 0);
const GREY: RGBColor = RGBColor(120, 120, 120);
const FONT: &str = "sans-serif";

fn failed(error: impl std::fmt::Display) -> anyhow::Error {
    anyhow!("{error}")
}

/// A number on an axis, without digits that say nothing.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "as plotters calls it")]
fn short(number: &f64) -> String {
    format!("{number:.2}").trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Throughput on top, below it one lane for each thing that happened to the frames.
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
        .caption("Read and compared, while the frames underneath move", (FONT, 20))
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
    chart.draw_series(AreaSeries::new(rates.iter().copied(), 0.0, BLUE.mix(0.2)).border_style(BLUE)).map_err(failed)?;
    for (area, (name, count)) in bottom.split_evenly((lanes.len(), 1)).iter().zip(lanes) {
        let deltas: Vec<(f64, u64)> =
            report.samples.windows(2).map(|pair| (pair[1].seconds, count(&pair[1]) - count(&pair[0]))).collect();
        let most = deltas.iter().map(|delta| delta.1).max().unwrap_or(0).max(1) as f64;
        let mut chart = ChartBuilder::on(area)
            .margin_left(12)
            .margin_right(12)
            .margin_top(6)
            .set_label_area_size(LabelAreaPosition::Left, 70)
            .build_cartesian_2d(0.0..end, 0.0..most)
            .map_err(failed)?;
        chart
            .draw_series(
                deltas.iter().map(|&(at, n)| PathElement::new(vec![(at, 0.0), (at, n as f64)], ORANGE.stroke_width(2))),
            )
            .map_err(failed)?;
        let total: u64 = deltas.iter().map(|delta| delta.1).sum();
        area.draw_text(name, &(FONT, 14).into_text_style(area), (8, 12)).map_err(failed)?;
        area.draw_text(&total.to_string(), &(FONT, 13).into_text_style(area).color(&GREY), (8, 30)).map_err(failed)?;
    }
    root.present().map_err(failed)
}

/// One panel for each case, one bar for each subject, whiskers from the least to the most.
pub(crate) fn bars(path: &Path, report: &BenchReport) -> Result<()> {
    let panels = report.panels();
    let axis = format!("{} per {}", report.unit.name(), report.per);
    let root = SVGBackend::new(path, (1000, 60 + 260 * (panels.len() as u32).div_ceil(2))).into_drawing_area();
    root.fill(&WHITE).map_err(failed)?;
    let root = root.titled(report.title, (FONT, 22)).map_err(failed)?;
    for (area, (title, rows)) in root.split_evenly((panels.len().div_ceil(2), 2)).iter().zip(&panels) {
        let most = rows.iter().map(|row| row.max).fold(0.0, f64::max);
        let n = rows.len();
        let mut chart = ChartBuilder::on(area)
            .caption(title, (FONT, 16))
            .margin(10)
            .margin_right(24)
            .set_label_area_size(LabelAreaPosition::Left, 110)
            .set_label_area_size(LabelAreaPosition::Bottom, 36)
            .build_cartesian_2d(0.0..most * 1.18, 0.0..n as f64)
            .map_err(failed)?;
        chart
            .configure_mesh()
            .disable_y_mesh()
            .light_line_style(TRANSPARENT)
            .y_labels(0)
            .x_labels(6)
            .x_label_formatter(&short)
            .x_desc(&axis)
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
                .draw_series([Rectangle::new([(0.0, low), (row.median, high)], colour.mix(0.75).filled())])
                .map_err(failed)?;
            let whisker = [
                vec![(row.min, mid), (row.max, mid)],
                vec![(row.min, mid - 0.12), (row.min, mid + 0.12)],
                vec![(row.max, mid - 0.12), (row.max, mid + 0.12)],
            ];
            chart.draw_series(whisker.map(|line| PathElement::new(line, BLACK))).map_err(failed)?;
            let (x, y) = chart.backend_coord(&(0.0, mid));
            let (right, _) = chart.backend_coord(&(row.max, mid));
            let (left, above) = area.get_base_pixel();
            let style = (FONT, 13).into_text_style(area);
            let label = style.pos(plotters::style::text_anchor::Pos::new(
                plotters::style::text_anchor::HPos::Right,
                plotters::style::text_anchor::VPos::Center,
            ));
            area.draw_text(&row.name, &label, (x - left - 6, y - above)).map_err(failed)?;
            let number = (FONT, 12).into_text_style(area).pos(plotters::style::text_anchor::Pos::new(
                plotters::style::text_anchor::HPos::Left,
                plotters::style::text_anchor::VPos::Center,
            ));
            area.draw_text(&format!("{:.1}", row.median), &number, (right - left + 6, y - above)).map_err(failed)?;
        }
    }
    root.present().map_err(failed)
}
