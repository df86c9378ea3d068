//! Streams of long ranges: one request, as without the cache. Its bytes fill the pages on their
//! way. A piece that is cached is not requested.

use std::ops::Range;
use std::pin::pin;
use std::sync::Arc;

use bytes::Bytes;
use folio_cache::{Advice, File, Priority};
use futures_util::stream::{self, BoxStream, Stream};
use futures_util::{FutureExt, StreamExt};

use super::Core;
use super::answers::{Answer, Get, Kept, KeptPiece};
use super::entry::Found;
use super::error::{Trouble, changed, own};
use super::get_result;
use super::object::{Object, Refusal};
use super::os::{GetResult, Result};
use super::source::{is_stream, stream_of};
use crate::base::counters::Event;
use crate::base::plan::PAGE;

/// The length of a piece, at most.
const PIECE: u64 = 1 << 20;

/// The share of the cache that a piece may pin: one part in so many.
const SHARE: u64 = 64;

/// The number of pieces of which the end of a request looks whether they are cached, at most.
const LOOKED: u32 = 4096;

/// A range that is read piece by piece, of one version.
pub(super) struct Reading {
    core: Arc<Core>,
    found: Found,
    left: Range<u64>,
    advice: Option<Advice>,
    priority: Option<Priority>,
    from: From,
    /// The answer that the next pieces come from.
    answer: Option<Kept>,
}

/// Where the pieces come from.
enum From {
    Nowhere,
    Cache(File),
    /// Past the cache: it has no memory.
    Store(BoxStream<'static, Result<Bytes>>),
}

impl Reading {
    pub(super) fn new(
        core: Arc<Core>,
        mut found: Found,
        range: Range<u64>,
        advice: Option<Advice>,
        priority: Option<Priority>,
    ) -> Self {
        let answer = found.answer.take();
        Self { core, found, left: range, advice, priority, from: From::Nowhere, answer }
    }

    pub(super) fn into_stream(self) -> impl Stream<Item = Result<Bytes>> + Send {
        stream::unfold(Some(self), async |reading| {
            let mut reading = reading?;
            if reading.left.is_empty() {
                return None;
            }
            match reading.next().await {
                Ok(bytes) => Some((Ok(bytes), Some(reading))),
                Err(error) => Some((Err(error), None)),
            }
        })
    }

    async fn next(&mut self) -> Result<Bytes> {
        loop {
            let piece = self.piece().await;
            if let Err(trouble) = &piece {
                self.core.failed(&self.found.entry, trouble);
            }
            match piece {
                Ok(bytes) => {
                    let len = bytes.len() as u64;
                    self.core.count(&self.found.entry, Event::BytesWanted, len);
                    self.left.start += len;
                    return Ok(bytes);
                }
                Err(Trouble::Store(error)) => return Err(error),
                Err(Trouble::Changed) => return Err(changed(&self.found.entry.meta.location)),
                Err(Trouble::Cache(error)) => {
                    tracing::debug!(%error, "a stream goes past the cache");
                    self.answer = None;
                    let object = &self.found.entry.object;
                    let result = object.get(self.left.clone()).await;
                    let result = result.map_err(|refusal| match refusal {
                        Refusal::Changed => changed(&object.path),
                        Refusal::Store(error) => error,
                    })?;
                    self.from = From::Store(result.into_stream());
                }
            }
        }
    }

    async fn piece(&mut self) -> Result<Bytes, Trouble> {
        let entry = &self.found.entry;
        if let From::Nowhere = self.from {
            self.core.source.runtime.remember();
            let ranges = std::slice::from_ref(&self.left);
            let file = self.core.file(entry, ranges, Some(self.advised()), self.priority)?;
            self.from = From::Cache(file);
        }
        let bytes = match &mut self.from {
            From::Nowhere => unreachable!("it was set above"),
            From::Cache(file) => {
                let file = file.clone();
                self.through_cache(&file).await?
            }
            From::Store(stream) => {
                let mut bytes = Bytes::new();
                while bytes.is_empty()
                    && let Some(next) = stream.next().await
                {
                    bytes = next.map_err(Trouble::Store)?;
                }
                self.core.count(entry, Event::BytesFetched, bytes.len() as u64);
                bytes.truncate((self.left.end - self.left.start).min(usize::MAX as u64) as usize);
                self.core.count(entry, Event::BytesPassed, bytes.len() as u64);
                bytes
            }
        };
        if bytes.is_empty() {
            let Range { start, end } = self.left;
            return Err(Trouble::Store(own(format!("the object ended at {start}, before {end}"))));
        }
        Ok(bytes)
    }

    /// Returns the longest piece in bytes.
    fn most(&self) -> u64 {
        PIECE.min(self.core.cache.capacity() as u64 / SHARE).max(PAGE)
    }

    /// Returns the end of what the next request is for: where a piece is cached, or the end.
    fn end_of_request(&self, file: &File) -> u64 {
        let most = self.most();
        let is_cached = |at| file.try_bytes(at, 1).is_some();
        let mut at = self.left.start / PAGE * PAGE + most;
        let mut looked = 0;
        while at < self.left.end && looked < LOOKED {
            looked += 1;
            let last = (at + most).min(self.left.end) - 1;
            if is_cached(at) && is_cached(last) {
                return at;
            }
            at += most;
        }
        self.left.end
    }

