//! `cargo x data-paths`: the files that each operation of the cache passes. Each operation is a
//! function of `examples/data-paths`, which runs under valgrind: callgrind notes the lines that
//! run in it, and lackey their order.
//!
//! The program is not optimised, so a file counts if one of its functions is called, and not by
//! what the compiler merges. It has no checks, and only the default features.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::callgrind::{calls, files_in_order, function, instructions};
use crate::step::{self, Failure, cargo, root, succeeds, target_dir};
use crate::tree;

const RESULTS: &str = "results/data-paths.md";

/// The headings in it of the tables that are compared.
const FILES: &str = "\n## Files\n\n";
const AGAIN: &str = "\n## Calls of a file before\n\n";

/// The operations: the name in the tables, the argument of the program, and what it is.
const OPERATIONS: [(&str, &str, &str); 10] = [
    ("hit", "hit", "a copy of 64 bytes of one cached page"),
    ("hit, a handle", "handle", "a handle of a cached page"),
    ("miss", "miss", "a copy of a page that is not cached; frames are free"),
    ("async miss", ASYNC_MISS, "the same by a future, with the work of its thread"),
    ("write in place", "write-in-place", "a whole page that is cached and not pinned"),
    ("write, a pinned page", "write-copy", "the same while a handle pins it"),
    ("write, a new page", "write-new-page", "a whole page at the end of the file"),
    ("sync", "sync", "`sync_data` with one dirty page"),
    ("reclaim", "reclaim", "pages are evicted for a miss, by the default policy"),
    ("migration", "migration", "one page moves to another frame"),
];

/// The operation of several threads: its files have no certain order.
const ASYNC_MISS: &str = "async-miss";

/// The function of an operation that is no function of the program.
const RECLAIM: &str = "folio_cache::memory::reclaim::reclaim_some";

/// The work of a thread of the cache, which counts as well.
const WORK: &str = "folio_cache::rt::io_pool::Inner::work_on";

/// The crates of which a path is shown.
const CRATES: [&str; 2] = ["folio-cache", "folio-frames"];

/// Files that do not count. First those that all paths share and none is about: fields, numbers,
/// switches. Then the helpers of what can be replaced: of the backing, of the policy, of the index.
/// A folder ends with a slash.
const SHARED: &[&str] = &[
    "folio-cache/lib.rs",
    "folio-cache/state/",
    "folio-cache/rt/counter.rs",
    "folio-cache/rt/io_request.rs",
    "folio-cache/rt/lock.rs",
    "folio-cache/rt/recorder.rs",
    "folio-cache/rt/shim.rs",
    "folio-frames/lib.rs",
    "folio-frames/base/ids.rs",
    "folio-frames/base/migrate_type.rs",
    "folio-frames/base/platform.rs",
    "folio-frames/base/seeded_bugs.rs",
    "folio-frames/base/sync.rs",
    "folio-frames/base/trace.rs",
    "folio-frames/index/entry.rs",
    "folio-frames/memmap/",
    "folio-frames/os/arena.rs",
    "folio-frames/os/futex_lock.rs",
    "folio-frames/os/user_space.rs",
    "folio-frames/zone/raw.rs",
    "folio-frames/zone/scrub.rs",
    "folio-frames/zone/track.rs",
    "folio-frames/zone/zone.rs",
    "folio-cache/backing/direct.rs",
    "folio-cache/backing/mod.rs",
    "folio-cache/backing/supply.rs",
    "folio-cache/backing/whole.rs",
    "folio-cache/policy/advice.rs",
    "folio-cache/policy/ghosts.rs",
    "folio-cache/policy/hot_cold/",
    "folio-cache/policy/keys.rs",
    "folio-cache/policy/mod.rs",
    "folio-cache/policy/plan.rs",
    "folio-cache/policy/sample.rs",
    "folio-cache/policy/trials.rs",
    "folio-frames/os/lazy_range.rs",
    "folio-frames/os/slot_space.rs",
];

