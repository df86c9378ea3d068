//! No zone is used twice: safe code that still has the `&'static Zone` of a dropped arena.
//!
//! A lock forces the schedules: another "thread" may run where it is taken and released, as with
//! any lock. So does a stop between the two steps of a put. All else is safe code.

mod common;

use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, mpsc};
use std::thread::{self, ThreadId};

use common::hooked::{AT_STOP, HOOK, Hooks, NoSlots, assert_closed, assert_retired, hook, shared};
use common::{OURS, assert_all_free, order};
use folio_frames::{
    Arena, FrozenFolio, Kind, KindOps, Order, Platform, Refusal, Slot, UserSpace, Zone,
};
use folio_ref::Scheme;
use folio_ref::schemes::{Generational, LiveBitHigh, LiveBitLow};

/// If a later arena accepted the offline block of a dropped one, bytes behind a live `&[u8]` would
/// change.
#[test]
fn a_later_arena_refuses_the_offline_block_of_an_earlier_one() {
    type P = Hooks<0>;
    let mut arena = Some(Arena::<P>::new(2 << 20, &[]).unwrap());
    let zone = arena.as_ref().unwrap().zone();
    let (put, second) = shared();
    hook(move || {
        if zone.online_frames() != 0 {
            return false;
        }
        drop(arena.take());
        *put.borrow_mut() = Some(Arena::<P>::new(2 << 20, &[]).unwrap());
        true
    });
    let stale = zone.offline(0, &NoSlots).unwrap();
    let arena: &'static Arena<P> = Box::leak(Box::new(second.take().unwrap()));
    let next = arena.zone();
    assert!(!std::ptr::eq(zone, next));
    assert_eq!((zone.online_frames(), next.online_frames()), (0, 512));
    // The second arena takes its block offline. The stale one comes before the bytes are returned.
    let mut stale = Some(stale);
    hook(move || {
        if next.online_frames() != 0 {
            return false;
        }
        let stale = stale.take().unwrap();
        let panic = catch_unwind(AssertUnwindSafe(|| arena.online(stale))).unwrap_err();
        assert!(panic.downcast_ref::<&str>().unwrap().contains("of another zone"));
        assert!(next.alloc_frozen(Order::ZERO).is_err());
        true
    });
    let ours = arena.offline(0, &NoSlots).unwrap();
    assert!(HOOK.take().is_none(), "the stale block came");
    arena.online(ours);
    assert_all_free(next);
    assert_retired(zone);
}

/// An allocation checks the order before it takes the zone's lock. If another arena used the zone
/// by then, its huge order could be another one.
#[test]
fn a_zone_keeps_its_huge_order_forever() {
    type P = Hooks<1>;
    let mut arena = Some(Arena::<P>::with_huge_order(32 << 20, &[], order(12)).unwrap());
    let zone = arena.as_ref().unwrap().zone();
    let (put, others) = shared();
    hook(move || {
        drop(arena.take());
        let again = Arena::<P>::with_huge_order(32 << 20, &[], order(11)).unwrap();
        let next = Box::leak(Box::new(again)).zone();
        assert!(!std::ptr::eq(zone, next));
        let a = next.alloc_frozen(order(11)).unwrap();
        let mut b = next.alloc_frozen(order(11)).unwrap();
        b.as_mut_slice().fill(0xBB);
        a.free();
        *put.borrow_mut() = Some(b.init());
        true
    });
    assert!(zone.alloc_frozen(order(12)).is_err());
    let b = others.take().unwrap();
    assert!(b.as_slice().iter().all(|&byte| byte == 0xBB));
    let next = b.zone();
    assert_eq!((zone.huge_order(), next.huge_order()), (Some(order(12)), Some(order(11))));
    drop(b);
    assert_all_free(next);
    assert_retired(zone);
}

/// A large arena defers the initialisation of its blocks: none is initialised after the arena is
/// dropped.
#[test]
fn deferred_blocks_are_not_initialised_after_the_arena() {
    type P = Hooks<3>;
    let mut arena = Some(Arena::<P>::new(2 << 30, &[]).unwrap());
    let zone = arena.as_ref().unwrap().zone();
    let pinned = zone.alloc(Order::ZERO, OURS, 0).unwrap();
    hook(move || {
        drop(arena.take());
        true
    });
    while let Ok(folio) = zone.alloc_frozen(order(10)) {
        folio.free();
    }
    assert!(HOOK.take().is_none());
    assert_closed(zone);
    assert_eq!(pinned.as_slice().len(), 4096);
    drop(pinned);
    drop(Arena::<P>::new(2 << 20, &[]).unwrap());
    assert_retired(zone);
}

