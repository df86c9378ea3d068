//! Memory maps as they are: ranges that are not whole blocks, holes without metadata, memory below
//! 2 MiB. Of the frames and the metadata nothing is mapped but what the map has: a step too far
//! ends the process.

mod common;

use std::collections::BTreeSet;
use std::iter;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::{self, NonNull};

use common::{Index, OURS, order};
use folio_frames::{
    BLOCK_ORDER, ContigError, FRAME_SIZE, FrozenFolio, Kind, MemmapMemory, MemoryMap, MigrateType,
    OfflineError, Order, Pfn, PfnRange, Refusal, UserSpace, Zone,
};
use folio_ref::schemes::{FrozenBit, Generational, LiveBitLow};
use folio_ref::{CHECKS, DefaultScheme, Scheme};
use proptest::prelude::*;
use rustix::mm::{MapFlags, MprotectFlags, ProtFlags, mmap_anonymous, mprotect};

const BLOCK: u64 = BLOCK_ORDER.frames() as u64;
const PAGE: usize = FRAME_SIZE;

/// Reserves addresses, none of which is mapped.
fn addresses(len: usize) -> *mut u8 {
    let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
    // SAFETY: a new mapping at no fixed address touches nothing that exists.
    unsafe { mmap_anonymous(ptr::null_mut(), len.max(PAGE), ProtFlags::empty(), flags) }
        .expect("addresses")
        .cast()
}

/// Maps the pages that this range of bytes touches, and fills them. Returns their number.
fn map_pages(start: *mut u8, bytes: &Range<usize>, fill: u8) -> usize {
    let pages = bytes.start / PAGE * PAGE..bytes.end.next_multiple_of(PAGE);
    let first = start.wrapping_add(pages.start);
    // SAFETY: part of a mapping of this test.
    unsafe { mprotect(first.cast(), pages.len(), MprotectFlags::READ | MprotectFlags::WRITE) }
        .expect("memory");
    if fill != 0 {
        // SAFETY: just mapped.
        unsafe { first.write_bytes(fill, pages.len()) };
    }
    pages.len() / PAGE
}

/// Makes a zone of a map, offline. Returns it, and the number of pages of metadata and its start.
fn zone_of<S: Scheme>(
    map: &MemoryMap<'_>,
    holds: MemmapMemory,
) -> (&'static Zone<UserSpace<S>>, (usize, NonNull<u8>)) {
    zone_with(map, holds, |zone| zone)
}

/// Makes a zone as [`zone_of`] does, and changes it before it is shared.
fn zone_with<S: Scheme>(
    map: &MemoryMap<'_>,
    holds: MemmapMemory,
    change: impl FnOnce(Zone<UserSpace<S>>) -> Zone<UserSpace<S>>,
) -> (&'static Zone<UserSpace<S>>, (usize, NonNull<u8>)) {
    let span = map.span();
    let frames = span.frames() as u32;
    let metadata = addresses(Zone::<UserSpace<S>>::layout(frames).size());
    let fill = if holds == MemmapMemory::Garbage { 0xA5 } else { 0 };
    let pages = map
        .blocks()
        .flat_map(|blocks| Zone::<UserSpace<S>>::metadata_of(frames, blocks))
        .map(|bytes| map_pages(metadata, &bytes, fill))
        .sum();
    let bytes = addresses(span.frames() as usize * PAGE);
    for range in map.ranges() {
        let at = |pfn: Pfn| (pfn.as_u64() - span.start.as_u64()) as usize * PAGE;
        map_pages(bytes, &(at(range.start)..at(range.end)), 0);
    }
    let metadata = NonNull::new(metadata).expect("a mapping is not at 0");
    // SAFETY: both mappings belong to the zone alone, and are never unmapped.
    let zone = unsafe { Zone::from_map(metadata, holds, map, bytes, &[]) };
    (Box::leak(Box::new(change(zone))), (pages, metadata))
}

fn online<S: Scheme>(zone: &'static Zone<UserSpace<S>>) {
    // SAFETY: the bytes of all frames in the map are mapped.
    unsafe { zone.online_range(0..zone.blocks()) };
}

/// Allocates all that is free.
fn all_of<S: Scheme>(zone: &'static Zone<UserSpace<S>>) -> Vec<FrozenFolio<UserSpace<S>>> {
    iter::from_fn(|| zone.alloc_frozen(Order::ZERO).ok()).collect()
}

