//! All CPUs at once: readers that compare what they read, while other CPUs replace and migrate what
//! they read, and cut blocks into parts where it lay.

use core::hint::spin_loop;
use core::sync::atomic::{AtomicUsize, Ordering};

use folio_frames::{FolioRef, Kind, Lookup, Order, Owner, Pfn, Slot, Zone};

use crate::platform::Machine;
use crate::{fill, holds, machine, say};

/// A page of the index; its note is its number.
const PAGE: Kind = Kind::owner(2);
/// A folio that lives a moment.
const SCRATCH: Kind = Kind::owner(3);
const PAGES: usize = 96;
/// What movers, and splitters, do together.
const ROUNDS: usize = 12_000;
/// What every reader reads at the least.
const READS: usize = 64;

static INDEX: Index = Index([const { Slot::new() }; PAGES]);
/// CPUs that take part; 0 until it begins.
static CPUS: AtomicUsize = AtomicUsize::new(0);
/// Movers and splitters that have done their rounds.
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

/// (Marsaglia, Xorshift RNGs.) The seed is the CPU's number: a run is repeated by running it again.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) as usize % n
    }
}

/// The first CPU: begins, takes part, and says what was done when everybody has finished.
pub fn conduct(zone: &'static Zone<Machine>, cpus: usize) {
    for page in 0..PAGES {
        install(zone, page);
    }
    // Release: pairs with Acquire in join: the pages are there.
    CPUS.store(cpus, Ordering::Release);
    join(zone);
    // Acquire: pairs with Release in join: what they counted is there.
    while FINISHED.load(Ordering::Acquire) < cpus {
        spin_loop();
    }
    let said = |counter: &AtomicUsize| counter.load(Ordering::Relaxed);
    say!(
        "torture: {} reads and {} walks compared, {} refused; {} migrated, {} replaced, {} split; none wrong",
        said(&READ),
        said(&WALKED),
        said(&REFUSED),
        said(&MIGRATED),
        said(&REPLACED),
        said(&SPLIT)
    );
    for slot in &INDEX.0 {
        drop(slot.try_lock(zone).expect("nobody else is there").remove());
    }
}

/// Every CPU: waits until it begins, does its part, and has finished.
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
    // Of four CPUs, one moves, one splits, two read.
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
    let mut folio = zone.alloc_frozen(size).expect("memory for a page");
    folio.set_owner(PAGE, page as u64);
    match INDEX.0[page].install(folio) {
        Ok(mut locked) => {
            fill(locked.folio_mut().as_mut_slice(), page as u64);
            locked.publish();
        }
        Err(folio) => folio.free(),
    }
}

/// Migrates a page, or takes it away and puts another there.
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

/// Cuts a block into parts, some of which live for a moment.
fn splitter(zone: &'static Zone<Machine>, random: &mut Random) {
    let (whole, part) = [(3, 1), (2, 0), (1, 0), (4, 2)][random.below(4)];
    let order = |n| Order::new(n).expect("a small order");
    let Ok(mut block) = zone.alloc_frozen(order(whole)) else { return };
    let note = u64::MAX - random.below(1000) as u64;
    fill(block.as_mut_slice(), note);
    let mut lives: Option<FolioRef<Machine>> = None;
    for mut part in block.split(order(part)) {
        if random.below(2) == 0 {
            part.free();
        } else {
            part.set_owner(SCRATCH, note);
            // The one before goes only now: parts are freed out of order.
            lives = Some(part.init());
        }
    }
    drop(lives);
    SPLIT.fetch_add(1, Ordering::Relaxed);
}

/// Reads by the index and by walking, until nobody changes anything any more.
fn reader(zone: &'static Zone<Machine>, random: &mut Random, antagonists: usize) {
    let (mut read, mut walked, mut refused) = (0, 0, 0);
    while QUIET.load(Ordering::Relaxed) < antagonists || read < READS {
        let page = random.below(PAGES);
        match INDEX.0[page].get(zone) {
            Lookup::Hit(folio) => {
                assert_eq!(
                    (folio.kind(), folio.owner_data()),
                    (PAGE, page as u64),
                    "R8: slot {page} gave {folio:?}"
                );
                compare(&folio);
                read += 1;
            }
            Lookup::InProgress => INDEX.0[page].wait(),
            Lookup::Empty | Lookup::Moved => refused += 1,
            Lookup::Saturated => panic!("page {page} is saturated"),
        }
        // Around a page's frame lie others, free ones, and blocks in parts.
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
