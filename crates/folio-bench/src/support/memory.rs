//! The memory of this process.

use std::fs;
use std::io;

/// Returns the resident bytes of this process.
///
/// # Errors
///
/// The system's error if `/proc/self/statm` cannot be read.
pub(crate) fn resident() -> io::Result<usize> {
    let text = fs::read_to_string("/proc/self/statm")?;
    let pages: Option<usize> = text.split_whitespace().nth(1).and_then(|word| word.parse().ok());
    let pages = pages.ok_or_else(|| {
        io::Error::other(format!("no resident pages in /proc/self/statm: {text:?}"))
    })?;
    Ok(pages * rustix::param::page_size())
}
