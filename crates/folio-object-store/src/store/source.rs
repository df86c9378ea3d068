//! The store behind the cache: its requests, which are counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use bytes::Bytes;
use folio_cache::Preferences;
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use parking_lot::Mutex;

use super::answers::Answers;
use super::os::{
    Attributes, Error, GetOptions, GetRange, GetResult, GetResultPayload, ObjectMeta, ObjectStore,
    Result, path::Path,
};
use crate::base::counters::{Counters, Event, Place};
use crate::base::key::{Identity, unique};
use crate::base::runtime::Runtime;

/// The time without conditions after the store has refused one that holds.
const MISJUDGED: Duration = Duration::from_mins(10);

/// The state that the open objects share. It knows nothing of the cache: the files of the cache
/// refer to it, and must not keep their own cache alive.
#[derive(Debug)]
pub(super) struct Source {
    /// A number that no other store of the process has.
    pub(super) number: u64,
    pub(super) inner: Inner,
    pub(super) counters: Counters,
    pub(super) answers: Arc<Answers>,
    pub(super) preferences: Preferences,
    pub(super) runtime: Runtime,
    /// The store has not refused a condition yet.
    takes_conditions: AtomicBool,
    /// The store has not refused a head yet.
    has_heads: AtomicBool,
    /// The store has answered a head.
    has_answered_head: AtomicBool,
    /// The store has not refused a range yet.
    has_ranges: AtomicBool,
    /// The moment at which the store last refused a condition that holds.
    misjudged: Mutex<Option<Instant>>,
    /// The version for which a condition failed last, if no answer has shown another since.
    failed: Mutex<Option<(Path, Identity)>>,
}

/// The wrapped store. Its `Debug` may show secrets, so it is never called.
pub(super) struct Inner(pub(super) Arc<dyn ObjectStore>);

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&crate::base::redact::redact(&self.0.to_string()))
    }
}

impl Source {
    pub(super) fn new(
        inner: Arc<dyn ObjectStore>,
        counters: Counters,
        preferences: Preferences,
        answers: Answers,
    ) -> Self {
        Self {
            number: unique(),
            inner: Inner(inner),
            counters,
            answers: Arc::new(answers),
            preferences,
            runtime: Runtime::default(),
            takes_conditions: AtomicBool::new(true),
            has_heads: AtomicBool::new(true),
            has_answered_head: AtomicBool::new(false),
            has_ranges: AtomicBool::new(true),
            misjudged: Mutex::default(),
            failed: Mutex::default(),
        }
    }

    /// Notes that a condition on a version has failed.
    pub(super) fn condition_failed(&self, path: &Path, identity: &Identity) {
        *self.failed.lock() = Some((path.clone(), identity.clone()));
    }

    /// Notes that the store has a version. If a condition on it has just failed, the conditions of
    /// the store are of no use for a while: some servers refuse a tag that they gave. An object may
    /// return to an old version as well, so another version ends the note.
    pub(super) fn is_there(&self, path: &Path, identity: &Identity) {
        let noted = self.failed.lock().take_if(|failed| failed.0 == *path);
        if noted.is_some_and(|noted| noted.1 == *identity) {
            *self.misjudged.lock() = Some(Instant::now());
        }
    }

    /// Forgets which condition failed: an object was written or invalidated.
    pub(super) fn forget_failed(&self) {
        *self.failed.lock() = None;
    }

    /// Returns `true` if conditions are of use.
    fn takes_conditions(&self) -> bool {
        let mut misjudged = self.misjudged.lock();
        misjudged.take_if(|moment| moment.elapsed() >= MISJUDGED);
        misjudged.is_none() && self.takes_conditions.load(Relaxed)
    }

    /// Sends one request, and counts it.
    pub(super) async fn get(
        &self,
        path: &Path,
        options: GetOptions,
        place: Place,
    ) -> Result<GetResult> {
        self.counters.count(place, Event::Requests, 1);
        if options.head {
            self.counters.count(place, Event::Heads, 1);
        }
        let result = self.inner.0.get_opts(path, options).await;
        if let Err(error) = &result
            && !is_answer(error)
        {
            self.counters.count(place, Event::Errors, 1);
        }
        result
    }

