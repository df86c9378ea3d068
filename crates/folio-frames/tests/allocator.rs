//! The allocator against a naive model: a list of the blocks in use.
//!
//! Not covered: two threads (the torture run covers them), and a platform on which `cpu` returns
//! different numbers.

mod common;

use common::{OURS, arena, assert_all_free, order};
use folio_frames::{
    AllocError, BLOCK_ORDER, FolioRef, FrozenFolio, Level, MAX_ORDER, MigrateType, Order, Pfn,
    Refusal, UserSpace, Watermarks, Zone,
};
use folio_ref::DefaultScheme;
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Step {
    AllocFrozen(u8),
    Alloc(u8),
    /// The largest free block, up to this order.
    AllocUpTo(u8),
    /// The block at a frame, up to this order, if so many frames are free there.
    AllocAt(u32, u32, u8),
    /// Frees, or puts, one of the blocks in use.
    Free(usize),
    /// Splits one of the frozen blocks.
    Split(usize, u8),
    Drain,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => (0..=10u8).prop_map(Step::AllocFrozen),
        6 => (0..=3u8).prop_map(Step::AllocFrozen),
        4 => (0..=6u8).prop_map(Step::Alloc),
        2 => (0..=10u8).prop_map(Step::AllocUpTo),
        4 => (0..1024u32, 0..600u32, 0..=10u8).prop_map(|(at, n, up)| Step::AllocAt(at, n, up)),
        8 => any::<usize>().prop_map(Step::Free),
        3 => (any::<usize>(), 0..=10u8).prop_map(|(which, order)| Step::Split(which, order)),
        1 => Just(Step::Drain),
    ];
    prop::collection::vec(step, 1..200)
}

enum Block {
    Frozen(FrozenFolio<UserSpace>),
    Counted(FolioRef<UserSpace>),
}

impl Block {
    fn place(&self) -> (Pfn, Order) {
        match self {
            Self::Frozen(folio) => (folio.pfn(), folio.order()),
            Self::Counted(folio) => (folio.pfn(), folio.order()),
        }
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Self::Frozen(folio) => folio.as_slice(),
            Self::Counted(folio) => folio.as_slice(),
        }
    }

    fn free(self) {
        match self {
            Self::Frozen(folio) => folio.free(),
            Self::Counted(folio) => drop(folio),
        }
    }
}

/// A block in use, and the byte that it is filled with.
type Entry = (Block, u8);

/// Asserts that all blocks in use are aligned and apart and keep their bytes, and that every other
/// frame counts as free.
fn check(zone: &'static Zone<UserSpace>, used: &[Entry]) {
    let mut taken = vec![false; zone.pfns().frames() as usize];
    for (entry, fill) in used {
        let (pfn, order) = entry.place();
        let first = (pfn.as_u64() - zone.pfns().start.as_u64()) as usize;
        assert_eq!(first % order.frames() as usize, 0, "{pfn:?} of {order:?} is not aligned");
        for frame in &mut taken[first..first + order.frames() as usize] {
            assert!(!*frame, "{pfn:?} of {order:?} overlaps another block");
            *frame = true;
        }
        assert!(
            entry.bytes().iter().step_by(512).all(|byte| byte == fill),
            "{pfn:?} of {order:?} was overwritten"
        );
    }
    let free = taken.iter().filter(|&&taken| !taken).count();
    assert_eq!(zone.stats().free_frames as usize, free);
    for (frame, pfn) in zone.pfns().enumerate() {
        let seen = zone.try_get(pfn);
        match used.iter().find(|entry| entry.0.place().0 == pfn) {
            Some((Block::Counted(_), _)) => assert!(seen.is_ok(), "{pfn:?}: {seen:?}"),
            Some((Block::Frozen(_), _)) => {
                assert!(matches!(seen, Err(Refusal::Frozen)), "{pfn:?}: {seen:?}");
            }
            None if taken[frame] => {
                assert!(matches!(seen, Err(Refusal::Tail)), "{pfn:?}: {seen:?}");
            }
            None => assert!(matches!(seen, Err(Refusal::Free)), "{pfn:?}: {seen:?}"),
        }
    }
}