pub(crate) fn run(arguments: &[String]) -> Result<(), Failure> {
    let save = match arguments {
        [] => false,
        [option] if option == "--save" => true,
        _ => return Err(Failure::Usage("data-paths takes nothing, or --save".to_owned())),
    };
    if !has_valgrind() {
        return Err(failed("valgrind is missing: install it, for example 'apt install valgrind'"));
    }
    let paths = measure()?;
    for path in &paths {
        println!("{}", path.row());
    }
    if save {
        return tree::write(RESULTS, &report(&paths));
    }
    let committed = tree::read(RESULTS)?;
    let wrong: Vec<_> = paths.iter().flat_map(|path| path.differences(&committed)).collect();
    if wrong.is_empty() {
        return Ok(());
    }
    Err(failed(&format!(
        "{RESULTS} differs: run 'cargo x data-paths --save' if that is right, and mend the rows in \
         ARCHITECTURE.md\n  {}",
        wrong.join("\n  ")
    )))
}

fn failed(message: &str) -> Failure {
    Failure::Failed(message.to_owned())
}

fn has_valgrind() -> bool {
    succeeds(Command::new("valgrind").arg("--version"))
}

/// The files that an operation passes, for each of the crates, in the order of their first
/// instruction.
#[derive(Default)]
struct DataPath {
    name: &'static str,
    about: &'static str,
    files: [Vec<String>; CRATES.len()],
    /// The calls of one of these that stands before its caller.
    again: [Vec<String>; CRATES.len()],
    /// Those that all paths share.
    shared: [Vec<String>; CRATES.len()],
}

impl DataPath {
    fn row(&self) -> String {
        let [cache, frames] = &self.files;
        format!("| {} | {} | {} |", self.name, cell(cache), cell(frames))
    }

    /// Returns the differences from a record.
    fn differences(&self, record: &str) -> Vec<String> {
        let section = |heading| {
            let (_, rest) = record.split_once(heading).unwrap_or_default();
            rest.split_once("\n## ").map_or(rest, |(section, _)| section)
        };
        let mut wrong = self.differences_of(&self.files, section(FILES));
        wrong.extend(self.differences_of(&self.again, section(AGAIN)));
        wrong
    }

    /// Returns what is not in the row of a table, and what is only there. The order may differ: it
    /// depends on threads.
    fn differences_of(&self, lists: &[Vec<String>; CRATES.len()], table: &str) -> Vec<String> {
        let start = format!("| {} | ", self.name);
        let row = table.lines().find(|line| line.starts_with(&start)).unwrap_or_default();
        let cells: Vec<_> = row.trim_matches('|').split(" | ").skip(1).collect();
        let mut wrong = Vec::new();
        for (index, files) in lists.iter().enumerate() {
            let found: BTreeSet<_> = files.iter().map(String::as_str).collect();
            let cell = cells.get(index).copied().unwrap_or_default();
            let recorded: BTreeSet<_> = cell.split('`').skip(1).step_by(2).collect();
            for (these, others, what) in
                [(&found, &recorded, "not in it"), (&recorded, &found, "only in it")]
            {
                wrong.extend(
                    these
                        .difference(others)
                        .map(|file| format!("{}: {}/{file} is {what}", self.name, CRATES[index])),
                );
            }
        }
        wrong
    }
}

fn cell(files: &[String]) -> String {
    let files: Vec<_> = files.iter().map(|file| format!("`{file}`")).collect();
    files.join(" → ")
}

/// Builds the program and runs each of its operations.
fn measure() -> Result<Vec<DataPath>, Failure> {
    let folder = target_dir().join("data-paths");
    let mut build = cargo("build --quiet");
    build.current_dir(root().join("examples/data-paths")).env("CARGO_TARGET_DIR", &folder);
    // The addresses of the program's code are then those in its file.
    build.env("RUSTFLAGS", "-C relocation-model=static");
    step::run("the program of the data paths", &mut build)?;
    let program = folder.join("debug/data-paths");
    OPERATIONS.iter().map(|operation| DataPath::of(&program, &folder, *operation)).collect()
}