    /// Asks for the metadata of an object. Of a store without heads, gets its first byte. Some say
    /// that the object is not there: that is not believed before a head has succeeded.
    pub(super) async fn head(
        &self,
        path: &Path,
        version: Option<String>,
        place: Place,
    ) -> Result<(ObjectMeta, Attributes)> {
        let options = GetOptions { version, ..GetOptions::default() };
        let mut refusal = None;
        if self.has_heads.load(Relaxed) {
            let head = GetOptions { head: true, ..options.clone() };
            match self.get(path, head, place).await {
                Ok(it) => {
                    self.has_answered_head.store(true, Relaxed);
                    return Ok((it.meta, it.attributes));
                }
                Err(error) if is_unsupported(&error) => self.has_heads.store(false, Relaxed),
                Err(error @ Error::NotFound { .. }) if !self.has_answered_head.load(Relaxed) => {
                    refusal = Some(error);
                }
                Err(error) => return Err(error),
            }
        }
        let first = self.first_byte(path, options, place).await;
        if let (Some(refusal), Err(_)) = (refusal, &first) {
            return Err(refusal);
        }
        let first = first?;
        self.has_heads.store(false, Relaxed);
        Ok((first.meta, first.attributes))
    }

    /// Gets the first byte of an object, or all of it if the store refuses that.
    async fn first_byte(
        &self,
        path: &Path,
        options: GetOptions,
        place: Place,
    ) -> Result<GetResult> {
        let first = GetOptions { range: Some(GetRange::Bounded(0..1)), ..options.clone() };
        match self.get(path, first, place).await {
            // An empty object has no first byte. One that may not be read has no other either.
            Err(error)
                if !is_answer(&error)
                    && !matches!(
                        error,
                        Error::PermissionDenied { .. } | Error::Unauthenticated { .. }
                    ) =>
            {
                self.get(path, options, place).await
            }
            result => result,
        }
    }

    /// Returns `true` if the store has not refused a range yet.
    pub(super) fn has_ranges(&self) -> bool {
        self.has_ranges.load(Relaxed)
    }

    /// Notes that the store has no ranges.
    pub(super) fn refuses_ranges(&self) {
        self.has_ranges.store(false, Relaxed);
    }

    /// Sends a request with the condition that `conditional` adds, or without if the store takes
    /// none. The caller checks the answer in both cases.
    pub(super) async fn get_if(
        &self,
        path: &Path,
        options: GetOptions,
        conditional: impl FnOnce(&mut GetOptions) -> bool,
        place: Place,
    ) -> Result<GetResult> {
        let mut with_condition = options.clone();
        if !self.takes_conditions() || !conditional(&mut with_condition) {
            return self.get(path, options, place).await;
        }
        match self.get(path, with_condition, place).await {
            Err(error) if is_unsupported(&error) => {
                let without = self.get(path, options, place).await;
                // It may be the range that it does not have.
                if !without.as_ref().is_err_and(is_unsupported) {
                    self.takes_conditions.store(false, Relaxed);
                }
                without
            }
            result => result,
        }
    }
}

/// Returns `true` for the errors of stores that do not have what was asked for.
pub(super) fn is_unsupported(error: &Error) -> bool {
    matches!(error, Error::NotSupported { .. } | Error::NotImplemented { .. })
}

/// Returns `true` for errors that are answers to a question.
fn is_answer(error: &Error) -> bool {
    matches!(error, Error::NotFound { .. } | Error::Precondition { .. } | Error::NotModified { .. })
}

/// Returns what tells the versions of an object apart.
pub(super) fn identity_of(meta: &ObjectMeta) -> Identity {
    Identity::new(meta.e_tag.as_deref(), meta.version.as_deref(), modified_of(meta), meta.size)
}

/// Returns the time of the last change in nanoseconds since 1970. It is 0 if the store gives none.
pub(super) fn modified_of(meta: &ObjectMeta) -> i64 {
    meta.last_modified.timestamp_nanos_opt().unwrap_or_default()
}

/// Returns `true` if a result is a stream. Another kind is an open file.
pub(super) fn is_stream(payload: &GetResultPayload) -> bool {
    matches!(payload, GetResultPayload::Stream(_))
}

/// Returns the stream of a payload that is one.
#[allow(irrefutable_let_patterns, reason = "a file is another, if object_store knows files")]
pub(super) fn stream_of(payload: GetResultPayload) -> BoxStream<'static, Result<Bytes>> {
    if let GetResultPayload::Stream(stream) = payload { stream } else { stream::empty().boxed() }
}
