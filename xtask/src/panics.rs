//! `cargo x panics`: the panics that the operations of the frames can reach in a release build for
//! a machine without an operating system, the size of their code, and their stack.
//!
//! The operations stand in `examples/panics`, each as one function. Its program is one module:
//! rustc's LLVM IR after link-time optimisation shows the calls that are left. So a panic that the
//! compiler could rule out does not count. Calls by a pointer (the `destroy` of a kind) are not
//! followed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use crate::call_graph::{CallGraph, Site};
use crate::elf::{self, Sizes};
use crate::step::{Failure, cargo, commit_and_day, has_target, root, succeeds, target_dir};
use crate::tree;

const RESULTS: &str = "results/panics.md";
const PROGRAM: &str = "panics";

/// The record of the same command from before.
const BEFORE: &str = "At commit b301ae2 the\n\
    operations beside `new_zone` reached 17 statements that panic: most were bounds of tables.";

/// The most stack that an operation may need, in bytes.
const MOST_STACK: u64 = 1280;

/// Each target; the panics are those of the first.
const TARGETS: [&str; 3] =
    ["x86_64-unknown-none", "aarch64-unknown-none", "riscv64gc-unknown-none-elf"];

/// The panics that may be reached, with the reason of each: the file, the first words of the
/// statement, the reason.
const ALLOWED: [(&str, &str, &str); 7] = [
    (
        "index/entry.rs",
        "panic!( \"slot holds frame number",
        "the caller passed another zone than the folio's: any frame of it would be a wrong one",
    ),
    (
        "memmap/memmap.rs",
        "assert!(self.is_allocated()",
        "the caller passed a kind of free blocks: a walker would take the folio for free",
    ),
    (
        "zone/online.rs",
        "assert!( entry.state() == State::Offline",
        "a block came online twice, against the promise of `online_range`: it would be handed out \
         twice",
    ),
    (
        "zone/new.rs",
        "panic!( \"a zone of {frames} frames",
        "all zones together have more than 16 TiB; before any operation",
    ),
    (
        "zone/new.rs",
        "assert!(",
        "the zone is not aligned, or has no whole number of blocks; before any operation",
    ),
    (
        "zone/holes.rs",
        "assert!( span.frames()",
        "the memory map has no frame, or spans more than 4 TiB; before any operation",
    ),
    (
        "memmap/blocks.rs",
        "assert!(block < self.len",
        "a hole is outside the span of its map, which the compiler cannot rule out; before any \
         operation",
    ),
];

pub(crate) fn run(arguments: &[String]) -> Result<(), Failure> {
    let save = match arguments {
        [] => false,
        [option] if option == "--save" => true,
        _ => return Err(Failure::Usage("panics takes nothing, or --save".to_owned())),
    };
    if !has_target(TARGETS[0]) {
        eprintln!("SKIPPED: the target {0} is missing: 'rustup target add {0}'", TARGETS[0]);
        return Ok(());
    }
    let Some(program) = Program::build(TARGETS[0])? else {
        eprintln!("SKIPPED: the dependencies of examples/panics could not be fetched");
        return Ok(());
    };
    let panics = panics(&program.graph)?;
    let unknown: Vec<_> = panics.iter().filter(|panic| panic.reason.is_none()).collect();
    if !unknown.is_empty() {
        let lines: Vec<_> = unknown.iter().map(|panic| panic.row("no reason is known")).collect();
        return Err(failed(&format!(
            "these panics can be reached: return an error, make them unreachable, or give the \
             reason in xtask/src/panics.rs\n  {}",
            lines.join("\n  ")
        )));
    }
    let rows: Vec<_> =
        panics.iter().map(|panic| panic.row(panic.reason.unwrap_or_default())).collect();
    eprintln!("{} panics can be reached, each for a known reason", rows.len());
    for name in program.operations().keys() {
        let (_, stack) = program.cost(name).unwrap_or_default();
        if stack > MOST_STACK {
            return Err(failed(&format!(
                "{name} needs {stack} bytes of stack; at most {MOST_STACK} are allowed"
            )));
        }
    }
    if save {
        return tree::write(RESULTS, &report(&program, &rows)?);
    }
    let committed = tree::read(RESULTS)?;
    let committed: BTreeSet<_> = committed.lines().filter(|line| line.contains(".rs` |")).collect();
    let found: BTreeSet<_> = rows.iter().map(String::as_str).collect();
    let list = |these: &BTreeSet<&str>, than: &BTreeSet<&str>| {
        these.difference(than).copied().collect::<Vec<_>>().join("\n  ")
    };
    if committed == found {
        return Ok(());
    }
    Err(failed(&format!(
        "{RESULTS} differs: run 'cargo x panics --save' if that is right\nnot in it:\n  {}\n\
         only in it:\n  {}",
        list(&found, &committed),
        list(&committed, &found)
    )))
}

