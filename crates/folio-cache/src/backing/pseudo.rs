//! Pseudo files: the kernel makes up their bytes as they are read, and their size says nothing.
//!
//! A cache reads a file up to its size. The files of `procfs` have size 0, those of `sysfs` have
//! the size of a page, and each read of both returns other bytes. So an open refuses them, by two
//! rules:
//!
//! - by the type of the file system, for those of Linux that hold such files and no others;
//! - by a read that returns more or fewer bytes than the size, for other file systems, such as
//!   `lxcfs`.
//!
//! The second rule reads only if the file has no block and at most one page. A file that another
//! program writes at this moment is accepted: its size changes with its bytes.

use std::fmt;
use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::io::pread;

use super::error::error;
use super::whole;

/// File systems of pseudo files, by their type (`statfs(2)`, `linux/magic.h`).
const PSEUDO: [(u32, &str); 22] = [
    (0x9fa0, "procfs"),
    (0x6265_6572, "sysfs"),
    (0x6462_6720, "debugfs"),
    (0x7472_6163, "tracefs"),
    (0x0027_e0eb, "cgroup"),
    (0x6367_7270, "cgroup2"),
    (0x0765_5821, "resctrl"),
    (0x7363_6673, "securityfs"),
    (0xf97c_ff8c, "selinuxfs"),
    (0x4341_5d53, "smackfs"),
    (0x5a3c_69f0, "apparmorfs"),
    (0x6265_6570, "configfs"),
    (0xcafe_4a11, "bpf"),
    (0x4249_4e4d, "binfmt_misc"),
    (0x6e73_6673, "nsfs"),
    (0x5049_4446, "pidfs"),
    (0x6573_5543, "fusectl"),
    (0x1980_0202, "mqueue"),
    (0x6759_6969, "rpc_pipefs"),
    (0x6e66_7364, "nfsd"),
    (0xabba_1974, "xenfs"),
    (0x0904_1934, "anon_inodefs"),
];

/// Bytes that are read to compare them with the size.
const PROBE: u64 = 4096;

/// Looks that all find size and bytes apart: one alone may meet a file that is cut and regrown.
const LOOKS: u32 = 3;

/// Refuses a path on a file system of pseudo files. Call it before the open, which may have
/// effects.
///
/// # Errors
///
/// `InvalidInput` with a message that says why; what the system says.
pub(super) fn check_path(path: &Path) -> io::Result<()> {
    check_type(&path.display(), rustix::fs::statfs(path)?.f_type as u32)
}

/// Refuses a pseudo file.
///
/// # Errors
///
/// `InvalidInput` with a message that says why; what the system says.
pub(super) fn check_file(name: &dyn fmt::Display, file: &fs::File) -> io::Result<()> {
    check_type(name, rustix::fs::fstatfs(file)?.f_type as u32)?;
    let size = || file.metadata().map(|metadata| (metadata.blocks(), metadata.len()));
    let read = || {
        let mut bytes = [0; PROBE as usize];
        whole::retry(|| Ok(pread(file, &mut bytes, 0)?)).map(|read| read as u64)
    };
    let Some((size, read)) = unstable(size, read)? else { return Ok(()) };
    let message = format!(
        "{name} has no stable size: it says {size} bytes and a read gives {read}; \
         read it with std::fs"
    );
    Err(error(ErrorKind::InvalidInput, message))
}

/// Compares the size of a file with the bytes that a read gives, a few times. `size` returns the
/// number of its blocks and its size. Returns size and bytes if they differ each time.
fn unstable(
    mut size: impl FnMut() -> io::Result<(u64, u64)>,
    mut read: impl FnMut() -> io::Result<u64>,
) -> io::Result<Option<(u64, u64)>> {
    let mut seen = (0, 0);
    for _ in 0..LOOKS {
        let (blocks, len) = size()?;
        if blocks > 0 || len > PROBE {
            return Ok(None);
        }
        let read = read()?;
        if read == len || size()?.1 != len {
            return Ok(None);
        }
        seen = (len, read);
    }
    Ok(Some(seen))
}

fn check_type(name: &dyn fmt::Display, found: u32) -> io::Result<()> {
    let Some((_, system)) = PSEUDO.iter().find(|(number, _)| *number == found) else {
        return Ok(());
    };
    let message = format!("{name} has no stable size ({system}): read it with std::fs");
    Err(error(ErrorKind::InvalidInput, message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_refused_by_its_file_system() {
        for path in ["/proc/meminfo", "/proc/self/status"] {
            let error = check_path(Path::new(path)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
            assert!(error.to_string().contains("procfs"), "{error}");
        }
        check_path(tempfile::NamedTempFile::new().unwrap().path()).unwrap();
    }

    /// Returns what is found of a file with these sizes, one after the other, and these bytes.
    fn found(blocks: u64, sizes: &[u64], reads: &[u64]) -> Option<(u64, u64)> {
        let (mut sizes, mut reads) = (sizes.iter().cycle(), reads.iter().cycle());
        let size = || Ok((blocks, *sizes.next().expect("a cycle")));
        unstable(size, || Ok(*reads.next().expect("a cycle"))).unwrap()
    }

    #[test]
    fn a_file_is_unstable_if_size_and_bytes_differ_each_time() {
        assert_eq!(found(0, &[0], &[30]), Some((0, 30)));
        assert_eq!(found(0, &[4096], &[30]), Some((4096, 30)));
        assert_eq!(found(0, &[30], &[30]), None);
        assert_eq!(found(8, &[0], &[30]), None, "it has blocks");
        assert_eq!(found(0, &[4097], &[30]), None, "it is too long for one read");
        assert_eq!(found(0, &[0, 30], &[30]), None, "another program writes it");
        assert_eq!(found(0, &[0], &[30, 30, 0]), None, "once they agree");
        assert_eq!(found(0, &[0, 0, 0, 7], &[30]), None, "once it changes");
    }
}
