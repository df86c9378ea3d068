//! How long does it take until the first frame of a terabyte can be used, and how much metadata is
//! touched for it?
//!
//! The bytes are reserved, not touched, and so is the metadata. Each sample is a zone that never
//! was: it is not given back, so that none comes from the pool of zones. What was touched is what
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

/// Where the schemes for which zero means frozen are at home.
const LARGE: Scenario = Scenario { name: "1TiB", threads: 0 };
/// Where every descriptor can be written and be left resident.
const SMALL: Scenario = Scenario { name: "16GiB", threads: 0 };

/// Samples of the small one where nothing is touched, and where all of it is.
const SAMPLES: usize = 9;
const SAMPLES_TOUCHED: usize = 3;
/// Of the large one. Zones live for ever, and all of a program have 16 TiB together.
const SAMPLES_LARGE: usize = 3;

struct Sample {
    ms: f64,
    touched: u64,
}

/// Resident bytes of this process that no file stands behind: the program's own pages, which come
/// as it runs, do not count. The sum over its mappings is exact; the counter beside it is not.
fn resident() -> io::Result<u64> {
    let text = fs::read_to_string("/proc/self/smaps_rollup")?;
    let kib = text.lines().find_map(|line| {
        line.strip_prefix("Anonymous:")?.trim().strip_suffix(" kB")?.trim().parse().ok()
    });
    kib.map(|kib: u64| kib * 1024)
        .ok_or_else(|| io::Error::other("no Anonymous in /proc/self/smaps_rollup"))
}

/// One zone of so many bytes, up to its first frame, which comes and goes.
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

/// Measures it.
///
/// # Errors
///
/// What the system says when so much can not be reserved, or does not count what is resident.
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
                    "{}: zero is not frozen, so every descriptor is written; 1 TiB would be 64 times as many as {}",
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
        "touched_bytes: the most of all samples, metadata and everything else of the process"
            .to_owned(),
    );
    Ok(report)
}
