//! Opens regular files only, and never waits for the peer of a FIFO.

use std::fmt;
use std::fs::{self, FileType};
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::error::{error, numbered};
use super::pseudo;

/// Opens a regular file. A file that `flags` create gets the permission bits `mode`, without those
/// of the umask.
pub(super) fn open_regular(path: &Path, flags: OFlags, mode: u32) -> io::Result<fs::File> {
    // Before the open: opening a device can have effects. An exclusive open opens nothing that
    // exists.
    if !flags.contains(OFlags::EXCL) {
        match fs::metadata(path) {
            Err(error)
                if error.kind() == io::ErrorKind::NotFound && flags.contains(OFlags::CREATE) => {}
            metadata => {
                check(&path.display(), metadata?.file_type())?;
                pseudo::check_path(path)?;
            }
        }
    }
    let flags = flags | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = fs::File::from(rustix::fs::open(path, flags, Mode::from_raw_mode(mode))?);
    // Again: the path may lead to another file by now.
    check(&path.display(), file.metadata()?.file_type())?;
    Ok(file)
}

/// Returns an error that names the type of `name`, if that is not a regular file.
pub(super) fn check(name: &dyn fmt::Display, kind: FileType) -> io::Result<()> {
    if kind.is_file() {
        return Ok(());
    }
    let what = match kind {
        _ if kind.is_dir() => "a directory",
        _ if kind.is_fifo() => "a FIFO",
        _ if kind.is_socket() => "a socket",
        _ if kind.is_block_device() => "a block device",
        _ if kind.is_char_device() => "a character device",
        _ => "of an unknown type",
    };
    let message = format!("{name} is {what}: only regular files can be cached");
    let invalid = io::ErrorKind::InvalidInput;
    Err(if kind.is_dir() {
        numbered(invalid, Errno::ISDIR, message)
    } else {
        error(invalid, message)
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn a_descriptor_waits_for_no_peer_and_ends_with_an_exec() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let opened = open_regular(file.path(), OFlags::RDONLY, 0).unwrap();
        assert!(rustix::fs::fcntl_getfl(&opened).unwrap().contains(OFlags::NONBLOCK));
        let flags = rustix::io::fcntl_getfd(&opened).unwrap();
        assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
    }

    #[test]
    fn the_error_names_the_type_of_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("socket");
        let _listener = UnixListener::bind(&socket).unwrap();
        let mut paths = vec![(socket, "a socket"), ("/dev/null".into(), "a character device")];
        // A container may have no block device.
        let devices = fs::read_dir("/dev").unwrap().filter_map(Result::ok);
        let is_block = |path: &std::path::PathBuf| {
            fs::metadata(path).is_ok_and(|metadata| metadata.file_type().is_block_device())
        };
        let block = devices.map(|entry| entry.path()).find(is_block);
        paths.extend(block.map(|path| (path, "a block device")));
        for (path, name) in paths {
            let error = open_regular(&path, OFlags::RDONLY, 0).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
            assert!(error.to_string().contains(name), "{error}");
        }
    }
}
