//! The edges of calls: numbers at their limits, zones with nothing online, addresses at 0.

mod common;

use std::alloc::{Layout, alloc_zeroed};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::{self, NonNull};
use std::slice;
use std::sync::atomic::{AtomicU32, Ordering};

use common::{Index, OURS, arena, assert_all_free, order, saturate, zone_at};
use folio_frames::{
    Adjacent, AllocError, Arena, BLOCK_ORDER, Contig, ContigError, FrozenFolio, KindOps,
    MemmapMemory, MemoryMap, MigrateError, MigrateType, Order, Pfn, PfnRange, Refusal, Slot,
    UserSpace, Zone, migrate, migrate_to,
};
use folio_ref::schemes::{
    FrozenBit, Generational, GuessOne, LiveBitHigh, LiveBitLow, Tagged, ZeroFrozen,
};
use folio_ref::{DefaultScheme, MAX_AT_ONCE, SATURATED, Scheme, Snapshot};

type Space = UserSpace<DefaultScheme>;

fn message<T>(act: impl FnOnce() -> T) -> String {
    let Err(panic) = catch_unwind(AssertUnwindSafe(act)) else { panic!("nothing was reported") };
    *panic.downcast::<String>().expect("a message")
}

fn metadata(frames: u32) -> NonNull<u8> {
    // SAFETY: the layout is not empty.
    NonNull::new(unsafe { alloc_zeroed(Zone::<Space>::layout(frames)) }).expect("memory")
}

/// Makes a zone of the first `blocks` blocks of memory, all offline.
fn offline_zone(blocks: u32, direct_map: *mut u8) -> Zone<Space> {
    let mut usable = 0..u64::from(blocks) << 21;
    let map = MemoryMap::new(slice::from_mut(&mut usable), &mut []);
    let (metadata, holds) = (metadata(blocks * BLOCK_ORDER.frames()), MemmapMemory::Zeroed);
    // SAFETY: the metadata is the zone's; the bytes are not accessed, or are the caller's.
    unsafe { Zone::from_map(metadata, holds, &map, direct_map, &[]) }
}

fn many_at_the_limit<S: Scheme>() {
    let arena = arena::<S>(1);
    let zone = arena.zone();
    let folio = zone.alloc(Order::ZERO, OURS, 0).unwrap();
    let (pfn, live) = (folio.pfn(), |n| Snapshot::Live(n));
    // One more than there is room for: none is taken, and the folio is not lost.
    for n in [SATURATED - 1, SATURATED - 2] {
        let held = folio.get_many(SATURATED - 1 - n + 1);
        let before = zone.peek(pfn).snapshot;
        assert_eq!(zone.try_get_many(pfn, n).err(), Some(Refusal::Saturated), "{}", S::NAME);
        assert_eq!(zone.peek(pfn).snapshot, before, "{}", S::NAME);
        drop(held);
    }
    // The last that fit, in several parts and in one.
    let most = zone.try_get_many(pfn, SATURATED - 1 - 1 - MAX_AT_ONCE).unwrap();
    let last = zone.try_get_many(pfn, MAX_AT_ONCE).unwrap();
    assert_eq!(zone.peek(pfn).snapshot, live(SATURATED - 1), "{}", S::NAME);
    for n in [1, MAX_AT_ONCE, SATURATED - 1] {
        assert_eq!(zone.try_get_many(pfn, n).err(), Some(Refusal::Saturated), "{}", S::NAME);
    }
    drop(last);
    assert_eq!(
        zone.try_get_many(pfn, MAX_AT_ONCE + 1).err(),
        Some(Refusal::Saturated),
        "{}",
        S::NAME
    );
    drop(most);
    assert_eq!(zone.peek(pfn).snapshot, live(1), "{}", S::NAME);
    drop(folio);
    assert_all_free(zone);
}

#[test]
#[cfg_attr(miri, ignore = "a million operations")]
fn an_attempt_to_take_too_many_leaks_no_folio() {
    many_at_the_limit::<ZeroFrozen>();
    many_at_the_limit::<GuessOne>();
    many_at_the_limit::<FrozenBit>();
    many_at_the_limit::<LiveBitHigh>();
    many_at_the_limit::<LiveBitLow>();
    many_at_the_limit::<Generational>();
    many_at_the_limit::<Tagged>();
}

#[test]
fn no_reference_to_a_saturated_folio_is_taken() {
    let arena = arena::<DefaultScheme>(1);
    let folio = arena.zone().alloc(Order::ZERO, OURS, 0).unwrap();
    saturate(&folio);
    for n in [1, SATURATED - 1] {
        let refused = arena.zone().try_get_many(folio.pfn(), n).err();
        assert_eq!(refused, Some(Refusal::Saturated));
    }
}

