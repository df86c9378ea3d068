//! `cargo x machine-code`: compares results/machine-code.md with the code that the compiler makes
//! of the word today.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::process::Command;

use crate::step::{Failure, is_installed, root, target_dir};

const PAGE: &str = "results/machine-code.md";
/// The text before the compiler's version in the page.
const MADE_BY: &str = "Made by `";
const BEGIN: &str = "<!-- generated: ";
const END: &str = "<!-- end -->";

const SCHEMES: [&str; 7] = [
    "zero-frozen",
    "guess-one",
    "frozen-bit",
    "live-bit-high",
    "live-bit-low",
    "generational",
    "tagged",
];
const OPERATIONS: [&str; 3] = ["try_get", "put", "freeze"];

/// Each target: its name in the page, the compiler's name, features.
const TARGETS: [(&str, &str, &str); 3] = [
    ("x86-64", "x86_64-unknown-linux-gnu", ""),
    ("aarch64", "aarch64-unknown-none", ""),
    ("aarch64 with LSE", "aarch64-unknown-none", "+lse"),
];

pub(crate) fn run(arguments: &[String]) -> Result<(), Failure> {
    let save = match arguments {
        [] => false,
        [option] if option == "--save" => true,
        _ => return Err(Failure::Usage("machine-code takes nothing, or --save".to_owned())),
    };
    let page = fs::read_to_string(root().join(PAGE))
        .map_err(|error| failed(&format!("{PAGE}: {error}")))?;
    let version = version()?;
    let said = page
        .split_once(MADE_BY)
        .and_then(|(_, rest)| rest.split_once('`'))
        .map_or("", |(version, _)| version);
    if said != version && !save {
        eprintln!(
            "SKIPPED: {PAGE} was made by '{said}', here is '{version}': only the same compiler \
             makes the same code"
        );
        return Ok(());
    }
    let mut code = BTreeMap::new();
    for (name, target, features) in TARGETS {
        if !is_installed(target) {
            eprintln!(
                "SKIPPED: {PAGE}: the target {target} is missing: 'rustup target add {target}'"
            );
            return Ok(());
        }
        code.insert(name, functions(&assembly("machine_code", target, features)?));
    }
    let fresh = filled(&page.replacen(said, &version, 1), &code)?;
    if fresh == page {
        eprintln!("{PAGE} has the code of {version}");
        return Ok(());
    }
    if save {
        return fs::write(root().join(PAGE), fresh)
            .map_err(|error| failed(&format!("{PAGE}: {error}")));
    }
    let line = fresh
        .lines()
        .zip(page.lines())
        .position(|(fresh, old)| fresh != old)
        .unwrap_or(page.lines().count());
    Err(failed(&format!(
        "{PAGE} differs from the code of {version} from line {} on: run \
         'cargo x machine-code --save', then review the page",
        line + 1
    )))
}

fn failed(message: &str) -> Failure {
    Failure::Failed(message.to_owned())
}

