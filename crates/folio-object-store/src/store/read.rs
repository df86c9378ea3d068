//! Gets: of one range, of many, of whole objects.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use folio_cache::{Advice, File, Priority};
use futures_util::future::join;
use futures_util::stream;
use futures_util::{StreamExt, TryStreamExt};

use super::Core;
use super::entry::{Entry, Found};
use super::error::{Trouble, changed, own};
use super::find::Wanted;
use super::get_result;
use super::object::Refusal;
use super::os::{
    Error, GetOptions, GetResult, GetResultPayload, ObjectMeta, Result, coalesce_ranges, path::Path,
};
use super::piece::{is_one_piece, range_of};
use super::source::{is_stream, stream_of};
use super::stream::Reading;
use crate::base::counters::Event;

/// The number of times that a get begins anew because the object has changed.
const ATTEMPTS: usize = 5;

/// The length of reads near the end of an object that are taken for footers.
const FOOTER: u64 = 1 << 20;

/// The last bytes of an object that such a read reaches into.
const END: u64 = 64 << 10;

/// The length of the part of an object that can be cached.
const CACHED: u64 = 1 << 44;

/// The bytes of ranges.
struct Read {
    bytes: Vec<Bytes>,
    /// The number of bytes in ranges of which all was cached.
    hit: u64,
}

impl Core {
    /// Gets an object, or a range of it.
    pub(super) async fn get(
        self: &Arc<Self>,
        path: &Path,
        options: GetOptions,
    ) -> Result<GetResult> {
        let begin = self.epochs.now();
        let place = self.source.counters.place(path.as_ref());
        self.source.counters.count(place, Event::Gets, 1);
        for _ in 0..ATTEMPTS {
            let mut found = self.find(path, Wanted::Get(&options), begin).await?;
            let conditional = is_conditional(&options);
            let range = range_of(&options, found.entry.meta.size);
            let one_piece = range.as_ref().is_some_and(|range| is_one_piece(&options, range));
            // One piece is read while the store is asked. What is streamed begins with an answer.
            if found.stale && (conditional || options.head || !one_piece) {
                found.entry = self.refresh(&found.entry, begin).await?;
                found.stale = false;
            }
            // Once more, if the store has judged it: it may ignore conditions.
            if conditional {
                match judge(&options, &found.entry.meta) {
                    Err(Error::Precondition { .. }) if found.entry.validated() <= begin => {
                        // The caller may know a newer version than the cache.
                        found.answer = None;
                        found.entry = self.validate(&found.entry).await?;
                        judge(&options, &found.entry.meta)?;
                    }
                    judged => judged?,
                }
            }
            let range = range_of(&options, found.entry.meta.size);
            let Some(range) = range.filter(|range| options.head || range.end <= CACHED) else {
                // A range that is not there is the store's to refuse.
                drop(found); // and with it an answer that is not read
                return self.pass(path, options).await;
            };
            if options.head {
                return Ok(result(&found.entry, range, stream::empty().boxed()));
            }
            let (advice, priority) = (advice_of(&options), priority_of(&options));
            if !is_one_piece(&options, &range) {
                if found.stale {
                    continue; // it has another length now
                }
                let is_whole = range == (0..found.entry.meta.size);
                if is_whole && found.answer.is_none() && !self.source.has_ranges() {
                    // Each piece would be a get of all.
                    drop(found);
                    return self.pass(path, options).await;
                }
                return Ok(self.stream(found, range, advice, priority));
            }
            let ranges = std::slice::from_ref(&range);
            match self.read_validated(&mut found, ranges, advice, priority, begin).await {
                Ok(Some(mut bytes)) => {
                    let bytes = bytes.pop().unwrap_or_default();
                    let payload = stream::once(std::future::ready(Ok(bytes))).boxed();
                    return Ok(result(&found.entry, range, payload));
                }
                Ok(None) | Err(Trouble::Changed) => {}
                Err(Trouble::Store(error)) => return Err(error),
                Err(Trouble::Cache(error)) => {
                    tracing::debug!(%error, "a get goes past the cache");
                    drop(found);
                    return self.pass(path, options).await;
                }
            }
        }
        self.pass(path, options).await
    }

