//! Opening: regular files only, and never waiting for somebody at the other end.

use std::fs::{self, FileType, Metadata};
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use rustix::fs::{Mode, OFlags};

/// Opens a regular file for reading.
pub(crate) fn open_regular(path: &Path) -> io::Result<(fs::File, Metadata)> {
    // Before the open: opening a device can have effects.
    check(path, fs::metadata(path)?.file_type())?;
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = fs::File::from(rustix::fs::open(path, flags, Mode::empty())?);
    let metadata = file.metadata()?;
    // Again: the path may lead to another file by now.
    check(path, metadata.file_type())?;
    Ok((file, metadata))
}

fn check(path: &Path, kind: FileType) -> io::Result<()> {
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
    let message = format!("{} is {what}: only regular files can be cached", path.display());
    Err(io::Error::new(io::ErrorKind::InvalidInput, message))
}
