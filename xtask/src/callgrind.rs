//! Reads what valgrind notes of a run: callgrind's costs by instruction and file, and lackey's
//! blocks of code in the order in which they ran.

use std::collections::{BTreeMap, BTreeSet};

/// The files of the instructions that ran, by address.
pub(crate) type Instructions = BTreeMap<u64, String>;

/// Returns the instructions with a cost in callgrind's output (`--dump-instr=yes`), each with the
/// file of its line: that of an inlined function where it is one. The cost of a call itself is not
/// that of the line, and does not count.
pub(crate) fn instructions(output: &str) -> Instructions {
    let (mut names, mut all) = (BTreeMap::<&str, &str>::new(), Instructions::new());
    let (mut file, mut address, mut is_call) = ("", 0, false);
    for line in output.lines() {
        if let Some((key, value)) = line.split_once('=') {
            is_call = key == "calls";
            // A name comes once, behind its number in parentheses, which stands for it later.
            if ["fl", "fi", "fe", "cfi", "cfl"].contains(&key) {
                let (number, name) = value.split_once(' ').unwrap_or((value, ""));
                if !name.is_empty() {
                    names.insert(number, name);
                }
                if !key.starts_with('c') {
                    file = names.get(number).copied().unwrap_or_default();
                }
            }
        } else if line.starts_with(|c: char| c.is_ascii_digit() || "+-*".contains(c)) {
            let at = line.split(' ').next().unwrap_or_default();
            address = position(at, address);
            if !std::mem::take(&mut is_call) {
                all.insert(address, file.to_owned());
            }
        }
    }
    all
}

/// Returns which file calls which other one. A call belongs to the file of its function.
pub(crate) fn calls(output: &str) -> BTreeSet<(String, String)> {
    let (mut names, mut all) = (BTreeMap::<&str, &str>::new(), BTreeSet::new());
    let (mut file, mut called) = ("", None);
    for line in output.lines() {
        let Some((key, value)) = line.split_once('=') else { continue };
        if ["fl", "fi", "fe", "cfi", "cfl"].contains(&key) {
            let (number, name) = value.split_once(' ').unwrap_or((value, ""));
            if !name.is_empty() {
                names.insert(number, name);
            }
            let name = names.get(number).copied().unwrap_or_default();
            match key {
                "fl" => file = name,
                "cfi" | "cfl" => called = Some(name),
                _ => {}
            }
        } else if key == "calls" {
            // A function of the same file is called without its name.
            let called = called.take().unwrap_or(file);
            if called != file {
                all.insert((file.to_owned(), called.to_owned()));
            }
        }
    }
    all
}

/// Returns the address that a position names: as it is, or relative to the one before.
fn position(text: &str, before: u64) -> u64 {
    let number = |text: &str| match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).unwrap_or(0),
        None => text.parse().unwrap_or(0),
    };
    match text.as_bytes().first() {
        Some(b'+') => before.wrapping_add(number(&text[1..])),
        Some(b'-') => before.wrapping_sub(number(&text[1..])),
        Some(b'*') => before,
        _ => number(text),
    }
}

/// Returns the address of the first instruction of a function.
pub(crate) fn function(output: &str, name: &str) -> Option<u64> {
    let number = output.lines().find_map(|line| {
        let (key, value) = line.split_once('=')?;
        let (number, found) = value.split_once(' ')?;
        (["fn", "cfn"].contains(&key) && found == name).then_some(number)
    })?;
    let is_start = |line: &&str| {
        line.strip_prefix("fn=").is_some_and(|rest| rest.split(' ').next() == Some(number))
    };
    let mut lines = output.lines().skip_while(|line| !is_start(line)).skip(1);
    let line = lines.find(|line| line.starts_with("0x"))?;
    Some(position(line.split(' ').next()?, 0))
}

/// Returns the files in the order in which their instructions first ran. `blocks` is lackey's trace
/// (`--trace-superblocks=yes`): the address of each block that was entered. What ran before the
/// function at `start` does not count.
pub(crate) fn files_in_order(instructions: &Instructions, blocks: &str, start: u64) -> Vec<String> {
    let entries = || {
        let addresses = blocks.lines().filter_map(|line| line.strip_prefix("SB "));
        addresses.filter_map(|address| u64::from_str_radix(address.trim(), 16).ok())
    };
    let all: BTreeSet<u64> = entries().collect();
    let (mut files, mut seen) = (Vec::<String>::new(), BTreeSet::new());
    for entry in entries().skip_while(|&entry| entry != start) {
        if !seen.insert(entry) {
            continue;
        }
        // A block goes up to the next one: each jump ends a block, and each aim of a jump begins
        // one.
        let next = all.range(entry + 1..).next().copied().unwrap_or(u64::MAX);
        for (_, file) in instructions.range(entry..next) {
            if !files.contains(file) {
                files.push(file.clone());
            }
        }
    }
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "version: 1\nfl=(1) /a.rs\nfn=(1) f\n0x10 5 1\n+4 6 1\nfi=(2) /b.rs\n\
                          +2 9 1\nfe=(1)\ncfi=(3) /c.rs\ncfn=(2) g\ncalls=1 0x40 1\n* 7 30\n\
                          +1 8 1\n\nfl=(3)\nfn=(2)\n0x40 1 1\n-1 2 1\n";

    #[test]
    fn an_instruction_has_the_file_of_its_line() {
        let expected = [
            (0x10, "/a.rs"),
            (0x14, "/a.rs"),
            (0x16, "/b.rs"),
            (0x17, "/a.rs"),
            (0x3f, "/c.rs"),
            (0x40, "/c.rs"),
        ];
        let found = instructions(OUTPUT);
        let found: Vec<_> = found.iter().map(|(&at, file)| (at, file.as_str())).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn a_call_names_the_files_of_its_two_functions() {
        let expected = ("/a.rs".to_owned(), "/c.rs".to_owned());
        assert_eq!(calls(OUTPUT).into_iter().collect::<Vec<_>>(), [expected]);
        let same = "fl=(1) /a.rs\nfn=(1) f\ncfn=(2) g\ncalls=1 0x40 1\n* 7 30\n";
        assert!(calls(same).is_empty());
    }

    #[test]
    fn a_function_begins_at_its_first_instruction() {
        assert_eq!(
            ["f", "g", "h"].map(|name| function(OUTPUT, name)),
            [Some(0x10), Some(0x40), None]
        );
    }

    #[test]
    fn files_come_in_the_order_of_their_first_block() {
        let found = instructions(OUTPUT);
        let order = files_in_order(&found, "SB 40\n== text\nSB 10\nSB 3f\nSB 16\nSB 40\n", 0x10);
        assert_eq!(order, ["/a.rs", "/c.rs", "/b.rs"]);
    }
}
