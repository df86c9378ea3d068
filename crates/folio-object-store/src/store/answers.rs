//! Answers of the store that no page has yet.
//!
//! An answer of which bytes are left to read may hold a place of the store: a connection, or a
//! permit of a `LimitStore`. The rule: no task keeps such an answer while it waits for another
//! request to the same store. So first answers of gets are read at once, into [pieces](Piece) that
//! the fills of the pages take. Only a stream keeps its answer, and gives it up before it waits.

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};

use bytes::{Bytes, BytesMut};
use folio_cache::{FillBuffer, Key};
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use parking_lot::Mutex;

use super::os::Result;

/// The number of bytes of its answer that a stream skips rather than requests again, at most.
const SKIPPED: u64 = 1 << 20;

/// The answers under way, by the pages that they are for. Each belongs to a get under way.
#[derive(Debug)]
pub(super) struct Answers {
    waiting: Mutex<HashMap<Key, Waiting>>,
    /// The number of keys, so that fills take no lock if there are none.
    len: AtomicUsize,
    /// The number of bytes in pieces, and its bound.
    bytes: AtomicU64,
    most: u64,
}

/// The answers for the pages of one key.
#[derive(Debug, Default)]
struct Waiting {
    answers: Vec<Answer>,
    pieces: Vec<Arc<Piece>>,
}

/// The bytes of a range, as the store sends them.
pub(super) struct Answer {
    /// The bytes that are not read yet.
    left: Range<u64>,
    /// The part of `left` that has arrived.
    arrived: Bytes,
    stream: BoxStream<'static, Result<Bytes>>,
    /// The get that the answer belongs to: it ends with it.
    get: Arc<Get>,
}

/// Bytes that have arrived.
#[derive(Debug)]
pub(super) struct Piece {
    start: u64,
    chunks: Vec<Bytes>,
    len: u64,
}

/// A get that answers belong to. Its answers end with it.
#[derive(Debug)]
pub(super) struct Kept {
    answers: Arc<Answers>,
    key: Key,
    get: Arc<Get>,
}

/// A piece that fills can take, until this is dropped.
#[derive(Debug)]
pub(super) struct KeptPiece {
    answers: Arc<Answers>,
    key: Key,
    piece: Arc<Piece>,
    _room: Room,
}

/// Memory for a piece.
#[derive(Debug)]
pub(super) struct Room {
    answers: Arc<Answers>,
    bytes: u64,
}

/// The mark of a get that answers belong to.
#[derive(Debug, Default)]
pub(super) struct Get {
    has_ended: AtomicBool,
}

impl Answers {
    /// Returns an empty set, of which the pieces have at most `most` bytes together.
    pub(super) fn new(most: u64) -> Self {
        let (len, bytes) = (AtomicUsize::new(0), AtomicU64::new(0));
        Self { waiting: Mutex::default(), len, bytes, most }
    }

    /// Returns memory for a piece of this length, or `None` if others have too much. A lone piece
    /// always gets some.
    pub(super) fn room(self: &Arc<Self>, bytes: u64) -> Option<Room> {
        let more = |used: u64| {
            let after = used.checked_add(bytes)?;
            (used == 0 || after <= self.most).then_some(after)
        };
        self.bytes.fetch_update(SeqCst, SeqCst, more).ok()?;
        Some(Room { answers: Arc::clone(self), bytes })
    }

    /// Returns memory for a piece that a stream is about to return.
    pub(super) fn room_anyway(self: &Arc<Self>, bytes: u64) -> Room {
        self.bytes.fetch_add(bytes, SeqCst);
        Room { answers: Arc::clone(self), bytes }
    }

    /// Returns a get without answers.
    pub(super) fn get(self: &Arc<Self>, key: Key, get: Arc<Get>) -> Kept {
        Kept { answers: Arc::clone(self), key, get }
    }

    /// Lets the fills take a piece, until the value returned is dropped.
    pub(super) fn keep_piece(self: &Arc<Self>, key: Key, piece: Piece, room: Room) -> KeptPiece {
        let piece = Arc::new(piece);
        self.with(&key, |waiting| waiting.pieces.push(Arc::clone(&piece)));
        KeptPiece { answers: Arc::clone(self), key, piece, _room: room }
    }

