//! Every place that might skip a count, against two hostile threads that try to get every frame of
//! the zone before, during and after, under every scheme. docs/risky-places.md lists the places.
//!
//! A hostile thread checks what it gets. Only the head of a live folio may be got, and the
//! owner data of that folio is its frame number. Every other frame must be refused.

mod common;

use std::alloc::{Layout, alloc, alloc_zeroed};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use common::{Index, OURS, arena, assert_all_free, order};
use folio_frames::{
    BLOCK_ORDER, FolioRef, FrozenFolio, MemmapMemory, MetadataKept, Order, Pfn, Platform, Refusal,
    UserSpace, Zone,
};
use folio_ref::Scheme;

/// Runs `act` under fire. Returns the number of times that a hostile thread got a folio.
fn under_fire<P: Platform>(zone: &'static Zone<P>, act: impl FnOnce()) -> usize {
    let (stop, rounds, got) = (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0));
    let hostile = || {
        while !stop.load(Ordering::Relaxed) {
            for pfn in zone.pfns() {
                for folio in [zone.try_get(pfn), zone.try_get_head(pfn)].into_iter().flatten() {
                    assert_eq!(
                        (folio.kind(), folio.owner_data()),
                        (OURS, folio.pfn().as_u64()),
                        "R1, R8: {folio:?}"
                    );
                    got.fetch_add(1, Ordering::Relaxed);
                }
            }
            rounds.fetch_add(1, Ordering::Relaxed);
        }
    };
    thread::scope(|scope| {
        let threads = [scope.spawn(hostile), scope.spawn(hostile)];
        // A hostile thread that fails ends, and must not be waited for.
        let watch = || threads.iter().any(thread::ScopedJoinHandle::is_finished);
        while rounds.load(Ordering::Relaxed) < 2 && !watch() {
            thread::yield_now();
        }
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(act));
        // Waits until both threads have passed all frames once more, from wherever they were.
        let begun = rounds.load(Ordering::Relaxed);
        while rounds.load(Ordering::Relaxed) < begun + 4 && !watch() {
            thread::yield_now();
        }
        stop.store(true, Ordering::Relaxed);
        if let Err(panic) = outcome {
            std::panic::resume_unwind(panic);
        }
    });
    got.into_inner()
}

/// Creates a zone of `blocks` offline blocks over leaked heap memory. Its metadata was filled with
/// `byte`.
fn zone_over<P: Platform>(blocks: u32, byte: Option<u8>) -> &'static Zone<P> {
    let frames = blocks * BLOCK_ORDER.frames();
    let bytes = Layout::from_size_align(blocks as usize * BLOCK_ORDER.bytes(), BLOCK_ORDER.bytes())
        .unwrap();
    // SAFETY: the layout is not empty.
    let bytes = unsafe { alloc_zeroed(bytes) };
    let layout = Zone::<P>::layout(frames);
    // `None`: zeroed memory, fresh from the system.
    let fill = if byte.is_some() { alloc } else { alloc_zeroed };
    // SAFETY: the layout is not empty.
    let metadata = unsafe { fill(layout) };
    let metadata = NonNull::new(metadata).expect("memory for a test");
    if let Some(byte) = byte {
        // SAFETY: within the layout.
        unsafe { metadata.write_bytes(byte, layout.size()) };
    }
    let holds = if byte.is_none_or(|byte| byte == 0) {
        MemmapMemory::Zeroed
    } else {
        MemmapMemory::Garbage
    };
    // SAFETY: both are large enough, hold what `holds` says, and are leaked.
    Box::leak(Box::new(unsafe {
        Zone::new(metadata, holds, Pfn::new(1 << 20), frames, bytes, &[])
    }))
}

/// Opens `folio` with the owner data that the hostile threads expect.
fn live<P: Platform>(mut folio: FrozenFolio<P>) -> FolioRef<P> {
    let pfn = folio.pfn();
    folio.set_owner(OURS, pfn.as_u64());
    folio.init()
}

fn nothing_is_got<P: Platform>(zone: &'static Zone<P>, act: impl FnOnce()) {
    assert_eq!(under_fire(zone, act), 0, "a frame that was never live was got (R1)");
}

/// Brings a range online, as at boot, over a memmap that holds `byte`.
fn bring_online<S: Scheme>(byte: Option<u8>) {
    let zone = zone_over::<UserSpace<S>>(3, byte);
    assert!(zone.pfns().all(|pfn| zone.try_get(pfn).err() == Some(Refusal::Offline)));
    nothing_is_got(zone, || {
        for block in 0..3 {
            // SAFETY: the bytes of all blocks are leaked.
            unsafe { zone.online_block(block) };
        }
    });
    assert_eq!(zone.stats().free_frames, 3 * BLOCK_ORDER.frames());
    under_fire(zone, || drop(live(zone.alloc_frozen(order(5)).unwrap())));
    assert_all_free(zone);
}

fn memmap_zeroed_on_purpose<S: Scheme>() {
    bring_online::<S>(Some(0));
}

fn memmap_fresh_from_the_system<S: Scheme>() {
    bring_online::<S>(None);
}

/// All ones, and patterns with every bit of each scheme's live state.
fn memmap_holding_garbage<S: Scheme>() {
    for byte in [0xff, 0x80, 0x01, 0x5a] {
        bring_online::<S>(Some(byte));
    }
}

