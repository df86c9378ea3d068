//! Calls of many files that callers share: a file takes memory while a call of it is under way.

use std::collections::HashMap;
use std::sync::Arc;

use folio_uring::Process;

use crate::rt::lock::Mutex;
use crate::state::single_flight::SingleFlight;

/// Calls that are shared, by the number of the mapping.
pub(crate) struct Calls<T> {
    process: Process,
    /// **Invariant:** each entry has a caller.
    under_way: Mutex<HashMap<u32, Arc<SingleFlight<T>>>>,
}

/// A caller. It leaves even if its call panics.
struct Caller<'c, T> {
    calls: &'c Calls<T>,
    mapping: u32,
    flight: Option<Arc<SingleFlight<T>>>,
}

impl<T> Default for Calls<T> {
    fn default() -> Self {
        Self { process: Process::current(), under_way: Mutex::default() }
    }
}

impl<T> Calls<T> {
    /// Calls `act` for a file, or waits for a call for it by another thread that began after this
    /// one came. Returns what `share` makes of the result.
    pub(crate) fn run<R>(
        &self,
        mapping: u32,
        act: impl FnOnce() -> T,
        share: impl FnOnce(&T) -> R,
    ) -> R {
        let flight = Arc::clone(self.under_way.lock().entry(mapping).or_default());
        let caller = Caller { calls: self, mapping, flight: Some(flight) };
        caller.flight.as_ref().expect("it was just put there").run(act, share)
    }
}

impl<T> Drop for Caller<'_, T> {
    fn drop(&mut self) {
        if !self.calls.process.is_current() {
            // In a forked child, where another thread may hold the lock for ever.
            return;
        }
        let mut under_way = self.calls.under_way.lock();
        drop(self.flight.take());
        // The last caller: the entry has the only reference. No other entry can have come.
        let unneeded = match under_way.get(&self.mapping) {
            Some(flight) if Arc::strong_count(flight) == 1 => under_way.remove(&self.mapping),
            _ => None,
        };
        // Not under the lock: it has a result of a backing.
        drop(under_way);
        drop(unneeded);
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::thread;

    use super::*;

    #[test]
    fn a_call_keeps_an_entry_for_its_file_and_delays_no_other() {
        let (calls, called) = (Calls::default(), AtomicU32::new(0));
        let (begun, may_end) = (Barrier::new(2), Barrier::new(2));
        let count = || called.fetch_add(1, Ordering::Relaxed);
        thread::scope(|scope| {
            let slow = scope.spawn(|| {
                let act = || {
                    begun.wait();
                    may_end.wait();
                    count()
                };
                calls.run(7, act, |&n| n)
            });
            begun.wait();
            assert_eq!(calls.run(8, count, |&n| n), 0);
            assert_eq!(calls.under_way.lock().keys().collect::<Vec<_>>(), [&7]);
            may_end.wait();
            assert_eq!(slow.join().unwrap(), 1);
        });
        assert!(calls.under_way.lock().is_empty());
        let panics = AssertUnwindSafe(|| calls.run(7, || panic!("on purpose"), |&n| n));
        catch_unwind(panics).unwrap_err();
        assert!(calls.under_way.lock().is_empty());
    }
}
