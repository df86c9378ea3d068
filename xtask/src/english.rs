//! `cargo x english`: counts phrases that our prose avoids, in all text of the repository.
//!
//! The phrases and their reasons stand in CONTRIBUTING.md, "Style". An underscore separates
//! words, so names of tests and items are counted too. Phrases are built from pieces here, so that
//! this file does not count itself.

use std::collections::BTreeMap;

use crate::baseline::{self, Counts};
use crate::step::Failure;
use crate::tree;

const BASELINE: &str = "xtask/english.txt";

/// Pronouns for persons. The first letter may be a capital.
const PERSONS: [&str; 4] =
    [concat!("w", "ho"), concat!("w", "hoever"), concat!("w", "hose"), concat!("w", "hom")];

/// Other pronouns for persons.
const BODIES: [&str; 4] = [
    concat!("some", "body"),
    concat!("no", "body"),
    concat!("any", "body"),
    concat!("every", "body"),
];

/// Phrases of several words; a line break and comment marks may stand between the words.
const PHRASES: [(&str, &[&str]); 3] = [
    ("cannot", &["can", "not"]),
    ("at_most", &["at", "the", "most"]),
    ("fruitless", &["in", "vain"]),
];

/// The first words of a doc line that should begin with a verb or a noun instead.
const QUESTIONS: [&[&str]; 5] =
    [&["Whether"], &["How", "many"], &["Which"], &["What"], &[concat!("W", "ho")]];

/// The maximum length of a test's name.
const LONGEST_NAME: usize = 60;

/// One phrase in a file.
#[derive(Debug, PartialEq)]
struct Finding {
    line: usize,
    kind: &'static str,
}

/// Totals of the whole tree: the size of its prose, and findings by kind.
#[derive(Default)]
struct Totals {
    words: usize,
    docs: usize,
    returns: usize,
    kinds: BTreeMap<&'static str, usize>,
}

pub(crate) fn run(arguments: &[String]) -> Result<(), Failure> {
    let (mut counts, mut totals) = (Counts::new(), Totals::default());
    let mut places = Vec::new();
    let one = match arguments {
        [] => None,
        [option] if option == "--save" => None,
        [path] if !path.starts_with('-') => Some(path),
        _ => return Err(Failure::Usage("english takes nothing, --save, or a path".to_owned())),
    };
    for path in tree::text_files()? {
        if one.is_some_and(|one| !path.contains(one.as_str())) {
            continue;
        }
        let text = tree::read(&path)?;
        let found = findings(&text);
        totals.add(&path, &text, &found);
        places.extend(
            found.iter().map(|finding| format!("{path}:{}: {}", finding.line, finding.kind)),
        );
        if !found.is_empty() {
            counts.insert(path, found.len());
        }
    }
    if one.is_some() {
        for place in &places {
            println!("{place}");
        }
    }
    for (path, count) in &counts {
        println!("{count:5} {path}");
    }
    totals.print(counts.values().sum());
    match arguments {
        [option] if option == "--save" => baseline::save(BASELINE, &counts),
        [] => baseline::check(BASELINE, &counts, "cargo x english"),
        _ => Ok(()),
    }
}

