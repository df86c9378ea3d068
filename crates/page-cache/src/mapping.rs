//! A mapping: one file's pages, however many times it is open.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use page_frames::{FRAME_SIZE, UserSpace, Zone};
use page_ref::Scheme;
use parking_lot::Mutex;

use crate::backing::{Backing, Identity, Version};
use crate::cache::Inner;
use crate::index::Index;

/// The pages of one backing in one cache.
///
/// | field | who writes it |
/// | --- | --- |
/// | `len`, `cuts` | under the lock `version`, by `truncate.rs`; read anywhere |
/// | `version` | under its lock |
/// | `index` | by the rules of slots |
///
/// Lock order: `version`, then claims on slots. **Invariant:** nobody takes `version`, or waits for a slot,
/// while holding a claim.
pub(crate) struct Mapping<S: Scheme> {
    pub(crate) index: Index<UserSpace<S>>,
    /// The zone of `inner`, without the way through it: a hit needs no more than this line.
    pub(crate) zone: &'static Zone<UserSpace<S>>,
    /// The file's length as far as it was looked at. **Invariant:** no page that begins at or past it stays in
    /// the index, and what is cached of the page it lies in ends there with zeroes, or reaches past it.
    pub(crate) len: AtomicU64,
    /// Counts how often the length was cut. A reader whose look at the length and lookup of the page have the
    /// same count around them saw a page that was not read again after a cut, with zeroes where its length
    /// had bytes.
    pub(crate) cuts: AtomicU64,
    pub(crate) id: u32,
    identity: Identity,
    pub(crate) backing: Arc<dyn Backing>,
    pub(crate) version: Mutex<Version>,
    pub(crate) inner: Arc<Inner<S>>,
}

impl<S: Scheme> Mapping<S> {
    /// The mapping of a backing: its identity's, made now or shared.
    pub(crate) fn of(inner: &Arc<Inner<S>>, backing: Arc<dyn Backing>) -> io::Result<Arc<Self>> {
        let identity = backing.identity();
        let version = backing.version()?;
        let (mapping, shared) = inner.registry.get_or_insert(identity, |id| Self {
            index: Index::new(),
            zone: inner.zone(),
            len: AtomicU64::new(version.len),
            cuts: AtomicU64::new(0),
            id,
            identity,
            backing,
            version: Mutex::new(version),
            inner: Arc::clone(inner),
        });
        if shared {
            mapping.revalidate()?;
        }
        Ok(mapping)
    }

    /// Acquire: pairs with Release in `set_len`. A reader that sees a larger length sees the slot of the
    /// old last page emptied before it.
    #[inline(always)]
    pub(crate) fn len(&self) -> u64 {
        self.len.load(Ordering::Acquire)
    }

    /// Acquire: pairs with Release in `set_len`. Who sees a cut's count sees its length; and who sees a page that
    /// was filled after the cut, which took the slot's emptying from it, sees its count.
    #[inline(always)]
    pub(crate) fn cuts(&self) -> u64 {
        self.cuts.load(Ordering::Acquire)
    }

    /// What is noted in the descriptor of a page's folio, for those who come by frame number.
    pub(crate) fn private(&self, page: u32) -> u64 {
        u64::from(self.id) << 32 | u64::from(page)
    }
}

impl<S: Scheme> Drop for Mapping<S> {
    fn drop(&mut self) {
        // Nobody else is here: whoever visits a slot, by name or by frame number, holds the mapping.
        self.drop_pages_from(0);
        self.inner.registry.remove(self.identity, self.id);
    }
}

/// The page that an offset lies in.
///
/// # Errors
///
/// `FileTooLarge` from 16 TiB on, where page numbers end.
#[inline]
pub(crate) fn page_of(offset: u64) -> io::Result<u32> {
    u32::try_from(offset / FRAME_SIZE as u64).map_err(|_| {
        let message = format!("offset {offset} lies past 16 TiB, up to which a file can be cached");
        io::Error::new(io::ErrorKind::FileTooLarge, message)
    })
}
