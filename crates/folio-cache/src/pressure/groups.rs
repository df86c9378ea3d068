//! Control groups: the limits for memory of this process, and what is used under them.

use std::fs;
use std::path::{Path, PathBuf};

use crate::pressure::source::Headroom;

/// A limit from here on is none: version 1 writes "no limit" as a number larger than any memory.
const NO_LIMIT: u64 = 1 << 60;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    V1,
    V2,
}

/// A control group that may limit memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ControlGroup {
    folder: PathBuf,
    version: Version,
}

/// Returns the text of `/proc/self/cgroup`: the groups that this process is in.
pub(crate) fn membership(root: &Path) -> String {
    fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default()
}

/// Returns the groups that a text of [`membership`] names, and all groups around them.
///
/// Inside a container the path may lead nowhere, and the group is found at the top.
pub(crate) fn find(root: &Path, membership: &str) -> Vec<ControlGroup> {
    let mounted = root.join("sys/fs/cgroup");
    let groups = membership.lines().flat_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, path) = (fields.next(), fields.next().unwrap_or_default());
        let (version, roots) = match controllers {
            // Version 2, alone or beside version 1.
            Some("") => (Version::V2, vec![mounted.clone(), mounted.join("unified")]),
            Some(list) if list.split(',').any(|name| name == "memory") => {
                (Version::V1, vec![mounted.join("memory")])
            }
            _ => return Vec::new(),
        };
        let path = PathBuf::from(path.trim_start_matches('/'));
        let folders = |mount: &PathBuf| {
            let around = path.ancestors().map(|group| mount.join(group));
            around.map(|folder| ControlGroup { folder, version }).collect::<Vec<_>>()
        };
        roots.iter().flat_map(folders).filter(ControlGroup::exists).collect()
    });
    groups.collect()
}

impl ControlGroup {
    /// Returns `true` if the group limits memory, or could.
    fn exists(&self) -> bool {
        self.folder.join(self.limit_files()[0]).exists()
    }

    /// Returns the file with the pressure stall information of the group.
    pub(crate) fn stalls(&self) -> Option<PathBuf> {
        (self.version == Version::V2).then(|| self.folder.join("memory.pressure"))
    }

    /// Returns the limit in bytes. `None`: there is none, or the group is gone.
    ///
    /// In version 2 that is the lower one of `memory.max` and `memory.high`: past the latter, the
    /// kernel slows the group down.
    pub(crate) fn limit(&self) -> Option<u64> {
        // "max" is no number: no limit.
        let limits = self.limit_files().iter().filter_map(|file| self.number(file));
        limits.filter(|&limit| limit < NO_LIMIT).min()
    }

    /// Returns the limit, and what is used under it without the file pages that the kernel evicts
    /// first. `None` without a limit.
    pub(crate) fn headroom(&self) -> Option<Headroom> {
        let (usage, evictable) = match self.version {
            Version::V1 => ("memory.usage_in_bytes", "total_inactive_file"),
            Version::V2 => ("memory.current", "inactive_file"),
        };
        let limit = self.limit()?;
        let used = self.number(usage)?;
        Some(Headroom { limit, used: used.saturating_sub(self.stat(evictable).unwrap_or(0)) })
    }

    fn limit_files(&self) -> &'static [&'static str] {
        match self.version {
            Version::V1 => &["memory.limit_in_bytes"],
            Version::V2 => &["memory.max", "memory.high"],
        }
    }

    fn number(&self, file: &str) -> Option<u64> {
        fs::read_to_string(self.folder.join(file)).ok()?.trim().parse().ok()
    }

    /// Returns a line of `memory.stat`.
    fn stat(&self, name: &str) -> Option<u64> {
        let text = fs::read_to_string(self.folder.join("memory.stat")).ok()?;
        let mut lines = text.lines().filter_map(|line| line.split_once(' '));
        lines.find(|line| line.0 == name)?.1.trim().parse().ok()
    }
}