#[test]
fn numbers_that_overflow_are_out_of_range() {
    let arena = arena::<DefaultScheme>(1);
    let zone = arena.zone();
    let folio = zone.alloc(order(2), OURS, 0).unwrap();
    let slots = [const { Slot::<Space>::new() }; 4];
    assert_eq!(Slot::count_following(&slots[..0], &folio, 0), 0);
    assert_eq!(Slot::count_following(&slots[..0], &folio, 4), 0);
    assert_eq!(Slot::count_following(&slots, &folio, 0), 0, "empty slots have none of its frames");
    for (slots, n) in [(&slots[..0], 5), (&slots[..], 1), (&slots[..1], u32::MAX)] {
        let text = message(|| Slot::count_following(slots, &folio, n));
        let expect = format!("{} slots from the {n}-th frame on are more than the", slots.len());
        assert!(text.starts_with(&expect), "{text}");
    }
    let mut joined = Adjacent::from(folio);
    for frames in [0, 5, u32::MAX] {
        let text = message(|| joined.shorten(frames));
        assert!(text.starts_with(&format!("{frames} frames do not end in the last")), "{text}");
    }
    joined.shorten(1);
    drop(joined);
    assert_all_free(zone);
}

#[test]
fn a_zone_with_nothing_online_says_so() {
    let zone = offline_zone(8, ptr::without_provenance_mut(1 << 40)).with_huge_order(order(11));
    let zone: &'static Zone<Space> = Box::leak(Box::new(zone));
    for n in [0, 3, 9, 10, 11] {
        assert_eq!(zone.alloc_frozen(order(n)).unwrap_err(), AllocError::Offline, "order {n}");
        let up_to = zone.alloc_frozen_up_to(order(n), MigrateType::Movable);
        assert_eq!(up_to.unwrap_err(), AllocError::Offline, "up to order {n}");
    }
    let none = Index::new(0);
    for (frames, align) in [(1, 0), (513, 0), (5, 18)] {
        let taken = zone.alloc_contig(frames, order(align), &none);
        assert_eq!(taken.unwrap_err(), ContigError::NotOnline);
    }
    assert_eq!(
        zone.alloc_contig_range(zone.block_range(1), &none).err(),
        Some(ContigError::NotOnline)
    );
}

#[test]
#[cfg_attr(miri, ignore = "64 MiB")]
fn the_first_block_of_deferred_memory_is_as_large_as_asked() {
    for n in 1..=10 {
        let layout = Layout::from_size_align(32 << 21, 4 << 20).unwrap();
        // SAFETY: the layout is not empty.
        let bytes = unsafe { alloc_zeroed(layout) };
        let zone: &'static Zone<Space> = Box::leak(Box::new(offline_zone(32, bytes)));
        // SAFETY: the bytes are the zone's, for as long as it is used.
        unsafe { zone.online_range(0..32) };
        let folio = zone.alloc_frozen_up_to(order(n), MigrateType::Movable).unwrap();
        assert_eq!(folio.order(), order(n));
        // The rest of what was initialised does not do either.
        let more: Vec<_> = (0..32 << (10 - n))
            .filter_map(|_| zone.alloc_frozen_up_to(order(n), MigrateType::Movable).ok())
            .collect();
        let frames: u32 = more.iter().map(|folio| folio.order().frames()).sum();
        assert!(more.iter().all(|folio| folio.order() == order(n)), "order {n}");
        assert_eq!(frames + order(n).frames(), zone.stats().online_frames, "order {n}");
        folio.free();
        more.into_iter().for_each(FrozenFolio::free);
        assert_all_free(zone);
    }
}

#[test]
fn a_frame_in_a_list_of_a_cpu_is_a_free_block() {
    let arena = arena::<DefaultScheme>(4);
    let zone = arena.zone();
    let mut all: Vec<_> = std::iter::from_fn(|| zone.alloc_frozen(Order::ZERO).ok()).collect();
    let stats = zone.stats();
    assert_eq!((stats.free_frames, stats.largest_free_order), (0, None));
    all.pop().unwrap().free();
    let stats = zone.stats();
    assert_eq!((stats.free_frames, stats.largest_free_order), (1, Some(Order::ZERO)));
    all.into_iter().for_each(FrozenFolio::free);
    assert_all_free(zone);
}

#[test]
fn no_frame_at_address_0_is_adopted() {
    // As in a kernel with an identity map. No byte of the zone is accessed.
    let zone = offline_zone(2, ptr::null_mut()).with_outer_allocator(|_, _, _| {});
    let zone: &'static Zone<Space> = Box::leak(Box::new(zone));
    // SAFETY: all frames are free, and no byte is accessed, here and below.
    assert!(unsafe { zone.adopt(Pfn::new(0), Order::ZERO) }.is_none());
    // SAFETY: as above.
    assert!(unsafe { zone.adopt(Pfn::new(0), order(9)) }.is_none());
    // SAFETY: as above.
    let next = unsafe { zone.adopt(Pfn::new(1), Order::ZERO) }.expect("a frame at 4096");
    assert_eq!(next.as_ptr().addr(), 4096);
    // Leaked: in debug builds a free writes to the bytes.
    let _ = next.into_raw();
}

