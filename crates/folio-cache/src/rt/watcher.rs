//! A watcher: a lazily started thread that waits for descriptors by poll(2), with a time limit.
//!
//! The thread holds its target, the cache, weakly, and not at all while it waits. It ends when the
//! target is dropped. Without a thread, callers do the work when they are asked to.

use std::io;
use std::os::fd::OwnedFd;
use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::process::setpriority_process;

use crate::rt::shim::{Mutex, back_off, spawn};

/// The answers of poll(2) that no event is believed with: a trigger of a control group that is gone
/// has its event and an error for ever.
const ERROR: PollFlags = PollFlags::ERR.union(PollFlags::NVAL);

/// The pause after each run of the work: a source that does not end its event takes no more of a
/// CPU than this leaves.
const MIN_PAUSE: Duration = Duration::from_millis(1);

/// The priority of the thread, as nice(2) counts it: ten times the share of a processor.
const PRIORITY: i32 = -10;

/// The pause after the work panicked, as a source may.
const PANIC_BACK_OFF: Duration = Duration::from_secs(1);

/// The work of a watcher: gets the numbers of the descriptors that had an event.
pub(crate) type Work<T> = fn(&T, &[usize]) -> Rest;

/// The rest between two runs of the work.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Rest {
    /// The time for which no event is waited for.
    pub(crate) least: Duration,
    /// The longest time to wait for the next event after that.
    pub(crate) most: Duration,
}

#[derive(Debug)]
struct State {
    may_start: bool,
    has_thread: bool,
}

#[derive(Debug)]
struct Signal {
    state: Mutex<State>,
    /// There is a thread: makes frequent starts cheap.
    is_started: AtomicBool,
    descriptors: Descriptors,
}

/// The descriptors that a watcher waits for.
#[derive(Debug)]
pub(crate) struct Descriptors {
    /// Ends the wait.
    wake: OwnedFd,
    watched: Vec<Watched>,
}

/// A descriptor to wait for.
#[derive(Debug)]
pub(crate) struct Watched {
    pub(crate) number: usize,
    pub(crate) descriptor: OwnedFd,
    pub(crate) event: PollFlags,
}

/// The answer of poll(2) for a descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Polled {
    pub(crate) has_event: bool,
    /// There will be no other event.
    pub(crate) is_gone: bool,
}

impl Polled {
    /// Reads the answer of poll(2) to a wait for `event`.
    pub(crate) fn new(answer: PollFlags, event: PollFlags) -> Self {
        let has_error = answer.intersects(ERROR);
        Self {
            // A last message may be there although the other end hung up.
            has_event: answer.intersects(event) && !has_error,
            is_gone: has_error || answer.intersects(PollFlags::HUP),
        }
    }
}

impl Descriptors {
    /// Returns descriptors to wait for.
    ///
    /// # Errors
    ///
    /// The system's error if no descriptor is free: one more is needed.
    pub(crate) fn new(watched: Vec<Watched>) -> io::Result<Self> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { wake, watched })
    }
}

/// The handle of a watcher's thread.
pub(crate) struct Watcher<T: Send + Sync + 'static> {
    work: Work<T>,
    thread_name: String,
    signal: Arc<Signal>,
    target: Weak<T>,
}

