//! Measures the whole 2 MiB blocks left after long random use nearly full, and after compaction.
//!
//! All places live through one trace: allocate and free at random at 90 % full, then free half at
//! random, five times in one life. Some allocations can move, some stay. Beside the zone, with and
//! without its grouping by migrate type, stand two simple allocators. First fit takes the lowest
//! free place; best fit takes the lowest of the smallest blocks that are large enough. In the end
//! the zone compacts, which the simple ones cannot.
//!
//! The result depends on the trace and the moment: first fit leaves 7 to 12 blocks of 128.
//! Therefore each place lives through several traces, and a row covers all of them. `while_full` is
//! the mean of many samples in the later half of each round, when at most a tenth is free. The
//! length of a life is counted in steps, the same for all: `--seconds 60` makes it fifteen million,
//! in which all live allocations are replaced 300 times.

use std::collections::BTreeSet;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use folio_frames::{Arena, FrozenFolio, Kind, MigrateType, Order, Owner, Pfn, Slot, UserSpace};
use folio_ref::DefaultScheme;

use crate::harness::{Ask, Report, Row, Scenario, Unit};

type P = UserSpace<DefaultScheme>;

/// Blocks in 256 MiB.
const BLOCKS: usize = 128;
const BLOCK: usize = 512;
const BLOCK_ORDER: usize = 9;
const FRAMES: usize = BLOCKS * BLOCK;

/// Orders that are allocated: 0 to 3.
const ORDERS: usize = 4;

/// Steps of the trace per second of a life, and the least number of steps.
const STEPS_PER_SECOND: f64 = 10_000_000.0;
const LEAST_STEPS: usize = 200_000;

/// The number of times in one life that half is freed and filled again.
const ROUNDS: usize = 5;

/// Steps between two samples of the whole blocks in the later half of a round, and the least number
/// of samples in a short round.
const SAMPLE_STEPS: usize = 50_000;
const LEAST_SAMPLES: usize = 8;

/// The number of traces, unless [`TRACES`] sets another. Each has its own seed.
const SEEDS: u64 = 5;

/// The environment variable for another number of traces: a life of a minute in each of five traces
/// takes almost an hour.
const TRACES: &str = "FOLIO_TRACES";

/// The places that live through the traces.
const PLACES: [&str; 4] = ["folio", "folio, not grouped", "first fit", "best fit"];

/// The number of lives per trace.
const LIVES: usize = COMPACTED.len() * PLACES.len();

/// An eighth of the allocations stays.
const MIXED: &str = "one in eight stays";
/// All allocations can move.
const MOVES: &str = "nothing stays";
const COMPACTED: [(&str, &str); 2] =
    [(MIXED, "one in eight stays, compacted"), (MOVES, "nothing stays, compacted")];

/// An allocator under test. An item is named by its number.
trait Place {
    fn alloc(&mut self, item: usize, order: u8, migrate_type: MigrateType) -> bool;
    fn free(&mut self, item: usize);
    fn whole_blocks(&self) -> usize;
    /// Compacts. Returns the number of whole blocks afterwards, or `None` if it cannot compact.
    fn compact(&mut self) -> Option<usize>;
}

/// The slots of the items that can move. An item that stays is held as a frozen folio.
struct Index(Vec<Slot<P>>);

impl Owner<P> for Index {
    fn with_slot(&self, _: Pfn, owner_data: u64, visit: &mut dyn FnMut(&Slot<P>)) -> bool {
        self.0.get(owner_data as usize).map(visit).is_some()
    }
}

struct Zone {
    arena: Arena<P>,
    index: Index,
    stays: Vec<Option<FrozenFolio<P>>>,
    by_migrate_type: bool,
}

impl Zone {
    fn new(by_migrate_type: bool) -> io::Result<Self> {
        let arena = Arena::new(BLOCKS * BLOCK * 4096, &[])?;
        let index = Index((0..FRAMES).map(|_| Slot::new()).collect());
        Ok(Self { arena, index, stays: (0..FRAMES).map(|_| None).collect(), by_migrate_type })
    }
}

impl Place for Zone {
    fn alloc(&mut self, item: usize, order: u8, migrate_type: MigrateType) -> bool {
        let order = Order::new(order).expect("the order is small");
        let asked = if self.by_migrate_type { migrate_type } else { MigrateType::Movable };
        let Ok(mut folio) = self.arena.zone().alloc_frozen_as(order, asked) else { return false };
        if migrate_type == MigrateType::Movable {
            folio.set_owner(Kind::owner(0), item as u64);
            self.index.0[item].install(folio).expect("the slot is empty").publish();
        } else {
            self.stays[item] = Some(folio);
        }
        true
    }

