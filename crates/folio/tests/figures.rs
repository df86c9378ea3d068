//! The figures in docs/schemes.md and results/machine-code.md. Each comes from a committed result
//! and names it.
//!
//! A figure is followed by its reference, `<!--=FILE|CASE|THREADS|NAME-->`: the median of that row
//! in `results/amd-epyc-2cpu/FILE.json`. A fifth field selects another number of the row, a sixth
//! divides it by a unit. `NAME/OTHER` is a ratio. `FILE|least|COLUMN` and `FILE|most|COLUMN` are
//! the minimum and maximum of a column of a report's own table; `FILE|cell|ROW|COLUMN` is one cell.
//! A whole table stands between `<!-- table: FILE; NAMES; COLUMNS -->` and `<!-- end -->`.
//! `cargo x figures --save` rewrites all figures; without it this test reports the differences.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// The pages, each with its least number of figures: those with a source beside them, and the cells
/// of generated tables.
const PAGES: [(&str, usize); 2] = [("docs/schemes.md", 90), ("results/machine-code.md", 80)];
const RESULTS: &str = "results/amd-epyc-2cpu";
const SAVE: &str = "FOLIO_SAVE_FIGURES";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The result files, loaded on first use.
#[derive(Default)]
struct Results(HashMap<String, Value>);

impl Results {
    fn file(&mut self, name: &str) -> &Value {
        self.0.entry(name.to_owned()).or_insert_with(|| {
            let path = root().join(RESULTS).join(format!("{name}.json"));
            let text = fs::read_to_string(&path)
                .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            serde_json::from_str(&text).unwrap()
        })
    }

    /// Returns the number that a reference names.
    fn number(&mut self, reference: &str) -> f64 {
        let parts: Vec<&str> = reference.split('|').collect();
        let found = match parts[..] {
            [file, "least", column] => self.column(file, column).into_iter().reduce(f64::min),
            [file, "most", column] => self.column(file, column).into_iter().reduce(f64::max),
            [file, "cell", row, column] => self.cell(file, row, column),
            [file, scenario, threads, name] => self.row(file, scenario, threads, name, "median"),
            [file, scenario, threads, name, key] => self.row(file, scenario, threads, name, key),
            [file, scenario, threads, name, key, unit] => {
                let number = self.row(file, scenario, threads, name, key);
                number.map(|number| number / unit.parse::<f64>().expect("the unit is a number"))
            }
            _ => None,
        };
        found.unwrap_or_else(|| panic!("'{reference}' is not in {RESULTS}"))
    }

    fn row(
        &mut self,
        file: &str,
        scenario: &str,
        threads: &str,
        name: &str,
        key: &str,
    ) -> Option<f64> {
        let (list, key) = if name.contains('/') { ("ratios", "value") } else { ("rows", key) };
        let rows = self.file(file)[list].as_array()?;
        let is_it = |row: &&Value| {
            row["name"] == name
                && row["case"] == scenario
                && row["threads"].as_u64() == threads.parse().ok()
        };
        rows.iter().find(is_it)?[key].as_f64()
    }

    fn tables(&mut self, file: &str) -> Vec<(Vec<String>, Vec<Vec<String>>)> {
        let strings = |list: &Value| {
            let cells = list.as_array().into_iter().flatten();
            cells.map(|cell| cell.as_str().unwrap_or_default().to_owned()).collect::<Vec<_>>()
        };
        let tables = self.file(file)["tables"].as_array().into_iter().flatten();
        tables
            .map(|table| {
                (
                    strings(&table["header"]),
                    table["rows"].as_array().unwrap().iter().map(strings).collect(),
                )
            })
            .collect()
    }

    fn column(&mut self, file: &str, column: &str) -> Vec<f64> {
        let mut numbers = Vec::new();
        for (header, rows) in self.tables(file) {
            if let Some(at) = header.iter().position(|name| name == column) {
                numbers.extend(rows.iter().filter_map(|row| first_number(&row[at])));
            }
        }
        numbers
    }

