//! The counters of each thread. Each thread has its own cache line, so no thread waits for another.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

/// Maximum number of notes kept by a thread; further ones are only counted.
const NOTES: usize = 20;

macro_rules! tally {
    ($($(#[$doc:meta])* $field:ident),* $(,)?) => {
        /// The counters of one thread, which alone writes them.
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
    /// Rounds of the thread's loop. The watchdog checks that it grows.
    progress,
    reads,
    bytes,
    /// Pages that reads touched.
    lookups,
    opened,
    /// Files that vanished or could not be opened.
    skipped,
    /// Reads of files that another process changed during the run.
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
    /// Migrations, offline attempts and reads that failed because of other references.
    busy,
    split,
    /// Bytes that the writer wrote to its own file.
    written,
    /// Syncs of the writer's file.
    synced,
    /// 2 MiB blocks that compaction emptied.
    compacted,
    contiguous,
    shrunk,
    /// Children that were forked and ended.
    forked,
    /// Writing processes that were killed, and left the right files.
    killed,
    /// Rounds of these that were promised.
    promised,
    wrong_bytes,
    broken_rules,
}

/// A counter with a single writer.
#[derive(Default)]
pub(crate) struct Count(AtomicU64);

impl Count {
    pub(crate) fn add(&self, n: u64) {
        // Relaxed, and no read-modify-write: one thread writes it, others only display it.
        self.0.store(self.get() + n, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Tally {
    /// Counts a broken rule and notes which.
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
