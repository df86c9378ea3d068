//! Boots the example `examples/bare-metal` in QEMU on x86-64 and aarch64, on up to 64 virtual CPUs,
//! and with memory above 4 GiB, and checks its output.
//!
//! Where QEMU or a target is missing, the test prints a message and passes.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

/// The exit status of a guest in which all tests passed.
const PASSED: i32 = 33;

/// A guest that hangs is killed after this time. A run takes a few seconds.
const PATIENCE: Duration = Duration::from_mins(3);

/// One guest runs at a time.
static ALONE: Mutex<()> = Mutex::new(());

/// A processor, as the tools name it.
struct Processor {
    target: &'static str,
    qemu: &'static str,
    package: &'static str,
    /// QEMU's arguments, apart from those of a run.
    arguments: &'static [&'static str],
    runs: &'static [Run],
}

/// A guest.
struct Run {
    machine: &'static str,
    cpu: &'static str,
    cpus: u64,
    mib: u64,
}

const X86_64: Processor = Processor {
    target: "x86_64-unknown-none",
    qemu: "qemu-system-x86_64",
    package: "qemu-system-x86",
    // The exit device makes status 33 of the kernel's status 16.
    arguments: &["-device", "isa-debug-exit,iobase=0xf4,iosize=4"],
    runs: &[
        Run { machine: "pc", cpu: "max", cpus: 4, mib: 256 },
        Run { machine: "pc", cpu: "max", cpus: 16, mib: 256 },
        Run { machine: "pc", cpu: "max", cpus: 64, mib: 256 },
        // Memory above 4 GiB, and a hole of 1 GiB below.
        Run { machine: "pc", cpu: "max", cpus: 4, mib: 5120 },
    ],
};

const AARCH64: Processor = Processor {
    target: "aarch64-unknown-none",
    qemu: "qemu-system-aarch64",
    package: "qemu-system-arm",
    arguments: &["-semihosting-config", "enable=on,target=native"],
    runs: &[
        Run { machine: "virt,gic-version=3", cpu: "cortex-a72", cpus: 1, mib: 256 },
        // Starts at exception level 2, and has memory above 4 GiB.
        Run { machine: "virt,gic-version=3,virtualization=on", cpu: "max", cpus: 4, mib: 5120 },
        Run { machine: "virt,gic-version=3", cpu: "neoverse-n1", cpus: 16, mib: 256 },
    ],
};

#[test]
fn x86_64_uses_its_memory_on_all_cpus() {
    boot_all(&X86_64);
}

#[test]
fn aarch64_uses_its_memory_on_all_cpus() {
    boot_all(&AARCH64);
}

fn boot_all(processor: &Processor) {
    let _alone = ALONE.lock();
    if let Some(missing) = processor.missing() {
        eprintln!("SKIPPED: the bare-metal example on {}: {missing}", processor.target);
        return;
    }
    let kernel = processor.build();
    for run in processor.runs {
        let &Run { machine, cpus, mib, .. } = run;
        let (status, said) = processor.boot(&kernel, run);
        eprintln!("── {machine}, {cpus} virtual CPUs, {mib} MiB\n{said}");
        let lines: Vec<_> = said.lines().map(str::trim_end).collect();
        assert_eq!(
            (status, lines.last()),
            (Some(PASSED), Some(&"passed")),
            "output of {cpus} virtual CPUs:\n{said}"
        );
        let one = |start: &str| {
            let mut found = lines.iter().filter(|line| line.starts_with(start));
            let line = found
                .next()
                .unwrap_or_else(|| panic!("no line '{start}' from {cpus} virtual CPUs:\n{said}"));
            assert!(found.next().is_none(), "'{start}' twice from {cpus} virtual CPUs:\n{said}");
            numbers(line)
        };
        assert_eq!(one("cpus: "), [cpus, cpus]);
        let map = one("folio on bare metal: ");
        let (kib, ranges, online, reserved) = (map[0], map[1], map[2], map[3]);
        assert!(kib > (mib - 56) << 10, "{kib} KiB in the map of {mib} MiB");
        // Every range may lose the parts of a frame at both ends.
        let frames = online + reserved;
        assert!(
            frames * 4 <= kib && kib < (frames + 2 * ranges) * 4,
            "{online} frames online and {reserved} reserved of {kib} KiB in {ranges} ranges"
        );
        for scene in ["allocate: ", "folio: ", "split: ", "migrate: "] {
            one(scene);
        }
        let paging = one("paging: ");
        assert_eq!(paging.len(), 7, "{paging:?}");
        assert!(paging.iter().all(|&n| n > 0), "{paging:?} on {cpus} virtual CPUs");
        // Of each four CPUs, one moves, one splits and two read.
        let readers = cpus / 4 * 2;
        let torture = one("torture: ");
        let (read, walked, migrated, replaced, split) =
            (torture[0], torture[1], torture[3], torture[4], torture[5]);
        assert!(read >= readers * 64, "{read} reads, but each of {readers} readers must do 64");
        for (what, n, expected) in [
            ("walks", walked, cpus > 1),
            ("migrated", migrated, true),
            ("replaced", replaced, true),
            ("split", split, cpus > 1),
        ] {
            assert_eq!(n > 0, expected, "{n} {what} on {cpus} virtual CPUs");
        }
        let audit = one("audit: ");
        assert_eq!(audit[0], online, "frames online");
        assert_eq!(audit[1], (cpus - 1) * 16, "frames in stacks");
        assert_eq!(audit[0], audit[1] + audit[2], "online frames are stacks or free");
    }
}

