//! The memory of the machine, and the limits that control groups set.

use std::fs;
use std::path::{Path, PathBuf};

/// The divisor for the default capacity: a cache takes this share of the memory. The rest is for
/// the program around it.
const DEFAULT_SHARE: usize = 4;

/// Returns the memory of the machine in bytes.
pub(crate) fn machine_bytes() -> usize {
    let info = rustix::system::sysinfo();
    let bytes = u128::from(info.totalram) * u128::from(info.mem_unit);
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

/// Returns the default capacity: a quarter of the machine's memory, or of what the control groups
/// of this process allow.
pub(crate) fn default_capacity() -> usize {
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let limit = group_limit(&groups, Path::new("/sys/fs/cgroup"));
    limit.unwrap_or(usize::MAX).min(machine_bytes()) / DEFAULT_SHARE
}

/// Returns the smallest limit of the groups that `/proc/self/cgroup` names, and of all groups
/// around them. Returns `None` without a limit.
///
/// Inside a container the path may lead nowhere, and the group is found at the top.
fn group_limit(groups: &str, mounted: &Path) -> Option<usize> {
    let limits = groups.lines().filter_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, path) = (fields.next()?, fields.next()?);
        let (roots, file) = match controllers {
            // Version 2, alone or beside version 1.
            "" => (vec![mounted.to_owned(), mounted.join("unified")], "memory.max"),
            list if list.split(',').any(|name| name == "memory") => {
                (vec![mounted.join("memory")], "memory.limit_in_bytes")
            }
            _ => return None,
        };
        roots.into_iter().filter_map(|root| min_limit_upwards(&root, path, file)).min()
    });
    limits.min()
}

fn min_limit_upwards(root: &Path, path: &str, file: &str) -> Option<usize> {
    let path = PathBuf::from(path.trim_start_matches('/'));
    // "max" is not a number: no limit. In version 1, no limit is a number larger than any memory.
    let limit =
        |group: &Path| fs::read_to_string(root.join(group).join(file)).ok()?.trim().parse().ok();
    path.ancestors().filter_map(limit).min()
}

/// Returns the part of a capacity that indexes and the state of open files may have together.
pub(crate) fn beside_pages(capacity: usize) -> usize {
    capacity - capacity / 8
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    #[test]
    fn the_smallest_limit_of_all_parent_groups_counts() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        write(root, "a/b/memory.max", "max\n");
        write(root, "a/memory.max", "1000\n");
        write(root, "memory/x/memory.limit_in_bytes", "9223372036854771712\n");
        write(root, "memory/memory.limit_in_bytes", "700\n");
        write(root, "unified/c/memory.max", "500\n");
        assert_eq!(group_limit("0::/a/b\n", root), Some(1000));
        assert_eq!(group_limit("4:cpu,memory:/x\n0::/a/b\n", root), Some(700));
        assert_eq!(group_limit("4:memory:/not/here\n", root), Some(700), "as inside a container");
        assert_eq!(group_limit("0::/c\n", root), Some(500), "beside version 1");
        assert_eq!(group_limit("3:cpuset:/\n", root), None);
        assert_eq!(group_limit("nonsense\n", root), None);
    }

    #[test]
    fn the_default_capacity_is_a_share_of_the_memory() {
        assert!(default_capacity() > 0 && default_capacity() <= machine_bytes() / DEFAULT_SHARE);
    }
}
