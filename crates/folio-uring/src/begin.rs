//! Starting what a sync would start: dirty pages of the kernel's cache go on their way to the disk.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// Lets the system begin to write what is dirty of a range of a file, and waits for none of it. It
/// promises nothing: only a sync does, which finds less to do then, and says what failed.
///
/// # Errors
///
/// What the system says: `InvalidInput` where no file reaches, `Unsupported` where it knows no such
/// call.
pub fn begin_writeback(file: &impl AsFd, offset: u64, len: u64) -> io::Result<()> {
    let (Ok(start), Ok(bytes)) = (i64::try_from(offset), i64::try_from(len)) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let fd = file.as_fd().as_raw_fd();
    // SAFETY: no memory is involved; the file is borrowed for as long as the call.
    let done = unsafe { libc::sync_file_range(fd, start, bytes, libc::SYNC_FILE_RANGE_WRITE) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn writeback_begins_where_there_are_bytes_and_is_refused_past_all_files() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[7; 10_000]).unwrap();
        begin_writeback(&file, 0, 10_000).unwrap();
        // Behind the end there is nothing to begin.
        begin_writeback(&file, 1 << 40, 4096).unwrap();
        for (offset, len) in [(u64::MAX, 1), (0, u64::MAX), (i64::MAX as u64, 2)] {
            let refused = begin_writeback(&file, offset, len).unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::InvalidInput, "{offset}, {len}");
        }
    }
}