impl Processor {
    /// Returns the tool that this machine lacks, if any.
    fn missing(&self) -> Option<String> {
        let Self { target, qemu, package, .. } = self;
        let runs = Command::new(qemu)
            .arg("--version")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success());
        if !runs {
            return Some(format!("{qemu} is missing ('apt-get install {package}')"));
        }
        let folder =
            Command::new("rustc").args(["--print", "target-libdir", "--target", target]).output();
        let folder = folder
            .map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
            .unwrap_or_default();
        let there = Path::new(&folder).read_dir().is_ok_and(|mut files| files.next().is_some());
        (!there).then(|| format!("the target is missing ('rustup target add {target}')"))
    }

    /// Builds the kernel with its own folder's settings. Returns its path.
    fn build(&self) -> PathBuf {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/bare-metal");
        let target = folder.join("../../target/bare-metal");
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo
            .args(["build", "--release", "--quiet", "--target", self.target])
            .current_dir(&folder)
            .env("CARGO_TARGET_DIR", &target);
        // The folder's own flags place the kernel; the flags of an outer build would replace them.
        cargo
            .env_remove("RUSTFLAGS")
            .env_remove("CARGO_ENCODED_RUSTFLAGS")
            .env_remove("CARGO_BUILD_TARGET");
        let status = cargo.status().expect("cargo starts");
        assert!(status.success(), "the bare-metal example does not build: {status}");
        target.join(self.target).join("release/bare-metal")
    }

    /// Boots the kernel. Returns the exit status and the output of the serial port.
    fn boot(&self, kernel: &Path, run: &Run) -> (Option<i32>, String) {
        let mut qemu = Command::new(self.qemu);
        qemu.args(["-accel", "tcg,thread=multi", "-machine", run.machine, "-cpu", run.cpu])
            .args(["-m", &format!("{}M", run.mib), "-smp", &run.cpus.to_string()])
            .args(["-display", "none", "-serial", "stdio", "-monitor", "none"])
            .args(["-no-reboot", "-nodefaults"])
            .args(self.arguments)
            .arg("-kernel")
            .arg(kernel)
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        let mut guest = qemu.spawn().expect("QEMU starts");
        let mut serial = guest.stdout.take().expect("its output is piped");
        let reader = thread::spawn(move || {
            let mut said = Vec::new();
            serial.read_to_end(&mut said).expect("the serial port can be read");
            String::from_utf8_lossy(&said).into_owned()
        });
        let status = wait(&mut guest);
        (status, reader.join().expect("the reader does not panic"))
    }
}

/// Waits for the guest. Returns its exit status, or `None` if it had to be killed.
fn wait(guest: &mut Child) -> Option<i32> {
    let begun = Instant::now();
    loop {
        if let Some(status) = guest.try_wait().expect("a child can be waited for") {
            return status.code();
        }
        if begun.elapsed() > PATIENCE {
            guest.kill().expect("a child can be killed");
            guest.wait().expect("a killed child ends");
            return None;
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// Returns the decimal numbers of a line, in order.
fn numbers(line: &str) -> Vec<u64> {
    line.split(|c: char| !c.is_ascii_digit()).filter_map(|word| word.parse().ok()).collect()
}
