//! A committed count of findings for each file, which may only go down.
//!
//! A baseline is a file of lines `path count`. A file that is not listed may have none, and an
//! absent baseline lists nothing.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;

use crate::step::{Failure, root};
use crate::tree;

/// Findings by file; files without any are left out.
pub(crate) type Counts = BTreeMap<String, usize>;

/// Compares counts with the baseline at `path`. Fails with one line for each file that
/// differs; `command` is the command that writes the baseline.
pub(crate) fn check(path: &str, counts: &Counts, command: &str) -> Result<(), Failure> {
    let wrong =
        differences(&parse(&fs::read_to_string(root().join(path)).unwrap_or_default()), counts);
    if wrong.is_empty() {
        return Ok(());
    }
    Err(Failure::Failed(format!(
        "{path} does not match the tree:\n  {}\n'{command}' shows the places; '{command} --save' \
         writes lower counts",
        wrong.join("\n  ")
    )))
}

/// Writes the baseline, or removes it when there is nothing left to allow.
pub(crate) fn save(path: &str, counts: &Counts) -> Result<(), Failure> {
    if counts.is_empty() {
        let _ = fs::remove_file(root().join(path));
        return Ok(());
    }
    let mut text = String::new();
    for (file, count) in counts {
        let _ = writeln!(text, "{file} {count}");
    }
    tree::write(path, &text)
}

fn parse(text: &str) -> Counts {
    let lines = text.lines().filter_map(|line| line.rsplit_once(' '));
    lines.filter_map(|(file, count)| Some((file.to_owned(), count.parse().ok()?))).collect()
}

fn differences(allowed: &Counts, found: &Counts) -> Vec<String> {
    let mut files: Vec<_> = allowed.keys().chain(found.keys()).collect();
    files.sort();
    files.dedup();
    let of = |counts: &Counts, file: &String| counts.get(file).copied().unwrap_or(0);
    files
        .into_iter()
        .map(|file| (file, of(allowed, file), of(found, file)))
        .filter(|(_, allowed, found)| allowed != found)
        .map(|(file, allowed, found)| {
            let advice = if found > allowed { "too many" } else { "lower the baseline" };
            format!("{file}: {found} found, {allowed} allowed: {advice}")
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(list: &[(&str, usize)]) -> Counts {
        list.iter().map(|&(file, count)| (file.to_owned(), count)).collect()
    }

    #[test]
    fn a_count_that_rises_or_falls_differs_from_the_baseline() {
        let allowed = parse("a 1\nb c 2\nd 3\n");
        assert_eq!(allowed, counts(&[("a", 1), ("b c", 2), ("d", 3)]));
        let wrong = differences(&allowed, &counts(&[("a", 2), ("b c", 2), ("e", 1)]));
        assert_eq!(
            wrong,
            [
                "a: 2 found, 1 allowed: too many",
                "d: 0 found, 3 allowed: lower the baseline",
                "e: 1 found, 0 allowed: too many",
            ]
        );
    }

    #[test]
    fn an_empty_baseline_allows_nothing() {
        assert!(differences(&parse(""), &counts(&[])).is_empty());
        assert_eq!(differences(&parse(""), &counts(&[("a", 1)])).len(), 1);
    }
}
