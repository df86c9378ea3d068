//! `cargo x columns`: finds lines of Rust and Markdown that are longer than 100 columns.
//!
//! Tables, code blocks of Markdown, its comments, and lines with a link or another long word are
//! allowed to be longer: they cannot be wrapped.

use crate::baseline::{self, Counts};
use crate::step::Failure;
use crate::tree;

const BASELINE: &str = "xtask/columns.txt";

const LIMIT: usize = 100;

/// A word of this length does not fit into a line beside its indentation.
const LONG_WORD: usize = 80;

pub(crate) fn run(arguments: &[String]) -> Result<(), Failure> {
    let save = match arguments {
        [] => false,
        [option] if option == "--save" => true,
        _ => return Err(Failure::Usage("columns takes nothing, or --save".to_owned())),
    };
    let mut counts = Counts::new();
    for path in tree::text_files()? {
        let is_markdown = tree::is_markdown(&path);
        if !is_markdown && !tree::is_rust(&path) {
            continue;
        }
        let long = long_lines(&tree::read(&path)?, is_markdown);
        for line in &long {
            println!("{path}:{line}");
        }
        if !long.is_empty() {
            counts.insert(path, long.len());
        }
    }
    println!("{} lines are longer than {LIMIT} columns", counts.values().sum::<usize>());
    if save {
        baseline::save(BASELINE, &counts)
    } else {
        baseline::check(BASELINE, &counts, "cargo x columns")
    }
}

/// Returns the numbers of the lines that are too long and could be wrapped.
fn long_lines(text: &str, is_markdown: bool) -> Vec<usize> {
    let (mut long, mut in_code) = (Vec::new(), false);
    for (at, line) in text.lines().enumerate() {
        let start = line.trim_start().trim_start_matches(['/', '!']).trim_start();
        in_code ^= is_markdown && start.starts_with("```");
        let is_free = in_code
            || start.starts_with('|')
            || start.starts_with("<!--")
            || line.split_whitespace().any(|word| word.chars().count() > LONG_WORD);
        if !is_free && line.chars().count() > LIMIT {
            long.push(at + 1);
        }
    }
    long
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_file_exceeds_its_baseline() {
        if let Err(Failure::Usage(message) | Failure::Failed(message)) = run(&[]) {
            panic!("{message}");
        }
    }

    #[test]
    fn long_prose_and_code_are_found() {
        let long = "word ".repeat(21);
        assert_eq!(long_lines(&format!("short\n{long}\n"), true), [2]);
        assert_eq!(long_lines(&format!("    {long};\n"), false), [1]);
        assert_eq!(long_lines(&"ä ".repeat(50), true), [0; 0]);
    }

    #[test]
    fn tables_code_blocks_and_links_may_be_long() {
        let long = "word ".repeat(21);
        let link = format!("[text](https://example.invalid/{})", "a".repeat(80));
        let text = format!("| {long} |\n```sh\n{long}\n```\n- {link}\n/// | {long} |\n{long}\n");
        assert_eq!(long_lines(&text, true), [7]);
    }
}