fn pfns(map: &MemoryMap<'_>) -> BTreeSet<Pfn> {
    map.ranges().flatten().collect()
}

/// Asserts that the zone has the frames of the map, each once, and refuses all others.
fn assert_is_map<S: Scheme>(zone: &'static Zone<UserSpace<S>>, frames: &BTreeSet<Pfn>) {
    assert_eq!(zone.stats().online_frames as usize, frames.len());
    assert_eq!(zone.stats().free_frames as usize, frames.len());
    let mut all = all_of(zone);
    let got: BTreeSet<Pfn> = all.iter().map(FrozenFolio::pfn).collect();
    assert_eq!(got.len(), all.len(), "a frame was allocated twice");
    assert_eq!(&got, frames);
    for folio in &mut all {
        folio.as_mut_slice().fill(1);
    }
    for pfn in zone.pfns().filter(|pfn| !frames.contains(pfn)) {
        assert_eq!(zone.try_get(pfn).err(), Some(Refusal::Offline), "{pfn:?}");
        assert_eq!(zone.try_get_head(pfn).err(), Some(Refusal::Offline), "{pfn:?}");
        assert!(zone.peek_around(pfn).is_none_or(|(_, peek)| peek.kind == Kind::HOLE));
        assert!(!zone.take_referenced(pfn));
    }
    all.into_iter().for_each(FrozenFolio::free);
    zone.drain();
    zone.assert_sound();
    assert_eq!(zone.stats().free_frames as usize, frames.len());
    assert_eq!(zone.count_kind(Kind::PLAIN), 0);
}

/// Takes every block offline and brings it back.
fn offline_and_back<S: Scheme>(zone: &'static Zone<UserSpace<S>>, frames: &BTreeSet<Pfn>) {
    let none = Index::new(0);
    for block in 0..zone.blocks() {
        let range = zone.block_range(block);
        let own = range.clone().filter(|pfn| frames.contains(pfn)).count();
        let offline = match zone.offline(block, &none) {
            Ok(offline) => offline,
            Err(error) => {
                assert_eq!((error, own), (OfflineError::NotOnline, 0));
                continue;
            }
        };
        assert_ne!(own, 0, "a block without a frame was online");
        assert_eq!(zone.stats().online_frames as usize, frames.len() - own);
        assert_eq!(zone.stats().free_frames as usize, frames.len() - own);
        zone.assert_sound();
        for pfn in range {
            assert_eq!(zone.try_get(pfn).err(), Some(Refusal::Offline), "{pfn:?}");
        }
        // SAFETY: its bytes are still mapped.
        unsafe { zone.online(offline) };
        assert_eq!(zone.stats().free_frames as usize, frames.len());
    }
}

fn check<S: Scheme>(map: &MemoryMap<'_>, holds: MemmapMemory) {
    let frames = pfns(map);
    if frames.is_empty() {
        return;
    }
    let (zone, _) = zone_of::<S>(map, holds);
    online(zone);
    assert_is_map(zone, &frames);
    offline_and_back(zone, &frames);
    assert_is_map(zone, &frames);
}

/// A range behind a hole of many blocks.
const FAR: u64 = 128 << 20;

/// Unit of the ranges below: an eighth of a frame.
const UNIT: u64 = PAGE as u64 / 8;

