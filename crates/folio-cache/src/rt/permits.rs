//! Permits: how many requests, and of which weight, may be in flight. Those that wait come first by
//! their rank, then in the order in which they came.
//!
//! A waiter that is dropped leaves the queue at once. A permit that was granted to a waiter which
//! is then dropped goes to the next.
//!
//! The flight of a holder may be stuck: its task holds it, and does not poll it. While others wait,
//! a [`Watch`] returns drivers of such flights.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker};

use folio_ref::broken;

use crate::rt::flight::{MaybeStuck, Task, When};
use crate::rt::foreign::wake;
use crate::rt::shim::Mutex;

/// The place of a waiter in the queue: the lowest comes first.
type Place = (u8, u64);

/// The flight of a holder.
type Holder = Weak<dyn MaybeStuck>;

struct Queued {
    weight: usize,
    waker: Option<Waker>,
    holder: Holder,
}

struct State {
    free: usize,
    /// The weight that is free. Negative after the limit was lowered.
    weight: isize,
    next: u64,
    queue: BTreeMap<Place, Queued>,
    granted: BTreeSet<Place>,
    /// The flights that have a permit, by the number of the permit.
    holders: BTreeMap<u64, Holder>,
    /// There is a watch.
    is_watched: bool,
}

impl State {
    /// Takes a permit if there is one. A weight above the limit passes alone.
    fn take(&mut self, weight: usize, most: usize) -> bool {
        let weight = weight.min(most).cast_signed();
        let has = self.free > 0 && self.weight >= weight;
        if has {
            self.free -= 1;
            self.weight -= weight;
        }
        has
    }

    fn put(&mut self, number: u64, weight: usize, most: usize) {
        self.holders.remove(&number);
        self.free += 1;
        self.weight += weight.min(most).cast_signed();
    }

    /// Grants what is free to the first in the queue. Returns their wakers.
    fn grant(&mut self, most: usize) -> Vec<Waker> {
        let mut wakers = Vec::new();
        while let Some((&place, queued)) = self.queue.first_key_value() {
            let weight = queued.weight;
            if !self.take(weight, most) {
                break;
            }
            let queued = self.queue.remove(&place).expect("it is the first");
            self.granted.insert(place);
            self.holders.insert(place.1, queued.holder);
            wakers.extend(queued.waker);
        }
        wakers
    }
}

/// A number of permits, each of which has a weight.
pub(crate) struct Permits {
    state: Mutex<State>,
    most_weight: usize,
}

impl Permits {
    /// Returns `count` permits, at least 1, with a sum of weights of at most `weight`.
    pub(crate) fn new(count: usize, weight: usize) -> Arc<Self> {
        let weight = weight.clamp(1, isize::MAX as usize);
        Arc::new(Self {
            state: Mutex::new(State {
                free: count.max(1),
                weight: weight.cast_signed(),
                next: 0,
                queue: BTreeMap::new(),
                granted: BTreeSet::new(),
                holders: BTreeMap::new(),
                is_watched: false,
            }),
            most_weight: weight,
        })
    }

    /// Returns the weight that one permit can have without waiting for all others.
    pub(crate) fn most_weight(&self) -> usize {
        self.most_weight
    }

    /// Returns a future of a permit for a flight. Lower ranks come first.
    pub(crate) fn acquire(self: &Arc<Self>, rank: u8, weight: usize, holder: Holder) -> Acquire {
        Acquire { permits: Arc::clone(self), rank, weight, holder, place: None }
    }

    /// Returns the watch, unless there is one.
    pub(crate) fn watch(self: &Arc<Self>) -> Option<Watch> {
        let is_new = !std::mem::replace(&mut self.state.lock().is_watched, true);
        is_new.then(|| Watch(Arc::downgrade(self)))
    }

    /// Returns the number of permits that are free, and the number of waiters.
    #[cfg(test)]
    pub(crate) fn counts(&self) -> (usize, usize) {
        let state = self.state.lock();
        (state.free, state.queue.len() + state.granted.len())
    }

    /// Returns drivers of the flights that have a permit and no driver.
    pub(crate) fn drivers(&self, when: When) -> Vec<Task<()>> {
        let holders: Vec<_> =
            self.state.lock().holders.values().filter_map(Weak::upgrade).collect();
        holders.into_iter().filter_map(|holder| holder.driver(when)).collect()
    }

    fn release(&self, number: u64, weight: usize) {
        let wakers = {
            let mut state = self.state.lock();
            state.put(number, weight, self.most_weight);
            if broken!("permit-not-passed-on") { Vec::new() } else { state.grant(self.most_weight) }
        };
        wake(wakers);
    }
}

/// A waiter for a permit.
pub(crate) struct Acquire {
    permits: Arc<Permits>,
    rank: u8,
    weight: usize,
    holder: Holder,
    /// Its place, once it has waited.
    place: Option<Place>,
}