fn run(steps: Vec<Step>) {
    let arena = arena::<DefaultScheme>(2);
    let zone = arena.zone();
    let mut used: Vec<Entry> = Vec::new();
    let mut fills = (1..=u8::MAX).cycle();
    for step in steps {
        match step {
            Step::AllocFrozen(n) | Step::Alloc(n) => match zone.alloc_frozen(order(n)) {
                Ok(mut folio) => {
                    let fill = fills.next().expect("a cycle");
                    folio.as_mut_slice().fill(fill);
                    assert_eq!(folio.order(), order(n));
                    let counted = matches!(step, Step::Alloc(_));
                    if counted {
                        folio.set_owner(OURS, 0);
                    }
                    used.push((
                        if counted { Block::Counted(folio.init()) } else { Block::Frozen(folio) },
                        fill,
                    ));
                }
                Err(AllocError::OutOfFrames) => assert_eq!(zone.stats().largest_free_order, None),
                Err(AllocError::Fragmented { largest }) => assert!(largest < order(n)),
                Err(error) => panic!("{error}"),
            },
            Step::AllocUpTo(n) => {
                zone.drain();
                let largest = zone.stats().largest_free_order;
                match zone.alloc_frozen_up_to(order(n), MigrateType::Movable) {
                    Ok(mut folio) => {
                        assert_eq!(
                            Some(folio.order()),
                            largest.map(|largest| largest.min(order(n)))
                        );
                        let fill = fills.next().expect("a cycle");
                        folio.as_mut_slice().fill(fill);
                        used.push((Block::Frozen(folio), fill));
                    }
                    Err(error) => assert_eq!((error, largest), (AllocError::OutOfFrames, None)),
                }
            }
            Step::AllocAt(at, frames, n) => {
                let first = Pfn::new(zone.pfns().start.as_u64() + u64::from(at));
                let end = at + frames.max(1);
                let are_free = end <= 1024
                    && used.iter().all(|(entry, _)| {
                        let (pfn, order) = entry.place();
                        let its = (pfn.as_u64() - zone.pfns().start.as_u64()) as u32;
                        its >= end || its + order.frames() <= at
                    });
                let migrate_type = [MigrateType::Movable, MigrateType::Unmovable][n as usize % 2];
                if let Some(mut folio) = zone.alloc_frozen_at(first, frames, order(n), migrate_type)
                {
                    assert!(are_free && folio.pfn() == first && folio.order() <= order(n));
                    let fill = fills.next().expect("a cycle");
                    folio.as_mut_slice().fill(fill);
                    used.push((Block::Frozen(folio), fill));
                }
            }
            Step::Free(which) if !used.is_empty() => used.swap_remove(which % used.len()).0.free(),
            Step::Split(which, n) if !used.is_empty() => {
                let which = which % used.len();
                if !matches!(used[which].0, Block::Frozen(_)) || used[which].0.place().1 < order(n)
                {
                    continue;
                }
                let (Block::Frozen(folio), fill) = used.swap_remove(which) else { unreachable!() };
                let pieces = folio.split(order(n));
                used.extend(pieces.map(|piece| (Block::Frozen(piece), fill)));
            }
            Step::Drain => {
                zone.drain();
            }
            Step::Free(_) | Step::Split(..) => {}
        }
    }
    check(zone, &used);
    for (entry, _) in used {
        entry.free();
    }
    assert_all_free(zone);
    assert_eq!(
        zone.stats().largest_free_order,
        Some(MAX_ORDER),
        "free blocks were not merged: {zone:?}"
    );
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 200,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn any_sequence_keeps_blocks_apart_and_ends_merged(steps in steps()) {
        run(steps);
    }
}

#[test]
fn an_exhausted_zone_refuses_and_recovers() {
    let arena = arena::<DefaultScheme>(1);
    let zone = arena.zone();
    let used: Vec<_> = std::iter::from_fn(|| zone.alloc(Order::ZERO, OURS, 0).ok()).collect();
    assert_eq!(used.len(), 512);
    assert_eq!(zone.alloc_frozen(Order::ZERO).unwrap_err(), AllocError::OutOfFrames);
    // Every second frame is freed: half of the zone, and nothing larger than a frame.
    let (kept, freed): (Vec<_>, Vec<_>) =
        used.into_iter().partition(|folio| folio.pfn().as_u64() % 2 == 0);
    drop(freed);
    zone.drain();
    assert_eq!(
        zone.alloc_frozen(order(1)).unwrap_err(),
        AllocError::Fragmented { largest: Order::ZERO }
    );
    drop(kept);
    assert_all_free(zone);
    zone.alloc_frozen(BLOCK_ORDER).expect("merged again").free();
}

/// Numbers of free frames near the upper and at the lower end of each level, with watermarks of
/// 100, 200 and 300.
const LEVELS: [(Level, [u32; 2]); 4] = [
    (Level::Enough, [301, 300]),
    (Level::BelowHigh, [299, 200]),
    (Level::BelowLow, [199, 100]),
    (Level::BelowMin, [99, 0]),
];

/// The level counts all free frames, `free_frames` only those of the buddy.
#[test]
fn the_level_follows_the_free_frames() {
    let arena = arena::<DefaultScheme>(1);
    let zone = arena.zone();
    let defaults = Watermarks::for_frames(512);
    assert_eq!(
        (zone.watermarks(), zone.free_frames(), zone.level()),
        (defaults, 512, Level::Enough)
    );
    zone.set_watermarks(Watermarks { min: 100, low: 200, high: 300 });
    let mut used = Vec::new();
    for (frames, level) in
        LEVELS.into_iter().flat_map(|(level, some)| some.map(|frames| (frames, level)))
    {
        while zone.stats().free_frames > frames {
            used.push(zone.alloc(Order::ZERO, OURS, 0).unwrap());
        }
        assert_eq!(zone.level(), level, "{frames} frames, some of them in a list");
        zone.drain();
        assert_eq!((zone.free_frames(), zone.level()), (frames, level));
        for (other, _) in LEVELS {
            assert_eq!(zone.is_at_least(other), level >= other, "{other:?} where it is {level:?}");
        }
    }
    zone.set_watermarks(Watermarks { min: 0, low: 0, high: 0 });
    assert_eq!(zone.watermarks(), defaults, "zeroes restore the defaults");
    drop(used);
    assert_all_free(zone);
    assert_eq!(zone.level(), Level::Enough);
    // The whole zone is in one CPU's list: the buddy has no frame, and the level is still `Enough`.
    zone.alloc_frozen(BLOCK_ORDER).unwrap().free();
    assert_eq!(
        (zone.free_frames(), zone.stats().free_frames, zone.level()),
        (0, 512, Level::Enough)
    );
    let offline = arena.offline(0, &common::Index::new(0)).unwrap();
    assert_eq!((zone.watermarks().high, zone.free_frames()), (0, 0));
    arena.online(offline);
    assert_eq!((zone.watermarks(), zone.free_frames()), (defaults, 512));
    let wrong = Watermarks { min: 2, low: 1, high: 3 };
    let sets = std::panic::AssertUnwindSafe(|| zone.set_watermarks(wrong));
    assert!(std::panic::catch_unwind(sets).is_err());
}