    fn free(&mut self, item: usize) {
        match self.stays[item].take() {
            Some(folio) => folio.free(),
            None => drop(
                self.index.0[item]
                    .try_lock(self.arena.zone())
                    .map(folio_frames::LockedSlot::remove),
            ),
        }
    }

    fn whole_blocks(&self) -> usize {
        self.arena.zone().drain();
        self.arena.zone().stats().whole_blocks as usize
    }

    fn compact(&mut self) -> Option<usize> {
        self.arena.zone().compact(u32::MAX, &self.index);
        Some(self.whole_blocks())
    }
}

impl Drop for Zone {
    fn drop(&mut self) {
        (0..FRAMES).for_each(|item| self.free(item));
    }
}

/// First fit: takes the lowest free place. A bit per frame is set while the frame is taken.
struct FirstFit {
    taken: Vec<u64>,
    /// By order: the first word that may have room for it.
    room: [usize; ORDERS],
    /// By item: the first frame and the order.
    places: Vec<Option<(usize, u8)>>,
}

impl FirstFit {
    fn new() -> Self {
        Self { taken: vec![0; FRAMES / 64], room: [0; ORDERS], places: vec![None; FRAMES] }
    }

    /// Returns the first place for a block of this order in a word.
    fn hole(&self, word: usize, order: u8) -> Option<usize> {
        let taken = self.taken[word];
        (0..64).step_by(1 << order).find(|bit| taken != u64::MAX && taken & bits(order) << bit == 0)
    }
}

fn bits(order: u8) -> u64 {
    (1 << (1 << order)) - 1
}

impl Place for FirstFit {
    fn alloc(&mut self, item: usize, order: u8, _: MigrateType) -> bool {
        let from = self.room[usize::from(order)];
        let found = (from..FRAMES / 64).find_map(|word| Some((word, self.hole(word, order)?)));
        self.room[usize::from(order)] = found.map_or(FRAMES / 64, |(word, _)| word);
        let Some((word, bit)) = found else { return false };
        self.taken[word] |= bits(order) << bit;
        self.places[item] = Some((word * 64 + bit, order));
        true
    }

    fn free(&mut self, item: usize) {
        if let Some((frame, order)) = self.places[item].take() {
            let word = frame / 64;
            self.taken[word] &= !(bits(order) << (frame % 64));
            for order in 0..ORDERS {
                if word < self.room[order] && self.hole(word, order as u8).is_some() {
                    self.room[order] = word;
                }
            }
        }
    }

    fn whole_blocks(&self) -> usize {
        self.taken.chunks(BLOCK / 64).filter(|block| block.iter().all(|&taken| taken == 0)).count()
    }

    fn compact(&mut self) -> Option<usize> {
        None
    }
}

/// Best fit: a buddy allocator that always takes the lowest of the smallest blocks that are large
/// enough.
struct BestFit {
    /// By order: the free blocks.
    free: [BTreeSet<usize>; BLOCK_ORDER + 1],
    /// By item: the first frame and the order.
    places: Vec<Option<(usize, usize)>>,
}

impl BestFit {
    fn new() -> Self {
        let mut free: [BTreeSet<usize>; BLOCK_ORDER + 1] = Default::default();
        free[BLOCK_ORDER].extend((0..FRAMES).step_by(BLOCK));
        Self { free, places: vec![None; FRAMES] }
    }
}

impl Place for BestFit {
    fn alloc(&mut self, item: usize, order: u8, _: MigrateType) -> bool {
        let order = usize::from(order);
        let found =
            (order..=BLOCK_ORDER).find_map(|size| Some((self.free[size].pop_first()?, size)));
        let Some((frame, size)) = found else { return false };
        for half in order..size {
            self.free[half].insert(frame + (1 << half));
        }
        self.places[item] = Some((frame, order));
        true
    }

    fn free(&mut self, item: usize) {
        let Some((mut frame, mut order)) = self.places[item].take() else { return };
        while order < BLOCK_ORDER && self.free[order].remove(&(frame ^ 1 << order)) {
            frame &= !(1 << order);
            order += 1;
        }
        self.free[order].insert(frame);
    }

    fn whole_blocks(&self) -> usize {
        self.free[BLOCK_ORDER].len()
    }

