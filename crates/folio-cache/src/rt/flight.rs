//! A flight: one future that several waiters share.
//!
//! Any waiter drives it. When the last waiter is dropped, the future is dropped too: it is
//! cancelled. A flight needs no thread and no runtime.
//!
//! - **A poll** registers the waker of the waiter, and polls the future if no other thread does.
//!   The future gets a waker of the flight's own.
//! - **That waker** wakes every registered waiter. So a waiter that is never polled again leaves no
//!   other one asleep.
//! - **A poll that finds the future locked** leaves a mark. The thread with the lock wakes all
//!   waiters after it has unlocked: one that is polled may be the only one that ever will be.
//! - **The end** stores the result, then wakes all. Each waiter looks at the shared result.
//! - **A flight is stuck** if it was woken and no waiter has polled it for a while: their task
//!   waits for something else. Then another task can drive it ([`MaybeStuck`]).
//!
//! No waker is called and no user's value dropped under a lock. Panics of both are caught.

use std::fmt;
use std::mem;
use std::pin::Pin;
use std::sync::atomic::{Ordering, fence};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Wake, Waker};

use folio_ref::broken;

use crate::rt::foreign::{catch_panic, drop_quietly, wake};
use crate::rt::shim::{Length, Mutex};

/// The future of a flight.
pub(crate) type Task<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// A flight of any type, which its waiters may not poll.
pub(crate) trait MaybeStuck: Send + Sync {
    /// Returns a driver of the flight, unless it has one or needs none.
    fn driver(self: Arc<Self>, when: When) -> Option<Task<()>>;
}

/// When a flight gets a driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum When {
    Always,
    /// If a poll was due already when this was last asked.
    Stuck,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Running,
    /// The last waiter was dropped before the end.
    Cancelled,
    Done,
}

/// The registered waiters. A flight's own waker leads here, so that a waker which a store keeps
/// does not keep the result.
struct Listeners {
    state: Mutex<State>,
}

struct State {
    phase: Phase,
    /// One place for each waiter and driver. Without a waker: woken since its last poll.
    places: Vec<Option<Waker>>,
    unused: Vec<usize>,
    waiters: usize,
    /// The waiters among them that stand for no caller.
    detached: usize,
    /// Drivers, which do not keep the future.
    drivers: usize,
    /// It was woken since its last poll.
    is_due: bool,
    /// It was due when this was last asked, and was not polled since.
    was_due: bool,
}

impl State {
    fn place(&mut self) -> usize {
        self.unused.pop().unwrap_or_else(|| {
            self.places.push(None);
            self.places.len() - 1
        })
    }

    fn leave(&mut self, place: usize) -> Option<Waker> {
        self.unused.push(place);
        self.places[place].take()
    }

    fn take_wakers(&mut self) -> Vec<Waker> {
        self.places.iter_mut().filter_map(Option::take).collect()
    }
}

impl Listeners {
    fn phase(&self) -> Phase {
        self.state.lock().phase
    }

    fn wake_all(&self) {
        let mut wakers = {
            let mut state = self.state.lock();
            state.is_due = true;
            state.take_wakers()
        };
        if broken!("one-waiter-woken") {
            wakers.truncate(1);
        }
        wake(wakers);
    }
}

impl Wake for Listeners {
    fn wake(self: Arc<Self>) {
        self.wake_all();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.wake_all();
    }
}

/// One future and its waiters. Also for folio-object-store (`folio_cache::internal`).
#[doc(hidden)]
pub struct Flight<T> {
    future: Mutex<Option<Task<T>>>,
    /// 1: a poll found the future locked, and the thread with the lock has to wake the waiters.
    missed: Length,
    listeners: Arc<Listeners>,
    result: Mutex<Option<T>>,
    /// Returns the result if the future panics.
    panicked: fn() -> T,
}

