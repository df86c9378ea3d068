//! The weak memory of the shuttle tests, by the small programs that tell memory models apart.
//!
//! `RUSTFLAGS='--cfg shuttle' cargo test --release -p folio-ref --test memory`. Each program runs
//! depth first. A result that C11 allows must occur, and one that it forbids must not. What the
//! model leaves out (stores out of order, load buffering) is listed in `testing/memory.rs`.

#![cfg(shuttle)]

use std::collections::BTreeSet;
use std::sync::atomic::Ordering::{self, AcqRel, Acquire, Relaxed, Release, SeqCst};
use std::sync::{Arc, Mutex};

use folio_ref::testing::explore::{Search, explore, race};
use folio_ref::testing::memory::{read, written};
use folio_ref::testing::stepped::{AtomicU64, fence};

const WEAK: Search = Search::Weak { preemptions: 4, old: 3 };

/// The shared state of a program: two locations, and what its threads have read.
#[derive(Default)]
struct Shared {
    x: AtomicU64,
    y: AtomicU64,
    seen: Mutex<Vec<(usize, u64)>>,
}

impl Shared {
    /// Notes a value that was read, under a number for the place of the read.
    fn saw(&self, place: usize, value: u64) {
        self.seen.lock().unwrap().push((place, value));
    }
}

/// Runs a program of some threads, and returns all results: the values by the places of the reads.
fn results(threads: &'static [fn(&Shared)]) -> BTreeSet<Vec<u64>> {
    let all = Arc::new(Mutex::new(BTreeSet::new()));
    let found = Arc::clone(&all);
    explore("a small program", WEAK, move || {
        let shared = Arc::new(Shared::default());
        let start = |act: &fn(&Shared)| -> Box<dyn FnOnce() + Send> {
            let (act, shared) = (*act, Arc::clone(&shared));
            Box::new(move || act(&shared))
        };
        race(threads.iter().map(start).collect());
        let mut seen = shared.seen.lock().unwrap().clone();
        seen.sort_unstable();
        found.lock().unwrap().insert(seen.into_iter().map(|(_, value)| value).collect());
    });
    Arc::into_inner(all).map(|all| all.into_inner().unwrap()).unwrap_or_default()
}

/// Asserts that a result of a program can occur, or cannot.
#[track_caller]
fn assert_result(threads: &'static [fn(&Shared)], result: &[u64], occurs: bool) {
    let all = results(threads);
    assert_eq!(all.contains(result), occurs, "{result:?} of {all:?}");
}

fn load(shared: &Shared, place: usize, of: &AtomicU64, order: Ordering) {
    shared.saw(place, of.load(order));
}

#[test]
fn a_message_is_passed_only_by_release_and_acquire() {
    fn reader(shared: &Shared, order: Ordering) {
        load(shared, 0, &shared.y, order);
        load(shared, 1, &shared.x, Relaxed);
    }
    fn writer(shared: &Shared, order: Ordering) {
        shared.x.store(1, Relaxed);
        shared.y.store(1, order);
    }
    assert_result(&[|s| writer(s, Release), |s| reader(s, Acquire)], &[1, 0], false);
    assert_result(&[|s| writer(s, Relaxed), |s| reader(s, Acquire)], &[1, 0], true);
    assert_result(&[|s| writer(s, Release), |s| reader(s, Relaxed)], &[1, 0], true);
}

#[test]
fn a_message_is_passed_by_fences() {
    fn reader(shared: &Shared, order: Option<Ordering>) {
        load(shared, 0, &shared.y, Relaxed);
        order.into_iter().for_each(fence);
        load(shared, 1, &shared.x, Relaxed);
    }
    fn writer(shared: &Shared, order: Option<Ordering>) {
        shared.x.store(1, Relaxed);
        order.into_iter().for_each(fence);
        shared.y.store(1, Relaxed);
    }
    let both: &[fn(&Shared)] = &[|s| writer(s, Some(Release)), |s| reader(s, Some(Acquire))];
    assert_result(both, &[1, 0], false);
    assert_result(&[|s| writer(s, None), |s| reader(s, Some(Acquire))], &[1, 0], true);
    assert_result(&[|s| writer(s, Some(Release)), |s| reader(s, None)], &[1, 0], true);
    assert_result(&[|s| writer(s, Some(Acquire)), |s| reader(s, Some(Acquire))], &[1, 0], true);
    assert_result(&[|s| writer(s, Some(Release)), |s| reader(s, Some(Release))], &[1, 0], true);
    assert_result(&[|s| writer(s, Some(AcqRel)), |s| reader(s, Some(SeqCst))], &[1, 0], false);
}

#[test]
fn only_sequentially_consistent_fences_order_a_store_and_a_load() {
    fn left(shared: &Shared, order: Ordering) {
        shared.x.store(1, Release);
        fence(order);
        load(shared, 0, &shared.y, Acquire);
    }
    fn right(shared: &Shared, order: Ordering) {
        shared.y.store(1, Release);
        fence(order);
        load(shared, 1, &shared.x, Acquire);
    }
    assert_result(&[|s| left(s, SeqCst), |s| right(s, SeqCst)], &[0, 0], false);
    assert_result(&[|s| left(s, AcqRel), |s| right(s, SeqCst)], &[0, 0], true);
    assert_result(&[|s| left(s, SeqCst), |s| right(s, AcqRel)], &[0, 0], true);
}

