//! References and exclusive handles as frame numbers, many references at once, and folios with
//! bytes that others may change.

mod common;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Barrier;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;

use common::{OURS, arena, assert_all_free, order};
use folio_frames::{
    Arena, FRAME_SIZE, FolioRef, FolioRefs, FrozenFolio, Kind, MigrateError, Order, Owner, Pfn,
    Refusal, Slot, UserSpace, VolatileRef, Zone, migrate,
};
use folio_ref::{CHECKS, DefaultScheme, MAX_AT_ONCE, SATURATED, Snapshot};

type Space = UserSpace<DefaultScheme>;

fn message<T>(act: impl FnOnce() -> T) -> String {
    let Err(panic) = catch_unwind(AssertUnwindSafe(act)) else { panic!("nothing was reported") };
    let text = panic.downcast_ref::<&str>().map(|&text| text.to_owned());
    text.unwrap_or_else(|| *panic.downcast::<String>().expect("a message"))
}

/// Allocates a frozen folio of our kind.
fn frozen(zone: &'static Zone<Space>, order: Order, owner_data: u64) -> FrozenFolio<Space> {
    let mut folio = zone.alloc_frozen(order).expect("a free block");
    folio.set_owner(OURS, owner_data);
    folio
}

#[test]
fn a_raw_reference_keeps_the_folio_and_its_frame() {
    let arena = arena::<DefaultScheme>(1);
    let zone = arena.zone();
    let mut folio = frozen(zone, order(3), 7);
    folio.as_mut_slice().fill(9);
    let folio = folio.init();
    let fifth = folio.frame_after(5).expect("8 frames");
    let expected = Pfn::new(folio.pfn().as_u64() + 5);
    let raw = fifth.into_raw();
    assert_eq!(raw, expected, "the frame that it was looked up by");
    drop(folio);
    assert_eq!(zone.stats().online_frames - zone.stats().free_frames, 8);
    // SAFETY: the raw reference from above, taken once.
    let back = unsafe { FolioRef::from_raw(zone, raw) };
    assert_eq!((back.frame_pfn(), back.order(), back.kind()), (expected, order(3), OURS));
    assert_eq!(back.pfn().as_u64() + 5, expected.as_u64());
    assert_eq!(back.as_ptr(), back.as_slice().as_ptr());
    assert_eq!(back.as_slice(), vec![9; 8 * FRAME_SIZE]);
    drop(back);
    assert_all_free(zone);
}

#[test]
fn many_raw_references_are_taken_in_parts() {
    let arena = arena::<DefaultScheme>(1);
    let zone = arena.zone();
    let many = 5 * MAX_AT_ONCE + 17;
    let (pfn, count) = frozen(zone, Order::ZERO, 1).init_many(many).into_raw();
    assert_eq!((count, zone.peek(pfn).snapshot), (many, Snapshot::Live(many)));
    // SAFETY: there are raw references, which stay during the call.
    unsafe { zone.get_raw(pfn, 3 * MAX_AT_ONCE) };
    assert_eq!(zone.peek(pfn).snapshot, Snapshot::Live(8 * MAX_AT_ONCE + 17));
    // SAFETY: raw references from above, each taken once, here and below.
    let one = unsafe { FolioRef::from_raw(zone, pfn) };
    // SAFETY: as above.
    let mut some = unsafe { FolioRefs::from_raw(zone, pfn, 2 * MAX_AT_ONCE) };
    assert_eq!(some.count(), 2 * MAX_AT_ONCE);
    some.join(one).expect("the same folio, and room");
    // SAFETY: as above.
    let rest = unsafe { FolioRefs::from_raw(zone, pfn, 6 * MAX_AT_ONCE + 16) };
    assert!(rest.freeze().map_err(drop).is_err(), "others exist");
    assert_eq!(zone.peek(pfn).snapshot, Snapshot::Live(2 * MAX_AT_ONCE + 1));
    some.freeze().expect("all of them").free();
    assert_all_free(zone);
}

