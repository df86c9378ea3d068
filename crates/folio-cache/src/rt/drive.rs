//! One thread that drives many futures, and wakes those that sleep: for requests without a reader,
//! where the cache was given no spawner. It starts with the first future.

use std::cmp::{Ordering as Order, Reverse};
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use folio_ref::broken;

use crate::rt::flight::Task;
use crate::rt::foreign::{catch_panic, drop_quietly, wake};
use crate::rt::shim::{Condvar, Mutex, back_off, spawn, wait_for};

/// A future that the thread drives.
struct Driven {
    number: u64,
    future: Mutex<Option<Task<()>>>,
    /// It stands in the queue.
    is_queued: AtomicBool,
    queue: Weak<Queue>,
}

impl Wake for Driven {
    fn wake(self: Arc<Self>) {
        // AcqRel: with the swap before the poll. A wake during the poll queues it again.
        if self.is_queued.swap(true, Ordering::AcqRel) {
            return;
        }
        if let Some(queue) = self.queue.upgrade() {
            queue.state.lock().due.push_back(self);
            queue.changed.notify_one();
        }
    }
}

/// A waker that is due at a time.
struct Alarm {
    time: Instant,
    number: u64,
    waker: Waker,
}

impl PartialEq for Alarm {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Alarm {}

impl PartialOrd for Alarm {
    fn partial_cmp(&self, other: &Self) -> Option<Order> {
        Some(self.cmp(other))
    }
}

impl Ord for Alarm {
    fn cmp(&self, other: &Self) -> Order {
        (self.time, self.number).cmp(&(other.time, other.number))
    }
}

struct State {
    due: VecDeque<Arc<Driven>>,
    all: HashMap<u64, Arc<Driven>>,
    /// The earliest first.
    alarms: BinaryHeap<Reverse<Alarm>>,
    next: u64,
    may_start: bool,
    has_thread: bool,
}

struct Queue {
    state: Mutex<State>,
    changed: Condvar,
    thread_name: String,
}

/// The handle of the thread.
pub(crate) struct Drive {
    queue: Arc<Queue>,
}

impl Drive {
    /// Returns the handle, without a thread. `prefix` begins the thread's name.
    pub(crate) fn new(prefix: &str) -> Self {
        let state = State {
            due: VecDeque::new(),
            all: HashMap::new(),
            alarms: BinaryHeap::new(),
            next: 0,
            may_start: !cfg!(shuttle),
            has_thread: false,
        };
        let thread_name = format!("{prefix}-distant");
        let queue = Queue { state: Mutex::new(state), changed: Condvar::new(), thread_name };
        Self { queue: Arc::new(queue) }
    }

    /// Allows or forbids a thread. Without one, its futures are dropped, and those that sleep are
    /// woken: they sleep no longer.
    pub(crate) fn set_may_start(&self, may_start: bool) {
        let mut state = self.queue.state.lock();
        state.may_start = may_start;
        let taken = if may_start { None } else { Some(take_all(&mut state)) };
        drop(state);
        self.queue.changed.notify_one();
        let Some((futures, alarms)) = taken else { return };
        drop(futures);
        if !broken!("sleepers-forgotten") {
            wake(alarms.into_iter().map(|Reverse(alarm)| alarm.waker));
        }
    }

    /// Drives a future to its end. Returns `false` if there is no thread: the future is dropped.
    pub(crate) fn spawn(&self, future: Task<()>) -> bool {
        let mut state = self.queue.state.lock();
        if !self.queue.start(&mut state) {
            drop(state);
            drop(future);
            return false;
        }
        state.next += 1;
        let driven = Arc::new(Driven {
            number: state.next,
            future: Mutex::new(Some(future)),
            is_queued: AtomicBool::new(true),
            queue: Arc::downgrade(&self.queue),
        });
        state.all.insert(driven.number, Arc::clone(&driven));
        state.due.push_back(driven);
        drop(state);
        self.queue.changed.notify_one();
        true
    }

    /// Returns `true` if there is a thread, or may be one: time passes.
    pub(crate) fn may_sleep(&self) -> bool {
        self.queue.state.lock().may_start
    }

    /// Returns a future that waits for a while, and is `true` then. Without a thread it is `false`
    /// at once.
    pub(crate) fn sleep(&self, time: Duration) -> impl Future<Output = bool> + use<> {
        let end = Instant::now() + time;
        let queue = Arc::clone(&self.queue);
        future::poll_fn(move |context| {
            let is_over = Instant::now() >= end;
            if is_over || !queue.wake_at(end, context.waker()) {
                return Poll::Ready(is_over);
            }
            Poll::Pending
        })
    }