impl Future for Acquire {
    type Output = Permit;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Permit> {
        let this = &mut *self;
        let waker = context.waker().clone();
        let mut state = this.permits.state.lock();
        let granted = match this.place {
            Some(place) => {
                let is_granted = state.granted.remove(&place);
                if !is_granted && let Some(queued) = state.queue.get_mut(&place) {
                    let before = queued.waker.replace(waker);
                    drop(state);
                    drop(before);
                    return Poll::Pending;
                }
                is_granted.then_some(place.1)
            }
            None if state.queue.is_empty() && state.take(this.weight, this.permits.most_weight) => {
                let number = state.next;
                state.next += 1;
                state.holders.insert(number, Weak::clone(&this.holder));
                Some(number)
            }
            None => None,
        };
        if let Some(number) = granted {
            drop(state);
            this.place = None;
            let permits = Arc::clone(&this.permits);
            return Poll::Ready(Permit { permits, number, weight: this.weight });
        }
        let place = (this.rank, state.next);
        state.next += 1;
        let holder = Weak::clone(&this.holder);
        state.queue.insert(place, Queued { weight: this.weight, waker: Some(waker), holder });
        drop(state);
        this.place = Some(place);
        Poll::Pending
    }
}

impl Drop for Acquire {
    fn drop(&mut self) {
        let Some(place) = self.place else { return };
        let mut state = self.permits.state.lock();
        let queued = state.queue.remove(&place);
        if state.granted.remove(&place) {
            state.put(place.1, self.weight, self.permits.most_weight);
        }
        // The next in the queue may fit where this one did not.
        let wakers = state.grant(self.permits.most_weight);
        drop(state);
        drop(queued);
        wake(wakers);
    }
}

/// The right to one request in flight. It goes back when it is dropped.
pub(crate) struct Permit {
    permits: Arc<Permits>,
    number: u64,
    weight: usize,
}

impl Permit {
    /// Gives a part of the weight back.
    pub(crate) fn shrink(&mut self, weight: usize) {
        let (before, most) = (self.weight, self.permits.most_weight);
        if weight < before {
            self.weight = weight;
            let wakers = {
                let mut state = self.permits.state.lock();
                state.weight += (before.min(most) - weight.min(most)).cast_signed();
                state.grant(most)
            };
            wake(wakers);
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.permits.release(self.number, self.weight);
    }
}

/// Looks for holders that are stuck, while others wait. There is one at most.
pub(crate) struct Watch(Weak<Permits>);

impl Watch {
    /// Returns drivers of the flights that have a permit and are stuck. Returns `None` if nothing
    /// waits.
    pub(crate) fn drivers(&mut self) -> Option<Vec<Task<()>>> {
        let permits = self.0.upgrade()?;
        let mut state = permits.state.lock();
        if state.queue.is_empty() {
            // Under the lock: what waits from now on has a watch of its own.
            state.is_watched = false;
            self.0 = Weak::new();
            return None;
        }
        drop(state);
        Some(permits.drivers(When::Stuck))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if let Some(permits) = self.0.upgrade() {
            permits.state.lock().is_watched = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::Context;

    use super::*;

    fn nothing() -> Holder {
        Weak::<crate::rt::flight::Flight<()>>::new()
    }

    fn poll(acquire: &mut Pin<Box<Acquire>>) -> Option<Permit> {
        match acquire.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(permit) => Some(permit),
            Poll::Pending => None,
        }
    }

    #[test]
    fn the_queue_goes_by_rank_then_by_arrival() {
        let permits = Permits::new(1, 10);
        let acquire = |rank| Box::pin(permits.acquire(rank, 1, nothing()));
        let held = poll(&mut acquire(1)).unwrap();
        let mut waiting = [acquire(2), acquire(1), acquire(0), acquire(1)];
        assert!(waiting.iter_mut().all(|waiter| poll(waiter).is_none()));
        drop(held);
        for expected in [2, 1, 3, 0] {
            let granted: Vec<_> = (0..4)
                .filter_map(|n| {
                    let is_waiting = waiting[n].place.is_some();
                    is_waiting.then(|| poll(&mut waiting[n])).flatten().map(|permit| (n, permit))
                })
                .collect();
            assert_eq!(granted.iter().map(|(n, _)| *n).collect::<Vec<_>>(), [expected]);
        }
        assert_eq!(permits.counts(), (1, 0));
    }

    #[test]
    fn a_dropped_waiter_leaves_the_queue_and_its_grant() {
        let permits = Permits::new(1, 10);
        let acquire = |weight| Box::pin(permits.acquire(0, weight, nothing()));
        let held = poll(&mut acquire(1)).unwrap();
        let (mut first, mut second, mut third) = (acquire(1), acquire(1), acquire(1));
        assert!([&mut first, &mut second, &mut third].into_iter().all(|it| poll(it).is_none()));
        drop(first);
        drop(held); // granted to the second, which is never polled again
        drop(second);
        let permit = poll(&mut third).expect("the grant went on");
        drop((permit, third));
        assert_eq!(permits.counts(), (1, 0));
    }

    #[test]
    fn weights_are_bounded_and_the_largest_passes_alone() {
        let permits = Permits::new(10, 8);
        let acquire = |weight| Box::pin(permits.acquire(0, weight, nothing()));
        let mut small = poll(&mut acquire(6)).unwrap();
        let mut large = acquire(100);
        assert!(poll(&mut large).is_none());
        small.shrink(2);
        assert!(poll(&mut large).is_none());
        drop(small);
        let large = poll(&mut large).unwrap();
        assert!(poll(&mut acquire(1)).is_none());
        drop(large);
        assert_eq!(permits.counts(), (10, 0));
    }
}
