//! The sources of a cache, opened, and the decisions so far.

use std::io;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::pressure::decide::{self, Decision, Rules, Spare, State, View, decide, tightest};
use crate::pressure::source::{PressureSource, Reading, Wait};
use crate::rt::foreign::catch_panic;
use crate::rt::watcher::Watched;

/// The time for which a source that panicked is not read.
const PANIC_BACK_OFF: Duration = Duration::from_secs(1);

/// The sources of a cache, opened, and the decisions so far.
#[derive(Debug)]
pub(crate) struct Sensors {
    rules: Rules,
    sources: Vec<Box<dyn PressureSource>>,
    /// By source: when it panicked last.
    panicked: Vec<Option<Instant>>,
    state: State,
    begin: Instant,
}

/// The facts of all sources.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Facts {
    pub(crate) signal: bool,
    pub(crate) spare: Option<Spare>,
    /// Not all sources were read: one panicked, or did so a moment ago.
    pub(crate) has_panicked: bool,
}

impl Sensors {
    pub(crate) fn new(rules: Rules, sources: Vec<Box<dyn PressureSource>>) -> Self {
        let panicked = vec![None; sources.len()];
        Self { rules, sources, panicked, state: State::default(), begin: Instant::now() }
    }

    /// Returns the descriptors to wait for, each with its source.
    ///
    /// # Errors
    ///
    /// The system's error if no descriptor is free.
    pub(crate) fn descriptors(&self) -> io::Result<Vec<Watched>> {
        let sources = self.sources.iter().enumerate();
        let own = sources.filter_map(|(number, source)| {
            let (descriptor, event) = polled(source.wait()?);
            let owned = descriptor.try_clone_to_owned();
            Some(owned.map(|descriptor| Watched { number, descriptor, event }))
        });
        own.collect()
    }

    /// Reads all sources. `events` are the sources that had an event at their descriptor; without
    /// it, they are asked here. A source that panics is left out for a while, and the others hold.
    pub(crate) fn read(&mut self, events: Option<&[usize]>) -> Facts {
        let (mut facts, mut headrooms) = (Facts::default(), Vec::new());
        let sources = self.sources.iter_mut().zip(&mut self.panicked).enumerate();
        for (n, (source, panicked)) in sources {
            if panicked.is_some_and(|at| at.elapsed() < PANIC_BACK_OFF) {
                facts.has_panicked = true;
                continue;
            }
            let event = events.map(|all| all.contains(&n));
            if let Ok(reading) = catch_panic(|| read_one(source.as_mut(), event)) {
                facts.signal |= reading.signal;
                headrooms.extend(reading.headrooms);
            } else {
                (*panicked, facts.has_panicked) = (Some(Instant::now()), true);
                tracing::warn!(source = n, "a source of memory pressure panicked");
            }
        }
        facts.spare = tightest(&self.rules, &headrooms);
        facts
    }

    /// Notes that the last step was to give memory back, and could not.
    pub(crate) fn stuck(&mut self) {
        self.state = decide::stuck(self.state, self.begin.elapsed());
    }

    /// Decides the capacity. `view` has the facts; its time is set here.
    pub(crate) fn decide(&mut self, view: View) -> Decision {
        let view = View { now: self.begin.elapsed(), ..view };
        let decision = decide(&self.rules, self.state, &view);
        self.state = decision.state;
        decision
    }
}

/// Reads a source. `event` says that its descriptor had an event; without it, it is asked here.
fn read_one(source: &mut dyn PressureSource, event: Option<bool>) -> Reading {
    let event = event.unwrap_or_else(|| has_event(source));
    source.read(event)
}

/// Returns `true` if the descriptor of a source has an event now.
fn has_event(source: &dyn PressureSource) -> bool {
    source.wait().map(polled).is_some_and(|(descriptor, event)| {
        let mut polled = [PollFd::from_borrowed_fd(descriptor, event)];
        let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut polled, Some(&zero)).is_ok_and(|_| polled[0].revents().intersects(event))
    })
}

/// Returns a descriptor, and its event by the name of poll(2).
fn polled(wait: Wait<'_>) -> (BorrowedFd<'_>, PollFlags) {
    match wait {
        Wait::Readable(descriptor) => (descriptor, PollFlags::IN),
        Wait::Urgent(descriptor) => (descriptor, PollFlags::PRI),
    }
}