    /// Gets many ranges of one version of an object.
    pub(super) async fn get_ranges(
        self: &Arc<Self>,
        path: &Path,
        ranges: &[Range<u64>],
    ) -> Result<Vec<Bytes>> {
        if ranges.is_empty() {
            return self.source.inner.0.get_ranges(path, ranges).await;
        }
        let begin = self.epochs.now();
        let place = self.source.counters.place(path.as_ref());
        self.source.counters.count(place, Event::Gets, 1);
        for _ in 0..ATTEMPTS {
            let mut found = self.find(path, Wanted::Ranges(ranges), begin).await?;
            let size = found.entry.meta.size;
            let is_there = |range: &Range<u64>| range.start < range.end && range.start < size;
            if let Some(range) = ranges.iter().find(|range| !is_there(range)) {
                // The store judges this range, of its newest version.
                let options = GetOptions::new().with_range(Some(range.clone()));
                self.source.get(path, options, place).await?;
                // It accepts a range without bytes, or the object has grown.
                let known = if found.stale || found.entry.validated() <= begin {
                    self.validate(&found.entry).await?
                } else {
                    Arc::clone(&found.entry)
                };
                if known.object.key == found.entry.object.key {
                    return Err(own(format!(
                        "range {range:?} is not in an object of {size} bytes"
                    )));
                }
                continue;
            }
            let inside: Vec<_> =
                ranges.iter().map(|range| range.start..range.end.min(size)).collect();
            if inside.iter().any(|range| range.end > CACHED) {
                match self.pass_ranges(&mut found, &inside).await {
                    Err(Refusal::Changed) => continue,
                    Err(Refusal::Store(error)) => return Err(error),
                    Ok(bytes) => return Ok(bytes),
                }
            }
            match self.read_validated(&mut found, &inside, None, None, begin).await {
                Ok(Some(bytes)) => return Ok(bytes),
                Ok(None) | Err(Trouble::Changed) => {}
                Err(Trouble::Store(error)) => return Err(error),
                Err(Trouble::Cache(_)) => match self.pass_ranges(&mut found, &inside).await {
                    Err(Refusal::Changed) => {}
                    Err(Refusal::Store(error)) => return Err(error),
                    Ok(bytes) => return Ok(bytes),
                },
            }
        }
        Err(changed(path))
    }

    /// Reads ranges, and asks the store at the same time whether the version is its newest, if the
    /// rule of consistency wants that. Returns `None` if it is not.
    async fn read_validated(
        self: &Arc<Self>,
        found: &mut Found,
        ranges: &[Range<u64>],
        advice: Option<Advice>,
        priority: Option<Priority>,
        begin: u64,
    ) -> Result<Option<Vec<Bytes>>, Trouble> {
        let entry = Arc::clone(&found.entry);
        let read = self.read(&entry, ranges, advice, priority);
        if !found.stale {
            return read.await.map(|read| Some(self.returned(&entry, read)));
        }
        let (newest, read) = join(self.refresh(&entry, begin), read).await;
        let newest = newest.map_err(Trouble::Store)?;
        let same = newest.object.key == entry.object.key;
        found.entry = newest;
        if same { read.map(|read| Some(self.returned(&entry, read))) } else { Ok(None) }
    }

    /// Counts the bytes that a get is about to return.
    fn returned(&self, entry: &Entry, read: Read) -> Vec<Bytes> {
        self.count(entry, Event::BytesWanted, total(&read.bytes));
        self.count(entry, Event::BytesHit, read.hit);
        read.bytes
    }