    /// Waits until it has no future, at most for a while.
    pub(crate) fn quiesce(&self, most: Duration) {
        let end = Instant::now() + most;
        while !self.queue.state.lock().all.is_empty() && Instant::now() < end {
            back_off(Duration::from_millis(1));
        }
    }
}

impl Queue {
    fn wake_at(self: &Arc<Self>, time: Instant, waker: &Waker) -> bool {
        let waker = waker.clone();
        let mut state = self.state.lock();
        let is_started = self.start(&mut state);
        if is_started {
            state.next += 1;
            let number = state.next;
            state.alarms.push(Reverse(Alarm { time, number, waker }));
        }
        drop(state);
        self.changed.notify_one();
        is_started
    }

    /// Starts the thread if there is none. Returns `false` if there is none then.
    fn start(self: &Arc<Self>, state: &mut State) -> bool {
        if state.may_start && !state.has_thread {
            let queue = Arc::clone(self);
            state.has_thread = spawn(&self.thread_name, move || run(&queue));
        }
        state.may_start && state.has_thread
    }
}

impl Drop for Drive {
    fn drop(&mut self) {
        self.set_may_start(false);
    }
}

/// The futures, and the alarms of those that sleep.
type All = (Vec<Arc<Driven>>, BinaryHeap<Reverse<Alarm>>);

fn take_all(state: &mut State) -> All {
    let mut all: Vec<_> = state.due.drain(..).collect();
    all.extend(state.all.drain().map(|(_, driven)| driven));
    (all, std::mem::take(&mut state.alarms))
}

/// The thread: ends when it is forbidden.
fn run(queue: &Arc<Queue>) {
    let mut state = queue.state.lock();
    loop {
        if !state.may_start {
            state.has_thread = false;
            return;
        }
        let now = Instant::now();
        if state.alarms.peek().is_some_and(|Reverse(alarm)| alarm.time <= now) {
            let alarm = state.alarms.pop();
            drop(state);
            wake(alarm.map(|Reverse(alarm)| alarm.waker));
            state = queue.state.lock();
        } else if let Some(driven) = state.due.pop_front() {
            drop(state);
            let is_over = poll(&driven);
            let mut locked = queue.state.lock();
            let ended = if is_over { locked.all.remove(&driven.number) } else { None };
            drop(locked);
            drop((ended, driven));
            state = queue.state.lock();
        } else if let Some(Reverse(alarm)) = state.alarms.peek() {
            let pause = alarm.time - now;
            wait_for(&queue.changed, &mut state, pause);
        } else {
            queue.changed.wait(&mut state);
        }
    }
}

/// Polls a future. Returns `true` at its end.
fn poll(driven: &Arc<Driven>) -> bool {
    // AcqRel: see `wake`.
    driven.is_queued.swap(false, Ordering::AcqRel);
    let waker = Waker::from(Arc::clone(driven));
    let mut context = Context::from_waker(&waker);
    let mut future = driven.future.lock();
    let Some(task) = future.as_mut() else { return true };
    let polled = catch_panic(|| task.as_mut().poll(&mut context));
    if matches!(polled, Ok(Poll::Pending)) {
        return false;
    }
    let ended = future.take();
    drop(future);
    drop_quietly(ended);
    true
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn futures_run_sleep_and_may_panic() {
        let drive = Arc::new(Drive::new("test"));
        let (sender, results) = mpsc::channel();
        for n in 0..20_u64 {
            let (sender, sleeper) = (sender.clone(), Arc::clone(&drive));
            let future = async move {
                assert!(sleeper.sleep(Duration::from_millis(20 - n)).await);
                assert_ne!(n, 7, "a panic on purpose");
                sender.send(n).unwrap();
            };
            assert!(drive.spawn(Box::pin(future)));
        }
        let mut numbers: Vec<_> =
            (0..19).map(|_| results.recv_timeout(Duration::from_secs(20)).unwrap()).collect();
        numbers.sort_unstable();
        assert_eq!(numbers, (0..20).filter(|&n| n != 7).collect::<Vec<_>>());
    }

    #[test]
    fn without_a_thread_futures_are_dropped() {
        let drive = Drive::new("test");
        let token = Arc::new(());
        let held = Arc::clone(&token);
        assert!(drive.spawn(Box::pin(async move {
            future::pending::<()>().await;
            drop(held);
        })));
        drive.set_may_start(false);
        let end = Instant::now() + Duration::from_secs(20);
        while Arc::strong_count(&token) > 1 && Instant::now() < end {
            std::thread::yield_now();
        }
        assert_eq!(Arc::strong_count(&token), 1);
        assert!(!drive.spawn(Box::pin(async {})));
    }

    #[test]
    fn a_sleeper_wakes_when_the_thread_ends() {
        let drive = Arc::new(Drive::new("test"));
        let (sleeper, (sender, woken)) = (Arc::clone(&drive), mpsc::channel());
        let sleep = move || {
            assert!(!pollster::block_on(sleeper.sleep(Duration::from_hours(1))));
            sender.send(()).unwrap();
        };
        std::thread::spawn(sleep);
        while drive.queue.state.lock().alarms.is_empty() {
            std::thread::yield_now();
        }
        drive.set_may_start(false);
        woken.recv_timeout(Duration::from_secs(20)).expect("it sleeps for ever");
    }
}
