//! The sources of a cache, opened, and the decisions so far.

use std::io;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::pressure::decide::{self, Decision, Rules, Spare, State, View, decide, tightest};
use crate::pressure::source::{PressureSource, Reading, Wait};
use crate::rt::foreign::catch_panic;
use crate::rt::watcher::{Polled, Watched};

/// The time for which a source that panicked is not read.
const PANIC_BACK_OFF: Duration = Duration::from_secs(1);

/// The sources of a cache, opened, and the decisions so far.
#[derive(Debug)]
pub(crate) struct Sensors {
    rules: Rules,
    sources: Vec<Box<dyn PressureSource>>,
    /// By source: when it panicked last.
    panicked: Vec<Option<Instant>>,
    /// By source: its descriptor had its last event, when it was asked here.
    gone: Vec<bool>,
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
        let gone = vec![false; sources.len()];
        Self { rules, sources, panicked, gone, state: State::default(), begin: Instant::now() }
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
        let sources = self.sources.iter_mut().zip(&mut self.panicked).zip(&mut self.gone);
        for (n, ((source, panicked), gone)) in sources.enumerate() {
            if panicked.is_some_and(|at| at.elapsed() < PANIC_BACK_OFF) {
                facts.has_panicked = true;
                continue;
            }
            let event = events.map(|all| all.contains(&n));
            if let Ok(reading) = catch_panic(|| read_one(source.as_mut(), event, gone)) {
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
fn read_one(source: &mut dyn PressureSource, event: Option<bool>, gone: &mut bool) -> Reading {
    let event = event.unwrap_or_else(|| has_event(source, gone));
    source.read(event)
}

/// Returns `true` if the descriptor of a source has an event now. `gone` notes that it will have no
/// other: a socket of which the other end is closed can be read for ever.
fn has_event(source: &dyn PressureSource, gone: &mut bool) -> bool {
    let Some((descriptor, event)) = source.wait().map(polled) else { return false };
    let mut asked = [PollFd::from_borrowed_fd(descriptor, event)];
    let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
    if poll(&mut asked, Some(&zero)).is_err() {
        return false;
    }
    let now = Polled::new(asked[0].revents(), event);
    // The source may have another descriptor than before, which is not gone.
    let was_gone = std::mem::replace(gone, now.is_gone);
    now.has_event && !(was_gone && now.is_gone)
}

/// Returns a descriptor, and its event by the name of poll(2).
fn polled(wait: Wait<'_>) -> (BorrowedFd<'_>, PollFlags) {
    match wait {
        Wait::Readable(descriptor) => (descriptor, PollFlags::IN),
        Wait::Urgent(descriptor) => (descriptor, PollFlags::PRI),
    }
}

#[cfg(all(test, not(shuttle)))]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::os::fd::AsFd as _;
    use std::os::unix::net::UnixStream;

    use super::*;

    /// Signals with each event.
    #[derive(Debug)]
    struct Socket(UnixStream);

    impl PressureSource for Socket {
        fn wait(&self) -> Option<Wait<'_>> {
            Some(Wait::Readable(self.0.as_fd()))
        }

        fn read(&mut self, has_event: bool) -> Reading {
            if has_event {
                assert!(self.0.read(&mut [0; 64]).unwrap() > 0, "no message");
            }
            Reading { signal: has_event, ..Reading::default() }
        }
    }

    /// A socket of which the other end is closed can be read for ever.
    #[test]
    fn a_source_that_is_gone_signals_no_more() {
        let (own, mut other) = UnixStream::pair().unwrap();
        let (none, hold) = (None, Duration::ZERO);
        let rules = Rules { floor: none, reserve: none, shrink_rate: 0, grow_rate: none, hold };
        let mut sensors = Sensors::new(rules, vec![Box::new(Socket(own))]);
        assert!(!sensors.read(None).signal);
        other.write_all(b"short").unwrap();
        assert!(sensors.read(None).signal);
        assert!(!sensors.read(None).signal);
        other.write_all(b"the last").unwrap();
        drop(other);
        let signals = [(); 3].map(|()| sensors.read(None).signal);
        assert_eq!(signals, [true, false, false]);
    }
}
