//! Large folios: pages that one request filled are one folio, as far as they lie in one piece,
//! until somebody wants one of them alone.
//!
//! Each page keeps its slot, its mark and its place in the policy (`folio-frames/src/parts.rs`), so
//! a lookup, a read without a reference and a page handle are what they are for a page of its own.
//! Who holds a range holds it by one reference.
//!
//! | who | does |
//! | --- | --- |
//! | a run that is filled | publishes its pages as folios of 16 to 64 KiB, as they lie |
//! | who holds a range | takes a reference, and as many of the pages behind as their slots say |
//! | reclaim | frees all of it, or, if some pages are hot, splits it first |
//! | migration, offline | split it first |
//! | a writer | splits it; if it is held, puts a copy of his page in its place |
//! | a cut, a hole | split it at their edges; if it is held, their pages leave it |
//!
//! A page that left while others held the folio stays in it, unused, until they have gone and
//! somebody splits it.

use std::ops::Range;

use folio_frames::{FRAME_SIZE, Order, Peek, Pfn, PfnRange};
use folio_ref::Scheme;
use smallvec::SmallVec;

use crate::memory::frames_view;
use crate::read::prefetch;
use crate::state::frames::{FolioRef, FrozenFolio, FrozenSlot, LockedSlot};
use crate::state::mapping::Mapping;
use crate::state::units::{Found, split_owner_data};

/// Smaller folios are not worth their splitting.
const LEAST: Order = match Order::new(2) {
    Some(order) => order,
    None => unreachable!(),
};

/// 64 KiB: larger ones save little more (`folio bench range`), and pin more for who wants a part.
const MOST: Order = match Order::new(4) {
    Some(order) => order,
    None => unreachable!(),
};

/// Claims of a folio's slots, in the order of its frames.
type Parts<'m, S> = SmallVec<[Option<LockedSlot<'m, S>>; 1 << MOST.as_u8()]>;

