//! The wait of an allocation that found no memory: for what, and for how long.
//!
//! | the memory is | it waits |
//! | --- | --- |
//! | in flight: being filled, or about to be written to | until it is published or free |
//! | in flight in a request to a distant store, or being written | the same, without an end 5 s |
//! | pinned, or dirty and its backing fails | a moment, for short pins, closes and moves |
//!
//! It takes no CPU but for a few looks. A thread with pages in flight never waits here, so those
//! that this waits for come back as soon as their backings answer. A request to a distant store
//! gets a driver if its future is held and not polled.
//!
//! The moment is one for all calls that find nothing at the same time, and for all that a call
//! requests ([`Searches`](crate::rt::searches::Searches)).

use std::time::Duration;

use folio_ref::Scheme;

use crate::rt::in_flight::Look;
use crate::rt::searches::Beginning;
use crate::rt::shim::{back_off, yield_now};
use crate::state::shared::{Awaited, Shared};

/// Rounds that only yield, before a pause.
const YIELDS: u32 = 1;

/// The first pause of a round; each is four times the one before.
const MIN_PAUSE: Duration = Duration::from_millis(1);

/// The last pause, after which all frames are visited. All are 85 ms.
const MAX_PAUSE: Duration = Duration::from_millis(64);

/// The pause while pages are in flight, unless one ends before.
const IN_FLIGHT_PAUSE: Duration = Duration::from_millis(20);

/// The number of these pauses in a row without an end, 60 s, after which a backing seems to hang.
const PATIENCE: u32 = 3000;

/// The same where only writes to files and distant stores have pages in flight, 5 s. A write may
/// hang, and this thread may be the only one of an executor that the requests need.
const SLOW_PATIENCE: u32 = 250;

/// The number of pauses after which requests that are stuck are driven, 240 ms.
const STUCK_AFTER: u32 = 12;

/// Rounds that found memory which other threads took, before such a round counts as one that found
/// nothing.
const LOST: u32 = 1000;

/// The next step of an allocation, after a wait.
pub(super) enum Next {
    /// Looks for memory again.
    Look,
    /// Looks at all frames. The last time, unless memory is in flight then.
    LookAtAll,
    Fail,
}

/// The waits of one allocation.
pub(super) struct Wait<'c, S: Scheme> {
    shared: &'c Shared<S>,
    look: Look<'c>,
    yields: u32,
    pause: Duration,
    fruitless: u32,
    lost: u32,
    /// That of the call which allocates.
    beginning: Beginning,
    /// The number of the look before, if it was at all frames.
    search: Option<u64>,
}

impl<'c, S: Scheme> Wait<'c, S> {
    /// Call before the first look.
    pub(super) fn new(shared: &'c Shared<S>) -> Self {
        let look = shared.memory_wait.look();
        let beginning = shared.searches.beginning();
        let (yields, pause, fruitless, lost, search) = (0, MIN_PAUSE, 0, 0, None);
        Self { shared, look, yields, pause, fruitless, lost, beginning, search }
    }

    /// Waits until another look is worth it. `found`: the last look freed memory, which another
    /// thread took.
    pub(super) fn wait(&mut self, found: bool) -> Next {
        let search = self.search.take();
        if found && self.lost < LOST {
            self.lost += 1;
            if self.lost < LOST / 4 {
                yield_now();
            } else {
                back_off(MIN_PAUSE);
            }
            return Next::Look;
        }
        let patience = match self.shared.awaited() {
            Awaited::Fills => PATIENCE,
            Awaited::Slow => SLOW_PATIENCE,
            Awaited::Nothing => 0,
        };
        if self.fruitless < patience {
            self.fruitless = if self.look.wait(IN_FLIGHT_PAUSE) { 0 } else { self.fruitless + 1 };
            if self.fruitless % STUCK_AFTER == STUCK_AFTER - 1 {
                self.shared.drive_stuck();
            }
            return Next::Look;
        }
        if let Some(search) = search {
            if !found {
                self.shared.searches.found_nothing(search);
            }
            return Next::Fail;
        }
        if self.shared.searches.found_nothing_since(self.beginning) {
            return Next::Fail;
        }
        if self.yields < YIELDS {
            self.yields += 1;
            yield_now();
            return Next::Look;
        }
        if self.look.wait(self.pause) && self.lost < LOST {
            self.lost += 1;
            return Next::Look;
        }
        if self.pause < MAX_PAUSE {
            self.pause *= 4;
            return Next::Look;
        }
        self.search = Some(self.shared.searches.begin());
        Next::LookAtAll
    }
}
