//! A request to a store that answers late: a future that owns all it needs, and holds no page lock
//! while it waits.
//!
//! | step | if it fails, or is dropped |
//! | --- | --- |
//! | 1. it stands in the table of its mapping: readers of its pages join it | it leaves the table |
//! | 2. wait for a permit of the backing, and one of the cache | the permits go to the next |
//! | 3. allocate frames, which no slot has | they are freed |
//! | 4. have the backing fill them | each waiter gets the error |
//! | 5. compare the version with that of the mapping | the pages of the other version leave, or an error |
//! | 6. publish the pages that have empty slots | the mapping was invalidated: only the waiters get them |

use std::io;
use std::mem;
use std::ops::Range;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use folio_frames::FRAME_SIZE;
use folio_ref::{Scheme, broken};

use crate::backing::error::{error, share};
use crate::backing::remote::{
    AsyncBacking, FillBuffer, FillRequest, OnChange, Priority, RemoteVersion,
};
use crate::coherence::version;
use crate::memory::frames_view;
use crate::memory::large_folio::publish_each;
use crate::memory::room;
use crate::policy::Advice;
use crate::read::in_table::{InTable, Joined};
use crate::read::permit::{self, Wish, permit, priority_of, rank_of, target};
use crate::read::plan::{self, Asked, Limits};
use crate::read::request_frames::{Frames, allocate};
use crate::rt::flight::{Flight, Task, Waiter};
use crate::rt::rank::Rank;
use crate::state::frames::{FrozenSlot, Slot};
use crate::state::kept;
use crate::state::mapping::Mapping;
use crate::state::remote::{Active, InFlight, Outcome, Published, Remote};
use crate::state::stats::Count;

/// The share of the cache's memory that the requests in flight may have.
pub(crate) const IN_FLIGHT_SHARE: usize = 4;

/// The number of short answers in a row that one request continues.
const MAX_SHORT: u32 = 16;

/// The number of times that a request begins anew because the object changed.
const MAX_CHANGES: u32 = 8;

/// Some pages of a request, and a waiter for it.
pub(crate) struct Part<S: Scheme> {
    pub(crate) pages: Range<u64>,
    /// The request was made for this part.
    pub(crate) is_new: bool,
    pub(crate) waiter: Waiter<Outcome<S>>,
}

/// The way in which pages are requested.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct How {
    pub(crate) priority: Priority,
    pub(crate) advice: Advice,
    /// The reader blocks: a spawner drives its requests, if there is one.
    pub(crate) blocks: bool,
    /// The reader may pause while requests are in flight: they are driven in the background too.
    pub(crate) pauses: bool,
    /// No reader asked for the pages yet.
    pub(crate) is_ahead: bool,
    /// The page that is to have the readahead marker.
    pub(crate) marker: Option<u64>,
}

/// Requests what is missing of some pages, sorted and apart, and joins the requests in flight that
/// have others of them. One that waits for its turn gets the priority of its reader, if that is
/// higher. Returns a waiter for each. Nothing was polled yet.
pub(crate) fn request<S: Scheme>(
    mapping: &Arc<Mapping<S>>,
    remote: &Remote<S>,
    wanted: &[Range<u64>],
    how: How,
) -> Vec<Part<S>> {
    let backing = remote.backing();
    let (limits, in_flight) = (plan::limits(mapping, &*backing), backing.preferences().in_flight);
    let mut joined = Joined::default();
    let (parts, permits) = remote.with_active(in_flight, |active| {
        let parts = request_under_lock(mapping, active, wanted, (limits, how), &mut joined);
        (parts, (!joined.raised.is_empty()).then(|| Arc::clone(&active.permits)))
    });
    if let Some(permits) = permits {
        permit::raise(mapping, remote, permits, &joined.raised);
    }
    parts
}

