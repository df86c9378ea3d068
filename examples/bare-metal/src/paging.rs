//! Address spaces in the processor's own page tables, on all CPUs: copy-on-write between a parent
//! and its child, pins with a bias, and migration of mapped pages. A room of unsafe code: raw
//! references, and the bytes of tables and mapped pages.
//!
//! An entry is that of the processor, and owns a raw reference. One that is not present may be
//! *moving*: then a migration has its reference. A CPU uses a space under its lock, and loads the
//! tables before. An entry that changes is first removed, also from the TLB of each CPU: by a
//! broadcast where the processor has one; others load other tables after each use, which empties
//! the TLB. There is no fault handler. A CPU looks at the entry before it writes; a write to a
//! read-only page would end the machine.

use core::array;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering, fence};

use folio_frames::{
    FRAME_SIZE, FolioRefs, FrozenFolio, Kind, Order, Owner, Pfn, Slot, VolatileRef, Zone,
};
use lock_api::{Mutex, MutexGuard};

use crate::arch::machine;
use crate::arch::tables::{self, is_present, is_writable, pfn_of};
use crate::platform::{Machine, SpinLock};
use crate::{MAX_CPUS, say};

/// The kind of a page of an address space. Its owner data is its id, with its place below.
const PAGE: Kind = Kind::owner(4);
/// In an entry that is not present: a migration has the page.
const MOVING: u64 = 1 << 9;
/// In an entry that is moving: it was writable.
const WAS_WRITABLE: u64 = 1 << 8;
/// The pages of each address space.
const PLACES: usize = 8;
/// The address of the first page: the second entry of the topmost table.
const BASE: usize = 1 << 39;
/// The number of references that a pin counts as.
const BIAS: u32 = 1024;
/// The number of rounds of all processes together. QEMU stops all virtual CPUs for a broadcast.
const ROUNDS: usize = if tables::BROADCASTS { 160 } else { 600 };
/// The number of attempts to migrate or to pin a mapped page by all CPUs that do nothing else: a
/// virtual machine may have fewer processors than CPUs.
const ACTIONS: usize = 20 * ROUNDS;
const WORDS: usize = FRAME_SIZE / 8;
/// The first word of the half of a page that devices write.
const DEVICE: usize = WORDS / 2;

type Table = [AtomicU64; WORDS];
type Guard<'a> = MutexGuard<'a, SpinLock, ()>;

/// A parent and a child for each CPU.
static SPACES: [Space; 2 * MAX_CPUS] = [const { Space::new() }; 2 * MAX_CPUS];
static NEXT_ID: AtomicU64 = AtomicU64::new(1);
/// Number of CPUs that take part; 0 until the test begins.
static CPUS: AtomicUsize = AtomicUsize::new(0);
/// Number of CPUs that still migrate pages of others.
static MOVERS: AtomicUsize = AtomicUsize::new(0);
static QUIET: AtomicUsize = AtomicUsize::new(0);
static FINISHED: AtomicUsize = AtomicUsize::new(0);

static COMPARED: AtomicUsize = AtomicUsize::new(0);
static SHARED: AtomicUsize = AtomicUsize::new(0);
static COPIED: AtomicUsize = AtomicUsize::new(0);
static REUSED: AtomicUsize = AtomicUsize::new(0);
static EARLY: AtomicUsize = AtomicUsize::new(0);
static PINNED: AtomicUsize = AtomicUsize::new(0);
static MIGRATED: AtomicUsize = AtomicUsize::new(0);

/// Returns the address of a page in each space.
fn address(place: usize) -> usize {
    BASE + place * FRAME_SIZE
}

fn count(counter: &AtomicUsize) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// Returns the entries in the frame of a table, which is identity-mapped.
fn table(pfn: Pfn) -> &'static Table {
    let at = core::ptr::with_exposed_provenance::<Table>(pfn.as_u64() as usize * FRAME_SIZE);
    // SAFETY: called for frames of tables only: the entry above, or the space, owns the exclusive
    // handle, and any bytes are valid atomics.
    unsafe { &*at }
}