impl<T: Send + 'static> Flight<T> {
    /// Returns the first waiter of a future. `panicked` returns the result if the future panics.
    pub fn begin(future: Task<T>, panicked: fn() -> T) -> Waiter<T> {
        Self::begin_with(|_| future, panicked)
    }

    /// Does what [`begin`](Self::begin) does, with a future that knows its flight.
    pub(crate) fn begin_with(
        future: impl FnOnce(Weak<Self>) -> Task<T>,
        panicked: fn() -> T,
    ) -> Waiter<T> {
        let listeners = Listeners {
            state: Mutex::new(State {
                phase: Phase::Running,
                places: vec![None],
                unused: Vec::new(),
                waiters: 1,
                detached: 0,
                drivers: 0,
                is_due: false,
                was_due: false,
            }),
        };
        let flight = Arc::new_cyclic(|flight| Self {
            future: Mutex::new(Some(future(Weak::clone(flight)))),
            missed: Length::new(0),
            listeners: Arc::new(listeners),
            result: Mutex::new(None),
            panicked,
        });
        Waiter { flight, place: 0, is_detached: false }
    }

    /// Returns another waiter, or `None` if the flight was cancelled, or ended without a waiter.
    pub fn join(self: &Arc<Self>) -> Option<Waiter<T>> {
        let mut state = self.listeners.state.lock();
        if state.waiters == 0 || state.phase == Phase::Cancelled {
            return None;
        }
        state.waiters += 1;
        let place = state.place();
        drop(state);
        Some(Waiter { flight: Arc::clone(self), place, is_detached: false })
    }

    /// Cancels the flight if no caller waits for it.
    pub(crate) fn cancel_detached(&self) {
        let mut state = self.listeners.state.lock();
        if state.phase == Phase::Running && state.waiters == state.detached {
            state.phase = Phase::Cancelled;
            let wakers = state.take_wakers();
            drop(state);
            self.drive();
            wake(wakers);
        }
    }

    /// Returns `true` if anything waits for it.
    pub fn has_waiters(&self) -> bool {
        self.listeners.state.lock().waiters > 0
    }

    fn is_over(&self) -> bool {
        self.listeners.phase() != Phase::Running
    }

    /// Registers a waker, and polls the future unless another thread does.
    fn poll(&self, place: usize, waker: &Waker, drives: bool) -> Poll<()> {
        let waker = waker.clone();
        let mut state = self.listeners.state.lock();
        let is_running = state.phase == Phase::Running;
        let before = if is_running { state.places[place].replace(waker) } else { None };
        if drives {
            (state.is_due, state.was_due) = (false, false);
        }
        drop(state);
        drop_quietly(before);
        if is_running && drives {
            self.drive();
        }
        if self.is_over() { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Polls the future once, or drops it if the flight was cancelled. If another thread has it,
    /// that thread wakes the waiters.
    fn drive(&self) {
        loop {
            if let Some(future) = self.future.try_lock() {
                // Relaxed: a poll that left its mark before registered its waker before, and this
                // poll is one in its place.
                self.missed.store(0, Ordering::Relaxed);
                self.poll_locked(future);
                // SeqCst, Dekker with the fence below: either this sees the mark, or the thread
                // that left it gets the lock.
                fence(Ordering::SeqCst);
                if broken!("missed-poll-ignored") || self.missed.swap(0, Ordering::Relaxed) == 0 {
                    return;
                }
                if self.listeners.phase() == Phase::Running {
                    return self.listeners.wake_all();
                }
                continue;
            }
            self.missed.store(1, Ordering::Relaxed);
            fence(Ordering::SeqCst);
            match self.future.try_lock() {
                Some(future) => drop(future),
                None => return,
            }
        }
    }

    fn poll_locked(&self, mut future: crate::rt::shim::MutexGuard<'_, Option<Task<T>>>) {
        if self.is_over() {
            let dropped = future.take();
            drop(future);
            return drop_quietly(dropped);
        }
        let Some(task) = future.as_mut() else { return };
        let waker = Waker::from(Arc::clone(&self.listeners));
        let mut context = Context::from_waker(&waker);
        let polled = catch_panic(|| task.as_mut().poll(&mut context));
        let result = match polled {
            Ok(Poll::Pending) => return,
            Ok(Poll::Ready(result)) => result,
            Err(_) => (self.panicked)(),
        };
        let task = future.take();
        drop(future);
        drop_quietly(task);
        *self.result.lock() = Some(result);
        let (wakers, is_needed) = {
            let mut state = self.listeners.state.lock();
            let is_needed = state.phase == Phase::Running;
            if is_needed {
                state.phase = Phase::Done;
            }
            (state.take_wakers(), is_needed)
        };
        if !is_needed {
            self.drop_result();
        }
        wake(wakers);
    }

    fn new_driver(self: &Arc<Self>) -> Driver<T> {
        let mut state = self.listeners.state.lock();
        state.drivers += 1;
        let place = state.place();
        drop(state);
        Driver { flight: Arc::clone(self), place }
    }

    fn drop_result(&self) {
        let result = self.result.lock().take();
        drop_quietly(result);
    }
}

impl<T: Send + 'static> MaybeStuck for Flight<T> {
    fn driver(self: Arc<Self>, when: When) -> Option<Task<()>> {
        let mut state = self.listeners.state.lock();
        let needs_one = state.phase == Phase::Running && state.drivers == 0;
        let is_stuck = state.is_due && mem::replace(&mut state.was_due, true);
        drop(state);
        let is_time = when == When::Always || (is_stuck && !broken!("stuck-flight-left"));
        (needs_one && is_time).then(|| Box::pin(self.new_driver()) as Task<()>)
    }
}

