//! An extent: neighbouring pages that one request fills.
//!
//! Each page of the extent has its frozen folio in its slot, so an extent is a set of page locks. A
//! thread that misses one of its pages sleeps on that page. An extent that cannot be filled is
//! dropped, and with it all its page locks: the slots are empty again, the sleepers look again, and
//! each asks for its own page alone. So an error reaches only the reader that asked for the page
//! with the error.
//!
//! An extent holds page locks, so its folios are allocated before the first is installed.

use std::io::{self, IoSliceMut};
use std::mem;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use folio_frames::{FRAME_SIZE, joined_mut};
use folio_ref::Scheme;
use smallvec::SmallVec;

use crate::memory::frames_view;
use crate::memory::large_folio::{publish_as_folios, publish_unpinned};
use crate::memory::room;
use crate::policy::Advice;
use crate::rt::in_flight::InFlight;
use crate::rt::io_pool::{self, Pages};
use crate::rt::shim::fence;
use crate::state::frames::{FolioRef, FrozenFolio, FrozenSlot};
use crate::state::leaves::LEAF;
use crate::state::mapping::Mapping;
use crate::state::stats::Count;
use crate::state::units::CACHED;

/// One value for each page of a request: inline for one page, as most misses are.
type PerPage<T> = SmallVec<[T; 1]>;

/// The page locks of neighbouring pages, all frozen.
pub(crate) struct Extent<'m, S: Scheme> {
    mapping: &'m Mapping<S>,
    first: u32,
    locked_slots: PerPage<FrozenSlot<'m, S>>,
    /// That of the reader that the pages come for.
    advice: Advice,
    /// The same number of pages. Dropped after the page locks.
    in_flight: InFlight<'m, Mapping<S>>,
}

impl<'m, S: Scheme> Extent<'m, S> {
    /// Installs folios from page `first` on, and stops at the first slot that is not empty. Frees
    /// the folios that are left over. Returns the extent, which may be empty.
    pub(crate) fn lock<F>(mapping: &'m Mapping<S>, first: u32, folios: F) -> Self
    where
        F: IntoIterator<Item = FrozenFolio<S>>,
        F::IntoIter: ExactSizeIterator,
    {
        let mut folios = folios.into_iter();
        let mut in_flight = InFlight::begin_fill(mapping, folios.len());
        let mut locked_slots = PerPage::with_capacity(folios.len());
        // Page numbers end at 16 TiB, and so does the extent.
        for (page, mut folio) in (first..=u32::MAX).zip(&mut folios) {
            folio.set_owner(CACHED, mapping.owner_data(page));
            // There may be no room for the slot of the page: the extent ends here.
            let installed = match room::try_make_slot(mapping, page) {
                Ok(slot) => slot.install(folio),
                Err(_) => Err(folio),
            };
            match installed {
                Ok(locked) => locked_slots.push(locked),
                Err(folio) => {
                    folio.free();
                    break;
                }
            }
        }
        folios.for_each(FrozenFolio::free);
        in_flight.set(locked_slots.len());
        Self { mapping, first, locked_slots, advice: Advice::Normal, in_flight }
    }

    pub(crate) fn len(&self) -> usize {
        self.locked_slots.len()
    }

    /// Returns the offset in the file at which the extent begins.
    pub(crate) fn offset(&self) -> u64 {
        u64::from(self.first) * FRAME_SIZE as u64
    }

    /// Drops the page locks of all pages except the first. Those pages are missed again.
    pub(crate) fn keep_first(&mut self) {
        let len = self.len();
        self.locked_slots.truncate(1);
        self.in_flight.set(self.locked_slots.len());
        give_back(self.mapping, self.first, len);
    }

    /// Drops all page locks. The pages are missed again.
    pub(crate) fn abandon(self) {
        let (mapping, first, len) = (self.mapping, self.first, self.len());
        drop(self);
        give_back(mapping, first, len);
    }

    /// Returns the buffers for one request, one for each contiguous piece of memory. Call directly
    /// before the request.
    pub(crate) fn buffers(&mut self) -> impl Iterator<Item = IoSliceMut<'_>> {
        // SeqCst, Dekker with the fences in set_len: either the truncation sees the page locks and
        // waits, or what follows here, the read of the file and the load of the length, comes after
        // the truncation.
        fence(Ordering::SeqCst);
        self.mapping.count(Count::Misses, self.locked_slots.len() as u64);
        self.mapping.count(Count::Requests, 1);
        joined_mut(self.locked_slots.iter_mut().map(FrozenSlot::folio_mut)).map(IoSliceMut::new)
    }

    /// Has the backing fill the extent in one request. Returns the number of bytes filled, which is
    /// cut if it exceeds the buffers.
    pub(crate) fn fill(&mut self) -> io::Result<usize> {
        let (backing, offset) = (self.mapping.backing(), self.offset());
        let read = backing.fill(offset, &mut self.buffers().collect::<PerPage<_>>())?;
        Ok(read.min(self.len() * FRAME_SIZE))
    }

    /// Publishes the pages that are filled for their reader, as far as the file goes. The others
    /// are missed again. Returns a reference to the first page if it was published.
    pub(crate) fn publish(self, read: usize) -> Option<FolioRef<S>> {
        let wanted = read.min(self.locked_slots.len() * FRAME_SIZE);
        self.mapping.count(Count::WantedBytes, wanted as u64);
        let zone = self.mapping.zone();
        self.publish_by(read, |pages| match pages {
            [only] => only.take().map(|locked| locked.publish_and_get(zone)),
            several => publish_as_folios(several),
        })
    }