fn failed(message: &str) -> Failure {
    Failure::Failed(message.to_owned())
}

/// The program for one target.
struct Program {
    target: &'static str,
    graph: CallGraph,
    sizes: Sizes,
}

impl Program {
    /// Builds the program. Returns `None` if its dependencies cannot be fetched.
    fn build(target: &'static str) -> Result<Option<Self>, Failure> {
        let folder = target_dir().join("panics");
        let inside = |arguments: &str| {
            let mut command = cargo(arguments);
            command.current_dir(root().join("examples/panics"));
            command.env("CARGO_TARGET_DIR", &folder).env_remove("RUSTFLAGS");
            command
        };
        if !succeeds(&mut inside("fetch")) {
            return Ok(None);
        }
        let built = folder.join(target).join("release/deps");
        // Those of earlier builds have other names.
        let _ = fs::remove_dir_all(&built);
        let mut compile = inside(&format!("rustc --quiet --release --target {target} --"));
        compile.args(["--emit=llvm-ir,link", "-Zemit-stack-sizes"]);
        // The sizes of stack frames are an unstable output; the code is that of this compiler.
        compile.env("RUSTC_BOOTSTRAP", "1");
        crate::step::run(&format!("the program for {target}"), &mut compile)?;
        let ir =
            fs::read_to_string(find(&built, Some("ll"))?).map_err(|e| failed(&e.to_string()))?;
        let file = fs::read(find(&built, None)?).map_err(|e| failed(&e.to_string()))?;
        let sizes = elf::sizes(&file).ok_or_else(|| failed("the program is no ELF file"))?;
        Ok(Some(Self { target, graph: CallGraph::parse(&ir), sizes }))
    }

    /// Returns the operations in order: the name, and the symbol.
    fn operations(&self) -> BTreeMap<&str, &str> {
        operations(&self.graph)
    }

    /// Returns the bytes of code that an operation may run, and of its stack.
    fn cost(&self, operation: &str) -> Option<(u64, u64)> {
        let symbol = self.operations().get(operation).copied()?;
        let functions = self.graph.reached(symbol).functions;
        let text = functions.iter().filter_map(|name| self.sizes.text.get(name)).sum();
        Some((text, self.graph.stack(symbol, &self.sizes.stack)))
    }
}

fn operations(graph: &CallGraph) -> BTreeMap<&str, &str> {
    graph.of_crate(PROGRAM).filter(|(name, _)| name.contains('_')).collect()
}

/// Returns the file of the program with this extension, or without any.
fn find(folder: &Path, extension: Option<&str>) -> Result<PathBuf, Failure> {
    let files = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let is_it = |path: &PathBuf| {
        path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("panics-"))
            && path.extension().map(|extension| extension.to_string_lossy()).as_deref() == extension
    };
    files.into_iter().find(is_it).ok_or_else(|| failed("the program was not built"))
}

/// A panic that operations can reach.
struct Panic {
    file: String,
    statement: String,
    from: BTreeSet<String>,
    reason: Option<&'static str>,
}

impl Panic {
    fn row(&self, reason: &str) -> String {
        let from: Vec<_> = self.from.iter().map(|name| format!("`{name}`")).collect();
        let Self { file, statement, .. } = self;
        format!("| `{file}` | `{statement}` | {} | {reason} |", from.join(", "))
    }
}

