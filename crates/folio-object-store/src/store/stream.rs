//! Streams of long ranges.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use folio_cache::{Advice, ByteStream, Priority};
use futures_util::stream::{self, BoxStream, Stream};
use futures_util::{FutureExt, StreamExt};

use super::Core;
use super::error::{Trouble, changed, own};
use super::find::Found;
use super::object::Refusal;
use super::os::{Error, Result};
use crate::base::counters::Event;

/// A range that is read piece by piece, of one version.
pub(super) struct Reading {
    core: Arc<Core>,
    found: Found,
    left: Range<u64>,
    advice: Option<Advice>,
    priority: Option<Priority>,
    from: From,
}

/// Where the pieces come from.
enum From {
    Nowhere,
    Cache(Box<ByteStream>),
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
        Self { core, found, left: range, advice, priority, from: From::Nowhere }
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
            match self.piece().await {
                Ok(bytes) => {
                    self.left.start += bytes.len() as u64;
                    return Ok(bytes);
                }
                Err(Trouble::Store(error)) => return Err(error),
                Err(Trouble::Changed) => return Err(changed(&self.found.entry.meta.location)),
                Err(Trouble::Cache(_)) => {
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
            let file = self.core.file(entry, ranges, self.advice, self.priority)?;
            let len = self.left.end - self.left.start;
            self.from = From::Cache(Box::new(file.stream(self.left.start, len)));
        }
        let (piece, event) = match &mut self.from {
            From::Nowhere => unreachable!("it was set above"),
            From::Cache(stream) => {
                // What is ready at the first poll was in the cache, or came meanwhile.
                let (next, hit) = match stream.next().now_or_never() {
                    Some(next) => (next, true),
                    None => (stream.next().await, false),
                };
                let next = next.transpose().map_err(Trouble::from);
                (next, hit.then_some(Event::BytesHit))
            }
            From::Store(stream) => {
                let next = stream.next().await.transpose().map_err(Trouble::Store);
                (next, Some(Event::BytesPassed))
            }
        };
        let piece = piece.and_then(|bytes| match bytes {
            Some(bytes) if !bytes.is_empty() => Ok(bytes),
            _ => Err(Trouble::Store(early_end(&self.left))),
        });
        match &piece {
            Ok(bytes) => {
                let len = bytes.len() as u64;
                self.core.count(entry, Event::BytesWanted, len);
                if let Some(event) = event {
                    self.core.count(entry, event, len);
                }
            }
            Err(trouble) => self.core.failed(entry, trouble),
        }
        piece
    }
}

fn early_end(left: &Range<u64>) -> Error {
    own(format!("the object ended at {}, before {}", left.start, left.end))
}