/// Returns the findings of a text, in order of kind and line.
fn findings(text: &str) -> Vec<Finding> {
    let words = words(text);
    let mut found = Vec::new();
    for (at, word) in words.iter().enumerate() {
        let lower = uncapitalised(word.text);
        let mut push = |kind| found.push(Finding { line: word.line, kind });
        if PERSONS.contains(&lower.as_str()) {
            push("person");
        }
        if BODIES.contains(&lower.as_str()) {
            push("body");
        }
        for (kind, phrase) in PHRASES {
            let is_it = words.get(at..at + phrase.len()).is_some_and(|words| {
                words.iter().zip(phrase).all(|(word, part)| uncapitalised(word.text) == **part)
                    && words[1..].iter().all(|word| is_gap(word.before))
            });
            if is_it {
                push(kind);
            }
        }
        let after = &text[word.end..];
        if word.text == "As" && after.trim_start_matches(gap_char).starts_with("[`") {
            push("as_link");
        }
    }
    let questions = doc_starts(text).filter(|(_, line)| {
        let mut words = line.split(|c: char| !c.is_alphanumeric());
        let first = [words.next().unwrap_or_default(), words.next().unwrap_or_default()];
        QUESTIONS.iter().any(|question| first.starts_with(question))
    });
    found.extend(questions.map(|(line, _)| Finding { line, kind: "question" }));
    let names = test_names(text).filter(|(_, name)| name.len() > LONGEST_NAME);
    found.extend(names.map(|(line, _)| Finding { line, kind: "long_name" }));
    found
}

/// A word of a text: where it stands, and the characters between it and the word before.
struct Word<'a> {
    text: &'a str,
    before: &'a str,
    line: usize,
    end: usize,
}

fn words(text: &str) -> Vec<Word<'_>> {
    let (mut all, mut end, mut line) = (Vec::new(), 0, 1);
    for word in text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()) {
        let start = word.as_ptr() as usize - text.as_ptr() as usize;
        let before = &text[end..start];
        line += before.matches('\n').count();
        end = start + word.len();
        all.push(Word { text: word, before, line, end });
    }
    all
}

fn uncapitalised(word: &str) -> String {
    let mut letters = word.chars();
    let first = letters.next().map(|c| c.to_ascii_lowercase());
    first.into_iter().chain(letters).collect()
}

/// Returns `true` if only blanks, line breaks, underscores and comment marks stand in a gap.
fn is_gap(gap: &str) -> bool {
    gap.chars().all(gap_char)
}

fn gap_char(c: char) -> bool {
    c.is_whitespace() || ['_', '/', '!', '#', '*', '>', '\\'].contains(&c)
}

/// Returns the first line of each block of doc comments, with its number and without its mark.
fn doc_starts(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut last = None;
    text.lines().enumerate().filter_map(move |(at, line)| {
        let line = line.trim_start();
        let mark = ["///", "//!"].into_iter().find(|mark| line.starts_with(mark));
        let is_first = mark.is_some() && mark != last;
        last = mark;
        is_first.then(|| (at + 1, line[3..].trim_start()))
    })
}

/// Returns the names of the tests of a Rust file, each with its line.
fn test_names(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut is_test = false;
    text.lines().enumerate().filter_map(move |(at, line)| {
        let line = line.trim_start();
        is_test |= line == "#[test]";
        let (name, _) = line.strip_prefix("fn ")?.split_once(['(', '<'])?;
        std::mem::take(&mut is_test).then_some((at + 1, name))
    })
}

impl Totals {
    fn add(&mut self, path: &str, text: &str, found: &[Finding]) {
        let is_rust = tree::is_rust(path);
        let prose = text.lines().map(str::trim_start);
        let prose = prose.filter(|line| !is_rust || line.starts_with("//"));
        let is_word = |word: &&str| word.contains(char::is_alphabetic);
        self.words +=
            prose.map(|line| line.split_whitespace().filter(is_word).count()).sum::<usize>();
        if is_rust {
            self.docs += doc_starts(text).count();
            self.returns += words(text).iter().filter(|word| word.text == "Returns").count();
        }
        for finding in found {
            *self.kinds.entry(finding.kind).or_default() += 1;
        }
    }