struct Space {
    /// The root that a CPU loads to use the tables; 0 without any.
    root: AtomicU64,
    /// The frame of the last table, with the entries of the pages; 0 without one.
    last: AtomicU64,
    lock: Mutex<SpinLock, ()>,
}

impl Space {
    const fn new() -> Self {
        let (root, last) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { root, last, lock: Mutex::new(()) }
    }

    /// Makes the four tables. Each entry owns the table below it. The number differs in each space.
    fn create(&self, zone: &'static Zone<Machine>, number: usize) {
        let frames: [Pfn; 4] = array::from_fn(|_| {
            let mut table = zone.alloc_frozen(Order::ZERO).expect("a frame for a table");
            table.zero();
            table.into_raw()
        });
        let _guard = self.lock.lock();
        // The kernel, its stacks and all frames are mapped by the first entry.
        let kernel = table(pfn_of(tables::current()))[0].load(Ordering::Relaxed);
        table(frames[0])[0].store(kernel, Ordering::Relaxed);
        for (level, below) in frames[1..].iter().enumerate() {
            let entry = usize::from(level == 0);
            table(frames[level])[entry].store(tables::table(*below), Ordering::Relaxed);
        }
        self.last.store(frames[3].as_u64(), Ordering::Relaxed);
        // Release: pairs with Acquire in entry.
        self.root.store(tables::root(frames[0], number), Ordering::Release);
    }

    /// Takes the tables apart.
    fn destroy(&self, zone: &'static Zone<Machine>) {
        let _guard = self.lock.lock();
        let root = self.root.swap(0, Ordering::Relaxed);
        tables::invalidate(root, BASE);
        let mut pfn = pfn_of(root);
        for level in 0..4 {
            let below = table(pfn)[usize::from(level == 0)].load(Ordering::Relaxed);
            // SAFETY: the raw handle of the table, taken once. The space has no tables any more.
            unsafe { FrozenFolio::from_raw(zone, pfn) }.free();
            pfn = pfn_of(below);
        }
    }

