//! `cargo x`: the menu of commands for work on folio. Without arguments it lists them.
//!
//! This crate has no dependencies, so that the menu builds in a second or two.

#![forbid(unsafe_code)]

mod api;
mod atomics;
mod baseline;
mod bench;
mod bugs;
mod c_header;
mod call_graph;
mod callgrind;
mod code;
mod columns;
mod data_paths;
mod elf;
mod emulate;
mod engines;
mod english;
mod figures;
mod fuzz;
mod integrations;
mod items;
mod lint;
mod machine_code;
mod map;
mod model_list;
mod models;
mod orderings;
mod package;
mod panics;
mod prove;
mod seeded_bugs;
mod step;
mod table;
mod tracepoints;
mod tree;
mod tsan;
mod weakened;

use std::env;
use std::fmt::Write as _;
use std::process::ExitCode;

use step::Failure;

/// One entry of the menu.
struct Entry {
    name: &'static str,
    about: &'static str,
    run: fn(&[String]) -> Result<(), Failure>,
}

const MENU: &[Entry] = &[
    Entry {
        name: "lint",
        about: "check format, clippy, docs, the build without std, fuzzers, house rules \
                [--no-tests]",
        run: lint::run,
    },
    Entry {
        name: "english",
        about: "count the phrases that our prose avoids [PATH] [--save]",
        run: english::run,
    },
    Entry {
        name: "columns",
        about: "list the lines that are longer than 100 columns [--save]",
        run: columns::run,
    },
    Entry { name: "map", about: "print each source file with its first sentence", run: map::run },
    Entry {
        name: "api",
        about: "compare results/api with the public API of the sources [--save]",
        run: api::run,
    },
    Entry {
        name: "prove",
        about: "show the rules by SPIN, z3, loom, shuttle and Miri \
                [--all] [--save] [--table] [--model NAME]",
        run: prove::run,
    },
    Entry {
        name: "seeded-bugs",
        about: "break one rule at a time; a test or torture must fail [NAME..] [--save]",
        run: seeded_bugs::run,
    },
    Entry {
        name: "orderings",
        about: "weaken each memory ordering in turn; a test must fail [word] [memory] [--save]",
        run: orderings::run,
    },
    Entry {
        name: "fuzz",
        about: "compare sequences chosen by coverage with naive models [--seconds N]",
        run: fuzz::run,
    },
    Entry {
        name: "integrations",
        about: "build, lint and test the engines over folio: the workspace integrations/",
        run: integrations::run,
    },
    Entry {
        name: "engines",
        about: "build, lint and test DataFusion and Ballista over folio [--save]",
        run: engines::run,
    },
    Entry {
        name: "tsan",
        about: "run the tests of the libraries under ThreadSanitizer",
        run: tsan::run,
    },
    Entry {
        name: "emulate",
        about: "build and test for other processors, by QEMU [aarch64] [riscv64] [--save]",
        run: emulate::run,
    },
    Entry {
        name: "machine-code",
        about: "compare results/machine-code.md with the compiler's code [--save]",
        run: machine_code::run,
    },
    Entry {
        name: "c-header",
        about: "write page_ref.h, or compare its atomic instructions with Rust's [--instructions]",
        run: c_header::run,
    },
    Entry {
        name: "tracepoints",
        about: "show that an unset trace hook costs no instruction",
        run: tracepoints::run,
    },
    Entry {
        name: "panics",
        about: "list the panics that the frames reach on a bare machine; code, stack [--save]",
        run: panics::run,
    },
    Entry {
        name: "data-paths",
        about: "compare results/data-paths.md with the files that each operation passes [--save]",
        run: data_paths::run,
    },
    Entry {
        name: "package",
        about: "package the published crates and build each package [--no-verify]",
        run: package::run,
    },
    Entry {
        name: "figures",
        about: "compare the figures in the documents with the results [--save]",
        run: figures::run,
    },
    Entry {
        name: "bench",
        about: "measure: bench NAME [OPTIONS], with a plot in target/; see bench --help",
        run: bench::run,
    },
];

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let Some((name, rest)) = arguments.split_first() else {
        print!("{}", menu());
        return ExitCode::SUCCESS;
    };
    let result = match MENU.iter().find(|entry| entry.name == name) {
        Some(entry) => (entry.run)(rest),
        None => Err(Failure::Usage(format!("there is no command '{name}'\n\n{}", menu()))),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Usage(message)) => {
            eprintln!("cargo x: {}", message.trim_end());
            ExitCode::from(2)
        }
        Err(Failure::Failed(message)) => {
            eprintln!("cargo x: {message}");
            ExitCode::FAILURE
        }
    }
}

fn menu() -> String {
    let mut text = String::from("cargo x COMMAND\n\n");
    for entry in MENU {
        let _ = writeln!(text, "  {:<14}{}", entry.name, entry.about);
    }
    text
}
