//! A distant store in memory, for tests and benchmarks: latency, bandwidth, and faults on demand.
//! Time passes in a thread of its own, so that it needs no runtime.

use std::collections::BinaryHeap;
use std::fmt;
use std::future;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};
use std::task::{Poll, Waker};
use std::thread;
use std::time::{Duration, Instant};

use crate::rt::lock::{Condvar, Mutex, MutexGuard};

use super::remote::{
    AsyncBacking, BoxFuture, FillBuffer, FillRequest, Key, OnChange, Preferences, RemoteVersion,
    Validator,
};

/// A fault of a request to a [`Distant`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum DistantFault {
    /// It fails with an error of this kind, with a [`DistantError`] as its source.
    Error(io::ErrorKind),
    /// It is answered with at most this many bytes.
    Short(usize),
    /// It takes this much longer.
    Late(Duration),
    /// It is never answered.
    Never,
    /// It panics when it is polled.
    Panic,
    /// It is answered with this validator.
    Validator(Validator),
    /// It is answered with this length of the object.
    Length(u64),
}

/// The error of a request that was told to fail: the store's own type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DistantError {
    /// The number of the request, from 0.
    pub request: usize,
}

impl fmt::Display for DistantError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "request {} was told to fail", self.request)
    }
}

impl std::error::Error for DistantError {}

struct Injected {
    after: usize,
    times: usize,
    fault: DistantFault,
}

struct Object {
    bytes: Arc<[u8]>,
    version: u64,
    faults: Vec<Injected>,
    requests: Vec<Range<u64>>,
}

/// An object of a distant store, in memory.
///
/// A request takes the latency, and then the time that the bandwidth gives its bytes. Requests do
/// not share the bandwidth.
///
/// # Examples
///
/// ```
/// use std::io::ErrorKind;
/// use std::sync::Arc;
/// use std::time::Duration;
/// use folio_cache::Cache;
/// use folio_cache::testing::{Distant, DistantFault};
///
/// # fn main() -> std::io::Result<()> {
/// let distant = Arc::new(Distant::new(&[7; 100_000]).with_latency(Duration::from_millis(1)));
/// let file = Cache::new(4 << 20)?.open_async(distant.clone())?;
/// distant.inject(0, 1, DistantFault::Error(ErrorKind::ConnectionReset)); // once
/// assert!(file.read_at(&mut [0; 10], 50_000).is_err());
/// assert_eq!(file.read_at(&mut [0; 10], 50_000)?, 10);
/// assert_eq!(distant.requests().len(), 2);
/// # Ok(())
/// # }
/// ```
pub struct Distant {
    key: Key,
    latency: Duration,
    /// Bytes in a second.
    bandwidth: Option<u64>,
    preferences: Preferences,
    on_change: OnChange,
    object: Mutex<Object>,
    in_flight: AtomicUsize,
    most_in_flight: AtomicUsize,
    versions: AtomicUsize,
}

impl Distant {
    /// Returns an object with these bytes and a key of its own, which answers at once.
    pub fn new(bytes: &[u8]) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        // Relaxed: they only have to differ.
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let object =
            Object { bytes: bytes.into(), version: 0, faults: Vec::new(), requests: Vec::new() };
        Self {
            key: Key::new("folio: distant", number.to_string().into_bytes()),
            latency: Duration::ZERO,
            bandwidth: None,
            preferences: Preferences::default(),
            on_change: OnChange::default(),
            object: Mutex::new(object),
            in_flight: AtomicUsize::new(0),
            most_in_flight: AtomicUsize::new(0),
            versions: AtomicUsize::new(0),
        }
    }

    /// Sets the key.
    #[must_use]
    pub fn with_key(mut self, key: Key) -> Self {
        self.key = key;
        self
    }

    /// Sets the time until the first byte of an answer.
    #[must_use]
    pub fn with_latency(mut self, latency: Duration) -> Self {
        self.latency = latency;
        self
    }

    /// Sets the bandwidth of each request, in bytes per second.
    #[must_use]
    pub fn with_bandwidth(mut self, bytes_per_second: u64) -> Self {
        self.bandwidth = Some(bytes_per_second.max(1));
        self
    }

    /// Sets what the store prefers.
    #[must_use]
    pub fn with_preferences(mut self, preferences: Preferences) -> Self {
        self.preferences = preferences;
        self
    }

    /// Sets what happens when the object changes.
    #[must_use]
    pub fn with_on_change(mut self, on_change: OnChange) -> Self {
        self.on_change = on_change;
        self
    }

    /// Replaces the bytes: the object has another validator from now on. Requests in flight are
    /// answered with the new bytes.
    pub fn replace(&self, bytes: &[u8]) {
        let mut object = self.object.lock();
        object.bytes = bytes.into();
        object.version += 1;
    }

    /// Makes a fault: the next `after` requests pass, and the `times` that follow meet it.
    pub fn inject(&self, after: usize, times: usize, fault: DistantFault) {
        let mut object = self.object.lock();
        let after = object.requests.len() + after;
        object.faults.push(Injected { after, times, fault });
    }

    /// Ends all faults. Requests that are never answered stay so.
    pub fn heal(&self) {
        self.object.lock().faults.clear();
    }

    /// Returns the ranges of all requests for bytes so far, in the order in which they were sent.
    pub fn requests(&self) -> Vec<Range<u64>> {
        self.object.lock().requests.clone()
    }

    /// Returns the number of requests for the version alone so far.
    pub fn version_requests(&self) -> usize {
        self.versions.load(Ordering::Relaxed)
    }

    /// Returns the number of requests in flight: sent, and neither answered nor dropped.
    pub fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Returns the largest number of requests that were in flight at once.
    pub fn most_in_flight(&self) -> usize {
        self.most_in_flight.load(Ordering::Relaxed)
    }

    /// Returns the version as it is now.
    pub fn now(&self) -> RemoteVersion {
        let object = self.object.lock();
        version_of(&object)
    }

    fn begin(&self) -> InFlight<'_> {
        // Relaxed, here and below: counts.
        let now = self.in_flight.fetch_add(1, Ordering::Relaxed) + 1;
        self.most_in_flight.fetch_max(now, Ordering::Relaxed);
        InFlight(self)
    }

    async fn answer(
        &self,
        request: FillRequest,
        buffer: &mut FillBuffer<'_>,
    ) -> io::Result<RemoteVersion> {
        let _in_flight = self.begin();
        let (number, fault) = {
            let mut object = self.object.lock();
            let number = object.requests.len();
            object.requests.push(request.offset..request.offset.saturating_add(request.len));
            let hit = object.faults.iter_mut().find(|it| it.after <= number && it.times > 0);
            let fault = hit.map(|it| {
                it.times -= 1;
                it.fault.clone()
            });
            (number, fault)
        };
        let mut time = self.latency;
        match &fault {
            Some(DistantFault::Late(late)) => time += *late,
            Some(DistantFault::Never) => future::pending().await,
            Some(DistantFault::Panic) => panic!("request {number} was told to panic"),
            _ => {}
        }
        if let Some(bandwidth) = self.bandwidth {
            time += Duration::from_secs_f64(request.len as f64 / bandwidth as f64);
        }
        sleep(time).await;
        if let Some(DistantFault::Error(kind)) = fault {
            return Err(io::Error::new(kind, DistantError { request: number }));
        }
        let (bytes, mut version) = {
            let object = self.object.lock();
            (Arc::clone(&object.bytes), version_of(&object))
        };
        let begins = usize::try_from(request.offset).unwrap_or(usize::MAX).min(bytes.len());
        let mut wanted = usize::try_from(request.len).unwrap_or(usize::MAX);
        match fault {
            Some(DistantFault::Short(most)) => wanted = wanted.min(most),
            Some(DistantFault::Validator(validator)) => version.validator = validator,
            Some(DistantFault::Length(len)) => version.len = len,
            _ => {}
        }
        buffer.put_slice(&bytes[begins..begins.saturating_add(wanted).min(bytes.len())]);
        Ok(version)
    }
}

