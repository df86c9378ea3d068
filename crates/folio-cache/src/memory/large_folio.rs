//! Large folios: pages that one request filled are one folio, as far as their frames are
//! contiguous, until a thread needs one of them alone.
//!
//! Each page keeps its slot, its referenced bit and its place in the policy
//! (`folio-frames/src/index/subpages.rs`). So a lookup, an optimistic read and a page handle work
//! as for a single page. A range handle pins the folio by one reference.
//!
//! | actor | action |
//! | --- | --- |
//! | an extent that is filled | publishes its pages as folios of 16 to 64 KiB, as they lie |
//! | a range handle | takes a reference, and as many of the pages behind as their slots say |
//! | reclaim | frees all of it, or, if some pages are hot, splits it first |
//! | migration, offline | split it first |
//! | a writer | splits it; if it is pinned, puts a copy of its page in the page's place |
//! | truncation, a hole | split it at their edges; if it is pinned, their pages leave it |
//!
//! A page that left while the folio was pinned stays in it, unused, until the folio is unpinned and
//! split.

use std::mem;
use std::ops::Range;

use folio_frames::{FRAME_SIZE, Order, Peek, Pfn};
use folio_ref::{Scheme, Snapshot};
use smallvec::SmallVec;

use crate::memory::frames_view;
use crate::rt::shim::yield_now;
use crate::state::frames::{FolioRef, FrozenFolio, FrozenSlot, LockedSlot};
use crate::state::mapping::Mapping;
use crate::state::units::{Found, split_owner_data};

/// Splitting costs more than a smaller folio saves.
const MIN_FOLIO_ORDER: Order = match Order::new(2) {
    Some(order) => order,
    None => unreachable!(),
};

/// 64 KiB: larger ones save little more (`folio bench range`), and pin more for a subpage.
const MAX_FOLIO_ORDER: Order = match Order::new(4) {
    Some(order) => order,
    None => unreachable!(),
};

/// The maximum number of tries to split a folio of which another thread has a page lock.
const MAX_TRIES: u32 = 16;

/// The page locks of a folio, in the order of its frames.
type LockedSubpages<'m, S> = SmallVec<[Option<LockedSlot<'m, S>>; 1 << MAX_FOLIO_ORDER.as_u8()]>;

