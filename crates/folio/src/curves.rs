//! Plots of several curves: one panel for each trace, one line for each policy.

use anyhow::Result;
use plotters::prelude::*;

use crate::plot::{Area, FONT, GREY, LINES, failed, short, write_names};

/// A line of a plot.
pub(crate) struct Curve {
    pub(crate) name: &'static str,
    pub(crate) points: Vec<(f64, f64)>,
    /// The limit of all others, drawn in grey.
    pub(crate) is_limit: bool,
}

/// Draws panels of curves, as SVG. The horizontal axis is logarithmic.
pub(crate) fn panels(title: &str, panels: &[(String, Vec<Curve>)]) -> Result<String> {
    let mut picture = String::new();
    let rows = panels.len().div_ceil(2).max(1);
    let columns = panels.len().clamp(1, 2);
    let size = (20 + 560 * columns as u32, 50 + 360 * rows as u32);
    let root = SVGBackend::with_string(&mut picture, size).into_drawing_area();
    root.fill(&WHITE).map_err(failed)?;
    let titled = root.titled(title, (FONT, 22)).map_err(failed)?;
    for (area, (name, curves)) in titled.split_evenly((rows, columns)).iter().zip(panels) {
        panel(area, name, curves)?;
    }
    root.present().map_err(failed)?;
    drop((titled, root));
    Ok(picture)
}

fn panel(area: &Area<'_>, title: &str, curves: &[Curve]) -> Result<()> {
    let points = || curves.iter().flat_map(|curve| &curve.points);
    let least = points().map(|point| point.0).fold(f64::INFINITY, f64::min);
    let least = if least.is_finite() { least } else { 1.0 };
    let most = points().map(|point| point.0).fold(least * 1.5, f64::max);
    let mut chart = ChartBuilder::on(area)
        .caption(title, (FONT, 16))
        .margin(10)
        .margin_right(90)
        .set_label_area_size(LabelAreaPosition::Left, 50)
        .set_label_area_size(LabelAreaPosition::Bottom, 40)
        .build_cartesian_2d((least * 0.95..most * 1.05).log_scale(), 0.0..1.0)
        .map_err(failed)?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .x_desc("frames of 4 KiB")
        .y_desc("hit ratio")
        .x_label_formatter(&short)
        .y_label_formatter(&short)
        .label_style((FONT, 13))
        .draw()
        .map_err(failed)?;
    let (left, above) = area.get_base_pixel();
    let mut ends = Vec::new();
    for (at, curve) in curves.iter().enumerate() {
        let colour = if curve.is_limit { GREY } else { LINES[at % LINES.len()] };
        let line = PathElement::new(curve.points.clone(), colour.stroke_width(2));
        chart.draw_series([line]).map_err(failed)?;
        let dots = curve.points.iter().map(|&point| Circle::new(point, 2, colour.filled()));
        chart.draw_series(dots).map_err(failed)?;
        if let Some(&last) = curve.points.last() {
            let (x, y) = chart.backend_coord(&last);
            ends.push((y - above, x - left + 8, curve.name, colour));
        }
    }
    write_names(area, ends)
}
