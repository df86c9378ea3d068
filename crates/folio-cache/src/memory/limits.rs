//! The memory of the machine, and the default capacity.

use std::path::Path;

use crate::pressure::groups::{self, ControlGroup};

/// The divisor for the default capacity: a cache takes this share of the memory. The rest is for
/// the program around it.
const DEFAULT_SHARE: usize = 4;

/// Returns the memory of the machine in bytes.
pub(crate) fn machine_bytes() -> usize {
    let info = rustix::system::sysinfo();
    let bytes = u128::from(info.totalram) * u128::from(info.mem_unit);
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

/// Returns the memory that this process may use in bytes: that of the machine, or what its control
/// groups allow.
pub(crate) fn process_bytes() -> usize {
    group_limit(Path::new("/")).unwrap_or(usize::MAX).min(machine_bytes())
}

/// Returns the default capacity: a quarter of the memory that this process may use.
pub(crate) fn default_capacity() -> usize {
    process_bytes() / DEFAULT_SHARE
}

/// Returns the smallest limit of the groups of this process, and of all groups around them. Returns
/// `None` without a limit.
fn group_limit(root: &Path) -> Option<usize> {
    let groups = groups::find(root, &groups::membership(root));
    let limit = groups.iter().filter_map(ControlGroup::limit).min()?;
    Some(usize::try_from(limit).unwrap_or(usize::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_capacity_is_a_share_of_the_memory() {
        assert!(default_capacity() > 0 && default_capacity() <= machine_bytes() / DEFAULT_SHARE);
    }
}
