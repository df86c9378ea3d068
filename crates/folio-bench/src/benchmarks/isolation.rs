//! Measures a healthy file beside a sick one in the same cache.
//!
//! Each contender has a cache of its own, with one healthy file and one in use by other threads:
//! healthy (`alone` has none), with one kind of call that hangs, failing for ever, or 100 times
//! slower. A call of a healthy store takes about 150 us, in which it sleeps. The ratio to `alone`
//! is the speed that the healthy file keeps; the goal is 0.9.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use folio_cache::{Cache, File};
use parking_lot::Mutex;

use crate::harness::{Ask, Contender, Matrix, Report, Scenario, Shape, Unit, start_thread};
use crate::support::executor::drive;
use crate::support::store::{Call, Health, Store};

const PAGE: usize = 4096;
const CAPACITY: usize = 32 << 20;
const BYTES: u64 = 8 << 20;
const PAGES: u64 = BYTES / PAGE as u64;

/// The bytes of the sick file that are dirty when it falls ill.
const DIRTY: usize = 1 << 20;

/// The pause of a user of the sick file between two calls: its users take little of a CPU.
const PAUSE: Duration = Duration::from_millis(5);

const MISS: &str = "read-miss";
const FUTURES: &str = "future";
const WRITE: &str = "write";
const SYNC: &str = "sync";
const CLOSE: &str = "close";
const OPEN: &str = "open";
const RESIZE: &str = "resize";
const SETTLE: &str = "settle";

/// The contender without a sick file.
const ALONE: &str = "alone";

/// The call that a user of the sick file makes again and again.
type Use = fn(&Cache, &File, &Arc<Store>, u64);

/// The users of the sick file: readers, one of them at its end, futures, writers, syncs, openers.
const USES: &[Use] = &[
    |_, file, _, n| _ = file.read_at(&mut [0; PAGE], n * 37 % PAGES * PAGE as u64),
    |_, file, _, n| _ = file.read_at(&mut [0; 4 * PAGE], n * 4 % PAGES * PAGE as u64),
    |_, file, _, n| {
        let pages = (0..40).map(|future| (n + future) * 41 % PAGES * PAGE as u64);
        drive(40, pages.map(|offset| file.page_async(offset)), drop);
    },
    |_, file, _, _| _ = file.read_at(&mut [0; 10], file.len()),
    |_, file, _, n| _ = file.write_at(&[1; PAGE], n % 256 * PAGE as u64),
    |_, file, _, _| _ = file.sync_data(),
    |_, file, _, n| _ = file.set_len(BYTES + n % 2 * PAGE as u64),
    |cache, _, store, _| drop(cache.open_backing(store.clone())),
    |_, file, _, _| file.invalidate(),
];

/// A sick file in use. Ends its users when it is dropped.
struct Sick {
    store: Arc<Store>,
    stop: Arc<AtomicBool>,
    users: Vec<JoinHandle<()>>,
}

impl Sick {
    fn new(cache: &Cache, health: Health) -> io::Result<Self> {
        let store = Store::new(BYTES);
        let file = cache.open_backing(store.clone())?;
        file.write_all_at(&vec![1; DIRTY], 0)?;
        store.set(health);
        let stop = Arc::new(AtomicBool::new(false));
        let mut sick = Self { store: store.clone(), stop: stop.clone(), users: Vec::new() };
        for (n, act) in USES.iter().enumerate() {
            let (cache, file) = (cache.clone(), file.clone());
            let (store, stop) = (store.clone(), stop.clone());
            let run = move || {
                for n in 0.. {
                    // Relaxed: a flag of its own.
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    act(&cache, &file, &store, n);
                    thread::sleep(PAUSE);
                }
            };
            sick.users.push(start_thread(n, USES.len(), thread::Builder::new().spawn(run))?);
        }
        Ok(sick)
    }
}

impl Drop for Sick {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.store.set(Health::Healthy);
        for user in self.users.drain(..) {
            let _ = user.join();
        }
    }
}

/// A healthy file, beside a sick one or alone.
struct Beside {
    name: &'static str,
    cache: Cache,
    file: File,
    _sick: Option<Sick>,
    /// The files that a sample closes, or has opened.
    files: Mutex<Vec<File>>,
    stores: Mutex<Vec<Arc<Store>>>,
    /// Where the next sample begins.
    next: AtomicU64,
}

impl Beside {
    fn start(name: &'static str, health: Option<Health>) -> io::Result<Box<dyn Contender>> {
        let cache = Cache::builder().capacity(CAPACITY).name(name).build()?;
        let file = cache.open_backing(Store::new(BYTES))?;
        let sick = health.map(|health| Sick::new(&cache, health)).transpose()?;
        Ok(Box::new(Self {
            name,
            cache,
            file,
            _sick: sick,
            files: Mutex::default(),
            stores: Mutex::default(),
            next: AtomicU64::new(0),
        }))
    }