    fn cell(&mut self, file: &str, row: &str, column: &str) -> Option<f64> {
        self.tables(file).into_iter().find_map(|(header, rows)| {
            let at = header.iter().position(|name| name == column)?;
            first_number(&rows.iter().find(|cells| cells[0] == row)?[at])
        })
    }

    /// Returns the Markdown table of `FILE; NAME, NAME; CASE|THREADS as TITLE; ...`.
    fn table(&mut self, what: &str) -> String {
        let mut parts = what.split(';').map(str::trim);
        let (file, names) = (parts.next().unwrap(), parts.next().expect("names"));
        let columns: Vec<(&str, &str)> = parts
            .map(|part| part.split_once(" as ").unwrap_or_else(|| panic!("no ' as ' in '{part}'")))
            .collect();
        let mut text = String::from("| |");
        for (_, title) in &columns {
            let _ = write!(text, " {title} |");
        }
        text += "\n| --- |";
        text += &" ---: |".repeat(columns.len());
        for name in names.split(',').map(str::trim) {
            let _ = write!(text, "\n| {name} |");
            for (at, _) in &columns {
                let mut parts: Vec<&str> = at.split('|').collect();
                parts.insert(2, name);
                let number = match parts[..] {
                    [scenario, threads, name] => self.row(file, scenario, threads, name, "median"),
                    [scenario, threads, name, key] => self.row(file, scenario, threads, name, key),
                    _ => panic!("'{at}' is not a column: give CASE|THREADS or CASE|THREADS|KEY"),
                };
                let _ = match number {
                    Some(number) if number < 100.0 => write!(text, " {number:.1} |"),
                    Some(number) => write!(text, " {number:.0} |"),
                    None => write!(text, " - |"),
                };
            }
        }
        text + "\n"
    }
}

fn first_number(cell: &str) -> Option<f64> {
    cell.split(' ').next()?.parse().ok()
}

/// Returns the start of the figure at the end of a text.
fn figure(text: &str) -> usize {
    text.rfind(|c: char| !c.is_ascii_digit() && c != '.')
        .map_or(0, |at| at + text[at..].chars().next().unwrap().len_utf8())
}

/// Returns the page with every figure and table replaced by those of the results.
fn filled(page: &str, results: &mut Results) -> String {
    let (mut fresh, mut skip) = (String::new(), false);
    for line in page.lines() {
        skip &= line != "<!-- end -->";
        if !skip {
            let mut parts = line.split("<!--=");
            let mut text = parts.next().unwrap().to_owned();
            for part in parts {
                let (reference, rest) = part.split_once("-->").expect("an end of the reference");
                let at = figure(&text);
                let decimals = text[at..].split_once('.').map_or(0, |(_, decimals)| decimals.len());
                text.truncate(at);
                let _ = write!(
                    text,
                    "{:.decimals$}<!--={reference}-->{rest}",
                    results.number(reference)
                );
            }
            fresh += &text;
            fresh.push('\n');
        }
        if let Some(what) = line.strip_prefix("<!-- table: ") {
            fresh += &results.table(what.trim_end_matches(" -->"));
            skip = true;
        }
    }
    fresh
}

/// The number of figures: those with a source beside them, and the cells of generated tables.
fn count(page: &str) -> usize {
    let tables =
        page.split("<!-- table: ").skip(1).filter_map(|rest| rest.split("<!-- end").next());
    let cells = tables.flat_map(str::lines).filter(|line| line.starts_with("| "));
    let cells = cells.flat_map(|line| line.split(" | ").skip(1));
    let cells = cells.filter(|cell| cell.trim_end_matches(" |").parse::<f64>().is_ok());
    page.matches("<!--=").count() + cells.count()
}