impl<T> fmt::Debug for Flight<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Flight").field("phase", &self.listeners.phase()).finish_non_exhaustive()
    }
}

/// One of those that wait for a flight. The last one that is dropped before the end cancels it.
#[doc(hidden)]
pub struct Waiter<T: Send + 'static> {
    flight: Arc<Flight<T>>,
    place: usize,
    is_detached: bool,
}

impl<T: Send + 'static> Waiter<T> {
    /// Returns the flight, to be joined by others.
    pub fn flight(&self) -> &Arc<Flight<T>> {
        &self.flight
    }

    /// Drives the flight. Returns `Ready` at its end. The waker is called when a poll is due.
    pub fn poll(&mut self, waker: &Waker) -> Poll<()> {
        self.flight.poll(self.place, waker, true)
    }

    /// Waits for the flight as long as a [`Driver`] drives it, and drives it otherwise.
    pub(crate) fn poll_driven(&mut self, waker: &Waker) -> Poll<()> {
        let polled = self.flight.poll(self.place, waker, false);
        if polled.is_pending() && self.flight.listeners.state.lock().drivers == 0 {
            return self.poll(waker);
        }
        polled
    }

    /// Returns what `look` makes of the result. `None`: the flight has not ended.
    pub fn result<R>(&self, look: impl FnOnce(&mut T) -> R) -> Option<R> {
        if self.flight.listeners.phase() != Phase::Done {
            return None;
        }
        self.flight.result.lock().as_mut().map(look)
    }

    /// Returns a future that drives the flight, and does not keep it from being cancelled. If it is
    /// dropped, the waiters drive.
    pub(crate) fn driver(&self) -> Driver<T> {
        self.flight.new_driver()
    }

    /// Turns it into a future that stands for no caller.
    pub(crate) fn detach(mut self) -> Self {
        self.flight.listeners.state.lock().detached += 1;
        self.is_detached = true;
        self
    }
}

impl<T: Send + 'static> fmt::Debug for Waiter<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Waiter").field("flight", &self.flight).finish_non_exhaustive()
    }
}

/// A detached waiter, as a task.
impl<T: Send + 'static> Future for Waiter<T> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        self.flight.poll(self.place, context.waker(), true)
    }
}

impl<T: Send + 'static> Drop for Waiter<T> {
    fn drop(&mut self) {
        let mut state = self.flight.listeners.state.lock();
        let waker = state.leave(self.place);
        state.waiters -= 1;
        state.detached -= usize::from(self.is_detached);
        let (is_last, phase) = (state.waiters == 0, state.phase);
        let mut wakers = Vec::new();
        if is_last && phase == Phase::Running && !broken!("last-waiter-leaves") {
            state.phase = Phase::Cancelled;
            wakers = state.take_wakers();
        }
        drop(state);
        drop_quietly(waker);
        if is_last {
            match phase {
                Phase::Running => self.flight.drive(),
                Phase::Done => self.flight.drop_result(),
                Phase::Cancelled => {}
            }
        }
        wake(wakers);
    }
}

/// Drives a flight for its waiters. It ends when the flight does.
pub(crate) struct Driver<T: Send + 'static> {
    flight: Arc<Flight<T>>,
    place: usize,
}

impl<T: Send + 'static> Future for Driver<T> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        self.flight.poll(self.place, context.waker(), true)
    }
}

impl<T: Send + 'static> Drop for Driver<T> {
    fn drop(&mut self) {
        let mut state = self.flight.listeners.state.lock();
        let waker = state.leave(self.place);
        state.drivers -= 1;
        // Waiters that left the driving to it take over.
        let wakers = if state.drivers == 0 && !broken!("driver-leaves-silently") {
            state.take_wakers()
        } else {
            Vec::new()
        };
        drop(state);
        drop_quietly(waker);
        wake(wakers);
    }
}