#[test]
fn more_references_than_one_operation_takes_are_counted() {
    let arena = arena::<DefaultScheme>(1);
    let zone = arena.zone();
    let folio = frozen(zone, order(2), 1).init();
    let many = folio.get_many(2 * MAX_AT_ONCE + 5);
    let tail = Pfn::new(folio.pfn().as_u64() + 3);
    let walked = zone.try_get_many(tail, MAX_AT_ONCE + 1).expect("any frame of the folio");
    let clone = many.clone();
    let all = 1 + 2 * (2 * MAX_AT_ONCE + 5) + MAX_AT_ONCE + 1;
    assert_eq!(zone.peek(folio.pfn()).snapshot, Snapshot::Live(all));
    assert_eq!(clone.into_each().count() as u32, 2 * MAX_AT_ONCE + 5);
    drop(walked);
    drop(many);
    assert_eq!(zone.peek(folio.pfn()).snapshot, Snapshot::Live(1));
    drop(folio);
    assert_all_free(zone);
    assert_eq!(zone.try_get_many(tail, 2 * MAX_AT_ONCE).unwrap_err(), Refusal::Free);
    let end = zone.pfns().end;
    assert_eq!(zone.try_get_many(end, 1).unwrap_err(), Refusal::Offline);
    for n in [0, SATURATED] {
        let text = message(|| zone.try_get_many(tail, n));
        assert!(text.contains(&format!("{n} references: allowed are 1 to")), "{text}");
    }
    let folio = frozen(zone, Order::ZERO, 1);
    let pfn = folio.pfn();
    assert_eq!(zone.try_get_many(pfn, 2000).unwrap_err(), Refusal::Frozen);
    folio.free();
    assert_all_free(zone);
}

#[test]
fn a_raw_exclusive_handle_stays_frozen() {
    let arena = arena::<DefaultScheme>(1);
    let zone = arena.zone();
    let folio = frozen(zone, order(1), 3);
    let address = folio.as_ptr();
    let raw = folio.into_raw();
    assert_eq!(zone.try_get_head(raw).unwrap_err(), Refusal::Frozen);
    // SAFETY: the handle exists, as a raw one, and this is its only user.
    unsafe { address.write(77) };
    // SAFETY: the raw handle from above, taken once.
    let folio = unsafe { FrozenFolio::<Space>::from_raw(zone, raw) };
    assert_eq!((folio.order(), folio.owner_data(), folio.as_slice()[0]), (order(1), 3, 77));
    folio.free();
    assert_all_free(zone);
}

/// Each report is a panic in builds with checks. The world is leaked: it is broken afterwards.
#[test]
fn a_from_raw_without_its_into_raw_is_reported() {
    if !CHECKS {
        return;
    }
    let zone = Box::leak(Box::new(arena::<DefaultScheme>(1))).zone();
    let folio = frozen(zone, order(1), 0).init();
    let pfn = folio.pfn();
    let wrong = "so many do not exist";
    // SAFETY: none, here and below: each is reported instead.
    let text = message(|| unsafe { FolioRef::from_raw(zone, pfn) });
    assert!(text.contains(wrong), "{text}");
    // SAFETY: as above.
    let text = message(|| unsafe { zone.get_raw(pfn, 1) });
    assert!(text.contains(wrong), "{text}");
    let raw = folio.clone().into_raw();
    // SAFETY: as above.
    let text = message(|| unsafe { FolioRefs::from_raw(zone, raw, 2) });
    assert!(text.contains(wrong), "{text}");
    // SAFETY: as above.
    let text = message(|| unsafe { VolatileRef::from_raw(zone, raw) });
    assert!(text.contains("the bytes do not change"), "{text}");
    // A reference of the wrong sort stays raw.
    // SAFETY: the raw reference from above.
    drop(unsafe { FolioRef::from_raw(zone, raw) });
    let raw = folio.clone().into_raw();
    // SAFETY: as above.
    let text = message(|| unsafe { FrozenFolio::from_raw(zone, raw) });
    assert!(text.contains("is not frozen"), "{text}");

    // Taken twice, after the folio was freed, and of frames that were never in a folio.
    let raw = frozen(zone, Order::ZERO, 0).init().into_raw();
    // SAFETY: the raw reference from above.
    drop(unsafe { FolioRef::from_raw(zone, raw) });
    // SAFETY: none: it is reported.
    let text = message(|| unsafe { FolioRef::from_raw(zone, raw) });
    assert!(text.contains(wrong), "{text}");
    let past = zone.pfns().end;
    // SAFETY: as above.
    let text = message(|| unsafe { FolioRef::from_raw(zone, past) });
    assert!(text.contains("in no folio of this zone"), "{text}");
    let raw = frozen(zone, Order::ZERO, 0).into_raw();
    // SAFETY: as above.
    let text = message(|| unsafe { FolioRef::from_raw(zone, raw) });
    assert!(text.contains("which is frozen"), "{text}");
    let twice = frozen(zone, Order::ZERO, 0);
    let pfn = twice.pfn();
    // SAFETY: as above.
    let text = message(|| unsafe { FrozenFolio::from_raw(zone, pfn) });
    assert!(text.contains("which does not exist"), "{text}");
    twice.free();
}