    /// Reads ranges of one version, which lie inside it. What fails makes the next get ask anew.
    async fn read(
        &self,
        entry: &Arc<Entry>,
        ranges: &[Range<u64>],
        advice: Option<Advice>,
        priority: Option<Priority>,
    ) -> Result<Read, Trouble> {
        let wanted: u64 = ranges.iter().map(|range| range.end - range.start).sum();
        let read = self.read_cached(entry, ranges, advice, priority).await;
        match &read {
            Ok(read) if total(&read.bytes) == wanted => {}
            Ok(_) => {
                self.forget_entry(entry);
                return Err(Trouble::Store(own(format!("fewer than {wanted} bytes were read"))));
            }
            Err(trouble) => self.failed(entry, trouble),
        }
        read
    }

    async fn read_cached(
        &self,
        entry: &Arc<Entry>,
        ranges: &[Range<u64>],
        advice: Option<Advice>,
        priority: Option<Priority>,
    ) -> Result<Read, Trouble> {
        let file = self.file(entry, ranges, advice, priority)?;
        let mut bytes: Vec<_> = ranges
            .iter()
            .map(|range| file.try_bytes(range.start, (range.end - range.start) as usize))
            .collect();
        let hit = total(bytes.iter().flatten());
        let missing: Vec<_> = ranges
            .iter()
            .zip(&bytes)
            .filter(|(_, bytes)| bytes.is_none())
            .map(|(range, _)| range.clone())
            .collect();
        if !missing.is_empty() {
            self.source.runtime.remember();
            let mut read = file.read_ranges_async(&missing).await?.into_iter();
            bytes.iter_mut().filter(|bytes| bytes.is_none()).for_each(|bytes| *bytes = read.next());
        }
        Ok(Read { bytes: bytes.into_iter().map(Option::unwrap_or_default).collect(), hit })
    }

    /// Opens a version in the cache, without a request.
    pub(super) fn file(
        &self,
        entry: &Entry,
        ranges: &[Range<u64>],
        advice: Option<Advice>,
        priority: Option<Priority>,
    ) -> Result<File, Trouble> {
        let object = Arc::clone(&entry.object);
        let version = object.remote_version();
        let file = self.cache.open_async_with(object, &version)?;
        let file = match advice {
            Some(advice) => file.with_advice(advice),
            None => file,
        };
        let footer = || is_footer(ranges, entry.meta.size).then_some(Priority::High);
        Ok(match priority.or_else(footer) {
            Some(priority) => file.with_priority(priority),
            None => file,
        })
    }

    /// Returns a long range as a stream.
    fn stream(
        self: &Arc<Self>,
        found: Found,
        range: Range<u64>,
        advice: Option<Advice>,
        priority: Option<Priority>,
    ) -> GetResult {
        let len = range.end - range.start;
        let advice = advice.or_else(|| (len > self.once_above).then_some(Advice::Once));
        let entry = Arc::clone(&found.entry);
        let reading = Reading::new(Arc::clone(self), found, range.clone(), advice, priority);
        result(&entry, range, reading.into_stream().boxed())
    }

    /// Sends a get to the store as it is. It is one request, so its bytes are of one version.
    async fn pass(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
        let place = self.source.counters.place(path.as_ref());
        let head = options.head;
        let mut result = self.source.get(path, options, place).await?;
        if head {
            return Ok(result);
        }
        let source = Arc::clone(&self.source);
        let passed = move |len| {
            for event in [Event::BytesWanted, Event::BytesPassed, Event::BytesFetched] {
                source.counters.count(place, event, len);
            }
        };
        if is_stream(&result.payload) {
            let empty = GetResultPayload::Stream(stream::empty().boxed());
            let stream = stream_of(std::mem::replace(&mut result.payload, empty));
            let counted = stream.inspect_ok(move |bytes| passed(bytes.len() as u64));
            result.payload = GetResultPayload::Stream(counted.boxed());
        } else {
            passed(result.range.end - result.range.start);
        }
        Ok(result)
    }

