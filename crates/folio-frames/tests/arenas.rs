//! Arenas and the pool of zones behind them: bytes come and go, metadata stays (R7).
//!
//! The process has one pool, which keeps zones of different schemes apart. Each test uses a scheme
//! of its own, so that no test takes the zone of another.

mod common;

use common::{Index, OURS, assert_all_free};
use folio_frames::{Arena, Kind, Level, Order, UserSpace, Watermarks};
use folio_ref::schemes::{FrozenBit, Generational, GuessOne, LiveBitHigh, LiveBitLow, ZeroFrozen};

#[test]
fn a_zone_serves_a_later_arena_with_zeroed_frames() {
    let arena = Arena::<UserSpace<FrozenBit>>::new(64 << 21, &[]).unwrap();
    let zone = arena.zone();
    let mut folio = zone.alloc_frozen(Order::ZERO).unwrap();
    folio.as_mut_slice().fill(9);
    folio.free();
    drop(arena);
    assert_eq!(zone.stats().online_frames, 0, "a zone in the pool has no block online");
    assert!(zone.alloc_frozen(Order::ZERO).is_err(), "a zone in the pool allocates nothing");
    let again = Arena::<UserSpace<FrozenBit>>::new(60 << 21, &[]).unwrap();
    assert!(std::ptr::eq(zone, again.zone()), "a smaller arena takes the zone that fits");
    assert_eq!(again.zone().blocks(), 60);
    // The counters begin at zero for each arena.
    let counters = again.zone().counters();
    assert_eq!(
        (counters.buddy_allocated, counters.per_cpu_allocated, counters.blocks_claimed),
        (0, 0, 0)
    );
    let folio = zone.alloc_frozen(Order::ZERO).unwrap();
    assert!(folio.as_slice().iter().all(|&byte| byte == 0));
    folio.free();
    assert_all_free(zone);
}

#[test]
fn a_pinned_frame_keeps_its_zone_from_reuse() {
    let arena = Arena::<UserSpace<LiveBitHigh>>::new(256 << 21, &[]).unwrap();
    let zone = arena.zone();
    let mut folio = zone.alloc_frozen(Order::ZERO).unwrap();
    folio.set_owner(OURS, 0);
    folio.as_mut_slice().fill(3);
    let folio = folio.init();
    drop(arena);
    let other = Arena::<UserSpace<LiveBitHigh>>::new(256 << 21, &[]).unwrap();
    assert!(!std::ptr::eq(zone, other.zone()));
    assert!(folio.as_slice().iter().all(|&byte| byte == 3), "the frame keeps its bytes");
    drop(folio);
    let third = Arena::<UserSpace<LiveBitHigh>>::new(255 << 21, &[]).unwrap();
    assert!(std::ptr::eq(zone, third.zone()), "the last reference is gone");
}

/// The handle of an offline block must not bring it online after its bytes were unmapped.
#[test]
fn an_offline_block_of_a_dropped_arena_is_refused() {
    let arena = Arena::<UserSpace<LiveBitLow>>::new(1024 << 21, &[]).unwrap();
    let zone = arena.zone();
    let stale = arena.offline(3, &Index::new(0)).unwrap();
    drop(arena);
    let again = Arena::<UserSpace<LiveBitLow>>::new(1024 << 21, &[]).unwrap();
    assert!(std::ptr::eq(zone, again.zone()));
    let refused = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| again.online(stale)));
    let text = refused.unwrap_err().downcast::<String>().unwrap();
    assert!(text.contains("the bytes of offline block 3"), "{text}");
    assert_eq!(zone.stats().online_frames, 1024 * 512);
}

#[test]
fn an_arena_above_the_maximum_is_refused_with_the_maximum() {
    let error = Arena::<UserSpace<Generational>>::new(usize::MAX, &[]).unwrap_err();
    assert!(error.to_string().contains("4 TiB is the most"), "{error}");
}

/// The metadata covers a power of two of frames, which is more here than a slot can name.
#[test]
fn an_arena_above_half_the_maximum_is_created() {
    let arena = match Arena::<UserSpace<GuessOne>>::new(3 << 40, &[]) {
        Ok(arena) => arena,
        Err(error) => {
            return eprintln!("skipped: this machine does not reserve so many addresses: {error}");
        }
    };
    let zone = arena.zone();
    assert_eq!((zone.pfns().frames(), zone.online_frames()), (3 << 28, 3 << 28));
    let mut folio = zone.alloc_frozen(Order::ZERO).unwrap();
    folio.as_mut_slice().fill(1);
    folio.free();
}

/// Watermarks set for one arena do not apply to the next arena of the zone.
#[test]
fn a_later_arena_has_watermarks_of_its_own() {
    let arena = Arena::<UserSpace<ZeroFrozen>>::new(4 << 21, &[]).unwrap();
    let zone = arena.zone();
    zone.set_watermarks(Watermarks { min: 1000, low: 1500, high: 2000 });
    drop(arena);
    let again = Arena::<UserSpace<ZeroFrozen>>::new(1 << 21, &[]).unwrap();
    assert!(std::ptr::eq(zone, again.zone()));
    assert_eq!((zone.watermarks(), zone.level()), (Watermarks::for_frames(512), Level::Enough));
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
