//! One call for many callers: a caller that comes while a call is under way shares the next one,
//! and its result.

use crate::backing::Durable;
use crate::rt::lock::Mutex;
use crate::state::sync_group::SyncGroup;

/// Calls that share their result. The call that a caller shares began after the caller came, so
/// its result is as new as that of a call of its own.
#[derive(Debug)]
pub(crate) struct SingleFlight<T> {
    calls: SyncGroup,
    /// The result of the latest call.
    latest: Mutex<Option<T>>,
}

impl<T> Default for SingleFlight<T> {
    fn default() -> Self {
        Self { calls: SyncGroup::default(), latest: Mutex::default() }
    }
}

impl<T> SingleFlight<T> {
    /// Calls `act` alone, or waits for the call of another thread that began after this one came.
    /// Returns what `share` makes of the result.
    pub(crate) fn run<R>(&self, act: impl FnOnce() -> T, share: impl FnOnce(&T) -> R) -> R {
        self.calls.sync(Durable::Data, || {
            let result = act();
            *self.latest.lock() = Some(result);
        });
        // The result of the call that this one shares, or of a later one.
        share(self.latest.lock().as_ref().expect("a call has ended"))
    }
}
