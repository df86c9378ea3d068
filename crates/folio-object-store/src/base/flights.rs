//! Requests that tell what is known about an object, so that many readers make one: the first, and
//! validations.
//!
//! Any of the readers that wait for a request drives it, so one that is not polled holds up no
//! other. When the last one is dropped, the request is dropped too. A request that is not answered
//! for some seconds may hang: later readers make another beside it.

use std::collections::HashMap;
use std::hash::Hash;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use folio_cache::BoxFuture;
use folio_cache::internal::{Flight, Waiter};
use parking_lot::Mutex;

/// The age of a request from which on no further reader joins it.
const OLD: Duration = Duration::from_secs(5);

/// A request, and the moment at which it began.
type Begun<T> = (Arc<Flight<Option<T>>>, Instant);

/// The requests under way, with answers of type `T`. It has at most one entry for each get
/// under way.
pub(crate) struct Flights<K, T> {
    under_way: Mutex<HashMap<K, Begun<T>>>,
    old: Duration,
    /// Returns what the other readers get of an answer.
    copy: fn(&T) -> Option<T>,
}

/// A reader's part in a request: ready when that has ended, in any way. Returns the answer to the
/// reader that began it, and to others a copy, or `None`: it may be too old for them. `None` too if
/// the request panicked.
pub(crate) struct Seat<'f, K: Eq + Hash, T: Send + 'static> {
    flights: &'f Flights<K, T>,
    key: K,
    begins: bool,
    /// `None` in the drop alone.
    waiter: Option<Waiter<Option<T>>>,
}

impl<K: Eq + Hash + Clone, T: Send + 'static> Flights<K, T> {
    pub(crate) fn new() -> Self {
        Self::sharing(|_| None)
    }

    /// Returns requests of which other readers get what `copy` returns of an answer.
    pub(crate) fn sharing(copy: fn(&T) -> Option<T>) -> Self {
        Self { under_way: Mutex::default(), old: OLD, copy }
    }

    /// Joins the request of an object, or begins it with the future that `begin` returns. One that
    /// is old goes on for those that wait for it.
    pub(crate) fn board(
        &self,
        key: &K,
        begin: impl FnOnce() -> BoxFuture<'static, Option<T>>,
    ) -> Seat<'_, K, T> {
        let now = Instant::now();
        let mut flights = self.under_way.lock();
        let young = flights.get(key).filter(|(_, begun)| now.duration_since(*begun) < self.old);
        let joined = young.and_then(|(flight, _)| flight.join());
        let begins = joined.is_none();
        let waiter = joined.unwrap_or_else(|| {
            let waiter = Flight::begin(begin(), || None);
            flights.insert(key.clone(), (Arc::clone(waiter.flight()), now));
            waiter
        });
        drop(flights);
        Seat { flights: self, key: key.clone(), begins, waiter: Some(waiter) }
    }
}

impl<K: Eq + Hash, T: Send + 'static> Seat<'_, K, T> {
    /// Returns `true` if the request was begun for this reader.
    pub(crate) fn begins(&self) -> bool {
        self.begins
    }

    /// Lets no further reader join the request.
    fn close(&self, flight: &Arc<Flight<Option<T>>>) {
        let mut flights = self.flights.under_way.lock();
        if flights.get(&self.key).is_some_and(|(it, _)| Arc::ptr_eq(it, flight)) {
            flights.remove(&self.key);
        }
    }
}

impl<K: Eq + Hash + Unpin, T: Send + 'static> Future for Seat<'_, K, T> {
    type Output = Option<T>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<T>> {
        let (begins, copy) = (self.begins, self.flights.copy);
        let waiter = self.waiter.as_mut().expect("a seat is not polled in its drop");
        if waiter.poll(context.waker()).is_pending() {
            return Poll::Pending;
        }
        let copied = waiter.result(|answer| answer.as_ref().and_then(copy)).flatten();
        let answer = match copied {
            None if begins => waiter.result(Option::take).flatten(),
            copied => copied,
        };
        let flight = Arc::clone(waiter.flight());
        self.close(&flight);
        Poll::Ready(answer)
    }
}

impl<K: Eq + Hash, T: Send + 'static> Drop for Seat<'_, K, T> {
    fn drop(&mut self) {
        let Some(waiter) = self.waiter.take() else { return };
        let flight = Arc::clone(waiter.flight());
        drop(waiter); // under no lock: with the last one the request is dropped
        if !flight.has_waiters() {
            self.close(&flight);
        }
    }
}