impl<T: Send + Sync + 'static> Watcher<T> {
    /// Returns a watcher without a thread.
    pub(crate) fn new(
        work: Work<T>,
        thread_name: String,
        descriptors: Descriptors,
        target: Weak<T>,
    ) -> Self {
        let signal = Signal {
            // Shuttle knows no descriptors.
            state: Mutex::new(State { may_start: !cfg!(shuttle), has_thread: false }),
            is_started: AtomicBool::new(false),
            descriptors,
        };
        Self { work, thread_name, signal: Arc::new(signal), target }
    }

    /// Starts the thread, if it may start and there is none. Cheap if there is.
    pub(crate) fn start(&self) {
        // Relaxed: a hint. A start that is lost is tried again by the next call.
        if self.signal.is_started.load(Ordering::Relaxed) {
            return;
        }
        let mut state = self.signal.state.lock();
        if state.may_start && !state.has_thread {
            let (work, signal, target) = (self.work, Arc::clone(&self.signal), self.target.clone());
            state.has_thread = spawn(&self.thread_name, move || run(work, &signal, &target));
        }
        self.signal.is_started.store(state.has_thread, Ordering::Relaxed);
    }

    /// Allows or forbids a thread. A thread that is forbidden ends after its current work.
    pub(crate) fn set_may_start(&self, may_start: bool) {
        let mut state = self.signal.state.lock();
        state.may_start = may_start && !cfg!(shuttle);
        if !may_start {
            self.signal.is_started.store(false, Ordering::Relaxed);
            // It fails only if the count is at its maximum: then the wait ends anyway.
            let _ = rustix::io::write(&self.signal.descriptors.wake, &1_u64.to_ne_bytes());
        }
    }
}

impl<T: Send + Sync + 'static> Drop for Watcher<T> {
    fn drop(&mut self) {
        self.set_may_start(false);
    }
}

impl Signal {
    /// Returns `true` if the thread must end. From then on there is none.
    fn ends(&self) -> bool {
        let mut state = self.state.lock();
        state.has_thread = state.may_start;
        !state.may_start
    }

    /// Waits for an event for at most `most`. Returns the numbers of the descriptors that had one.
    /// Those that will have none any more are noted in `gone`.
    fn wait(&self, most: Duration, gone: &mut Vec<usize>) -> Vec<usize> {
        let Descriptors { wake, watched } = &self.descriptors;
        let watched: Vec<_> = watched.iter().filter(|one| !gone.contains(&one.number)).collect();
        let mut polled = vec![PollFd::new(wake, PollFlags::IN)];
        polled.extend(watched.iter().map(|one| PollFd::new(&one.descriptor, one.event)));
        let most = Timespec::try_from(most).ok();
        if poll(&mut polled, most.as_ref()).is_err() {
            // Interrupted, or no memory for the call: the time limit is as good as over.
            return Vec::new();
        }
        let _ = rustix::io::read(wake, &mut [0; 8]);
        let events = polled[1..].iter().zip(watched).map(|(poll, to)| (poll.revents(), to));
        let mut ready = Vec::new();
        for (events, to) in events {
            let polled = Polled::new(events, to.event);
            if polled.is_gone {
                gone.push(to.number);
            }
            if polled.has_event {
                ready.push(to.number);
            }
        }
        ready
    }
}

/// Runs the thread until it must end. It works rarely, and then others must not keep it from a
/// processor.
fn run<T>(work: Work<T>, signal: &Signal, target: &Weak<T>) {
    // "The process" is this thread to Linux. Without the right to, it has the priority of all.
    let _ = setpriority_process(None, PRIORITY);
    let (mut most, mut gone) = (Duration::ZERO, Vec::new());
    loop {
        let ready = signal.wait(most, &mut gone);
        if signal.ends() {
            return;
        }
        let Some(target) = target.upgrade() else { return };
        let worked = panic::catch_unwind(AssertUnwindSafe(|| work(&target, &ready)));
        drop(target);
        let rest =
            worked.unwrap_or_else(|_| Rest { least: PANIC_BACK_OFF, most: Duration::default() });
        back_off(rest.least.max(MIN_PAUSE));
        most = rest.most;
    }
}

