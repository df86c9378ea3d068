//! A store that logs its requests, delays them, fails, forgets its validators, and answers wrongly.

use std::collections::VecDeque;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

use super::os;
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use os::memory::InMemory;
use os::path::Path;
use os::{
    CopyOptions, Error, GetOptions, GetRange, GetResult, GetResultPayload, ListResult,
    MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions, PutOptions, PutPayload,
    PutResult, RenameOptions, Result,
};
use tokio::sync::Semaphore;

/// The validators that the store gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tags {
    Strong,
    Weak,
    /// A strong one with a comma, which says the size alone.
    Size,
    None,
}

/// How the store treats `if_match` and its kin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Conditions {
    Kept,
    Ignored,
    Refused,
    /// `if_match` never holds.
    Failing,
}

/// A request that the store got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) path: String,
    pub(super) range: Option<GetRange>,
    pub(super) head: bool,
    pub(super) if_match: bool,
    pub(super) if_none_match: bool,
}

/// A fault of a request, or of its answer.
pub(super) enum Fault {
    /// The request fails before it reaches the store.
    Error(fn(&Path) -> Error),
    /// The answer breaks off with an error after so many bytes.
    Breaks(usize),
    /// The answer ends after so many bytes.
    Ends(usize),
    /// The answer is followed by bytes that were not asked for.
    Long,
    /// The bytes come in pieces of which every second is empty, and the last is too long.
    Odd,
    /// The answer is of another range.
    Shifted,
    /// The object is written before the request reaches the store.
    Written(Vec<u8>),
    /// The object is deleted before.
    Deleted,
    /// The request passes, so that the fault is for a later one.
    Passes,
}

/// Random waits and errors.
pub(super) struct Jitter {
    pub(super) rng: Mutex<fastrand::Rng>,
    /// The share of requests that fail.
    pub(super) errors: f64,
}

pub(super) struct Tricky {
    pub(super) inner: Arc<dyn ObjectStore>,
    pub(super) tags: Tags,
    pub(super) conditions: Conditions,
    /// The time of the last change of all objects, in place of the true one.
    pub(super) modified: Mutex<Option<&'static str>>,
    /// The time that each request takes.
    pub(super) delay: Duration,
    /// Requests wait here, if it is set.
    pub(super) gate: Option<Semaphore>,
    /// Answers wait here before they are sent, if it is set.
    pub(super) late: Option<Semaphore>,
    /// The error of each head.
    pub(super) headless: Option<fn(&Path) -> Error>,
    /// Ranges are refused.
    pub(super) rangeless: bool,
    /// The error of each write, which takes effect before.
    pub(super) late_errors: bool,
    /// Deletes of missing objects are reported before all others.
    pub(super) errors_first: bool,
    /// Random waits at each step, and random errors.
    pub(super) jitter: Option<Jitter>,
    pub(super) faults: Mutex<VecDeque<Fault>>,
    pub(super) log: Mutex<Vec<Request>>,
}

impl Tricky {
    pub(super) fn new(inner: impl ObjectStore) -> Self {
        Self {
            inner: Arc::new(inner),
            tags: Tags::Strong,
            conditions: Conditions::Kept,
            modified: Mutex::default(),
            delay: Duration::ZERO,
            gate: None,
            late: None,
            headless: None,
            rangeless: false,
            late_errors: false,
            errors_first: false,
            jitter: None,
            faults: Mutex::default(),
            log: Mutex::default(),
        }
    }

    pub(super) fn in_memory() -> Self {
        Self::new(InMemory::new())
    }

    pub(super) fn next(&self, faults: impl IntoIterator<Item = Fault>) {
        self.faults.lock().unwrap().extend(faults);
    }

    /// Returns the requests since the last call.
    pub(super) fn requests(&self) -> Vec<Request> {
        std::mem::take(&mut self.log.lock().unwrap())
    }

    /// Returns the numbers of requests with and without bytes since the last call.
    pub(super) fn counts(&self) -> (usize, usize) {
        let requests = self.requests();
        let heads = requests.iter().filter(|request| request.head).count();
        (requests.len() - heads, heads)
    }

    /// Yields a few times. Returns `true` if the request fails.
    async fn jitter(&self) -> bool {
        let Some(jitter) = &self.jitter else { return false };
        let (yields, fails) = {
            let mut rng = jitter.rng.lock().unwrap();
            (rng.usize(..6), rng.f64() < jitter.errors)
        };
        for _ in 0..yields {
            tokio::task::yield_now().await;
        }
        fails
    }