    fn compact(&mut self) -> Option<usize> {
        None
    }
}

/// The trace: the allocations, and the time at which each is freed.
struct Life {
    random: fastrand::Rng,
    unused: Vec<usize>,
    /// Items, each with its number of frames.
    live: Vec<(usize, usize)>,
    free: usize,
    mixed: bool,
    /// The whole blocks of each sample.
    while_full: Vec<f64>,
}

impl Life {
    fn new(mixed: bool, seed: u64) -> Self {
        let random = fastrand::Rng::with_seed(seed);
        let unused = (0..FRAMES).rev().collect();
        Self { random, unused, live: Vec::new(), free: FRAMES, mixed, while_full: Vec::new() }
    }

    /// Fills the place to 90 %, and goes on for `steps` steps.
    fn age(&mut self, place: &mut dyn Place, steps: usize, stop: &AtomicBool) {
        let (mut done, mut is_full) = (0, false);
        let interval = SAMPLE_STEPS.min(steps / 2 / LEAST_SAMPLES).max(1);
        while done < steps {
            // Relaxed: a stop request orders nothing.
            if done.is_multiple_of(4096) && stop.load(Ordering::Relaxed) {
                break;
            }
            // Large orders are rare. The draw is the same whatever becomes of it.
            let order =
                self.random.u8(..64).leading_zeros().saturating_sub(2).min(ORDERS as u32 - 1) as u8;
            let stays = self.mixed && self.random.u8(..8) == 0;
            let which = self.random.usize(..);
            let migrate_type = if stays { MigrateType::Unmovable } else { MigrateType::Movable };
            is_full |= self.free <= FRAMES / 10;
            done += usize::from(is_full);
            if is_full && done > steps / 2 && done.is_multiple_of(interval) {
                self.while_full.push(place.whole_blocks() as f64);
            }
            if self.free > FRAMES / 10 && self.alloc(place, order, migrate_type) {
                continue;
            }
            is_full = true;
            self.free_one(place, which);
        }
    }

    fn alloc(&mut self, place: &mut dyn Place, order: u8, migrate_type: MigrateType) -> bool {
        let item = self.unused.pop().expect("there are as many items as frames");
        if !place.alloc(item, order, migrate_type) {
            self.unused.push(item);
            return false;
        }
        self.free -= 1 << order;
        self.live.push((item, 1 << order));
        true
    }

    fn free_one(&mut self, place: &mut dyn Place, which: usize) {
        if !self.live.is_empty() {
            let (item, frames) = self.live.swap_remove(which % self.live.len());
            place.free(item);
            self.unused.push(item);
            self.free += frames;
        }
    }

    fn free_half(&mut self, place: &mut dyn Place) {
        self.random.shuffle(&mut self.live);
        for _ in 0..self.live.len().div_ceil(2) {
            self.free_one(place, 0);
        }
    }
}

/// Makes a place by its name.
fn place(name: &str) -> io::Result<Box<dyn Place>> {
    Ok(match name {
        "folio" => Box::new(Zone::new(true)?),
        "folio, not grouped" => Box::new(Zone::new(false)?),
        "first fit" => Box::new(FirstFit::new()),
        _ => Box::new(BestFit::new()),
    })
}

/// Returns the number of traces that the environment asks for.
fn traces(said: Option<&str>) -> io::Result<u64> {
    let Some(said) = said else { return Ok(SEEDS) };
    said.parse().ok().filter(|&traces| traces > 0).ok_or_else(|| {
        let message = format!("{TRACES} is '{said}'; it takes a number of traces, 1 or more");
        io::Error::new(io::ErrorKind::InvalidInput, message)
    })
}