    /// Reads ranges of one version past the cache.
    async fn pass_ranges(
        self: &Arc<Self>,
        found: &mut Found,
        ranges: &[Range<u64>],
    ) -> Result<Vec<Bytes>, Refusal> {
        if found.stale {
            let newest = self.validate(&found.entry).await.map_err(Refusal::Store)?;
            if newest.object.key != found.entry.object.key {
                return Err(Refusal::Changed);
            }
        }
        let object = &found.entry.object;
        let gap = self.source.preferences.gap_bytes;
        let read = coalesce_ranges(ranges, |range| object.bytes(range), gap).await;
        match &read {
            Ok(bytes) => {
                self.count(&found.entry, Event::BytesWanted, total(bytes));
                self.count(&found.entry, Event::BytesPassed, total(bytes));
            }
            Err(_) => self.forget_entry(&found.entry),
        }
        read
    }

    /// Notes that a version could not be read: the next get asks the store.
    pub(super) fn failed(&self, entry: &Arc<Entry>, trouble: &Trouble) {
        match trouble {
            Trouble::Changed => {
                self.changed(entry);
                self.forget_entry(entry);
                self.cache.invalidate(&entry.object.key);
            }
            // Its length may be out of date, if the store ignores conditions.
            Trouble::Store(_) => self.forget_entry(entry),
            Trouble::Cache(_) => {}
        }
    }

    /// Counts a change of an object by others, once.
    pub(super) fn changed(&self, entry: &Entry) {
        if entry.is_changed_by_others(&self.epochs) {
            self.count(entry, Event::Changed, 1);
        }
    }

    pub(super) fn count(&self, entry: &Entry, event: Event, n: u64) {
        self.source.counters.count(entry.object.place, event, n);
    }
}

/// Returns the number of bytes in all.
fn total<'b>(bytes: impl IntoIterator<Item = &'b Bytes>) -> u64 {
    bytes.into_iter().map(|bytes| bytes.len() as u64).sum()
}

fn result(
    entry: &Entry,
    range: Range<u64>,
    payload: stream::BoxStream<'static, Result<Bytes>>,
) -> GetResult {
    let payload = GetResultPayload::Stream(payload);
    get_result(payload, entry.meta.clone(), range, entry.attributes.clone())
}

fn is_conditional(options: &GetOptions) -> bool {
    options.if_match.is_some()
        || options.if_none_match.is_some()
        || options.if_modified_since.is_some()
        || options.if_unmodified_since.is_some()
}

/// Judges the conditions of a get. Tags are compared without quotes and the mark of weak ones: some
/// stores leave them out in listings. The text of a condition is a list of tags, or one tag that
/// has a comma.
fn judge(options: &GetOptions, meta: &ObjectMeta) -> Result<()> {
    let bare = |tag: &str| {
        let tag = tag.trim();
        tag.strip_prefix("W/").unwrap_or(tag).trim_matches('"').to_owned()
    };
    let tag = meta.e_tag.as_deref().map(bare);
    let matches = |condition: &String| {
        let mut tags = condition.split(',').chain([condition.as_str()]);
        tag.is_some() && tags.any(|one| tag == Some(bare(one)))
    };
    let mut options = options.clone();
    for condition in [&mut options.if_match, &mut options.if_none_match] {
        if condition.as_ref().is_some_and(matches) {
            *condition = Some("*".to_owned());
        }
    }
    options.check_preconditions(meta)
}

fn advice_of(options: &GetOptions) -> Option<Advice> {
    options.extensions.get().copied()
}

fn priority_of(options: &GetOptions) -> Option<Priority> {
    options.extensions.get().copied()
}

/// Returns `true` for short reads at the end of an object.
fn is_footer(ranges: &[Range<u64>], size: u64) -> bool {
    let len: u64 = ranges.iter().map(|range| range.end - range.start).sum();
    len <= FOOTER && ranges.iter().any(|range| range.end > size.saturating_sub(END))
}
