//! Ranges: bytes of several pages, pinned, or copied into several buffers.
//!
//! Pages of a range that are adjacent in memory form one piece ([`Adjacent`]). `Bytes` stands for
//! one piece only, because it is one address and one length. So there are two answers, with one
//! allocation each:
//!
//! | | the range lies in one piece | otherwise |
//! | --- | --- | --- |
//! | [`File::bytes`] | the pages are pinned | they are copied |
//! | [`File::range`] | the pages are pinned | they are pinned, and [`Buf`] goes through the pieces |
//!
//! Both copy what would pin more than four times its length, and more than two pages
//! (`memory/short_handle.rs`).

use std::fmt;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem;
use std::ops::Range;
use std::slice;
use std::vec;

use bytes::{Buf, Bytes};
use folio_frames as frames;
use folio_frames::{FRAME_SIZE, UserSpace};
use folio_ref::{DefaultScheme, Scheme};

use crate::api::file::File;
use crate::api::piece::{begin, bytes_of, join, pin};
use crate::backing::error::error;
use crate::memory::limits;
use crate::memory::short_handle;
use crate::memory::short_handle::PinnedCount;
use crate::read::walk;
use crate::rt::block_on::block_on;
use crate::state::frames::{Adjacent, FolioRef};
use crate::state::mapping::Mapping;
use crate::state::shown::{Counted, Shown};
use crate::state::stats::Count;
use crate::state::units::pages_of;

/// Pinned bytes of a range of a file, each page as it was when the handle was made. They never
/// change. [`File::range`] returns it; [`PageHandle`](crate::PageHandle) is the same for one
/// page.
///
/// It is a [`Buf`], as network code expects. Each chunk is a piece of memory, often longer than a
/// page. The folios that were passed are unpinned: at most 64 KiB of them stay. A handle is one
/// allocation, whatever its length, and so is a clone. It pins its pages, and may outlive the file
/// and the cache.
///
/// # Examples
///
/// ```
/// use std::sync::Arc;
/// use folio_cache::{Buf, Cache, testing::Memory};
///
/// # fn main() -> std::io::Result<()> {
/// let cache = Cache::new(4 << 20)?;
/// let file = cache.open_backing(Arc::new(Memory::new(&[7; 10_000])))?;
/// let mut range = file.range(1000, 5000)?;
/// assert_eq!(range.chunks().map(<[u8]>::len).sum::<usize>(), 5000);
/// range.advance(4990);
/// assert_eq!((range.remaining(), range.get_u8()), (10, 7));
/// # Ok(())
/// # }
/// ```
pub struct RangeHandle<S: Scheme = DefaultScheme> {
    /// The pieces that are left.
    pieces: vec::IntoIter<Adjacent<S>>,
    /// The offset of the first byte in the first piece.
    start: usize,
    /// The number of bytes left. **Invariant:** the pieces have so many bytes after `start`. No
    /// piece lies behind the last byte, and no page was passed.
    len: usize,
    counted: Counted,
}

impl<S: Scheme> RangeHandle<S> {
    /// Returns the number of bytes left.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Returns `true` if no byte is left.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Returns the bytes that are left, piece by piece.
    pub fn chunks(&self) -> impl Iterator<Item = &[u8]> {
        let (mut start, mut left) = (self.start, self.len);
        self.pieces.as_slice().iter().map(move |piece| {
            let bytes = &piece.as_slice()[mem::take(&mut start)..];
            let bytes = &bytes[..bytes.len().min(left)];
            left -= bytes.len();
            bytes
        })
    }

    /// Returns some of the bytes that are left, without a copy. Pins the folios of these bytes
    /// alone, of at most 64 KiB each: drop this handle to unpin the others.
    ///
    /// # Panics
    ///
    /// Panics if the range does not lie in what is left.
    #[cfg_attr(feature = "track", track_caller)]
    #[must_use]
    pub fn slice(&self, range: Range<usize>) -> Self {
        assert!(
            range.start <= range.end && range.end <= self.len,
            "bytes {range:?} of a range that has {} left",
            self.len
        );
        let mut pieces = Vec::new();
        let (mut first, end) = (self.start + range.start, self.start + range.end);
        let start = first % FRAME_SIZE;
        let mut begins = 0;
        for piece in self.pieces.as_slice() {
            let ends = begins + piece.as_slice().len();
            if first < ends && first < end {
                let frames =
                    (first - begins) / FRAME_SIZE..(end.min(ends) - begins).div_ceil(FRAME_SIZE);
                pieces.push(piece.part(frames.start as u32..frames.end as u32));
                first = ends;
            }
            begins = ends;
        }
        Self::new(pieces, start, range.len(), self.counted.of())
    }

