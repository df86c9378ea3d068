//! How many whole 2 MiB blocks are left after a long time of allocating and freeing at random, nearly full?
//!
//! One trace, for all: allocate and free at random at 90 % full, then free half at random. Some of what is allocated moves,
//! some stays. Beside the zone, with and without its grouping by mobility, stands first fit: the lowest place that is
//! free, the best of the naive ones. Then the zone compacts, which first fit can not.

use std::io;
use std::sync::atomic::Ordering;

use page_frames::{Arena, FrozenFolio, Kind, Mobility, Order, Owner, Pfn, Slot, UserSpace};
use page_ref::DefaultScheme;

use crate::matrix::Case;
use crate::question::Ask;
use crate::report::{Report, Row, Unit};

type P = UserSpace<DefaultScheme>;

/// 256 MiB.
const BLOCKS: usize = 128;
const BLOCK: usize = 512;
const FRAMES: usize = BLOCKS * BLOCK;

/// Steps of the trace for each second of the measurement, and the least of them.
const STEPS_PER_SECOND: f64 = 400_000.0;
const LEAST_STEPS: usize = 20_000;

/// A part of what is allocated stays.
const MIXED: &str = "one in eight stays";
/// All of it can be moved.
const MOVES: &str = "nothing stays";
const COMPACTED: [(&str, &str); 2] = [(MIXED, "one in eight stays, compacted"), (MOVES, "nothing stays, compacted")];

/// Where things are put. An item is named by its number.
trait Place {
    fn alloc(&mut self, item: usize, order: u8, mobility: Mobility) -> bool;
    fn free(&mut self, item: usize);
    fn whole_blocks(&self) -> usize;
    /// `None`: it can not.
    fn compact(&mut self) -> Option<usize>;
}

/// Numbers of slots are items; what has none there is a token.
struct Index(Vec<Slot<P>>);

impl Owner<P> for Index {
    fn with_slot(&self, _: Pfn, private: u64, visit: &mut dyn FnMut(&Slot<P>)) -> bool {
        self.0.get(private as usize).map(visit).is_some()
    }
}

struct Zone {
    arena: Arena<P>,
    index: Index,
    stays: Vec<Option<FrozenFolio<P>>>,
    by_mobility: bool,
}

impl Zone {
    fn new(by_mobility: bool) -> io::Result<Self> {
        let arena = Arena::new(BLOCKS * BLOCK * 4096, &[])?;
        let index = Index((0..FRAMES).map(|_| Slot::new()).collect());
        Ok(Self { arena, index, stays: (0..FRAMES).map(|_| None).collect(), by_mobility })
    }
}

impl Place for Zone {
    fn alloc(&mut self, item: usize, order: u8, mobility: Mobility) -> bool {
        let order = Order::new(order).expect("a small order");
        let asked = if self.by_mobility { mobility } else { Mobility::Movable };
        let Ok(mut folio) = self.arena.zone().alloc_frozen_as(order, asked) else { return false };
        if mobility == Mobility::Movable {
            folio.set_owner(Kind::owner(0), item as u64);
            self.index.0[item].install(folio).expect("an empty slot").publish();
        } else {
            self.stays[item] = Some(folio);
        }
        true
    }

