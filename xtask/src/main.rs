//! `cargo x`: the one menu of commands for people who work on folio. Without arguments it lists
//! them.
//!
//! What this crate deliberately lacks: dependencies, so that the menu builds in a second or two.

#![forbid(unsafe_code)]

mod api;
mod baseline;
mod bench;
mod code;
mod columns;
mod english;
mod figures;
mod fuzz;
mod items;
mod lint;
mod machine_code;
mod map;
mod models;
mod orderings;
mod prove;
mod seeded_bugs;
mod step;
mod table;
mod tracepoints;
mod tree;
mod tsan;

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
        about: "format, clippy, docs, the build without std, the fuzzers, the house rules",
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
        about: "hold results/api, the public API of the libraries, against the sources [--save]",
        run: api::run,
    },
    Entry {
        name: "prove",
        about: "the rules: models by SPIN, the invariant by z3, the word by loom, the rest by shuttle and Miri [--all] [--save] [--table] [--model NAME]",
        run: prove::run,
    },
    Entry {
        name: "seeded-bugs",
        about: "build with one seeded bug at a time; a test or torture must fail [NAME..] [--save]",
        run: seeded_bugs::run,
    },
    Entry {
        name: "orderings",
        about: "weaken each memory ordering of the word in turn; loom must notice [--save]",
        run: orderings::run,
    },
    Entry {
        name: "fuzz",
        about: "sequences chosen by coverage against naive models, a minute [--seconds N]",
        run: fuzz::run,
    },
    Entry { name: "tsan", about: "the tests of all crates under ThreadSanitizer", run: tsan::run },
    Entry {
        name: "machine-code",
        about: "hold docs/machine-code.md against what the compiler makes [--save]",
        run: machine_code::run,
    },
    Entry {
        name: "tracepoints",
        about: "show that a trace hook which nobody sets leaves nothing in the machine code",
        run: tracepoints::run,
    },
    Entry {
        name: "figures",
        about: "hold the figures in docs/schemes.md and docs/machine-code.md against the committed results [--save]",
        run: figures::run,
    },
    Entry {
        name: "bench",
        about: "measure: bench QUESTION [OPTIONS], with a plot in target/; bench --help lists the questions",
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
