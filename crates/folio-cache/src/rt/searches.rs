//! Searches of all memory, by number: calls that fail because of one share it.
//!
//! A search that began after a call, and found nothing, is as good to that call as one of its own.
//! So of many calls that find no memory one waits and searches, and all fail. A call that makes
//! many requests fails as one: the scope of its thread ([`Searches::scope`]) holds its beginning.

use std::cell::Cell;
use std::marker::PhantomData;
use std::ptr;
use std::sync::atomic::{AtomicU64, Ordering};

use folio_ref::broken;

/// The searches of one cache.
#[derive(Default)]
pub(crate) struct Searches {
    begun: AtomicU64,
    /// The last one that found nothing.
    fruitless: AtomicU64,
}

/// The beginning of a call: the number of searches that had begun before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Beginning(u64);

/// The scope that a thread is in: the address of its searches, and the beginning of its call, if
/// that was needed.
type Entered = Option<(usize, Option<Beginning>)>;

thread_local! {
    static ENTERED: Cell<Entered> = const { Cell::new(None) };
}

impl Searches {
    /// Returns the beginning of a call that begins now.
    pub(crate) fn now(&self) -> Beginning {
        // Release: pairs with Acquire in `begin`: a search with a larger number sees what was
        // unpinned before the call. Adds nothing, as only a store can be paired with.
        Beginning(self.begun.fetch_add(0, Ordering::Release))
    }

    /// Returns the beginning of the call of this thread: that of its scope, or now.
    pub(crate) fn beginning(&self) -> Beginning {
        match ENTERED.get() {
            Some((searches, Some(beginning))) if searches == self.address() => beginning,
            Some((searches, None)) if searches == self.address() => {
                let beginning = self.now();
                ENTERED.set(Some((searches, Some(beginning))));
                beginning
            }
            _ => self.now(),
        }
    }

    /// Makes all that this thread requests one call, until the scope is dropped. The call begins
    /// when it first finds no memory, if no beginning is given.
    pub(crate) fn scope(&self, beginning: Option<Beginning>) -> Scope<'_> {
        Scope(ENTERED.replace(Some((self.address(), beginning))), PhantomData)
    }

    fn address(&self) -> usize {
        ptr::from_ref(self).addr()
    }

    /// Begins a search of all memory. Returns its number.
    pub(crate) fn begin(&self) -> u64 {
        // Acquire: pairs with Release in `now`.
        self.begun.fetch_add(1, Ordering::Acquire) + 1
    }

    /// Notes that a search found nothing.
    pub(crate) fn found_nothing(&self, number: u64) {
        // Relaxed: only the number is read.
        self.fruitless.fetch_max(number, Ordering::Relaxed);
    }

    /// Returns `true` if a search that began after a call found nothing.
    pub(crate) fn found_nothing_since(&self, beginning: Beginning) -> bool {
        let fruitless = self.fruitless.load(Ordering::Relaxed);
        // An older search may have passed the memory that was unpinned before the call.
        fruitless > beginning.0 || (broken!("older-search-shared") && fruitless > 0)
    }
}

/// Restores the scope that was there before, on drop. It stays in its thread.
pub(crate) struct Scope<'s>(Entered, PhantomData<&'s Cell<()>>);

impl Drop for Scope<'_> {
    fn drop(&mut self) {
        ENTERED.set(self.0);
    }
}

#[cfg(all(test, not(shuttle)))]
mod tests {
    use super::*;

    #[test]
    fn a_call_shares_searches_that_began_after_it() {
        let searches = Searches::default();
        let before = searches.now();
        let number = searches.begin();
        let during = searches.now();
        assert!(!searches.found_nothing_since(before));
        searches.found_nothing(number);
        assert!(searches.found_nothing_since(before));
        assert!(!searches.found_nothing_since(during));
        assert!(!searches.found_nothing_since(searches.now()));
    }

    #[test]
    fn a_scope_has_one_beginning_for_its_own_searches() {
        let [searches, others] = [(); 2].map(|()| Searches::default());
        let outer = searches.scope(None);
        let first = searches.beginning();
        searches.begin();
        others.begin();
        assert_eq!((searches.beginning(), others.beginning()), (first, Beginning(1)));
        let inner = searches.scope(None);
        assert_eq!(searches.beginning(), Beginning(1));
        drop(inner);
        assert_eq!(searches.beginning(), first);
        drop(outer);
        assert_eq!(searches.beginning(), Beginning(1));
    }
}
