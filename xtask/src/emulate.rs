//! `cargo x emulate`: builds for aarch64 and riscv64, and runs tests there, under QEMU's emulation
//! of a process.
//!
//! QEMU plays the instructions of another processor in the memory order of this one, so it shows no
//! missing fence. It shows that nothing depends on x86-64.

use std::fmt::Write as _;
use std::fs;
use std::process::Command;
use std::time::Instant;

use crate::step::{self, Failure, cargo, commit_and_day, root, succeeds, target_dir};

const RESULTS: &str = "results/emulate.md";

/// A processor, as the tools name it.
struct Processor {
    name: &'static str,
    target: &'static str,
    /// The prefix of the C compiler, and the folder of its libraries under `/usr`.
    gcc: &'static str,
    /// The packages of Debian: compiler and libraries.
    packages: [&'static str; 2],
    /// Cargo's arguments, one line for each run.
    runs: &'static [&'static str],
}

const PROCESSORS: [Processor; 2] = [
    Processor {
        name: "aarch64",
        target: "aarch64-unknown-linux-gnu",
        gcc: "aarch64-linux-gnu",
        packages: ["gcc-aarch64-linux-gnu", "libc6-dev-arm64-cross"],
        runs: &[
            "test -p folio-ref --lib --tests",
            // A terabyte takes more than 8 GB of QEMU's own tables, and the memory of the process
            // is that of QEMU.
            "test -p folio-frames --lib --tests -- --skip frame_numbers_of_dropped_arenas \
             --skip an_arena_above_half_the_maximum --skip ten_thousand_arenas",
            "test -p folio-cache --lib",
        ],
    },
    Processor {
        name: "riscv64",
        target: "riscv64gc-unknown-linux-gnu",
        gcc: "riscv64-linux-gnu",
        packages: ["gcc-riscv64-linux-gnu", "libc6-dev-riscv64-cross"],
        runs: &["test -p folio-ref --lib --tests", "build -p folio-frames -p folio-cache"],
    },
];

pub(crate) fn run(arguments: &[String]) -> Result<(), Failure> {
    let known = ["aarch64", "riscv64", "--save"];
    if let Some(unknown) = arguments.iter().find(|argument| !known.contains(&argument.as_str())) {
        return Err(Failure::Usage(format!(
            "emulate has no argument '{unknown}'; there are {}",
            known.join(", ")
        )));
    }
    let has = |argument: &str| arguments.iter().any(|given| given == argument);
    let all = PROCESSORS.iter().all(|processor| !has(processor.name));
    let mut report = String::from("| command | s |\n| --- | --- |\n");
    for processor in PROCESSORS.iter().filter(|processor| all || has(processor.name)) {
        if !processor.is_available() {
            let Processor { name, target, packages, .. } = processor;
            eprintln!(
                "SKIPPED: {name}: 'rustup target add {target}' or 'apt-get install qemu-user {}' \
                 failed",
                packages.join(" ")
            );
            continue;
        }
        for arguments in processor.runs {
            let started = Instant::now();
            let (verb, rest) = arguments.split_once(' ').unwrap_or((arguments, ""));
            let arguments = format!("{verb} --target {} {rest}", processor.target);
            step::run(
                &format!("{} of {}", arguments, processor.name),
                &mut processor.cargo(&arguments),
            )?;
            let seconds = started.elapsed().as_secs();
            let _ = writeln!(report, "| `cargo {arguments}` | {seconds} |");
        }
    }
    if !has("--save") {
        return Ok(());
    }
    let text = format!(
        "# Emulated processors\n\nWritten by `cargo x emulate --save` {}: the tests that passed\n\
         under `qemu-user`, and what was built. The times include the builds.\n\n{report}",
        commit_and_day()
    );
    fs::write(root().join(RESULTS), text)
        .map_err(|error| Failure::Failed(format!("{RESULTS}: {error}")))
}

impl Processor {
    fn compiler(&self) -> String {
        format!("{}-gcc", self.gcc)
    }

    fn qemu(&self) -> String {
        format!("qemu-{}", self.name)
    }

    /// Returns cargo, with linker and emulator for this processor.
    fn cargo(&self, arguments: &str) -> Command {
        let variable = |what: &str| {
            let target = self.target.to_uppercase().replace('-', "_");
            format!("CARGO_TARGET_{target}_{what}")
        };
        let mut command = cargo(arguments);
        command
            .env("CARGO_TARGET_DIR", target_dir().join("emulate"))
            .env(variable("LINKER"), self.compiler())
            .env(variable("RUNNER"), format!("{} -L /usr/{}", self.qemu(), self.gcc))
            .env_remove("RUSTFLAGS");
        command
    }

    /// Installs what is missing where that is possible. Returns `true` if all is there.
    fn is_available(&self) -> bool {
        let has_tools = || {
            [self.compiler(), self.qemu()]
                .iter()
                .all(|program| succeeds(Command::new(program).arg("--version")))
        };
        if !has_tools() {
            succeeds(Command::new("apt-get").arg("update"));
            let mut install = Command::new("apt-get");
            install.args(["install", "-y", "--no-install-recommends", "qemu-user"]);
            succeeds(install.args(self.packages));
        }
        if !self.has_target() {
            succeeds(
                Command::new("rustup").args(["target", "add", self.target]).current_dir(root()),
            );
        }
        has_tools() && self.has_target()
    }

    fn has_target(&self) -> bool {
        // Asked of the compiler, as rustup need not exist.
        let mut rustc = Command::new("rustc");
        rustc.args(["--print", "target-libdir", "--target", self.target]).current_dir(root());
        rustc.output().is_ok_and(|output| {
            let folder = String::from_utf8_lossy(&output.stdout).trim().to_owned();
            fs::read_dir(folder).is_ok_and(|mut files| files.next().is_some())
        })
    }
}