    fn free(&mut self, item: usize) {
        match self.stays[item].take() {
            Some(folio) => folio.free(),
            None => drop(self.index.0[item].claim(self.arena.zone()).map(page_frames::Claim::remove)),
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

/// The lowest place that is free: a bit for each frame, set when it is taken.
struct FirstFit {
    taken: Vec<u64>,
    /// By item: where, and how many frames.
    places: Vec<Option<(usize, u8)>>,
}

impl FirstFit {
    fn new() -> Self {
        Self { taken: vec![0; FRAMES / 64], places: vec![None; FRAMES] }
    }
}

fn bits(order: u8) -> u64 {
    (1 << (1 << order)) - 1
}

impl Place for FirstFit {
    fn alloc(&mut self, item: usize, order: u8, _: Mobility) -> bool {
        let mask = bits(order);
        for (word, taken) in self.taken.iter_mut().enumerate().filter(|(_, taken)| **taken != u64::MAX) {
            for bit in (0..64).step_by(1 << order) {
                if *taken & mask << bit == 0 {
                    *taken |= mask << bit;
                    self.places[item] = Some((word * 64 + bit, order));
                    return true;
                }
            }
        }
        false
    }

    fn free(&mut self, item: usize) {
        if let Some((frame, order)) = self.places[item].take() {
            self.taken[frame / 64] &= !(bits(order) << (frame % 64));
        }
    }

    fn whole_blocks(&self) -> usize {
        self.taken.chunks(BLOCK / 64).filter(|block| block.iter().all(|&taken| taken == 0)).count()
    }

    fn compact(&mut self) -> Option<usize> {
        None
    }
}

/// Runs the trace on one of them. Frames that are free at its end.
fn run(place: &mut dyn Place, steps: usize, mixed: bool, ask: &Ask<'_>) -> usize {
    let mut random = fastrand::Rng::with_seed(7);
    let mut unused: Vec<usize> = (0..FRAMES).rev().collect();
    let mut live: Vec<(usize, usize)> = Vec::new();
    let mut free = FRAMES;
    for step in 0..steps {
        if step.is_multiple_of(4096) && ask.stop.load(Ordering::Relaxed) {
            break;
        }
        // Large ones are rare; the draw is the same whatever becomes of it.
        let order = random.u8(..64).leading_zeros().saturating_sub(2).min(3) as u8;
        let mobility = if mixed && random.u8(..8) == 0 { Mobility::Unmovable } else { Mobility::Movable };
        let which = random.usize(..);
        if free > FRAMES / 10 {
            let item = unused.pop().expect("as many items as frames");
            if place.alloc(item, order, mobility) {
                free -= 1 << order;
                live.push((item, 1 << order));
                continue;
            }
            unused.push(item);
        }
        if !live.is_empty() {
            let (item, frames) = live.swap_remove(which % live.len());
            place.free(item);
            unused.push(item);
            free += frames;
        }
    }
    random.shuffle(&mut live);
    for (item, frames) in live.drain(live.len() / 2..) {
        place.free(item);
        free += frames;
    }
    free
}

/// Measures it.
///
/// # Errors
///
/// What the system says when memory for the frames can not be had.
pub fn ask(ask: &mut Ask<'_>) -> io::Result<Report> {
    let steps = ((ask.time.as_secs_f64() * STEPS_PER_SECOND) as usize).max(LEAST_STEPS);
    let mut rows = Vec::new();
    for (n, (case, compacted)) in COMPACTED.into_iter().enumerate() {
        let mixed = case == MIXED;
        let places: [(&str, Box<dyn Place>); 3] = [
            ("folio", Box::new(Zone::new(true)?)),
            ("folio, not grouped", Box::new(Zone::new(false)?)),
            ("first fit", Box::new(FirstFit::new())),
        ];
        for (m, (name, mut place)) in places.into_iter().enumerate() {
            let free = run(&mut *place, steps, mixed, ask);
            let mut row = |case, whole: usize| {
                let row = Row::of(name, Case { name: case, threads: 0 }, &[whole as f64]);
                rows.extend(row.map(|row| Row {
                    more: vec![("free_frames", free as f64), ("of_free", (whole * BLOCK) as f64 / free as f64)],
                    ..row
                }));
            };
            row(case, place.whole_blocks());
            if let Some(whole) = place.compact() {
                row(compacted, whole);
            }
            (ask.progress)((n * 3 + m + 1) as f64 / 6.0);
        }
    }
    let order =
        |row: &Row| [MIXED, COMPACTED[0].1, MOVES, COMPACTED[1].1].iter().position(|name| *name == row.case.name);
    rows.sort_by_key(order);
    let mut report = Report::new(
        "Whole blocks of 2 MiB after long use at 90 % full, half of it freed",
        Unit::Number("blocks"),
        "256 MiB",
        "folio",
    );
    report.rows = rows;
    // Relaxed: a wish.
    if ask.stop.load(Ordering::Relaxed) {
        report.notes.push("stopped early: the figures are of a shorter life than asked for".to_owned());
    }
    Ok(report)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;
    use std::time::Duration;

    use super::*;

    /// What the measurement is to show, on a short trace: what moves is brought together, and grouping leaves more
    /// blocks for that.
    #[test]
    fn grouping_leaves_more_blocks_whole_and_compaction_brings_the_rest() {
        let stop = AtomicBool::new(false);
        let report = ask(&mut Ask { time: Duration::ZERO, stop: &stop, progress: &mut |_| () }).unwrap();
        let row = |name: &str, case: &str| {
            let is_it = |row: &&Row| row.name == name && row.case.name == case;
            report.rows.iter().find(is_it).unwrap_or_else(|| panic!("{name}, {case}: {report:?}"))
        };
        let [(_, mixed_compacted), (_, moves_compacted)] = COMPACTED;
        assert!(row("folio", mixed_compacted).median > row("folio, not grouped", mixed_compacted).median, "{report:?}");
        let share = row("folio", moves_compacted).more.iter().find(|more| more.0 == "of_free").unwrap().1;
        assert!(share >= 0.95, "{report:?}");
    }
}