fn version_of(object: &Object) -> RemoteVersion {
    let validator = Validator::new(object.version.to_string().into_bytes());
    RemoteVersion { len: object.bytes.len() as u64, validator }
}

impl AsyncBacking for Distant {
    fn key(&self) -> Key {
        self.key.clone()
    }

    fn fill<'a>(
        &'a self,
        request: FillRequest,
        buffer: &'a mut FillBuffer<'_>,
    ) -> BoxFuture<'a, io::Result<RemoteVersion>> {
        Box::pin(self.answer(request, buffer))
    }

    fn version(&self) -> BoxFuture<'_, io::Result<RemoteVersion>> {
        Box::pin(async {
            self.versions.fetch_add(1, Ordering::Relaxed);
            let _in_flight = self.begin();
            sleep(self.latency).await;
            Ok(self.now())
        })
    }

    fn preferences(&self) -> Preferences {
        self.preferences
    }

    fn on_change(&self) -> OnChange {
        self.on_change
    }
}

impl fmt::Debug for Distant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Distant")
            .field("key", &self.key)
            .field("latency", &self.latency)
            .finish_non_exhaustive()
    }
}

/// A request in flight.
struct InFlight<'d>(&'d Distant);

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A waker that is due at a time. The earliest comes first.
struct Alarm(Instant, u64, Waker);

impl PartialEq for Alarm {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
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
        (other.0, other.1).cmp(&(self.0, self.1))
    }
}

#[derive(Default)]
struct Clock {
    alarms: Mutex<BinaryHeap<Alarm>>,
    changed: Condvar,
}

/// Returns the clock of all distant stores of the process. Its thread never ends.
fn clock() -> &'static Clock {
    static CLOCK: LazyLock<Clock> = LazyLock::new(|| {
        let run = || {
            let clock = clock();
            let mut alarms = clock.alarms.lock();
            loop {
                let now = Instant::now();
                match alarms.peek() {
                    None => clock.changed.wait(&mut alarms),
                    Some(alarm) if alarm.0 > now => {
                        let next = alarm.0;
                        clock.changed.wait_until(&mut alarms, next);
                    }
                    Some(_) => {
                        let due = alarms.pop().map(|alarm| alarm.2);
                        MutexGuard::unlocked(&mut alarms, || {
                            due.into_iter().for_each(Waker::wake);
                        });
                    }
                }
            }
        };
        thread::Builder::new().name("distant-clock".to_owned()).spawn(run).expect("a thread");
        Clock::default()
    });
    &CLOCK
}

/// Sleeps, without a runtime. A zero sleep is ready at once.
async fn sleep(time: Duration) {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    if time.is_zero() {
        return;
    }
    let end = Instant::now() + time;
    future::poll_fn(|context| {
        if Instant::now() >= end {
            return Poll::Ready(());
        }
        let clock = clock();
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        clock.alarms.lock().push(Alarm(end, number, context.waker().clone()));
        clock.changed.notify_one();
        Poll::Pending
    })
    .await;
}