/// Does what [`request`] does, under the lock of the requests in flight. Adds what is left to do
/// after it to `joined`.
fn request_under_lock<S: Scheme>(
    mapping: &Arc<Mapping<S>>,
    active: &mut Active<S>,
    wanted: &[Range<u64>],
    (limits, how): (Limits, How),
    joined: &mut Joined<S>,
) -> Vec<Part<S>> {
    let mut parts = Vec::new();
    let mut missing: Vec<Range<u64>> = Vec::new();
    let Active { table, permits, .. } = active;
    // Under the lock of the table. A request leaves it after its pages were published.
    let (epoch, is_versioned) = (mapping.truncate_seq(), mapping.known_len().is_some());
    for range in wanted {
        let mut page = range.start;
        while page < range.end {
            let near = table.at_or_behind(page);
            if let Some(InFlight { pages, flight, rank }) = &near
                && pages.start <= page
            {
                let flight = flight.upgrade();
                let waiter = flight.as_ref().and_then(Flight::join);
                joined.flights.extend(flight);
                if let Some(waiter) = waiter {
                    if rank.raise(rank_of(how.priority)) && !broken!("joined-not-raised") {
                        joined.raised.push(Arc::clone(rank));
                    }
                    let end = pages.end.min(range.end);
                    parts.push(Part { pages: page..end, is_new: false, waiter });
                    page = end;
                } else {
                    table.remove_cancelled(pages.start);
                }
                continue;
            }
            let end = near.map_or(range.end, |it| it.pages.start.min(range.end));
            push_missing(mapping, page..end, &mut missing);
            page = end;
        }
    }
    let is_blocked =
        |gap: &Range<u64>| table.at_or_behind(gap.start).is_some_and(|it| it.pages.start < gap.end);
    for pages in plan::requests(&missing, limits, is_blocked) {
        let id = table.next_id();
        let entry = InTable {
            mapping: Arc::clone(mapping),
            id,
            first: pages.start,
            permits: Some(Arc::clone(permits)),
            is_versioned,
            is_over: false,
        };
        let asked = Asked { wanted: plan::within(&pages, &missing), pages: pages.clone() };
        let rank = Rank::new(rank_of(how.priority));
        let own = Arc::clone(&rank);
        let run = |flight| Box::pin(run(entry, asked, (epoch, how), (own, flight))) as Task<_>;
        let waiter = Flight::begin_with(run, panicked);
        table.insert(id, &pages, &waiter, (rank, is_versioned));
        parts.push(Part { pages, is_new: true, waiter });
    }
    parts
}

/// Requests what is missing of some pages, sorted and apart, in the background.
pub(crate) fn prefetch<S: Scheme>(
    mapping: &Arc<Mapping<S>>,
    remote: &Remote<S>,
    wanted: &[Range<u64>],
    how: How,
) {
    for part in request(mapping, remote, wanted, How { is_ahead: true, ..how }) {
        if part.is_new {
            mapping.shared.spawn(Box::pin(part.waiter.detach()));
        }
    }
}

/// Adds the pages of a range that have empty slots.
fn push_missing<S: Scheme>(mapping: &Mapping<S>, pages: Range<u64>, missing: &mut Vec<Range<u64>>) {
    for page in pages {
        let slot = u32::try_from(page).ok().and_then(|page| mapping.index.get(page));
        if !slot.is_none_or(Slot::is_empty) {
            continue;
        }
        match missing.last_mut() {
            Some(last) if last.end == page => last.end += 1,
            _ => missing.push(page..page + 1),
        }
    }
}

fn panicked<S: Scheme>() -> Outcome<S> {
    Outcome::Failed(Arc::new(io::Error::other("the backing panicked")))
}

/// The whole life of a request for some pages.
async fn run<S: Scheme>(
    mut entry: InTable<S>,
    asked: Asked,
    (epoch, how): (u64, How),
    own: (Arc<Rank>, Weak<Flight<Outcome<S>>>),
) -> Outcome<S> {
    let fetched = fetch(&entry, &asked, (epoch, how), own).await;
    entry.is_over = true;
    match fetched {
        Ok(outcome) => outcome,
        Err(error) => Outcome::Failed(Arc::new(share(error))),
    }
}

