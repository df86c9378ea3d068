//! The environment of a measurement: processor, kernel, compiler, commit.

use std::fs;
use std::path::Path;
use std::process::Command;

use folio_cache::Cache;
use rustix::system::{sysinfo, uname};
use serde_json::{Value, json};

/// Returns the memory that this process may use in bytes: that of the machine, or what its control
/// groups allow.
pub(crate) fn memory_bytes() -> u64 {
    let info = sysinfo();
    let all = u128::from(info.totalram) * u128::from(info.mem_unit);
    // The default capacity is a quarter of what the machine and the groups allow.
    let quarter = Cache::builder().build().map_or(u64::MAX, |cache| cache.capacity() as u64);
    quarter.saturating_mul(4).min(u64::try_from(all).unwrap_or(u64::MAX))
}

/// The machine and the build, as every report names them.
pub(crate) struct Machine {
    processor: String,
    cpus: usize,
    memory_gib: u64,
    kernel: String,
    compiler: &'static str,
    commit: String,
}

impl Machine {
    /// Returns the description of the machine that this process runs on.
    pub(crate) fn here() -> Self {
        let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let field = |name: &str| {
            let line = info
                .lines()
                .find(|line| line.split(':').next().is_some_and(|key| key.trim() == name))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        };
        let model = field("model name").unwrap_or_else(|| "unknown processor".to_owned());
        let processor = match (field("cpu family"), field("model")) {
            (Some(family), Some(number)) => format!("{model} (family {family}, model {number})"),
            _ => model,
        };
        let is_guest =
            field("flags").is_some_and(|flags| flags.split(' ').any(|flag| flag == "hypervisor"));
        let system = uname();
        let kernel = format!(
            "{} {}",
            system.sysname().to_string_lossy(),
            system.release().to_string_lossy()
        );
        Self {
            processor: if is_guest { processor + ", virtual" } else { processor },
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            memory_gib: memory_gib(),
            kernel,
            compiler: env!("FOLIO_COMPILER"),
            commit: commit(),
        }
    }

    pub(crate) fn lines(&self) -> String {
        format!(
            "machine: {}, {} CPUs, {} GiB\nkernel: {}\ncompiler: {}\ncommit: {}\n",
            self.processor, self.cpus, self.memory_gib, self.kernel, self.compiler, self.commit
        )
    }

    pub(crate) fn to_json(&self) -> Value {
        json!({
            "processor": self.processor, "cpus": self.cpus, "memory_gib": self.memory_gib,
            "kernel": self.kernel, "compiler": self.compiler, "commit": self.commit,
        })
    }
}

fn memory_gib() -> u64 {
    let info = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total =
        info.lines().find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB"));
    total.and_then(|number| number.parse::<u64>().ok()).map_or(0, |kib| (kib + (1 << 19)) >> 20)
}

/// Returns the current commit of the source tree that this was built from. A trailing `+` says that
/// the tree has uncommitted changes.
fn commit() -> String {
    let tree = Path::new(env!("CARGO_MANIFEST_DIR"));
    let output = Command::new("git")
        .args(["describe", "--always", "--dirty=+", "--exclude=*"])
        .current_dir(tree)
        .output();
    let text = output.ok().filter(|output| output.status.success());
    text.map_or("unknown".to_owned(), |output| {
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    })
}
