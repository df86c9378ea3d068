//! Short handles: a handle pins at most four times what it shows, or two pages.
//!
//! A large folio is pinned as a whole, even by one byte of it. If that is too much, the handle gets
//! copies of its pages, and the folio is unpinned. Copies are in no index: the last handle frees
//! them. A handle keeps its folios if no frame is free for a copy, and in a child process, which
//! allocates nothing.

use std::ops::Range;

use folio_frames::{FRAME_SIZE, Pfn};
use folio_ref::Scheme;
use smallvec::SmallVec;

use crate::memory::alloc;
use crate::memory::large_folio::FreeOnDrop;
use crate::state::frames::{Adjacent, FolioRef, FrozenFolio};
use crate::state::handle::PageHandle;
use crate::state::mapping::Mapping;
use crate::state::stats::Count;
use crate::state::units::CACHED;

/// A handle pins at most this number of times what it shows.
const MAX_FACTOR: usize = 4;

/// The number of bytes that every handle may pin.
const MIN_BYTES: usize = 2 * FRAME_SIZE;

/// Handles of more pages are rarely copied: two folios of 64 KiB at their edges are not too much.
const MAX_COPIES: usize = 16;

type Copies<S> = SmallVec<[FrozenFolio<S>; MAX_COPIES]>;

/// The bytes that a handle pins while it is collected.
#[derive(Clone, Copy, Default)]
pub(crate) struct PinnedCount {
    bytes: usize,
    last: Option<Pfn>,
}

impl PinnedCount {
    /// Returns the bytes with a folio added, unless it is the last one again.
    pub(crate) fn with<S: Scheme>(self, folio: &FolioRef<S>) -> Self {
        let head = Some(folio.pfn());
        if self.last == head {
            return self;
        }
        Self { bytes: self.bytes + folio.order().bytes(), last: head }
    }

    /// Returns the number of bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Returns `true` if a handle that shows so many bytes should not pin these.
    pub(crate) fn is_too_much(&self, shown: usize) -> bool {
        self.bytes > MIN_BYTES.max(shown.saturating_mul(MAX_FACTOR))
    }
}

/// Returns a handle of some bytes of a page. It pins a copy of the page if the folio is too large.
pub(crate) fn page_handle<S: Scheme>(
    mapping: &Mapping<S>,
    offset: u64,
    folio: FolioRef<S>,
    range: &Range<usize>,
) -> PageHandle<S> {
    let copy = PinnedCount::default()
        .with(&folio)
        .is_too_much(range.len())
        .then(|| copy_pages(mapping, offset, 1, [&folio.frame()[..]]))
        .flatten()
        .and_then(|mut copies| copies.pop())
        .map(FrozenFolio::init);
    PageHandle::new(copy.unwrap_or(folio), range.start, range.end)
}

/// Replaces pieces that begin with the page around an offset by copies. Without free frames, they
/// stay. Allocates no more than the frames.
#[cold]
pub(crate) fn copy_pieces<S: Scheme>(
    mapping: &Mapping<S>,
    offset: u64,
    pieces: &mut Vec<Adjacent<S>>,
) {
    let count = pieces.iter().map(|piece| piece.frames() as usize).sum();
    let pages = pieces.iter().flat_map(|piece| piece.as_slice().chunks(FRAME_SIZE));
    let Some(copies) = copy_pages(mapping, offset, count, pages) else { return };
    pieces.clear();
    for copy in copies.into_iter().map(FrozenFolio::init) {
        let apart = match pieces.last_mut() {
            Some(last) => last.join(copy).err(),
            None => Some(copy),
        };
        pieces.extend(apart.map(Adjacent::from));
    }
}

/// Returns copies of `count` pages, of which the first is around an offset. Never waits.
fn copy_pages<'p, S: Scheme>(
    mapping: &Mapping<S>,
    offset: u64,
    count: usize,
    pages: impl IntoIterator<Item = &'p [u8]>,
) -> Option<Copies<S>> {
    if mapping.shared.is_inherited() {
        return None;
    }
    let mut copies = FreeOnDrop(Copies::<S>::new());
    while copies.0.len() < count {
        // It may ask the policy, which may panic.
        copies.0.push(alloc::allocate_at_once(&mapping.shared)?);
    }
    let mut copies = copies.take();
    let first = (offset / FRAME_SIZE as u64) as u32;
    for ((page, bytes), copy) in (first..).zip(pages).zip(&mut copies) {
        copy.as_mut_slice().copy_from_slice(bytes);
        copy.set_owner(CACHED, mapping.owner_data(page));
    }
    mapping.count(Count::CopiedBytes, (count * FRAME_SIZE) as u64);
    Some(copies)
}