/// Publishes those pages of an extent that are there, as few folios, each of neighbours. Returns a
/// reference to the first page if it is there. No page stays locked.
pub(crate) fn publish_as_folios<S: Scheme>(
    locked_slots: &mut [Option<FrozenSlot<'_, S>>],
) -> Option<FolioRef<S>> {
    let mut first = None;
    for_each_folio(locked_slots, |begins, pages| {
        if begins == 0 {
            first = publish_and_get(pages);
        } else {
            publish(pages);
        }
    });
    first
}

/// Publishes those pages of an extent that are there as [`publish_as_folios`] does, for readers
/// that come later: no folio is pinned by that.
pub(crate) fn publish_unpinned<S: Scheme>(locked_slots: &mut [Option<FrozenSlot<'_, S>>]) {
    for_each_folio(locked_slots, |_, pages| publish(pages));
}

/// Publishes those pages of an extent that are there as [`publish_as_folios`] does. Calls `each`
/// with the number of the first page of each folio and a reference to it. No page stays locked.
pub(crate) fn publish_each<S: Scheme>(
    locked_slots: &mut [Option<FrozenSlot<'_, S>>],
    mut each: impl FnMut(usize, FolioRef<S>),
) {
    for_each_folio(locked_slots, |begins, pages| {
        if let Some(folio) = publish_and_get(pages) {
            each(begins, folio);
        }
    });
}

/// Calls `each` with the pages of an extent that become one folio, and the number of the first. A
/// page that is not there, or becomes a folio alone, comes alone.
fn for_each_folio<'m, S: Scheme>(
    locked_slots: &mut [Option<FrozenSlot<'m, S>>],
    mut each: impl FnMut(usize, &mut [Option<FrozenSlot<'m, S>>]),
) {
    let mut begins = 0;
    while begins < locked_slots.len() {
        let order = FrozenSlot::largest_as_one(
            locked_slots[begins..].iter().map_while(Option::as_ref),
            MAX_FOLIO_ORDER,
        );
        let n = if order < MIN_FOLIO_ORDER { 1 } else { order.frames() as usize };
        each(begins, &mut locked_slots[begins..begins + n]);
        begins += n;
    }
}

/// Publishes the pages of one folio without a reference beside those of the slots.
fn publish<S: Scheme>(pages: &mut [Option<FrozenSlot<'_, S>>]) {
    match pages {
        [locked] => _ = locked.take().map(FrozenSlot::publish),
        several => FrozenSlot::publish_as_one_unpinned(several),
    }
}

/// Publishes the pages of one folio. Returns a reference to the first page if it is there.
fn publish_and_get<S: Scheme>(pages: &mut [Option<FrozenSlot<'_, S>>]) -> Option<FolioRef<S>> {
    match pages {
        [locked] => locked.take().map(|locked| {
            let zone = locked.folio().zone();
            locked.publish_and_get(zone)
        }),
        several => Some(FrozenSlot::publish_as_one(several)),
    }
}

/// Splits the large folio of a page before a long-lived single-page handle is handed out. Returns
/// `true` if the page belonged to a large folio, split unless others pin it: look the page up
/// again, and take what is there.
pub(crate) fn split_if_subpage<S: Scheme>(
    mapping: &Mapping<S>,
    offset: u64,
    found: &mut Found<S>,
) -> bool {
    // The reference of the caller must not keep the folio from being split.
    let part = found.take_if(|(folio, _)| folio.order() > Order::ZERO);
    part.map(drop).is_some_and(|()| {
        let page = (offset / FRAME_SIZE as u64) as u32;
        mapping.take_back_use(page);
        let mut tries = 1;
        while !split_around(mapping, page) && tries < MAX_TRIES && is_locked(mapping, page) {
            tries += 1;
            yield_now();
        }
        true
    })
}

/// Returns `true` if a page is a subpage of a large folio that no handle pins: a thread that evicts
/// or moves pages keeps it from being split, for a moment. Racy.
fn is_locked<S: Scheme>(mapping: &Mapping<S>, page: u32) -> bool {
    let pfn = mapping.index.get(page).and_then(|slot| slot.pfn(mapping.zone()));
    let seen = pfn.and_then(|pfn| mapping.zone().peek_around(pfn));
    seen.is_some_and(|(_, head)| {
        let frames = head.order.frames();
        let is_pinned = matches!(head.snapshot, Snapshot::Live(n) if n > frames);
        frames > 1 && !is_pinned
    })
}

/// Returns the large folio that a page is a subpage of: its head, its order, and its first page.
fn folio_around<S: Scheme>(mapping: &Mapping<S>, page: u32) -> Option<(Pfn, Order, u32)> {
    let locked = mapping.index.get(page)?.try_lock(mapping.zone())?;
    let before = locked.pfn().as_u64() - locked.folio().pfn().as_u64();
    Some((locked.folio().pfn(), locked.subpage_of()?, page - before as u32))
}

/// Splits the folio that a page is a subpage of into pages. Returns `false` if the folio is pinned,
/// locked, or not a large one. Call with no page locked.
pub(crate) fn split_around<S: Scheme>(mapping: &Mapping<S>, page: u32) -> bool {
    !mapping.shared.is_inherited()
        && folio_around(mapping, page)
            .is_some_and(|(head, order, first)| split_folio(mapping, head, order, first))
}

/// Splits the folio that was seen to begin at `head` with page `first`. Returns `false` if it is
/// pinned, locked, or another one by now. Call with no page locked.
pub(crate) fn split_folio<S: Scheme>(
    mapping: &Mapping<S>,
    head: Pfn,
    order: Order,
    first: u32,
) -> bool {
    LockedSlot::split(&mut lock_subpages(mapping, head, order, first))
}

/// Locks the slots of such a folio, as far as that needs no wait. A slot that is locked by another
/// thread leaves a reference that is not expected, so the folio is not split.
fn lock_subpages<S: Scheme>(
    mapping: &Mapping<S>,
    head: Pfn,
    order: Order,
    first: u32,
) -> LockedSubpages<'_, S> {
    let subpages = (0..order.frames()).map(|n| {
        let slot = mapping.index.get(first.checked_add(n)?)?;
        let frame = Pfn::new(head.as_u64() + u64::from(n));
        let locked =
            (slot.pfn(mapping.zone()) == Some(frame)).then(|| slot.try_lock(mapping.zone()))??;
        (locked.pfn() == frame
            && locked.subpage_of() == Some(order)
            && locked.folio().pfn() == head)
            .then_some(locked)
    });
    subpages.collect()
}

/// Splits the folios across the edges of a range before its pages go, so that neighbours do not
/// keep the pages.
pub(crate) fn split_edges<S: Scheme>(mapping: &Mapping<S>, pages: &Range<u64>) {
    for page in [pages.start, pages.end] {
        if let Ok(page) = u32::try_from(page)
            && let Some((head, order, first)) = folio_around(mapping, page)
            && first < page
        {
            split_folio(mapping, head, order, first);
        }
    }
}

/// Removes a large folio of which reclaim has chosen a page from its slots, if none of its pages is
/// hot and there are at most `max`. Returns the folio, and adds its pages to `evicted`, each with
/// its owner data. Otherwise splits it, and returns `None`. Does neither if the folio is pinned.
/// `is_cold` says if the policy agrees. Call with no page locked.
pub(super) fn reclaim_folio<S: Scheme>(
    mapping: &Mapping<S>,
    head: Pfn,
    seen: &Peek,
    max: usize,
    is_cold: impl FnOnce() -> bool,
    evicted: &mut Vec<(Pfn, u64)>,
) -> Option<FrozenFolio<S>> {
    let (id, first) = split_owner_data(seen.owner_data);
    if id != mapping.id {
        return None;
    }
    let mut locked_slots = lock_subpages(mapping, head, seen.order, first);
    let frames = frames_view::frames_of(head, seen.order);
    if locked_slots.len() > max || frames_view::is_any_referenced(mapping, frames) || !is_cold() {
        LockedSlot::split(&mut locked_slots);
        return None;
    }
    let pages = evicted.len();
    let locked = locked_slots.iter().flatten();
    evicted.extend(locked.map(|locked| (locked.pfn(), locked.folio().owner_data())));
    let Some(folio) = LockedSlot::remove_all(&mut locked_slots) else {
        evicted.truncate(pages);
        return None;
    };
    mapping.left(evicted.len() - pages);
    Some(folio)
}

/// Folios that no other thread can have, freed even if the policy panics.
pub(crate) struct FreeOnDrop<S: Scheme, C = Option<FrozenFolio<S>>>(pub(crate) C)
where
    C: Default + IntoIterator<Item = FrozenFolio<S>>;

impl<S: Scheme, C: Default + IntoIterator<Item = FrozenFolio<S>>> FreeOnDrop<S, C> {
    /// Returns the folios.
    pub(crate) fn take(&mut self) -> C {
        mem::take(&mut self.0)
    }
}

impl<S: Scheme, C: Default + IntoIterator<Item = FrozenFolio<S>>> Drop for FreeOnDrop<S, C> {
    fn drop(&mut self) {
        self.take().into_iter().for_each(FrozenFolio::free);
    }
}