/// Opens the pages of a run that are there, as few folios, each of neighbours. A reference to the
/// first page, if it is there. No claim is left.
pub(crate) fn publish_as_folios<S: Scheme>(
    locked_slots: &mut [Option<FrozenSlot<'_, S>>],
) -> Option<FolioRef<S>> {
    let mut first = None;
    let mut begins = 0;
    while begins < locked_slots.len() {
        let order = FrozenSlot::largest_as_one(
            locked_slots[begins..].iter().map_while(Option::as_ref),
            MOST,
        );
        let n = if order < LEAST { 1 } else { order.frames() as usize };
        let folio = match &mut locked_slots[begins..begins + n] {
            [locked] => locked.take().and_then(|locked| {
                if begins == 0 {
                    let zone = locked.folio().zone();
                    return Some(locked.publish_and_get(zone));
                }
                locked.publish();
                None
            }),
            several => Some(FrozenSlot::publish_as_one(several)),
        };
        if begins == 0 {
            first = folio;
        }
        begins += n;
    }
    first
}

/// A page that was found, with as many of the pages behind it as are wanted, lie in its folio,
/// and wholly in the file: the folio, and which of its bytes, from the page on.
pub(crate) fn extend_over_folio<S: Scheme>(
    mapping: &Mapping<S>,
    offset: u64,
    wanted: usize,
    (folio, range): (FolioRef<S>, Range<usize>),
) -> (FolioRef<S>, Range<usize>) {
    if range.len() >= wanted || range.end < FRAME_SIZE {
        return (folio, range);
    }
    let behind = folio.frames_behind();
    if behind == 0 {
        return (folio, range);
    }
    let (truncate_seq, len) = (mapping.truncate_seq(), mapping.len());
    let page = offset / FRAME_SIZE as u64;
    let in_file = (len / FRAME_SIZE as u64).saturating_sub(page + 1);
    let more = (wanted - range.len()).div_ceil(FRAME_SIZE) as u64;
    let most = more.min(in_file).min(u64::from(behind)) as u32;
    let frame = folio.frame_pfn().as_u64();
    // The folio is held: it is not split, and its bytes do not change. So a page whose slot has
    // its frame is what the frame says.
    let is_there = |&n: &u32| {
        let slot = u32::try_from(page + u64::from(n)).ok().and_then(|page| mapping.index.get(page));
        slot.and_then(|slot| slot.pfn(mapping.zone)) == Some(Pfn::new(frame + u64::from(n)))
    };
    let there = (1..=most).take_while(is_there).count() as u32;
    if !mapping.is_untruncated(len, truncate_seq) {
        return (folio, range);
    }
    if let Some(n) = folio.set_referenced_behind(there) {
        prefetch::read_ahead_of(mapping, page as u32 + n);
    }
    (0..there).for_each(|_| mapping.shared.counters.hit());
    let end = range.end + (there as usize * FRAME_SIZE).min(wanted - range.len());
    (folio, range.start..end)
}

/// For who may hold a page for long, and no other: whether what he found is a part of a large
/// folio, which was split then if nobody else holds it. He looks again, and takes what
/// there is.
pub(crate) fn split_if_subpage<S: Scheme>(
    mapping: &Mapping<S>,
    offset: u64,
    found: &mut Found<S>,
) -> bool {
    // Ours must not be the reference that is in the way.
    let part = found.take_if(|(folio, _)| folio.order() > Order::ZERO);
    part.map(drop).is_some_and(|()| {
        split_around(mapping, (offset / FRAME_SIZE as u64) as u32);
        true
    })
}

/// The large folio that a page is a part of: its head, its order, and its first page.
fn folio_around<S: Scheme>(mapping: &Mapping<S>, page: u32) -> Option<(Pfn, Order, u32)> {
    let locked = mapping.index.get(page)?.try_lock(mapping.zone)?;
    let before = locked.pfn().as_u64() - locked.folio().pfn().as_u64();
    Some((locked.folio().pfn(), locked.subpage_of()?, page - before as u32))
}

/// Cuts the folio that a page is a part of into pages, unless it is held, or somebody is at
/// work on it. Call without a claim.
pub(crate) fn split_around<S: Scheme>(mapping: &Mapping<S>, page: u32) -> bool {
    !mapping.shared.is_inherited()
        && folio_around(mapping, page)
            .is_some_and(|(head, order, first)| split_folio(mapping, head, order, first))
}

/// The same, of the folio that begins at `head`, and begins with page `first`, as somebody
/// found it. Call without a claim.
pub(crate) fn split_folio<S: Scheme>(
    mapping: &Mapping<S>,
    head: Pfn,
    order: Order,
    first: u32,
) -> bool {
    LockedSlot::split(&mut lock_subpages(mapping, head, order, first))
}

/// Claims what can be claimed of the slots of such a folio. Only tried: a claim that is not to
/// be had leaves a reference that is not expected.
fn lock_subpages<S: Scheme>(
    mapping: &Mapping<S>,
    head: Pfn,
    order: Order,
    first: u32,
) -> Parts<'_, S> {
    let parts = (0..order.frames()).map(|n| {
        let slot = mapping.index.get(first.checked_add(n)?)?;
        let frame = Pfn::new(head.as_u64() + u64::from(n));
        let locked =
            (slot.pfn(mapping.zone) == Some(frame)).then(|| slot.try_lock(mapping.zone))??;
        (locked.pfn() == frame
            && locked.subpage_of() == Some(order)
            && locked.folio().pfn() == head)
            .then_some(locked)
    });
    parts.collect()
}

/// Before the pages of a range go: what lies across its edges is split, so that they are not
/// kept by their neighbours.
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