/// Figures without a source: those with a decimal point, or with a unit behind them.
fn loose(page: &str) -> Vec<String> {
    let (mut loose, mut in_table, mut in_code) = (Vec::new(), false, false);
    for line in page.lines() {
        in_table = (in_table || line.starts_with("<!-- table: ")) && line != "<!-- end -->";
        in_code ^= line.starts_with("```");
        if in_table || in_code {
            continue;
        }
        // Numbers quoted as code are not figures.
        let text: String = line.split('`').step_by(2).collect();
        let words: Vec<&str> = text.split_whitespace().collect();
        for (at, word) in words.iter().enumerate() {
            let bare = word.trim_matches(|c: char| "(),.;:*|".contains(c));
            let is_number = bare.parse::<f64>().is_ok();
            let has_unit = words.get(at + 1).is_some_and(|next| {
                ["ns", "%", "times", "ms", "GiB/s"]
                    .contains(&next.trim_matches(|c: char| "(),.;:*".contains(c)))
            });
            if is_number && (bare.contains('.') || has_unit) {
                loose.push(format!("{bare} in: {line}"));
            }
        }
    }
    loose
}

#[test]
fn every_figure_comes_from_a_committed_result() {
    let mut results = Results::default();
    for (name, least) in PAGES {
        let path = root().join(name);
        let page = fs::read_to_string(&path).unwrap();
        let fresh = filled(&page, &mut results);
        if std::env::var_os(SAVE).is_some() {
            fs::write(&path, &fresh).unwrap();
        } else {
            for (number, (is, should)) in page.lines().zip(fresh.lines()).enumerate() {
                assert_eq!(
                    is,
                    should,
                    "{name}, line {}; 'cargo x figures --save' rewrites it",
                    number + 1
                );
            }
            assert_eq!(page, fresh, "{name}; 'cargo x figures --save' rewrites it");
        }
        let count = count(&fresh);
        assert!(count >= least, "{name} has {count} figures, at least {least} are expected");
        let loose = loose(&fresh);
        assert!(loose.is_empty(), "figures without a source in {name}:\n{}", loose.join("\n"));
    }
}

/// Returns the commits that the results of this machine name, each with a file that names it.
fn commits() -> BTreeMap<String, String> {
    let mut commits = BTreeMap::new();
    for file in fs::read_dir(root().join(RESULTS)).unwrap().map(|file| file.unwrap().path()) {
        let text = fs::read_to_string(&file).unwrap_or_default();
        for line in text.lines() {
            let line = line.trim().trim_matches(['"', ',']);
            let Some(commit) = line.strip_prefix("commit: ").or(line.strip_prefix("commit\": \""))
            else {
                continue;
            };
            // A trailing plus marks a tree with uncommitted changes.
            commits.insert(commit.trim_end_matches('+').to_owned(), file.display().to_string());
        }
    }
    commits
}

/// A result is repeatable only if its commit is in the history.
#[test]
fn every_result_names_a_commit_of_this_history() {
    let git = |arguments: &[&str]| {
        let output = Command::new("git").args(arguments).current_dir(root()).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    // Without a full clone the history is unknown, and the test is skipped.
    if git(&["rev-parse", "--is-shallow-repository"]).as_deref() != Some("false") {
        return;
    }
    let commits = commits();
    assert!(!commits.is_empty(), "no result names a commit");
    for (commit, file) in commits {
        assert!(
            git(&["merge-base", "--is-ancestor", &commit, "HEAD"]).is_some(),
            "{file}: {commit} is not in the history"
        );
    }
}

#[test]
fn a_figure_without_a_source_is_noticed() {
    assert_eq!(
        loose("it takes 4.1 ns, or 12 ns, of 64 bits"),
        [
            "4.1 in: it takes 4.1 ns, or 12 ns, of 64 bits",
            "12 in: it takes 4.1 ns, or 12 ns, of 64 bits"
        ]
    );
    assert!(
        loose("it takes 4.1<!--=word|one|1|raw--> ns, `5.0 ns` and 2^30 references").is_empty()
    );
    assert_eq!(figure("costs about (12.5"), 13);
    let table =
        "<!-- table: a; b; c -->\n| | c |\n| --- | ---: |\n| b | 4.1 |\n| d | - |\n<!-- end -->";
    assert_eq!(count(&format!("4.1<!--=word|one|1|raw--> ns\n\n{table}\n")), 2);
}
