//! The health of a file: whether its last write failed, and when the next one may be tried.
//!
//! A file that fails is tried again later and later, so that it costs the other files little. Its
//! own writers, syncs and closes try at once.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::backing::error::copy;

/// The time until the flusher tries again after the first failure. It doubles with each further
/// one.
const FIRST_BACK_OFF: Duration = Duration::from_secs(1);

const MAX_BACK_OFF: Duration = Duration::from_mins(1);

/// The same for a thread that needs memory and finds no other page to write.
const FIRST_BACK_OFF_FOR_MEMORY: Duration = Duration::from_millis(10);

/// The reason to write pages of a file, which is not a call for this file.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Why {
    /// The pages are old.
    Age,
    /// Memory is needed, and only sick files have dirty pages.
    Memory,
}

/// The health of one file.
#[derive(Debug, Default)]
pub(crate) struct Health {
    is_failing: AtomicBool,
    failures: Mutex<Failures>,
}

#[derive(Debug, Default)]
struct Failures {
    count: u32,
    latest: Option<(Instant, io::Error)>,
}

impl Health {
    /// Notes that a write failed.
    pub(crate) fn failed(&self, error: &io::Error) {
        let mut failures = self.failures.lock();
        failures.count += 1;
        failures.latest = Some((Instant::now(), copy(error)));
        // Relaxed, here and below: a hint.
        self.is_failing.store(true, Ordering::Relaxed);
    }

    /// Notes that a write succeeded.
    pub(crate) fn succeeded(&self) {
        if self.is_failing() {
            let mut failures = self.failures.lock();
            *failures = Failures::default();
            self.is_failing.store(false, Ordering::Relaxed);
        }
    }

    /// Returns `true` if the last write failed.
    pub(crate) fn is_failing(&self) -> bool {
        self.is_failing.load(Ordering::Relaxed)
    }

    /// Returns the error of the last write if it failed.
    pub(crate) fn error(&self) -> Option<io::Error> {
        self.failures.lock().latest.as_ref().map(|(_, error)| copy(error))
    }

    /// Returns `true` if the file may be written to: it is healthy, or its last failure is long
    /// ago. It always may under shuttle, where no time passes.
    pub(crate) fn may_write(&self, why: Why) -> bool {
        if cfg!(shuttle) || !self.is_failing() {
            return true;
        }
        let failures = self.failures.lock();
        let first = match why {
            Why::Age => FIRST_BACK_OFF,
            Why::Memory => FIRST_BACK_OFF_FOR_MEMORY,
        };
        let doublings = failures.count.saturating_sub(1).min(16);
        let back_off = first.saturating_mul(1 << doublings).min(MAX_BACK_OFF);
        failures.latest.as_ref().is_none_or(|(at, _)| at.elapsed() >= back_off)
    }
}