    fn new(pieces: Vec<Adjacent<S>>, start: usize, len: usize, shown: &'static Shown) -> Self {
        let counted = Counted::new(shown, len, pinned_bytes(&pieces));
        Self { pieces: pieces.into_iter(), start, len, counted }
    }

    /// Returns each piece as [`Bytes`] of its own, without a copy. Each is an allocation.
    ///
    /// A slice of these keeps the whole piece pinned. To keep a part, use [`slice`](Self::slice)
    /// before, or copy it (`Bytes::copy_from_slice`).
    pub fn into_each(self) -> impl Iterator<Item = Bytes> {
        let (mut start, mut left, shown) = (self.start, self.len, self.counted.of());
        self.pieces.map(move |piece| {
            let begins = mem::take(&mut start);
            let ends = piece.as_slice().len().min(begins + left);
            left -= ends - begins;
            let pinned = pinned_bytes(slice::from_ref(&piece));
            pin(piece, begins..ends, shown, pinned)
        })
    }

    /// Returns the bytes that are left as one slice at a fixed address, without a copy. With the
    /// feature `stable_deref_trait` the result implements `StableDeref`.
    ///
    /// # Errors
    ///
    /// Gives the handle back if its bytes lie in several pieces, or if none is left.
    pub fn into_one_piece(mut self) -> Result<frames::PinnedBytes<UserSpace<S>>, Self> {
        let range = self.start..self.start + self.len;
        let is_one = self.len > 0 && self.pieces.len() == 1;
        let Some(piece) = is_one.then(|| self.pieces.next()).flatten() else { return Err(self) };
        Ok(frames::PinnedBytes::of_adjacent(piece, range))
    }
}

impl<S: Scheme> Clone for RangeHandle<S> {
    #[cfg_attr(feature = "track", track_caller)]
    fn clone(&self) -> Self {
        let mut pieces = self.pieces.clone();
        taken_here(pieces.as_mut_slice());
        Self { pieces, counted: self.counted.clone(), ..*self }
    }
}

/// Returns the bytes of all folios that pieces pin.
fn pinned_bytes<S: Scheme>(pieces: &[Adjacent<S>]) -> usize {
    pieces.iter().map(|piece| piece.pinned_frames() as usize * FRAME_SIZE).sum()
}

/// Makes the caller's line of code the pin owner of the pieces.
#[inline(always)]
#[cfg_attr(feature = "track", track_caller)]
fn taken_here<S: Scheme>(pieces: &mut [Adjacent<S>]) {
    for piece in pieces {
        piece.taken_here();
    }
}

impl<S: Scheme> Buf for RangeHandle<S> {
    fn remaining(&self) -> usize {
        self.len
    }

    fn chunk(&self) -> &[u8] {
        self.chunks().next().unwrap_or_default()
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let filled =
            slices.iter_mut().zip(self.chunks()).map(|(slice, chunk)| *slice = IoSlice::new(chunk));
        filled.count()
    }

    /// Passes `count` bytes, and unpins the folios that were passed.
    ///
    /// # Panics
    ///
    /// Panics if fewer than `count` bytes are left.
    fn advance(&mut self, count: usize) {
        assert!(
            count <= self.len,
            "advance by {count} bytes of a range that has {} left",
            self.len
        );
        self.len -= count;
        self.start += count;
        while let Some(first) = self.pieces.as_slice().first()
            && (self.start >= first.as_slice().len() || self.len == 0)
        {
            self.start = self.start.saturating_sub(first.as_slice().len());
            drop(self.pieces.next());
        }
        if let Some(first) = self.pieces.as_mut_slice().first_mut()
            && self.start >= FRAME_SIZE
        {
            first.skip((self.start / FRAME_SIZE) as u32);
            self.start %= FRAME_SIZE;
        }
        self.counted.set(self.len, pinned_bytes(self.pieces.as_slice()));
    }
}

impl<S: Scheme> fmt::Debug for RangeHandle<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes from byte {} of {:?}", self.len, self.start, self.pieces.as_slice())
    }
}

impl<S: Scheme> File<S> {
    /// Returns up to `len` bytes from `offset` on: fewer only at the end of the file, and none at
    /// or past it. Missing pages are read by few requests.
    ///
    /// The pages are pinned, not copied, unless the handle would pin more than four times its
    /// length, and more than two pages: a short range in larger folios. That is copied, as long as
    /// frames are free.
    ///
    /// # Errors
    ///
    /// Nothing is pinned then.
    ///
    /// - `InvalidInput` if the offset exceeds `i64::MAX`.
    /// - `FileTooLarge` if it is 16 TiB or more, and inside the file.
    /// - `OutOfMemory` if no page can be evicted, or the range is longer than what can be pinned.
    /// - `Unsupported` on a miss in a child forked after the cache was built.
    /// - Otherwise the error of the backing.
    #[cfg_attr(feature = "track", track_caller)]
    pub fn range(&self, offset: u64, len: usize) -> io::Result<RangeHandle<S>> {
        if self.is_distant() {
            return Ok(block_on(self.pieces_distant(offset, len, self.blocking()))?.finish());
        }
        let mut pieces = begin_range(&self.opened.mapping, offset, len);
        walk::for_each_page(&self.opened.mapping, offset, len, self.advice, |folio, range| {
            pieces.push(folio, range);
            Ok(())
        })?;
        self.passed(offset, len);
        Ok(pieces.finish())
    }

