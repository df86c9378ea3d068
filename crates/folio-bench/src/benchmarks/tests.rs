//! Tests of the table, and of each benchmark's matrix in a run of no length.

use std::collections::BTreeSet;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use super::{
    BENCHMARKS, alloc, between, bringup, free, isolation, patch, range, read, remote, sizes, word,
    write,
};
use crate::harness::{Ask, Distance, Matrix};
use crate::support::files::Bytes;

/// Every benchmark gives numbers within its own bounds, or notes that say why not.
#[test]
fn every_benchmark_reports_even_when_stopped() {
    for benchmark in BENCHMARKS {
        let stop = AtomicBool::new(true);
        let mut progress = |_| ();
        let mut ask = Ask::new(Duration::ZERO, &stop, &mut progress);
        // Stopped before it began: it ends soon, and notes that it has too few samples.
        let said = (benchmark.ask)(&mut ask)
            .map_or_else(|error| vec![error.to_string()], |report| report.notes);
        assert!(!said.is_empty(), "{}", benchmark.name);
    }
}

#[test]
fn names_are_unique_and_plain() {
    let names: BTreeSet<_> = BENCHMARKS.iter().map(|benchmark| benchmark.name).collect();
    assert_eq!(names.len(), BENCHMARKS.len());
    assert!(
        names.iter().all(|name| name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-')),
        "{names:?}"
    );
    assert!(BENCHMARKS.iter().all(|benchmark| benchmark.weight > 0 && benchmark.name != "all"));
}

/// Checks that every contender gives a number in every scenario that it takes part in, or that a
/// note says why not.
fn check(matrix: &Matrix<'_>) {
    let stop = AtomicBool::new(false);
    let report = matrix.measure(&mut Ask::new(Duration::ZERO, &stop, &mut |_| ())).unwrap();
    for &scenario in &matrix.scenarios {
        for name in matrix
            .contenders
            .iter()
            .filter(|contender| contender.takes_part(scenario))
            .map(|contender| contender.name())
        {
            let row = report.rows.iter().find(|row| row.name == name && row.scenario == scenario);
            let note = format!("{name} at {} threads, {}: ", scenario.threads, scenario.name);
            let is_noted = report.notes.iter().any(|said| said.starts_with(&note));
            assert!(row.is_some() != is_noted, "{scenario:?} {name}: {report:?}");
            assert!(
                row.is_none_or(|row| 0.0 < row.min
                    && row.min <= row.median
                    && row.median <= row.max),
                "{row:?}"
            );
        }
    }
    assert!(
        matrix.contenders.iter().any(|contender| contender.name() == matrix.ours),
        "{} is not a contender",
        matrix.ours
    );
    for to in matrix.compared_with {
        assert!(
            matrix.contenders.iter().any(|contender| &contender.name() == to),
            "{to} is not a contender"
        );
    }
}

#[test]
fn word_measures_every_scheme() {
    let matrix = word::matrix();
    assert_eq!(matrix.contenders.len(), 16);
    check(&matrix);
}

#[test]
fn patch_measures_every_scheme_and_the_kernel() {
    check(&patch::matrix(&patch::Files::new().unwrap()).unwrap());
}

#[test]
fn between_measures_every_work() {
    check(&between::matrix());
}

#[test]
fn read_measures_the_cache_beside_its_limit() {
    check(&read::matrix(&Bytes::new(1 << 20).unwrap()).unwrap());
}

#[test]
fn sizes_measures_a_read_beside_a_handle() {
    check(&sizes::matrix(&Bytes::new(1 << 20).unwrap()).unwrap());
}

#[test]
fn range_measures_pages_beside_one_folio() {
    check(&range::matrix(&Bytes::new(4 << 20).unwrap()).unwrap());
}

#[test]
fn write_measures_the_cache_beside_the_kernel() {
    check(&write::matrix(&write::Files::new().unwrap()).unwrap());
}

#[test]
fn isolation_measures_every_cell() {
    let matrix = isolation::matrix().unwrap();
    assert_eq!((matrix.contenders.len(), matrix.scenarios.len()), (9, 8));
    check(&matrix);
}

#[test]
fn alloc_measures_every_allocator() {
    check(&alloc::matrix().unwrap());
}

#[test]
fn bringup_measures_every_scheme() {
    let stop = AtomicBool::new(false);
    let report = bringup::ask(&mut Ask::new(Duration::ZERO, &stop, &mut |_| ())).unwrap();
    let rows = |name| report.rows.iter().filter(move |row| row.name == name).count();
    assert_eq!((rows("frozen-bit"), rows("generational"), report.rows.len()), (1, 2, 13));
    for row in &report.rows {
        assert!(row.median > 0.0 && row.more[0].0 == "touched_bytes", "{row:?}");
    }
}

#[test]
fn free_measures_every_scheme_and_sole_owners() {
    let matrix = free::matrix();
    assert_eq!(matrix.contenders.len(), 9);
    check(&matrix);
}

/// Every contender reads every case of a store that is near, and the cache fetches little more than
/// what is wanted.
#[test]
fn remote_measures_every_reader() {
    let stop = AtomicBool::new(false);
    let mut progress = |_| ();
    let mut ask = Ask::new(Duration::ZERO, &stop, &mut progress);
    ask.distance = Distance { latency: Duration::from_millis(2), ..Distance::NONE };
    let amounts = remote::Amounts {
        tasks: (20, 2),
        random: 20,
        row_groups: 3,
        warm: Duration::ZERO,
        held: 2048,
        open: 500,
        rounds: 1,
    };
    let report = remote::report(&mut ask, amounts).unwrap();
    let others = if cfg!(feature = "baselines") { 2 } else { 0 };
    let row = |case: &str, name: &str| {
        let mut rows = report.rows.iter().filter(|row| row.scenario.name == case);
        rows.find(|row| row.name == name).map(|row| row.median)
    };
    for case in ["read-8M", "stream-64M", "tasks-64K", "strided", "random", "chunks", "retain"] {
        let rows = report.rows.iter().filter(|row| row.scenario.name == case);
        let bare = usize::from(case != "retain");
        assert_eq!(rows.count(), 1 + bare + others, "{case}: {report:?}");
    }
    for case in ["warm-4K", "warm-4M", "warm-64K+100"] {
        assert!(row(case, "folio").is_some_and(|time| time > 0.0), "{case}: {report:?}");
    }
    for case in ["strided", "random", "chunks"] {
        assert_eq!(row(case, "bare"), Some(1.0), "{case}");
        assert!(row(case, "folio").is_some_and(|fetched| fetched >= 1.0), "{case}: {report:?}");
    }
}
