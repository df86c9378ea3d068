//! The cache in a forked child: only the cached pages are left.
//!
//! In a child the other threads do not exist. What they held at the fork stays held: locks, pages
//! in progress, futures in flight. Dirty pages exist twice. So a cache belongs to the process that
//! made it. In a child:
//!
//! | | |
//! | --- | --- |
//! | a hit | reads the page as of the fork, without a lock or a check |
//! | a miss, a write, a sync, an open, a future | an error of kind `Unsupported`, at once |
//! | an operation that frees, moves or waits for pages | does nothing |
//! | a drop | writes nothing, and leaks the parts of the whole cache |
//!
//! **Invariant:** in a child, the code behind these checks takes no lock and waits for nothing.

use std::io;
use std::mem;
use std::sync::Arc;

use folio_ref::Scheme;
use folio_uring::Process;

use crate::backing::error::error;
use crate::state::shared::Shared;

impl<S: Scheme> Shared<S> {
    /// Returns `true` in a child that was forked after the cache was made. Costs two loads.
    #[inline]
    pub(crate) fn is_inherited(&self) -> bool {
        !self.process.is_current()
    }

    /// Checks that this process made the cache.
    ///
    /// # Errors
    ///
    /// `Unsupported` in a child that was forked after the cache was made.
    #[inline]
    pub(crate) fn check_process(&self) -> io::Result<()> {
        if self.is_inherited() { Err(self.inherited()) } else { Ok(()) }
    }

    /// Returns the error of [`check_process`](Self::check_process).
    #[cold]
    fn inherited(&self) -> io::Error {
        let (made, used) = (self.process.id(), Process::current().id());
        let message = format!(
            "this cache was made by process {made} and is used in process {used} after a fork: \
             open a new cache there"
        );
        error(io::ErrorKind::Unsupported, message)
    }

    /// Leaks an inherited cache until the process ends: to drop it, locks and threads are needed.
    /// Call before a reference to it is dropped. Returns `true` if the cache is inherited.
    pub(crate) fn leak_if_inherited(self: &Arc<Self>) -> bool {
        let is_inherited = self.is_inherited();
        if is_inherited {
            mem::forget(Arc::clone(self));
        }
        is_inherited
    }
}
