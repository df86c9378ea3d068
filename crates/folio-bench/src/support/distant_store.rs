//! A simulated distant store, which all contenders of a benchmark share.
//!
//! An object is a number and a length. Its bytes repeat those of one piece of memory. An answer is
//! a slice of that memory, so the store itself costs no copy. Time passes as [`Distance`] says: a
//! request waits for its turn, takes the cost of a request and the latency, and then its share of
//! the bandwidth. A thread of the process calls the wakers, so that no runtime is needed.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::future::poll_fn;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::task::{Poll, Waker};
use std::thread;
use std::time::{Duration, Instant};

use folio_cache::{
    AsyncBacking, BoxFuture, Bytes, FillBuffer, FillRequest, Key, Preferences, RemoteVersion,
    Validator,
};
use parking_lot::{Condvar, Mutex};

use crate::harness::Distance;

/// The bytes of the memory that all objects repeat.
const SOURCE: u64 = 64 << 20;

/// The largest number of requests in flight.
pub(crate) const IN_FLIGHT: usize = 256;

/// The requests of a store in the past and in the future.
struct Line {
    /// The ends of the requests in flight.
    ends: BinaryHeap<Reverse<Instant>>,
    /// The time at which the store takes the next request.
    takes: Instant,
    /// The time at which the link is free.
    is_free: Instant,
}

/// A store with objects of any number.
pub(crate) struct Store {
    distance: Distance,
    source: Bytes,
    /// An answer is a copy, as one that comes from a network.
    copies: bool,
    line: Mutex<Line>,
    requests: AtomicU64,
    bytes: AtomicU64,
}

impl Store {
    /// Makes a store at a distance. Its answers are slices of its memory.
    pub(crate) fn new(distance: Distance) -> Self {
        let words = (0..SOURCE / 8).flat_map(|n| (n * 8).to_le_bytes());
        Self::of(words.collect::<Vec<u8>>().into(), distance, false)
    }

    /// Makes a store with the same bytes that answers at once. If `copies` is `true`, each answer
    /// has memory of its own.
    pub(crate) fn near(&self, copies: bool) -> Self {
        Self::of(self.source.clone(), Distance::NONE, copies)
    }

    fn of(source: Bytes, distance: Distance, copies: bool) -> Self {
        let now = Instant::now();
        Self {
            distance,
            source,
            copies,
            line: Mutex::new(Line { ends: BinaryHeap::new(), takes: now, is_free: now }),
            requests: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
        }
    }

    /// Returns the number of requests so far, and the bytes of their answers.
    pub(crate) fn counts(&self) -> (u64, u64) {
        // Relaxed: counts.
        (self.requests.load(Ordering::Relaxed), self.bytes.load(Ordering::Relaxed))
    }

    /// Returns the bytes of a range of any object, piece by piece. Each piece is contiguous.
    pub(crate) async fn get(&self, range: Range<u64>) -> impl Iterator<Item = Bytes> {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(range.end - range.start, Ordering::Relaxed);
        sleep_until(self.end_of(range.end - range.start)).await;
        let mut at = range.start;
        std::iter::from_fn(move || {
            let begins = at % SOURCE;
            let len = (range.end - at).min(SOURCE - begins);
            at += len;
            let piece = self.source.slice(begins as usize..(begins + len) as usize);
            let own = || Bytes::copy_from_slice(&piece);
            (len > 0).then(|| if self.copies { own() } else { piece.clone() })
        })
    }

    /// Returns the bytes of a range of any object in one piece.
    pub(crate) async fn get_one(&self, range: Range<u64>) -> Bytes {
        let mut pieces = self.get(range).await;
        let first = pieces.next().unwrap_or_default();
        match pieces.next() {
            None => first,
            Some(next) => {
                [first, next].into_iter().chain(pieces).collect::<Vec<_>>().concat().into()
            }
        }
    }

    /// Puts a request in the line. Returns the time at which it is answered, or `None` if at once.
    fn end_of(&self, bytes: u64) -> Option<Instant> {
        let Distance { latency, request, bandwidth } = self.distance;
        if self.distance == Distance::NONE {
            return None;
        }
        let now = Instant::now();
        let mut line = self.line.lock();
        while line.ends.peek().is_some_and(|end| end.0 <= now) {
            line.ends.pop();
        }
        let turn =
            if line.ends.len() < IN_FLIGHT { now } else { line.ends.pop().map_or(now, |it| it.0) };
        line.takes = line.takes.max(turn) + request;
        let mut end = line.takes + latency;
        if bandwidth > 0 {
            let time = Duration::from_secs_f64(bytes as f64 / bandwidth as f64);
            line.is_free = line.is_free.max(end) + time;
            end = line.is_free;
        }
        line.ends.push(Reverse(end));
        Some(end)
    }
}

/// An object of a store, as a backing of the cache.
pub(crate) struct Object {
    store: Arc<Store>,
    number: u64,
    len: u64,
    preferences: Preferences,
}