    /// Takes an answer that has the byte at `offset`: the get's own, if it is there or a little
    /// before, or that of another get, if it is exactly there. The other still needs what would be
    /// skipped.
    pub(super) fn take(&self, key: &Key, offset: u64, get: &Arc<Get>) -> Option<Answer> {
        if self.len.load(SeqCst) == 0 {
            return None;
        }
        self.with(key, |waiting| {
            let is_own = |it: &Answer| {
                let skipped = offset.checked_sub(it.left.start);
                Arc::ptr_eq(&it.get, get)
                    && it.left.contains(&offset)
                    && skipped.is_some_and(|skipped| skipped <= SKIPPED)
            };
            let answers = &mut waiting.answers;
            let own = answers.iter().position(is_own);
            let index = own.or_else(|| answers.iter().position(|it| it.left.start == offset))?;
            Some(answers.swap_remove(index))
        })
    }

    /// Puts back what is left of an answer, if its get still goes on.
    pub(super) fn put_back(&self, key: &Key, answer: Answer) {
        if answer.left.is_empty() {
            return;
        }
        let ended = self.with(key, |waiting| {
            // A get ends under the lock too.
            if answer.get.has_ended.load(SeqCst) {
                return Some(answer);
            }
            waiting.answers.push(answer);
            None
        });
        drop(ended); // its stream is dropped under no lock
    }

    /// Copies bytes of a piece from `offset` to `end` into the buffer. Returns the number copied:
    /// 0 if no piece has the first.
    pub(super) fn copy(
        &self,
        key: &Key,
        offset: u64,
        end: u64,
        buffer: &mut FillBuffer<'_>,
    ) -> u64 {
        if self.len.load(SeqCst) == 0 {
            return 0;
        }
        let piece = self.with(key, |waiting| {
            waiting.pieces.iter().find(|piece| piece.range().contains(&offset)).cloned()
        });
        let mut copied = 0;
        for part in piece.iter().flat_map(|piece| piece.parts(offset..end)) {
            let n = buffer.put_slice(&part);
            copied += n as u64;
            if n < part.len() {
                break; // no more room
            }
        }
        copied
    }

    /// Calls `f` under the lock, with what waits for a key.
    fn with<T>(&self, key: &Key, f: impl FnOnce(&mut Waiting) -> T) -> T {
        let mut all = self.waiting.lock();
        let waiting = all.entry(key.clone()).or_default();
        let result = f(waiting);
        if waiting.answers.is_empty() && waiting.pieces.is_empty() {
            all.remove(key);
        }
        self.len.store(all.len(), SeqCst);
        result
    }
}

impl Kept {
    /// Keeps an answer for the stream.
    pub(super) fn add(&self, range: Range<u64>, stream: BoxStream<'static, Result<Bytes>>) {
        self.answers.put_back(&self.key, Answer::new(range, stream, Arc::clone(&self.get)));
    }

    /// Returns the mark of the get.
    pub(super) fn mark(&self) -> &Arc<Get> {
        &self.get
    }

    /// Drops the answers that nothing reads now.
    pub(super) fn clear(&self) {
        self.remove(false);
    }

    fn remove(&self, ends: bool) {
        let removed: Vec<_> = self.answers.with(&self.key, |waiting| {
            self.get.has_ended.fetch_or(ends, SeqCst);
            let is_own = |answer: &mut Answer| Arc::ptr_eq(&answer.get, &self.get);
            waiting.answers.extract_if(.., is_own).collect()
        });
        drop(removed); // their streams are dropped under no lock
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.remove(true);
    }
}

impl KeptPiece {
    /// Returns the bytes of the piece from `offset` on, at most `len`.
    pub(super) fn bytes(&self, offset: u64, len: usize) -> Bytes {
        let range = offset..offset.saturating_add(len as u64);
        let mut parts = self.piece.parts(range);
        let (Some(first), second) = (parts.next(), parts.next()) else { return Bytes::new() };
        let Some(second) = second else { return first };
        let mut all = BytesMut::with_capacity(len);
        [first, second].into_iter().chain(parts).for_each(|part| all.extend_from_slice(&part));
        all.freeze()
    }
}

impl Drop for KeptPiece {
    fn drop(&mut self) {
        let piece = &self.piece;
        self.answers.with(&self.key, |waiting| {
            waiting.pieces.retain(|other| !Arc::ptr_eq(other, piece));
        });
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.answers.bytes.fetch_sub(self.bytes, SeqCst);
    }
}

impl Piece {
    fn range(&self) -> Range<u64> {
        self.start..self.start + self.len
    }

    /// Returns the offset behind the last byte.
    pub(super) fn end(&self) -> u64 {
        self.start + self.len
    }

