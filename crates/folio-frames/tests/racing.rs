//! Readers, a walker, a migrator and a splitter on one zone, over heap memory: small enough for
//! Miri, which `cargo x prove` runs with many seeds. Miri checks every byte of every folio: a read
//! beside a write is a race.
//!
//! Not covered: Miri runs one schedule for each seed, so a failure that needs a rare one (the reuse
//! race) is not shown. Without Miri this is a smoke test and no evidence.

mod common;

use std::alloc::{Layout, alloc_zeroed};
use std::ptr::NonNull;
use std::thread;

use common::{Index, OURS, assert_all_free, order};
use folio_frames::{
    Adjacent, BLOCK_ORDER, FRAME_SIZE, FrozenFolio, FrozenSlot, LockedSlot, Lookup, MemmapMemory,
    OfflineError, Order, Pfn, Platform, UserSpace, Zone, joined_mut, migrate,
};
use folio_ref::Scheme;
use folio_ref::schemes::{FrozenBit, Generational, LiveBitHigh, LiveBitLow, Tagged, ZeroFrozen};

/// The number of rounds of each thread.
const ROUNDS: usize = if cfg!(miri) { 3 } else { 2000 };

/// Creates a zone of one block over leaked heap memory.
fn zone<P: Platform>() -> &'static Zone<P> {
    let frames = BLOCK_ORDER.frames();
    let bytes = Layout::from_size_align(BLOCK_ORDER.bytes(), BLOCK_ORDER.bytes()).unwrap();
    // SAFETY: the layout is not empty.
    let bytes = unsafe { alloc_zeroed(bytes) };
    assert!(!bytes.is_null());
    // SAFETY: the layout is not empty.
    let metadata = NonNull::new(unsafe { alloc_zeroed(Zone::<P>::layout(frames)) }).unwrap();
    // SAFETY: both are fresh, large enough, zeroed, and leaked.
    let zone =
        unsafe { Zone::new(metadata, MemmapMemory::Zeroed, Pfn::new(1 << 20), frames, bytes, &[]) };
    let zone = Box::leak(Box::new(zone));
    // SAFETY: the bytes are leaked.
    unsafe { zone.online_block(0) };
    zone
}

fn race<S: Scheme>() {
    let zone = zone::<UserSpace<S>>();
    let index = Index::new(2);
    let first = index.publish(zone, 0, Order::ZERO);
    index.publish(zone, 1, Order::ZERO);
    thread::scope(|scope| {
        scope.spawn(|| {
            for n in 0..ROUNDS {
                let slot = n % 2;
                match index.0[slot].get(zone) {
                    Lookup::Hit(folio) => {
                        let sample: Vec<u8> =
                            folio.as_slice().iter().copied().step_by(512).collect();
                        assert!(
                            sample.iter().all(|&byte| byte == slot as u8),
                            "slot {slot} has {sample:?}"
                        );
                    }
                    Lookup::InProgress => index.0[slot].wait(),
                    Lookup::Empty | Lookup::Moved | Lookup::Saturated => {}
                }
            }
        });
        scope.spawn(|| {
            for n in 0..ROUNDS as u64 {
                let pfn = Pfn::new(first.as_u64() + n % 8);
                if let Ok(folio) = zone.try_get_head(pfn) {
                    assert!(folio.kind().is_allocated());
                    let bytes = folio.as_slice();
                    assert_eq!(
                        bytes[0],
                        bytes[bytes.len() - 1],
                        "{folio:?} holds bytes of two owners"
                    );
                }
            }
        });
        scope.spawn(|| {
            for n in 0..ROUNDS {
                if let Some(pfn) = index.0[n % 2].pfn(zone) {
                    // It may be busy, or have moved.
                    let _ = migrate(zone, pfn, &index);
                }
            }
        });
        for n in 0..ROUNDS {
            let mut folio = zone.alloc_frozen(order(1)).unwrap();
            folio.set_owner(OURS, 100);
            let last = folio.as_slice().len() - 1;
            (folio.as_mut_slice()[0], folio.as_mut_slice()[last]) = (n as u8, n as u8);
            if n % 2 == 0 {
                drop(folio.init());
            } else {
                folio.split(Order::ZERO).for_each(FrozenFolio::free);
            }
        }
    });
    // The metadata ends here, while an arena often has more than it needs.
    assert_eq!(zone.offline(1, &index).err(), Some(OfflineError::NotOnline));
    index.remove(zone, 0);
    index.remove(zone, 1);
    assert_all_free(zone);
}