async fn fetch<S: Scheme>(
    entry: &InTable<S>,
    asked: &Asked,
    (epoch, how): (u64, How),
    (rank, flight): (Arc<Rank>, Weak<Flight<Outcome<S>>>),
) -> io::Result<Outcome<S>> {
    let (mapping, remote, pages) = (&entry.mapping, entry.remote(), &asked.pages);
    let shared = &mapping.shared;
    let wanted = (pages.end - pages.start) as usize;
    let permits = entry.permits.as_ref().expect("a request that runs has its permits");
    let backing = remote.backing();
    let target = target(mapping, remote, &*backing);
    let wish = Wish { target, rank: Arc::clone(&rank), weight: 0 };
    let _of_backing = permit(shared, permits, wish.clone(), Weak::clone(&flight) as _).await;
    let wish = Wish { weight: wanted, ..wish };
    let mut permit = permit(shared, &shared.remote_permits, wish, flight).await;
    let wanted = permit.weight();
    let pages = pages.start..pages.start + wanted as u64;
    let room = room::make_room(mapping, wanted);
    let mut frames = allocate(mapping, &pages).await?;
    permit.shrink(frames.folios.len());
    mapping.count(Count::Misses, frames.folios.len() as u64);
    if how.is_ahead {
        mapping.count(Count::Ahead, frames.folios.len() as u64);
    }
    let offset = pages.start * FRAME_SIZE as u64;
    let mut request = FillRequest { offset, len: 0, expected: None, priority: priority_of(&rank) };
    let (filled, reported) = fill(mapping, remote, &*backing, &mut frames, &mut request).await?;
    mapping.count(Count::FilledBytes, filled as u64);
    if !how.is_ahead {
        let gaps = asked.gaps() * FRAME_SIZE as u64;
        mapping.count(Count::WantedBytes, (filled as u64).saturating_sub(gaps));
    }
    let how = Publish { epoch, room, on_change: backing.on_change(), how };
    publish(entry, asked, frames, (filled, &reported), &how)
}

/// Has the backing fill the frames, in one request unless it answers short. Returns the number of
/// bytes and the version that they are of.
async fn fill<S: Scheme>(
    mapping: &Mapping<S>,
    remote: &Remote<S>,
    backing: &dyn AsyncBacking,
    frames: &mut Frames<'_, S>,
    request: &mut FillRequest,
) -> io::Result<(usize, RemoteVersion)> {
    let begins = request.offset;
    let (mut filled, mut short, mut changes) = (0, 0, 0);
    let mut version: Option<RemoteVersion> = None;
    loop {
        let known = mapping.known_version();
        let in_object = known.as_ref().map_or(u64::MAX, |known| known.len.saturating_sub(begins));
        let room = frames.folios.len() * FRAME_SIZE;
        // A request past the end tells the length, should it have grown.
        let wanted = match usize::try_from(in_object).unwrap_or(usize::MAX).min(room) {
            0 => room,
            wanted => wanted,
        };
        request.offset = begins + filled as u64;
        request.len = wanted.saturating_sub(filled) as u64;
        request.expected = known;
        mapping.count(Count::Requests, 1);
        let pieces = frames.pieces(filled..wanted);
        let mut buffer = FillBuffer::new(pieces);
        let reported = backing.fill(request.clone(), &mut buffer).await?;
        let more = buffer.filled();
        match &version {
            Some(before) if *before != reported => {
                // The bytes so far are of another version.
                changes += 1;
                if changes > MAX_CHANGES || backing.on_change() == OnChange::Fail {
                    return Err(version::restless(mapping));
                }
                (filled, short, version) = (0, 0, Some(reported));
                if request.offset > begins {
                    continue;
                }
                filled = more;
            }
            _ => {
                filled += more;
                version = Some(reported);
            }
        }
        let reported = version.as_ref().expect("it was just set");
        let end = reported.len.saturating_sub(begins);
        if filled >= wanted || filled as u64 >= end {
            let filled = filled.min(usize::try_from(end).unwrap_or(usize::MAX));
            return Ok((filled, reported.clone()));
        }
        short += 1;
        if more == 0 || short > MAX_SHORT {
            if filled >= FRAME_SIZE {
                return Ok((filled, reported.clone()));
            }
            let message = format!(
                "the store answers {more} of {} bytes at {} of {:?}, which has {} bytes",
                request.len, request.offset, remote.object.key, reported.len
            );
            return Err(error(io::ErrorKind::UnexpectedEof, message));
        }
    }
}