#[test]
fn a_refused_zone_takes_no_numbers() {
    // Eight times as many frames as all zones together can have.
    for _ in 0..32 {
        let refused = [(0, (1 << 30) - 512, 8_usize), (512, (1 << 30) - 512, 0), (0, 1 << 30, 0)];
        for (first, frames, direct_map) in refused {
            let bytes = ptr::without_provenance_mut(direct_map);
            let (first, holds) = (Pfn::new(first), MemmapMemory::Zeroed);
            let text = message(|| {
                // SAFETY: it panics before it does anything.
                unsafe { Zone::<Space>::new(NonNull::dangling(), holds, first, frames, bytes, &[]) }
            });
            assert!(text.contains("not"), "{text}");
        }
    }
    assert_eq!(offline_zone(2, ptr::null_mut()).blocks(), 2);
}

/// The number of folios that a `destroy` function got.
static DESTROYED: AtomicU32 = AtomicU32::new(0);

#[test]
fn a_folio_does_not_lose_its_destructor_to_another_zone() {
    static KINDS: [KindOps<Space>; 1] = [KindOps {
        kind: OURS,
        name: "ours",
        destroy: |folio| {
            DESTROYED.fetch_add(1, Ordering::Relaxed);
            folio.free();
        },
    }];
    let with = Arena::<Space>::new(2 << 20, &KINDS).unwrap();
    let alike = Arena::<Space>::new(2 << 20, &KINDS).unwrap();
    let without = zone_at::<Space>(0, 1);
    let index = Index::new(2);
    let pfns = [index.publish(with.zone(), 0, Order::ZERO), index.publish(without, 1, Order::ZERO)];
    let refused = Err(MigrateError::NotMovable);
    assert_eq!(migrate_to(with.zone(), pfns[0], &index, without), refused);
    assert_eq!(migrate_to(without, pfns[1], &index, with.zone()), refused, "it got none before");
    assert!(migrate(without, pfns[1], &index).is_ok());
    migrate_to(with.zone(), pfns[0], &index, alike.zone()).expect("both know the kind");
    assert_all_free(with.zone());
    index.remove(without, 1);
    assert_eq!(DESTROYED.load(Ordering::Relaxed), 0);
    index.remove(alike.zone(), 0);
    assert_eq!(DESTROYED.load(Ordering::Relaxed), 1);
    assert_all_free(alike.zone());
    assert_all_free(without);
}

/// A place that is free is found, wherever the frames lie that cannot move.
#[test]
fn contiguous_memory_is_found_between_pinned_frames() {
    let none = Index::new(0);
    let range =
        |start: u64, frames| PfnRange { start: Pfn::new(start), end: Pfn::new(start + frames) };
    // The frames in use, as plain blocks or as pinned folios; the number of frames, the order of
    // the alignment, and the place.
    let cases: [(&[u64], u32, u8, Option<u64>); 8] = [
        (&[10, 1000], 512, 0, Some(11)),
        (&[10, 1000], 512, 3, Some(16)),
        (&[10, 1000], 989, 0, Some(11)),
        (&[10, 1000], 990, 0, None),
        (&[0, 1023], 1022, 0, Some(1)),
        (&[5, 600, 610], 400, 0, Some(6)),
        (&[5, 300, 610], 400, 0, Some(611)),
        (&[5, 300, 610], 400, 6, None),
    ];
    for (in_use, frames, align, place) in cases {
        for is_plain in [true, false] {
            let zone = zone_at::<Space>(0, 2);
            let taken: Vec<_> = in_use
                .iter()
                .map(|&at| zone.alloc_contig_range(range(at, 1), &none).expect("a free frame"))
                .collect();
            let folios = taken.into_iter().flat_map(Contig::into_folios);
            let (mut plain, mut pinned) = (Vec::new(), Vec::new());
            for mut folio in folios {
                if is_plain {
                    plain.push(folio);
                } else {
                    folio.set_owner(OURS, u64::MAX);
                    pinned.push(folio.init());
                }
            }
            let found = zone.alloc_contig(frames, order(align), &none);
            let at = found.as_ref().ok().map(|found| found.pfns().start.as_u64());
            assert_eq!(at, place, "{frames} frames of order {align} beside {in_use:?}, {found:?}");
            found.into_iter().for_each(Contig::free);
            plain.into_iter().for_each(FrozenFolio::free);
            drop(pinned);
            assert_all_free(zone);
        }
    }
}
