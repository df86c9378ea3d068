//! The memory of a guest: a zone with frames of another allocator, a slot for each guest page,
//! and conversions that need "no other reference" beside accesses, faults and a balloon.

use std::alloc::{Layout, alloc_zeroed};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard};
use std::thread;

use folio_frames::{
    AllocError, Lookup, MemmapMemory, Order, Pfn, Refusal, Slot, UserSpace, Zone, put_all,
};

const FIRST: Pfn = Pfn::new(1 << 20);

/// The frames that the hypervisor's own allocator has. One test at a time uses it.
static FREE: Mutex<Vec<Pfn>> = Mutex::new(Vec::new());
static ONE_TEST: Mutex<()> = Mutex::new(());

fn free_frames() -> MutexGuard<'static, Vec<Pfn>> {
    FREE.lock().unwrap()
}

/// Makes a zone of 4 MiB. The hypervisor's allocator has all its frames.
fn zone() -> &'static Zone<UserSpace> {
    let layout = Zone::<UserSpace>::layout(1024);
    // SAFETY: the size is not 0.
    let metadata = NonNull::new(unsafe { alloc_zeroed(layout) }).expect("memory");
    let bytes = Layout::from_size_align(4 << 20, 4 << 20).unwrap();
    // SAFETY: as above.
    let bytes = unsafe { alloc_zeroed(bytes) };
    assert!(!bytes.is_null());
    let (place, holds) = (Box::leak(Box::new_uninit()), MemmapMemory::Zeroed);
    // SAFETY: both allocations belong to this zone alone, and are never freed.
    let zone: &mut Zone<UserSpace> =
        unsafe { Zone::new_in(place, metadata, holds, FIRST, 1024, bytes, &[]) };
    *free_frames() = zone.pfns().collect();
    zone.set_outer_allocator(|_, first, order| {
        let end = Pfn::new(first.as_u64() + u64::from(order.frames()));
        free_frames().extend(folio_frames::PfnRange { start: first, end });
    });
    zone
}

/// The bytes of a private page.
const PRIVATE: u8 = 0xee;

/// A guest page: its slot, and the accesses that are under way.
struct Page {
    number: u8,
    slot: Slot<UserSpace>,
    accesses: AtomicU64,
    is_private: AtomicBool,
}

struct Guest {
    zone: &'static Zone<UserSpace>,
    pages: Vec<Page>,
    done: AtomicUsize,
    counts: Counts,
}

#[derive(Default, Debug)]
struct Counts {
    accesses: AtomicUsize,
    refused: AtomicUsize,
    faults: AtomicUsize,
    conversions: AtomicUsize,
    busy: AtomicUsize,
    ballooned: AtomicUsize,
}

fn count(counter: &AtomicUsize) {
    counter.fetch_add(1, Relaxed);
}

impl Guest {
    /// Accesses a page as a virtual processor or a device does, and fills it if it is missing.
    fn access(&self, page: &Page) {
        match page.slot.get(self.zone) {
            Lookup::Hit(folio) => {
                page.accesses.fetch_add(1, Relaxed);
                assert!(!page.is_private.load(Relaxed), "an access to a private page");
                let bytes = folio.frame();
                assert!(bytes.iter().all(|&byte| byte == page.number), "bytes of a conversion");
                page.accesses.fetch_sub(1, Relaxed);
                count(&self.counts.accesses);
            }
            Lookup::Empty => self.fault(page),
            Lookup::InProgress => page.slot.wait(),
            Lookup::Moved => {}
            Lookup::Saturated => panic!("two references saturate no folio"),
        }
    }

    /// Fills a missing page with a frame of the hypervisor.
    fn fault(&self, page: &Page) {
        let Some(pfn) = free_frames().pop() else { return };
        // SAFETY: the frame was free, and its bytes are mapped.
        let mut folio = unsafe { self.zone.adopt(pfn, Order::ZERO) }.expect("a free frame");
        folio.as_mut_slice().fill(page.number);
        match page.slot.install(folio) {
            Ok(filled) => {
                filled.publish();
                count(&self.counts.faults);
            }
            // It is absent on purpose, or another access filled it.
            Err(folio) => {
                folio.free();
                count(&self.counts.refused);
            }
        }
    }

    fn none_inside(page: &Page) {
        assert_eq!(page.accesses.load(Relaxed), 0, "an access inside a conversion");
    }

    /// Converts a page to a private one and back, in its frame.
    fn convert(&self, page: &Page) {
        let Some(locked) = page.slot.try_lock(self.zone) else { return };
        let Ok(mut folio) = locked.make_absent() else { return count(&self.counts.busy) };
        page.is_private.store(true, Relaxed);
        Self::none_inside(page);
        folio.as_mut_slice().fill(PRIVATE);
        thread::yield_now();
        Self::none_inside(page);
        assert!(page.slot.is_absent(), "an absent slot was filled");
        assert!(folio.as_slice().iter().all(|&byte| byte == PRIVATE));
        folio.as_mut_slice().fill(page.number);
        page.is_private.store(false, Relaxed);
        page.slot.restore(folio).expect("the slot is absent").publish();
        count(&self.counts.conversions);
    }