/// The way in which pages are published.
struct Publish {
    epoch: u64,
    /// The number of pages that fit into the share of the group.
    room: usize,
    on_change: OnChange,
    how: How,
}

/// Publishes what was filled.
fn publish<S: Scheme>(
    entry: &InTable<S>,
    asked: &Asked,
    mut frames: Frames<'_, S>,
    (filled, reported): (usize, &RemoteVersion),
    &Publish { epoch, room, on_change, how }: &Publish,
) -> io::Result<Outcome<S>> {
    let (mapping, remote) = (&entry.mapping, entry.remote());
    let first = asked.pages.start;
    let offset = first * FRAME_SIZE as u64;
    let is_end = offset + filled as u64 >= reported.len;
    // Evicts the pages of other leaves, if there is no room for more of them.
    if let Ok(first) = u32::try_from(first)
        && filled > 0
    {
        room::make_slot_to_read(mapping, first);
    }
    let (mut published, mut gaps) = (Vec::with_capacity(frames.folios.len()), Vec::new());
    let (mut folios, mut keeps_first) = (Vec::new(), false);
    {
        let mut version = version::lock(mapping, remote);
        let is_fresh = version.agree_with(entry.is_versioned, epoch, reported, on_change)?;
        let mut locked_slots: Vec<Option<FrozenSlot<'_, S>>> =
            Vec::with_capacity(frames.folios.len());
        for (n, mut folio) in mem::take(&mut frames.folios).into_iter().enumerate() {
            let has = filled.saturating_sub(n * FRAME_SIZE).min(FRAME_SIZE);
            let Ok(page) = u32::try_from(first + n as u64) else {
                folio.free();
                continue;
            };
            if has == 0 || (has < FRAME_SIZE && !is_end) {
                folio.free();
                continue;
            }
            folio.as_mut_slice()[has..].fill(0);
            let is_gap = !asked.has(u64::from(page));
            if !is_gap {
                // The first use does not count as one: the page came for it. One in a gap did not.
                folio.set_readahead(how.marker == Some(u64::from(page)));
            }
            let (pfn, owner_data) = (folio.pfn(), folio.owner_data());
            let slot = (n < room && is_fresh).then(|| room::try_make_slot(mapping, page));
            let Some(Ok(slot)) = slot else {
                // There is no room for it, or it may be old: its readers get it without the cache.
                mapping.count(Count::Uncached, 1);
                keeps_first |= n == 0;
                folios.push((u64::from(page), folio.init()));
                locked_slots.push(None);
                continue;
            };
            match slot.install(folio) {
                Ok(locked) => {
                    if is_gap { &mut gaps } else { &mut published }.push((pfn, owner_data));
                    locked_slots.push(Some(locked));
                }
                Err(folio) => {
                    folio.free();
                    locked_slots.push(None);
                }
            }
        }
        // Before the pages can leave. Relaxed: see `kept`.
        let pages = published.len() + gaps.len();
        remote.object.pages.fetch_add(pages as u32, Ordering::Relaxed);
        mapping.came(pages);
        publish_each(&mut locked_slots, |n, folio| {
            // No reader waits for what comes ahead, so no reference keeps its folios from being
            // split. A reader that has joined looks again.
            if !how.is_ahead {
                folios.push((first + n as u64, folio));
            }
        });
    }
    folios.sort_by_key(|(first, _)| *first);
    frames_view::insert_advised(&mapping.shared, &gaps, Advice::Once);
    frames_view::insert_advised(&mapping.shared, &published, how.advice);
    if !mapping.is_open() {
        kept::keep(mapping);
    }
    Ok(Outcome::Done(Published::new(&mapping.shared, folios, reported.clone(), keeps_first)))
}
