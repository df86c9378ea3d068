//! Streams of long ranges: one request, as without the cache. Its bytes fill the pages on their
//! way. A piece that is cached is not requested.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use folio_cache::{Advice, File, Priority};
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream, Stream};

use super::Core;
use super::answers::Kept;
use super::entry::Found;
use super::error::{Trouble, changed, own};
use super::object::Refusal;
use super::os::Result;
use super::source::{is_stream, stream_of};
use crate::base::counters::Event;

/// The length of a piece, at most.
const PIECE: u64 = 1 << 20;

/// The share of the cache that a piece may pin: one part in so many.
const SHARE: u64 = 64;

/// The length of a page.
const PAGE: u64 = 4096;

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
        found: Found,
        range: Range<u64>,
        advice: Option<Advice>,
        priority: Option<Priority>,
    ) -> Self {
        Self { core, found, left: range, advice, priority, from: From::Nowhere, answer: None }
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
            // The request of the stream is all that is read ahead.
            let advice = Some(self.advice.unwrap_or(Advice::Random));
            let ranges = std::slice::from_ref(&self.left);
            self.from = From::Cache(self.core.file(entry, ranges, advice, self.priority)?);
        }
        let most = self.most();
        let bytes = match &mut self.from {
            From::Nowhere => unreachable!("it was set above"),
            From::Cache(file) => {
                let end = (self.left.start / PAGE * PAGE + most).min(self.left.end);
                let (at, len) = (self.left.start, (end - self.left.start) as usize);
                if let Some(bytes) = file.try_bytes(at, len) {
                    self.core.count(entry, Event::BytesHit, bytes.len() as u64);
                    bytes
                } else {
                    let file = file.clone();
                    self.request(&file).await?;
                    file.bytes_async(at, len).await?
                }
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
        while at < self.left.end {
            let last = (at + most).min(self.left.end) - 1;
            if is_cached(at) && is_cached(last) {
                return at;
            }
            at += most;
        }
        self.left.end
    }

    /// Requests what is left up to what is cached, unless the bytes that come next are on their
    /// way. With the advice that the caller gave, the cache requests what it needs.
    async fn request(&mut self, file: &File) -> Result<(), Trouble> {
        let object = &self.found.entry.object;
        let (source, key) = (&self.core.source, &object.key);
        let is_left_to_the_cache = matches!(self.advice, Some(Advice::Sequential | Advice::Normal));
        if is_left_to_the_cache || source.answers.has(key, self.left.start) {
            return Ok(());
        }
        let start = self.left.start / PAGE * PAGE;
        let end =
            self.end_of_request(file).div_ceil(PAGE).saturating_mul(PAGE).min(object.identity.size);
        let result = object.get(start..end).await.map_err(|refusal| match refusal {
            Refusal::Changed => Trouble::Changed,
            Refusal::Store(error) => Trouble::Store(error),
        })?;
        if is_stream(&result.payload) {
            let answers = vec![(result.range.clone(), stream_of(result.payload))];
            self.answer = Some(source.answers.keep(key.clone(), answers));
        }
        Ok(())
    }
}