    /// Publishes the pages like [`publish`](Self::publish). Keeps no reference, by which the first
    /// folio would be pinned until the policy knows all pages.
    fn publish_unused(self, read: usize) {
        self.publish_by(read, publish_unpinned);
    }

    fn publish_by<R>(
        self,
        read: usize,
        publish: impl FnOnce(&mut [Option<FrozenSlot<'_, S>>]) -> R,
    ) -> R {
        let read = read.min(self.locked_slots.len() * FRAME_SIZE);
        self.mapping.count(Count::FilledBytes, read as u64);
        // After the read: see `buffers`. `expected` is what the file has. The backing may have
        // less, if the rest was written and is dirty elsewhere. If `backed` is too large, the
        // refresh that follows corrects it. Acquire: pairs with Release where it becomes less,
        // after a truncation: a thread that takes a short page for a whole one sees that truncation
        // counted.
        let from_here =
            |len: u64| usize::try_from(len.saturating_sub(self.offset())).unwrap_or(usize::MAX);
        let expected = from_here(self.mapping.len());
        let backed = from_here(self.mapping.backed.load(Ordering::Acquire));
        let mut published = PerPage::with_capacity(self.locked_slots.len());
        let mut ready = PerPage::with_capacity(self.locked_slots.len());
        for (n, mut locked) in self.locked_slots.into_iter().enumerate() {
            let begins = n * FRAME_SIZE;
            let has = read.saturating_sub(begins).min(FRAME_SIZE);
            let should_have = expected.saturating_sub(begins).min(FRAME_SIZE);
            if should_have == 0 || has < should_have.min(backed.saturating_sub(begins)) {
                // Dropping the page lock empties the slot.
                ready.push(None);
                continue;
            }
            if has < FRAME_SIZE {
                locked.folio_mut().as_mut_slice()[has..].fill(0);
            }
            published.push((locked.folio().pfn(), locked.folio().owner_data()));
            ready.push(Some(locked));
        }
        let len = ready.len();
        // Before they can leave.
        self.mapping.came(published.len());
        let result = publish(&mut ready);
        if published.len() < len {
            give_back(self.mapping, self.first, len);
        }
        match self.advice {
            Advice::Once => {
                frames_view::insert_advised(&self.mapping.shared, &published, self.advice);
            }
            _ => frames_view::insert_all(&self.mapping.shared, &published),
        }
        result
    }

    /// Notes in the pages from the `n`-th on that they were read ahead, and which one is the
    /// readahead marker.
    pub(crate) fn set_readahead(&mut self, n: usize, marker: Option<i64>) {
        for (page, locked) in (i64::from(self.first)..).zip(&mut self.locked_slots).skip(n) {
            locked.folio_mut().set_readahead(marker == Some(page));
        }
    }

    /// Sets the advice of the reader that the pages come for.
    pub(crate) fn set_advice(&mut self, advice: Advice) {
        self.advice = advice;
    }

    /// Keeps the page locks without the borrow. Returns an extent that another thread can fill.
    pub(crate) fn suspend(self, mapping: Arc<Mapping<S>>) -> SuspendedExtent<S> {
        let in_file = self.in_flight.suspend();
        let folios = self.locked_slots.into_iter().map(FrozenSlot::suspend).collect();
        SuspendedExtent { mapping, first: self.first, folios, in_file }
    }
}

/// An extent on its way to the thread that fills it. Dropping it empties its slots.
pub(crate) struct SuspendedExtent<S: Scheme> {
    mapping: Arc<Mapping<S>>,
    first: u32,
    /// **Invariant:** the suspended page locks of the pages from `first` on.
    folios: Vec<FrozenFolio<S>>,
    /// The file counts them as in flight.
    in_file: bool,
}

impl<S: Scheme> SuspendedExtent<S> {
    fn resume(&mut self) -> Extent<'_, S> {
        let folios = mem::take(&mut self.folios);
        let locked_slots = (self.first..=u32::MAX).zip(folios).map(|(page, folio)| {
            let slot = self.mapping.index.get(page).expect("the index keeps a locked slot");
            slot.resume(folio).expect("a suspended page lock stays on its slot")
        });
        let locked_slots: PerPage<_> = locked_slots.collect();
        let in_flight = InFlight::resume(&*self.mapping, locked_slots.len(), self.in_file);
        let (mapping, first, advice) = (&*self.mapping, self.first, Advice::Normal);
        Extent { mapping, first, locked_slots, advice, in_flight }
    }
}

impl<S: Scheme> io_pool::Extent for SuspendedExtent<S> {
    fn pages(&self) -> Pages {
        let first = u64::from(self.first);
        Pages { mapping: self.mapping.id, pages: first..first + self.folios.len() as u64 }
    }

    fn fill(mut self: Box<Self>) {
        let mut extent = self.resume();
        let begun = Instant::now();
        let filled = extent.fill();
        extent.mapping.readahead.answered_in(begun.elapsed(), extent.len());
        match filled {
            Ok(read) => extent.publish_unused(read),
            Err(_) => extent.abandon(),
        }
    }
}

impl<S: Scheme> Drop for SuspendedExtent<S> {
    fn drop(&mut self) {
        self.resume().abandon();
    }
}

/// Closes the leaves of pages that were not filled, unless they have others.
fn give_back<S: Scheme>(mapping: &Mapping<S>, first: u32, len: usize) {
    if len > 0 {
        let pages = (first..=u32::MAX).take(len);
        // One page of each leaf, and the last.
        pages
            .clone()
            .step_by(LEAF)
            .chain(pages.last())
            .for_each(|page| mapping.give_back_leaf(page));
    }
}
