//! Permits: how many requests, and of which weight, may be in flight. Those that wait come first by
//! their rank, then in the order in which they came. But each object, and each store, leaves some
//! to others: one that waits for its own holds up no other.
//!
//! A waiter that is dropped leaves the queue at once. A permit that was granted to a waiter which
//! is then dropped goes to the next.
//!
//! The flight of a holder may be stuck: its task holds it, and does not poll it. While others wait,
//! a [`Watch`] returns drivers of such flights.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use folio_ref::broken;

use crate::rt::fair_share::{self, Amount, Held};
use crate::rt::flight::{MaybeStuck, Task, When};
use crate::rt::foreign::wake;
use crate::rt::rank::{Place, Rank};
use crate::rt::shim::Mutex;

/// The store and the object that a request is for: by its store's key space and number, and by
/// the number of its mapping.
pub(crate) type Target = (Store, u32);

/// A store: the key space, and a number in it.
pub(crate) type Store = (&'static str, u64);

/// The flight of a holder.
type Holder = Weak<dyn MaybeStuck>;

/// The age of the oldest request in flight from which on another may get less weight than it wants:
/// what it would wait for may never come. Before that it waits, as two requests cost more than one.
const OLD_AFTER: Duration = Duration::from_secs(1);

/// The objects of a store of which the next waiters are looked at for one permit, and the requests
/// in flight of which the age is.
const LOOKS: usize = 16;

/// The flights that have a permit, and since when. By the number of the permit: the oldest come
/// first, or nearly.
type Holders = BTreeMap<u64, (Holder, Instant)>;

/// Returns `true` if a request in flight is old. No time passes under shuttle.
fn is_any_old(holders: &Holders) -> bool {
    let mut first = holders.values().take(LOOKS);
    !cfg!(shuttle) && first.any(|(_, since)| since.elapsed() >= OLD_AFTER)
}

struct Queued {
    rank: Arc<Rank>,
    weight: usize,
    waker: Option<Waker>,
    holder: Holder,
}

/// The amount that the requests for an object have, and those that wait.
#[derive(Default)]
struct OfObject {
    held: Amount,
    queue: BTreeMap<Place, Queued>,
}

/// The amounts that the requests for a store have.
#[derive(Default)]
struct OfStore {
    held: Amount,
    objects: BTreeMap<u32, OfObject>,
    /// The first waiter of each object.
    first: BTreeMap<Place, u32>,
}

impl OfStore {
    /// Calls `change` with the queue of an object.
    fn change_queue<R>(
        &mut self,
        object: u32,
        change: impl FnOnce(&mut BTreeMap<Place, Queued>) -> R,
    ) -> R {
        let queue = &mut self.objects.entry(object).or_default().queue;
        let first = queue.first_key_value().map(|(&place, _)| place);
        let result = change(queue);
        let now = queue.first_key_value().map(|(&place, _)| place);
        if now != first {
            first.and_then(|place| self.first.remove(&place));
            self.first.extend(now.map(|place| (place, object)));
        }
        result
    }
}

struct State {
    free: Amount,
    next: u64,
    waiting: usize,
    stores: BTreeMap<Store, OfStore>,
    /// The weights granted to waiters that have not looked yet.
    granted: BTreeMap<Place, usize>,
    holders: Holders,
    /// There is a watch.
    is_watched: bool,
}

impl State {
    /// Takes a permit if there is one. Returns its weight. A weight above the limit passes alone.
    fn take(&mut self, (store, object): Target, weight: usize, most: &Most) -> Option<usize> {
        let weight = weight.min(most.all.weight);
        let of_store = self.stores.entry(store).or_default();
        let of_object = of_store.objects.entry(object).or_default();
        let weight = if most.leave_some {
            let held = Held { object: of_object.held, store: of_store.held };
            fair_share::allowed(most.all, self.free, held, weight, || is_any_old(&self.holders))?
        } else {
            (self.free.requests > 0 && self.free.weight >= weight).then_some(weight)?
        };
        of_object.held.add(weight);
        of_store.held.add(weight);
        self.free.remove(weight);
        Some(weight)
    }

    fn put(&mut self, number: u64, (store, object): Target, weight: usize) {
        self.holders.remove(&number);
        self.free.add(weight);
        if let Some(of_store) = self.stores.get_mut(&store) {
            of_store.held.remove(weight);
            if let Some(of_object) = of_store.objects.get_mut(&object) {
                of_object.held.remove(weight);
            }
        }
        self.forget_idle((store, object));
    }

    /// Frees the memory for a target that has nothing in flight, and nothing that waits.
    fn forget_idle(&mut self, (store, object): Target) {
        let Some(of_store) = self.stores.get_mut(&store) else { return };
        let is_idle = |it: &OfObject| it.held.requests == 0 && it.queue.is_empty();
        if of_store.objects.get(&object).is_some_and(is_idle) {
            of_store.objects.remove(&object);
        }
        if of_store.objects.is_empty() {
            self.stores.remove(&store);
        }
    }

    /// Returns `true` if another request for the object waits, and comes first.
    fn has_earlier(&self, (store, object): Target, place: Place) -> bool {
        let of_object = self.stores.get(&store).and_then(|it| it.objects.get(&object));
        let first = of_object.and_then(|it| it.queue.first_key_value());
        first.is_some_and(|(&first, _)| first < place)
    }

    fn queue(&mut self, (store, object): Target, place: Place, queued: Queued) {
        self.waiting += 1;
        let of_store = self.stores.entry(store).or_default();
        of_store.change_queue(object, |queue| queue.insert(place, queued));
    }

    fn unqueue(&mut self, (store, object): Target, place: Place) -> Option<Queued> {
        let of_store = self.stores.get_mut(&store)?;
        let queued = of_store.change_queue(object, |queue| queue.remove(&place));
        self.waiting -= usize::from(queued.is_some());
        self.forget_idle((store, object));
        queued
    }

    /// Moves a request that waits to the place of its rank. Returns `false` if it does not wait
    /// here.
    fn move_up(&mut self, (store, object): Target, rank: &Arc<Rank>) -> bool {
        let Some(of_store) = self.stores.get_mut(&store) else { return false };
        let (from, to) = (rank.place(), (rank.get(), rank.place().1));
        // It may be in another queue, where its place says nothing about this one.
        let is_it = |queued: &Queued| Arc::ptr_eq(&queued.rank, rank);
        let of_object = of_store.objects.get(&object);
        if !of_object.and_then(|it| it.queue.get(&from)).is_some_and(is_it) {
            return false;
        }
        of_store.change_queue(object, |queue| {
            let queued = queue.remove(&from);
            queue.extend(queued.map(|queued| (to, queued)));
        });
        rank.set_place(to);
        true
    }

    /// Grants what is free: by rank, then by arrival, but to those that leave enough for others.
    /// Returns their wakers.
    fn grant(&mut self, most: &Most) -> Vec<Waker> {
        let mut wakers = Vec::new();
        while self.free.requests > 0 && self.waiting > 0 {
            let mut first: Vec<(Place, Target)> = Vec::new();
            for (&store, of_store) in &self.stores {
                let next = of_store.first.iter().take(LOOKS);
                first.extend(next.map(|(&place, &object)| (place, (store, object))));
            }
            first.sort_unstable_by_key(|(place, _)| *place);
            let granted = first.into_iter().find_map(|(place, target)| {
                let weight = self.stores.get(&target.0)?.objects.get(&target.1)?;
                let weight = weight.queue.get(&place)?.weight;
                Some((place, target, self.take(target, weight, most)?))
            });
            let Some((place, target, weight)) = granted else { break };
            let queued = self.unqueue(target, place).expect("it is the first of its object");
            self.granted.insert(place, weight);
            self.holders.insert(place.1, (queued.holder, Instant::now()));
            wakers.extend(queued.waker);
        }
        wakers
    }
}

/// The limits.
struct Most {
    all: Amount,
    /// An object and a store leave some to others ([`fair_share`]).
    leave_some: bool,
}

/// A number of permits, each of which has a weight.
pub(crate) struct Permits {
    state: Mutex<State>,
    most: Most,
}

impl Permits {
    /// Returns `requests` permits, at least 1. Those of one object have a sum of weights of at most
    /// `weight`, and all have a seventh more: each object and each store leaves some to others.
    pub(crate) fn shared(requests: usize, weight: usize) -> Arc<Self> {
        let weight = weight.max(1);
        Self::new(requests, weight + weight.div_ceil(7), true)
    }

    /// Returns `requests` permits, at least 1, for one object.
    pub(crate) fn of_one(requests: usize) -> Arc<Self> {
        Self::new(requests, usize::MAX, false)
    }

    fn new(requests: usize, weight: usize, leave_some: bool) -> Arc<Self> {
        let all = Amount { requests: requests.max(1), weight };
        Arc::new(Self {
            state: Mutex::new(State {
                free: all,
                next: 0,
                waiting: 0,
                stores: BTreeMap::new(),
                granted: BTreeMap::new(),
                holders: BTreeMap::new(),
                is_watched: false,
            }),
            most: Most { all, leave_some },
        })
    }

    /// Returns the weight that each of two requests of one object can have at once.
    pub(crate) fn half_of_one(&self) -> usize {
        ((self.most.all.weight - self.most.all.weight.div_ceil(8)) / 2).max(1)
    }

    /// Returns a future of a permit for a flight.
    pub(crate) fn acquire(
        self: &Arc<Self>,
        target: Target,
        rank: Arc<Rank>,
        weight: usize,
        holder: Holder,
    ) -> Acquire {
        Acquire { permits: Arc::clone(self), target, rank, weight, holder, waits: false }
    }

    /// Moves a request to the place of its raised rank, if it waits here.
    pub(crate) fn raise(&self, target: Target, rank: &Arc<Rank>) {
        let wakers = {
            let mut state = self.state.lock();
            // The first of its object is another one now, and may fit.
            if state.move_up(target, rank) { state.grant(&self.most) } else { Vec::new() }
        };
        wake(wakers);
    }

    /// Returns the watch, unless there is one.
    pub(crate) fn watch(self: &Arc<Self>) -> Option<Watch> {
        let is_new = !std::mem::replace(&mut self.state.lock().is_watched, true);
        is_new.then(|| Watch(Arc::downgrade(self)))
    }

    /// Returns the number of permits that are free, and the number of waiters.
    #[cfg(test)]
    fn counts(&self) -> (usize, usize) {
        let state = self.state.lock();
        (state.free.requests, state.waiting + state.granted.len())
    }

    /// Returns drivers of the flights that have a permit and no driver.
    pub(crate) fn drivers(&self, when: When) -> Vec<Task<()>> {
        let upgrade = |(holder, _): &(Holder, Instant)| holder.upgrade();
        let holders: Vec<_> = self.state.lock().holders.values().filter_map(upgrade).collect();
        holders.into_iter().filter_map(|holder| holder.driver(when)).collect()
    }

    fn release(&self, number: u64, target: Target, weight: usize) {
        let wakers = {
            let mut state = self.state.lock();
            state.put(number, target, weight);
            if broken!("permit-not-passed-on") { Vec::new() } else { state.grant(&self.most) }
        };
        wake(wakers);
    }
}

/// A waiter for a permit.
pub(crate) struct Acquire {
    permits: Arc<Permits>,
    target: Target,
    rank: Arc<Rank>,
    weight: usize,
    holder: Holder,
    /// It is in the queue, or its permit was granted.
    waits: bool,
}

impl Acquire {
    /// Takes a permit if there is one, and waits in the queue otherwise.
    fn begin(&mut self, waker: Waker) -> Poll<Permit> {
        let mut state = self.permits.state.lock();
        let number = state.next;
        state.next += 1;
        let place = (self.rank.get(), number);
        // Those that wait for another object do not fit: otherwise they would not wait.
        if !state.has_earlier(self.target, place)
            && let Some(weight) = state.take(self.target, self.weight, &self.permits.most)
        {
            state.holders.insert(number, (Weak::clone(&self.holder), Instant::now()));
            return Poll::Ready(self.permit(number, weight));
        }
        let (weight, holder) = (self.weight, Weak::clone(&self.holder));
        let rank = Arc::clone(&self.rank);
        rank.set_place(place);
        state.queue(self.target, place, Queued { rank, weight, waker: Some(waker), holder });
        self.waits = true;
        Poll::Pending
    }

    /// Returns the permit if it was granted since. Otherwise keeps the new waker, and waits.
    fn look(&mut self, waker: Waker) -> Poll<Permit> {
        let mut state = self.permits.state.lock();
        let place = self.rank.place();
        if let Some(weight) = state.granted.remove(&place) {
            self.waits = false;
            return Poll::Ready(self.permit(place.1, weight));
        }
        let of_store = state.stores.get_mut(&self.target.0);
        let of_object = of_store.and_then(|it| it.objects.get_mut(&self.target.1));
        let queued = of_object.and_then(|it| it.queue.get_mut(&place));
        let before = queued.and_then(|queued| queued.waker.replace(waker));
        drop(state);
        drop(before);
        Poll::Pending
    }

    fn permit(&self, number: u64, weight: usize) -> Permit {
        Permit { permits: Arc::clone(&self.permits), number, target: self.target, weight }
    }
}

impl Future for Acquire {
    type Output = Permit;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Permit> {
        let waker = context.waker().clone();
        if self.waits { self.look(waker) } else { self.begin(waker) }
    }
}

impl Drop for Acquire {
    fn drop(&mut self) {
        if !self.waits {
            return;
        }
        let mut state = self.permits.state.lock();
        let place = self.rank.place();
        let queued = state.unqueue(self.target, place);
        if let Some(weight) = state.granted.remove(&place) {
            state.put(place.1, self.target, weight);
        }
        // The next in the queue may fit where this one did not.
        let wakers = state.grant(&self.permits.most);
        drop(state);
        drop(queued);
        wake(wakers);
    }
}

/// The right to one request in flight. It goes back when it is dropped.
pub(crate) struct Permit {
    permits: Arc<Permits>,
    number: u64,
    target: Target,
    weight: usize,
}

impl Permit {
    /// Returns the weight: what was asked for, or what its object may have.
    pub(crate) fn weight(&self) -> usize {
        self.weight
    }

    /// Gives a part of the weight back.
    pub(crate) fn shrink(&mut self, weight: usize) {
        let Some(back) = self.weight.checked_sub(weight).filter(|&back| back > 0) else { return };
        self.weight = weight;
        let wakers = {
            let mut state = self.permits.state.lock();
            state.free.weight += back;
            if let Some(of_store) = state.stores.get_mut(&self.target.0) {
                of_store.held.weight -= back;
                if let Some(of_object) = of_store.objects.get_mut(&self.target.1) {
                    of_object.held.weight -= back;
                }
            }
            state.grant(&self.permits.most)
        };
        wake(wakers);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.permits.release(self.number, self.target, self.weight);
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
        if state.waiting == 0 {
            // Under the lock: what waits from now on has a watch of its own.
            state.is_watched = false;
            self.0 = Weak::new();
            return None;
        }
        // One may be old by now.
        let wakers = state.grant(&permits.most);
        drop(state);
        wake(wakers);
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
mod tests;