#[test]
fn a_walk_tells_volatile_folios_from_others() {
    let arena = arena::<DefaultScheme>(1);
    let zone = arena.zone();
    let mut pair = frozen(zone, order(1), 4);
    pair.zero();
    let page = pair.init_volatile();
    let tail = Pfn::new(page.pfn().as_u64() + 1);
    assert_eq!(zone.try_get(page.pfn()).unwrap_err(), Refusal::Volatile);
    assert_eq!(zone.try_get_head(tail).unwrap_err(), Refusal::Volatile);
    let found = zone.try_get_volatile(tail).expect("a volatile folio");
    assert_eq!((found.frame_pfn(), found.pfn(), found.owner_data()), (tail, page.pfn(), 0));
    assert_eq!((page.kind(), page.owner_data(), page.order()), (OURS, 4, order(1)));
    let many = zone.try_get_many(tail, 3).expect("of any sort");
    assert!(many.is_volatile());
    assert!(message(|| many.clone().into_each().count()).contains("use into_each_volatile"));
    assert_eq!(many.into_each_volatile().count(), 3);
    drop(found);
    drop(page.clone().freeze().expect_err("another exists"));
    assert_eq!(zone.peek(page.pfn()).snapshot, Snapshot::Live(1));
    let pfn = page.pfn();
    // Frozen and opened again, it is of the other sort.
    let folio = page.freeze().expect("the only one").init();
    assert_eq!(zone.try_get_volatile(pfn).unwrap_err(), Refusal::NotVolatile);
    assert!(
        message(|| FolioRefs::from(folio.clone()).into_each_volatile().count())
            .contains("use into_each")
    );
    drop(zone.try_get(pfn).expect("bytes that do not change"));
    drop(folio);
    // The last put ends the sort as well.
    drop(frozen(zone, order(1), 0).init_volatile());
    assert_all_free(zone);
    let again = zone.alloc(order(1), OURS, 0).expect("free");
    assert!(zone.try_get(again.pfn()).is_ok());
    drop(again);
    assert_all_free(zone);
}

#[test]
fn volatile_bytes_are_copied_and_accessed_as_atomics() {
    let arena = arena::<DefaultScheme>(1);
    let mut pair = frozen(arena.zone(), order(1), 0);
    pair.zero();
    let page = pair.init_volatile();
    page.write(FRAME_SIZE - 2, &[1, 2, 3, 4]);
    let mut bytes = [9; 6];
    page.read(FRAME_SIZE - 3, &mut bytes);
    assert_eq!(bytes, [0, 1, 2, 3, 4, 0]);
    page.atomic_u64(2 * FRAME_SIZE - 8).store(u64::from_ne_bytes([5; 8]), Relaxed);
    assert_eq!(
        page.atomic_u32(2 * FRAME_SIZE - 4).fetch_add(1, Relaxed),
        u32::from_ne_bytes([5; 4])
    );
    page.read(2 * FRAME_SIZE, &mut []);
    for (text, expected) in [
        (message(|| page.read(2 * FRAME_SIZE - 1, &mut [0; 2])), "2 bytes from 8191 on"),
        (message(|| page.write(usize::MAX, &[0])), "do not lie in a folio of 8192"),
        (message(|| page.atomic_u32(6).load(Relaxed)), "byte 6 is not a multiple of 4"),
        (message(|| page.atomic_u64(2 * FRAME_SIZE).load(Relaxed)), "8 bytes from 8192 on"),
    ] {
        assert!(text.contains(expected), "{text}");
    }
    drop(page);
    assert_all_free(arena.zone());
}