/// Returns the mean of some values.
fn mean_of(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// Runs the benchmark.
///
/// # Errors
///
/// `InvalidInput` if the environment asks for a number of traces that is not 1 or more; the
/// system's error if memory for the frames is not to be had.
pub(super) fn ask(ask: &mut Ask<'_>) -> io::Result<Report> {
    live(ask, traces(std::env::var(TRACES).ok().as_deref())?)
}

/// Lets each place live through so many traces. Returns the report.
fn live(ask: &mut Ask<'_>, seeds: u64) -> io::Result<Report> {
    let all = (LIVES as u64 * seeds) as f64;
    let steps = ((ask.time.as_secs_f64() / all * STEPS_PER_SECOND) as usize).max(LEAST_STEPS);
    let mut rows = Vec::new();
    let mut lived = 0_usize;
    for (scenario, compacted) in COMPACTED {
        for name in PLACES {
            let (mut whole, mut after, mut full, mut free) =
                (Vec::new(), Vec::new(), Vec::new(), 0);
            let born = Instant::now();
            for seed in 0..seeds {
                let (mut place, mut life) = (place(name)?, Life::new(scenario == MIXED, seed));
                for _ in 0..ROUNDS {
                    life.age(&mut *place, steps / ROUNDS, ask.stop);
                    life.free_half(&mut *place);
                    whole.push(place.whole_blocks() as f64);
                }
                free += life.free;
                full.append(&mut life.while_full);
                after.extend(place.compact().map(|whole| whole as f64));
                lived += 1;
                (ask.progress)(lived as f64 / all);
            }
            let life_s = born.elapsed().as_secs_f64() / seeds as f64;
            let free_frames = free as f64 / seeds as f64;
            for (scenario, whole) in [(scenario, &whole), (compacted, &after)] {
                let mean = mean_of(whole);
                let of_free = mean * BLOCK as f64 / free_frames;
                let mut more = vec![
                    ("mean", mean),
                    ("free_frames", free_frames),
                    ("of_free", of_free),
                    ("life_s", life_s),
                ];
                if scenario != compacted && !full.is_empty() {
                    more.push(("while_full", mean_of(&full)));
                }
                let row = Row::of(name, Scenario { name: scenario, threads: 0 }, whole);
                rows.extend(row.map(|row| Row { more, ..row }));
            }
        }
    }
    let order = |row: &Row| {
        [MIXED, COMPACTED[0].1, MOVES, COMPACTED[1].1]
            .iter()
            .position(|name| *name == row.scenario.name)
    };
    rows.sort_by_key(order);
    let mut report = Report::new(
        "Whole blocks of 2 MiB after long use at 90 % full, half of it freed",
        Unit::Number("blocks"),
        "256 MiB",
        "folio",
    );
    report.rows = rows;
    report.notes.push(format!("traces: {seeds}; steps of a life: {steps}"));
    // Relaxed: a stop request orders nothing.
    if ask.stop.load(Ordering::Relaxed) {
        report
            .notes
            .push("stopped early: the figures are of a shorter life than asked for".to_owned());
    }
    Ok(report)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn an_invalid_number_of_traces_is_an_error() {
        assert_eq!((traces(None).unwrap(), traces(Some("1")).unwrap()), (SEEDS, 1));
        for said in ["", "0", "-1", "all"] {
            let error = traces(Some(said)).unwrap_err().to_string();
            assert_eq!(
                error,
                format!("FOLIO_TRACES is '{said}'; it takes a number of traces, 1 or more")
            );
        }
    }

    #[test]
    fn whole_blocks_are_sampled_in_the_later_half_of_a_round() {
        let (mut place, mut life) = (BestFit::new(), Life::new(false, 0));
        life.age(&mut place, 4000, &AtomicBool::new(false));
        assert_eq!(life.while_full.len(), LEAST_SAMPLES);
        let whole = place.whole_blocks() as f64;
        assert_eq!(life.while_full.last(), Some(&whole));
        assert!(
            life.while_full.iter().all(|&whole| (whole - 12.0).abs() <= 2.0),
            "{:?}",
            life.while_full
        );
    }

    /// The intended result, on a short trace. Where all allocations move, as many blocks stay whole
    /// as under first fit. Compaction brings movable pages together, and grouping leaves more
    /// blocks for it.
    #[test]
    fn grouping_keeps_blocks_and_compaction_frees_the_rest() {
        let stop = AtomicBool::new(false);
        let report = live(&mut Ask::new(Duration::ZERO, &stop, &mut |_| ()), 1).unwrap();
        let row = |name: &str, scenario: &str| {
            let is_it = |row: &&Row| row.name == name && row.scenario.name == scenario;
            report
                .rows
                .iter()
                .find(is_it)
                .unwrap_or_else(|| panic!("{name}, {scenario}: {report:?}"))
        };
        assert!(row("folio", MOVES).median >= row("first fit", MOVES).median, "{report:?}");
        let [(_, mixed_compacted), (_, moves_compacted)] = COMPACTED;
        assert!(
            row("folio", mixed_compacted).median
                > row("folio, not grouped", mixed_compacted).median,
            "{report:?}"
        );
        let share =
            row("folio", moves_compacted).more.iter().find(|more| more.0 == "of_free").unwrap().1;
        assert!(share >= 0.95, "{report:?}");
    }
}
