//! An entry of the table of metadata: one version of an object.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use folio_cache::{Cache, Key};

use super::Core;
use super::answers::{Kept, KeptPiece};
use super::object::Object;
use super::os::{Attributes, ObjectMeta};
use super::source::identity_of;
use crate::Consistency;
use crate::base::counters::Place;
use crate::base::epochs::{Epochs, Ticket};
use crate::base::key::key;

/// An object that changed this recently may change again without another time: without a strong
/// validator its pages are for one get alone.
const RECENT: Duration = Duration::from_secs(2);

/// The size of an entry without its texts, in bytes.
const OVERHEAD: usize = size_of::<Entry>() + size_of::<Object>() + 160;

/// One version of an object.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) object: Arc<Object>,
    pub(super) meta: ObjectMeta,
    pub(super) attributes: Attributes,
    /// The moment at which the last request was sent that showed this version as the newest. 0 if
    /// it must be asked again.
    validated: AtomicU64,
    /// The moment at which a listing showed another version. Validations from before it count as
    /// none.
    doubted: AtomicU64,
    /// The order of the request among the writes.
    ticket: Ticket,
    /// Its change by others was counted.
    counted: AtomicBool,
    /// The version cannot be told from its successor. The table never keeps it.
    pub(super) alone: Option<Alone>,
}

/// The pages of a version that cannot be told from its successor go with the entry.
#[derive(Debug)]
pub(super) struct Alone {
    cache: Cache,
    key: Key,
}

impl Drop for Alone {
    fn drop(&mut self) {
        self.cache.invalidate(&self.key);
    }
}

/// Where and when the answer to a request came from.
pub(super) struct Origin<'o> {
    pub(super) version: Option<&'o str>,
    pub(super) place: Place,
    pub(super) ticket: Ticket,
    pub(super) sent: u64,
}

/// The version that a get reads.
pub(super) struct Found {
    pub(super) entry: Arc<Entry>,
    /// The rule of consistency asks for a validation first, or beside the read.
    pub(super) stale: bool,
    /// The answer that a stream begins with. Its bytes are not read yet.
    pub(super) answer: Option<Kept>,
    /// The bytes that have come already. Dropped at the end of the get.
    pub(super) _pieces: Vec<KeptPiece>,
}

impl Entry {
    /// Returns the entry of an answer.
    pub(super) fn new(
        core: &Core,
        meta: ObjectMeta,
        attributes: Attributes,
        origin: &Origin<'_>,
    ) -> Self {
        let identity = identity_of(&meta);
        let alone = identity.strong.is_none() && {
            // Without a time, nothing but the size would tell two versions apart.
            let is_timeless = identity.modified <= 0 && core.consistency != Consistency::Immutable;
            is_timeless || was_recent(identity.modified, core.epochs.now() - origin.sent)
        };
        let path = meta.location.as_ref();
        let key = key(&core.id, path, origin.version, &identity, &origin.ticket, alone);
        let alone = alone.then(|| Alone { cache: core.cache.clone(), key: key.clone() });
        let object = Object {
            source: Arc::clone(&core.source),
            path: meta.location.clone(),
            version: origin.version.map(Into::into),
            if_match: identity.if_match(meta.e_tag.as_deref()).map(Into::into),
            identity,
            key,
            place: origin.place,
        };
        let validated = AtomicU64::new(origin.sent);
        let doubted = AtomicU64::new(0);
        let (ticket, counted) = (origin.ticket, AtomicBool::new(false));
        let object = Arc::new(object);
        Self { object, meta, attributes, validated, doubted, ticket, counted, alone }
    }

    /// Returns the moment of the last validation, or 0 if the version must be asked again.
    pub(super) fn validated(&self) -> u64 {
        let validated = self.validated.load(Relaxed);
        if validated > self.doubted.load(Relaxed) { validated } else { 0 }
    }

    /// Says that a request sent at this moment showed this version as the newest.
    pub(super) fn set_validated(&self, sent: u64) {
        self.validated.fetch_max(sent, Relaxed);
    }

    /// Has the gets ask the store, until a request that is sent after this moment is answered.
    pub(super) fn doubt(&self, now: u64) {
        self.doubted.fetch_max(now, Relaxed);
    }

    /// Doubts it as another one is doubted.
    pub(super) fn doubt_as(&self, other: &Self) {
        self.doubt(other.doubted.load(Relaxed));
    }

    /// Returns `true` the first time that a change is found, unless a write through this store may
    /// have made it.
    pub(super) fn is_changed_by_others(&self, epochs: &Epochs) -> bool {
        !epochs.is_written(&self.ticket) && !self.counted.swap(true, Relaxed)
    }

    /// Returns the size of the entry in bytes.
    pub(super) fn bytes(&self) -> usize {
        let texts =
            [&self.meta.e_tag, &self.meta.version].map(|text| text.as_ref().map_or(0, String::len));
        let attributes: usize = self
            .attributes
            .iter()
            .map(|(name, value)| size_of_val(name) + size_of_val(value) + value.len() + 32)
            .sum();
        // The path is in the metadata, the object, the name of its pages and the table; the
        // validators in the first three.
        OVERHEAD
            + 4 * self.meta.location.as_ref().len()
            + 3 * texts.iter().sum::<usize>()
            + attributes
    }
}

/// Returns `true` if a moment in nanoseconds since 1970 was not long ago, or in the future, so many
/// nanoseconds before now: when a request was sent. A slow answer is as old as its request.
fn was_recent(modified: i64, ago: u64) -> bool {
    let modified = Duration::from_nanos(modified.try_into().unwrap_or(0));
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    modified.saturating_add(RECENT).saturating_add(Duration::from_nanos(ago)) > now
}
