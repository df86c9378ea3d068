//! One piece of memory: the adjacent folios of a range, as `Bytes`.

use std::ops::Range;

use bytes::Bytes;
use folio_frames::FRAME_SIZE;
use folio_ref::Scheme;

use crate::memory::short_handle::PinnedCount;
use crate::state::frames::{Adjacent, FolioRef};
use crate::state::mapping::Mapping;
use crate::state::shown::{Counted, Shown};
use crate::state::stats::Count;

/// The owner of `Bytes`: the folios of one piece.
struct Piece<S: Scheme> {
    folios: Adjacent<S>,
    _counted: Counted,
}

impl<S: Scheme> AsRef<[u8]> for Piece<S> {
    fn as_ref(&self) -> &[u8] {
        self.folios.as_slice()
    }
}

/// Returns a piece that begins with such bytes of a folio.
pub(crate) fn begin<S: Scheme>(folio: FolioRef<S>, range: &Range<usize>) -> Adjacent<S> {
    let mut piece = Adjacent::from(folio);
    piece.shorten(range.end.div_ceil(FRAME_SIZE) as u32);
    piece
}

/// Adds such bytes of a folio to a piece. `Err` returns the folio: it is not adjacent.
pub(crate) fn join<S: Scheme>(
    piece: &mut Adjacent<S>,
    folio: FolioRef<S>,
    range: &Range<usize>,
) -> Result<(), FolioRef<S>> {
    let before = piece.frames();
    piece.join(folio)?;
    piece.shorten(before + range.end.div_ceil(FRAME_SIZE) as u32);
    Ok(())
}

/// Returns some bytes of adjacent folios. They pin the folios, or are a copy if that is too much.
pub(crate) fn bytes_of<S: Scheme>(
    mapping: &Mapping<S>,
    folios: Adjacent<S>,
    range: Range<usize>,
    pinned: &PinnedCount,
) -> Bytes {
    if pinned.is_too_much(range.len()) {
        mapping.count(Count::CopiedBytes, range.len() as u64);
        return Bytes::copy_from_slice(&folios.as_slice()[range]);
    }
    pin(folios, range, mapping.shared.shown, pinned.bytes())
}

/// Returns some bytes of adjacent folios, which they pin: so many bytes in all.
pub(crate) fn pin<S: Scheme>(
    folios: Adjacent<S>,
    range: Range<usize>,
    shown: &'static Shown,
    pinned: usize,
) -> Bytes {
    let counted = Counted::new(shown, range.len(), pinned);
    Bytes::from_owner(Piece { folios, _counted: counted }).slice(range)
}