    /// Returns the entry of a place, if the space has tables.
    fn entry(&self, place: usize) -> Option<&'static AtomicU64> {
        // Acquire: pairs with Release in create.
        (self.root.load(Ordering::Acquire) != 0)
            .then(|| &table(Pfn::new(self.last.load(Ordering::Relaxed)))[place])
    }

    /// Returns the page that is mapped at a place. It may be another one as soon as this returns.
    fn page(&self, place: usize) -> Option<Pfn> {
        let entry = self.entry(place)?.load(Ordering::Relaxed);
        is_present(entry).then(|| pfn_of(entry))
    }

    /// Returns the lock and the entry, as soon as no migration has the page.
    fn settled(&self, place: usize) -> (Guard<'_>, &'static AtomicU64, u64) {
        loop {
            let guard = self.lock.lock();
            let at = self.entry(place).expect("a space with tables");
            let entry = at.load(Ordering::Relaxed);
            if is_present(entry) || entry & MOVING == 0 {
                return (guard, at, entry);
            }
            drop(guard);
            machine::pause();
        }
    }

    /// Changes an entry that a TLB may contain, under the lock. No TLB has the old entry
    /// afterwards, and none had both at any time.
    fn replace(&self, at: &AtomicU64, place: usize, entry: u64) {
        at.store(0, Ordering::Relaxed);
        tables::invalidate(self.root.load(Ordering::Relaxed), address(place));
        at.store(entry, Ordering::Release);
    }

    /// Visits the words of a page through the processor's page tables.
    fn through_the_tables(&self, _guard: &Guard<'_>, place: usize, visit: impl FnOnce(&Table)) {
        let before = tables::load(self.root.load(Ordering::Relaxed));
        let at = core::ptr::with_exposed_provenance::<Table>(address(place));
        // SAFETY: the entry is present, and stays so under the lock. All accesses to the bytes of
        // the page are atomic, or copies that may race.
        visit(unsafe { &*at });
        // Otherwise the CPU stays in this space, while other CPUs change its entries.
        if !tables::BROADCASTS {
            tables::load(before);
        }
    }

    /// Writes words of a page, after a fault if it is read-only, or a new page.
    fn write(&self, zone: &'static Zone<Machine>, place: usize, first: usize, value: u64) {
        let (guard, at, entry) = self.settled(place);
        if entry == 0 {
            let mut page = new_page(zone, place);
            page.zero();
            at.store(tables::page(page.init_volatile().into_raw(), true), Ordering::Release);
        } else {
            self.make_writable(zone, place, at, entry);
        }
        self.through_the_tables(&guard, place, |words| {
            for (n, word) in words.iter().enumerate().skip(first).take(DEVICE) {
                word.store(value << 16 | n as u64, Ordering::Relaxed);
            }
        });
    }

    /// Compares half a page with what was written. 0: it is zeroed.
    fn compare(&self, place: usize, first: usize, value: u64) {
        let (guard, _, entry) = self.settled(place);
        assert!(is_present(entry), "a page is gone");
        self.through_the_tables(&guard, place, |words| {
            for (n, word) in words.iter().enumerate().skip(first).take(DEVICE) {
                let expected = if value == 0 { 0 } else { value << 16 | n as u64 };
                assert_eq!(word.load(Ordering::Relaxed), expected, "word {n} of page {place}");
            }
        });
        count(&COMPARED);
    }

    /// Handles a write fault, under the lock.
    fn make_writable(
        &self,
        zone: &'static Zone<Machine>,
        place: usize,
        at: &AtomicU64,
        entry: u64,
    ) {
        if is_writable(entry) {
            return;
        }
        // SAFETY: the raw reference of the entry, which is locked and gets another one below.
        let page = unsafe { VolatileRef::from_raw(zone, pfn_of(entry)) };
        let (pfn, _shared) = match page.freeze() {
            Ok(page) => {
                count(&REUSED);
                (page.init_volatile().into_raw(), None)
            }
            Err(page) => {
                count(&COPIED);
                (copy_of(zone, &page, place), Some(page))
            }
        };
        // The reference to a shared page is dropped after this: no TLB has the page any more.
        self.replace(at, place, tables::page(pfn, true));
    }

    /// Waits until an entry changes, or no other CPU moves pages any more.
    fn wait_for_a_move(&self) {
        let entries: [_; PLACES] = array::from_fn(|place| self.entry(place).expect("tables"));
        let all = || entries.map(|at| at.load(Ordering::Relaxed));
        let before = all();
        while MOVERS.load(Ordering::Relaxed) > 0 && all() == before {
            machine::pause();
        }
    }

    fn unmap(&self, zone: &'static Zone<Machine>, place: usize) {
        let (_guard, at, entry) = self.settled(place);
        if entry != 0 {
            self.replace(at, place, 0);
            // SAFETY: the raw reference of the entry, which is gone.
            drop(unsafe { VolatileRef::from_raw(zone, pfn_of(entry)) });
        }
    }
}

fn new_page(zone: &'static Zone<Machine>, place: usize) -> FrozenFolio<Machine> {
    let mut page = zone.alloc_frozen(Order::ZERO).expect("a frame for a page");
    let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
    page.set_owner(PAGE, id * PLACES as u64 + place as u64);
    page
}

fn copy_of(zone: &'static Zone<Machine>, page: &VolatileRef<Machine>, place: usize) -> Pfn {
    let mut copy = new_page(zone, place);
    page.read(0, copy.as_mut_slice());
    copy.init_volatile().into_raw()
}

/// Maps all pages of a parent into its child, which has none: copy-on-write.
fn fork(zone: &'static Zone<Machine>, parent: &Space, child: &Space) {
    for place in 0..PLACES {
        let (_guard, at, entry) = parent.settled(place);
        let _childs = child.lock.lock();
        let of_child = child.entry(place).expect("a space with tables");
        let shared = tables::page(pfn_of(entry), false);
        parent.replace(at, place, shared);
        // SeqCst: pairs with the fence in pin.
        fence(Ordering::SeqCst);
        let seen = zone.peek(pfn_of(entry)).snapshot;
        // A saturated count may have pins too.
        if matches!(seen, folio_ref::Snapshot::Live(n) if n < BIAS) {
            count(&SHARED);
            // SAFETY: the entry owns a raw reference, and is locked.
            unsafe { zone.get_raw(pfn_of(entry), 1) };
            of_child.store(shared, Ordering::Release);
        } else {
            count(&EARLY);
            // SAFETY: the raw reference of the entry, which is locked and gets it back.
            let page = unsafe { VolatileRef::from_raw(zone, pfn_of(entry)) };
            of_child.store(tables::page(copy_of(zone, &page, place), true), Ordering::Release);
            parent.replace(at, place, tables::page(page.into_raw(), is_writable(entry)));
        }
    }
}