fn ranges(most: usize) -> impl Strategy<Value = Vec<Range<u64>>> {
    // Around block borders, of few frames or many.
    let range = (0..6_u64, 0..40_u64, prop_oneof![0..30_u64, 0..20_000_u64]).prop_map(
        |(block, from, len)| {
            let start = (block * BLOCK * 8 + from * 7) * UNIT;
            start..start + len * UNIT
        },
    );
    prop::collection::vec(range, 0..=most)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn the_frames_online_are_the_whole_frames_in_the_map(
        usable in ranges(6),
        reserved in ranges(4),
        far in prop::bool::ANY,
    ) {
        let mut usable = usable;
        if far {
            usable.push(FAR..FAR + 3 * PAGE as u64 + 1);
        }
        let covers = |ranges: &[Range<u64>], unit: u64| {
            ranges.iter().any(|range| range.contains(&(unit * UNIT)))
        };
        let last = if far { FAR / PAGE as u64 + 4 } else { 20 * BLOCK };
        // Frames far from any range are in none.
        let near = (0..20 * BLOCK).chain(last - 8..last);
        let expected: BTreeSet<Pfn> = near
            .filter(|frame| {
                let mut units = frame * 8..frame * 8 + 8;
                units.all(|unit| covers(&usable, unit) && !covers(&reserved, unit))
            })
            .map(Pfn::new)
            .collect();
        let (mut usable, mut reserved) = (usable, reserved);
        let map = MemoryMap::new(&mut usable, &mut reserved);
        prop_assert_eq!(&pfns(&map), &expected);
        prop_assert_eq!(map.frames(), expected.len() as u64);
        check::<Generational>(&map, MemmapMemory::Zeroed);
        check::<FrozenBit>(&map, MemmapMemory::Garbage);
    }
}

/// Returns what QEMU's firmware reports for 4 GiB, and the frames of the kernel and frame 0.
fn a_pc() -> ([Range<u64>; 3], [Range<u64>; 2]) {
    (
        [0x1_0000_0000..0x1_4000_0000, 0..0x9_fc00, 0x10_0000..0xbffd_f000],
        [0..1, 0x10_0000..0x17_5123],
    )
}

#[test]
fn a_hole_of_a_gibibyte_needs_no_metadata() {
    let (mut usable, mut reserved) = a_pc();
    let map = MemoryMap::new(&mut usable, &mut reserved);
    let (zone, (pages, _)) = zone_of::<DefaultScheme>(&map, MemmapMemory::Zeroed);
    online(zone);
    assert_eq!(u64::from(zone.stats().online_frames), map.frames());
    assert_eq!(map.frames(), 0x9f - 1 + 0xbffdf - 0x176 + 0x40000);
    let all = Zone::<UserSpace>::layout(zone.pfns().frames() as u32).size() / PAGE;
    assert!(pages < all * 5 / 6, "{pages} of {all} pages of metadata are mapped");
    // A walk over every frame number, with the hole.
    let refused = |pfn| zone.try_get(pfn).err() == Some(Refusal::Offline);
    assert!(zone.pfns().all(refused), "deferred blocks and holes are offline to a walker");
    assert_eq!(zone.find_unpinned(OURS, &zone.pfns()), None);
    assert!(format!("{zone:#?}").contains("0 blocks in use"), "{zone:#?}");
    zone.assert_sound();
}

/// So the time under the lock is the same for any size of zone.
#[test]
fn stats_read_no_metadata_of_a_zone_of_any_size() {
    for gib in [1, 64] {
        let mut usable = [0..1, PAGE as u64..gib << 30];
        let map = MemoryMap::new(&mut usable, &mut []);
        let (zone, (_, metadata)) = zone_of::<DefaultScheme>(&map, MemmapMemory::Zeroed);
        online(zone);
        // All blocks before the last one are initialised for this.
        let last = zone.offline(zone.blocks() - 1, &Index::new(0)).expect("a free block");
        // SAFETY: its bytes are still mapped.
        unsafe { zone.online(last) };
        let movable = MigrateType::Movable;
        let folio = zone.alloc_frozen_as(Order::ZERO, movable).expect("a free frame");
        let len = Zone::<UserSpace>::layout(zone.pfns().frames() as u32).size();
        let protect = |flags| {
            // SAFETY: the metadata of this zone, of which this thread alone knows. A read in
            // between ends the process, as this test wants.
            unsafe { mprotect(metadata.as_ptr().cast(), len, flags) }.expect("a mapping");
        };
        protect(MprotectFlags::empty());
        let stats = zone.stats();
        protect(MprotectFlags::READ | MprotectFlags::WRITE);
        let frames = (gib << 18) as u32 - 1;
        assert_eq!((stats.online_frames, stats.free_frames), (frames, frames - 1));
        assert_eq!(stats.whole_blocks, (gib << 9) as u32 - 1, "the first has a hole");
        folio.free();
        zone.assert_sound();
    }
}

