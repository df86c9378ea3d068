//! The health of a file: whether its last write failed, and when the next one may be tried.
//!
//! A file that fails is tried again later and later, so that it costs the other files little. Its
//! own writers, syncs and closes try at once.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::backing::error::copy;
use crate::rt::lock::Mutex;

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

#[cfg(test)]
mod tests {
    use super::*;

    /// Makes the latest failure older by a time.
    fn age(health: &Health, time: Duration) {
        let mut failures = health.failures.lock();
        let (at, _) = failures.latest.as_mut().expect("it has failed");
        *at = at.checked_sub(time).expect("the machine runs for longer");
    }

    #[test]
    fn a_file_that_fails_is_tried_less_and_less_often() {
        let health = Health::default();
        let both = || [Why::Age, Why::Memory].map(|why| health.may_write(why));
        assert_eq!((both(), health.is_failing()), ([true; 2], false));
        let (mut expected, mut for_memory) = (FIRST_BACK_OFF, FIRST_BACK_OFF_FOR_MEMORY);
        for failures in 1..40 {
            health.failed(&io::Error::from_raw_os_error(failures));
            assert!(health.is_failing());
            assert_eq!(health.error().unwrap().raw_os_error(), Some(failures));
            for (why, time) in [(Why::Memory, for_memory), (Why::Age, expected)] {
                // A shorter one may be over on a busy machine.
                if time >= Duration::from_secs(4) {
                    assert!(!health.may_write(why), "{failures} failures, {why:?}");
                }
            }
            if expected >= Duration::from_secs(8) {
                age(&health, expected / 2);
                assert!(!health.may_write(Why::Age), "{failures} failures");
            }
            age(&health, expected);
            assert_eq!(both(), [true; 2], "{failures} failures");
            expected = (expected * 2).min(MAX_BACK_OFF);
            for_memory = (for_memory * 2).min(MAX_BACK_OFF);
        }
        health.succeeded();
        assert_eq!((both(), health.is_failing()), ([true; 2], false));
        assert!(health.error().is_none());
        // It begins anew.
        health.failed(&io::Error::other("again"));
        age(&health, FIRST_BACK_OFF);
        assert!(health.may_write(Why::Age));
    }
}
