//! The readers that wait for a fill, and its error if it fails: one request of the backing answers
//! all of them.
//!
//! A reader that finds a page in progress registers before it waits. A fill that fails leaves its
//! error to the readers of its page, and then unlocks the page. So they need not ask the backing
//! again, one after the other.

use folio_ref::broken;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io;
use std::sync::{Arc, OnceLock};

use folio_uring::Process;

use crate::backing::error::{copy, share};
use crate::rt::lock::Mutex;

/// The number of a mapping, and a page.
type Key = (u32, u32);

/// The error of the fill that some readers wait for.
type Outcome = OnceLock<io::Error>;

/// The readers that wait for fills.
#[derive(Debug)]
pub(crate) struct FillWaiters {
    process: Process,
    /// **Invariant:** each entry has a waiter.
    waiting: Mutex<HashMap<Key, Arc<Outcome>>>,
}

/// A reader that waits for a fill.
#[derive(Debug)]
pub(crate) struct FillWaiter {
    waiters: Arc<FillWaiters>,
    key: Key,
    outcome: Arc<Outcome>,
}

impl FillWaiters {
    /// Returns an empty set, for the calling process.
    pub(crate) fn new() -> Self {
        Self { process: Process::current(), waiting: Mutex::default() }
    }

    /// Registers a reader that is about to wait for a page.
    pub(crate) fn register(self: &Arc<Self>, mapping: u32, page: u32) -> FillWaiter {
        let key = (mapping, page);
        let outcome = Arc::clone(self.waiting.lock().entry(key).or_default());
        FillWaiter { waiters: Arc::clone(self), key, outcome }
    }

    /// Leaves the error of a fill to the readers of its page, and returns it. Call while the page
    /// is locked.
    #[cold]
    pub(crate) fn failed(&self, mapping: u32, page: u32, error: io::Error) -> io::Error {
        let error = share(error);
        if let Some(outcome) = self.waiting.lock().remove(&(mapping, page))
            && !broken!("failed-fill-untold")
        {
            let _ = outcome.set(copy(&error));
        }
        error
    }
}

impl FillWaiter {
    /// Returns the error of the fill if it failed.
    pub(crate) fn error(&self) -> Option<io::Error> {
        self.outcome.get().map(copy)
    }
}

impl Drop for FillWaiter {
    fn drop(&mut self) {
        if !self.waiters.process.is_current() {
            // In a forked child, where another thread may hold the lock for ever.
            return;
        }
        let mut waiting = self.waiters.waiting.lock();
        if let Entry::Occupied(entry) = waiting.entry(self.key)
            && Arc::ptr_eq(entry.get(), &self.outcome)
            && Arc::strong_count(&self.outcome) == 2
        {
            // The last one: the other reference is the entry's.
            entry.remove();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_reaches_the_readers_of_its_page_and_no_later_one() {
        let waiters = Arc::new(FillWaiters::new());
        let [first, second] = [(); 2].map(|()| waiters.register(1, 7));
        let other = waiters.register(2, 7);
        let error = waiters.failed(1, 7, io::Error::other("lost"));
        let late = waiters.register(1, 7);
        let text = |waiter: &FillWaiter| waiter.error().map(|error| error.to_string());
        assert_eq!([text(&first), text(&second)], [Some(error.to_string()), Some("lost".into())]);
        assert_eq!([text(&other), text(&late)], [None, None]);
        drop((first, second));
        assert_eq!(waiters.waiting.lock().len(), 2);
        drop((other, late));
        assert!(waiters.waiting.lock().is_empty());
    }
}
