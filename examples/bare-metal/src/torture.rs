//! A test on all CPUs at once: readers compare what they read, while other CPUs migrate and replace
//! those pages, and split blocks in the same memory.

use core::hint::spin_loop;
use core::sync::atomic::{AtomicUsize, Ordering};

use folio_frames::{FolioRef, Kind, Lookup, Order, Owner, Pfn, Slot, Zone};

use crate::arch::machine;
use crate::platform::Machine;
use crate::{fill, holds, say};

/// The kind of a page of the index. Its owner data is its number.
const PAGE: Kind = Kind::owner(2);
/// The kind of a short-lived folio.
const SCRATCH: Kind = Kind::owner(3);
const PAGES: usize = 96;
/// Number of rounds of all movers together, and of all splitters together.
const ROUNDS: usize = 12_000;
/// Minimum number of reads of every reader.
const READS: usize = 64;

static INDEX: Index = Index([const { Slot::new() }; PAGES]);
/// Number of CPUs that take part; 0 until the test begins.
static CPUS: AtomicUsize = AtomicUsize::new(0);
/// Number of movers and splitters that have finished their rounds.
static QUIET: AtomicUsize = AtomicUsize::new(0);
static FINISHED: AtomicUsize = AtomicUsize::new(0);

static READ: AtomicUsize = AtomicUsize::new(0);
static WALKED: AtomicUsize = AtomicUsize::new(0);
static REFUSED: AtomicUsize = AtomicUsize::new(0);
static MIGRATED: AtomicUsize = AtomicUsize::new(0);
static REPLACED: AtomicUsize = AtomicUsize::new(0);
static SPLIT: AtomicUsize = AtomicUsize::new(0);

struct Index([Slot<Machine>; PAGES]);

impl Owner<Machine> for Index {
    fn with_slot(&self, _: Pfn, owner_data: u64, visit: &mut dyn FnMut(&Slot<Machine>)) -> bool {
        self.0.get(owner_data as usize).map(visit).is_some()
    }
}

/// A random number generator (Marsaglia, Xorshift RNGs). The seed is the CPU's number, so every run
/// uses the same numbers.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) as usize % n
    }
}

/// Runs on the first CPU: starts the test, takes part, waits for all CPUs and prints the counts.
pub fn conduct(zone: &'static Zone<Machine>, cpus: usize) {
    for page in 0..PAGES {
        install(zone, page);
    }
    // Release: pairs with Acquire in join, which then sees the pages.
    CPUS.store(cpus, Ordering::Release);
    join(zone);
    // Acquire: pairs with Release in join, and makes the counts of all CPUs visible.
    while FINISHED.load(Ordering::Acquire) < cpus {
        spin_loop();
    }
    let count = |counter: &AtomicUsize| counter.load(Ordering::Relaxed);
    say!(
        "torture: {} reads and {} walks compared, {} refused; \
         {} migrated, {} replaced, {} split; none wrong",
        count(&READ),
        count(&WALKED),
        count(&REFUSED),
        count(&MIGRATED),
        count(&REPLACED),
        count(&SPLIT)
    );
    for slot in &INDEX.0 {
        drop(slot.try_lock(zone).expect("all other CPUs have finished").remove());
    }
}

/// Runs on every CPU: waits for the start, does its part and counts itself as finished.
pub fn join(zone: &'static Zone<Machine>) {
    let cpus = loop {
        // Acquire: pairs with Release in conduct.
        match CPUS.load(Ordering::Acquire) {
            0 => spin_loop(),
            cpus => break cpus,
        }
    };
    let me = machine::cpu();
    let mut random = Random(0x9e37_79b9_7f4a_7c15 ^ (me as u64 + 1) << 32);
    // Of each four CPUs, one moves, one splits and two read.
    let antagonists = |role| (0..cpus).filter(|cpu| cpu % 4 == role).count();
    match me % 4 {
        0 => (0..ROUNDS / antagonists(0)).for_each(|_| mover(zone, &mut random)),
        1 => (0..ROUNDS / antagonists(1)).for_each(|_| splitter(zone, &mut random)),
        _ => reader(zone, &mut random, antagonists(0) + antagonists(1)),
    }
    if me % 4 < 2 {
        QUIET.fetch_add(1, Ordering::Relaxed);
    }
    // Release: pairs with Acquire in conduct.
    FINISHED.fetch_add(1, Ordering::Release);
}