/// A folio is used after its arena was dropped, and freed after another arena was created.
#[test]
fn a_folio_is_usable_after_its_arena_is_dropped() {
    type P = Hooks<4>;
    let arena = Arena::<P>::new(2 << 20, &[]).unwrap();
    let zone = arena.zone();
    let mut folio = zone.alloc_frozen(Order::ZERO).unwrap();
    drop(arena);
    assert_closed(zone);
    let next = Arena::<P>::new(2 << 20, &[]).unwrap();
    folio.as_mut_slice().fill(5);
    let slot = Slot::new();
    slot.install(folio).unwrap().publish();
    let folio = slot.try_lock(zone).unwrap().remove();
    assert!(folio.as_slice().iter().all(|&byte| byte == 5));
    let again = folio.clone();
    assert_eq!(again.frame(), folio.frame());
    drop((folio, again));
    assert_closed(zone);
    drop(next);
    let third = Arena::<P>::new(2 << 20, &[]).unwrap();
    assert_retired(zone);
    assert_all_free(third.zone());
}

/// The heir of a retired zone has its metadata. The retired zone gives no reference to its frames.
#[test]
fn a_retired_zone_refuses_the_frames_of_its_heir() {
    type P = Hooks<5, LiveBitHigh>;
    let arena = Arena::<P>::new(4 << 20, &[]).unwrap();
    let zone = arena.zone();
    let slot = Slot::<P>::new();
    slot.install(zone.alloc_frozen(Order::ZERO).unwrap()).unwrap().publish();
    drop(slot.try_lock(zone).unwrap().remove());
    drop(arena);
    let arena = Arena::<P>::new(4 << 20, &[]).unwrap();
    let next = arena.zone();
    let mut folio = next.alloc_frozen(Order::ZERO).unwrap();
    folio.set_owner(OURS, 7);
    let pfn = folio.pfn();
    slot.install(folio).unwrap().publish();
    assert_eq!(zone.peek(pfn).snapshot, next.peek(pfn).snapshot, "the metadata is the same");
    assert_eq!(zone.try_get(pfn).unwrap_err(), Refusal::Offline);
    assert_eq!(zone.try_get_head(pfn).unwrap_err(), Refusal::Offline);
    assert_eq!(zone.try_get_as(pfn, &next.peek(pfn)).unwrap_err(), Refusal::Offline);
    assert!(slot.get_alone(zone).is_none() && slot.pfn(zone).is_none());
    assert!(catch_unwind(AssertUnwindSafe(|| drop(slot.get(zone)))).is_err());
    assert!(catch_unwind(AssertUnwindSafe(|| drop(slot.try_lock(zone)))).is_err());
    assert_eq!(zone.count_kind(OURS), 0);
    assert_closed(zone);
    assert_eq!(next.count_kind(OURS), 1);
    assert!(slot.get_alone(next).is_some());
    drop(slot.try_lock(next).unwrap().remove());
    assert_all_free(next);
}

/// The offline block of one arena is passed to another one, while both exist, and after one is
/// dropped.
#[test]
fn an_offline_block_belongs_to_one_arena() {
    type P = Hooks<6>;
    let (one, other) =
        (Arena::<P>::new(4 << 20, &[]).unwrap(), Arena::<P>::new(4 << 20, &[]).unwrap());
    let refused = |offline| {
        assert!(catch_unwind(AssertUnwindSafe(|| other.online(offline))).is_err());
    };
    _ = other.offline(1, &NoSlots).unwrap();
    refused(one.offline(1, &NoSlots).unwrap());
    let stale = one.offline(0, &NoSlots).unwrap();
    assert!(catch_unwind(AssertUnwindSafe(|| other.return_metadata(&stale))).is_err());
    drop(one);
    refused(stale);
    assert_eq!(other.online_blocks(), 1);
}

const FIRST: Kind = Kind::owner(1);

/// The zone, by address, and the thread of each destructor that ran.
static DESTROYED: Mutex<Vec<(usize, ThreadId)>> = Mutex::new(Vec::new());

fn address<P: Platform>(zone: &'static Zone<P>) -> usize {
    std::ptr::from_ref(zone).addr()
}

