//! Pressure stall information: the kernel reports that threads waited for memory for too long.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use crate::pressure::source::{PressureSource, Reading, Wait};

/// The triggers to try: some thread waited for memory for the first number of microseconds within
/// the second one. A process without privileges may only use windows of whole 2 seconds.
const TRIGGERS: [&str; 2] = ["some 100000 1000000", "some 200000 2000000"];

/// The stalls of the machine, or of a control group.
#[derive(Debug)]
pub(crate) struct Stalls {
    trigger: File,
}

impl Stalls {
    /// Sets a trigger on a file of pressure stall information.
    ///
    /// # Errors
    ///
    /// The system's error, with the path. Kernels without this information have no such file, or
    /// cannot open it.
    pub(crate) fn new(path: &Path) -> io::Result<Self> {
        set(path).map(|trigger| Self { trigger }).map_err(|error| {
            io::Error::new(error.kind(), format!("no trigger on {}: {error}", path.display()))
        })
    }

    /// Returns the sources of the machine and of a control group of version 2. Where there is none,
    /// that is logged.
    pub(crate) fn of_system(root: &Path, group: Option<PathBuf>) -> Vec<Self> {
        let machine = root.join("proc/pressure/memory");
        let mut stalls = Vec::new();
        for path in group.into_iter().chain([machine]) {
            match Self::new(&path) {
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
        Reading { signal: has_event, rooms: Vec::new() }
    }
}
