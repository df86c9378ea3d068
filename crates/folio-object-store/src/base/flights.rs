//! The first requests of objects about which nothing is known, so that many readers make one.
//!
//! Any of the readers that wait for a request drives it, so one that is not polled holds up no
//! other. When the last one is dropped, the request is dropped too. No waker is called under a
//! lock.

use std::collections::HashMap;
use std::hash::Hash;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst, fence};
use std::task::{Context, Poll, Wake, Waker};

use folio_cache::BoxFuture;
use parking_lot::Mutex;

/// The first requests under way. It has at most one entry for each get under way.
pub(crate) struct Flights<K>(Mutex<HashMap<K, Boarded>>);

/// A request under way, and the number of its readers.
struct Boarded {
    flight: Arc<Flight>,
    seats: usize,
}

/// A request that several readers wait for.
struct Flight {
    /// `None` after its end.
    request: Mutex<Option<BoxFuture<'static, ()>>>,
    /// A poll found the request locked: the thread with the lock has to wake the readers.
    missed: AtomicBool,
    readers: Arc<Readers>,
}

/// The wakers of the readers. The waker of the request leads here, so that a store that keeps it
/// does not keep the request.
#[derive(Default)]
struct Readers(Mutex<State>);

#[derive(Default)]
struct State {
    landed: bool,
    next: u64,
    wakers: HashMap<u64, Waker>,
}

/// A reader's part in a request: ready when that has ended, in any way.
pub(crate) struct Seat<'f, K: Eq + Hash + Clone> {
    flights: &'f Flights<K>,
    key: K,
    flight: Arc<Flight>,
    id: u64,
}

impl<K: Eq + Hash + Clone> Flights<K> {
    pub(crate) fn new() -> Self {
        Self(Mutex::default())
    }

    /// Joins the first request of an object, or begins it with the future that `begin` returns.
    /// Returns `true` beside the seat if it has begun.
    pub(crate) fn board(
        &self,
        key: &K,
        begin: impl FnOnce() -> BoxFuture<'static, ()>,
    ) -> (Seat<'_, K>, bool) {
        let mut flights = self.0.lock();
        let is_new = !flights.contains_key(key);
        let boarded = flights.entry(key.clone()).or_insert_with(|| Boarded {
            flight: Arc::new(Flight {
                request: Mutex::new(Some(begin())),
                missed: AtomicBool::new(false),
                readers: Arc::default(),
            }),
            seats: 0,
        });
        boarded.seats += 1;
        let flight = Arc::clone(&boarded.flight);
        drop(flights);
        let id = {
            let mut readers = flight.readers.0.lock();
            readers.next += 1;
            readers.next
        };
        (Seat { flights: self, key: key.clone(), flight, id }, is_new)
    }

    /// Lets no further reader join a request.
    fn close(&self, key: &K, flight: &Arc<Flight>) {
        let mut flights = self.0.lock();
        if flights.get(key).is_some_and(|it| Arc::ptr_eq(&it.flight, flight)) {
            flights.remove(key);
        }
    }

    /// Removes a reader of a request, and the request with its last one.
    fn leave(&self, key: &K, flight: &Arc<Flight>) -> Option<Boarded> {
        let mut flights = self.0.lock();
        let boarded = flights.get_mut(key).filter(|it| Arc::ptr_eq(&it.flight, flight))?;
        boarded.seats -= 1;
        if boarded.seats == 0 { flights.remove(key) } else { None }
    }
}

impl Flight {
    /// Polls the request, unless another thread does. Returns `true` if it has ended.
    fn poll(&self) -> bool {
        let mut request = self.request.try_lock();
        if request.is_none() {
            self.missed.store(true, SeqCst);
            // Pairs with the one below: either this finds the lock free, or the thread with the
            // lock finds the mark.
            fence(SeqCst);
            request = self.request.try_lock();
        }
        let Some(mut request) = request else { return false };
        let Some(future) = request.as_mut() else { return true };
        let waker = Waker::from(Arc::clone(&self.readers));
        let mut context = Context::from_waker(&waker);
        let polled = catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(&mut context)));
        let ended = if matches!(polled, Ok(Poll::Pending)) { None } else { request.take() };
        drop(request);
        if ended.is_some() {
            drop(ended); // under no lock
            self.readers.0.lock().landed = true;
            self.readers.wake_all();
        } else {
            fence(SeqCst);
            if self.missed.swap(false, SeqCst) {
                self.readers.wake_all();
            }
        }
        polled.unwrap_or_else(|panic| resume_unwind(panic)).is_ready()
    }
}

