//! The order of writes and answers: an answer to a request that was sent before a write ended is
//! never kept.
//!
//! The paths share a fixed number of slots by their hash. A collision costs a request, and never
//! shows old bytes.
//!
//! The rule. A write counts its slot up before it is sent and after it is answered, and the slot
//! says in between that a write is under way. A request takes a [`Ticket`] before it is sent. Its
//! answer is kept only if no write is under way and the counts are as the ticket says. Each pair of
//! a get and a write then is in one of these orders:
//!
//! | the get's request is sent | its answer is looked at | it is kept |
//! | --- | --- | --- |
//! | before the write begins | before the write begins | yes; the write then removes it |
//! | before the write begins | later | no: the first count differs |
//! | while the write is under way | while it is, or later | no: the second count differs |
//! | after the write has ended | later | yes: the store had the write before |
//!
//! The check and the insertion are one step under the lock of the table, and so is the removal: see
//! `table.rs`. A write of unknown outcome may take effect later. So its slot is doubted for a
//! while: gets ask the store, whatever the rule of consistency is, until the time is over and the
//! store has answered once more.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

const SLOTS: usize = 1024;

/// The time in which a request that was sent may still take effect.
const DOUBT: Duration = Duration::from_mins(2);

/// The counts of all slots, and the clock.
#[derive(Debug)]
pub(crate) struct Epochs {
    slots: Box<[Slot]>,
    /// Counts [`forget_all`](Self::forget_all).
    all: AtomicU64,
    start: Instant,
}

#[derive(Debug, Default)]
struct Slot {
    /// Counts the begins and the ends of writes.
    writes: AtomicU64,
    /// The number of writes under way.
    under_way: AtomicU64,
    /// Counts the explicit invalidations.
    forgotten: AtomicU64,
    /// The moment until which the slot is doubted.
    doubted_until: AtomicU64,
    /// The moment at which a write ended last.
    written: AtomicU64,
}

/// The counts of a slot before a request is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Ticket {
    slot: usize,
    /// The number of begins and ends of writes.
    pub(crate) writes: u64,
    /// The number of invalidations of the slot and of all.
    pub(crate) forgotten: [u64; 2],
}

impl Epochs {
    pub(crate) fn new() -> Self {
        Self {
            slots: (0..SLOTS).map(|_| Slot::default()).collect(),
            all: AtomicU64::new(0),
            start: Instant::now(),
        }
    }

    /// Returns the number of nanoseconds since the start, plus 1: 0 is no moment.
    pub(crate) fn now(&self) -> u64 {
        nanos(self.start.elapsed()).saturating_add(1)
    }

    /// Returns the ticket of a request that is about to be sent.
    pub(crate) fn ticket(&self, path: &str) -> Ticket {
        let slot = slot_of(path);
        Ticket {
            slot,
            writes: self.slots[slot].writes.load(SeqCst),
            forgotten: [self.slots[slot].forgotten.load(SeqCst), self.all.load(SeqCst)],
        }
    }

    /// Returns `true` if the answer to the request with this ticket may be kept.
    pub(crate) fn may_keep(&self, ticket: &Ticket) -> bool {
        let slot = &self.slots[ticket.slot];
        slot.under_way.load(SeqCst) == 0
            && slot.writes.load(SeqCst) == ticket.writes
            && [slot.forgotten.load(SeqCst), self.all.load(SeqCst)] == ticket.forgotten
    }

    /// Begins a write of a path. [`end_write`](Self::end_write) must follow.
    pub(crate) fn begin_write(&self, path: &str) {
        let slot = &self.slots[slot_of(path)];
        slot.under_way.fetch_add(1, SeqCst);
        slot.writes.fetch_add(1, SeqCst);
    }

    /// Ends a write. `certain` says that its outcome is known.
    pub(crate) fn end_write(&self, path: &str, certain: bool) {
        let slot = &self.slots[slot_of(path)];
        if !certain {
            slot.doubted_until.fetch_max(self.now().saturating_add(nanos(DOUBT)), SeqCst);
        }
        slot.written.fetch_max(self.now(), SeqCst);
        // The count goes up first: a ticket from before it is never valid again.
        slot.writes.fetch_add(1, SeqCst);
        slot.under_way.fetch_sub(1, SeqCst);
    }

    /// Makes all tickets of a path invalid, and the names of its pages.
    pub(crate) fn forget(&self, path: &str) {
        self.slots[slot_of(path)].forgotten.fetch_add(1, SeqCst);
    }

    /// Makes all tickets invalid, and the names of all pages.
    pub(crate) fn forget_all(&self) {
        self.all.fetch_add(1, SeqCst);
    }

    /// Returns `true` if what was validated at this moment cannot be told from what a write of
    /// unknown outcome has replaced since.
    pub(crate) fn is_doubted(&self, path: &str, validated: u64) -> bool {
        validated < self.slots[slot_of(path)].doubted_until.load(SeqCst)
    }

    /// Returns `true` if a write has begun or ended since the ticket was taken.
    pub(crate) fn is_written(&self, ticket: &Ticket) -> bool {
        self.slots[ticket.slot].writes.load(SeqCst) != ticket.writes
    }

    /// Returns `true` if a write has ended since this moment.
    pub(crate) fn is_written_since(&self, path: &str, moment: u64) -> bool {
        moment <= self.slots[slot_of(path)].written.load(SeqCst)
    }
}

pub(crate) fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

fn slot_of(path: &str) -> usize {
    let mut hasher = DefaultHasher::new();
    path.hash(&mut hasher);
    hasher.finish() as usize % SLOTS
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each row of the module's table.
    #[test]
    fn no_answer_from_before_a_write_is_kept() {
        let epochs = Epochs::new();
        let before = epochs.ticket("a");
        assert!(epochs.may_keep(&before));
        epochs.begin_write("a");
        assert!(!epochs.may_keep(&before));
        let during = epochs.ticket("a");
        assert!(!epochs.may_keep(&during));
        epochs.end_write("a", true);
        assert!(!epochs.may_keep(&before) && !epochs.may_keep(&during));
        assert!(epochs.may_keep(&epochs.ticket("a")));
    }

    #[test]
    fn two_writes_at_once_end_one_after_the_other() {
        let epochs = Epochs::new();
        epochs.begin_write("a");
        epochs.begin_write("a");
        epochs.end_write("a", true);
        let between = epochs.ticket("a");
        assert!(!epochs.may_keep(&between));
        epochs.end_write("a", true);
        assert!(!epochs.may_keep(&between));
        assert!(epochs.may_keep(&epochs.ticket("a")));
    }

    #[test]
    fn an_unknown_outcome_is_doubted_until_a_later_answer() {
        let epochs = Epochs::new();
        epochs.begin_write("a");
        epochs.end_write("a", false);
        let now = epochs.now();
        assert!(epochs.is_doubted("a", now));
        assert!(!epochs.is_doubted("a", now + nanos(DOUBT)));
        assert!(!epochs.is_doubted("b", now));
    }

    #[test]
    fn invalidations_make_tickets_invalid() {
        let epochs = Epochs::new();
        let ticket = epochs.ticket("a");
        epochs.forget("a");
        assert!(!epochs.may_keep(&ticket));
        let ticket = epochs.ticket("a");
        epochs.forget_all();
        assert!(!epochs.may_keep(&ticket));
    }
}