    /// Takes a page from the guest, and lets it come back by a fault.
    fn balloon(&self, page: &Page) {
        let Some(locked) = page.slot.try_lock(self.zone) else { return };
        let Ok(folio) = locked.make_absent() else { return count(&self.counts.busy) };
        Self::none_inside(page);
        folio.free();
        thread::yield_now();
        assert!(page.slot.is_absent(), "an absent slot was filled");
        assert!(page.slot.end_absence());
        count(&self.counts.ballooned);
    }
}

#[test]
fn no_access_lies_inside_a_conversion() {
    let _one = ONE_TEST.lock().unwrap();
    let page = |number| Page {
        number,
        slot: Slot::new(),
        accesses: AtomicU64::new(0),
        is_private: AtomicBool::new(false),
    };
    let guest = Guest {
        zone: zone(),
        pages: (1..=4).map(page).collect(),
        done: AtomicUsize::new(0),
        counts: Counts::default(),
    };
    let (rounds, workers) = if cfg!(miri) { (20, 2) } else { (500, 2) };
    thread::scope(|scope| {
        for first in 0..2 {
            let guest = &guest;
            scope.spawn(move || {
                let mut at = first;
                while guest.done.load(Relaxed) < workers {
                    guest.access(&guest.pages[at % 4]);
                    at += 1;
                }
            });
        }
        for worker in 0..workers {
            let guest = &guest;
            scope.spawn(move || {
                let act = if worker == 0 { Guest::convert } else { Guest::balloon };
                for round in 0..rounds {
                    act(guest, &guest.pages[(round + worker) % 4]);
                    thread::yield_now();
                }
                guest.done.fetch_add(1, Relaxed);
            });
        }
    });
    println!("{:?}", guest.counts);
    assert!(guest.counts.accesses.into_inner() > 0 && guest.counts.conversions.into_inner() > 0);
    // What the guest has left goes back as one batch.
    let left = guest.pages.iter().filter_map(|page| page.slot.try_lock(guest.zone));
    put_all(left.map(folio_frames::LockedSlot::remove));
    let mut free = free_frames().clone();
    free.sort();
    assert_eq!(free, guest.zone.pfns().collect::<Vec<_>>(), "each frame came back once");
}

#[test]
fn a_frame_that_was_not_adopted_is_refused() {
    let _one = ONE_TEST.lock().unwrap();
    let zone = zone();
    let pfn = |n| Pfn::new(FIRST.as_u64() + n);
    // SAFETY: all frames of the zone are free, and those of each call that succeeds are its own.
    let adopt = |first, order| unsafe { zone.adopt(first, Order::new(order).unwrap()) };
    assert_eq!(zone.try_get(pfn(4)).unwrap_err(), Refusal::Offline);
    assert_eq!(zone.alloc_frozen(Order::ZERO).unwrap_err(), AllocError::Offline);
    let folio = adopt(pfn(4), 2).expect("free frames");
    assert!(adopt(pfn(4), 0).is_none(), "the head of a folio");
    assert!(adopt(pfn(6), 2).is_none(), "not aligned");
    assert!(adopt(pfn(1024), 0).is_none(), "past the zone");
    assert!(adopt(pfn(0), 11).is_none(), "too large");
    let folio = folio.init();
    assert_eq!(zone.try_get(pfn(5)).unwrap_err(), Refusal::Tail);
    assert_eq!(zone.try_get_head(pfn(5)).unwrap().pfn(), pfn(4));
    free_frames().clear();
    drop(folio);
    assert_eq!(*free_frames(), [4, 5, 6, 7].map(pfn));
    assert_eq!(zone.try_get(pfn(4)).unwrap_err(), Refusal::Offline);
    // It may be adopted again, in other pieces.
    let pieces: Vec<_> = adopt(pfn(4), 2).unwrap().split(Order::ZERO).collect();
    free_frames().clear();
    pieces.into_iter().for_each(folio_frames::FrozenFolio::free);
    assert_eq!(*free_frames(), [4, 5, 6, 7].map(pfn));
}

#[test]
#[cfg_attr(not(debug_assertions), ignore = "a check of debug builds")]
fn an_adoption_around_a_folio_is_reported() {
    let _one = ONE_TEST.lock().unwrap();
    let zone = zone();
    let adopt = |n: u64, order| {
        let first = Pfn::new(FIRST.as_u64() + n);
        // SAFETY: the second call breaks the promise, and panics before it does anything.
        unsafe { zone.adopt(first, Order::new(order).unwrap()) }
    };
    let folio = adopt(4, 2).expect("free frames");
    let adopted = AssertUnwindSafe(|| adopt(0, 3).map(|folio| folio.pfn()));
    let panic = catch_unwind(adopted).expect_err("a report");
    let text = panic.downcast_ref::<String>().expect("a message");
    assert!(text.contains("frame 4 is adopted as a part of another folio"), "{text}");
    folio.free();
}

#[test]
#[cfg_attr(miri, ignore = "Miri does not map memory as an arena does")]
fn a_zone_with_its_own_allocator_adopts_nothing() {
    let arena = folio_frames::Arena::<UserSpace>::new(2 << 20, &[]).unwrap();
    let first = arena.zone().pfns().start;
    // SAFETY: nothing is adopted.
    assert!(unsafe { arena.zone().adopt(first, Order::ZERO) }.is_none());
}