#[test]
fn zero_frozen() {
    race::<ZeroFrozen>();
}

#[test]
fn frozen_bit() {
    race::<FrozenBit>();
}

#[test]
fn live_bit_high() {
    race::<LiveBitHigh>();
}

#[test]
fn live_bit_low() {
    race::<LiveBitLow>();
}

#[test]
fn generational() {
    race::<Generational>();
}

#[test]
fn tagged() {
    race::<Tagged>();
}

/// Makes one slice of several folios. Miri checks that its pointer may reach all of them, and that
/// it aliases no other folio.
#[test]
fn a_joined_slice_does_not_alias_its_neighbour() {
    let zone = zone::<UserSpace>();
    let mut pieces: Vec<_> = zone.alloc_frozen(order(2)).unwrap().split(Order::ZERO).collect();
    let last = pieces.pop().unwrap();
    thread::scope(|scope| {
        let mut last = last;
        scope.spawn(move || {
            last.as_mut_slice().fill(9);
            last.free();
        });
        let slices: Vec<_> = joined_mut(&mut pieces).collect();
        assert_eq!(slices.len(), 1);
        for slice in slices {
            slice.fill(7);
        }
    });
    let mut folios = pieces.into_iter().map(FrozenFolio::init);
    let mut joined = Adjacent::from(folios.next().unwrap());
    for folio in folios {
        joined.join(folio).unwrap();
    }
    thread::scope(|scope| {
        let clone = joined.clone();
        scope.spawn(move || assert!(clone.as_slice() == [7; 3 * FRAME_SIZE]));
        assert!(joined.as_slice() == [7; 3 * FRAME_SIZE]);
    });
    drop(joined);
    assert_all_free(zone);
}

/// Joins the frames of two slots into one folio and splits it again, with writes in place between.
/// Meanwhile readers pin each subpage by the word of the head.
#[test]
fn subpages_are_written_in_place_while_unpinned() {
    let zone = zone::<UserSpace<Generational>>();
    let index = Index::new(2);
    let block = zone.alloc_frozen(order(1)).unwrap();
    let locked_slots = block.split(Order::ZERO).zip(&index.0).map(|(mut piece, slot)| {
        piece.set_owner(OURS, 0);
        slot.install(piece).ok()
    });
    drop(FrozenSlot::publish_as_one(&mut locked_slots.collect::<Vec<_>>()));
    thread::scope(|scope| {
        for slot in &index.0 {
            scope.spawn(|| {
                for _ in 0..ROUNDS {
                    match slot.get(zone) {
                        Lookup::Hit(folio) => {
                            assert!(
                                folio
                                    .frame()
                                    .iter()
                                    .step_by(512)
                                    .all(|&byte| byte == folio.frame()[0])
                            );
                        }
                        Lookup::InProgress => slot.wait(),
                        Lookup::Empty | Lookup::Moved | Lookup::Saturated => {}
                    }
                }
            });
        }
        for n in 0..ROUNDS {
            LockedSlot::split(
                &mut index.0.iter().map(|slot| slot.try_lock(zone)).collect::<Vec<_>>(),
            );
            let locked_slots = index
                .0
                .iter()
                .map(|slot| slot.try_lock(zone).and_then(|locked| locked.freeze().ok()));
            let mut locked_slots: Vec<_> = locked_slots.collect();
            locked_slots
                .iter_mut()
                .flatten()
                .for_each(|locked| locked.folio_mut().as_mut_slice().fill(n as u8));
            if locked_slots.iter().all(Option::is_some) {
                drop(FrozenSlot::publish_as_one(&mut locked_slots));
            } else {
                locked_slots.into_iter().flatten().for_each(FrozenSlot::publish);
            }
        }
    });
    index.remove(zone, 0);
    index.remove(zone, 1);
    assert_all_free(zone);
}