    fn print(&self, sum: usize) {
        println!("{sum:5} in all; {} words of prose, {} doc comments", self.words, self.docs);
        let of = |kind| self.kinds.get(kind).copied().unwrap_or(0);
        let per = |count: usize, all: usize| count as f64 * 1000.0 / all.max(1) as f64;
        let words = [
            ("person", "pronouns for persons"),
            ("body", "the same with 'body'"),
            ("cannot", "two words for 'cannot'"),
            ("at_most", "'at most' with an article"),
            ("fruitless", "an old phrase for 'without success'"),
            ("as_link", "links instead of facts"),
        ];
        for (kind, what) in words {
            println!("{:5} {what}: {:.2} per 1000 words", of(kind), per(of(kind), self.words));
        }
        println!("{:5} test names of more than {LONGEST_NAME} characters", of("long_name"));
        for (count, what) in
            [(of("question"), "docs that begin with a question word"), (self.returns, "'Returns'")]
        {
            println!("{count:5} {what}: {:.1} per 1000 doc comments", per(count, self.docs));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the kinds found in a text, in which a `~` splits what this file may not contain.
    fn kinds(text: &str) -> Vec<&'static str> {
        findings(&text.replace('~', "")).into_iter().map(|finding| finding.kind).collect()
    }

    #[test]
    fn no_file_exceeds_its_baseline() {
        if let Err(Failure::Usage(message) | Failure::Failed(message)) = run(&[]) {
            panic!("{message}");
        }
    }

    #[test]
    fn persons_are_found_as_whole_words_only() {
        assert_eq!(kinds("W~ho is it, w~hoever w~hose w~hom?"), ["person"; 4]);
        assert_eq!(kinds("fn w~ho_comes_first()"), ["person"]);
        assert_eq!(kinds("the whole, Whoa, WHO"), [""; 0]);
        assert_eq!(kinds("No~body, some~body, any~body, every~body; bodybuilder"), ["body"; 4]);
    }

    #[test]
    fn phrases_are_found_across_lines_and_underscores() {
        assert_eq!(kinds("It can~ not. Can~ not?"), ["cannot"; 2]);
        assert_eq!(kinds("/// it can~\n    /// not"), ["cannot"]);
        assert_eq!(kinds("fn it_can_~not_be()"), ["cannot"]);
        assert_eq!(kinds("cannot; can, not; can (not)"), [""; 0]);
        assert_eq!(kinds("one at~ the most, two at~\n//! the most"), ["at_most"; 2]);
        assert_eq!(kinds("at most; at the moment"), [""; 0]);
        assert_eq!(kinds("MAX_in_~vain; tried in~ vain; a vain hope"), ["fruitless"; 2]);
    }

    #[test]
    fn a_doc_that_begins_with_a_question_is_found() {
        assert_eq!(kinds("/// Whether it is.\n/// Which is fine here.\nfn a()"), ["question"]);
        assert_eq!(kinds("//! What it is.\n\n/// How many.\n"), ["question"; 2]);
        assert_eq!(kinds("/// How it is done.\n// Whether.\nWhich\n"), [""; 0]);
        assert_eq!(kinds("/// W~ho.\n"), ["person", "question"]);
    }

    #[test]
    fn a_link_instead_of_a_fact_is_found() {
        assert_eq!(kinds("/// A~s [`a`]"), ["as_link"]);
        assert_eq!(kinds("/// A~s\n/// [`a`]"), ["as_link"]);
        assert_eq!(kinds("/// As `a`, as [`b`], As [b]"), [""; 0]);
    }

    #[test]
    fn a_long_test_name_is_found() {
        let long = "a".repeat(61);
        let test = format!("    #[test]\n    #[should_panic]\n    fn {long}() {{}}\n");
        assert_eq!(kinds(&test), ["long_name"]);
        assert_eq!(kinds(&test.replace(&long, &long[1..])), [""; 0]);
        assert_eq!(kinds(&format!("#[test]\nfn a() {{}}\nfn {long}() {{}}\n")), [""; 0]);
    }

    #[test]
    fn a_finding_has_its_line() {
        let text = "one\n\ntwo w~ho\n".replace('~', "");
        assert_eq!(findings(&text), [Finding { line: 3, kind: "person" }]);
    }
}