    /// Returns the bytes in pieces, with waits between them, and sometimes an error in place of the
    /// last.
    async fn chopped(&self, result: GetResult) -> Result<GetResult> {
        let Some(jitter) = &self.jitter else { return Ok(result) };
        let (range, meta) = (result.range.clone(), result.meta.clone());
        let attributes = result.attributes.clone();
        let mut bytes = result.bytes().await?;
        let mut pieces = Vec::new();
        let breaks = {
            let mut rng = jitter.rng.lock().unwrap();
            while !bytes.is_empty() {
                let len = bytes.len().min(rng.usize(1..20_000));
                pieces.push((rng.usize(..3), bytes.split_to(len)));
            }
            rng.f64() < jitter.errors
        };
        let last = pieces.len();
        let path = meta.location.clone();
        let stream =
            stream::iter(pieces.into_iter().enumerate()).then(move |(i, (yields, piece))| {
                let path = path.clone();
                async move {
                    for _ in 0..yields {
                        tokio::task::yield_now().await;
                    }
                    if breaks && i + 1 == last { Err(timed_out(&path)) } else { Ok(piece) }
                }
            });
        let payload = GetResultPayload::Stream(stream.boxed());
        Ok(super::result(payload, meta, range, attributes))
    }

    async fn wait(&self) {
        if let Some(gate) = &self.gate {
            gate.acquire().await.expect("it is never closed").forget();
        }
        if !self.delay.is_zero() {
            tokio::time::sleep(self.delay).await;
        }
    }

    fn mask(&self, meta: &mut ObjectMeta) {
        if let Some(modified) = *self.modified.lock().unwrap() {
            meta.last_modified = modified.parse().expect("a time");
        }
        match self.tags {
            Tags::Strong => {}
            Tags::Weak => meta.e_tag = Some("W/\"same\"".to_owned()),
            Tags::Size => meta.e_tag = Some(format!("\"size,{}\"", meta.size)),
            Tags::None => meta.e_tag = None,
        }
    }

    /// Applies the conditions as the store does. Returns those that the inner store applies.
    fn conditions(&self, path: &Path, mut options: GetOptions) -> Result<GetOptions> {
        let asked = options.if_match.is_some() || options.if_none_match.is_some();
        match self.conditions {
            Conditions::Ignored => (options.if_match, options.if_none_match) = (None, None),
            Conditions::Refused if asked => {
                return Err(Error::NotSupported { source: "no conditions".into() });
            }
            Conditions::Failing if options.if_match.is_some() => {
                let source = "no ETag matches".into();
                return Err(Error::Precondition { path: path.to_string(), source });
            }
            Conditions::Kept | Conditions::Refused | Conditions::Failing => {}
        }
        Ok(options)
    }

    async fn written(&self, path: &Path, bytes: Vec<u8>) -> Result<()> {
        self.inner.put_opts(path, bytes.into(), PutOptions::default()).await?;
        Ok(())
    }
}

pub(super) fn unavailable(_: &Path) -> Error {
    let source = std::io::Error::other("503 Service Unavailable").into();
    Error::Generic { store: "Tricky", source }
}

pub(super) fn no_heads(_: &Path) -> Error {
    Error::NotSupported { source: "no heads".into() }
}

fn no_ranges(_: &Path) -> Error {
    Error::NotSupported { source: "no ranges".into() }
}

pub(super) fn not_found(path: &Path) -> Error {
    let source = std::io::Error::other("405 Method Not Allowed").into();
    Error::NotFound { path: path.to_string(), source }
}

pub(super) fn timed_out(_: &Path) -> Error {
    let source = std::io::Error::from(std::io::ErrorKind::TimedOut).into();
    Error::Generic { store: "Tricky", source }
}

fn is_conditional(options: &GetOptions) -> bool {
    options.if_match.is_some() || options.if_none_match.is_some()
}

