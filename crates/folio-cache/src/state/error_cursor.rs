//! WritebackErrors of writeback: each is told once to every open file, as `fsync` promises (Linux's
//! `errseq_t`).
//!
//! A mapping counts its errors. An open file remembers the count that it was told last, and is told
//! the newest error when the count has moved on: once. A file that is opened after an error learns
//! of it only if nobody was told before.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::backing::error::copy;

/// The newest error of a mapping.
#[derive(Debug, Default)]
pub(crate) struct WritebackErrors {
    newest: Mutex<Newest>,
    /// The last write failed, and that was said.
    failing: AtomicBool,
}

#[derive(Debug, Default)]
struct Newest {
    count: u64,
    error: Option<io::Error>,
    reported: bool,
}

/// How far one open file was told.
#[derive(Debug)]
pub(crate) struct ErrorCursor(AtomicU64);

impl WritebackErrors {
    /// Notes an error, for everybody who has the file open.
    pub(crate) fn record(&self, error: &io::Error) {
        let mut newest = self.newest.lock();
        newest.count += 1;
        newest.error = Some(copy(error));
        newest.reported = false;
    }

    /// A write failed. Whether the one before it did not: what goes on failing is said once.
    pub(crate) fn begins(&self) -> bool {
        // Relaxed, here and below: for who reads logs.
        !self.failing.swap(true, Ordering::Relaxed)
    }

    /// A write did not fail.
    pub(crate) fn end(&self) {
        if self.failing.load(Ordering::Relaxed) {
            self.failing.store(false, Ordering::Relaxed);
        }
    }

    /// Where a file that is opened now begins.
    pub(crate) fn begin(&self) -> ErrorCursor {
        let newest = self.newest.lock();
        ErrorCursor(AtomicU64::new(newest.count - u64::from(newest.count > 0 && !newest.reported)))
    }

    /// How many there were: see [`tell`](Self::tell).
    pub(crate) fn count(&self) -> u64 {
        self.newest.lock().count
    }

    /// The newest error, if this file was not told of it; or if it came after so many others, which
    /// is what a call counted when it began: another call for the same file may have been told
    /// meanwhile, and said nothing to this one.
    pub(crate) fn report(&self, cursor: &ErrorCursor, since: u64) -> io::Result<()> {
        let mut newest = self.newest.lock();
        // Relaxed: under the lock.
        if cursor.0.swap(newest.count, Ordering::Relaxed) == newest.count && since == newest.count {
            return Ok(());
        }
        newest.reported = true;
        newest.error.as_ref().map_or(Ok(()), |error| Err(copy(error)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_error_is_told_once_to_each_file_that_was_open() {
        let errors = WritebackErrors::default();
        let (first, second) = (errors.begin(), errors.begin());
        let code = |reported| {
            errors.report(reported, errors.count()).map_err(|error| error.raw_os_error())
        };
        assert_eq!(code(&first), Ok(()));
        errors.record(&io::Error::from_raw_os_error(28));
        // Nobody was told yet: a file that comes now is.
        let third = errors.begin();
        assert_eq!([code(&first), code(&first)], [Err(Some(28)), Ok(())]);
        // Somebody was: this one is not.
        let fourth = errors.begin();
        assert_eq!(
            [code(&second), code(&third), code(&fourth)],
            [Err(Some(28)), Err(Some(28)), Ok(())]
        );
        errors.record(&io::Error::from_raw_os_error(5));
        errors.record(&io::Error::other("lost"));
        assert_eq!(errors.report(&fourth, 3).unwrap_err().to_string(), "lost");
        assert_eq!(code(&fourth), Ok(()));
        // By a call that had begun before the last one came.
        assert_eq!(errors.report(&fourth, 2).unwrap_err().to_string(), "lost");
    }
}
