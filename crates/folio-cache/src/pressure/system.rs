//! The system as a source of pressure: the headrooms of the control groups and of the machine.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::pressure::groups::{self, ControlGroup};
use crate::pressure::source::{PressureSource, Reading};

/// The time after which a move of this process to another group is noticed.
const CHECK: Duration = Duration::from_secs(1);

/// The limits of the control groups of this process, and the memory of the machine.
#[derive(Debug)]
pub(crate) struct SystemSource {
    root: PathBuf,
    groups: Vec<ControlGroup>,
    /// When the groups were last looked for.
    checked: Instant,
}

impl SystemSource {
    /// Finds the groups. `root` is the folder in which `proc` and `sys` lie.
    pub(crate) fn new(root: PathBuf) -> Self {
        let groups = groups::find(&root, &groups::membership(&root));
        Self { root, groups, checked: Instant::now() }
    }

    /// Returns the file of the stalls of the innermost group of version 2.
    pub(crate) fn stalls(&self) -> Option<PathBuf> {
        self.groups.iter().find_map(ControlGroup::stalls)
    }

    /// Finds the groups again: the process may have moved, and groups come and go.
    fn check(&mut self) {
        if self.checked.elapsed() >= CHECK {
            *self = Self::new(std::mem::take(&mut self.root));
        }
    }
}

impl PressureSource for SystemSource {
    fn read(&mut self, _: bool) -> Reading {
        self.check();
        let headrooms = self
            .groups
            .iter()
            .filter_map(ControlGroup::headroom)
            .chain(groups::machine(&self.root));
        Reading { signal: false, headrooms: headrooms.collect() }
    }
}