fn version() -> Result<String, Failure> {
    let output = Command::new("rustc").arg("--version").current_dir(root()).output();
    let output = output.map_err(|error| failed(&format!("rustc did not start: {error}")))?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Compiles folio-ref and one of its examples for a target, and returns the assembly of the
/// example. Cargo is not used: nothing is linked, and no other flag has an effect.
pub(crate) fn assembly(example: &str, target: &str, features: &str) -> Result<String, Failure> {
    let folder = target_dir().join(example.replace('_', "-")).join(format!("{target}{features}"));
    fs::create_dir_all(&folder)
        .map_err(|error| failed(&format!("{}: {error}", folder.display())))?;
    let compile = |name: &str, source: &str, more: &[String]| {
        let mut rustc = Command::new("rustc");
        rustc.args([
            "--edition",
            "2024",
            "--crate-type",
            "rlib",
            "--crate-name",
            name,
            source,
            "--target",
            target,
        ]);
        rustc.args([
            "-Copt-level=3",
            "-Ccodegen-units=1",
            "-Cpanic=abort",
            "-Cllvm-args=-x86-asm-syntax=intel",
        ]);
        rustc
            .arg(format!("-Ctarget-feature={features}"))
            .args(more)
            .arg("--out-dir")
            .arg(&folder)
            .current_dir(root());
        match rustc.output() {
            Ok(output) if output.status.success() => Ok(()),
            Ok(output) => Err(failed(&format!(
                "{source} for {target}: {}",
                String::from_utf8_lossy(&output.stderr)
            ))),
            Err(error) => Err(failed(&format!("rustc did not start: {error}"))),
        }
    };
    compile("folio_ref", "crates/folio-ref/src/lib.rs", &[])?;
    let library = format!("--extern=folio_ref={}", folder.join("libfolio_ref.rlib").display());
    let source = format!("crates/folio-ref/examples/{example}.rs");
    compile(example, &source, &[library, "--emit=asm".to_owned()])?;
    let file = folder.join(format!("{example}.s"));
    fs::read_to_string(&file).map_err(|error| failed(&format!("{}: {error}", file.display())))
}

/// Returns the instructions of each function of the example, by name. Labels are numbered within a
/// function.
fn functions(assembly: &str) -> BTreeMap<String, Vec<String>> {
    let (mut all, mut aliases) = (BTreeMap::new(), Vec::new());
    let mut current: Option<(String, Vec<String>)> = None;
    for line in assembly.lines() {
        let text = line.trim();
        if let Some(name) =
            line.strip_suffix(':').filter(|name| name.starts_with("_ZN12machine_code"))
        {
            current = Some((last_name(name), Vec::new()));
        } else if text.starts_with(".Lfunc_end") {
            all.extend(current.take().map(|(name, lines)| (name, plain(&lines))));
        } else if let Some((same, first)) =
            text.split_once(" = ").filter(|_| text.starts_with("_ZN"))
        {
            // Two functions have the same code, and the compiler keeps one.
            aliases.push((last_name(same), last_name(first)));
        } else if let Some((_, lines)) = &mut current {
            let is_label = text.starts_with(".LBB");
            if is_label || !(text.is_empty() || text.starts_with(['.', '#', '/'])) {
                lines.push(line.split("//").next().unwrap_or_default().trim_end().to_owned());
            }
        }
    }
    for (same, first) in aliases {
        let lines = all.get(&first).cloned();
        all.extend(lines.map(|lines| (same, lines)));
    }
    all
}

/// Returns the last part of a mangled name: `refuse` for
/// `_ZN9folio_ref7schemes3bit6refuse17h0123456789abcdefE`.
pub(crate) fn last_name(mangled: &str) -> String {
    parts(mangled).last().map_or_else(String::new, |&name| name.to_owned())
}

/// Returns the parts of a mangled name, without its hash.
pub(crate) fn parts(mangled: &str) -> Vec<&str> {
    let (mut rest, mut parts) = (mangled.trim_start_matches("_ZN"), Vec::new());
    loop {
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let Ok(length) = rest[..digits].parse::<usize>() else { return parts };
        let Some(part) = rest.get(digits..digits + length) else { return parts };
        if part.len() == 17 && part.starts_with('h') {
            return parts;
        }
        parts.push(part);
        rest = &rest[digits + length..];
    }
}

pub(crate) fn plain(lines: &[String]) -> Vec<String> {
    let labels: Vec<&str> = lines.iter().filter_map(|line| line.strip_suffix(':')).collect();
    lines
        .iter()
        .map(|line| {
            let mut words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
            for word in &mut words {
                let bare = word.trim_end_matches([':', ',']);
                if let Some(at) = labels.iter().position(|label| *label == bare) {
                    *word = word.replace(bare, &format!("L{}", at + 1));
                }
            }
            let text = words.join(" ");
            let text = match text.find("_ZN") {
                // A call of a cold function: the name without the form of the address.
                Some(at) => format!(
                    "{} {}",
                    words[0],
                    last_name(text[at..].split('@').next().unwrap_or_default())
                ),
                None => text,
            };
            if line.ends_with(':') { text } else { format!("    {text}") }
        })
        .collect()
}

type Code = BTreeMap<&'static str, BTreeMap<String, Vec<String>>>;

/// Returns the page with each generated part replaced.
fn filled(page: &str, code: &Code) -> Result<String, Failure> {
    let (mut fresh, mut skip) = (String::new(), false);
    for line in page.lines() {
        if line == END {
            skip = false;
        }
        if !skip {
            let _ = writeln!(fresh, "{line}");
        }
        if let Some(what) = line.strip_prefix(BEGIN) {
            let what = what.trim_end_matches(" -->");
            fresh.push_str(&if what == "table" { table(code) } else { listing(what, code)? });
            skip = true;
        }
    }
    if skip { Err(failed(&format!("{PAGE}: a generated part has no end"))) } else { Ok(fresh) }
}

fn function(scheme: &str, operation: &str) -> String {
    format!("{}_{operation}", scheme.replace('-', "_"))
}

/// Returns the listing of `SCHEME, TARGET`: the code of its three operations.
fn listing(what: &str, code: &Code) -> Result<String, Failure> {
    let unknown = || failed(&format!("{PAGE}: there is no '{what}'"));
    let (scheme, target) = what.split_once(", ").ok_or_else(unknown)?;
    let functions = code.get(target).ok_or_else(unknown)?;
    let mut text = String::from("```asm\n");
    for operation in OPERATIONS {
        let lines = functions.get(&function(scheme, operation)).ok_or_else(unknown)?;
        let _ = writeln!(text, "{operation}:\n{}", lines.join("\n"));
    }
    Ok(text + "```\n")
}

fn table(code: &Code) -> String {
    let mut text = String::from("| scheme | operation |");
    for (target, ..) in TARGETS {
        let _ = write!(text, " {target} |");
    }
    text.push_str("\n| --- | --- | --- | --- | --- |\n");
    for scheme in SCHEMES {
        for operation in OPERATIONS {
            let _ = write!(text, "| {scheme} | {operation} |");
            for (target, ..) in TARGETS {
                let lines = &code[target][&function(scheme, operation)];
                let instructions: Vec<&str> =
                    lines.iter().filter_map(|line| line.strip_prefix("    ")).collect();
                let atomic = instructions.iter().filter(|text| is_atomic(text)).count();
                let _ = write!(text, " {} / {atomic} |", instructions.len());
            }
            text.push('\n');
        }
    }
    text
}

/// Returns `true` for an atomic instruction: locked on x86; a store-exclusive or an LSE instruction
/// on Arm.
fn is_atomic(instruction: &str) -> bool {
    ["lock ", "stxr", "stlxr", "ldadd", "cas"].iter().any(|start| instruction.starts_with(start))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_part_of_a_mangled_name_is_found() {
        assert_eq!(last_name("_ZN9folio_ref7schemes3bit6refuse17h0123456789abcdefE"), "refuse");
        assert_eq!(
            last_name("_ZN12machine_code14frozen_bit_put17hd4a13293132b1a63E"),
            "frozen_bit_put"
        );
    }

    #[test]
    fn labels_are_numbered_within_a_function() {
        let text = "_ZN12machine_code3put17hd4a13293132b1a63E:\n\t.cfi_startproc\n\tlock\t\txadd\tdword ptr [rdi], eax\n\
                    \tjae\t.LBB7_2\n\t#MEMBARRIER\n.LBB7_2:\n\tcall\tqword ptr [rip + \
                    _ZN9folio_ref7schemes3bit3pin17haa59c8e7784c570fE@GOTPCREL]\n.Lfunc_end1:\n";
        let lines = &functions(text)["put"];
        assert_eq!(
            lines,
            &["    lock xadd dword ptr [rdi], eax", "    jae L1", "L1:", "    call pin"]
        );
    }

    /// Prints a message and passes where the page's compiler or its targets are missing.
    #[test]
    fn the_page_has_the_code_that_the_compiler_makes() {
        match run(&[]) {
            Ok(()) => {}
            Err(Failure::Usage(message) | Failure::Failed(message)) => panic!("{message}"),
        }
    }
}
