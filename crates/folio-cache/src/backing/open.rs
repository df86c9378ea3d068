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