impl Object {
    /// Makes the object with a number and a length.
    pub(crate) fn new(store: &Arc<Store>, number: u64, len: u64) -> Arc<Self> {
        let preferences = Preferences::default().in_flight(IN_FLIGHT);
        Arc::new(Self { store: Arc::clone(store), number, len, preferences })
    }

    fn now(&self) -> RemoteVersion {
        RemoteVersion { len: self.len, validator: Validator::new([]) }
    }
}

impl std::fmt::Debug for Object {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Object").field("number", &self.number).finish_non_exhaustive()
    }
}

impl AsyncBacking for Object {
    fn key(&self) -> Key {
        Key::new("bench", self.number.to_le_bytes())
    }

    fn fill<'a>(
        &'a self,
        request: FillRequest,
        buffer: &'a mut FillBuffer<'_>,
    ) -> BoxFuture<'a, io::Result<RemoteVersion>> {
        Box::pin(async move {
            let begins = request.offset.min(self.len);
            let end = request.offset.saturating_add(request.len).min(self.len);
            for piece in self.store.get(begins..end).await {
                buffer.put_slice(&piece);
            }
            Ok(self.now())
        })
    }

    fn version(&self) -> BoxFuture<'_, io::Result<RemoteVersion>> {
        Box::pin(async {
            sleep_until(self.store.end_of(0)).await;
            Ok(self.now())
        })
    }

    fn preferences(&self) -> Preferences {
        self.preferences
    }
}

/// A waker that is due at a time. The earliest comes first.
struct Alarm(Instant, Waker);

impl PartialEq for Alarm {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

impl Eq for Alarm {}

impl PartialOrd for Alarm {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Alarm {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        other.0.cmp(&self.0)
    }
}

#[derive(Default)]
struct Clock {
    alarms: Mutex<BinaryHeap<Alarm>>,
    changed: Condvar,
}

/// Returns the clock of all stores. Its thread never ends.
fn clock() -> &'static Clock {
    static CLOCK: LazyLock<Arc<Clock>> = LazyLock::new(|| {
        let clock = Arc::new(Clock::default());
        let its = Arc::clone(&clock);
        thread::spawn(move || its.run());
        clock
    });
    &CLOCK
}

impl Clock {
    fn run(&self) {
        let mut due = Vec::new();
        let mut alarms = self.alarms.lock();
        loop {
            let now = Instant::now();
            while let Some(Alarm(_, waker)) =
                alarms.peek().is_some_and(|alarm| alarm.0 <= now).then(|| alarms.pop()).flatten()
            {
                due.push(waker);
            }
            if due.is_empty() {
                match alarms.peek().map(|alarm| alarm.0) {
                    None => self.changed.wait(&mut alarms),
                    Some(next) => _ = self.changed.wait_until(&mut alarms, next),
                }
                continue;
            }
            parking_lot::MutexGuard::unlocked(&mut alarms, || {
                due.drain(..).for_each(Waker::wake);
            });
        }
    }
}

/// Sleeps until a time, without a runtime. `None` is over at once.
async fn sleep_until(end: Option<Instant>) {
    let Some(end) = end else { return };
    let mut registered: Option<Waker> = None;
    poll_fn(|context| {
        if Instant::now() >= end {
            return Poll::Ready(());
        }
        if !registered.as_ref().is_some_and(|waker| waker.will_wake(context.waker())) {
            registered = Some(context.waker().clone());
            let clock = clock();
            clock.alarms.lock().push(Alarm(end, context.waker().clone()));
            clock.changed.notify_one();
        }
        Poll::Pending
    })
    .await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::support::executor::drive;

    /// Returns the time that requests of one byte take, all at once.
    fn time(distance: Distance, requests: usize) -> Duration {
        let store = Store::of(vec![1; SOURCE as usize].into(), distance, false);
        let began = Instant::now();
        drive(requests, (0..requests).map(|_| store.get_one(5..6)), |got| assert_eq!(got.len(), 1));
        assert_eq!(store.counts(), (requests as u64, requests as u64));
        began.elapsed()
    }

    #[test]
    fn latency_limit_and_request_cost_take_their_time() {
        let ms = Duration::from_millis;
        let distance = Distance { latency: ms(20), ..Distance::NONE };
        assert!(time(distance, IN_FLIGHT) >= ms(20));
        assert!(time(distance, 2 * IN_FLIGHT + 1) >= ms(60));
        assert!(time(Distance { request: ms(1), ..distance }, 30) >= ms(50));
        assert!(time(Distance { bandwidth: 1000, ..distance }, 30) >= ms(50));
    }

    #[test]
    fn a_range_past_the_memory_begins_it_anew() {
        let store = Store::new(Distance::NONE);
        drive(1, [store.get_one(SOURCE - 8..SOURCE + 16)], |got| {
            let words = got.chunks(8).map(|word| u64::from_le_bytes(word.try_into().unwrap()));
            assert_eq!(words.collect::<Vec<_>>(), [SOURCE - 8, 0, 8]);
        });
    }
}
