//! Diagnostics: `Debug` output in sentences, and a trace event for every transition.

mod common;

use std::cell::RefCell;

use common::{Index, OURS, arena, order};
use folio_frames::{Arena, Event, Order, Pfn, Platform, UserSpace, migrate};
use folio_ref::CHECKS;
use folio_ref::schemes::{Generational, LiveBitLow};

/// User space that records its trace events.
struct Traced;

thread_local! {
    static EVENTS: RefCell<Vec<(Event, Pfn)>> = const { RefCell::new(Vec::new()) };
}

impl Platform for Traced {
    type Scheme = Generational;
    type Lock = <UserSpace as Platform>::Lock;

    fn cpu() -> usize {
        0
    }
    fn wait(key: usize, still: &dyn Fn() -> bool) {
        UserSpace::<Generational>::wait(key, still);
    }
    fn wake_all(key: usize) {
        UserSpace::<Generational>::wake_all(key);
    }
    fn trace(event: Event, frame: impl FnOnce() -> Pfn) {
        EVENTS.with_borrow_mut(|events| events.push((event, frame())));
    }
}

/// Takes all events recorded since the last call. Returns those of one frame.
fn events_of(of: Pfn) -> Vec<Event> {
    EVENTS.take().into_iter().filter(|&(_, pfn)| pfn == of).map(|(event, _)| event).collect()
}

#[test]
fn every_transition_is_traced() {
    use Event::{
        Allocated, Busy, Dying, Ended, Freed, Frozen, Got, MigratedHere, Offline, Online, Opened,
        Put, Refused, Shared, Split,
    };
    let arena = Arena::<Traced>::new(2 << 21, &[]).unwrap();
    let zone = arena.zone();
    assert_eq!(events_of(zone.block_range(1).start), [Online]);

    let folio = zone.alloc(order(1), OURS, 0).unwrap();
    let pfn = folio.pfn();
    assert_eq!(events_of(pfn), [Allocated, Opened]);
    let second = folio.clone();
    let third = zone.try_get(pfn).unwrap();
    drop(second);
    drop(third);
    drop(folio);
    assert_eq!(events_of(pfn), [Shared, Got, Put, Put, Dying, Ended, Freed]);
    assert!(zone.try_get(pfn).is_err());
    assert_eq!(events_of(pfn), [Refused]);

    let index = Index::new(1);
    let pfn = index.publish(zone, 0, Order::ZERO);
    assert_eq!(events_of(pfn), [Allocated, Opened]);
    let pinned = zone.try_get(pfn).unwrap();
    assert!(migrate(zone, pfn, &index).is_err());
    assert_eq!(events_of(pfn), [Got, Busy]);
    drop(pinned);
    let to = migrate(zone, pfn, &index).unwrap();
    let all = EVENTS.take();
    let of = |wanted: Pfn| {
        all.iter().filter(|event| event.1 == wanted).map(|event| event.0).collect::<Vec<_>>()
    };
    assert_eq!(of(pfn), [Put, Frozen, Freed]);
    assert_eq!(of(to), [Allocated, MigratedHere, Opened]);
    index.remove(zone, 0);

    let whole = zone.alloc_frozen(order(1)).unwrap();
    let pfn = whole.pfn();
    whole.split(Order::ZERO).for_each(folio_frames::FrozenFolio::free);
    assert_eq!(events_of(pfn), [Allocated, Split, Freed]);
    let block = arena.offline(1, &index).unwrap();
    assert_eq!(events_of(zone.block_range(1).start), [Offline]);
    arena.online(block);
}

#[test]
fn debug_output_is_a_sentence() {
    let arena = arena::<LiveBitLow>(2);
    let zone = arena.zone();
    assert_eq!(
        format!("{zone:?}"),
        "zone of 1024 frames from pfn 0x100000: 1024 online, 1024 free, largest free block order 10"
    );
    let whole = format!("{zone:?}");
    // With checks each descriptor counts raw references.
    let bytes = if CHECKS { 24 } else { 16 };
    assert_eq!(
        format!("{zone:#?}"),
        format!(
            "{whole}; memmap of 1024 descriptors of {bytes} bytes (live-bit-low): \
             1 head free blocks, 0 blocks in use"
        )
    );
    let mut handle = zone.alloc_frozen(order(3)).unwrap();
    let pfn = handle.pfn();
    assert_eq!(format!("{handle:?}"), format!("frozen folio at {pfn:?}, order 3, plain"));
    handle.set_owner(OURS, 5);
    let folio = handle.init();
    folio.set_referenced();
    assert_eq!(
        format!("{folio:?}"),
        format!("folio at {pfn:?}, order 3, owner kind 0, Live(1) (live-bit-low)")
    );
    assert_eq!(format!("{:?}", zone.peek(pfn)), "owner kind 0, order 3, Live(1)");
    drop(folio);
    let index = Index::new(1);
    let pfn = index.publish(zone, 0, Order::ZERO);
    let locked = index.0[0].try_lock(zone).unwrap().freeze().unwrap();
    assert_eq!(format!("{locked:?}"), format!("page lock on {:?}, frozen", index.0[0]));
    drop(locked);
    assert!(index.0[0].is_empty(), "{pfn:?} is freed with its frozen slot");
    let block = arena.offline(0, &Index::new(0)).unwrap();
    assert_eq!(format!("{block:?}"), "offline block 0 (pfn 0x100000 to 0x1001ff)");
    let unused = Pfn::new(zone.block_range(0).end.as_u64() - 1);
    assert_eq!(format!("{:?}", zone.peek(unused)), "interior, order 0, Frozen { stale: 0 }");
    arena.online(block);
}
