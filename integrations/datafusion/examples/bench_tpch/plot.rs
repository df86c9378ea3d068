//! The times of the queries as bars: cold above, the second time below.

use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::prelude::*;

use crate::contender::{Contender, Phase};
use crate::report::{Report, Summary};

/// The contenders that are drawn, in colours that stay distinct with colour blindness.
const BARS: [(Contender, &str, RGBColor); 5] = [
    (Contender::Bare, "no cache", RGBColor(120, 120, 120)),
    (Contender::FoyerLayer, "foyer, opendal's layer", RGBColor(230, 159, 0)),
    (Contender::Foyer, "foyer, ranges", RGBColor(213, 94, 0)),
    (Contender::Folio, "folio", RGBColor(0, 114, 178)),
    (Contender::Local, "local files", RGBColor(0, 158, 115)),
];
const FONT: &str = "sans-serif";

fn failed(error: impl std::fmt::Display) -> anyhow::Error {
    anyhow!("cannot draw the plot: {error}")
}

/// Draws the plot as SVG.
pub(crate) fn draw(path: &Path, report: &Report) -> Result<()> {
    let summaries = report.summaries();
    let root = SVGBackend::new(path, (1000, 640)).into_drawing_area();
    root.fill(&WHITE).map_err(failed)?;
    let titled = root.titled(&report.title, (FONT, 20)).map_err(failed)?;
    let (top, bottom) = titled.split_vertically(300);
    panel(&top, "cold, ms", &summaries, Phase::Cold)?;
    panel(&bottom, "second time, ms", &summaries, Phase::Warm)?;
    root.present().map_err(failed)
}

fn panel(
    area: &DrawingArea<SVGBackend<'_>, plotters::coord::Shift>,
    title: &str,
    summaries: &[Summary],
    phase: Phase,
) -> Result<()> {
    let row_of = |contender| summaries.iter().find(|row| row.contender == contender);
    let shown: Vec<_> = BARS
        .iter()
        .filter_map(|(contender, name, colour)| {
            Some((row_of(*contender)?.queries(phase), *name, *colour))
        })
        .collect();
    let queries = shown.first().map_or(0, |shown| shown.0.len());
    let most = shown.iter().flat_map(|shown| shown.0).map(|cost| cost.ms).fold(1.0, f64::max);
    let mut chart = ChartBuilder::on(area)
        .caption(title, (FONT, 16))
        .margin(8)
        .set_label_area_size(LabelAreaPosition::Left, 60)
        .set_label_area_size(LabelAreaPosition::Bottom, 30)
        .build_cartesian_2d(0.5..queries as f64 + 0.5, 0.0..most * 1.05)
        .map_err(failed)?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .light_line_style(TRANSPARENT)
        .x_labels(queries)
        .x_desc("query")
        .x_label_formatter(&|query| format!("{query:.0}"))
        .label_style((FONT, 13))
        .draw()
        .map_err(failed)?;
    let width = 0.8 / shown.len().max(1) as f64;
    for (place, &(costs, name, colour)) in shown.iter().enumerate() {
        let left = place as f64 * width - 0.4;
        let bars = (1..).zip(costs.iter()).map(|(query, cost)| {
            let x = f64::from(query) + left;
            Rectangle::new([(x, 0.0), (x + width, cost.ms)], colour.filled())
        });
        chart
            .draw_series(bars)
            .map_err(failed)?
            .label(name)
            .legend(move |(x, y)| Rectangle::new([(x, y - 5), (x + 10, y + 5)], colour.filled()));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .background_style(WHITE.mix(0.8))
        .label_font((FONT, 13))
        .draw()
        .map_err(failed)
}