    /// Returns the next piece: from the cache, or from an answer on its way into the cache.
    async fn through_cache(&mut self, file: &File) -> Result<Bytes, Trouble> {
        let entry = Arc::clone(&self.found.entry);
        let first = self.left.start / PAGE * PAGE;
        let end = (first + self.most()).min(self.left.end);
        let (at, len) = (self.left.start, (end - self.left.start) as usize);
        let mut waited = false;
        loop {
            if let Some(bytes) = file.try_bytes(at, len) {
                if !waited {
                    self.core.count(&entry, Event::BytesHit, bytes.len() as u64);
                }
                return Ok(bytes);
            }
            // With the advice that the caller gave, the cache requests what it needs.
            if matches!(self.advice, Some(Advice::Sequential | Advice::Normal)) {
                self.answer = None;
                // Opened again, so that the cache asks this store, and no other of its name.
                let ranges = std::slice::from_ref(&self.left);
                self.core.file(&entry, ranges, self.advice, self.priority)?;
                return Ok(file.bytes_async(at, len).await?);
            }
            let size = entry.object.identity.size;
            let pages = first..end.div_ceil(PAGE).saturating_mul(PAGE).min(size);
            // After an error of another stream each asks for itself, and none waits for the others.
            if let Some(piece) = self.fetch(file, pages, waited).await? {
                return Ok(self.publish(&piece, at, len));
            }
            waited = true;
        }
    }

    /// Reads the bytes of a piece from the answer of this stream, from one of another stream that
    /// is at the same byte, or from a new one. Streams that want it at the same time share it,
    /// unless this one asks alone. Returns `None` if another stream failed to read it.
    ///
    /// While it waits, this stream keeps no answer that is not read.
    async fn fetch(
        &mut self,
        file: &File,
        pages: Range<u64>,
        is_alone: bool,
    ) -> Result<Option<Arc<KeptPiece>>, Trouble> {
        let object = Arc::clone(&self.found.entry.object);
        let answers = Arc::clone(&self.core.source.answers);
        let key = &object.key;
        let kept = self.answer.take();
        let kept = kept.unwrap_or_else(|| answers.get(key.clone(), Arc::default()));
        let mut answer = answers.take(key, pages.start, kept.mark());
        let is_new = answer.is_none();
        let next = is_new.then(|| answers.get(key.clone(), Arc::default()));
        let mark = Arc::clone(next.as_ref().unwrap_or(&kept).mark());
        let end = if is_new { self.end_of_request(file) } else { pages.end };
        let runtime = &self.core.source.runtime;
        let place = (key.clone(), pages.start);
        let begin = |answer| {
            let fetched = fetch_piece(Arc::clone(&object), answer, mark, pages, end);
            runtime.enter(Box::pin(async move { Some(fetched.await.map(Arc::new)) }))
        };
        if is_alone {
            let fetched = begin(answer);
            kept.clear();
            self.answer = Some(next.unwrap_or(kept));
            return fetched.await.transpose();
        }
        let seat = self.core.pieces.board(&place, || begin(answer.take()));
        if let Some(answer) = answer {
            answers.put_back(key, answer);
        }
        kept.clear();
        self.answer = Some(match next {
            Some(next) if seat.begins() => next, // the drop of the other ends it
            _ => kept,
        });
        let begins = seat.begins();
        match seat.await {
            Some(fetched) => fetched.map(Some),
            None if begins => Err(Trouble::Store(own("the store panicked".to_owned()))),
            None => Ok(None),
        }
    }

    /// Puts a piece into the cache, if that needs no wait, and returns it.
    fn publish(&self, piece: &KeptPiece, at: u64, len: usize) -> Bytes {
        let ranges = std::slice::from_ref(&self.left);
        let entry = &self.found.entry;
        // Opened anew, so that the fill asks this store for the piece, and no other of its name.
        if let Ok(file) = self.core.file(entry, ranges, Some(self.advised()), self.priority) {
            let mut published = pin!(file.bytes_async(at, len));
            // The first poll may end early, to let other tasks run.
            for _ in 0..2 {
                match published.as_mut().now_or_never() {
                    Some(Ok(bytes)) if !bytes.is_empty() => return bytes,
                    Some(_) => break,
                    None => {}
                }
            }
        }
        let bytes = piece.bytes(at, len);
        self.core.count(entry, Event::BytesPassed, bytes.len() as u64);
        bytes
    }

    /// Returns the advice of the file: the request of the stream is all that is read ahead.
    fn advised(&self) -> Advice {
        self.advice.unwrap_or(Advice::Random)
    }
}

/// Reads a piece from an answer, or from a new one. What is left of it stays for the next piece.
async fn fetch_piece(
    object: Arc<Object>,
    answer: Option<Answer>,
    mark: Arc<Get>,
    pages: Range<u64>,
    end: u64,
) -> Result<KeptPiece, Trouble> {
    let answers = &object.source.answers;
    let end = end.div_ceil(PAGE).saturating_mul(PAGE).clamp(pages.end, object.identity.size);
    let mut answer = if let Some(answer) = answer {
        answer
    } else {
        let result = object.get(pages.start..end).await?;
        let GetResult { payload, meta, range, attributes, .. } = result;
        if is_stream(&payload) {
            Answer::new(range, stream_of(payload), mark)
        } else {
            // A file. It is read at once, and opened again for the next piece.
            let result = get_result(payload, meta, pages.clone(), attributes);
            let bytes = async move { result.bytes().await };
            Answer::new(pages.clone(), stream::once(bytes).boxed(), mark)
        }
    };
    let room = answers.room_anyway(pages.end - pages.start);
    let fetched = |bytes| object.count_fetched(bytes);
    let read = answer.read(pages.start, pages.end, fetched).await;
    let mut piece = read.map_err(Trouble::Store)?;
    answers.put_back(&object.key, answer);
    if piece.end() < pages.end {
        // The answer has ended early. What is missing is requested again.
        piece.push(object.bytes(piece.end()..pages.end).await?);
    }
    Ok(answers.keep_piece(object.key.clone(), piece, room))
}
