//! Measures holding a range of a file without a copy, beside one folio of that size, and a copy.
//!
//! A range takes a reference of each large folio that it touches, and inspects the slot of each
//! page (`docs/large-folios.md`). The limit is a slot with one folio of the range's size.

use std::hint::black_box;
use std::io;

use folio_cache::File;
use folio_frames::{Arena, Kind, Lookup, Order, Slot, UserSpace};
use folio_ref::DefaultScheme;

use crate::harness::{Ask, Contender, Matrix, Report, Scenario, Shape, Unit, one_and_all};
use crate::support::files::{Bytes, cached};

type P = UserSpace<DefaultScheme>;

/// The same range each time, by all threads.
const HOT: [&str; 3] = ["hot-16K", "hot-64K", "hot-1M"];
/// Ranges one after the other, through the whole file; each thread begins elsewhere.
const SCAN: [&str; 3] = ["scan-16K", "scan-64K", "scan-1M"];

/// The bytes that each sample holds; the copies take an eighth of it.
const SAMPLE: usize = 256 << 20;

/// The ranges that each sample of the limit holds: some milliseconds too.
const SAMPLE_OF_LARGE: usize = 200_000;

/// Returns the bytes of a range.
fn size(scenario: Scenario) -> usize {
    match scenario.name {
        "hot-16K" | "scan-16K" => 16 << 10,
        "hot-64K" | "scan-64K" => 64 << 10,
        "hot-1M" | "scan-1M" => 1 << 20,
        name => panic!("no range size for scenario {name}"),
    }
}

/// Calls `hold` for `wanted` ranges of one thread in a scenario, of a file of `bytes` bytes.
/// Returns `wanted`.
#[inline(always)]
fn ranges(
    scenario: Scenario,
    thread: usize,
    bytes: usize,
    wanted: usize,
    mut hold: impl FnMut(usize, usize),
) -> u64 {
    let size = size(scenario);
    let all = bytes / size;
    let first = if HOT.contains(&scenario.name) { None } else { Some(thread * all / 2) };
    for n in 0..wanted {
        hold(first.map_or(0, |first| (first + n) % all * size), size);
    }
    wanted as u64
}

/// Holds each range by [`File::range`].
struct Ranges(File);

impl Contender for Ranges {
    fn name(&self) -> String {
        "folio".to_owned()
    }
    /// Returns the mean number of pieces of memory per range.
    fn more(&self, scenario: Scenario) -> Vec<(&'static str, f64)> {
        let (mut pieces, mut held) = (0, 0);
        ranges(scenario, 0, self.0.len() as usize, SAMPLE / size(scenario), |offset, size| {
            let range = self.0.range(offset as u64, size).expect("the range is in the cache");
            (pieces, held) = (pieces + range.chunks().count(), held + 1);
        });
        vec![("pieces", f64::from(pieces as u32) / f64::from(held))]
    }
    #[inline(never)]
    fn work(&self, scenario: Scenario, thread: usize) -> u64 {
        ranges(scenario, thread, self.0.len() as usize, SAMPLE / size(scenario), |offset, size| {
            let range =
                black_box(&self.0).range(offset as u64, size).expect("the range is in the cache");
            assert_eq!(black_box(&range).len(), size);
        })
    }
}

/// Holds each range in one piece, by [`File::bytes`].
struct InOnePiece(File);

impl Contender for InOnePiece {
    fn name(&self) -> String {
        "folio-bytes".to_owned()
    }
    #[inline(never)]
    fn work(&self, scenario: Scenario, thread: usize) -> u64 {
        ranges(scenario, thread, self.0.len() as usize, SAMPLE / size(scenario), |offset, size| {
            let bytes =
                black_box(&self.0).bytes(offset as u64, size).expect("the range is in the cache");
            assert_eq!(black_box(&bytes).len(), size);
        })
    }
}

/// Copies each range, by [`File::read_at`].
struct Copied(File);

