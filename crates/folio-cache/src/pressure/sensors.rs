//! The sources of a cache, opened, and the decisions so far.

use std::io;
use std::os::fd::BorrowedFd;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::pressure::decide::{Decision, Rules, Spare, State, View, decide, tightest};
use crate::pressure::source::{PressureSource, Wait};
use crate::rt::watcher::Watched;

/// The sources of a cache, opened, and the decisions so far.
#[derive(Debug)]
pub(crate) struct Sensors {
    rules: Rules,
    sources: Vec<Box<dyn PressureSource>>,
    state: State,
    begin: Instant,
}

/// The facts of all sources.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Facts {
    pub(crate) signal: bool,
    pub(crate) spare: Option<Spare>,
}

impl Sensors {
    pub(crate) fn new(rules: Rules, sources: Vec<Box<dyn PressureSource>>) -> Self {
        Self { rules, sources, state: State::default(), begin: Instant::now() }
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
    /// it, they are asked here.
    pub(crate) fn read(&mut self, events: Option<&[usize]>) -> Facts {
        let (mut signal, mut headrooms) = (false, Vec::new());
        for (n, source) in self.sources.iter_mut().enumerate() {
            let has_event = match events {
                Some(events) => events.contains(&n),
                None => has_event(source.as_ref()),
            };
            let reading = source.read(has_event);
            signal |= reading.signal;
            headrooms.extend(reading.headrooms);
        }
        Facts { signal, spare: tightest(&self.rules, &headrooms) }
    }

    /// Decides the capacity. `view` has the facts; its time is set here.
    pub(crate) fn decide(&mut self, view: View) -> Decision {
        let view = View { now: self.begin.elapsed(), ..view };
        let decision = decide(&self.rules, self.state, &view);
        self.state = decision.state;
        decision
    }
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