/// Returns the panics that the operations can reach, by file and line.
fn panics(graph: &CallGraph) -> Result<Vec<Panic>, Failure> {
    let mut sites = BTreeMap::<Site, BTreeSet<String>>::new();
    for (name, symbol) in operations(graph) {
        for site in graph.reached(symbol).panics {
            sites.entry(site).or_default().insert(name.to_owned());
        }
    }
    if operations(graph).len() < 10 {
        return Err(failed("the operations are not in the program"));
    }
    let mut all = Vec::<Panic>::new();
    for (site, from) in sites {
        let ours = site.file.split_once("/crates/");
        let file = ours.map_or(site.file.clone(), |(_, path)| format!("crates/{path}"));
        let text = ours.and_then(|_| tree::read(&file).ok()).unwrap_or_default();
        let statement = statement(&text, site.line);
        let reason = ALLOWED
            .iter()
            .find(|(end, start, _)| file.ends_with(end) && statement.starts_with(start));
        // Several sites of one statement are one.
        match all.iter_mut().find(|panic| panic.file == file && panic.statement == statement) {
            Some(panic) => panic.from.extend(from),
            None => all.push(Panic { file, statement, from, reason: reason.map(|r| r.2) }),
        }
    }
    Ok(all)
}

/// Returns the statement that begins at a line, up to its message or its end.
fn statement(text: &str, line: usize) -> String {
    let mut statement = String::new();
    for part in text.lines().skip(line.saturating_sub(1)).take(6).map(str::trim) {
        statement += if statement.is_empty() { "" } else { " " };
        statement += part;
        if part.contains('"') || part.ends_with([';', '}']) {
            break;
        }
    }
    statement.replace('|', "\\|")
}

fn report(program: &Program, rows: &[String]) -> Result<String, Failure> {
    let mut text = format!(
        "# Panics, code and stack of the frames without an operating system\n\n\
         `cargo x panics --save`,\n{}.\n\
         Each operation is a function of `examples/panics`: release build, link-time\n\
         optimisation, no checks, no feature but the lock.\n\n\
         ## Panics that can be reached\n\n\
         Read from the optimised code for {}. Calls by a pointer, which are\n\
         the `destroy` of a kind and an outer allocator, are not followed. {BEFORE}\n\n\
         | where | panic | from | reason |\n| --- | --- | --- | --- |\n",
        commit_and_day(),
        program.target
    );
    for row in rows {
        let _ = writeln!(text, "{row}");
    }
    let mut programs = Vec::new();
    for target in &TARGETS[1..] {
        if has_target(target) {
            programs.extend(Program::build(target)?);
        }
    }
    let programs: Vec<_> = std::iter::once(program).chain(&programs).collect();
    text += "\n## Code and stack\n\nBytes of code that an operation may run, and the deepest sum \
             of stack frames, without panics.\nA function that several operations share counts for \
             each.\n\n| operation |";
    for program in &programs {
        let _ = write!(text, " {}: code | stack |", program.target);
    }
    let _ = writeln!(text, "\n| --- |{}", " --: | --: |".repeat(programs.len()));
    for name in program.operations().keys() {
        let _ = write!(text, "| `{name}` |");
        for program in &programs {
            let (code, stack) = program.cost(name).unwrap_or_default();
            let _ = write!(text, " {code} | {stack} |");
        }
        text += "\n";
    }
    let _ = write!(text, "| the whole program, `.text` and `.rodata` |");
    for program in &programs {
        let section = |name: &str| program.sizes.sections.get(name).copied().unwrap_or(0);
        let _ = write!(text, " {} | {} |", section(".text"), section(".rodata"));
    }
    text += "\n";
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statement_ends_with_its_message() {
        let text = "a\n    assert!(\n        b,\n        \"no {b}\"\n    );\n  c[d] = 1;\n";
        assert_eq!(statement(text, 2), "assert!( b, \"no {b}\"");
        assert_eq!(statement(text, 6), "c[d] = 1;");
    }

    #[test]
    fn no_operation_reaches_another_panic() {
        if let Err(Failure::Usage(message) | Failure::Failed(message)) = run(&[]) {
            panic!("{message}");
        }
    }

    #[test]
    fn every_allowed_panic_stands_in_the_sources() {
        for (file, start, _) in ALLOWED {
            let text = tree::read(&format!("crates/folio-frames/src/{file}")).ok().unwrap();
            let found = (1..=text.lines().count()).any(|n| statement(&text, n).starts_with(start));
            assert!(found, "{file}: {start}");
        }
    }
}
