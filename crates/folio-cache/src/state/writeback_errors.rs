//! Writeback errors: each is reported once to every open file, as `fsync` promises (Linux's
//! `errseq_t`).
//!
//! A mapping counts its errors. An open file remembers the count at its last report. When the count
//! has moved on, the newest error is reported to it, once. An error is reported to a file that is
//! opened later only if it was not reported before.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::backing::error::copy;
use crate::rt::lock::Mutex;

/// The newest writeback error of a mapping.
#[derive(Debug, Default)]
pub(crate) struct WritebackErrors {
    newest: Mutex<Newest>,
    /// The last write failed, and that was logged.
    failing: AtomicBool,
}

#[derive(Debug, Default)]
struct Newest {
    count: u64,
    error: Option<io::Error>,
    reported: bool,
}

/// The error count up to which errors were reported to one open file.
#[derive(Debug, Default)]
pub(crate) struct ErrorCursor(AtomicU64);

impl ErrorCursor {
    /// Moves the cursor to where another one is.
    pub(crate) fn set(&self, other: &Self) {
        // Relaxed: the open that has the cursor begins.
        self.0.store(other.0.load(Ordering::Relaxed), Ordering::Relaxed);
    }
}

impl WritebackErrors {
    /// Records an error, to be reported to each open file.
    pub(crate) fn record(&self, error: &io::Error) {
        let mut newest = self.newest.lock();
        newest.count += 1;
        newest.error = Some(copy(error));
        newest.reported = false;
    }

    /// Records that a write failed. Returns `true` if the write before it did not fail, so that
    /// repeated failures are logged once.
    pub(crate) fn begins(&self) -> bool {
        // Relaxed, here and below: only the log depends on it.
        !self.failing.swap(true, Ordering::Relaxed)
    }

    /// Records that a write succeeded.
    pub(crate) fn end(&self) {
        if self.failing.load(Ordering::Relaxed) {
            self.failing.store(false, Ordering::Relaxed);
        }
    }

    /// Returns the cursor of a file that is opened now.
    pub(crate) fn begin(&self) -> ErrorCursor {
        let newest = self.newest.lock();
        ErrorCursor(AtomicU64::new(newest.count - u64::from(newest.count > 0 && !newest.reported)))
    }

    /// Returns the number of errors so far, for [`report`](Self::report).
    pub(crate) fn count(&self) -> u64 {
        self.newest.lock().count
    }

    /// Reports the newest error, and moves the cursor to it.
    ///
    /// `since` is the [`count`](Self::count) when the caller's operation began. An error that came
    /// since then is reported even if another call for the same file reported it meanwhile.
    ///
    /// # Errors
    ///
    /// The newest error, unless it was already reported to this open file and is not newer than
    /// `since`.
    pub(crate) fn report(&self, cursor: &ErrorCursor, since: u64) -> io::Result<()> {
        let mut newest = self.newest.lock();
        // Relaxed: the lock orders it.
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
    fn new_opens_report_a_second_error_that_was_not_reported() {
        let errors = WritebackErrors::default();
        let first = errors.begin();
        errors.record(&io::Error::from_raw_os_error(28));
        errors.report(&first, 0).unwrap_err();
        errors.record(&io::Error::from_raw_os_error(5));
        for reported in [Err(Some(5)), Ok(())] {
            let open = errors.begin();
            let code = || errors.report(&open, 2).map_err(|error| error.raw_os_error());
            assert_eq!((code(), code()), (reported, Ok(())));
        }
        // The first one has seen neither the second error nor that others have.
        assert_eq!(errors.report(&first, 2).unwrap_err().raw_os_error(), Some(5));
    }

    #[test]
    fn each_error_is_reported_once_to_each_open_file() {
        let errors = WritebackErrors::default();
        let (first, second) = (errors.begin(), errors.begin());
        let code = |reported| {
            errors.report(reported, errors.count()).map_err(|error| error.raw_os_error())
        };
        assert_eq!(code(&first), Ok(()));
        errors.record(&io::Error::from_raw_os_error(28));
        // It was not reported yet: it is reported to a file that is opened now.
        let third = errors.begin();
        assert_eq!([code(&first), code(&first)], [Err(Some(28)), Ok(())]);
        // It was reported: it is not reported to a file that is opened now.
        let fourth = errors.begin();
        assert_eq!(
            [code(&second), code(&third), code(&fourth)],
            [Err(Some(28)), Err(Some(28)), Ok(())]
        );
        errors.record(&io::Error::from_raw_os_error(5));
        errors.record(&io::Error::other("lost"));
        assert_eq!(errors.report(&fourth, 3).unwrap_err().to_string(), "lost");
        assert_eq!(code(&fourth), Ok(()));
        // By a call that began before the last error.
        assert_eq!(errors.report(&fourth, 2).unwrap_err().to_string(), "lost");
    }
}
