//! One version of an object, as the cache reads it.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use bytes::{Buf, Bytes};
use folio_cache::{
    AsyncBacking, BoxFuture, FillBuffer, FillRequest, Key, OnChange, Preferences, RemoteVersion,
    Validator,
};
use futures_util::stream;
use futures_util::{StreamExt, TryStreamExt};

use super::error::{Changed, Failure, own};
use super::get_result;
use super::os::{Error, GetOptions, GetRange, GetResult, GetResultPayload, path::Path};
use super::source::{Source, identity_of, is_stream, is_unsupported, stream_of};
use crate::base::counters::{Event, Place};
use crate::base::key::Identity;

/// One version of an object. Its pages are under a name that no other version has. A request asks
/// for this version, and its answer is compared: no page can hold bytes of another.
#[derive(Debug)]
pub(super) struct Object {
    pub(super) source: Arc<Source>,
    pub(super) path: Path,
    /// The version that the reader named.
    pub(super) version: Option<String>,
    /// The `ETag` that a request can be conditional on.
    pub(super) if_match: Option<String>,
    pub(super) identity: Identity,
    pub(super) key: Key,
    pub(super) place: Place,
}

impl Object {
    pub(super) fn remote_version(&self) -> RemoteVersion {
        // The name of the pages has the identity.
        RemoteVersion { len: self.identity.size, validator: Validator::new(*b"") }
    }

    /// Sends a request for a range of this version. If the store has no ranges, gets all of it, and
    /// passes what lies before the range.
    pub(super) async fn get(&self, range: Range<u64>) -> Result<GetResult, Refusal> {
        let whole = 0..self.identity.size;
        if range == whole || !self.source.has_ranges() {
            return Ok(self.part(self.request(whole, false).await?, range));
        }
        match self.request(range.clone(), true).await {
            Err(Refusal::Store(error)) if is_unsupported(&error) => {
                let all = self.request(whole, false).await?;
                self.source.refuses_ranges();
                Ok(self.part(all, range))
            }
            result => result,
        }
    }

    /// Sends one request for a range of this version. The range is named only if it `is_part`: the
    /// request is for all bytes otherwise.
    async fn request(&self, range: Range<u64>, is_part: bool) -> Result<GetResult, Refusal> {
        let options = GetOptions {
            range: is_part.then(|| GetRange::Bounded(range.clone())),
            version: self.version.clone(),
            ..GetOptions::default()
        };
        let condition = |options: &mut GetOptions| {
            options.if_match.clone_from(&self.if_match);
            options.if_match.is_some()
        };
        let result = match self.source.get_if(&self.path, options, condition, self.place).await {
            Ok(result) => result,
            Err(Error::Precondition { .. }) => {
                self.source.condition_failed(&self.path, &self.identity);
                return Err(Refusal::Changed);
            }
            Err(error) => return Err(Refusal::Store(error)),
        };
        if identity_of(&result.meta) != self.identity {
            self.source.is_there(&self.path, &identity_of(&result.meta));
            return Err(Refusal::Changed);
        }
        if result.range != range {
            let message = format!("bytes {range:?} were asked for, {:?} came", result.range);
            return Err(Refusal::Store(own(message)));
        }
        Ok(result)
    }

    /// Returns a part of an answer.
    fn part(&self, all: GetResult, range: Range<u64>) -> GetResult {
        if all.range == range {
            return all;
        }
        let (meta, attributes) = (all.meta.clone(), all.attributes.clone());
        let (source, place) = (Arc::clone(&self.source), self.place);
        let left = (range.start, range.end - range.start);
        let state = (all.into_stream(), left);
        let part = stream::try_unfold(state, move |(mut stream, (mut before, mut left))| {
            let source = Arc::clone(&source);
            async move {
                while left > 0
                    && let Some(mut bytes) = stream.try_next().await?
                {
                    let passed = before.min(bytes.len() as u64);
                    source.counters.count(place, Event::BytesFetched, passed);
                    bytes.advance(passed as usize);
                    before -= passed;
                    bytes.truncate(left.min(bytes.len() as u64) as usize);
                    if !bytes.is_empty() {
                        left -= bytes.len() as u64;
                        return Ok(Some((bytes, (stream, (before, left)))));
                    }
                }
                Ok(None)
            }
        });
        get_result(GetResultPayload::Stream(part.boxed()), meta, range, attributes)
    }