/// Of a large folio that reclaim has chosen a page of: frees all of it, if none of its pages is
/// hot, and it is not more than is wanted, and says how many pages it had. Else splits it.
/// Neither, if it is held. Call without a claim.
pub(crate) fn reclaim_folio<S: Scheme>(
    mapping: &Mapping<S>,
    head: Pfn,
    seen: &Peek,
    most: usize,
) -> Option<usize> {
    let (id, first) = split_owner_data(seen.owner_data);
    if id != mapping.id {
        return None;
    }
    let mut locked_slots = lock_subpages(mapping, head, seen.order, first);
    let end = Pfn::new(head.as_u64() + u64::from(seen.order.frames()));
    if locked_slots.len() > most
        || !frames_view::are_cold(&mapping.shared, PfnRange { start: head, end })
    {
        LockedSlot::split(&mut locked_slots);
        return None;
    }
    let pages: SmallVec<[_; 1 << MOST.as_u8()]> = locked_slots
        .iter()
        .flatten()
        .map(|locked| (locked.pfn(), locked.folio().owner_data()))
        .collect();
    let _freed = FreedAfter(Some(LockedSlot::remove_all(&mut locked_slots)?));
    frames_view::evicted_with(&mapping.shared, &pages);
    Some(pages.len())
}

/// A folio that nobody can have yet, freed even if somebody's policy panics.
struct FreedAfter<S: Scheme>(Option<FrozenFolio<S>>);

impl<S: Scheme> Drop for FreedAfter<S> {
    fn drop(&mut self) {
        self.0.take().into_iter().for_each(FrozenFolio::free);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use crate::read::walk;
    use crate::testing::Memory;
    use crate::{Cache, File};

    use super::*;

    const PAGE: u64 = FRAME_SIZE as u64;

    /// A file of which all was read by one request.
    fn read(bytes: usize) -> File {
        let cache: Cache = Cache::new(4 << 20).unwrap();
        let file = cache.open_backing(Arc::new(Memory::new(&vec![7; bytes]))).unwrap();
        assert_eq!(file.read_at(&mut vec![0; bytes], 0).unwrap(), bytes);
        file
    }

    /// What one reference holds of some bytes.
    fn held(file: &File, offset: u64, wanted: usize) -> Range<usize> {
        let found = walk::next_page(&file.mapping, offset, wanted).unwrap().unwrap();
        extend_over_folio(&file.mapping, offset, wanted, found).1
    }

    #[test]
    fn one_reference_holds_what_is_wanted_of_its_folio_and_of_the_file() {
        let file = read(15 * FRAME_SIZE + 50);
        assert_eq!(held(&file, PAGE + 7, 5 * FRAME_SIZE), 7..7 + 5 * FRAME_SIZE);
        assert_eq!(held(&file, PAGE + 7, FRAME_SIZE - 7), 7..FRAME_SIZE);
        assert_eq!(held(&file, PAGE + 7, FRAME_SIZE - 6), 7..FRAME_SIZE + 1);
        assert_eq!(held(&file, 3 * PAGE, 100), 0..100);
        // The last page is no whole one.
        assert_eq!(held(&file, 0, 16 * FRAME_SIZE), 0..15 * FRAME_SIZE);
        assert_eq!(held(&file, 15 * PAGE, 10), 0..10);
        assert_eq!(held(&file, 15 * PAGE, 2 * FRAME_SIZE), 0..50);
    }

    #[test]
    fn a_folio_ends_where_it_does_and_where_a_page_has_left_it() {
        let file = read(20 * FRAME_SIZE);
        assert_eq!(held(&file, 14 * PAGE, 6 * FRAME_SIZE), 0..2 * FRAME_SIZE);
        // Of 16 KiB, the smallest.
        assert_eq!(held(&file, 16 * PAGE, 6 * FRAME_SIZE), 0..4 * FRAME_SIZE);
        let holder = file.range(0, 16 * FRAME_SIZE).unwrap();
        file.write_at(&[9], 5 * PAGE).unwrap();
        assert_eq!(held(&file, PAGE, 10 * FRAME_SIZE), 0..4 * FRAME_SIZE);
        assert_eq!(held(&file, 6 * PAGE, 10 * FRAME_SIZE), 0..10 * FRAME_SIZE);
        drop(holder);
    }
}