/// Their bytes are zeroed, their descriptors are not.
fn frames_allocated_zeroed<S: Scheme>() {
    let arena = arena::<S>(1);
    let zone = arena.zone();
    nothing_is_got(zone, || {
        for n in (0..=9).cycle().take(60) {
            let mut folio = zone.alloc_frozen(order(n)).unwrap();
            folio.as_mut_slice().fill(0xee);
            folio.zero();
            assert!(folio.as_slice().iter().step_by(509).all(|&byte| byte == 0));
            folio.free();
        }
    });
    assert_all_free(zone);
}

fn tails_of_folios_made_and_unmade<S: Scheme>() {
    let arena = arena::<S>(1);
    let zone = arena.zone();
    // The schedule decides if a head is got. The threads check that no tail is.
    under_fire(zone, || {
        let mut kept = Vec::new();
        for n in (1..=7).cycle().take(200) {
            kept.extend(zone.alloc_frozen(order(n)).map(live));
            if n % 3 == 0 {
                kept.clear();
            }
        }
    });
    assert_all_free(zone);
}

fn tails_of_plain_blocks<S: Scheme>() {
    let arena = arena::<S>(1);
    let zone = arena.zone();
    nothing_is_got(zone, || {
        for n in (1..=8).cycle().take(200) {
            let plain = zone.alloc_frozen(order(n)).unwrap();
            let last = Pfn::new(plain.pfn().as_u64() + u64::from(order(n).frames()) - 1);
            assert_eq!(zone.try_get(last).err(), Some(Refusal::Tail));
            plain.free();
        }
    });
    assert_all_free(zone);
}

/// Splits into equal pieces of every order, and one of those again: so into pieces of any orders.
fn splits_into_any_orders<S: Scheme>() {
    let arena = arena::<S>(1);
    let zone = arena.zone();
    under_fire(zone, || {
        for whole in 1..=6 {
            for size in 0..=whole {
                let mut lives = Vec::new();
                for (n, piece) in
                    zone.alloc_frozen(order(whole)).unwrap().split(order(size)).enumerate()
                {
                    match n % 3 {
                        0 => piece.free(),
                        1 => lives.extend(piece.split(order(size / 2)).map(live)),
                        _ => lives.push(live(piece)),
                    }
                }
                // Drops every second one first: pieces are freed out of order.
                let mut n = 0;
                lives.retain(|_| {
                    n += 1;
                    n % 2 == 0
                });
            }
        }
    });
    assert_all_free(zone);
}

fn frames_offline_and_back<S: Scheme>() {
    let arena = arena::<S>(2);
    let zone = arena.zone();
    nothing_is_got(zone, || {
        for n in 0..8 {
            let offline = arena.offline(n % 2, &Index::new(0)).unwrap();
            assert!(
                zone.block_range(n % 2)
                    .all(|pfn| zone.try_get(pfn).err() == Some(Refusal::Offline))
            );
            arena.online(offline);
        }
    });
    assert_all_free(zone);
}

/// Where zero is not frozen, metadata is kept: the descriptors would all be Dying.
fn metadata_returned_and_touched_again<S: Scheme>() {
    let arena = arena::<S>(2);
    let zone = arena.zone();
    drop(live(zone.alloc_frozen(order(3)).unwrap()));
    nothing_is_got(zone, || {
        for n in 0..8 {
            let offline = arena.offline(n % 2, &Index::new(0)).unwrap();
            let returned = arena.return_metadata(&offline);
            if S::ZERO_IS_FROZEN {
                assert!(returned.is_ok(), "{returned:?}");
            } else {
                assert_eq!(returned, Err(MetadataKept::ZeroIsNotFrozen));
            }
            assert!(
                zone.block_range(n % 2)
                    .all(|pfn| zone.try_get(pfn).err() == Some(Refusal::Offline))
            );
            arena.online(offline);
            let frames: Vec<_> = (0..4).map(|_| zone.alloc_frozen(Order::ZERO).unwrap()).collect();
            frames.into_iter().for_each(FrozenFolio::free);
        }
    });
    under_fire(zone, || (0..50).for_each(|_| drop(live(zone.alloc_frozen(order(4)).unwrap()))));
    assert_all_free(zone);
}

/// Makes each place a test that runs under each scheme.
macro_rules! places {
    ($($place:ident)*) => { $(
        #[test]
        fn $place() {
            use folio_ref::schemes::{
                FrozenBit, Generational, GuessOne, LiveBitHigh, LiveBitLow, Tagged, ZeroFrozen,
            };
            super::$place::<ZeroFrozen>();
            super::$place::<GuessOne>();
            super::$place::<FrozenBit>();
            super::$place::<LiveBitHigh>();
            super::$place::<LiveBitLow>();
            super::$place::<Generational>();
            super::$place::<Tagged>();
        }
    )* };
}

mod every_scheme {
    places! {
        memmap_zeroed_on_purpose memmap_fresh_from_the_system memmap_holding_garbage
        frames_allocated_zeroed tails_of_folios_made_and_unmade tails_of_plain_blocks
        splits_into_any_orders frames_offline_and_back metadata_returned_and_touched_again
    }
}
