//! `cargo x tracepoints`: shows in machine code that an unset trace hook costs nothing.
//!
//! The hot paths of `crates/folio-frames/examples/tracepoints.rs` are compiled three times: as they
//! are, against a copy of folio-frames without its hooks, and as they are with the hook set. The
//! first two must have the same cost, and the third must differ.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::machine_code::{last_name, plain};
use crate::step::{self, Failure, cargo, root, target_dir};

const SOURCE: &str = "crates/folio-frames/src";
const PATHS: &str = "crates/folio-frames/examples/tracepoints.rs";
const HOOK: &str = "P::trace(";

/// The minimum number of hooks in folio-frames: fewer means that they are no longer found.
const LEAST_HOOKS: usize = 20;

/// The functions with hooks: with the hook set, each must differ.
const HOT: [&str; 6] = ["share", "put", "get", "walk", "alloc", "open"];

/// Instructions, by function.
type Code = BTreeMap<String, Vec<String>>;

pub(crate) fn run(arguments: &[String]) -> Result<(), Failure> {
    step::no_arguments("tracepoints", arguments)?;
    let folder = target_dir().join("tracepoints");
    // Old versions of the dependencies would be found too.
    let _ = fs::remove_dir_all(&folder);
    let mut build =
        cargo("build --release --quiet -p folio-frames --lib --features std --target-dir");
    step::run("folio-frames and its dependencies", build.arg(&folder))?;
    let (with, without) = (folder.join("with"), folder.join("without"));
    copy(&with, false)?;
    let hooks = copy(&without, true)?;
    if hooks < LEAST_HOOKS {
        return Err(failed(format!("only {hooks} hooks were found in {SOURCE}")));
    }
    let dependencies = folder.join("release/deps");
    let (unset, bare) =
        (compile(&with, &dependencies, &[])?, compile(&without, &dependencies, &[])?);
    let set = compile(&with, &dependencies, &["--cfg", "traced"])?;
    let alike = bare.iter().filter(|(name, lines)| unset.get(*name) == Some(lines)).count();
    if unset.keys().ne(bare.keys()) {
        return Err(failed("unset hooks change the set of functions".to_owned()));
    }
    for (name, lines) in &unset {
        if cost(lines) > cost(&bare[name]) {
            return Err(failed(format!(
                "{name} costs {:?} with the hook unset, {:?} without it",
                cost(lines),
                cost(&bare[name])
            )));
        }
    }
    for path in HOT {
        let of = |code: &Code| {
            code.iter().find(|(name, _)| last_name(name) == path).map(|(_, lines)| lines.clone())
        };
        if of(&unset).is_none() || of(&unset) == of(&set) {
            return Err(failed(format!(
                "{path} is missing or has no hook, so nothing is compared"
            )));
        }
    }
    eprintln!(
        "{hooks} hooks unset: {alike} of {} functions are the same, none costs more",
        unset.len()
    );
    Ok(())
}

fn failed(message: String) -> Failure {
    Failure::Failed(message)
}

/// Returns the number of instructions that access memory or call, and the number of all.
fn cost(lines: &[String]) -> (usize, usize) {
    let instructions = || lines.iter().filter(|line| line.starts_with(' '));
    let touches = |line: &&String| {
        line.contains(['(', '[']) && !line.contains(" lea") || line.contains(" call")
    };
    (instructions().filter(touches).count(), instructions().count())
}

/// Copies folio-frames; with `blank`, its hooks become empty lines. Returns the number of hooks.
fn copy(to: &Path, blank: bool) -> Result<usize, Failure> {
    copy_folder(&root().join(SOURCE), to, blank)
}

