//! Arenas and their pool of metadata: bytes and zones come and go, metadata stays (R7).
//!
//! The process has one pool, which keeps the metadata of different platforms apart. So each test
//! has a scheme of its own, and none takes the metadata of another. Different sizes are not enough.

mod common;

use common::hooked::Hooks;
use common::{Index, OURS, assert_all_free};
use folio_frames::{Arena, Kind, Level, Order, Platform, UserSpace, Watermarks, Zone};
use folio_ref::schemes::{FrozenBit, Generational, GuessOne, LiveBitHigh, LiveBitLow, ZeroFrozen};

/// Returns `true` if `later` inherited the metadata of `zone`: they share a referenced bit.
fn has_metadata_of<P: Platform>(zone: &'static Zone<P>, later: &'static Zone<P>) -> bool {
    let mut folio = later.alloc_frozen(Order::ZERO).unwrap();
    let pfn = folio.pfn();
    zone.take_referenced(pfn);
    folio.set_readahead(false);
    folio.free();
    !std::ptr::eq(zone, later) && zone.take_referenced(pfn)
}

#[test]
fn a_later_arena_has_a_new_zone_and_zeroed_frames() {
    let arena = Arena::<UserSpace<FrozenBit>>::new(64 << 21, &[]).unwrap();
    let zone = arena.zone();
    let mut folio = zone.alloc_frozen(Order::ZERO).unwrap();
    folio.as_mut_slice().fill(9);
    folio.free();
    drop(arena);
    assert_eq!(zone.stats().online_frames, 0, "its blocks are offline while it waits in the pool");
    assert!(zone.alloc_frozen(Order::ZERO).is_err(), "a closed zone allocates nothing");
    let again = Arena::<UserSpace<FrozenBit>>::new(60 << 21, &[]).unwrap();
    assert!(!std::ptr::eq(zone, again.zone()), "no zone is used twice");
    assert_eq!(again.zone().blocks(), 60);
    // The counters of each arena begin at zero.
    let counters = again.zone().counters();
    assert_eq!(
        (counters.buddy_allocated, counters.per_cpu_allocated, counters.blocks_claimed),
        (0, 0, 0)
    );
    assert!(zone.alloc_frozen(Order::ZERO).is_err(), "the zone stays closed");
    // Before any of them is freed, which poisons it.
    let folio = again.zone().alloc_frozen(Order::ZERO).unwrap();
    assert!(folio.as_slice().iter().all(|&byte| byte == 0));
    folio.free();
    assert!(has_metadata_of(zone, again.zone()), "a smaller arena takes the metadata that fits");
    assert_all_free(again.zone());
}

#[test]
fn a_pinned_frame_keeps_its_bytes_and_metadata_past_its_arena() {
    let arena = Arena::<UserSpace<LiveBitHigh>>::new(256 << 21, &[]).unwrap();
    let zone = arena.zone();
    let mut folio = zone.alloc_frozen(Order::ZERO).unwrap();
    folio.set_owner(OURS, 0);
    folio.as_mut_slice().fill(3);
    let folio = folio.init();
    drop(arena);
    let other = Arena::<UserSpace<LiveBitHigh>>::new(256 << 21, &[]).unwrap();
    assert!(!has_metadata_of(zone, other.zone()));
    assert!(folio.as_slice().iter().all(|&byte| byte == 3), "the bytes changed");
    drop(folio);
    let third = Arena::<UserSpace<LiveBitHigh>>::new(255 << 21, &[]).unwrap();
    assert!(has_metadata_of(zone, third.zone()), "the last pin owner is gone");
}

/// An `Offline` must not bring its block online after the bytes were unmapped.
#[test]
fn an_offline_block_of_a_dropped_arena_is_refused() {
    let arena = Arena::<UserSpace<LiveBitLow>>::new(1024 << 21, &[]).unwrap();
    let zone = arena.zone();
    let stale = arena.offline(3, &Index::new(0)).unwrap();
    drop(arena);
    let again = Arena::<UserSpace<LiveBitLow>>::new(1024 << 21, &[]).unwrap();
    assert!(has_metadata_of(zone, again.zone()));
    let refused = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| again.online(stale)));
    let text = refused.unwrap_err().downcast::<&str>().unwrap();
    assert!(text.contains("an offline block of another zone"), "{text}");
    assert_eq!(again.zone().stats().online_frames, 1024 * 512);
}

#[test]
fn an_arena_above_the_maximum_is_refused_with_the_maximum() {
    let error = Arena::<UserSpace<Generational>>::new(usize::MAX, &[]).unwrap_err();
    assert!(error.to_string().contains("is 4 TiB or more"), "{error}");
}

/// The metadata is rounded up to a power of two of frames, here more than an arena may have.
#[test]
fn an_arena_above_half_the_maximum_is_created() {
    let arena = match Arena::<UserSpace<GuessOne>>::new(3 << 40, &[]) {
        Ok(arena) => arena,
        Err(error) => {
            return eprintln!("skipped: this machine does not reserve enough addresses: {error}");
        }
    };
    let zone = arena.zone();
    assert_eq!((zone.pfns().frames(), zone.online_frames()), (3 << 28, 3 << 28));
    let mut folio = zone.alloc_frozen(Order::ZERO).unwrap();
    folio.as_mut_slice().fill(1);
    folio.free();
}

/// Watermarks set for one arena do not apply to the next arena with its metadata.
#[test]
fn a_later_arena_has_watermarks_of_its_own() {
    let arena = Arena::<UserSpace<ZeroFrozen>>::new(4 << 21, &[]).unwrap();
    let zone = arena.zone();
    zone.set_watermarks(Watermarks { min: 1000, low: 1500, high: 2000 });
    drop(arena);
    let again = Arena::<UserSpace<ZeroFrozen>>::new(1 << 21, &[]).unwrap();
    let next = again.zone();
    assert!(has_metadata_of(zone, next));
    assert_eq!((next.watermarks(), next.level()), (Watermarks::for_frames(512), Level::Enough));
}

/// There are frame numbers for 16 TiB. A hundred arenas of 1 TiB, one after the other, need more.
#[test]
fn frame_numbers_of_dropped_arenas_are_used_again() {
    type P = Hooks<0>;
    for _ in 0..100 {
        match Arena::<P>::new(1 << 40, &[]) {
            Ok(arena) => drop(arena.zone().alloc(Order::ZERO, OURS, 0).unwrap()),
            Err(error) => {
                assert!(!error.to_string().contains("16 TiB"), "{error}");
                return eprintln!(
                    "skipped: this machine does not reserve enough addresses: {error}"
                );
            }
        }
    }
}

#[test]
fn kinds_print_by_name() {
    let names = [
        Kind::FREE,
        Kind::FREE_PER_CPU,
        Kind::ISOLATED,
        Kind::PLAIN,
        Kind::INTERIOR,
        Kind::owner(3),
    ];
    let names = names.map(|kind| format!("{kind:?}"));
    assert_eq!(
        names,
        ["free", "free (per CPU)", "free (isolated)", "plain", "interior", "owner kind 3"]
    );
}
