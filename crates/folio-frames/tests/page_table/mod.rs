//! A small page table over raw frame numbers: faults, forks with copy-on-write, unmaps, pins with a
//! bias, and migration of mapped pages.
//!
//! ```text
//!   63 ............... 12      2        1         0
//!    frame number, or id    moving  writable  present
//! ```
//!
//! | entry | owns |
//! | --- | --- |
//! | 0 | nothing |
//! | present | one raw reference to the volatile page with this frame number |
//! | moving | nothing: a migration of the page with this id has its reference |
//!
//! A change of an entry needs the lock of its address space, and so does an access through it: the
//! lock stands for the TLB, as a shootdown waits until no processor uses the old entry. A pin takes
//! no lock. It takes its references, and then checks the entry again (R8).
//!
//! A pin that writes counts as [`PIN`] references. A fork makes an entry read-only *before* it
//! looks at the count, and a pin looks at the entry *after* it raised the count, with a fence
//! between the two on both sides: so at least one of them sees the other. If the fork sees the pin,
//! the child gets a copy, and the pinned page stays the parent's.

#![allow(dead_code, reason = "no test file uses all of it")]

#[cfg(shuttle)]
pub(crate) mod races;

use std::collections::HashSet;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::atomic::{self, AtomicUsize};

#[cfg(not(shuttle))]
use std::sync::atomic::{AtomicU64, fence};

use folio_frames::{
    FRAME_SIZE, FolioRefs, FrozenFolio, Kind, Order, Owner, Pfn, Platform, Slot, UserSpace,
    VolatileRef, Zone,
};
#[cfg(shuttle)]
use folio_ref::testing::stepped::{AtomicU64, fence};
use folio_ref::{DefaultScheme, Snapshot, broken};
use lock_api::{Mutex, MutexGuard};

type Lock = <UserSpace as Platform>::Lock;
type Guard<'a> = MutexGuard<'a, Lock, ()>;

/// The kind of a page of an address space. Its owner data is its id.
pub(crate) const PAGE: Kind = Kind::owner(1);
/// The number of entries of a table.
const ENTRIES: usize = FRAME_SIZE / size_of::<u64>();
/// The bits of an id that are the page's place in its table.
const PLACE_BITS: u32 = ENTRIES.trailing_zeros();

/// The number of references that a pin counts as: more than an ordinary page has.
pub(crate) const PIN: u32 = 1024;

const PRESENT: u64 = 1;
const WRITABLE: u64 = 2;
const MOVING: u64 = 4;
const NUMBER_SHIFT: u32 = 12;

fn present(pfn: Pfn, writable: u64) -> u64 {
    pfn.as_u64() << NUMBER_SHIFT | PRESENT | writable
}

fn pfn_of(entry: u64) -> Pfn {
    Pfn::new(entry >> NUMBER_SHIFT)
}

/// Returns the key on which a thread sleeps until the page of an entry has moved.
fn key(entry: &AtomicU64) -> usize {
    std::ptr::from_ref(entry).addr()
}

/// The numbers of events, so that a test can require that each of them happened.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) faults: AtomicUsize,
    pub(crate) shared: AtomicUsize,
    pub(crate) copied_for_child: AtomicUsize,
    pub(crate) copied_on_write: AtomicUsize,
    pub(crate) reused: AtomicUsize,
    pub(crate) pinned: AtomicUsize,
    pub(crate) not_pinned: AtomicUsize,
    pub(crate) lent: AtomicUsize,
}

/// Address spaces that share pages, and the way from a page to the entries that map it: a page has
/// the same place in each of them.
pub(crate) struct World {
    pub(crate) zone: &'static Zone<UserSpace>,
    pub(crate) spaces: Vec<Space>,
    pub(crate) counts: Counts,
    next_id: atomic::AtomicU64,
    /// The ids of the pages that are being moved: each by one thread.
    moving: Mutex<Lock, HashSet<u64>>,
}

/// An address space: the entries, in a frame of their own.
pub(crate) struct Space {
    zone: &'static Zone<UserSpace>,
    /// **Invariant:** the raw exclusive handle of the frame in which the entries lie.
    table: Pfn,
    entries: &'static [AtomicU64; ENTRIES],
    lock: Mutex<Lock, ()>,
}