/// A pin of a page, for a device that writes to it.
struct Pin {
    page: VolatileRef<Machine>,
    _bias: FolioRefs<Machine>,
}

/// Pins a page that is mapped writable, without a lock.
fn pin(zone: &'static Zone<Machine>, space: &Space, place: usize) -> Option<Pin> {
    let at = space.entry(place)?;
    let before = at.load(Ordering::Acquire);
    if !is_present(before) || !is_writable(before) {
        return None;
    }
    let page = zone.try_get_volatile(pfn_of(before)).ok()?;
    let pin = Pin { _bias: page.get_many(BIAS), page };
    // SeqCst: pairs with the fence in fork.
    fence(Ordering::SeqCst);
    (at.load(Ordering::Relaxed) == before).then(|| {
        count(&PINNED);
        pin
    })
}

/// Returns the entry of a page that this CPU moves, apart from [`WAS_WRITABLE`]. It has the CPU's
/// number: another one may try to move the same page, and each has the references of some entries
/// then.
fn moving(id: u64) -> u64 {
    (machine::cpu() as u64) << 52 | id << 12 | MOVING
}

/// The reverse mapping: a page is at its place in each space that maps it.
struct Mapped(&'static Zone<Machine>);

impl Owner<Machine> for Mapped {
    fn with_slot(&self, _: Pfn, _: u64, _: &mut dyn FnMut(&Slot<Machine>)) -> bool {
        false
    }

    fn lend(&self, pfn: Pfn, id: u64) -> Option<FolioRefs<Machine>> {
        let mut lent = 0;
        for space in &SPACES {
            let _guard = space.lock.lock();
            let Some(at) = space.entry(id as usize % PLACES) else { continue };
            let entry = at.load(Ordering::Relaxed);
            if is_present(entry) && pfn_of(entry) == pfn {
                let writable = if is_writable(entry) { WAS_WRITABLE } else { 0 };
                space.replace(at, id as usize % PLACES, moving(id) | writable);
                lent += 1;
            }
        }
        // SAFETY: the raw references of these entries, which are gone.
        (lent > 0).then(|| unsafe { FolioRefs::from_raw(self.0, pfn, lent) })
    }

    fn take_back(&self, id: u64, refs: FolioRefs<Machine>) {
        let (pfn, mut left) = refs.into_raw();
        for space in &SPACES {
            let _guard = space.lock.lock();
            let Some(at) = space.entry(id as usize % PLACES) else { continue };
            let entry = at.load(Ordering::Relaxed);
            if entry & !WAS_WRITABLE == moving(id) {
                let writable = entry & WAS_WRITABLE != 0;
                at.store(tables::page(pfn, writable), Ordering::Release);
                left -= 1;
            }
        }
        assert_eq!(left, 0, "entries of {pfn:?} are gone");
    }
}

fn migrate(zone: &'static Zone<Machine>, space: &Space, place: usize) {
    let Some(pfn) = space.page(place) else { return };
    if folio_frames::migrate(zone, pfn, &Mapped(zone)).is_ok() {
        count(&MIGRATED);
    }
}

/// A parent that forks, writes beside its child, and has a device write to its page.
fn process(zone: &'static Zone<Machine>, me: usize, rounds: usize) {
    let [parent, child] = [&SPACES[2 * me], &SPACES[2 * me + 1]];
    let kernel = tables::current();
    parent.create(zone, 2 * me);
    child.create(zone, 2 * me + 1);
    let mut written = [(0, 0); PLACES];
    for round in 0..rounds {
        let value = |n: usize| ((me * rounds + round) * 64 + n + 1) as u64;
        // Twice: in between another CPU moves a page, after this CPU has used its entry.
        for n in 0..2 * PLACES {
            if n == PLACES {
                parent.wait_for_a_move();
            }
            parent.write(zone, n % PLACES, 0, value(n));
            written[n % PLACES].0 = value(n);
        }
        let mut of_child = written;
        let (pinned, both) = (round % PLACES, (round + 3) % PLACES);
        // A migration may have the page at the moment.
        let device = loop {
            if let Some(pin) = pin(zone, parent, pinned) {
                break pin;
            }
            machine::pause();
        };
        fork(zone, parent, child);
        for n in DEVICE..WORDS {
            let word = value(40) << 16 | n as u64;
            device.page.write(n * 8, &word.to_le_bytes());
        }
        written[pinned].1 = value(40);
        // The parent first: the CPU may still be in its space, and must not use the old entries.
        for (space, written, n) in [(parent, &mut written, 30), (child, &mut of_child, 20)] {
            for place in [pinned, both] {
                space.write(zone, place, 0, value(n + place));
                written[place].0 = value(n + place);
            }
        }
        for place in 0..PLACES {
            migrate(zone, child, place);
        }
        for (space, written) in [(parent, &written), (child, &of_child)] {
            for (place, &(own, device)) in written.iter().enumerate() {
                space.compare(place, 0, own);
                space.compare(place, DEVICE, device);
            }
        }
        drop(device);
        (0..PLACES).for_each(|place| child.unmap(zone, place));
    }
    (0..PLACES).for_each(|place| parent.unmap(zone, place));
    tables::load(kernel);
}

/// Runs on the first CPU: starts the test, takes part, waits for all CPUs and prints the counts.
pub fn conduct(zone: &'static Zone<Machine>, cpus: usize) {
    MOVERS.store((0..cpus).filter(|cpu| cpu % 4 == 1).count(), Ordering::Relaxed);
    // Release: pairs with Acquire in join.
    CPUS.store(cpus, Ordering::Release);
    join(zone);
    // Acquire: pairs with Release in join, and makes the counts of all CPUs visible.
    while FINISHED.load(Ordering::Acquire) < cpus {
        machine::pause();
    }
    for space in SPACES.iter().filter(|space| space.entry(0).is_some()) {
        space.destroy(zone);
    }
    let of = |counter: &AtomicUsize| counter.load(Ordering::Relaxed);
    say!(
        "paging: {} half pages compared; {} shared, {} copied for a child, {} on write, {} reused; \
         {} pinned, {} migrated; none wrong",
        of(&COMPARED),
        of(&SHARED),
        of(&EARLY),
        of(&COPIED),
        of(&REUSED),
        of(&PINNED),
        of(&MIGRATED)
    );
}

/// Runs on every CPU: waits for the start, does its part and counts itself as finished.
pub fn join(zone: &'static Zone<Machine>) {
    let cpus = loop {
        // Acquire: pairs with Release in conduct.
        match CPUS.load(Ordering::Acquire) {
            0 => machine::pause(),
            cpus => break cpus,
        }
    };
    let me = machine::cpu();
    // Of each four CPUs, one migrates and one pins pages of the others.
    let processes = (0..cpus).filter(|cpu| matches!(cpu % 4, 0 | 3)).count();
    if matches!(me % 4, 0 | 3) {
        process(zone, me, ROUNDS / processes);
        QUIET.fetch_add(1, Ordering::Relaxed);
    } else {
        let (mut n, mut left) = (me, ACTIONS / cpus);
        while left > 0 && QUIET.load(Ordering::Relaxed) < processes {
            n = n.wrapping_mul(25) + 7;
            let (space, place) = (&SPACES[(n >> 8) % (2 * cpus)], (n >> 4) % PLACES);
            if space.page(place).is_none() {
                continue;
            }
            left -= 1;
            if me % 4 == 1 {
                migrate(zone, space, place);
            } else if let Some(pin) = pin(zone, space, place) {
                assert_eq!(pin.page.owner_data() as usize % PLACES, place, "of another place");
            }
        }
        if me % 4 == 1 {
            MOVERS.fetch_sub(1, Ordering::Relaxed);
        }
    }
    // Release: pairs with Acquire in conduct.
    FINISHED.fetch_add(1, Ordering::Release);
}
