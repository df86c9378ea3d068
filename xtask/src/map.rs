//! `cargo x map`: prints the file map, each source file with the first sentence of its own doc.

use std::fmt::Write as _;

use crate::step::{Failure, no_arguments};
use crate::tree;

pub(crate) fn run(arguments: &[String]) -> Result<(), Failure> {
    no_arguments("map", arguments)?;
    let mut docs = Vec::new();
    for path in tree::text_files()? {
        if tree::is_rust(&path) && path.split('/').any(|part| part == "src") {
            let doc = doc_of(&tree::read(&path)?);
            docs.push((path, doc));
        }
    }
    print!("{}", map(&docs));
    Ok(())
}

/// Returns the first sentence of a file's doc, or its first paragraph if no sentence ends in it.
fn doc_of(text: &str) -> String {
    let lines = text.lines().map_while(|line| line.strip_prefix("//!")).map(str::trim);
    let words: Vec<_> = lines.take_while(|line| !line.is_empty()).collect();
    let text = words.join(" ");
    text.split_once(". ").map_or(text.trim_end_matches('.'), |(first, _)| first).to_owned()
}

/// Prints paths as a tree: a folder is a line of its own, its files are indented below it.
fn map(docs: &[(String, String)]) -> String {
    let (mut text, mut open): (String, Vec<&str>) = (String::new(), Vec::new());
    for (path, doc) in docs {
        let mut folders: Vec<_> = path.split('/').collect();
        let file = folders.pop().unwrap_or_default();
        let same = folders.iter().zip(&open).take_while(|(a, b)| a == b).count();
        for (depth, folder) in folders.iter().enumerate().skip(same) {
            let _ = writeln!(text, "{:1$}{folder}/", "", 2 * depth);
        }
        let _ = writeln!(text, "{:1$}{file} - {doc}", "", 2 * folders.len());
        open = folders;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_described_by_its_first_sentence() {
        assert_eq!(doc_of("//! One\n//! two. Three.\n//!\n//! Four."), "One two");
        assert_eq!(doc_of("//! A `b.rs` file.\n\nuse std::fs;\n//! no"), "A `b.rs` file");
    }

    #[test]
    fn folders_are_printed_once() {
        let docs = ["a/b/c.rs", "a/b/d.rs", "a/e.rs"].map(|path| (path.to_owned(), "x".to_owned()));
        assert_eq!(map(&docs), "a/\n  b/\n    c.rs - x\n    d.rs - x\n  e.rs - x\n");
    }
}
