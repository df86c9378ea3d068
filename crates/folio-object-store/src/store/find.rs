//! Finds out which version of an object a get reads: from the table, or by a request.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::try_join_all;
use futures_util::stream::BoxStream;

use super::Core;
use super::answers::{Answer, Piece, Room};
use super::entry::{Entry, Found, Origin};
use super::os::{
    Attributes, Error, GetOptions, GetRange, GetResult, ObjectMeta, Result, path::Path,
};
use super::piece::{ONE_PIECE, is_one_piece, range_of};
use super::source::{identity_of, is_stream, stream_of};
use crate::Consistency;
use crate::base::counters::{Event, Place};
use crate::base::epochs::{Ticket, nanos};
use crate::base::plan;
use crate::base::table::Name;

/// A validation is shared if it stays good for so long. Otherwise it may be too old at its end, and
/// those that waited for it would ask again.
const SHARED_FROM: Duration = Duration::from_secs(1);

/// The bytes that a get wants of an object without metadata.
#[derive(Clone, Copy)]
pub(super) enum Wanted<'w> {
    /// Those that its options name.
    Get(&'w GetOptions),
    Ranges(&'w [Range<u64>]),
}

/// The first requests of an object.
struct Requests {
    all: Vec<GetOptions>,
    /// The options of the get, unless it is one of many ranges.
    get: Option<GetOptions>,
}

/// The answer to a first request.
struct Arrived {
    meta: ObjectMeta,
    attributes: Attributes,
    bytes: Came,
}

/// The bytes of an answer.
enum Came {
    Nothing,
    Read(Piece, Room),
    /// A stream reads them piece by piece.
    Unread(Range<u64>, BoxStream<'static, Result<Bytes>>),
}

impl Core {
    /// Finds the version that a get reads, which began at the moment `begin`. If nothing is known
    /// about the object, sends the first request. Otherwise sends none.
    pub(super) async fn find(
        self: &Arc<Self>,
        path: &Path,
        wanted: Wanted<'_>,
        begin: u64,
    ) -> Result<Found> {
        let version = match wanted {
            Wanted::Get(options) => options.version.as_deref(),
            Wanted::Ranges(_) => None,
        };
        if let Some(entry) = self.table.get(path.as_ref(), version) {
            return Ok(self.found(entry, begin));
        }
        // Under `Validated` another reader's answer is too old for this get.
        if self.consistency == Consistency::Validated {
            return self.first(path, self.requests(wanted), version).await;
        }
        let name = (Name::new(path.as_ref(), version), self.epochs.ticket(path.as_ref()));
        let seat = self.flights.board(&name, || {
            let (core, path) = (Arc::clone(self), path.clone());
            let (requests, version) = (self.requests(wanted), version.map(str::to_owned));
            self.source.runtime.remember();
            self.source.runtime.enter(Box::pin(async move {
                Some(core.first(&path, requests, version.as_deref()).await)
            }))
        });
        if let Some(found) = seat.await {
            return found;
        }
        if let Some(entry) = self.table.get(path.as_ref(), version) {
            return Ok(self.found(entry, begin));
        }
        // It failed, or was not kept. All that waited ask for themselves, at once.
        self.first(path, self.requests(wanted), version).await
    }

    fn found(&self, entry: Arc<Entry>, begin: u64) -> Found {
        let stale = !self.is_fresh(&entry, begin);
        Found { entry, stale, answer: None, _pieces: Vec::new() }
    }

    /// Returns `true` if the rule of consistency lets a get use an entry without a request.
    pub(super) fn is_fresh(&self, entry: &Entry, begin: u64) -> bool {
        let validated = entry.validated();
        if validated > begin {
            return true;
        }
        let path = entry.meta.location.as_ref();
        if validated == 0 || self.epochs.is_doubted(path, validated) {
            return false;
        }
        // A write leaves the versions that were named, yet a store may replace them: S3 does so
        // with the version "null", and others know no versions.
        if entry.object.version.is_some() && self.epochs.is_written_since(path, validated) {
            return false;
        }
        match self.consistency {
            Consistency::Immutable => true,
            Consistency::ValidatedAfter(time) => {
                self.epochs.now().saturating_sub(validated) < nanos(time)
            }
            Consistency::Validated => false,
        }
    }

    /// Sends the first request of an object: the get itself, over whole pages. Its bytes are kept
    /// for the fills of the pages.
    async fn first(
        self: &Arc<Self>,
        path: &Path,
        requests: Requests,
        version: Option<&str>,
    ) -> Result<Found> {
        let place = self.source.counters.place(path.as_ref());
        let (ticket, sent) = (self.epochs.ticket(path.as_ref()), self.epochs.now());
        let Requests { all, get } = requests;
        // Each answer is read as it comes: one that is kept may hold what another waits for.
        let requests = all.into_iter().map(async |options| {
            let result = self.source.get(path, options, place).await?;
            self.arrived(result, get.as_ref(), place).await
        });
        let mut entry = None;
        let (mut answer, mut pieces) = (None, Vec::new());
        for Arrived { meta, attributes, bytes } in try_join_all(requests).await? {
            let identity = identity_of(&meta);
            let entry = entry.get_or_insert_with(|| {
                let origin = Origin { version, place, ticket, sent };
                let mut meta = meta;
                meta.location = path.clone();
                Arc::new(Entry::new(self, meta, attributes, &origin))
            });
            // An answer of another version is dropped. The fills that miss it find out.
            if identity != entry.object.identity {
                continue;
            }
            let (answers, key) = (&self.source.answers, entry.object.key.clone());
            match bytes {
                Came::Nothing => {}
                Came::Read(piece, room) => pieces.push(answers.keep_piece(key, piece, room)),
                Came::Unread(range, stream) => {
                    let kept = answer.get_or_insert_with(|| answers.get(key, Arc::default()));
                    kept.add(range, stream);
                }
            }
        }
        let entry = entry.expect("a get sends at least one request");
        self.source.is_there(path, &entry.object.identity);
        self.keep(&entry, ticket);
        Ok(Found { entry, stale: false, answer, _pieces: pieces })
    }

    /// Reads the first answer of an object, unless the get is a stream, or there is no room.
    async fn arrived(
        &self,
        result: GetResult,
        get: Option<&GetOptions>,
        place: Place,
    ) -> Result<Arrived> {
        let GetResult { payload, range, meta, attributes, .. } = result;
        let nothing = |meta| Arrived { meta, attributes: attributes.clone(), bytes: Came::Nothing };
        if !is_stream(&payload) || get.is_some_and(|get| get.head) {
            return Ok(nothing(meta));
        }
        let stream = stream_of(payload);
        if let Some(get) = get {
            match range_of(get, meta.size) {
                None => return Ok(nothing(meta)),
                Some(range) if is_one_piece(get, &range) => {}
                Some(_) => {
                    return Ok(Arrived { meta, attributes, bytes: Came::Unread(range, stream) });
                }
            }
        }
        let len = range.end.saturating_sub(range.start);
        let most = self.source.preferences.request_bytes.max(ONE_PIECE) + plan::PAGE;
        let Some(room) = self.source.answers.room(len).filter(|_| len <= most) else {
            return Ok(nothing(meta));
        };
        let fetched = |bytes| self.source.counters.count(place, Event::BytesFetched, bytes);
        let mut answer = Answer::new(range.clone(), stream, Arc::default());
        let piece = answer.read(range.start, range.end, fetched).await?;
        Ok(Arrived { meta, attributes, bytes: Came::Read(piece, room) })
    }

    /// Returns the requests of a get of an object of which not even the length is known.
    fn requests(&self, wanted: Wanted<'_>) -> Requests {
        let get = match wanted {
            Wanted::Get(options) => Some(options.clone()),
            Wanted::Ranges(_) => None,
        };
        Requests { all: self.first_requests(wanted), get }
    }

    fn first_requests(&self, wanted: Wanted<'_>) -> Vec<GetOptions> {
        let most = self.source.preferences.request_bytes;
        let each = |options: &GetOptions, ranges: Vec<Range<u64>>| {
            ranges
                .into_iter()
                .map(|range| GetOptions {
                    range: Some(GetRange::Bounded(range)),
                    ..options.clone()
                })
                .collect::<Vec<_>>()
        };
        let requests = match wanted {
            Wanted::Ranges(ranges) => each(
                &GetOptions::default(),
                plan::requests(ranges, self.source.preferences.gap_bytes, most),
            ),
            Wanted::Get(options) if options.head => vec![options.clone()],
            Wanted::Get(options) => match &options.range {
                Some(GetRange::Bounded(range)) => {
                    each(options, plan::requests(std::slice::from_ref(range), 0, most))
                }
                Some(GetRange::Offset(offset)) => vec![GetOptions {
                    range: Some(GetRange::Offset(plan::page_of(*offset))),
                    ..options.clone()
                }],
                Some(GetRange::Suffix(bytes)) => vec![GetOptions {
                    range: Some(GetRange::Suffix(plan::suffix(*bytes))),
                    ..options.clone()
                }],
                None => vec![options.clone()],
            },
        };
        if !requests.is_empty() {
            return requests;
        }
        // Nothing but empty ranges. The first is the store's to judge.
        match wanted {
            Wanted::Get(options) => vec![options.clone()],
            Wanted::Ranges(ranges) => each(&GetOptions::default(), ranges[..1].to_vec()),
        }
    }

    /// Asks the store whether an entry is its newest version, for a get that began at the moment
    /// `begin` and found the entry too old. Gets of one object share the request, if the rule of
    /// consistency lets them use one that was sent before they began.
    pub(super) async fn refresh(
        self: &Arc<Self>,
        entry: &Arc<Entry>,
        begin: u64,
    ) -> Result<Arc<Entry>> {
        let (path, version) = (entry.meta.location.as_ref(), entry.object.version.as_deref());
        let is_good_for_long =
            matches!(self.consistency, Consistency::ValidatedAfter(time) if time >= SHARED_FROM);
        // In doubt no answer is good for another get.
        if !is_good_for_long || self.epochs.is_doubted(path, self.epochs.now()) {
            return self.validate(entry).await;
        }
        let name = (Name::new(path, version), self.epochs.ticket(path));
        let seat = self.validations.board(&name, || {
            let (core, entry) = (Arc::clone(self), Arc::clone(entry));
            self.source.runtime.remember();
            self.source.runtime.enter(Box::pin(async move { Some(core.validate(&entry).await) }))
        });
        if let Some(newest) = seat.await {
            return newest;
        }
        match self.table.get(path, version) {
            Some(newest) if self.is_fresh(&newest, begin) => Ok(newest),
            _ => self.validate(entry).await,
        }
    }

    /// Asks the store whether an entry is its newest version. Returns that version.
    pub(super) async fn validate(self: &Arc<Self>, entry: &Arc<Entry>) -> Result<Arc<Entry>> {
        let (path, object) = (&entry.meta.location, &entry.object);
        let (ticket, sent) = (self.epochs.ticket(path.as_ref()), self.epochs.now());
        // Without a condition: an object that was written again with the same bytes may have the
        // same tag, and another time and other attributes.
        match self.source.head(path, object.version.clone(), object.place).await {
            Ok((meta, attributes)) => {
                let same = identity_of(&meta) == object.identity;
                let meta = ObjectMeta { location: path.clone(), ..meta };
                if same && meta == entry.meta && attributes == entry.attributes {
                    entry.set_validated(sent);
                    return Ok(Arc::clone(entry));
                }
                if !same {
                    self.source.is_there(path, &identity_of(&meta));
                    self.changed(entry);
                }
                let version = object.version.as_deref();
                let origin = Origin { version, place: object.place, ticket, sent };
                let newer = Arc::new(Entry::new(self, meta, attributes, &origin));
                if !self.keep(&newer, ticket) {
                    // Otherwise the next attempt finds the old entry again.
                    self.forget_entry(entry);
                    if !same {
                        self.cache.invalidate(&object.key);
                    }
                }
                Ok(newer)
            }
            Err(error @ Error::NotFound { .. }) => {
                self.forget_entry(entry);
                self.cache.invalidate(&object.key);
                Err(error)
            }
            Err(error) => Err(error),
        }
    }

    /// Keeps an entry, if the order of writes allows. The pages of another version go. Returns
    /// `true` if the entry is in the place of all older ones.
    fn keep(&self, entry: &Arc<Entry>, ticket: Ticket) -> bool {
        if entry.alone.is_some() {
            return false;
        }
        let object = &entry.object;
        let name = Name::new(entry.meta.location.as_ref(), object.version.as_deref());
        // An answer that was late does not replace one to a later request.
        let mut kept = false;
        let may_keep = |before: Option<&Entry>| {
            kept = self.epochs.may_keep(&ticket)
                && before.is_none_or(|before| before.validated() <= entry.validated());
            if kept && let Some(before) = before {
                // A listing may have shown a version that is newer than this one, too.
                entry.doubt_as(before);
            }
            kept
        };
        let before = self.table.insert(name, Arc::clone(entry), entry.bytes(), may_keep);
        if let Some(before) = before
            && before.object.key != object.key
        {
            self.cache.invalidate(&before.object.key);
        }
        kept
    }

    /// Removes an entry, so that the next get asks the store. Its pages stay: they are found again
    /// if the version is.
    pub(super) fn forget_entry(&self, entry: &Arc<Entry>) {
        let version = entry.object.version.as_deref();
        self.table.remove_same(entry.meta.location.as_ref(), version, entry);
        entry.doubt(self.epochs.now());
    }
}
