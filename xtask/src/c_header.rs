//! `cargo x c-header`: writes `page_ref.h` from the layouts of the schemes, or compares the atomic
//! instructions of its functions with those of the Rust code.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;

use crate::atomics::Assembly;
use crate::machine_code::{assembly, parts};
use crate::step::{Failure, cargo, is_installed, root, succeeds, target_dir};

const HEADER: &str = "crates/folio-ref/include/page_ref.h";

const SCHEMES: [&str; 5] =
    ["frozen_bit", "live_bit_high", "live_bit_low", "generational", "tagged"];

/// The functions of a scheme, each with the type and the parameters in C.
const OPERATIONS: [(&str, &str, &str); 7] = [
    ("try_get", "int", ", uint32_t n"),
    ("try_get_unless_frozen", "int", ", uint32_t n"),
    ("get", "void", ", uint32_t n"),
    ("put", "bool", ", uint32_t n"),
    ("put_expecting_last", "bool", ""),
    ("freeze", "bool", ", uint32_t n"),
    ("unfreeze", "void", ", uint32_t n"),
];

/// Those with a tag.
const TAGS: [(&str, &str, &str); 2] =
    [("try_claim", "bool", ", uint8_t n"), ("leave_frozen_as", "void", ", uint8_t n")];

/// A processor: the compiler's target and features in Rust, the compiler and its options in C.
struct Processor {
    name: &'static str,
    target: &'static str,
    features: &'static str,
    compiler: &'static str,
    options: &'static [&'static str],
}

const PROCESSORS: [Processor; 3] = [
    Processor {
        name: "x86-64",
        target: "x86_64-unknown-linux-gnu",
        features: "",
        compiler: "gcc",
        options: &["-masm=intel"],
    },
    Processor {
        name: "aarch64",
        target: "aarch64-unknown-none",
        features: "",
        compiler: "aarch64-linux-gnu-gcc",
        options: &["-mno-outline-atomics"],
    },
    Processor {
        name: "aarch64 with LSE",
        target: "aarch64-unknown-none",
        features: "+lse",
        compiler: "aarch64-linux-gnu-gcc",
        options: &["-mno-outline-atomics", "-march=armv8-a+lse"],
    },
];

pub(crate) fn run(arguments: &[String]) -> Result<(), Failure> {
    match arguments {
        [] => write_header(),
        [option] if option == "--instructions" => {
            let header = read_header()?;
            let mut report = String::new();
            for processor in &PROCESSORS {
                let differences = differences(processor, &header, &mut report)?;
                print!("{report}");
                report.clear();
                if !differences.is_empty() {
                    return Err(Failure::Failed(differences.join("\n")));
                }
            }
            Ok(())
        }
        _ => Err(Failure::Usage("c-header takes nothing, or --instructions".to_owned())),
    }
}

fn write_header() -> Result<(), Failure> {
    let output = cargo("run --quiet -p folio-ref --example c_header")
        .output()
        .map_err(|error| Failure::Failed(format!("cargo did not start: {error}")))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(Failure::Failed(format!("the example c_header failed:\n{said}")));
    }
    fs::write(root().join(HEADER), output.stdout)
        .map_err(|error| Failure::Failed(format!("{HEADER}: {error}")))
}

fn read_header() -> Result<String, Failure> {
    fs::read_to_string(root().join(HEADER))
        .map_err(|error| Failure::Failed(format!("{HEADER}: {error}")))
}

/// Compares all functions on one processor. Returns a line for each that differs, and adds a table
/// of the instructions to the report. A missing compiler is a message, and no difference.
fn differences(
    processor: &Processor,
    header: &str,
    report: &mut String,
) -> Result<Vec<String>, Failure> {
    let Processor { name, target, compiler, .. } = processor;
    if !is_installed(target) {
        eprintln!("SKIPPED: {name}: the target is missing: 'rustup target add {target}'");
        return Ok(Vec::new());
    }
    if !succeeds(Command::new(compiler).arg("--version")) {
        eprintln!(
            "SKIPPED: {name}: '{compiler}' is missing: 'apt-get install gcc gcc-aarch64-linux-gnu'"
        );
        return Ok(Vec::new());
    }
    let rust = in_rust(&Assembly::of(&assembly("instructions", target, processor.features)?));
    let c = in_c(&Assembly::of(&compile(processor, header)?));
    let _ = writeln!(report, "## {name}: {} functions", rust.len());
    if rust.len() != SCHEMES.len() * OPERATIONS.len() + TAGS.len() {
        return Err(Failure::Failed(format!("{name}: {} functions in Rust", rust.len())));
    }
    let mut differ = Vec::new();
    for (function, rust) in rust {
        let c = c.get(&function).cloned().unwrap_or_default();
        let _ = writeln!(report, "{function}: {}", rust.join(" "));
        if c != rust {
            let (c, rust) = (c.join(" "), rust.join(" "));
            differ.push(format!("{name}, {function}: in C '{c}', in Rust '{rust}'"));
        }
    }
    Ok(differ)
}