impl DataPath {
    /// Runs an operation twice: once for its files, and once for their order.
    fn of(
        program: &Path,
        folder: &Path,
        (name, argument, about): (&'static str, &'static str, &'static str),
    ) -> Result<Self, Failure> {
        let entry = match argument {
            "reclaim" => RECLAIM.to_owned(),
            _ => format!("data_paths::path_{}", argument.replace('-', "_")),
        };
        let first = if argument == "reclaim" { "main" } else { &entry };
        let out = |tool: &str| folder.join(format!("{tool}-{argument}.txt"));
        let (costs, blocks) = (out("callgrind"), out("lackey"));
        let files_of = |path: &PathBuf| {
            fs::read_to_string(path)
                .map_err(|error| failed(&format!("{}: {error}", path.display())))
        };
        valgrind(
            program,
            argument,
            &[
                "--tool=callgrind",
                "--dump-instr=yes",
                &format!("--callgrind-out-file={}", costs.display()),
                &format!("--toggle-collect={entry}"),
                &format!("--toggle-collect={WORK}"),
                // What that thread did before does not count.
                &format!("--zero-before={first}"),
            ],
        )?;
        valgrind(
            program,
            argument,
            &[
                "--tool=lackey",
                "--basic-counts=no",
                "--trace-superblocks=yes",
                // Each call then begins a block.
                "--vex-guest-chase=no",
                &format!("--log-file={}", blocks.display()),
            ],
        )?;
        let costs = files_of(&costs)?;
        let start = function(&costs, &entry)
            .ok_or_else(|| failed(&format!("{entry} did not run, or was inlined")))?;
        let order = files_in_order(&instructions(&costs), &files_of(&blocks)?, start);
        let mut path = Self { name, about, ..Self::default() };
        for file in order {
            let Some((index, short)) = of_crate(&file) else { continue };
            let full = format!("{}/{short}", CRATES[index]);
            let is_shared =
                SHARED.iter().any(|it| *it == full || (it.ends_with('/') && full.starts_with(it)));
            let list = if is_shared { &mut path.shared } else { &mut path.files };
            list[index].push(short);
        }
        if argument != ASYNC_MISS {
            path.note_calls(&calls(&costs));
        }
        Ok(path)
    }

    /// Notes the calls of a file of the path that stands before its caller.
    fn note_calls(&mut self, calls: &BTreeSet<(String, String)>) {
        for (from, to) in calls {
            let (Some((index, from)), Some((other, to))) = (of_crate(from), of_crate(to)) else {
                continue;
            };
            let place = |file: &str| self.files[index].iter().position(|it| it == file);
            // `None` is less than any place.
            if index == other && place(&to).is_some() && place(&to) < place(&from) {
                self.again[index].push(format!("{from} calls {to}"));
            }
        }
    }
}

/// Returns the number of the crate that a path is in, and the path below its `src`.
fn of_crate(path: &str) -> Option<(usize, String)> {
    let (_, file) = path.rsplit_once("/crates/")?;
    let (krate, short) = file.split_once("/src/")?;
    Some((CRATES.iter().position(|&it| it == krate)?, short.to_owned()))
}

/// Runs an operation of the program under a tool of valgrind.
fn valgrind(program: &Path, operation: &str, options: &[&str]) -> Result<(), Failure> {
    let mut command = Command::new("valgrind");
    command.args(options).arg(program).arg(operation);
    let output = command.stdin(Stdio::null()).output();
    match output {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(failed(&format!(
            "valgrind {} {operation}: {}\n{}",
            options[0],
            output.status,
            String::from_utf8_lossy(&output.stderr)
        ))),
        Err(error) => Err(failed(&format!("valgrind did not start: {error}"))),
    }
}

fn report(paths: &[DataPath]) -> String {
    let mut text = "# The files of each data path\n\n\
        `cargo x data-paths --save`. Each operation runs once in `examples/data-paths`, not\n\
        optimised and without checks, under valgrind. A file counts if an instruction of it runs;\n\
        files stand in the order of their first instruction. Frames are free, the file is local,\n\
        nothing fails, and no batch of the policy is full.\n\n\
        | operation | what it is | files of folio-cache | of folio-frames |\n\
        | --- | --- | --: | --: |\n"
        .to_owned();
    for path in paths {
        let [cache, frames] = [0, 1].map(|index| path.files[index].len());
        let _ = writeln!(text, "| {} | {} | {cache} | {frames} |", path.name, path.about);
    }
    text += FILES;
    text += "| operation | folio-cache | folio-frames |\n| --- | --- | --- |\n";
    for path in paths {
        let _ = writeln!(text, "{}", path.row());
    }
    text += AGAIN;
    text += "The calls of a file by one that stands behind it in its row: the path comes back to\n\
             it. The async miss is left out, as its threads have no order.\n\n\
             | operation | folio-cache | folio-frames |\n| --- | --- | --- |\n";
    for path in paths.iter().filter(|path| path.again.iter().any(|list| !list.is_empty())) {
        let [cache, frames] = &path.again;
        let _ = writeln!(text, "| {} | {} | {} |", path.name, list(cache), list(frames));
    }
    text += "\n## Files that the paths share\n\n\
             Fields, numbers and switches, which are not counted above.\n\n\
             | operation | folio-cache | folio-frames |\n| --- | --- | --- |\n";
    for path in paths {
        let [cache, frames] = &path.shared;
        let _ = writeln!(text, "| {} | {} | {} |", path.name, list(cache), list(frames));
    }
    text
}

fn list(files: &[String]) -> String {
    let mut files: Vec<_> = files.iter().map(|file| format!("`{file}`")).collect();
    files.sort();
    files.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_new_on_a_path_is_reported() {
        let files = [vec!["a.rs".to_owned(), "c.rs".to_owned()], vec!["x.rs".to_owned()]];
        let path = DataPath { name: "hit", files, ..DataPath::default() };
        let table = "| miss | `d.rs` | `y.rs` |\n| hit | `b.rs` → `a.rs` |  |\n";
        let wrong = path.differences(&format!("{FILES}{table}"));
        assert_eq!(
            wrong,
            [
                "hit: folio-cache/c.rs is not in it",
                "hit: folio-cache/b.rs is only in it",
                "hit: folio-frames/x.rs is not in it",
            ]
        );
        let record = format!("{FILES}{}\n{AGAIN}\n## Others\n| hit | `o.rs` |  |\n", path.row());
        assert_eq!(path.differences(&record), [""; 0]);
    }

    #[test]
    fn a_call_of_a_file_before_its_caller_is_reported() {
        let files = [["a.rs", "b.rs"].map(str::to_owned).to_vec(), vec!["a.rs".to_owned()]];
        let mut path = DataPath { name: "hit", files, ..DataPath::default() };
        let call = |from: &str, to: &str| (format!("/crates/{from}"), format!("/crates/{to}"));
        path.note_calls(&BTreeSet::from([
            call("folio-cache/src/a.rs", "folio-cache/src/b.rs"),
            call("folio-cache/src/b.rs", "folio-frames/src/a.rs"),
            call("folio-cache/src/b.rs", "folio-cache/src/other.rs"),
        ]));
        assert_eq!(path.again, [const { Vec::<String>::new() }; 2]);
        path.note_calls(&BTreeSet::from([call("folio-cache/src/b.rs", "folio-cache/src/a.rs")]));
        assert_eq!(path.again[0], ["b.rs calls a.rs"]);
        let record = format!("{FILES}{}", path.row());
        assert_eq!(path.differences(&record), ["hit: folio-cache/b.rs calls a.rs is not in it"]);
    }

    #[test]
    fn each_operation_passes_the_files_of_the_record() {
        if !has_valgrind() {
            eprintln!("SKIPPED: valgrind is missing");
            return;
        }
        if let Err(Failure::Usage(message) | Failure::Failed(message)) = run(&[]) {
            panic!("{message}");
        }
    }
}