#[test]
fn folios_move_out_of_a_block_with_holes() {
    let mut usable = [0x5000..0x40_0000, 0x40_0000..0x60_0800];
    let mut reserved = [0x20_0000..0x20_3000, 0x3f_f000..0x3f_f001];
    let map = MemoryMap::new(&mut usable, &mut reserved);
    let frames = pfns(&map);
    let (zone, _) = zone_of::<LiveBitLow>(&map, MemmapMemory::Garbage);
    online(zone);
    let index = Index::new(64);
    for slot in 0..64 {
        index.publish(zone, slot, order(2));
    }
    for block in 0..3 {
        let offline = zone.offline(block, &index).expect("room in the other blocks");
        zone.assert_sound();
        // SAFETY: its bytes are still mapped.
        unsafe { zone.online(offline) };
    }
    let used =
        |zone: &Zone<UserSpace<LiveBitLow>>| zone.stats().online_frames - zone.stats().free_frames;
    assert_eq!(used(zone), 64 * 4);
    let compacted = zone.compact(3, &index);
    assert_eq!(compacted.busy, 0);
    (0..64).for_each(|slot| index.remove(zone, slot));
    assert_is_map(zone, &frames);
}

#[test]
fn contiguous_memory_has_no_hole() {
    let mut usable = [0..0x30_0000, 0x80_0000..0xa0_0000, 0x100_0000..0x120_0000];
    let mut reserved = [0..0x1000, 0x10_0000..0x10_1000];
    let map = MemoryMap::new(&mut usable, &mut reserved);
    let (zone, _) = zone_of::<DefaultScheme>(&map, MemmapMemory::Zeroed);
    online(zone);
    let none = Index::new(0);
    let range = |start, end| PfnRange { start: Pfn::new(start), end: Pfn::new(end) };
    let take = |start, end| zone.alloc_contig_range(range(start, end), &none);
    for (start, end) in [(0, 1), (0, 600), (0x100, 0x101), (0xff, 0x102), (0x2ff, 0x301)] {
        assert_eq!(take(start, end).err(), Some(ContigError::NotOnline), "{start:#x}");
    }
    // A hole is one with metadata or without: behind, between, at both ends.
    for (start, end) in [(0x400, 0x401), (0x2ff, 0x801), (0x2ff, 0x500), (0x9ff, 0xa01)] {
        assert_eq!(take(start, end).err(), Some(ContigError::NotOnline), "{start:#x}");
    }
    for (start, end) in [(0x1200, 0x1201), (0x11ff, 0x1201), (0, u64::MAX)] {
        assert_eq!(take(start, end).err(), Some(ContigError::Unknown), "{start:#x}");
    }
    // The second last ends where metadata ends, and so do parts of it.
    let taken = [(1, 0x100), (0x101, 0x300), (0x801, 0xa00), (0x800, 0xa00), (0x1000, 0x1200)];
    for (start, end) in taken {
        take(start, end).expect("frames in the map").free();
    }
    // The largest range of the map, of 511 frames, is found at its place.
    let found = zone.alloc_contig(0x1ff, Order::ZERO, &none).expect("a range without a hole");
    assert_eq!(found.pfns().start, Pfn::new(0x101));
    found.free();
    let error = zone.alloc_contig(0x201, Order::ZERO, &none).err();
    assert_eq!(error, Some(ContigError::NoPlace));
    zone.drain();
    zone.assert_sound();
}

#[test]
fn huge_blocks_lie_between_holes() {
    let mut usable = [0x1000..0x80_0000, 0x100_0000..0x240_0000];
    let map = MemoryMap::new(&mut usable, &mut []);
    let (zone, _) = zone_of::<DefaultScheme>(&map, MemmapMemory::Zeroed);
    online(zone);
    let huge: Vec<_> = iter::from_fn(|| zone.alloc_frozen(order(10)).ok()).collect();
    let starts: BTreeSet<u64> = huge.iter().map(|folio| folio.pfn().as_u64()).collect();
    assert_eq!(starts, [0x400, 0x1000, 0x1400, 0x1800, 0x1c00, 0x2000].into());
    huge.into_iter().for_each(FrozenFolio::free);
    assert_is_map(zone, &pfns(&map));
}