    /// Returns up to `len` bytes from `offset` on in one piece: fewer only at the end of the file.
    /// They pin their pages where these are adjacent in memory, as the bytes of one page always
    /// are. Otherwise they are a copy.
    ///
    /// They are a copy too if they would pin more than four times their length, and more than two
    /// pages: few bytes in larger folios.
    ///
    /// A slice of `Bytes` keeps all of them pinned, however short it is. To keep a part of a long
    /// range, ask for the part, use [`range`](Self::range) and [`RangeHandle::slice`], or copy it
    /// (`Bytes::copy_from_slice`). [`CacheStats`](crate::CacheStats) has the bytes that are pinned.
    ///
    /// # Errors
    ///
    /// Nothing is pinned then.
    ///
    /// - `InvalidInput` if the offset exceeds `i64::MAX`.
    /// - `FileTooLarge` if it is 16 TiB or more, and inside the file.
    /// - `OutOfMemory` if no page can be evicted, or no memory is left for a copy.
    /// - `Unsupported` on a miss in a child forked after the cache was built.
    /// - Otherwise the error of the backing.
    #[cfg_attr(feature = "track", track_caller)]
    pub fn bytes(&self, offset: u64, len: usize) -> io::Result<Bytes> {
        if self.is_distant() {
            if let Some(bytes) = self.cached_bytes_distant(offset, len) {
                return Ok(bytes);
            }
            let bytes = block_on(self.bytes_distant(&[(offset, len)], self.blocking()))?;
            return Ok(bytes.into_iter().next().unwrap_or_default());
        }
        let mut piece = begin_bytes(&self.opened.mapping, offset, len);
        walk::for_each_page(&self.opened.mapping, offset, len, self.advice, |folio, range| {
            piece.push(folio, range)
        })?;
        self.passed(offset, len);
        Ok(piece.finish())
    }

    /// Reads into the buffers from `offset` on, one after the other, as if they were one. Returns
    /// the number of bytes read: 0 at or past the end of the file. Missing pages are read by few
    /// requests.
    ///
    /// A short count means the end of the file, or an error part-way that the next read returns.
    ///
    /// # Errors
    ///
    /// - `InvalidInput` if the offset exceeds `i64::MAX`.
    /// - `FileTooLarge` if it is 16 TiB or more, and inside the file.
    /// - `OutOfMemory` if no page can be evicted: all are pinned, or dirty and cannot be written.
    /// - `Unsupported` on a miss in a child forked after the cache was built.
    /// - Otherwise the error of the backing.
    pub fn read_vectored_at(&self, bufs: &mut [IoSliceMut<'_>], offset: u64) -> io::Result<usize> {
        if self.is_distant() {
            return self.read_vectored_distant(bufs, offset);
        }
        let wanted = bufs.iter().fold(0_usize, |sum, buf| sum.saturating_add(buf.len()));
        let mut bufs = bufs.iter_mut();
        let (mut buf, mut done): (&mut [u8], _) = (&mut [], 0);
        let read = walk::for_each_page(
            &self.opened.mapping,
            offset,
            wanted,
            self.advice,
            |folio, range| {
                let mut bytes = &folio.as_slice_from_frame()[range];
                done += bytes.len();
                while !bytes.is_empty() {
                    if buf.is_empty() {
                        // The walk yields at most the wanted bytes.
                        let Some(next) = bufs.next() else { break };
                        buf = next;
                        continue;
                    }
                    let n = bytes.len().min(buf.len());
                    let (now, later) = mem::take(&mut buf).split_at_mut(n);
                    now.copy_from_slice(&bytes[..n]);
                    (buf, bytes) = (later, &bytes[n..]);
                }
                Ok(())
            },
        );
        self.passed(offset, done);
        // A short count: the next read returns the error.
        if done > 0 { Ok(done) } else { read.map(|()| 0) }
    }
}

/// Returns the number of bytes that the file has of a range.
fn in_file<S: Scheme>(mapping: &Mapping<S>, offset: u64, len: usize) -> usize {
    usize::try_from(mapping.len().saturating_sub(offset)).unwrap_or(usize::MAX).min(len)
}

/// Makes room for a copy of so many bytes. One that is longer than the cache must fit into the
/// memory of this process.
///
/// # Errors
///
/// `OutOfMemory` if there is none.
fn reserve(copy: &mut Vec<u8>, bytes: usize, capacity: usize) -> io::Result<()> {
    if bytes > capacity && bytes > limits::process_bytes() {
        return Err(no_memory(bytes));
    }
    copy.try_reserve_exact(bytes).map_err(|_| no_memory(bytes))
}

#[cold]
fn no_memory(bytes: usize) -> io::Error {
    let message = format!(
        "no memory for a copy of {bytes} bytes, as their pages are not adjacent in memory: read \
         them in parts, or by File::stream"
    );
    error(io::ErrorKind::OutOfMemory, message)
}

/// Returns an empty collection for the pages of a range.
pub(crate) fn begin_range<S: Scheme>(
    mapping: &Mapping<S>,
    offset: u64,
    len: usize,
) -> Pieces<'_, S> {
    // It can have what the file has of it, and what can be pinned.
    let most = in_file(mapping, offset, len).min(mapping.shared.capacity());
    let pages = pages_of(offset, most) as usize;
    let held = Vec::with_capacity(pages);
    Pieces { mapping, offset, held, start: 0, len: 0, pinned: PinnedCount::default() }
}