#[test]
fn threads_write_and_copy_one_volatile_page() {
    let arena = arena::<DefaultScheme>(1);
    let mut page = frozen(arena.zone(), Order::ZERO, 0);
    page.zero();
    let page = page.init_volatile();
    let start = Barrier::new(4);
    thread::scope(|threads| {
        for n in 1..=2 {
            let (page, start) = (page.clone(), &start);
            threads.spawn(move || {
                start.wait();
                (0..200).for_each(|_| page.write(0, &[n; FRAME_SIZE]));
            });
        }
        for _ in 0..2 {
            let (page, start) = (page.clone(), &start);
            threads.spawn(move || {
                let mut bytes = [9; FRAME_SIZE];
                start.wait();
                for _ in 0..200 {
                    page.read(0, &mut bytes);
                    assert!(bytes.iter().all(|&byte| byte <= 2), "a byte that nothing wrote");
                }
            });
        }
    });
    let frozen = page.freeze().expect("the threads have ended");
    assert!(frozen.as_slice().iter().all(|&byte| byte == 1 || byte == 2));
    frozen.free();
    assert_all_free(arena.zone());
}

/// An owner without slots: one folio, with its raw references.
struct Mapped(std::sync::Mutex<(Pfn, u32)>, &'static Zone<Space>);

impl Owner<Space> for Mapped {
    fn with_slot(&self, _: Pfn, _: u64, _: &mut dyn FnMut(&Slot<Space>)) -> bool {
        false
    }

    fn lend(&self, _: Pfn, _: u64) -> Option<FolioRefs<Space>> {
        let (pfn, count) = *self.0.lock().unwrap();
        // SAFETY: the raw references of this value, taken once until `take_back`.
        Some(unsafe { FolioRefs::from_raw(self.1, pfn, count) })
    }

    fn take_back(&self, _: u64, refs: FolioRefs<Space>) {
        *self.0.lock().unwrap() = refs.into_raw();
    }
}

#[test]
fn a_volatile_folio_with_many_raw_references_migrates() {
    let arena: Arena<Space> = arena(1);
    let zone = arena.zone();
    let many = 3 * MAX_AT_ONCE;
    let mut page = frozen(zone, order(1), 5);
    page.as_mut_slice().fill(8);
    let owner = Mapped(std::sync::Mutex::new(page.init_many_volatile(many).into_raw()), zone);
    let from = owner.0.lock().unwrap().0;
    let pin = zone.try_get_volatile(from).expect("a volatile folio");
    assert_eq!(migrate(zone, from, &owner), Err(MigrateError::Busy));
    pin.write(FRAME_SIZE, &[6]);
    drop(pin);
    let to = migrate(zone, from, &owner).expect("no other reference");
    assert_ne!(from, to);
    assert_eq!(*owner.0.lock().unwrap(), (to, many));
    assert_eq!(zone.try_get(from).unwrap_err(), Refusal::Free);
    let found = zone.try_get_volatile(to).expect("still volatile");
    let mut bytes = vec![0; 2 * FRAME_SIZE];
    found.read(0, &mut bytes);
    assert_eq!((found.kind(), found.owner_data(), bytes[FRAME_SIZE]), (Kind::owner(0), 5, 6));
    bytes[FRAME_SIZE] = 8;
    assert!(bytes.iter().all(|&byte| byte == 8));
    drop(found);
    drop(owner.lend(to, 5));
    assert_all_free(zone);
}