/// Puts a new page into its slot, if the slot is empty.
fn install(zone: &'static Zone<Machine>, page: usize) {
    let size = Order::new((page % 3) as u8).expect("a small order");
    let mut folio = zone.alloc_frozen(size).expect("a free block for a page");
    folio.set_owner(PAGE, page as u64);
    match INDEX.0[page].install(folio) {
        Ok(mut locked) => {
            fill(locked.folio_mut().as_mut_slice(), page as u64);
            locked.publish();
        }
        Err(folio) => folio.free(),
    }
}

/// Migrates a page, or removes it and installs a new one.
fn mover(zone: &'static Zone<Machine>, random: &mut Random) {
    let page = random.below(PAGES);
    let slot = &INDEX.0[page];
    if random.below(4) > 0 {
        let moved =
            slot.pfn(zone).is_some_and(|pfn| folio_frames::migrate(zone, pfn, &INDEX).is_ok());
        MIGRATED.fetch_add(usize::from(moved), Ordering::Relaxed);
        return;
    }
    if let Some(Ok(locked)) = slot.try_lock(zone).map(folio_frames::LockedSlot::freeze) {
        let mut folio = locked.remove();
        fill(folio.as_mut_slice(), u64::MAX);
        folio.free();
        install(zone, page);
        REPLACED.fetch_add(1, Ordering::Relaxed);
    }
}

/// Splits a block. Some of the pieces are live for a moment.
fn splitter(zone: &'static Zone<Machine>, random: &mut Random) {
    let (whole, smaller) = [(3, 1), (2, 0), (1, 0), (4, 2)][random.below(4)];
    let order = |n| Order::new(n).expect("a small order");
    let Ok(mut block) = zone.alloc_frozen(order(whole)) else { return };
    let owner_data = u64::MAX - random.below(1000) as u64;
    fill(block.as_mut_slice(), owner_data);
    let mut live: Option<FolioRef<Machine>> = None;
    for mut piece in block.split(order(smaller)) {
        if random.below(2) == 0 {
            piece.free();
        } else {
            piece.set_owner(SCRATCH, owner_data);
            // Drops the previous live piece only now, so pieces are freed out of order.
            live = Some(piece.init());
        }
    }
    drop(live);
    SPLIT.fetch_add(1, Ordering::Relaxed);
}

/// Reads through the index and by walking, until all movers and splitters have finished.
fn reader(zone: &'static Zone<Machine>, random: &mut Random, antagonists: usize) {
    let (mut read, mut walked, mut refused) = (0, 0, 0);
    while QUIET.load(Ordering::Relaxed) < antagonists || read < READS {
        let page = random.below(PAGES);
        match INDEX.0[page].get(zone) {
            Lookup::Hit(folio) => {
                assert_eq!(
                    (folio.kind(), folio.owner_data()),
                    (PAGE, page as u64),
                    "R8: slot {page} returned {folio:?}"
                );
                compare(&folio);
                read += 1;
            }
            Lookup::InProgress => INDEX.0[page].wait(),
            Lookup::Empty | Lookup::Moved => refused += 1,
            Lookup::Saturated => panic!("page {page} is saturated"),
        }
        // The neighbours of a page's frame are other pages, free frames and split blocks.
        let Some(near) = INDEX.0[page].pfn(zone) else { continue };
        match zone.try_get_head(Pfn::new(near.as_u64() ^ random.below(16) as u64)) {
            Ok(folio) => {
                compare(&folio);
                walked += 1;
            }
            Err(_) => refused += 1,
        }
    }
    READ.fetch_add(read, Ordering::Relaxed);
    WALKED.fetch_add(walked, Ordering::Relaxed);
    REFUSED.fetch_add(refused, Ordering::Relaxed);
}

fn compare(folio: &FolioRef<Machine>) {
    assert!(
        holds(folio.as_slice(), folio.owner_data(), 61),
        "R1, R8: {folio:?} does not hold {:#x}",
        folio.owner_data()
    );
}