/// Returns the instructions of each function in Rust: `SCHEME_OPERATION`.
fn in_rust(code: &Assembly) -> BTreeMap<String, Vec<String>> {
    let named = code.symbols().filter_map(|symbol| match parts(symbol)[..] {
        ["instructions", "tags", operation] => Some((format!("tagged_{operation}"), symbol)),
        ["instructions", scheme, operation] => Some((format!("{scheme}_{operation}"), symbol)),
        _ => None,
    });
    named.map(|(name, symbol)| (name, code.atomics(symbol))).collect()
}

fn in_c(code: &Assembly) -> BTreeMap<String, Vec<String>> {
    let named =
        code.symbols().filter_map(|symbol| Some((symbol.strip_prefix("out_of_line_")?, symbol)));
    named.map(|(name, symbol)| (name.to_owned(), code.atomics(symbol))).collect()
}

/// Compiles a header with one function around each of its operations. Returns the assembly.
fn compile(processor: &Processor, header: &str) -> Result<String, Failure> {
    let folder = target_dir().join("c-header").join(processor.name.replace(' ', "-"));
    let mut source = String::from("#include \"page_ref.h\"\n");
    for scheme in SCHEMES {
        let tags = if scheme == "tagged" { &TAGS[..] } else { &[] };
        for (operation, result, parameters) in OPERATIONS.iter().chain(tags) {
            let back = if *result == "void" { "" } else { "return " };
            let n = if parameters.is_empty() { "" } else { ", n" };
            let _ = writeln!(
                source,
                "{result} out_of_line_{scheme}_{operation}(struct {scheme}_ref *ref{parameters})\n\
                 {{\n\t{back}{scheme}_{operation}(ref{n});\n}}"
            );
        }
    }
    let write = |name: &str, text: &str| fs::write(folder.join(name), text);
    fs::create_dir_all(&folder)
        .and_then(|()| write("page_ref.h", header))
        .and_then(|()| write("functions.c", &source))
        .map_err(|error| Failure::Failed(format!("{}: {error}", folder.display())))?;
    let mut gcc = Command::new(processor.compiler);
    gcc.args(["-std=c11", "-ffreestanding", "-O2", "-S", "-fno-reorder-blocks-and-partition"])
        .args(["-fcf-protection=none"].iter().filter(|_| processor.compiler == "gcc"))
        .args(processor.options)
        .args(["functions.c", "-o", "functions.s"])
        .current_dir(&folder);
    output_of(&mut gcc, &folder.join("functions.s"))
}

/// Runs a compiler, and returns the file that it writes.
fn output_of(compiler: &mut Command, file: &Path) -> Result<String, Failure> {
    let output = compiler
        .output()
        .map_err(|error| Failure::Failed(format!("the C compiler did not start: {error}")))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(Failure::Failed(format!("{HEADER} does not compile:\n{said}")));
    }
    fs::read_to_string(file)
        .map_err(|error| Failure::Failed(format!("{}: {error}", file.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(processor: &Processor, header: &str) -> Vec<String> {
        match differences(processor, header, &mut String::new()) {
            Ok(differences) => differences,
            Err(Failure::Usage(message) | Failure::Failed(message)) => panic!("{message}"),
        }
    }

    fn header() -> String {
        fs::read_to_string(root().join(HEADER)).expect("the header")
    }

    /// Prints a message and passes where a compiler or a target is missing.
    #[test]
    fn gcc_and_rustc_make_the_same_atomic_instructions() {
        for processor in &PROCESSORS {
            assert_eq!(found(processor, &header()), Vec::<String>::new());
        }
    }

    /// A seeded bug in the header. x86-64 has one instruction for all orderings and cannot show it.
    #[test]
    fn a_weaker_ordering_in_c_is_noticed() {
        let right = "atomic_fetch_sub_explicit(word, n, memory_order_release)";
        let wrong = "atomic_fetch_sub_explicit(word, n, memory_order_relaxed)";
        assert!(header().contains(right), "{right} is not in {HEADER}");
        for processor in &PROCESSORS[1..] {
            let is_there = is_installed(processor.target)
                && succeeds(Command::new(processor.compiler).arg("--version"));
            let found = found(processor, &header().replace(right, wrong));
            assert_eq!(found.iter().any(|line| line.contains("generational_put:")), is_there);
        }
    }
}
