//! Measures the time to the first frame of a terabyte, and the metadata that is touched for it.
//!
//! The bytes are reserved and not touched, and so is the metadata. Each sample makes a new zone and
//! leaks it, so that no sample takes one from the pool of zones. The touched bytes are those that
//! became resident meanwhile, by the kernel's count.

use std::fs;
use std::io;
use std::mem;
use std::sync::atomic::Ordering;
use std::time::Instant;

use folio_frames::{Arena, Order, Platform, UserSpace};
use folio_ref::Scheme;

use crate::harness::{Ask, Report, Row, Scenario, Unit};
use crate::support::schemes::for_each_scheme;

/// The size for schemes in which zero means frozen.
const LARGE: Scenario = Scenario { name: "1TiB", threads: 0 };
/// The size at which every descriptor can be written and stay resident.
const SMALL: Scenario = Scenario { name: "16GiB", threads: 0 };

/// Samples of the small size if nothing is touched, and if everything is.
const SAMPLES: usize = 9;
const SAMPLES_TOUCHED: usize = 3;
/// Samples of the large size. Zones are never freed, and a program has room for 16 TiB of them.
const SAMPLES_LARGE: usize = 2;

struct Sample {
    ms: f64,
    touched: u64,
}

/// Returns the resident bytes of this process without a file behind them: the program's own pages,
/// which are loaded as it runs, do not count. The sum over its mappings is exact; the counter
/// beside it is not.
fn resident() -> io::Result<u64> {
    let text = fs::read_to_string("/proc/self/smaps_rollup")?;
    let kib = text.lines().find_map(|line| {
        line.strip_prefix("Anonymous:")?.trim().strip_suffix(" kB")?.trim().parse().ok()
    });
    kib.map(|kib: u64| kib * 1024)
        .ok_or_else(|| io::Error::other("no Anonymous in /proc/self/smaps_rollup"))
}

/// Makes a zone of `bytes` bytes, up to the allocation of its first frame, which is freed again.
fn bring_up<P: Platform>(bytes: usize) -> io::Result<Sample> {
    let before = resident()?;
    let begun = Instant::now();
    let arena = Arena::<P>::new(bytes, &[])?;
    let frame = arena.zone().alloc_frozen(Order::ZERO).map_err(io::Error::other)?;
    let ms = begun.elapsed().as_secs_f64() * 1e3;
    let touched = resident()?.saturating_sub(before);
    frame.free();
    mem::forget(arena);
    Ok(Sample { ms, touched })
}

fn row<S: Scheme>(scenario: Scenario, bytes: usize, samples: usize) -> io::Result<Option<Row>> {
    let samples: Vec<_> =
        (0..samples).map(|_| bring_up::<UserSpace<S>>(bytes)).collect::<io::Result<_>>()?;
    let times: Vec<_> = samples.iter().map(|sample| sample.ms).collect();
    let touched = samples.iter().map(|sample| sample.touched).max().unwrap_or_default();
    Ok(Row::of(S::NAME, scenario, &times)
        .map(|row| Row { more: vec![("touched_bytes", touched as f64)], ..row }))
}

/// Runs the benchmark.
///
/// # Errors
///
/// The system's error if so much memory cannot be reserved, or if it does not count resident bytes.
pub(super) fn ask(ask: &mut Ask<'_>) -> io::Result<Report> {
    let title = "From nothing to the first frame";
    let mut report =
        Report::new(title, Unit::Ms, "zone, up to its first frame", folio_ref::DefaultScheme::NAME);
    let mut done = 0.0;
    for_each_scheme!(S => {
        if !ask.stop.load(Ordering::Relaxed) {
            if S::ZERO_IS_FROZEN {
                report.rows.extend(row::<S>(LARGE, 1 << 40, SAMPLES_LARGE)?);
                report.rows.extend(row::<S>(SMALL, 1 << 34, SAMPLES)?);
            } else {
                report.rows.extend(row::<S>(SMALL, 1 << 34, SAMPLES_TOUCHED)?);
                report.notes.push(format!(
                    "{}: zero is not frozen, so every descriptor is written; \
                     1 TiB would have 64 times as many as {}",
                    S::NAME,
                    SMALL.name
                ));
            }
        }
        done += 1.0;
        (ask.progress)(done / 6.0);
    });
    report.rows.sort_by_key(|row| row.scenario != LARGE);
    report.notes.push(
        "touched_bytes: the most of all samples; metadata and all else of the process".to_owned(),
    );
    Ok(report)
}
