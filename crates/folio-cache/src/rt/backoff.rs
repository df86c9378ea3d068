//! Pauses between the tries of a call that failed for now, such as one without a free descriptor.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
#[cfg(test)]
use std::time::Duration;
use std::time::Instant;

/// The pause after the first failure, in milliseconds. Each further failure doubles it.
const SHORTEST: u32 = 1;

/// The longest pause, in milliseconds.
const LONGEST: u32 = 1000;

/// When a call that failed is tried again. Threads that race try once too often, no more.
#[derive(Debug)]
pub(crate) struct Backoff {
    /// The time of the next try, in milliseconds since [`now`] was first asked.
    due: AtomicU64,
    /// The pause after the last failure, in milliseconds. 0: the last try succeeded.
    pause: AtomicU32,
}

// Relaxed, all: hints.
impl Backoff {
    pub(crate) const fn new() -> Self {
        Self { due: AtomicU64::new(0), pause: AtomicU32::new(0) }
    }

    /// Returns `true` if the next try may be made. No system call.
    pub(crate) fn is_due(&self) -> bool {
        self.pause.load(Ordering::Relaxed) == 0 || now() >= self.due.load(Ordering::Relaxed)
    }

    /// Notes a failure. Returns `true` for the first one after a success.
    pub(crate) fn failed(&self) -> bool {
        let before = self.pause.load(Ordering::Relaxed);
        let pause = (2 * before).clamp(SHORTEST, LONGEST);
        self.due.store(now() + u64::from(pause), Ordering::Relaxed);
        self.pause.store(pause, Ordering::Relaxed);
        before == 0
    }

    /// Notes a success: the next try may be made at once.
    pub(crate) fn succeeded(&self) {
        self.pause.store(0, Ordering::Relaxed);
    }
}

impl Default for Backoff {
    fn default() -> Self {
        Self::new()
    }
}

fn now() -> u64 {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    u64::try_from(START.elapsed().as_millis()).unwrap_or(u64::MAX)
}

/// The longest pause.
#[cfg(test)]
pub(crate) const LONGEST_PAUSE: Duration = Duration::from_millis(LONGEST as u64);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_persistent_failure_is_tried_about_once_a_second() {
        let backoff = Backoff::new();
        let (begin, mut tries) = (Instant::now(), 0);
        while begin.elapsed() < Duration::from_millis(500) {
            if backoff.is_due() {
                assert_eq!(backoff.failed(), tries == 0);
                tries += 1;
            }
        }
        // 1 + 2 + 4 + .. + 256 ms are more than half a second.
        assert!((2..=10).contains(&tries), "{tries} tries");
        let failed = Instant::now();
        backoff.failed();
        // Another program may have had the processor for all of the pause.
        assert!(!backoff.is_due() || failed.elapsed() > Duration::from_millis(250));
        backoff.succeeded();
        assert!(backoff.is_due() && backoff.failed());
    }
}