impl<K, T> std::fmt::Debug for Flights<K, T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Flights")
            .field("under_way", &self.under_way.lock().len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;
    use tokio::sync::oneshot::{Receiver, channel};

    fn request(end: Receiver<i32>) -> BoxFuture<'static, Option<i32>> {
        Box::pin(async move { end.await.ok() })
    }

    fn under_way() -> BoxFuture<'static, Option<i32>> {
        unreachable!("a request is under way")
    }

    #[test]
    fn any_reader_drives_the_request() {
        let flights = Flights::new();
        let (end, ended) = channel();
        let mut first = flights.board(&1, || request(ended));
        assert!((&mut first).now_or_never().is_none());
        let mut second = flights.board(&1, under_way);
        assert!((&mut second).now_or_never().is_none());
        assert_eq!(flights.board(&2, || Box::pin(async { Some(2) })).now_or_never(), Some(Some(2)));
        end.send(7).unwrap();
        // The first, which began the request, is not polled again.
        assert_eq!(second.now_or_never(), Some(None));
        assert!(flights.under_way.lock().is_empty());
        assert_eq!(first.now_or_never(), Some(Some(7)));
    }

    #[test]
    fn a_request_outlives_the_reader_that_began_it() {
        let flights = Flights::new();
        let (end, ended) = channel();
        let first = flights.board(&1, || request(ended));
        let second = flights.board(&1, under_way);
        drop(first);
        assert!(!end.is_closed());
        drop(second);
        assert!(end.is_closed() && flights.under_way.lock().is_empty());
        assert_eq!(flights.board(&1, || Box::pin(async { Some(1) })).now_or_never(), Some(Some(1)));
    }

    #[test]
    fn readers_share_an_answer_that_can_be_copied() {
        let flights = Flights::sharing(|&n| (n > 5).then_some(n));
        for answer in [7, 3] {
            let (end, ended) = channel();
            let mut first = flights.board(&1, || request(ended));
            let second = flights.board(&1, || unreachable!("it is under way"));
            assert!((&mut first).now_or_never().is_none());
            end.send(answer).unwrap();
            // In any order: the one that began it leaves a copy.
            assert_eq!(first.now_or_never(), Some(Some(answer)));
            assert_eq!(second.now_or_never(), Some((answer > 5).then_some(answer)));
        }
    }

    #[test]
    fn an_old_request_is_not_joined() {
        let flights = Flights { old: Duration::ZERO, ..Flights::new() };
        let (end, ended) = channel();
        let mut first = flights.board(&1, || request(ended));
        assert!((&mut first).now_or_never().is_none());
        let second = flights.board(&1, || Box::pin(async { Some(2) }));
        assert_eq!(second.now_or_never(), Some(Some(2)));
        end.send(1).unwrap();
        assert_eq!(first.now_or_never(), Some(Some(1)));
        assert!(flights.under_way.lock().is_empty());
    }

    #[test]
    fn the_end_of_a_request_wakes_all_readers() {
        let flights = Flights::new();
        let (end, ended) = channel();
        let mut first = flights.board(&1, || request(ended));
        assert!((&mut first).now_or_never().is_none());
        std::thread::scope(|scope| {
            let seats: Vec<_> = (0..4).map(|_| flights.board(&1, under_way)).collect();
            let wait = |seat| {
                let runtime = tokio::runtime::Builder::new_current_thread().build();
                runtime.expect("a runtime").block_on(seat)
            };
            for seat in seats {
                scope.spawn(move || assert_eq!(wait(seat), None));
            }
            end.send(7).unwrap();
        });
        assert_eq!(first.now_or_never(), Some(Some(7)));
        assert!(flights.under_way.lock().is_empty());
    }

    #[test]
    fn a_panic_of_the_request_leaves_no_reader_asleep() {
        let flights = Flights::<i32, i32>::new();
        let first = flights.board(&1, || Box::pin(async { panic!("a bug of the store") }));
        let second = flights.board(&1, || unreachable!("it is under way"));
        assert_eq!(first.now_or_never(), Some(None));
        assert_eq!(second.now_or_never(), Some(None));
        assert!(flights.under_way.lock().is_empty());
    }
}
