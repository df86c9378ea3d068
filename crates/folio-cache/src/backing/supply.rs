//! A resource that the system gives or refuses. A refusal that lasts is remembered, and any other
//! is tried again.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::Errno;

use crate::rt::backoff::Backoff;

/// The knowledge about a resource of the system: a descriptor past its cache, or a ring.
#[derive(Debug, Default)]
pub(super) struct Supply {
    /// It never will.
    refused: AtomicBool,
    backoff: Backoff,
}

impl Supply {
    pub(super) const fn new() -> Self {
        Self { refused: AtomicBool::new(false), backoff: Backoff::new() }
    }

    /// Returns `true` once the system has said that it never will.
    pub(super) fn is_refused(&self) -> bool {
        // Relaxed: a hint.
        self.refused.load(Ordering::Relaxed)
    }

    /// Returns `true` unless it was refused, or failed a moment ago.
    pub(super) fn is_expected(&self) -> bool {
        !self.is_refused() && self.backoff.is_due()
    }

    /// Asks the system, if it may have it. The errors in `lasting` are remembered; after any other
    /// the system is asked again, not more often than [`Backoff`] says.
    pub(super) fn get<T>(
        &self,
        what: &str,
        lasting: &[Errno],
        ask: impl FnOnce() -> io::Result<T>,
    ) -> Option<T> {
        if !self.is_expected() {
            return None;
        }
        match ask() {
            Ok(given) => {
                self.backoff.succeeded();
                Some(given)
            }
            Err(error) => {
                let lasts = |code: &Errno| error.raw_os_error() == Some(code.raw_os_error());
                if lasting.iter().any(lasts) {
                    self.refuse(what, &error);
                } else if self.backoff.failed() {
                    tracing::warn!(%error, "no {what} for now: it is tried again");
                }
                None
            }
        }
    }

    /// Notes that the system never will.
    pub(super) fn refuse(&self, what: &str, error: &io::Error) {
        // Relaxed: a hint.
        if !self.refused.swap(true, Ordering::Relaxed) {
            tracing::warn!(%error, "no {what}: the slower way is used from now on");
        }
    }
}
