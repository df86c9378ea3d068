//! Signals: the first one ends a run early, with its report; a second one ends the process.

use std::fs;
use std::io;
use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use folio_bench::scratch;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGXFSZ};
use signal_hook::flag;
use signal_hook::iterator::Signals;

/// The time within which signals count as one. timeout(1) signals the process, and then its group.
const ONE_SIGNAL: Duration = Duration::from_millis(300);

/// Has signals set `stop`, which ends a run early. One that comes later ends the process at once.
/// Those that are ignored already stay ignored: `nohup` ignores SIGHUP. A write past the largest
/// size of a file (`ulimit -f`) fails from now on, and does not end the process.
///
/// # Errors
///
/// The system's error if it takes no handler, or starts no thread.
pub(crate) fn handle(stop: &'static AtomicBool) -> io::Result<()> {
    flag::register(SIGXFSZ, Arc::default())?;
    let ignored = ignored();
    let ending = [SIGINT, SIGTERM, SIGHUP].into_iter();
    let mut signals = Signals::new(ending.filter(|signal| ignored & 1 << (signal - 1) == 0))?;
    let run = move || {
        let mut first = None;
        for _ in signals.forever() {
            stop.store(true, Ordering::Relaxed);
            if first.get_or_insert_with(Instant::now).elapsed() > ONE_SIGNAL {
                let _ = scratch::remove_all();
                // 128 + SIGINT: the status that a shell reports for a process ended by it.
                process::exit(130);
            }
        }
    };
    thread::Builder::new().name("signals".to_owned()).spawn(run).map(drop)
}

/// Returns the signals that this process ignores, a bit for each.
fn ignored() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}