#[cfg(all(test, not(shuttle)))]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;

    const LONG: Duration = Duration::from_secs(20);

    /// Reports the events of each run. Panics at the first.
    struct Target {
        report: Mutex<Sender<Vec<usize>>>,
        panics: AtomicBool,
    }

    fn work(target: &Target, ready: &[usize]) -> Rest {
        target.report.lock().send(ready.to_vec()).unwrap();
        assert!(!target.panics.swap(false, Ordering::Relaxed), "as the test wants");
        Rest { most: Duration::from_hours(1), ..Rest::default() }
    }

    fn target(panics: bool) -> (Arc<Target>, Receiver<Vec<usize>>) {
        let (report, reports) = channel();
        let report = Mutex::new(report);
        (Arc::new(Target { report, panics: AtomicBool::new(panics) }), reports)
    }

    fn watched(number: usize, descriptor: OwnedFd) -> Watched {
        Watched { number, descriptor, event: PollFlags::IN }
    }

    fn event() -> OwnedFd {
        eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap()
    }

    fn fire(event: &OwnedFd) {
        rustix::io::write(event, &1_u64.to_ne_bytes()).unwrap();
    }

    #[test]
    fn an_event_runs_the_work_and_a_drop_ends_the_thread() {
        let (target, reports) = target(false);
        let event = event();
        let descriptors = Descriptors::new(vec![watched(7, event.try_clone().unwrap())]).unwrap();
        let thread = Watcher::new(work, "watch".to_owned(), descriptors, Arc::downgrade(&target));
        fire(&event);
        assert!(reports.recv_timeout(Duration::from_millis(50)).is_err(), "no thread yet");
        thread.start();
        let has_event = |ready: Vec<usize>| ready == [7];
        assert!((0..5).any(|_| has_event(reports.recv_timeout(LONG).unwrap())));
        thread.set_may_start(false);
        thread.start();
        thread.set_may_start(true);
        thread.start();
        fire(&event);
        assert!((0..5).any(|_| has_event(reports.recv_timeout(LONG).unwrap())), "started again");
        let signal = Arc::downgrade(&thread.signal);
        drop((thread, target));
        while signal.strong_count() > 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// The kernel answers so for a trigger of a control group that was removed.
    #[test]
    fn an_error_with_an_event_is_no_event() {
        use PollFlags as F;
        let polled = |answer, event| {
            let Polled { has_event, is_gone } = Polled::new(answer, event);
            (has_event, is_gone)
        };
        assert_eq!(polled(F::PRI, F::PRI), (true, false));
        assert_eq!(polled(F::PRI | F::ERR, F::PRI), (false, true));
        assert_eq!(polled(F::NVAL, F::IN), (false, true));
        assert_eq!(polled(F::IN | F::HUP, F::IN), (true, true));
        assert_eq!(polled(F::HUP, F::IN), (false, true));
        assert_eq!(polled(F::IN, F::PRI), (false, false));
    }

    /// The message and the hang-up are there before the thread is.
    #[test]
    fn a_last_message_before_a_hang_up_is_an_event() {
        let (target, reports) = target(false);
        let (pipe, mut other_end) = std::io::pipe().unwrap();
        std::io::Write::write_all(&mut other_end, b"short").unwrap();
        drop(other_end);
        let descriptors = Descriptors::new(vec![watched(3, pipe.into())]).unwrap();
        let thread = Watcher::new(work, "watch".to_owned(), descriptors, Arc::downgrade(&target));
        thread.start();
        assert_eq!(reports.recv_timeout(LONG).unwrap(), [3]);
    }

    /// A source that panics is tried again after a while, and one that is gone is not watched.
    #[test]
    fn a_panic_and_a_hang_up_do_not_end_the_thread() {
        let (target, reports) = target(true);
        let (pipe, other_end) = std::io::pipe().unwrap();
        let event = event();
        let both = vec![watched(0, pipe.into()), watched(1, event.try_clone().unwrap())];
        let descriptors = Descriptors::new(both).unwrap();
        let thread = Watcher::new(work, "watch".to_owned(), descriptors, Arc::downgrade(&target));
        drop(other_end);
        thread.start();
        let mut seen = Vec::new();
        for _ in 0..3 {
            fire(&event);
            seen.extend(reports.recv_timeout(LONG).unwrap());
            rustix::io::read(&event, &mut [0; 8]).unwrap_or_default();
        }
        assert!(!seen.contains(&0), "{seen:?}");
    }
}