#[async_trait::async_trait]
impl ObjectStore for Tricky {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        opts: PutOptions,
    ) -> Result<PutResult> {
        self.wait().await;
        let late = self.jitter().await || self.late_errors;
        let result = self.inner.put_opts(location, payload, opts).await;
        self.jitter().await;
        if late { Err(timed_out(location)) } else { result }
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, opts).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.log.lock().unwrap().push(Request {
            path: location.to_string(),
            range: options.range.clone(),
            head: options.head,
            if_match: options.if_match.is_some(),
            if_none_match: options.if_none_match.is_some(),
        });
        if let Some(error) = self.headless
            && options.head
        {
            return Err(error(location));
        }
        if self.rangeless && options.range.is_some() {
            return Err(no_ranges(location));
        }
        self.wait().await;
        if self.jitter().await {
            return Err(unavailable(location));
        }
        let fault = self.faults.lock().unwrap().pop_front();
        match &fault {
            Some(Fault::Error(error)) => return Err(error(location)),
            Some(Fault::Written(bytes)) => self.written(location, bytes.clone()).await?,
            Some(Fault::Deleted) => {
                let path = location.clone();
                let paths = stream::once(async move { Ok(path) }).boxed();
                self.inner.delete_stream(paths).collect::<Vec<_>>().await;
            }
            _ => {}
        }
        let mut options = self.conditions(location, options)?;
        if let (Some(Fault::Shifted), Some(GetRange::Bounded(range))) = (&fault, &mut options.range)
        {
            *range = range.start + 1..range.end + 1;
        }
        if self.tags != Tags::Strong && is_conditional(&options) {
            // Judged by the validators that this store gives.
            let head = GetOptions { head: true, ..GetOptions::default() };
            let mut meta = self.inner.get_opts(location, head).await?.meta;
            self.mask(&mut meta);
            let weak = meta.e_tag.as_ref().is_some_and(|tag| tag.starts_with("W/"));
            if weak && options.if_match.as_deref().is_some_and(|tag| tag != "*") {
                let source = "a weak ETag never matches".into();
                return Err(Error::Precondition { path: location.to_string(), source });
            }
            if self.tags != Tags::Size || options.if_match != meta.e_tag {
                options.check_preconditions(&meta)?;
            }
            (options.if_match, options.if_none_match) = (None, None);
        }
        let head = options.head;
        let result = self.inner.get_opts(location, options).await;
        if let Some(late) = &self.late {
            late.acquire().await.expect("it is never closed").forget();
        }
        let mut result = result?;
        self.mask(&mut result.meta);
        if head {
            result.payload = GetResultPayload::Stream(stream::empty().boxed());
            return Ok(result);
        }
        self.jitter().await;
        let Some(fault) = fault else { return self.chopped(result).await };
        let (range, meta) = (result.range.clone(), result.meta.clone());
        let attributes = result.attributes.clone();
        let bytes = result.bytes().await?;
        let pieces: Vec<Result<Bytes>> = match fault {
            Fault::Breaks(at) => vec![Ok(bytes.slice(..at)), Err(timed_out(location))],
            Fault::Ends(at) => vec![Ok(bytes.slice(..at))],
            Fault::Long => vec![Ok(bytes), Ok(Bytes::from_static(&[0xff; 10_000]))],
            Fault::Odd => {
                let middle = bytes.len() / 2;
                let last = [&bytes[middle..], &[0xff; 10_000]].concat();
                vec![Ok(Bytes::new()), Ok(bytes.slice(..middle)), Ok(Bytes::new()), Ok(last.into())]
            }
            _ => vec![Ok(bytes)],
        };
        let payload = GetResultPayload::Stream(stream::iter(pieces).boxed());
        Ok(super::result(payload, meta, range, attributes))
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.inner.get_ranges(location, ranges).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        if !self.errors_first {
            return self.inner.delete_stream(locations);
        }
        let inner = Arc::clone(&self.inner);
        let reports = stream::once(locations.collect::<Vec<_>>()).flat_map(move |paths| {
            let is_missing = |path: &Path| path.as_ref().starts_with("missing");
            let paths: Vec<_> = paths.into_iter().map(|path| path.expect("a path")).collect();
            let (missing, there): (Vec<_>, Vec<_>) = paths.into_iter().partition(is_missing);
            let errors = missing
                .into_iter()
                .map(|path| Err(Error::NotFound { path: path.to_string(), source: "404".into() }));
            let there = stream::iter(there.into_iter().map(Ok)).boxed();
            stream::iter(errors.collect::<Vec<_>>()).chain(inner.delete_stream(there))
        });
        reports.boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list_with_offset(prefix, offset)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.wait().await;
        self.jitter().await;
        let result = self.inner.copy_opts(from, to, options).await;
        self.jitter().await;
        result
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        self.wait().await;
        self.inner.rename_opts(from, to, options).await
    }
}

impl fmt::Display for Tricky {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tricky(https://user:secret@host/bucket?token=secret)")
    }
}

impl fmt::Debug for Tricky {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tricky { key: secret }")
    }
}