impl Contender for Copied {
    fn name(&self) -> String {
        "folio-read_at".to_owned()
    }
    #[inline(never)]
    fn work(&self, scenario: Scenario, thread: usize) -> u64 {
        let mut buf = vec![0; size(scenario)];
        ranges(
            scenario,
            thread,
            self.0.len() as usize,
            SAMPLE / 8 / size(scenario),
            |offset, size| {
                let read = black_box(&self.0)
                    .read_at(&mut buf, offset as u64)
                    .expect("the range is in the cache");
                assert_eq!(read, size);
            },
        )
    }
}

/// The limit: a slot for each range, with one folio of its size.
struct Large {
    arena: Arena<P>,
    /// The slots by size: 16 KiB, 64 KiB, 1 MiB.
    slots: [Vec<Slot<P>>; 3],
    bytes: usize,
}

impl Large {
    fn new(bytes: usize) -> io::Result<Self> {
        // As many folios as a file of this size has ranges. Their bytes are never touched.
        let arena = Arena::new(3 * bytes + (64 << 20), &[])?;
        let mut slots = [const { Vec::new() }; 3];
        for (slots, order) in slots.iter_mut().zip([2, 4, 8]) {
            let order = Order::new(order).expect("the order is valid");
            for _ in 0..bytes / order.bytes() {
                let mut folio = arena.zone().alloc_frozen(order).map_err(io::Error::other)?;
                folio.set_owner(Kind::owner(0), 0);
                let slot = Slot::new();
                slot.install(folio).expect("the slot is empty").publish();
                slots.push(slot);
            }
        }
        Ok(Self { arena, slots, bytes })
    }
}

impl Contender for Large {
    fn name(&self) -> String {
        "one-large-folio".to_owned()
    }
    #[inline(never)]
    fn work(&self, scenario: Scenario, thread: usize) -> u64 {
        let slots = &self.slots[[16 << 10, 64 << 10, 1 << 20]
            .iter()
            .position(|&of| of == size(scenario))
            .expect("the size is one of three")];
        ranges(scenario, thread, self.bytes, SAMPLE_OF_LARGE, |offset, size| {
            let Lookup::Hit(folio) = black_box(&slots[offset / size]).get(self.arena.zone()) else {
                panic!("the slot holds a folio");
            };
            assert_eq!(black_box(&folio).order().bytes(), size);
        })
    }
}

impl Drop for Large {
    fn drop(&mut self) {
        for slot in self.slots.iter().flatten() {
            drop(slot.try_lock(self.arena.zone()).map(folio_frames::LockedSlot::remove));
        }
    }
}

/// Makes the matrix, of the bytes that the benchmark `read` reads.
///
/// # Errors
///
/// The system's error if the file cannot be read.
pub(super) fn matrix(bytes: &Bytes) -> io::Result<Matrix<'_>> {
    let file = cached::<DefaultScheme>(bytes.path(), bytes.len())?;
    let scenarios = HOT.iter().chain(&SCAN);
    Ok(Matrix {
        title: "Holding a range of a file",
        unit: Unit::Ns,
        per: "range",
        scenarios: scenarios
            .flat_map(|name| one_and_all().into_iter().map(|threads| Scenario { name, threads }))
            .collect(),
        contenders: vec![
            Box::new(Ranges(file.clone())),
            Box::new(InOnePiece(file.clone())),
            Box::new(Copied(file)),
            Box::new(Large::new(bytes.len())?),
        ],
        compared_with: &["one-large-folio", "folio-read_at"],
        ours: "folio".to_owned(),
        shape: Shape::Bars,
    })
}

/// Runs the benchmark.
///
/// # Errors
///
/// The system's error if the bytes cannot be made or read.
pub(super) fn ask(ask: &mut Ask<'_>) -> io::Result<Report> {
    let bytes = Bytes::for_reading()?;
    matrix(&bytes)?.measure(ask)
}
