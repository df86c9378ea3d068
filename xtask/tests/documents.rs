//! Compares the documents that name things in the code with the code: docs/checks.md,
//! docs/risky-places.md, docs/questions.md, and ARCHITECTURE.md with its files and data paths.

#[allow(dead_code, reason = "each test file uses a part")]
mod common;

use std::collections::{BTreeMap, BTreeSet};

use common::{read, rust_files, section, source_files};

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

/// Returns the words for each file of a list of files. A crate has a heading and a block, a folder
/// a line of which the first word ends with a slash, a file a line below it.
fn listed(list: &str) -> BTreeMap<String, String> {
    let (mut files, mut krate, mut folder, mut in_block) = (BTreeMap::new(), "", "", false);
    for line in list.lines() {
        let (name, words) = line.trim_start().split_once(' ').unwrap_or((line, ""));
        if let Some(heading) = line.strip_prefix("### ") {
            (krate, folder) = (heading, "");
        } else if line.starts_with("```") {
            in_block = !in_block;
        } else if in_block && name.ends_with('/') {
            folder = name;
        } else if in_block {
            let folder = if line.starts_with(' ') { folder } else { "" };
            files.insert(format!("{krate}/{folder}{name}.rs"), words.trim().to_owned());
        }
    }
    files
}

/// Compares a list of files with the files that there are. Returns what is wrong.
fn file_findings(list: &str, paths: &[String]) -> Vec<String> {
    let listed = listed(list);
    let short =
        |path: &String| path.strip_prefix("crates/").unwrap_or(path).replacen("/src/", "/", 1);
    let files: BTreeSet<_> = paths.iter().map(short).collect();
    // These may do nothing but declare modules.
    let declares = |path: &str| ["lib.rs", "main.rs", "mod.rs"].iter().any(|it| path.ends_with(it));
    let missing = files.iter().filter(|path| !listed.contains_key(*path) && !declares(path));
    let mut wrong: Vec<_> = missing.map(|path| format!("{path} is not listed")).collect();
    for (path, words) in &listed {
        if !files.contains(path) {
            wrong.push(format!("{path} is listed, but not there"));
        }
        if words.split(' ').count() < 2 {
            wrong.push(format!("{path} has no words: what does it decide?"));
        }
    }
    wrong
}

#[test]
fn every_source_file_is_in_the_architecture() {
    let text = read("ARCHITECTURE.md");
    let wrong = file_findings(section(&text, "Files"), &source_files());
    assert!(wrong.is_empty(), "ARCHITECTURE.md, Files:\n  {}", wrong.join("\n  "));
}

#[test]
fn a_file_that_is_not_listed_or_gone_is_reported() {
    let list = "words\n### folio\n\nwords\n```text\nmain    the command\na/      a folder\n  \
                one   the first\n  two   the\n  gone  a file\n```\n### other/x\n```text\n\
                low/    more\n  one   the same\n```\n";
    let paths = [
        "crates/folio/src/a/mod.rs",
        "crates/folio/src/a/one.rs",
        "crates/folio/src/a/two.rs",
        "crates/folio/src/b.rs",
        "crates/folio/src/main.rs",
        "other/x/src/low/one.rs",
    ];
    assert_eq!(
        file_findings(list, &paths.map(str::to_owned)),
        [
            "folio/b.rs is not listed",
            "folio/a/gone.rs is listed, but not there",
            "folio/a/two.rs has no words: what does it decide?",
        ]
    );
}

/// Returns the row of an operation in a table: its cells after the first.
fn row_of(table: &[Vec<String>], operation: &str) -> Vec<String> {
    let row = table.iter().find(|row| row[0].trim_matches('*') == operation);
    row.map(|row| row[1..].to_vec()).unwrap_or_default()
}

/// `cargo x data-paths` compares the record with what runs.
#[test]
fn the_data_paths_are_those_of_the_record() {
    let (record, text) = (rows("results/data-paths.md"), rows("ARCHITECTURE.md"));
    let has_path = |row: &&Vec<String>| row.len() == 3 && row[1].contains(" → ");
    let paths: Vec<_> = record.iter().filter(has_path).collect();
    assert_eq!(paths.len(), 10, "the operations of the record");
    for path in paths {
        let row = row_of(&text, &path[0]);
        assert_eq!(row.get(..2), Some(&path[1..]), "ARCHITECTURE.md, Data paths, {}", path[0]);
        // The last row of an operation in the record has the files that paths share.
        let shared = record.iter().rfind(|row| row[0] == path[0]).map(|row| row[1].clone());
        let shared = shared.unwrap_or_default();
        for name in quoted(&row[2]) {
            let file = format!("`state/{name}.rs`");
            assert!(shared.contains(&file), "{}: {file} is not on its path", path[0]);
        }
    }
}

#[test]
fn each_question_has_an_answer_that_is_a_file() {
    let text = read("docs/questions.md");
    let files: BTreeSet<_> = rust_files().into_iter().collect();
    let lines = |heading| section(&text, heading).lines().filter(|line| line.contains(". "));
    let number = |line: &str| line.split(". ").next().and_then(|n| n.parse::<u32>().ok());
    let asked: Vec<_> = lines("Questions").filter_map(number).collect();
    let answered: Vec<_> = lines("Answers").filter(|line| number(line).is_some()).collect();
    assert!(asked.len() >= 20, "too few questions found: {asked:?}");
    assert_eq!(answered.iter().filter_map(|line| number(line)).collect::<Vec<_>>(), asked);
    let gone: Vec<_> = answered
        .into_iter()
        .filter(|line| !quoted(line).first().is_some_and(|path| files.contains(*path)))
        .collect();
    assert!(gone.is_empty(), "docs/questions.md: these answers are no files: {gone:#?}");
}
