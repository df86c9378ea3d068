//! Reports to an operator: errors, `tracing` events and hit counts.

mod common;

use std::fmt::{Debug, Write};
use std::io::ErrorKind;
use std::sync::{Arc, Mutex, Once};
use std::thread;

use common::assert_nothing_leaked;
use folio_cache::Cache;
use folio_cache::testing::{Call, Fault, Memory};
use tracing::field::{Field, Visit};
use tracing::{Event, Metadata, Subscriber, span};

/// Collects events as lines, also from the threads of the cache. All tests share the lines, and
/// find theirs by their text.
struct Lines;

static LINES: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Returns the lines so far. The first call starts the collection.
fn lines() -> Vec<String> {
    static SUBSCRIBED: Once = Once::new();
    SUBSCRIBED
        .call_once(|| tracing::subscriber::set_global_default(Lines).expect("no other subscriber"));
    LINES.lock().unwrap().clone()
}

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        write!(self.0, " {field}={value:?}").unwrap();
    }
}

impl Subscriber for Lines {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn event(&self, event: &Event<'_>) {
        let mut line = Line(event.metadata().level().to_string());
        event.record(&mut line);
        LINES.lock().unwrap().push(line.0);
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

#[track_caller]
fn assert_logged(words: &[&str]) {
    let lines = lines();
    assert!(
        lines.iter().any(|line| words.iter().all(|word| line.contains(word))),
        "no line has {words:?}: {lines:#?}"
    );
}

#[test]
fn out_of_memory_reports_pinned_and_dirty_bytes() {
    lines();
    let memory = Arc::new(Memory::new(&vec![7; 3 << 20]));
    let stuck = Arc::new(Memory::new(b""));
    let cache: Cache = Cache::new(2 << 20).unwrap();
    let (file, dirty) =
        (cache.open_backing(memory).unwrap(), cache.open_backing(stuck.clone()).unwrap());
    stuck.inject(Call::Write, 0, u64::MAX, Fault::Error(28));
    dirty.write_at(&[1; 4 * 4096], 0).unwrap();
    let mut handles = Vec::new();
    let error = loop {
        match file.page(handles.len() as u64 * 4096) {
            Ok(page) => handles.push(page.unwrap()),
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), ErrorKind::OutOfMemory);
    let (message, pinned) = (error.to_string(), handles.len() * 4096);
    assert!(
        message
            .contains(&format!("{pinned} are pinned by handles, 16384 are dirty, 0 are offline")),
        "{message}"
    );
    assert_logged(&["ERROR", "no page of the cache can be freed", "dirty=16384", "offline=0"]);
    assert_logged(&["WARN", "writeback failed", "os error 28"]);
    // Reported once for many attempts.
    assert!(stuck.calls(Call::Write) > 1);
    assert_eq!(lines().iter().filter(|line| line.contains("writeback failed")).count(), 1);
    stuck.heal();
    dirty.sync_data().unwrap_err();
    dirty.sync_data().unwrap();
    drop((handles, file, dirty));
    assert_nothing_leaked(&cache);
}

#[test]
fn hits_are_counted_with_the_feature_only() {
    let cache: Cache = Cache::new(2 << 20).unwrap();
    let file = cache.open_backing(Arc::new(Memory::new(&vec![7; 100 * 4096]))).unwrap();
    file.read_at(&mut vec![0; 100 * 4096], 0).unwrap();
    cache.quiesce();
    let before = cache.stats().hits;
    thread::scope(|scope| {
        for _ in 0..3 {
            // Small reads, a large read, and a pinned range.
            scope.spawn(|| {
                (0..1000).for_each(|n| assert_eq!(file.read_at(&mut [0; 64], n * 64).unwrap(), 64));
                file.read_at(&mut vec![0; 30 * 4096], 0).unwrap();
                file.range(1, 4096).unwrap();
            });
        }
    });
    let expected = before.map(|before| before + 3 * (1000 + 30 + 2));
    assert_eq!((cache.stats().hits, before.is_some()), (expected, cfg!(feature = "hits")));
}

#[test]
fn failed_syncs_and_capacity_changes_are_logged() {
    lines();
    let memory = Arc::new(Memory::new(b"bytes"));
    let cache = Cache::builder().capacity(4 << 20).max_capacity(8 << 20).build().unwrap();
    let file = cache.open_backing(memory.clone()).unwrap();
    memory.inject(Call::Sync, 0, 1, Fault::Error(5));
    file.sync_data().unwrap_err();
    file.sync_data().unwrap();
    assert_logged(&["ERROR", "a sync failed", "os error 5", "memory"]);
    assert_eq!(lines().iter().filter(|line| line.contains("a sync failed")).count(), 1);
    cache.set_capacity(6 << 20).unwrap();
    assert_logged(&["INFO", "the capacity was set", "before=4194304", "now=6291456"]);
    cache.set_capacity(1).unwrap_err();
    assert_logged(&["INFO", "wanted=1", "now=6291456"]);
    drop(file);
    assert_nothing_leaked(&cache);
}