#[test]
fn a_block_of_the_huge_order_is_formed_between_holes() {
    // 64 MiB, of which the second and the last 8 MiB have holes.
    let mut usable = [0x1000..0x100_0000, 0x180_0000..0x3c0_0000, 0x3e0_0000..0x400_0000];
    let mut reserved = [0xc0_0000..0xc0_1000, 0..1];
    let map = MemoryMap::new(&mut usable, &mut reserved);
    let frames = pfns(&map);
    let huge = |zone: Zone<UserSpace>| zone.with_huge_order(order(11));
    let (zone, _) = zone_with(&map, MemmapMemory::Zeroed, huge);
    online(zone);
    let huge: Vec<_> = iter::from_fn(|| zone.alloc_frozen(order(11)).ok()).collect();
    let starts: BTreeSet<u64> = huge.iter().map(|folio| folio.pfn().as_u64()).collect();
    assert_eq!(starts, [0x1800, 0x2000, 0x2800, 0x3000].into());
    zone.assert_sound();
    huge.into_iter().for_each(FrozenFolio::free);
    offline_and_back(zone, &frames);
    assert_is_map(zone, &frames);
}

/// A frame inside a hole has the metadata of one that the other allocator keeps.
#[test]
fn no_hole_is_adopted_from_another_allocator() {
    let mut usable = [0x1000..0x30_0000, 0x80_0000..0xa0_0000];
    let mut reserved = [0..1, 0x10_0000..0x14_0000];
    let map = MemoryMap::new(&mut usable, &mut reserved);
    let outer = |zone: Zone<UserSpace>| zone.with_outer_allocator(|_, _, _| ());
    let (zone, _) = zone_with(&map, MemmapMemory::Zeroed, outer);
    // SAFETY: no other code has frames of this zone.
    let adopt = |first, n| unsafe { zone.adopt(Pfn::new(first), order(n)) };
    for (first, n) in [(0, 0), (0x100, 0), (0x101, 0), (0x13f, 0), (0x104, 2), (0x300, 0)] {
        assert!(adopt(first, n).is_none(), "{first:#x} is a hole");
    }
    for (first, n) in [(0, 1), (0x100, 7), (0x200, 9), (0x800, 10), (0x400, 0), (0x400, 10)] {
        assert!(adopt(first, n).is_none(), "there is a hole in order {n} at {first:#x}");
    }
    for (first, n) in [(1, 0), (0x80, 7), (0x140, 6), (0x200, 8), (0x800, 9)] {
        let folio = adopt(first, n).expect("frames in the map").init();
        assert_eq!(zone.try_get(Pfn::new(first)).map(|folio| folio.order()), Ok(order(n)));
        drop(folio);
    }
    zone.assert_sound();
}

#[test]
#[should_panic(expected = "reserve it in the memory map")]
fn a_frame_at_address_0_does_not_come_online() {
    let mut usable = [0..0x10_0000, 0x10_0000..0x20_0000];
    let map = MemoryMap::new(&mut usable, &mut []);
    let layout = Zone::<UserSpace>::layout(512);
    // SAFETY: the layout is not empty.
    let metadata = NonNull::new(unsafe { std::alloc::alloc_zeroed(layout) }).expect("memory");
    // SAFETY: the metadata is the zone's; no frame comes online.
    let zone = unsafe {
        Zone::<UserSpace>::from_map(metadata, MemmapMemory::Zeroed, &map, ptr::null_mut(), &[])
    };
    // SAFETY: it panics.
    unsafe { zone.online_block(0) };
}

#[test]
#[should_panic(expected = "a memory map without a whole frame")]
fn a_map_without_a_whole_frame_makes_no_zone() {
    let mut usable = [0x800..0x1fff, 0x5001..0x6fff];
    let map = MemoryMap::new(&mut usable, &mut []);
    assert_eq!((map.frames(), map.span().frames(), map.blocks().count()), (0, 0, 0));
    zone_of::<DefaultScheme>(&map, MemmapMemory::Zeroed);
}

/// Returns the message of a panic.
fn message<T>(act: impl FnOnce() -> T) -> String {
    let panic = catch_unwind(AssertUnwindSafe(|| drop(act()))).expect_err("a panic");
    *panic.downcast::<String>().expect("a message")
}