fn destroyed<P: Platform>(mut folio: FrozenFolio<P>) {
    DESTROYED.lock().unwrap().push((address(folio.zone()), thread::current().id()));
    // The bytes are mapped.
    folio.as_mut_slice().fill(0xDD);
    folio.free();
}

struct Kinds<const N: usize, S>(PhantomData<S>);

impl<const N: usize, S: Scheme> Kinds<N, S> {
    const ALL: &'static [KindOps<Hooks<N, S>>] =
        &[KindOps { kind: FIRST, name: "first", destroy: destroyed }];
}

/// Checks R4 and R7. A put sleeps between its two steps. Meanwhile the frame is revived and freed,
/// its arena is dropped, another one gets the metadata, and the frame is Dying there.
///
/// Asserts that the frame is destroyed in the zone to which it belongs, not in that of the put.
/// Returns `true` if the late put wins it.
fn late_put_meets_the_heirs_frame<const N: usize, S: Scheme>() -> bool {
    let new = || Arena::<Hooks<N, S>>::new(2 << 20, Kinds::<N, S>::ALL).unwrap();
    let arena = new();
    let zone = arena.zone();
    let folio = zone.alloc(Order::ZERO, FIRST, 1).unwrap();
    let pfn = folio.pfn();
    let (wake, wakes) = mpsc::channel::<()>();
    let (put, second) = shared();
    AT_STOP.set(Some(Box::new(move || {
        drop(zone.try_get(pfn).unwrap());
        drop(arena);
        let arena = new();
        let next = arena.zone();
        let again = std::iter::from_fn(|| next.alloc(Order::ZERO, Kind::PLAIN, 2).ok());
        let mut others: Vec<_> = again.collect();
        let at = others.iter().position(|folio| folio.pfn() == pfn).unwrap();
        let mut again = others.swap_remove(at).freeze().unwrap();
        again.set_owner(FIRST, 2);
        let again = again.init();
        let (at_zero, is_at_zero) = mpsc::channel();
        let owner = thread::spawn(move || {
            AT_STOP.set(Some(Box::new(move || {
                at_zero.send(()).unwrap();
                wakes.recv().unwrap();
            })));
            drop(again);
        });
        is_at_zero.recv().unwrap();
        *put.borrow_mut() = Some((arena, owner));
    })));
    drop(folio);
    wake.send(()).unwrap();
    let (arena, owner) = second.take().unwrap();
    let id = owner.thread().id();
    owner.join().unwrap();
    let seen = std::mem::take(&mut *DESTROYED.lock().unwrap());
    let zones: Vec<_> = seen.iter().map(|seen| seen.0).collect();
    assert_eq!(zones, [zone, arena.zone()].map(address), "{}", S::NAME);
    assert_all_free(arena.zone());
    drop(arena);
    assert_retired(zone);
    seen[1].1 != id
}

#[test]
fn a_late_put_destroys_the_frame_in_the_heir() {
    assert!(late_put_meets_the_heirs_frame::<7, LiveBitLow>());
    assert!(late_put_meets_the_heirs_frame::<7, LiveBitHigh>());
    assert!(!late_put_meets_the_heirs_frame::<7, Generational>());
}

/// Returns a memory figure of this process, in KiB.
fn status(name: &str) -> usize {
    let text = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.trim_matches(|c: char| !c.is_ascii_digit()).parse().unwrap()
}

/// Metadata and frame numbers are used again: each arena leaves only its `Zone` behind.
#[test]
fn ten_thousand_arenas_leave_only_their_zones_behind() {
    type P = UserSpace<LiveBitHigh>;
    let one = || {
        let arena = Arena::<P>::new(4 << 20, &[]).unwrap();
        arena.zone().alloc(Order::ZERO, OURS, 0).unwrap();
    };
    one();
    let (resident, addresses) = (status("VmRSS:"), status("VmSize:"));
    (0..10_000).for_each(|_| one());
    let zones = 10_000 * size_of::<Zone<P>>() / 1024;
    // The other tests of this file run at the same time. Their arenas are small.
    let max = zones + zones / 8 + (64 << 10);
    assert!(size_of::<Zone<P>>() <= 6 << 10, "{}", size_of::<Zone<P>>());
    let grown = (status("VmRSS:") - resident, status("VmSize:").saturating_sub(addresses));
    assert!(grown.0 <= max && grown.1 <= max + (1 << 20), "{grown:?} KiB, {zones} of zones");
}