    /// Returns the offset of the next page: far from the one before, so that nothing is read ahead.
    fn offset(&self) -> u64 {
        // Relaxed: one thread.
        self.next.fetch_add(1, Ordering::Relaxed) * 811 % PAGES * PAGE as u64
    }

    /// Runs `act` so many times. Returns the number.
    fn times(times: u64, mut act: impl FnMut() -> io::Result<()>) -> u64 {
        (0..times).for_each(|_| act().expect("the healthy file has no errors"));
        times
    }
}

impl Contender for Beside {
    fn name(&self) -> String {
        self.name.to_owned()
    }

    fn prepare(&self, scenario: Scenario) {
        self.files.lock().clear();
        match scenario.name {
            MISS | FUTURES | SETTLE => {
                self.file.flush().expect("the healthy file has no errors");
                self.file.invalidate();
            }
            CLOSE => {
                let files = (0..16).map(|_| {
                    let file = self.cache.open_backing(Store::new(0))?;
                    file.write_at(&[1; PAGE], 0).map(|_| file)
                });
                let files: io::Result<Vec<_>> = files.collect();
                *self.files.lock() = files.expect("the healthy file has no errors");
            }
            OPEN => *self.stores.lock() = (0..512).map(|_| Store::new(BYTES)).collect(),
            _ => {}
        }
    }

    #[inline(never)]
    fn work(&self, scenario: Scenario, _: usize) -> u64 {
        let (cache, file) = (&self.cache, &self.file);
        match scenario.name {
            MISS => Self::times(32, || file.read_exact_at(&mut [0; PAGE], self.offset())),
            FUTURES => {
                let offsets: Vec<_> = (0..64).map(|_| self.offset()).collect();
                let (mut read, futures) = (0, offsets.iter().map(|&at| file.page_async(at)));
                drive(8, futures, |page| read += u64::from(matches!(page, Ok(Some(_)))));
                assert_eq!(read, 64, "the healthy file has no errors");
                read
            }
            WRITE => {
                Self::times(4000, || file.write_all_at(&[1; PAGE], self.offset() % DIRTY as u64))
            }
            SYNC => Self::times(8, || {
                file.write_all_at(&[1; PAGE], self.offset())?;
                file.sync_data()
            }),
            CLOSE => {
                let mut files = std::mem::take(&mut *self.files.lock()).into_iter();
                Self::times(16, || files.next().map_or(Ok(()), File::close))
            }
            OPEN => {
                let (mut files, mut stores) = (self.files.lock(), self.stores.lock());
                Self::times(512, || {
                    stores.pop().map_or(Ok(()), |store| {
                        files.push(cache.open_backing(store)?);
                        Ok(())
                    })
                })
            }
            RESIZE => Self::times(8, || {
                // Relaxed: one thread.
                let n = self.next.fetch_add(1, Ordering::Relaxed);
                file.set_len(BYTES + n % 2 * PAGE as u64)
            }),
            _ => {
                // Four pages in a row are read ahead.
                let begin = self.offset() % (BYTES / 2);
                Self::times(4, || {
                    for page in 0..4 {
                        file.read_exact_at(&mut [0; PAGE], begin + page * PAGE as u64)?;
                    }
                    file.quiesce();
                    file.invalidate();
                    Ok(())
                })
            }
        }
    }
}

/// Makes the matrix.
///
/// # Errors
///
/// The system's error if memory for the caches is not to be had.
pub(super) fn matrix() -> io::Result<Matrix<'static>> {
    let contenders = [
        (ALONE, None),
        ("beside healthy", Some(Health::Healthy)),
        ("hung read", Some(Health::Hangs(Call::Read))),
        ("hung write", Some(Health::Hangs(Call::Write))),
        ("hung sync", Some(Health::Hangs(Call::Sync))),
        ("hung version", Some(Health::Hangs(Call::Version))),
        ("hung set_len", Some(Health::Hangs(Call::SetLen))),
        ("failing", Some(Health::Fails)),
        ("100 times slower", Some(Health::Slow)),
    ];
    let contenders = contenders.map(|(name, health)| Beside::start(name, health));
    let scenarios = [MISS, FUTURES, WRITE, SYNC, CLOSE, OPEN, RESIZE, SETTLE];
    Ok(Matrix {
        title: "A healthy file beside a sick one",
        unit: Unit::Ns,
        per: "operation",
        scenarios: scenarios.map(|name| Scenario { name, threads: 1 }).into(),
        contenders: contenders.into_iter().collect::<io::Result<_>>()?,
        compared_with: &[ALONE],
        ours: ALONE.to_owned(),
        shape: Shape::Bars,
    })
}

/// Runs the benchmark.
///
/// # Errors
///
/// The system's error if memory for the caches is not to be had.
pub(super) fn ask(ask: &mut Ask<'_>) -> io::Result<Report> {
    let mut report = matrix()?.measure(ask)?;
    report.notes.insert(
        0,
        "relative to 'alone': the speed that a healthy file keeps beside a sick one. 'settle' is \
         `File::quiesce`: `Cache::quiesce` waits for the other files as well, unless they hang"
            .to_owned(),
    );
    Ok(report)
}