    async fn fill_range(
        &self,
        range: Range<u64>,
        buffer: &mut FillBuffer<'_>,
    ) -> Result<(), Refusal> {
        let mut at = range.start;
        while at < range.end {
            let copied = self.source.answers.copy(&self.key, at, range.end, buffer);
            if copied == 0 {
                break;
            }
            at += copied;
        }
        if at < range.end {
            let result = self.get(at..range.end).await?;
            self.read(result, range.end - at, buffer).await.map_err(Refusal::Store)?;
        }
        Ok(())
    }

    /// Copies an answer of `len` bytes into the buffer, and no byte more.
    async fn read(
        &self,
        result: GetResult,
        len: u64,
        buffer: &mut FillBuffer<'_>,
    ) -> Result<(), Error> {
        let mut left = len as usize;
        let mut put = |bytes: &[u8]| {
            self.count_fetched(bytes.len() as u64);
            left -= buffer.put_slice(&bytes[..bytes.len().min(left)]);
        };
        let GetResult { payload, meta, range, attributes, .. } = result;
        if is_stream(&payload) {
            let mut stream = stream_of(payload);
            while let Some(bytes) = stream.next().await {
                put(&bytes?);
            }
        } else {
            // It is read at once: a stream of a file reads 8 KiB at a time.
            put(&get_result(payload, meta, range, attributes).bytes().await?);
        }
        if left > 0 { Err(ended(len - left as u64, len)) } else { Ok(()) }
    }

    /// Returns the bytes of a range of this version, past the cache.
    pub(super) async fn bytes(&self, range: Range<u64>) -> Result<Bytes, Refusal> {
        let len = range.end - range.start;
        let mut bytes = self.get(range).await?.bytes().await.map_err(Refusal::Store)?;
        let came = bytes.len() as u64;
        self.count_fetched(came);
        if came < len {
            return Err(Refusal::Store(ended(came, len)));
        }
        bytes.truncate(len as usize);
        Ok(bytes)
    }

    pub(super) fn count_fetched(&self, bytes: u64) {
        self.source.counters.count(self.place, Event::BytesFetched, bytes);
    }
}

/// Returns the error of an answer that is too short.
fn ended(came: u64, len: u64) -> Error {
    own(format!("the answer ended after {came} of {len} bytes"))
}

/// The reason why a request for one version got no bytes.
#[derive(Debug)]
pub(super) enum Refusal {
    /// The object has another version.
    Changed,
    Store(Error),
}

impl From<Refusal> for io::Error {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Changed => Changed.into(),
            Refusal::Store(error) => Failure::from(error).into(),
        }
    }
}

impl AsyncBacking for Object {
    fn key(&self) -> Key {
        self.key.clone()
    }

    fn fill<'a>(
        &'a self,
        request: FillRequest,
        buffer: &'a mut FillBuffer<'_>,
    ) -> BoxFuture<'a, io::Result<RemoteVersion>> {
        self.source.runtime.enter(Box::pin(async move {
            let end = request.offset.saturating_add(request.len).min(self.identity.size);
            if request.offset < end {
                self.fill_range(request.offset..end, buffer).await?;
            }
            Ok(self.remote_version())
        }))
    }

    fn version(&self) -> BoxFuture<'_, io::Result<RemoteVersion>> {
        self.source.runtime.enter(Box::pin(async move {
            match self.source.head(&self.path, self.version.clone(), self.place).await {
                Ok((meta, _)) if identity_of(&meta) == self.identity => Ok(self.remote_version()),
                Ok(_) => Err(Changed.into()),
                Err(error) => Err(Failure::from(error).into()),
            }
        }))
    }

    fn store(&self) -> u64 {
        self.source.number
    }

    fn preferences(&self) -> Preferences {
        self.source.preferences
    }

    fn on_change(&self) -> OnChange {
        OnChange::Fail
    }
}
