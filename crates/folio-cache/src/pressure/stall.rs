//! Pressure stall information: the kernel reports that threads waited for memory for too long.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use crate::pressure::groups;
use crate::pressure::source::{PressureSource, Reading, Wait};

/// The triggers to try: some thread waited for memory for the first number of microseconds within
/// the second one. A process without privileges may only use windows of whole 2 seconds.
const TRIGGERS: [&str; 2] = ["some 100000 1000000", "some 200000 2000000"];

/// A stall of the machine counts if less than this share of its memory is available. Otherwise it
/// is one of another control group, which is at a limit of its own.
const SHORT_SHARE: u64 = 4;

/// The stalls of the machine, or of a control group.
#[derive(Debug)]
pub(crate) struct Stalls {
    trigger: File,
    /// The folder in which `proc` lies, for those of the machine.
    machine: Option<PathBuf>,
}

impl Stalls {
    /// Sets a trigger on a file of pressure stall information.
    ///
    /// # Errors
    ///
    /// The system's error, with the path. Kernels without this information have no such file, or
    /// cannot open it.
    fn new(path: &Path, machine: Option<PathBuf>) -> io::Result<Self> {
        set(path).map(|trigger| Self { trigger, machine }).map_err(|error| {
            io::Error::new(error.kind(), format!("no trigger on {}: {error}", path.display()))
        })
    }

    /// Returns the sources of the machine and of a control group of version 2. Where there is none,
    /// that is logged.
    pub(crate) fn of_system(root: &Path, group: Option<PathBuf>) -> Vec<Self> {
        let machine = (root.join("proc/pressure/memory"), Some(root.to_owned()));
        let mut stalls = Vec::new();
        for (path, machine) in group.map(|path| (path, None)).into_iter().chain([machine]) {
            match Self::new(&path, machine) {
                Ok(one) => stalls.push(one),
                Err(error) => tracing::debug!(%error, "no pressure stall information"),
            }
        }
        if stalls.is_empty() {
            tracing::warn!(
                "this kernel reports no memory stalls to this process: the cache goes by limits"
            );
        }
        stalls
    }
}

fn set(path: &Path) -> io::Result<File> {
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    let file = OpenOptions::new().read(true).write(true).custom_flags(flags).open(path)?;
    let mut last = None;
    for trigger in TRIGGERS {
        // With its NUL, as the kernel's example does, by one write.
        match rustix::io::write(&file, format!("{trigger}\0").as_bytes()) {
            Ok(_) => return Ok(file),
            Err(error) => last = Some(error),
        }
    }
    Err(last.map_or_else(|| io::ErrorKind::Unsupported.into(), io::Error::from))
}

impl PressureSource for Stalls {
    /// The file is always readable: only the urgent event says something.
    fn wait(&self) -> Option<Wait<'_>> {
        Some(Wait::Urgent(self.trigger.as_fd()))
    }

    /// The wait for the event has ended it.
    fn read(&mut self, has_event: bool) -> Reading {
        let is_short = |root: &PathBuf| {
            groups::machine(root)
                .is_none_or(|headroom| headroom.free() < headroom.limit / SHORT_SHARE)
        };
        let signal = has_event && self.machine.as_ref().is_none_or(is_short);
        Reading { signal, headrooms: Vec::new() }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn stalls_of_a_machine_with_much_memory_are_those_of_others() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("proc/pressure")).unwrap();
        fs::write(dir.path().join("proc/pressure/memory"), "").unwrap();
        fs::write(dir.path().join("group"), "").unwrap();
        let signals = |available: &str| {
            let meminfo = format!("MemTotal: 1000 kB\nMemAvailable: {available} kB\n");
            fs::write(dir.path().join("proc/meminfo"), meminfo).unwrap();
            let stalls = Stalls::of_system(dir.path(), Some(dir.path().join("group")));
            stalls.into_iter().map(|mut stalls| stalls.read(true).signal).collect::<Vec<_>>()
        };
        assert_eq!(signals("900"), [true, false], "those of its own group count");
        assert_eq!(signals("100"), [true, true]);
        let trigger = fs::read(dir.path().join("proc/pressure/memory")).unwrap();
        assert!(trigger.starts_with(b"some 100000 1000000\0"));
    }

    #[test]
    fn a_kernel_without_stalls_has_no_source() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Stalls::of_system(dir.path(), None).is_empty());
        let error = Stalls::new(&dir.path().join("none"), None).unwrap_err();
        assert!(error.to_string().contains("no trigger on"), "{error}");
    }
}
