//! The entry of a request in the table of its object. It leaves when the request ends or is
//! dropped.

use std::sync::Arc;

use folio_ref::Scheme;

use crate::rt::flight::Flight;
use crate::rt::permits::Permits;
use crate::rt::rank::Rank;
use crate::state::mapping::Mapping;
use crate::state::remote::{Outcome, Remote};
use crate::state::stats::Count;

/// The entry of a request in its table.
pub(super) struct InTable<S: Scheme> {
    pub(super) mapping: Arc<Mapping<S>>,
    pub(super) id: u64,
    pub(super) first: u64,
    /// The permits of its backing. `None` once it is dropped.
    pub(super) permits: Option<Arc<Permits>>,
    /// The version was known when it was requested.
    pub(super) is_versioned: bool,
    /// It has a result.
    pub(super) is_over: bool,
}

/// The work for which the table must be unlocked.
pub(super) struct Joined<S: Scheme> {
    /// The requests that were looked at: these may be the last references.
    pub(super) flights: Vec<Arc<Flight<Outcome<S>>>>,
    /// The ranks of joined requests that were raised.
    pub(super) raised: Vec<Arc<Rank>>,
}

impl<S: Scheme> Default for Joined<S> {
    fn default() -> Self {
        Self { flights: Vec::new(), raised: Vec::new() }
    }
}

impl<S: Scheme> InTable<S> {
    pub(super) fn remote(&self) -> &Remote<S> {
        self.mapping.remote().expect("only distant stores have requests")
    }
}

impl<S: Scheme> Drop for InTable<S> {
    fn drop(&mut self) {
        if !self.is_over {
            self.mapping.count(Count::Cancelled, 1);
        }
        let permits = self.permits.take();
        self.remote().with_any_active(|active| {
            active.table.remove(self.id, self.first);
            // Under the lock: the request that has the last ones frees the table.
            drop(permits);
        });
    }
}