impl Readers {
    fn wake_all(&self) {
        let wakers = std::mem::take(&mut self.0.lock().wakers);
        wakers.into_values().for_each(Waker::wake);
    }
}

impl Wake for Readers {
    fn wake(self: Arc<Self>) {
        self.wake_all();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.wake_all();
    }
}

impl<K: Eq + Hash + Clone> Future for Seat<'_, K> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let before = {
            let mut readers = self.flight.readers.0.lock();
            if readers.landed {
                return Poll::Ready(());
            }
            readers.wakers.insert(self.id, context.waker().clone())
        };
        drop(before); // under no lock
        if !self.flight.poll() {
            return Poll::Pending;
        }
        self.flights.close(&self.key, &self.flight);
        Poll::Ready(())
    }
}

impl<K: Eq + Hash + Clone> Drop for Seat<'_, K> {
    fn drop(&mut self) {
        let waker = self.flight.readers.0.lock().wakers.remove(&self.id);
        let boarded = self.flights.leave(&self.key, &self.flight);
        drop((waker, boarded)); // under no lock
    }
}

impl<K> std::fmt::Debug for Flights<K> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Flights").field("under_way", &self.0.lock().len()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;
    use tokio::sync::oneshot::{Receiver, channel};

    fn request(end: Receiver<()>) -> BoxFuture<'static, ()> {
        Box::pin(async move { end.await.expect("the request is ended by the test") })
    }

    #[test]
    fn any_reader_drives_the_request() {
        let flights = Flights::new();
        let (end, ended) = channel();
        let (mut first, is_new) = flights.board(&1, || request(ended));
        assert!(is_new && (&mut first).now_or_never().is_none());
        let (mut second, is_new) = flights.board(&1, || unreachable!("it is under way"));
        assert!(!is_new && (&mut second).now_or_never().is_none());
        assert!(flights.board(&2, || Box::pin(async {})).1);
        end.send(()).unwrap();
        // The first, which began the request, is not polled again.
        assert_eq!(second.now_or_never(), Some(()));
        assert!(flights.0.lock().is_empty());
        assert_eq!(first.now_or_never(), Some(()));
    }

    #[test]
    fn a_request_outlives_the_reader_that_began_it() {
        let flights = Flights::new();
        let (mut end, ended) = channel();
        let (first, _) = flights.board(&1, || request(ended));
        let (second, _) = flights.board(&1, || unreachable!("it is under way"));
        drop(first);
        assert!(!end.is_closed());
        drop(second);
        assert!(end.is_closed() && flights.0.lock().is_empty());
        assert!(end.closed().now_or_never().is_some());
    }

    #[test]
    fn the_end_of_a_request_wakes_all_readers() {
        let flights = Flights::new();
        let (end, ended) = channel();
        let (mut first, _) = flights.board(&1, || request(ended));
        assert!((&mut first).now_or_never().is_none());
        std::thread::scope(|scope| {
            for _ in 0..4 {
                let (seat, _) = flights.board(&1, || unreachable!("it is under way"));
                scope.spawn(move || {
                    let runtime = tokio::runtime::Builder::new_current_thread().build();
                    runtime.expect("a runtime").block_on(seat);
                });
            }
            end.send(()).unwrap();
        });
        drop(first);
        assert!(flights.0.lock().is_empty());
    }

    #[test]
    fn a_panic_of_the_request_leaves_no_reader_asleep() {
        let flights = Flights::new();
        let (first, _) = flights.board(&1, || Box::pin(async { panic!("a bug of the store") }));
        let (second, _) = flights.board(&1, || unreachable!("it is under way"));
        catch_unwind(AssertUnwindSafe(|| first.now_or_never())).unwrap_err();
        assert_eq!(second.now_or_never(), Some(()));
        assert!(flights.0.lock().is_empty());
    }
}
