//! The first requests of objects about which nothing is known, so that many readers make one.

use std::collections::HashMap;
use std::hash::Hash;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;

/// The first requests under way. It has at most one entry for each get under way.
#[derive(Debug)]
pub(crate) struct Flights<K>(Mutex<HashMap<K, Arc<Flight>>>);

#[derive(Debug, Default)]
struct Flight(Mutex<Waiters>);

#[derive(Debug, Default)]
struct Waiters {
    landed: bool,
    next: u64,
    wakers: HashMap<u64, Waker>,
}

/// A reader's part in a first request.
pub(crate) enum Seat<'f, K: Eq + Hash + Clone> {
    /// The reader makes the request. The others wait until this is dropped.
    Pilot(Pilot<'f, K>),
    /// Another reader makes it: this is ready when that has ended, in any way.
    Passenger(Passenger),
}

/// The right to make the first request of an object.
pub(crate) struct Pilot<'f, K: Eq + Hash + Clone> {
    flights: &'f Flights<K>,
    key: K,
}

/// Waits for the first request of an object.
pub(crate) struct Passenger {
    flight: Arc<Flight>,
    id: u64,
}

impl<K: Eq + Hash + Clone> Flights<K> {
    pub(crate) fn new() -> Self {
        Self(Mutex::default())
    }

    /// Joins the first request of an object, or begins it.
    pub(crate) fn board(&self, key: &K) -> Seat<'_, K> {
        let mut flights = self.0.lock();
        if let Some(flight) = flights.get(key) {
            let mut waiters = flight.0.lock();
            waiters.next += 1;
            return Seat::Passenger(Passenger { flight: Arc::clone(flight), id: waiters.next });
        }
        flights.insert(key.clone(), Arc::default());
        Seat::Pilot(Pilot { flights: self, key: key.clone() })
    }
}

impl<K: Eq + Hash + Clone> Drop for Pilot<'_, K> {
    fn drop(&mut self) {
        let Some(flight) = self.flights.0.lock().remove(&self.key) else { return };
        let wakers = {
            let mut waiters = flight.0.lock();
            waiters.landed = true;
            std::mem::take(&mut waiters.wakers)
        };
        wakers.into_values().for_each(Waker::wake); // under no lock
    }
}

impl Future for Passenger {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let mut waiters = self.flight.0.lock();
        if waiters.landed {
            return Poll::Ready(());
        }
        waiters.wakers.insert(self.id, context.waker().clone());
        Poll::Pending
    }
}

impl Drop for Passenger {
    fn drop(&mut self) {
        let waker = self.flight.0.lock().wakers.remove(&self.id);
        drop(waker); // under no lock
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    #[test]
    fn passengers_wake_when_the_pilot_is_dropped() {
        let flights = Flights::new();
        let Seat::Pilot(pilot) = flights.board(&1) else { panic!("the first is the pilot") };
        let Seat::Passenger(mut passenger) = flights.board(&1) else { panic!("a second pilot") };
        assert!(matches!(flights.board(&2), Seat::Pilot(_)));
        let Seat::Passenger(dropped) = flights.board(&1) else { panic!("a second pilot") };
        drop(dropped);
        assert!((&mut passenger).now_or_never().is_none());
        drop(pilot);
        assert_eq!(passenger.now_or_never(), Some(()));
        assert!(matches!(flights.board(&1), Seat::Pilot(_)));
        assert!(flights.0.lock().is_empty());
    }
}
