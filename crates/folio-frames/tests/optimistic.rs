//! Reads without a reference, under forced schedules: between the copy and the second look somebody
//! does the worst.

mod common;

use std::cell::RefCell;

use common::OURS;
use folio_frames::{Arena, FRAME_SIZE, FrozenFolio, Order, Platform, Slot, UserSpace, Zone};
use folio_ref::schemes::{FrozenBit, Generational, GuessOne, LiveBitHigh, LiveBitLow, ZeroFrozen};
use folio_ref::{DefaultScheme, Scheme};

thread_local! {
    /// What happens after the copy.
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

/// A frozen folio full of one byte.
fn full<P: Platform>(zone: &'static Zone<P>, byte: u8) -> FrozenFolio<P> {
    let mut folio = zone.alloc_frozen(Order::ZERO).unwrap();
    folio.set_owner(OURS, 0);
    folio.as_mut_slice().fill(byte);
    folio
}

/// What is done to a slot that holds a folio full of 1s.
type Act<P> = fn(&Slot<P>, &'static Zone<P>);

/// Reads while `act` happens. What was read, if it is believed.
fn read_while<S: Scheme>(act: Act<Interrupted<S>>) -> Option<[u8; 64]> {
    let arena = Arena::<Interrupted<S>>::new(2 << 20, &[]).unwrap();
    let zone = arena.zone();
    let slot: &'static Slot<Interrupted<S>> = Box::leak(Box::new(Slot::new()));
    slot.install(full(zone, 1)).unwrap().publish();
    MEANWHILE.set(Some(Box::new(move || act(slot, zone))));
    let mut buf = [9; 64];
    let believed = slot.read(arena.direct_map(), 100, &mut buf, || true).is_some();
    assert!(MEANWHILE.take().is_none(), "it was not interrupted");
    if let Some(locked) = slot.try_lock(zone) {
        drop(locked.remove());
    }
    assert!(believed || buf == [0; 64], "what is not believed is not left in the buffer");
    common::assert_all_free(zone);
    believed.then_some(buf)
}

/// Whatever may have changed the bytes, the copy is not believed: the same frame with new bytes,
/// the same frame freed and used again, another frame, none.
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
            // The list of this CPU gives the frame that was freed last.
            assert_eq!(slot.pfn(zone), before);
        }),
        ("moved", |slot, zone| {
            slot.try_lock(zone).unwrap().freeze().unwrap().replace(full(zone, 1)).free()
        }),
        ("replaced under pin_owners", |slot, zone| {
            drop(slot.try_lock(zone).unwrap().replace(full(zone, 4)))
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
        "nothing happened"
    );
}

/// Whose copy is not believed under one scheme, is under no other: the word takes no part.
#[test]
fn what_changed_under_the_copy_is_not_believed_under_any_scheme() {
    changes_are_noticed::<ZeroFrozen>();
    changes_are_noticed::<GuessOne>();
    changes_are_noticed::<FrozenBit>();
    changes_are_noticed::<LiveBitHigh>();
    changes_are_noticed::<LiveBitLow>();
    changes_are_noticed::<Generational>();
}

#[test]
fn while_somebody_is_at_work_there_is_no_read_and_the_buffer_is_left_alone() {
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
        "the first use of a marker"
    );
    assert_eq!(buf, [5; 8]);
    assert_eq!(slot.read(map, FRAME_SIZE, &mut [], || true), Some(false));
    assert!(zone.take_referenced(slot.pfn(zone).unwrap()), "a read marks");
    drop(slot.try_lock(zone).unwrap().remove());
    common::assert_all_free(zone);
}

#[test]
#[should_panic(expected = "a range past the end of a frame")]
fn a_range_past_the_end_of_the_frame_is_refused() {
    let arena = common::arena::<DefaultScheme>(1);
    let _ = Slot::<UserSpace>::new().read(arena.direct_map(), FRAME_SIZE - 7, &mut [0; 8], || true);
}

/// The page's block is taken offline under the copy: the page moves, and its old bytes go back to
/// the system.
#[test]
fn bytes_that_go_offline_under_the_copy_are_not_believed() {
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
        "it has moved: a reader finds it where it is now"
    );
    assert_eq!(buf, [7; 64]);
    index.remove(zone, 7);
    assert_eq!(zone.stats().online_frames, 512);
    common::assert_all_free(zone);
}