#[test]
fn a_zone_of_a_map_is_built_in_place() {
    let mut usable = [0x3000..0x20_0000, 0x20_0000..0x40_1000];
    let map = MemoryMap::new(&mut usable, &mut []);
    let frames = map.span().frames() as u32;
    let metadata = addresses(Zone::<UserSpace>::layout(frames).size());
    map_pages(metadata, &(0..Zone::<UserSpace>::layout(frames).size()), 0);
    let bytes = addresses(map.span().frames() as usize * PAGE);
    map_pages(bytes, &(3 * PAGE..0x401 * PAGE), 0);
    let metadata = NonNull::new(metadata).expect("a mapping is not at 0");
    let place = Box::leak(Box::<Zone<UserSpace>>::new_uninit());
    let start = place.as_ptr();
    // SAFETY: both mappings belong to the zone alone, and are never unmapped.
    let zone =
        unsafe { Zone::from_map_in(place, metadata, MemmapMemory::Zeroed, &map, bytes, &[]) };
    assert_eq!(ptr::from_ref(zone), start);
    online(zone);
    assert_is_map(zone, &pfns(&map));
}

/// Makes a zone of which no frame comes online.
fn offline_zone(first: u64, frames: u32, direct_map: usize) -> Zone<UserSpace> {
    let len = Zone::<UserSpace>::layout(frames).size();
    let metadata = addresses(len);
    map_pages(metadata, &(0..len.max(1)), 0); // QEMU refuses an empty range
    let metadata = NonNull::new(metadata).expect("a mapping is not at 0");
    let (first, bytes) = (Pfn::new(first), ptr::without_provenance_mut(direct_map));
    // SAFETY: the metadata is the zone's.
    unsafe { Zone::new(metadata, MemmapMemory::Zeroed, first, frames, bytes, &[]) }
}

#[test]
fn a_zone_of_wrong_parts_is_refused() {
    let text = message(|| offline_zone(0, 0, 0));
    assert!(text.starts_with("a zone of 0 frames: it must have some"), "{text}");
    let text = message(|| offline_zone(0, 100, 0));
    assert!(text.contains("100 is not a multiple of 512"), "{text}");
    let text = message(|| offline_zone(512, 512, 0));
    assert!(text.contains("pfn 0x200 is not a multiple of 1024"), "{text}");
    let text = message(|| offline_zone(u64::MAX - 1023, 1024, 0));
    assert!(text.contains("end above frame 2^52"), "{text}");
    let text = message(|| offline_zone(0, 512, 0x1008));
    assert!(text.contains("0x1008 is not aligned to a frame"), "{text}");
    let end = (1 << 52) - 1024;
    assert_eq!(offline_zone(end, 1024, 0).pfns().end, Pfn::new(1 << 52));

    let mut usable = [0x1000..0x2000, 0x2000..u64::MAX];
    let map = MemoryMap::new(&mut usable, &mut []);
    let (metadata, holds) = (NonNull::dangling(), MemmapMemory::Zeroed);
    let text = message(|| {
        // SAFETY: it panics before it does anything.
        unsafe { Zone::<UserSpace>::from_map(metadata, holds, &map, ptr::null_mut(), &[]) }
    });
    assert!(text.contains("the map spans 4503599627370496 frames"), "{text}");
}

#[test]
fn a_block_comes_online_once() {
    let mut usable = [0x1000..0x20_0000, 0x20_0000..0x80_0000];
    let map = MemoryMap::new(&mut usable, &mut []);
    let (zone, _) = zone_of::<DefaultScheme>(&map, MemmapMemory::Zeroed);
    // SAFETY: none, here and below: each is refused.
    let text = message(|| unsafe { zone.online_block(4) });
    assert!(text.contains("block 4 is not below 4"), "{text}");
    online(zone);
    // SAFETY: as above.
    let text = message(|| unsafe { zone.online_block(1) });
    assert!(text.contains("its initialisation is deferred"), "{text}");
    // All blocks are initialised for this.
    let all = all_of(zone);
    // SAFETY: as above.
    let text = message(|| unsafe { zone.online_block(1) });
    assert_eq!(text, "block 1 is online already");
    if CHECKS {
        let text = message(|| online(zone));
        assert!(text.contains("block 0 of 0..4 comes online, but is Online"), "{text}");
    }
    assert_eq!(u64::from(zone.stats().online_frames), map.frames());
    all.into_iter().for_each(FrozenFolio::free);
    zone.drain();
    zone.assert_sound();
}
