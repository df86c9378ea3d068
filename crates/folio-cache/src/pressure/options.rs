//! Configures what a cache does under memory pressure.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::backing::error::error;
use crate::pressure::decide::Rules;
use crate::pressure::sensors::Sensors;
use crate::pressure::source::PressureSource;
use crate::pressure::stall::Stalls;
use crate::pressure::system::SystemSource;

/// The sources of memory pressure of a cache, and how it follows them. See the
/// [module](crate::pressure).
#[derive(Debug)]
#[must_use = "pressure does nothing until a builder has it"]
pub struct Pressure {
    rules: Rules,
    /// The folder in which `proc` and `sys` lie. `None`: the system is no source.
    root: Option<PathBuf>,
    sources: Vec<Box<dyn PressureSource>>,
}

impl Default for Pressure {
    /// Returns a configuration without sources, as [`new`](Self::new) does.
    fn default() -> Self {
        Self::new()
    }
}

impl Pressure {
    /// Returns a configuration without sources.
    pub fn new() -> Self {
        let rules = Rules {
            floor: None,
            reserve: None,
            shrink_rate: u64::MAX,
            grow_rate: None,
            hold: Duration::from_secs(10),
        };
        Self { rules, root: None, sources: Vec::new() }
    }

    /// Returns a configuration with the system as its source:
    ///
    /// - pressure stall information of the machine, and of the control group of this process. A
    ///   signal comes when some thread waited for memory for a tenth of the time;
    /// - the control groups of this process, of version 1 and 2, with all groups around them:
    ///   `memory.max` and `memory.high`, or `memory.limit_in_bytes`. They are read again each time,
    ///   so a change is followed;
    /// - the memory of the machine that is available.
    ///
    /// What is missing, such as stall information, is left out.
    pub fn system() -> Self {
        Self { root: Some(PathBuf::from("/")), ..Self::new() }
    }

    /// Adds a source.
    pub fn source(mut self, source: impl PressureSource) -> Self {
        self.sources.push(Box::new(source));
        self
    }

    /// Sets the capacity below which pressure never brings the cache, in bytes.
    ///
    /// The default is a sixteenth of the capacity. The least is 2 MiB.
    pub fn floor(mut self, bytes: usize) -> Self {
        self.rules.floor = Some(bytes as u64);
        self
    }

    /// Sets the memory that stays free under each limit, in bytes.
    ///
    /// The default is an eighth of the limit, at least 8 MiB and at most 256 MiB. More is safer
    /// where other programs allocate fast: the reserve lasts until the cache has given enough back.
    pub fn reserve(mut self, bytes: usize) -> Self {
        self.rules.reserve = Some(bytes as u64);
        self
    }

    /// Sets how fast the capacity shrinks, in bytes per second. After a pause, the first step is as
    /// large as one of a second, and at least 2 MiB.
    ///
    /// The default is no limit.
    pub fn shrink_rate(mut self, bytes: u64) -> Self {
        self.rules.shrink_rate = bytes;
        self
    }

    /// Sets how fast the capacity grows back, in bytes per second. 0: never.
    ///
    /// The default is a sixteenth of the capacity that the user set.
    pub fn grow_rate(mut self, bytes: u64) -> Self {
        self.rules.grow_rate = Some(bytes);
        self
    }

    /// Sets the time without pressure after which the capacity grows back.
    ///
    /// The default is 10 seconds.
    pub fn hold(mut self, time: Duration) -> Self {
        self.rules.hold = time;
        self
    }

    /// Reads the system's files in another folder: for tests.
    #[doc(hidden)]
    pub fn root(mut self, root: impl Into<PathBuf>) -> Self {
        self.root = Some(root.into());
        self
    }

    /// Opens the sources.
    ///
    /// # Errors
    ///
    /// `InvalidInput` if the floor is above `capacity`, or the rate at which it shrinks is 0.
    pub(crate) fn open(self, capacity: usize) -> io::Result<Sensors> {
        let Self { rules, root, mut sources } = self;
        if let Some(floor) = rules.floor.filter(|&floor| floor > capacity as u64) {
            let message = format!(
                "a floor of {floor} bytes under memory pressure is above the capacity of \
                 {capacity}: set at most that"
            );
            return Err(error(io::ErrorKind::InvalidInput, message));
        }
        if rules.shrink_rate == 0 {
            let message = "a cache that shrinks by 0 bytes per second cannot give memory back: \
                           set a rate, or no pressure";
            return Err(error(io::ErrorKind::InvalidInput, message.to_owned()));
        }
        if let Some(root) = root {
            let system = SystemSource::new(root.clone());
            for stalls in Stalls::of_system(&root, system.stalls()) {
                sources.push(Box::new(stalls));
            }
            sources.push(Box::new(system));
        }
        Ok(Sensors::new(rules, sources))
    }
}