fn copy_folder(from: &Path, to: &Path, blank: bool) -> Result<usize, Failure> {
    let io = |error: std::io::Error| failed(format!("{}: {error}", to.display()));
    fs::create_dir_all(to).map_err(io)?;
    let mut hooks = 0;
    for entry in fs::read_dir(from).map_err(io)? {
        let entry = entry.map_err(io)?;
        if entry.path().is_dir() {
            hooks += copy_folder(&entry.path(), &to.join(entry.file_name()), blank)?;
            continue;
        }
        let mut text = String::new();
        for line in fs::read_to_string(entry.path()).map_err(io)?.lines() {
            let is_hook = line.trim().starts_with(HOOK);
            if is_hook && !line.ends_with(");") {
                return Err(failed(format!(
                    "{}: a hook spans several lines",
                    entry.path().display()
                )));
            }
            hooks += usize::from(is_hook);
            text.push_str(if is_hook && blank { "" } else { line });
            text.push('\n');
        }
        fs::write(to.join(entry.file_name()), text).map_err(io)?;
    }
    Ok(hooks)
}

/// Compiles a copy and the hot paths against it. Returns the code of the hot paths.
fn compile(copy: &Path, dependencies: &Path, more: &[&str]) -> Result<Code, Failure> {
    let rustc = |name: &str, source: PathBuf, needs: &[&str], more: &[&str]| {
        let mut rustc = Command::new("rustc");
        rustc.args(["--edition", "2024", "--crate-type", "rlib", "--crate-name", name]).arg(source);
        rustc
            .args(["-Copt-level=3", "-Ccodegen-units=1", "-Cpanic=abort", "-Awarnings"])
            .args(more);
        rustc
            .arg("-L")
            .arg(format!("dependency={}", dependencies.display()))
            .arg("--out-dir")
            .arg(copy);
        for need in needs {
            let library = library(dependencies, need)?;
            rustc.arg("--extern").arg(format!("{need}={}", library.display()));
        }
        match rustc.current_dir(root()).output() {
            Ok(output) if output.status.success() => Ok(rustc),
            Ok(output) => {
                Err(failed(format!("{name}: {}", String::from_utf8_lossy(&output.stderr))))
            }
            Err(error) => Err(failed(format!("rustc did not start: {error}"))),
        }
    };
    let needs = ["folio_ref", "libc", "lock_api", "crossbeam_utils", "once_cell", "rustix"];
    rustc("folio_frames", copy.join("lib.rs"), &needs, &["--cfg", "feature=\"std\""])?;
    let ours = format!("folio_frames={}", copy.join("libfolio_frames.rlib").display());
    let more = [&["--emit=asm", "--extern", &ours], more].concat();
    rustc("tracepoints", root().join(PATHS), &["folio_ref"], &more)?;
    let file = copy.join("tracepoints.s");
    let text = fs::read_to_string(&file)
        .map_err(|error| failed(format!("{}: {error}", file.display())))?;
    Ok(functions(&text))
}

fn library(dependencies: &Path, name: &str) -> Result<PathBuf, Failure> {
    let start = format!("lib{name}-");
    let files =
        fs::read_dir(dependencies).into_iter().flatten().flatten().map(|entry| entry.path());
    let is_it = |path: &PathBuf| {
        path.file_name().is_some_and(|file| file.to_string_lossy().starts_with(&start))
            && path.extension().is_some_and(|extension| extension == "rlib")
    };
    files.into_iter().find(is_it).ok_or_else(|| failed(format!("{name} was not built")))
}

/// Returns all functions of an assembly, with labels numbered within each.
fn functions(assembly: &str) -> Code {
    let (mut all, mut current) = (Code::new(), None::<(String, Vec<String>)>);
    for line in assembly.lines() {
        let text = line.trim();
        if let Some(name) = line.strip_suffix(':').filter(|name| name.starts_with("_ZN")) {
            current = Some((name.to_owned(), Vec::new()));
        } else if text.starts_with(".Lfunc_end") {
            all.extend(current.take().map(|(name, lines)| (name, plain(&lines))));
        } else if let Some((_, lines)) = &mut current
            && (text.starts_with(".LBB") || !(text.is_empty() || text.starts_with(['.', '#', '/'])))
        {
            lines.push(line.to_owned());
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unset_hook_costs_no_instruction() {
        match run(&[]) {
            Ok(()) => {}
            Err(Failure::Usage(message) | Failure::Failed(message)) => panic!("{message}"),
        }
    }
}
