//! The start of writeback: dirty pages of the kernel's cache are sent to the disk ahead of a sync.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// Starts writeback of the dirty pages in `len` bytes of `file` from `offset`, and waits for none.
///
/// This promises nothing. Only a sync makes data durable and reports write errors; it has less to
/// do after this call.
///
/// # Errors
///
/// Returns the error of the system call: `InvalidInput` if the range exceeds the maximum file
/// offset, `Unsupported` if the kernel does not have the call.
pub fn begin_writeback(file: &impl AsFd, offset: u64, len: u64) -> io::Result<()> {
    let (Ok(start), Ok(bytes)) = (i64::try_from(offset), i64::try_from(len)) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let fd = file.as_fd().as_raw_fd();
    // SAFETY: no memory is involved, and the file is borrowed for the duration of the call.
    let done = unsafe { libc::sync_file_range(fd, start, bytes, libc::SYNC_FILE_RANGE_WRITE) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn writeback_past_the_maximum_offset_is_refused() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[7; 10_000]).unwrap();
        begin_writeback(&file, 0, 10_000).unwrap();
        // Past the end there is nothing to start.
        begin_writeback(&file, 1 << 40, 4096).unwrap();
        for (offset, len) in [(u64::MAX, 1), (0, u64::MAX), (i64::MAX as u64, 2)] {
            let refused = begin_writeback(&file, offset, len).unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::InvalidInput, "{offset}, {len}");
        }
    }
}
