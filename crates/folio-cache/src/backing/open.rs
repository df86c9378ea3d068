//! Opening: regular files only, and never waiting for somebody at the other end.

use std::fmt;
use std::fs::{self, FileType};
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use rustix::fs::{Mode, OFlags};

use super::pseudo;

/// Opens a regular file. One that `flags` make gets the usual rights, less the process's mask.
pub(super) fn open_regular(path: &Path, flags: OFlags) -> io::Result<fs::File> {
    // Before the open: opening a device can have effects.
    match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound && flags.contains(OFlags::CREATE) => {
        }
        metadata => {
            check(&path.display(), metadata?.file_type())?;
            pseudo::check_path(path)?;
        }
    }
    let flags = flags | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = fs::File::from(rustix::fs::open(path, flags, Mode::from_raw_mode(0o666))?);
    // Again: the path may lead to another file by now.
    check(&path.display(), file.metadata()?.file_type())?;
    Ok(file)
}

/// Says what `name` is, if it is no regular file.
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
        _ => "no regular file",
    };
    let message = format!("{name} is {what}: only regular files can be cached");
    Err(io::Error::new(io::ErrorKind::InvalidInput, message))
}