    /// Adds bytes at the end.
    pub(super) fn push(&mut self, bytes: Bytes) {
        self.len += bytes.len() as u64;
        self.chunks.push(bytes);
    }

    /// Returns the bytes of a range, as far as the piece has them.
    fn parts(&self, range: Range<u64>) -> impl Iterator<Item = Bytes> {
        let mut at = self.start;
        self.chunks.iter().filter_map(move |chunk| {
            let (start, end) = (at, at + chunk.len() as u64);
            at = end;
            let (from, to) = (range.start.max(start), range.end.min(end));
            (from < to).then(|| chunk.slice((from - start) as usize..(to - start) as usize))
        })
    }
}

impl Answer {
    pub(super) fn new(
        left: Range<u64>,
        stream: BoxStream<'static, Result<Bytes>>,
        get: Arc<Get>,
    ) -> Self {
        Self { left, arrived: Bytes::new(), stream, get }
    }

    /// Reads the bytes from `offset` to `end`, and reports how many arrive. The piece is shorter if
    /// the answer ends before.
    pub(super) async fn read(
        &mut self,
        offset: u64,
        end: u64,
        fetched: impl Fn(u64),
    ) -> Result<Piece> {
        let mut piece = Piece { start: offset, chunks: Vec::new(), len: 0 };
        while self.left.start < end.min(self.left.end) {
            if self.arrived.is_empty() {
                match self.stream.next().await {
                    Some(bytes) => {
                        self.arrived = bytes?;
                        fetched(self.arrived.len() as u64);
                        continue;
                    }
                    None => break,
                }
            }
            let at = self.left.start;
            let stop = if at < offset { offset } else { end.min(self.left.end) };
            let n = (self.arrived.len() as u64).min(stop - at);
            let part = self.arrived.split_to(n as usize);
            if at >= offset {
                piece.push(part);
            }
            self.left.start += n;
        }
        if self.left.start < end {
            self.left = 0..0; // it has ended
        }
        Ok(piece)
    }
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answer").field("left", &self.left).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use futures_util::{FutureExt, stream};

    fn answers() -> (Arc<Answers>, Key) {
        (Arc::new(Answers::new(100)), Key::new("test", *b"a"))
    }

    fn kept(answers: &Arc<Answers>, key: &Key) -> Kept {
        let kept = answers.get(key.clone(), Arc::default());
        kept.add(0..10, stream::iter([Ok(Bytes::from_static(b"0123456789"))]).boxed());
        kept
    }

    #[test]
    fn no_answer_outlives_its_get() {
        let (answers, key) = answers();
        let left = || (answers.waiting.lock().len(), answers.len.load(SeqCst));
        drop(kept(&answers, &key));
        assert_eq!(left(), (0, 0));
        let kept = kept(&answers, &key);
        let answer = answers.take(&key, 5, kept.mark()).expect("an answer");
        answers.put_back(&key, answer);
        assert_eq!(left(), (1, 1));
        // The get ends before the answer is put back.
        let answer = answers.take(&key, 5, kept.mark()).expect("an answer");
        drop(kept);
        answers.put_back(&key, answer);
        assert_eq!(left(), (0, 0));
    }

    #[test]
    fn only_the_owner_skips_bytes_of_an_answer() {
        let (answers, key) = answers();
        let kept = kept(&answers, &key);
        let other = Arc::<Get>::default();
        assert!(answers.take(&key, 5, &other).is_none());
        let mut answer = answers.take(&key, 0, &other).expect("an answer");
        let read = answer.read(0, 3, |_| {}).now_or_never().expect("no wait").unwrap();
        assert_eq!(read.parts(1..9).collect::<Vec<_>>(), ["12"]);
        answers.put_back(&key, answer);
        assert!(answers.take(&key, 2, kept.mark()).is_none());
        let mut answer = answers.take(&key, 7, kept.mark()).expect("an answer");
        let read = answer.read(7, 20, |_| {}).now_or_never().expect("no wait").unwrap();
        assert_eq!((read.end(), read.parts(7..20).next().unwrap()), (10, "789".into()));
    }

    #[test]
    fn pieces_share_a_bound() {
        let (answers, _) = answers();
        let first = answers.room(1000);
        assert!(first.is_some() && answers.room(1).is_none());
        drop(first);
        let both = [answers.room(60), answers.room(40)];
        assert!(both.iter().all(Option::is_some) && answers.room(1).is_none());
    }
}
