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

use crate::callgrind::{files_in_order, function, instructions};
use crate::step::{self, Failure, cargo, root, succeeds, target_dir};
use crate::tree;

const RESULTS: &str = "results/data-paths.md";

/// The heading in it of the table that is compared.
const FILES: &str = "\n## Files\n\n";

/// The operations: the name in the tables, the argument of the program, and what it is.
const OPERATIONS: [(&str, &str, &str); 10] = [
    ("hit", "hit", "a copy of 64 bytes of one cached page"),
    ("hit, a handle", "handle", "a handle of a cached page"),
    ("miss", "miss", "a copy of a page that is not cached; frames are free"),
    ("async miss", "async-miss", "the same by a future, with the work of its thread"),
    ("write in place", "write-in-place", "a whole page that is cached and not pinned"),
    ("write, a pinned page", "write-copy", "the same while a handle pins it"),
    ("write, a new page", "write-new-page", "a whole page at the end of the file"),
    ("sync", "sync", "`sync_data` with one dirty page"),
    ("reclaim", "reclaim", "pages are evicted for a miss, by the default policy"),
    ("migration", "migration", "one page moves to another frame"),
];

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
struct DataPath {
    name: &'static str,
    about: &'static str,
    files: [Vec<String>; CRATES.len()],
    /// Those that all paths share.
    shared: [Vec<String>; CRATES.len()],
}

impl DataPath {
    fn row(&self) -> String {
        let [cache, frames] = &self.files;
        format!("| {} | {} | {} |", self.name, cell(cache), cell(frames))
    }

    /// Returns the files that are not in the row of a record, and those that are only there. The
    /// order may differ: it depends on threads.
    fn differences(&self, record: &str) -> Vec<String> {
        let start = format!("| {} | ", self.name);
        let table = record.split_once(FILES).map_or(record, |(_, table)| table);
        let row = table.lines().find(|line| line.starts_with(&start)).unwrap_or_default();
        let cells: Vec<_> = row.trim_matches('|').split(" | ").skip(1).collect();
        let mut wrong = Vec::new();
        for (index, files) in self.files.iter().enumerate() {
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
        let mut path = Self { name, about, files: Default::default(), shared: Default::default() };
        for file in order {
            let Some((_, file)) = file.rsplit_once("/crates/") else { continue };
            let file = file.replacen("/src/", "/", 1);
            let Some((krate, short)) = file.split_once('/') else { continue };
            let Some(index) = CRATES.iter().position(|&it| it == krate) else { continue };
            let is_shared =
                SHARED.iter().any(|it| *it == file || (it.ends_with('/') && file.starts_with(it)));
            let list = if is_shared { &mut path.shared } else { &mut path.files };
            list[index].push(short.to_owned());
        }
        Ok(path)
    }
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
        let path = DataPath { name: "hit", about: "", files, shared: Default::default() };
        let wrong = path.differences("| miss | `d.rs` | `y.rs` |\n| hit | `b.rs` → `a.rs` |  |\n");
        assert_eq!(
            wrong,
            [
                "hit: folio-cache/c.rs is not in it",
                "hit: folio-cache/b.rs is only in it",
                "hit: folio-frames/x.rs is not in it",
            ]
        );
        assert!(path.differences(&path.row()).is_empty());
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
