//! Tables for the terminal: a name on the left, numbers on the right, a rule under the header.

use comfy_table::{Cell, CellAlignment, LineStyle, Table, presets};

/// Returns an empty table.
pub(crate) fn new(header: &[&str]) -> Table {
    let mut table = Table::new();
    let rule = LineStyle::none().fill('─').junction('─');
    if header.is_empty() {
        table.load_style(presets::NOTHING);
    } else {
        table.load_style(presets::NOTHING.header_separator(rule));
        table.set_header(aligned(header.iter().map(|&text| text.to_owned())));
    }
    table
}

/// Adds one row: the first cell is aligned to the left, the others to the right.
pub(crate) fn add(table: &mut Table, row: impl IntoIterator<Item = String>) {
    table.add_row(aligned(row));
}

fn aligned(row: impl IntoIterator<Item = String>) -> Vec<Cell> {
    let side = |n| if n == 0 { CellAlignment::Left } else { CellAlignment::Right };
    row.into_iter().enumerate().map(|(n, text)| Cell::new(text).set_alignment(side(n))).collect()
}