#[test]
fn two_readers_may_differ_on_the_order_of_two_writers() {
    fn reader(shared: &Shared, place: usize, order: Option<Ordering>) {
        let (first, second) =
            if place == 0 { (&shared.x, &shared.y) } else { (&shared.y, &shared.x) };
        load(shared, place, first, Acquire);
        order.into_iter().for_each(fence);
        load(shared, place + 1, second, Acquire);
    }
    let relaxed: &[fn(&Shared)] = &[
        |s| s.x.store(1, Release),
        |s| s.y.store(1, Release),
        |s| reader(s, 0, None),
        |s| reader(s, 2, None),
    ];
    assert_result(relaxed, &[1, 0, 1, 0], true);
    let ordered: &[fn(&Shared)] = &[
        |s| s.x.store(1, Release),
        |s| s.y.store(1, Release),
        |s| reader(s, 0, Some(SeqCst)),
        |s| reader(s, 2, Some(SeqCst)),
    ];
    assert_result(ordered, &[1, 0, 1, 0], false);
}

#[test]
fn one_location_never_goes_back() {
    fn reader(shared: &Shared) {
        load(shared, 0, &shared.x, Relaxed);
        load(shared, 1, &shared.x, Relaxed);
    }
    fn writer(shared: &Shared) {
        shared.x.store(1, Relaxed);
        shared.x.store(2, Relaxed);
    }
    let all = results(&[writer, reader]);
    let expected: BTreeSet<_> =
        [[0, 0], [0, 1], [0, 2], [1, 1], [1, 2], [2, 2]].map(Vec::from).into();
    assert_eq!(all, expected);
}

#[test]
fn read_modify_writes_continue_a_release_sequence() {
    fn writer(shared: &Shared) {
        shared.x.store(1, Relaxed);
        shared.y.store(1, Release);
    }
    fn reader(shared: &Shared) {
        load(shared, 0, &shared.y, Acquire);
        load(shared, 1, &shared.x, Relaxed);
    }
    let added: &[fn(&Shared)] = &[writer, |s| _ = s.y.fetch_add(1, Relaxed), reader];
    assert_result(added, &[2, 0], false);
    let exchanged: &[fn(&Shared)] =
        &[writer, |s| _ = s.y.compare_exchange(1, 2, Relaxed, Relaxed), reader];
    assert_result(exchanged, &[2, 0], false);
    // A store of another thread ends it.
    let stored: &[fn(&Shared)] = &[writer, |s| s.y.store(2, Relaxed), reader];
    assert_result(stored, &[2, 0], true);
}

#[test]
fn a_read_modify_write_reads_the_last_value() {
    fn add(shared: &Shared, place: usize) {
        shared.saw(place, shared.x.fetch_add(1, Relaxed));
    }
    let all = results(&[|s| add(s, 0), |s| add(s, 1)]);
    assert_eq!(all, BTreeSet::from([vec![0, 1], vec![1, 0]]));
    // A compare-and-swap may fail with an older value. It succeeds on the last one only.
    let all = results(&[
        |s| s.x.store(1, Relaxed),
        |s| {
            load(s, 0, &s.x, Relaxed);
            s.saw(1, s.x.compare_exchange(7, 8, AcqRel, Relaxed).unwrap_err());
            s.saw(2, s.x.compare_exchange(0, 5, AcqRel, Relaxed).unwrap_or(9));
        },
    ]);
    assert!(all.contains([0, 0, 9].as_slice()), "{all:?}");
    assert!(all.iter().all(|seen| seen[2] != 0 || seen[0] == 0 && seen[1] == 0), "{all:?}");
}

/// Two threads use the bytes of one frame, one after the other, ordered by a word.
fn use_a_frame(order: Ordering, first: fn(usize), second: fn(usize)) {
    explore("two uses of a frame", WEAK, move || {
        let shared = Arc::new(Shared::default());
        let theirs = Arc::clone(&shared);
        race(vec![
            Box::new(move || {
                first(1 << 20);
                shared.x.store(1, order);
            }),
            Box::new(move || {
                if theirs.x.load(Acquire) == 1 {
                    second(1 << 20);
                }
            }),
        ]);
    });
}

fn write_it(at: usize) {
    written(at, &[0; 4096]);
}

fn read_it(at: usize) {
    read(at, 4096);
}

#[test]
fn uses_of_a_frame_in_order_are_no_race() {
    use_a_frame(Release, write_it, read_it);
    use_a_frame(Release, read_it, write_it);
    use_a_frame(Release, write_it, write_it);
    use_a_frame(Relaxed, read_it, read_it);
}

#[test]
#[should_panic(expected = "reads a frame beside a write (R6)")]
fn a_read_beside_a_write_is_a_race() {
    use_a_frame(Relaxed, write_it, read_it);
}

#[test]
#[should_panic(expected = "writes to a frame beside a read by thread")]
fn a_write_beside_a_read_is_a_race() {
    use_a_frame(Relaxed, read_it, write_it);
}

#[test]
#[should_panic(expected = "writes to a frame beside another write (R6)")]
fn a_write_beside_a_write_is_a_race() {
    use_a_frame(Relaxed, write_it, write_it);
}