/// Returns the machine's memory, and what of it is not available, by `/proc/meminfo`.
pub(crate) fn machine(root: &Path) -> Option<Headroom> {
    let text = fs::read_to_string(root.join("proc/meminfo")).ok()?;
    let bytes = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().trim_end_matches("kB").trim().parse::<u64>().ok()?.checked_mul(1024)
    };
    let limit = bytes("MemTotal:")?;
    Some(Headroom { limit, used: limit.saturating_sub(bytes("MemAvailable:")?) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn limit(root: &Path, membership: &str) -> Option<u64> {
        find(root, membership).iter().filter_map(ControlGroup::limit).min()
    }

    #[test]
    fn the_smallest_limit_of_all_parent_groups_counts() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        let groups = root.join("sys/fs/cgroup");
        write(&groups, "a/b/memory.max", "max\n");
        write(&groups, "a/memory.max", "1000\n");
        write(&groups, "memory/x/memory.limit_in_bytes", "9223372036854771712\n");
        write(&groups, "memory/memory.limit_in_bytes", "700\n");
        write(&groups, "unified/c/memory.max", "500\n");
        assert_eq!(limit(root, "0::/a/b\n"), Some(1000));
        assert_eq!(limit(root, "4:cpu,memory:/x\n0::/a/b\n"), Some(700));
        assert_eq!(limit(root, "4:memory:/not/here\n"), Some(700), "as inside a container");
        assert_eq!(limit(root, "0::/c\n"), Some(500), "beside version 1");
        assert_eq!(limit(root, "3:cpuset:/\n"), None);
        for nonsense in ["nonsense\n", "", "::::\n", "4:memory\n:\n", "0::/../..\n"] {
            assert!(limit(root, nonsense).is_none_or(|limit| limit == 700), "{nonsense:?}");
        }
    }

    #[test]
    fn each_version_has_its_own_files() {
        let dir = tempfile::tempdir().unwrap();
        let groups = dir.path().join("sys/fs/cgroup");
        write(&groups, "app/memory.max", "1000\n");
        write(&groups, "app/memory.high", "800\n");
        write(&groups, "app/memory.current", "700\n");
        write(&groups, "app/memory.stat", "anon 300\nfile 400\ninactive_file 100\n");
        write(&groups, "memory/app/memory.limit_in_bytes", "1000\n");
        write(&groups, "memory/app/memory.usage_in_bytes", "900\n");
        write(&groups, "memory/app/memory.stat", "inactive_file 1\ntotal_inactive_file 200\n");
        let headrooms = |membership| {
            let groups = find(dir.path(), membership);
            groups.iter().filter_map(ControlGroup::headroom).collect::<Vec<_>>()
        };
        assert_eq!(headrooms("0::/app\n"), [Headroom { limit: 800, used: 600 }], "the high limit");
        assert_eq!(headrooms("4:memory:/app\n"), [Headroom { limit: 1000, used: 700 }]);
        write(&groups, "app/memory.high", "max\n");
        assert_eq!(headrooms("0::/app\n"), [Headroom { limit: 1000, used: 600 }]);
        write(&groups, "app/memory.max", "0\n");
        assert_eq!(headrooms("0::/app\n"), [Headroom { limit: 0, used: 600 }]);
        write(&groups, "app/memory.max", "max\n");
        assert_eq!(headrooms("0::/app\n"), [], "no limit");
        write(&groups, "app/memory.max", "many\n");
        assert_eq!(headrooms("0::/app\n"), [], "not a number");
        let found = find(dir.path(), "4:memory:/app\n0::/app\n");
        assert_eq!(
            found.iter().find_map(ControlGroup::stalls),
            Some(groups.join("app/memory.pressure"))
        );
        fs::remove_dir_all(&groups).unwrap();
        assert!(found.iter().all(|group| group.headroom().is_none()), "the groups are gone");
    }

    #[test]
    fn the_machine_is_a_room_as_well() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(machine(dir.path()), None);
        let text = "MemTotal:       1000 kB\nMemFree:  100 kB\nMemAvailable:    600 kB\n";
        write(dir.path(), "proc/meminfo", text);
        assert_eq!(machine(dir.path()), Some(Headroom { limit: 1_024_000, used: 409_600 }));
        write(dir.path(), "proc/meminfo", "MemTotal:  many kB\n");
        assert_eq!(machine(dir.path()), None);
        assert!(
            machine(Path::new("/")).is_some_and(|headroom| headroom.free() > 0),
            "this machine"
        );
    }
}