impl Space {
    fn new(zone: &'static Zone<UserSpace>) -> Self {
        let mut table = zone.alloc_frozen(Order::ZERO).expect("a frame for a table");
        table.zero();
        #[expect(clippy::cast_ptr_alignment, reason = "a frame is aligned to its size")]
        let at = table.as_ptr().cast::<[AtomicU64; ENTRIES]>();
        // SAFETY: zeroes are valid atomics; the frame is aligned, large enough, and this value's
        // until its drop, as the entries are only used by its methods.
        let entries = unsafe { &*at };
        Self { zone, table: table.into_raw(), entries, lock: Mutex::new(()) }
    }

    /// Returns the lock and the entry, as soon as no migration has the page.
    fn settled(&self, place: usize) -> (Guard<'_>, u64) {
        loop {
            let guard = self.lock.lock();
            // Relaxed: under the lock.
            let entry = self.entries[place].load(Relaxed);
            if entry & MOVING == 0 {
                return (guard, entry);
            }
            drop(guard);
            let entry = &self.entries[place];
            // Relaxed: the lock decides.
            UserSpace::<DefaultScheme>::wait(key(entry), &|| entry.load(Relaxed) & MOVING != 0);
        }
    }

    /// Calls `access` with the page of an entry, under the lock.
    fn with_page<T>(
        &self,
        _guard: &Guard<'_>,
        entry: u64,
        access: impl FnOnce(&VolatileRef<UserSpace>) -> T,
    ) -> T {
        // SAFETY: the entry owns a raw reference to a volatile page, and is locked. It gets the
        // reference back below.
        let page = unsafe { VolatileRef::from_raw(self.zone, pfn_of(entry)) };
        let result = access(&page);
        assert_eq!(page.into_raw(), pfn_of(entry));
        result
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        // SAFETY: the raw handle of this value, taken once. The entries are not used any more.
        let table = unsafe { FrozenFolio::from_raw(self.zone, self.table) };
        if !std::thread::panicking() {
            assert!(
                table.as_slice().iter().all(|&byte| byte == 0),
                "an entry was left in {table:?}"
            );
        }
        table.free();
    }
}

/// A pin of a page for a device that writes: it keeps the page where it is, and the parent's.
pub(crate) struct Pin {
    pub(crate) page: VolatileRef<UserSpace>,
    _bias: FolioRefs<UserSpace>,
}

impl World {
    pub(crate) fn new(zone: &'static Zone<UserSpace>, spaces: usize) -> Self {
        let spaces = (0..spaces).map(|_| Space::new(zone)).collect();
        let (counts, next_id) = (Counts::default(), atomic::AtomicU64::new(1));
        Self { zone, spaces, counts, next_id, moving: Mutex::new(HashSet::new()) }
    }

    /// Returns a new page for this place, exclusive.
    fn new_page(&self, place: usize) -> FrozenFolio<UserSpace> {
        let mut page = self.zone.alloc_frozen(Order::ZERO).expect("a frame for a page");
        let id = self.next_id.fetch_add(1, Relaxed) << PLACE_BITS | place as u64;
        page.set_owner(PAGE, id);
        page
    }

    /// Returns a copy of a page for the same place, as a raw reference.
    fn copy_of(&self, page: &VolatileRef<UserSpace>, place: usize) -> Pfn {
        let mut copy = self.new_page(place);
        page.read(0, copy.as_mut_slice());
        copy.init_volatile().into_raw()
    }

    /// Maps a new page with these bytes. Returns `false` if there is a page already.
    pub(crate) fn map(&self, space: usize, place: usize, bytes: &[u8; FRAME_SIZE]) -> bool {
        let space = &self.spaces[space];
        let (_guard, entry) = space.settled(place);
        if entry != 0 {
            return false;
        }
        let mut page = self.new_page(place);
        page.as_mut_slice().copy_from_slice(bytes);
        let pfn = page.init_volatile().into_raw();
        // Release: pairs with Acquire in pin, which then sees the page open.
        space.entries[place].store(present(pfn, WRITABLE), atomic::Ordering::Release);
        true
    }

