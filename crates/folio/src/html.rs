//! The report of all benchmarks: one self-contained page of HTML with its plots inside.

use std::fmt::Write as _;

use anyhow::Result;

use crate::bench::{Answer, cells};
use crate::machine::Machine;
use crate::plot;

const STYLE: &str = "\
    body{font:15px/1.5 system-ui,sans-serif;max-width:1040px;margin:2em auto;padding:0 1em;\
    color:#222}\
    table{border-collapse:collapse;font-variant-numeric:tabular-nums;margin:.5em 0 1.5em}\
    th,td{padding:.15em .8em;text-align:right;white-space:nowrap}th{border-bottom:1px solid #888}\
    th:first-child,td:first-child{text-align:left}svg{max-width:100%;height:auto}\
    pre,.note{color:#555;font-size:13px}nav a{margin-right:1em}\
    h2{margin-top:2.5em;border-top:1px solid #ccc;padding-top:1em}\
    summary{cursor:pointer}";

/// Returns the page.
pub(crate) fn page(answers: &[Answer], machine: &Machine) -> Result<String> {
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n\
         <title>folio bench all</title>\n\
         <style>{STYLE}</style>\n<h1>folio bench all</h1>\n<pre>{}</pre>\n<nav>",
        escape(&machine.lines())
    );
    for Answer { benchmark, .. } in answers {
        let _ = write!(page, "<a href=\"#{0}\">{0}</a>", benchmark.name);
    }
    page.push_str("</nav>\n");
    for Answer { benchmark, report } in answers {
        let _ = writeln!(
            page,
            "<h2 id=\"{0}\">{0}</h2>\n<p>{1}</p>",
            benchmark.name,
            escape(benchmark.about)
        );
        let report = match report {
            Ok(report) => report,
            Err(reason) => {
                let _ = writeln!(page, "<p><strong>Not measured:</strong> {}</p>", escape(reason));
                continue;
            }
        };
        page.push_str(&plot::report(report)?);
        let _ = writeln!(
            page,
            "\n<details><summary>{} per {}, as tables</summary>",
            report.unit.name(),
            report.per
        );
        for (title, header, rows) in cells(report) {
            let _ = writeln!(page, "<h4>{}</h4>\n<table>{}", escape(&title), row("th", &header));
            for cells in &rows {
                page.push_str(&row("td", cells));
            }
            page.push_str("</table>\n");
        }
        page.push_str("</details>\n");
        for note in &report.notes {
            let _ = writeln!(page, "<p class=\"note\">{}</p>", escape(note));
        }
    }
    page.push_str("</html>\n");
    Ok(page)
}

fn row(tag: &str, cells: &[String]) -> String {
    let mut text = String::from("<tr>");
    for cell in cells {
        let _ = write!(text, "<{tag}>{}</{tag}>", escape(cell));
    }
    text + "</tr>\n"
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
