//! Compares the documents that name things in the code with the code: docs/checks.md and
//! docs/risky-places.md.

#[allow(dead_code, reason = "each test file uses a part")]
mod common;

use std::collections::BTreeSet;

use common::{read, rust_files};

/// Returns the cells of a document's tables, row by row, without the lines below headers.
fn rows(path: &str) -> Vec<Vec<String>> {
    let text = read(path);
    let lines = text.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| ---"));
    lines
        .map(|line| {
            line.trim_matches('|').split(" | ").map(|cell| cell.trim().to_owned()).collect()
        })
        .collect()
}

/// Returns the texts between backticks.
fn quoted(cell: &str) -> Vec<&str> {
    cell.split('`').skip(1).step_by(2).collect()
}

/// Returns the sources of the two lower crates, without comments and unit tests.
fn sources() -> String {
    let is_source = |path: &String| {
        ["crates/folio-ref/src/", "crates/folio-frames/src/"]
            .iter()
            .any(|folder| path.starts_with(folder))
    };
    let mut all = String::new();
    for path in rust_files().into_iter().filter(is_source) {
        let text = read(&path);
        let code = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
        all.extend(
            code.lines()
                .filter(|line| !line.trim_start().starts_with("//"))
                .flat_map(|line| [line, "\n"]),
        );
    }
    all
}

/// Returns the content of the first string in a text, and the text after it.
fn first_string(text: &str) -> Option<(String, &str)> {
    let (_, inside) = text.split_once('"')?;
    let mut escaped = false;
    let end = inside.char_indices().find(|&(_, c)| {
        let is_end = c == '"' && !escaped;
        escaped = c == '\\' && !escaped;
        is_end
    });
    let (end, _) = end?;
    // A string that is wrapped over several lines is one line.
    let words: Vec<_> = inside[..end].split("\\\n").map(str::trim_start).collect();
    Some((words.concat(), &inside[end + 1..]))
}

/// Returns the messages of all assertions that depend on `CHECKS`.
fn checks(code: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for start in ["assert!(", "if CHECKS {"] {
        for after in code.split(start).skip(1) {
            // The statement ends here.
            let statement = after.split(";\n").next().unwrap_or_default();
            if start == "if CHECKS {" || statement.contains("!CHECKS") {
                found.extend(first_string(statement).map(|(message, _)| message));
            }
        }
    }
    found
}

#[test]
fn every_check_is_in_the_catalogue_and_in_the_code() {
    let in_code = checks(&sources());
    assert!(in_code.len() > 15, "too few checks found: {in_code:#?}");
    let table = rows("docs/checks.md");
    let in_catalogue: BTreeSet<_> = table
        .iter()
        .filter(|row| row[0] != "the bug")
        .map(|row| row[2].trim_matches('`').to_owned())
        .collect();
    let missing: Vec<_> = in_code.difference(&in_catalogue).collect();
    let gone: Vec<_> = in_catalogue.difference(&in_code).collect();
    assert!(
        missing.is_empty() && gone.is_empty(),
        "not in docs/checks.md: {missing:#?}\nnot in the code: {gone:#?}"
    );
}

#[test]
fn every_risky_place_has_its_function_and_its_test() {
    let code = sources();
    let tests: String = rust_files()
        .into_iter()
        .filter(|path| path.contains("folio-frames/tests/"))
        .map(|path| read(&path))
        .collect();
    let mut places = 0;
    let mut missing = Vec::new();
    for row in
        rows("docs/risky-places.md").iter().filter(|row| row.len() == 4 && row[3].starts_with('`'))
    {
        places += 1;
        // A function, or a variant that it is given.
        let is_there = |name: &str| {
            code.contains(&format!("fn {name}("))
                || name.split_once("::").is_some_and(|(_, variant)| code.contains(variant))
        };
        missing
            .extend(quoted(&row[1]).into_iter().filter(|name| !is_there(name)).map(str::to_owned));
        let is_test = |name: &str| tests.contains(&format!("fn {name}<S: Scheme>("));
        missing
            .extend(quoted(&row[3]).into_iter().filter(|name| !is_test(name)).map(str::to_owned));
    }
    assert_eq!(places, 11, "the places of the list");
    assert!(missing.is_empty(), "named in docs/risky-places.md, but not there: {missing:?}");
}

#[test]
fn the_messages_of_checks_are_found() {
    let code = concat!(
        "assert!(!CHECKS || a, \"one \\\"{}\\\" \\\n        two\", b);\n",
        "assert!(x, \"three\");\n",
        "if CHECKS {\n panic!(\"four\");\n}"
    );
    assert_eq!(checks(code).into_iter().collect::<Vec<_>>(), ["four", "one \\\"{}\\\" two"]);
}