/// Returns an empty collection for the bytes of a range.
pub(crate) fn begin_bytes<S: Scheme>(
    mapping: &Mapping<S>,
    offset: u64,
    len: usize,
) -> OnePiece<'_, S> {
    OnePiece {
        mapping,
        wanted: (offset, len),
        held: None,
        start: 0,
        len: 0,
        pinned: PinnedCount::default(),
        copy: Vec::new(),
    }
}

/// A range that is being collected.
pub(crate) struct Pieces<'m, S: Scheme> {
    mapping: &'m Mapping<S>,
    offset: u64,
    held: Vec<Adjacent<S>>,
    start: usize,
    len: usize,
    pinned: PinnedCount,
}

impl<S: Scheme> Pieces<'_, S> {
    pub(crate) fn push(&mut self, folio: FolioRef<S>, range: Range<usize>) {
        self.pinned = self.pinned.with(&folio);
        if self.len == 0 {
            self.start = range.start;
        }
        self.len += range.len();
        let apart = match self.held.last_mut() {
            Some(last) => join(last, folio, &range),
            None => Err(folio),
        };
        if let Err(folio) = apart {
            self.held.push(begin(folio, &range));
        }
    }

    #[cfg_attr(feature = "track", track_caller)]
    pub(crate) fn finish(mut self) -> RangeHandle<S> {
        if self.pinned.is_too_much(self.len) {
            short_handle::copy_pieces(self.mapping, self.offset, &mut self.held);
        }
        taken_here(&mut self.held);
        RangeHandle::new(self.held, self.start, self.len, self.mapping.shared.shown)
    }
}

/// Bytes that are being collected: pinned as long as they are one piece, then copied.
pub(crate) struct OnePiece<'m, S: Scheme> {
    mapping: &'m Mapping<S>,
    /// The offset and the number of bytes that were asked for.
    wanted: (u64, usize),
    held: Option<Adjacent<S>>,
    start: usize,
    len: usize,
    pinned: PinnedCount,
    /// All bytes so far, if they are in more than one piece.
    copy: Vec<u8>,
}

impl<S: Scheme> OnePiece<'_, S> {
    /// Adds the next bytes.
    ///
    /// # Errors
    ///
    /// `OutOfMemory` if they must be copied and there is no memory for that.
    pub(crate) fn push(&mut self, folio: FolioRef<S>, range: Range<usize>) -> io::Result<()> {
        self.pinned = self.pinned.with(&folio);
        let apart = match &mut self.held {
            Some(held) => join(held, folio, &range).err(),
            None if self.len == 0 => {
                self.start = range.start;
                self.held = Some(begin(folio, &range));
                None
            }
            None => Some(folio),
        };
        if let Some(folio) = apart {
            if let Some(held) = self.held.take() {
                let all = in_file(self.mapping, self.wanted.0, self.wanted.1);
                reserve(&mut self.copy, all, self.mapping.shared.capacity())?;
                self.copy.extend_from_slice(&held.as_slice()[self.start..self.start + self.len]);
            }
            // It has room, unless the file has grown meanwhile.
            self.copy.try_reserve(range.len()).map_err(|_| no_memory(self.len + range.len()))?;
            self.copy.extend_from_slice(&folio.as_slice_from_frame()[range.clone()]);
        }
        self.len += range.len();
        Ok(())
    }

    #[cfg_attr(feature = "track", track_caller)]
    pub(crate) fn finish(self) -> Bytes {
        if let Some(mut held) = self.held {
            held.taken_here();
            return bytes_of(self.mapping, held, self.start..self.start + self.len, &self.pinned);
        }
        self.mapping.count(Count::CopiedBytes, self.len as u64);
        self.copy.into()
    }
}