    /// Copies bytes of a page out. Returns `false` if none is mapped.
    pub(crate) fn read(&self, space: usize, place: usize, at: usize, to: &mut [u8]) -> bool {
        let space = &self.spaces[space];
        let (guard, entry) = space.settled(place);
        entry != 0 && {
            space.with_page(&guard, entry, |page| page.read(at, to));
            true
        }
    }

    /// Copies bytes into a page, after a fault if it is read-only. Returns `false` if none is
    /// mapped.
    pub(crate) fn write(&self, space: usize, place: usize, at: usize, from: &[u8]) -> bool {
        let (guard, entry) = self.spaces[space].settled(place);
        entry != 0 && {
            let entry = self.make_writable(space, place, &guard, entry);
            self.spaces[space].with_page(&guard, entry, |page| page.write(at, from));
            true
        }
    }

    /// Handles a write fault: the page of the entry becomes writable, and this space's alone.
    fn make_writable(&self, space: usize, place: usize, _guard: &Guard<'_>, entry: u64) -> u64 {
        if entry & WRITABLE != 0 {
            return entry;
        }
        self.counts.faults.fetch_add(1, Relaxed);
        let space = &self.spaces[space];
        // SAFETY: the entry's raw reference, under its lock. The entry gets another one below.
        let page = unsafe { VolatileRef::from_raw(space.zone, pfn_of(entry)) };
        let pfn = match page.freeze() {
            Ok(page) => {
                self.counts.reused.fetch_add(1, Relaxed);
                page.init_volatile().into_raw()
            }
            // Other spaces have it. Its old reference ends here: it may be the last by now.
            Err(page) => {
                self.counts.copied_on_write.fetch_add(1, Relaxed);
                self.copy_of(&page, place)
            }
        };
        let entry = present(pfn, WRITABLE);
        // Release: as in map.
        space.entries[place].store(entry, atomic::Ordering::Release);
        entry
    }

    /// Returns the frame of a page that is mapped.
    pub(crate) fn frame_of(&self, space: usize, place: usize) -> Pfn {
        let (_guard, entry) = self.spaces[space].settled(place);
        assert!(entry & PRESENT != 0, "nothing is mapped");
        pfn_of(entry)
    }

    /// Unmaps a page. Returns `false` if none is mapped.
    pub(crate) fn unmap(&self, space: usize, place: usize) -> bool {
        let space = &self.spaces[space];
        let (_guard, entry) = space.settled(place);
        if entry == 0 {
            return false;
        }
        space.entries[place].store(0, Relaxed);
        // SAFETY: the raw reference of the entry, which is gone.
        drop(unsafe { VolatileRef::from_raw(space.zone, pfn_of(entry)) });
        true
    }

    /// Maps the pages of `parent` from places below `places` into `child`, which is empty:
    /// copy-on-write.
    pub(crate) fn fork(&self, parent: usize, child: usize, places: usize) {
        for place in 0..places {
            let (_guard, entry) = self.spaces[parent].settled(place);
            if entry == 0 {
                continue;
            }
            let _childs = self.spaces[child].lock.lock();
            let of_child = self.share(parent, place, entry);
            // Release: as in map.
            self.spaces[child].entries[place].store(of_child, atomic::Ordering::Release);
        }
    }

    /// Shares the page of an entry with a child, under both locks. Returns the child's entry.
    fn share(&self, parent: usize, place: usize, entry: u64) -> u64 {
        let (space, pfn) = (&self.spaces[parent], pfn_of(entry));
        let is_pinned = || {
            let seen = self.zone.peek(pfn).snapshot;
            !matches!(seen, Snapshot::Live(n) if n < PIN)
        };
        let early = broken!("fork-looks-first").then(is_pinned);
        space.entries[place].store(entry & !WRITABLE, Relaxed);
        // SeqCst: pairs with the fence in pin. Either the count below has the pin, or the pin finds
        // the entry read-only.
        fence(SeqCst);
        if early.unwrap_or_else(is_pinned) {
            self.counts.copied_for_child.fetch_add(1, Relaxed);
            // SAFETY: the entry's raw reference, under its lock. It gets it back below.
            let page = unsafe { VolatileRef::from_raw(space.zone, pfn) };
            let copy = self.copy_of(&page, place);
            assert_eq!(page.into_raw(), pfn);
            // Release: as in map.
            space.entries[place].store(entry, atomic::Ordering::Release);
            return present(copy, WRITABLE);
        }
        self.counts.shared.fetch_add(1, Relaxed);
        // SAFETY: the entry owns a raw reference, and is locked.
        unsafe { self.zone.get_raw(pfn, 1) };
        present(pfn, 0)
    }

