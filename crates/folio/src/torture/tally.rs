//! What each thread counts. A line of its own for each thread: nobody waits for anybody's counter.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

/// Texts that are kept; more are only counted.
const NOTES: usize = 20;

macro_rules! tally {
    ($($(#[$doc:meta])* $field:ident),* $(,)?) => {
        /// One thread's counters, written by it alone.
        #[derive(Default)]
        #[repr(align(128))]
        pub(crate) struct Tally {
            $($(#[$doc])* pub(crate) $field: Count,)*
            pub(crate) notes: Mutex<Vec<String>>,
        }

        /// The sum of all threads' counters.
        #[derive(Clone, Default)]
        pub(crate) struct Totals {
            $($(#[$doc])* pub(crate) $field: u64,)*
            pub(crate) notes: Vec<String>,
        }

        impl Totals {
            pub(crate) fn add(&mut self, tally: &Tally) {
                $(self.$field += tally.$field.get();)*
                let notes = tally.notes.lock().expect("no panic while a note is taken");
                self.notes.extend(notes.iter().cloned());
            }
        }
    };
}

tally! {
    /// Rounds of the thread's loop: the watchdog's pulse.
    progress,
    reads,
    bytes,
    /// Pages that reads touched.
    lookups,
    opened,
    /// Files that vanished or could not be opened.
    skipped,
    /// Files that somebody else changed during the run.
    changed,
    walked,
    frozen,
    free,
    tail,
    moved,
    offline_frames,
    reclaimed,
    migrated,
    offlined,
    onlined,
    /// Migrations, offline attempts and reads that somebody's references prevented.
    busy,
    split,
    /// Bytes that the writer wrote to its own file, and its syncs.
    written,
    synced,
    /// 2 MiB blocks that compaction emptied.
    compacted,
    contiguous,
    shrunk,
    wrong_bytes,
    broken_rules,
}

/// One counter with one writer.
#[derive(Default)]
pub(crate) struct Count(AtomicU64);

impl Count {
    pub(crate) fn add(&self, n: u64) {
        // Relaxed, and no read-modify-write: there is one writer, and readers only show it.
        self.0.store(self.get() + n, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Tally {
    /// Counts a broken rule, and says which.
    pub(crate) fn broken(&self, what: impl FnOnce() -> String) {
        self.broken_rules.add(1);
        self.note(what);
    }

    pub(crate) fn note(&self, what: impl FnOnce() -> String) {
        let mut notes = self.notes.lock().expect("no panic while a note is taken");
        if notes.len() < NOTES {
            notes.push(what());
        }
    }
}
