//! Optimistic reads under forced schedules: the folio changes between the copy and the second look
//! at the slot.

mod common;

use std::cell::RefCell;

use common::OURS;
use folio_frames::{Arena, FRAME_SIZE, FrozenFolio, Order, Platform, Slot, UserSpace, Zone};
use folio_ref::schemes::{
    FrozenBit, Generational, GuessOne, LiveBitHigh, LiveBitLow, Tagged, ZeroFrozen,
};
use folio_ref::{DefaultScheme, Scheme};

thread_local! {
    /// Runs once after the copy.
    static MEANWHILE: RefCell<Option<Box<dyn FnOnce()>>> = const { RefCell::new(None) };
}

struct Interrupted<S>(std::marker::PhantomData<S>);

impl<S: Scheme> Platform for Interrupted<S> {
    type Scheme = S;
    type Lock = <UserSpace as Platform>::Lock;

    fn cpu() -> usize {
        0
    }
    fn wait(_: usize, _: &dyn Fn() -> bool) {}
    fn wake_all(_: usize) {}
    fn between_copy_and_check() {
        if let Some(act) = MEANWHILE.take() {
            act();
        }
    }
}

/// Allocates a frozen folio filled with `byte`.
fn full<P: Platform>(zone: &'static Zone<P>, byte: u8) -> FrozenFolio<P> {
    let mut folio = zone.alloc_frozen(Order::ZERO).unwrap();
    folio.set_owner(OURS, 0);
    folio.as_mut_slice().fill(byte);
    folio
}

/// An action on a slot that has a folio filled with 1.
type Act<P> = fn(&Slot<P>, &'static Zone<P>);

/// Runs `act` during a read. Returns the bytes if the read is valid.
fn read_while<S: Scheme>(act: Act<Interrupted<S>>) -> Option<[u8; 64]> {
    let arena = Arena::<Interrupted<S>>::new(2 << 20, &[]).unwrap();
    let zone = arena.zone();
    let slot: &'static Slot<Interrupted<S>> = Box::leak(Box::new(Slot::new()));
    slot.install(full(zone, 1)).unwrap().publish();
    MEANWHILE.set(Some(Box::new(move || act(slot, zone))));
    let mut buf = [9; 64];
    let valid = slot.read(arena.direct_map(), 100, &mut buf, || true).is_some();
    assert!(MEANWHILE.take().is_none(), "the read was not interrupted");
    if let Some(locked) = slot.try_lock(zone) {
        drop(locked.remove());
    }
    assert!(valid || buf == [0; 64], "a failed read leaves zeroes in the buffer");
    common::assert_all_free(zone);
    valid.then_some(buf)
}

/// Asserts that every change of the bytes makes the read fail: new bytes in the frame, the frame
/// freed and reused, another frame, no frame.
fn changes_are_noticed<S: Scheme>() {
    let changes: [(&str, Act<Interrupted<S>>); 5] = [
        ("written in place", |slot, zone| {
            let mut locked = slot.try_lock(zone).unwrap().freeze().unwrap();
            locked.folio_mut().as_mut_slice().fill(2);
            locked.publish();
        }),
        ("freed, and read into the same frame", |slot, zone| {
            let before = slot.pfn(zone);
            drop(slot.try_lock(zone).unwrap().remove());
            slot.install(full(zone, 3)).unwrap().publish();
            // The list of this CPU allocates the frame that was freed last.
            assert_eq!(slot.pfn(zone), before);
        }),
        ("moved", |slot, zone| {
            slot.try_lock(zone).unwrap().freeze().unwrap().replace(full(zone, 1)).free();
        }),
        ("replaced without a freeze", |slot, zone| {
            drop(slot.try_lock(zone).unwrap().replace(full(zone, 4)));
        }),
        ("removed", |slot, zone| drop(slot.try_lock(zone).unwrap().remove())),
    ];
    for (what, act) in changes {
        assert_eq!(read_while::<S>(act), None, "{what}, {}", S::NAME);
    }
    assert_eq!(read_while::<S>(|_, _| ()), Some([1; 64]));
    assert_eq!(
        read_while::<S>(|slot, zone| drop(slot.try_lock(zone))),
        Some([1; 64]),
        "nothing changed"
    );
}

/// The word takes no part in validation, so all schemes agree.
#[test]
fn a_change_under_the_copy_fails_the_read_in_every_scheme() {
    changes_are_noticed::<ZeroFrozen>();
    changes_are_noticed::<GuessOne>();
    changes_are_noticed::<FrozenBit>();
    changes_are_noticed::<LiveBitHigh>();
    changes_are_noticed::<LiveBitLow>();
    changes_are_noticed::<Generational>();
    changes_are_noticed::<Tagged>();
}

#[test]
fn a_locked_or_empty_slot_is_not_read() {
    let arena = common::arena::<DefaultScheme>(1);
    let (zone, map) = (arena.zone(), arena.direct_map());
    let slot = Slot::<UserSpace>::new();
    let mut buf = [9; 8];
    assert_eq!(slot.read(map, 0, &mut buf, || true), None, "empty");
    let mut locked = slot.install(full(zone, 5)).unwrap();
    locked.folio_mut().set_readahead(true);
    assert_eq!(slot.read(map, 0, &mut buf, || true), None, "being filled");
    locked.publish();
    let locked = slot.try_lock(zone).unwrap();
    assert_eq!(slot.read(map, 0, &mut buf, || true), None, "it may be frozen at any moment");
    assert_eq!(buf, [9; 8]);
    drop(locked);
    assert_eq!(
        slot.read(map, FRAME_SIZE - 8, &mut buf, || true),
        Some(true),
        "the first use of a readahead marker"
    );
    assert_eq!(buf, [5; 8]);
    assert_eq!(slot.read(map, FRAME_SIZE, &mut [], || true), Some(false));
    assert!(zone.take_referenced(slot.pfn(zone).unwrap()), "a read sets the referenced bit");
    drop(slot.try_lock(zone).unwrap().remove());
    common::assert_all_free(zone);
}

#[test]
#[should_panic(expected = "8 bytes from 4089 on do not lie in a frame of 4096")]
fn a_range_past_the_end_of_the_frame_is_refused() {
    let arena = common::arena::<DefaultScheme>(1);
    let _ = Slot::<UserSpace>::new().read(arena.direct_map(), FRAME_SIZE - 7, &mut [0; 8], || true);
}

/// The page's block goes offline during the copy: the page moves, and its old bytes are returned to
/// the system.
#[test]
fn a_page_that_goes_offline_under_the_copy_fails_the_read() {
    let arena: &'static Arena<Interrupted<DefaultScheme>> =
        Box::leak(Box::new(Arena::new(4 << 20, &[]).unwrap()));
    let zone = arena.zone();
    let index: &'static common::Index<_> = Box::leak(Box::new(common::Index::new(8)));
    let pfn = index.publish(zone, 7, Order::ZERO);
    let block = (pfn.as_u64() - zone.pfns().start.as_u64()) as usize / 512;
    MEANWHILE.set(Some(Box::new(move || drop(arena.offline(block, index).unwrap()))));
    let mut buf = [9; 64];
    assert_eq!(index.0[7].read(arena.direct_map(), 0, &mut buf, || true), None, "{buf:?}");
    assert!(
        index.0[7].read(arena.direct_map(), 0, &mut buf, || true).is_some(),
        "the page has moved, and a reader finds it there"
    );
    assert_eq!(buf, [7; 64]);
    index.remove(zone, 7);
    assert_eq!(zone.stats().online_frames, 512);
    common::assert_all_free(zone);
}