    /// Pins a page that is mapped writable, without a lock. Returns `None` if it is not, or if the
    /// entry changes meanwhile.
    pub(crate) fn pin(&self, space: usize, place: usize) -> Option<Pin> {
        let entry = &self.spaces[space].entries[place];
        // Acquire: pairs with Release in map.
        let before = entry.load(atomic::Ordering::Acquire);
        if before & (PRESENT | WRITABLE) != PRESENT | WRITABLE {
            return None;
        }
        // The frame may be anything by now, also a page of another place.
        let page = self.zone.try_get_volatile(pfn_of(before)).ok()?;
        let pin = Pin { _bias: page.get_many(PIN), page };
        // SeqCst: pairs with the fence in fork.
        fence(SeqCst);
        // R8: from here on the count keeps the page with this space. Relaxed: ordered by the fence.
        let is_same = entry.load(Relaxed) == before || broken!("pin-not-rechecked");
        let counter = if is_same { &self.counts.pinned } else { &self.counts.not_pinned };
        counter.fetch_add(1, Relaxed);
        is_same.then_some(pin)
    }

    /// Pins a page for a write, after a fault if it is read-only. Returns `None` if none is mapped.
    pub(crate) fn pin_for_write(&self, space: usize, place: usize) -> Option<Pin> {
        loop {
            if let Some(pin) = self.pin(space, place) {
                return Some(pin);
            }
            let (guard, entry) = self.spaces[space].settled(place);
            if entry == 0 {
                return None;
            }
            self.make_writable(space, place, &guard, entry);
        }
    }
}

/// The reverse mapping: all entries that may map a page are at its place in each space.
impl Owner<UserSpace> for World {
    fn with_slot(&self, _: Pfn, _: u64, _: &mut dyn FnMut(&Slot<UserSpace>)) -> bool {
        false
    }

    /// Takes the references of all entries that map the page. From then on these entries are
    /// *moving*, and a thread that needs them waits.
    fn lend(&self, pfn: Pfn, id: u64) -> Option<FolioRefs<UserSpace>> {
        let place = id as usize % ENTRIES;
        // Otherwise two threads could have the references of some entries each, and each could not
        // tell its own.
        if !self.moving.lock().insert(id) && !broken!("lent-twice") {
            return None;
        }
        let mut count = 0;
        for space in &self.spaces {
            let _guard = space.lock.lock();
            let entry = space.entries[place].load(Relaxed);
            if entry & PRESENT != 0 && pfn_of(entry) == pfn {
                let moving = id << NUMBER_SHIFT | MOVING | entry & WRITABLE;
                space.entries[place].store(moving, Relaxed);
                count += 1;
            }
        }
        self.counts.lent.fetch_add(count as usize, Relaxed);
        if count == 0 {
            self.moving.lock().remove(&id);
        }
        // SAFETY: the raw references of these entries, which are gone.
        (count > 0).then(|| unsafe { FolioRefs::from_raw(self.zone, pfn, count) })
    }

    fn take_back(&self, id: u64, refs: FolioRefs<UserSpace>) {
        let place = id as usize % ENTRIES;
        let (pfn, count) = refs.into_raw();
        let mut left = count;
        for space in &self.spaces {
            let guard = space.lock.lock();
            let entry = &space.entries[place];
            let seen = entry.load(Relaxed);
            if seen & !WRITABLE == id << NUMBER_SHIFT | MOVING {
                // Release: as in map.
                entry.store(present(pfn, seen & WRITABLE), atomic::Ordering::Release);
                left -= 1;
                drop(guard);
                UserSpace::<DefaultScheme>::wake_all(key(entry));
            }
        }
        assert_eq!(left, 0, "entries of {count} that a migration of {pfn:?} took are gone");
        self.moving.lock().remove(&id);
    }
}
