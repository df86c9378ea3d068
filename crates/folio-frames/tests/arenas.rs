//! Arenas and the pool of zones behind them: bytes come and go, metadata stays (R7).
//!
//! The pool is one for the process, and keeps zones of different schemes apart: each test has a
//! scheme of its own, so that none takes another's zone. (By sizes alone they did, now and then:
//! the canaries' control run noticed.)

mod common;

use common::{Index, OURS, assert_all_free};
use folio_frames::{Arena, Kind, Level, Order, UserSpace, Watermarks};
use folio_ref::schemes::{FrozenBit, Generational, GuessOne, LiveBitHigh, LiveBitLow, ZeroFrozen};

#[test]
fn a_zone_serves_a_later_arena_and_its_frames_are_zeroes() {
    let arena = Arena::<UserSpace<FrozenBit>>::new(64 << 21, &[]).unwrap();
    let zone = arena.zone();
    let mut folio = zone.alloc_frozen(Order::ZERO).unwrap();
    folio.as_mut_slice().fill(9);
    folio.free();
    drop(arena);
    assert_eq!(zone.stats().online_frames, 0, "its blocks are offline while it waits in the pool");
    assert!(zone.alloc_frozen(Order::ZERO).is_err(), "a zone in the pool hands nothing out");
    let again = Arena::<UserSpace<FrozenBit>>::new(60 << 21, &[]).unwrap();
    assert!(std::ptr::eq(zone, again.zone()), "a smaller arena takes the zone that fits");
    assert_eq!(again.zone().blocks(), 60);
    // They went on from the arena before: a test that counted blocks failed now and then.
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
fn a_frame_outlives_its_arena_and_its_zone_is_not_reused_until_then() {
    let arena = Arena::<UserSpace<LiveBitHigh>>::new(256 << 21, &[]).unwrap();
    let zone = arena.zone();
    let mut folio = zone.alloc_frozen(Order::ZERO).unwrap();
    folio.set_owner(OURS, 0);
    folio.as_mut_slice().fill(3);
    let folio = folio.init();
    drop(arena);
    let other = Arena::<UserSpace<LiveBitHigh>>::new(256 << 21, &[]).unwrap();
    assert!(!std::ptr::eq(zone, other.zone()));
    assert!(folio.as_slice().iter().all(|&byte| byte == 3), "it kept its bytes");
    drop(folio);
    let third = Arena::<UserSpace<LiveBitHigh>>::new(255 << 21, &[]).unwrap();
    assert!(std::ptr::eq(zone, third.zone()), "the last holder is gone");
}

/// Found in review: the token of an offline block outlived its arena, and could bring the block
/// online after its bytes were unmapped.
#[test]
fn an_offline_block_of_an_arena_that_is_gone_can_not_come_back() {
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
fn an_arena_that_can_not_be_is_refused_with_what_is_allowed() {
    let error = Arena::<UserSpace<Generational>>::new(usize::MAX, &[]).unwrap_err();
    assert!(error.to_string().contains("4 TiB is the most"), "{error}");
}

/// The metadata is for a power of two of frames, and that was one too many for a slot to name: a
/// panic.
#[test]
fn an_arena_of_more_than_half_of_the_most_is_made() {
    let arena = match Arena::<UserSpace<GuessOne>>::new(3 << 40, &[]) {
        Ok(arena) => arena,
        Err(error) => return eprintln!("this machine does not lend so many addresses: {error}"),
    };
    let zone = arena.zone();
    assert_eq!((zone.pfns().frames(), zone.online_frames()), (3 << 28, 3 << 28));
    let mut folio = zone.alloc_frozen(Order::ZERO).unwrap();
    folio.as_mut_slice().fill(1);
    folio.free();
}

/// The next arena was held against the marks of one that was gone.
#[test]
fn a_later_arena_has_marks_of_its_own() {
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
