//! The allocator against a naive model: a list of who has which frames.
//!
//! What this can not see: two threads (the torture run does), and a platform whose `cpu` says
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
    /// The largest that is free, up to this.
    AllocUpTo(u8),
    /// Frees, or puts, one of those that are held.
    Free(usize),
    /// Splits one of the frozen ones.
    Split(usize, u8),
    Drain,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => (0..=10u8).prop_map(Step::AllocFrozen),
        6 => (0..=3u8).prop_map(Step::AllocFrozen),
        4 => (0..=6u8).prop_map(Step::Alloc),
        2 => (0..=10u8).prop_map(Step::AllocUpTo),
        8 => any::<usize>().prop_map(Step::Free),
        3 => (any::<usize>(), 0..=10u8).prop_map(|(which, order)| Step::Split(which, order)),
        1 => Just(Step::Drain),
    ];
    prop::collection::vec(step, 1..200)
}

enum Held {
    Frozen(FrozenFolio<UserSpace>),
    Counted(FolioRef<UserSpace>),
}

impl Held {
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

/// A held block, and the byte that it was filled with.
type Entry = (Held, u8);

/// All held blocks are aligned and apart, their bytes are their own, and every other frame is
/// counted free.
fn check(zone: &'static Zone<UserSpace>, held: &[Entry]) {
    let mut taken = vec![false; zone.pfns().frames() as usize];
    for (entry, fill) in held {
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
        match held.iter().find(|entry| entry.0.place().0 == pfn) {
            Some((Held::Counted(_), _)) => assert!(seen.is_ok(), "{pfn:?}: {seen:?}"),
            Some((Held::Frozen(_), _)) => {
                assert!(matches!(seen, Err(Refusal::Frozen)), "{pfn:?}: {seen:?}")
            }
            None if taken[frame] => {
                assert!(matches!(seen, Err(Refusal::Tail)), "{pfn:?}: {seen:?}")
            }
            None => assert!(matches!(seen, Err(Refusal::Free)), "{pfn:?}: {seen:?}"),
        }
    }
}

fn run(steps: Vec<Step>) {
    let arena = arena::<DefaultScheme>(2);
    let zone = arena.zone();
    let mut held: Vec<Entry> = Vec::new();
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
                    held.push((
                        if counted { Held::Counted(folio.init()) } else { Held::Frozen(folio) },
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
                        held.push((Held::Frozen(folio), fill));
                    }
                    Err(error) => assert_eq!((error, largest), (AllocError::OutOfFrames, None)),
                }
            }
            Step::Free(which) if !held.is_empty() => held.swap_remove(which % held.len()).0.free(),
            Step::Split(which, n) if !held.is_empty() => {
                let which = which % held.len();
                if !matches!(held[which].0, Held::Frozen(_)) || held[which].0.place().1 < order(n) {
                    continue;
                }
                let (Held::Frozen(folio), fill) = held.swap_remove(which) else { unreachable!() };
                let parts = folio.split(order(n));
                held.extend(parts.map(|part| (Held::Frozen(part), fill)));
            }
            Step::Drain => {
                zone.drain();
            }
            Step::Free(_) | Step::Split(..) => {}
        }
    }
    check(zone, &held);
    for (entry, _) in held {
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
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_sequence_keeps_blocks_apart_and_ends_merged(steps in steps()) {
        run(steps);
    }
}

#[test]
fn an_exhausted_zone_says_so_and_recovers() {
    let arena = arena::<DefaultScheme>(1);
    let zone = arena.zone();
    let held: Vec<_> = std::iter::from_fn(|| zone.alloc(Order::ZERO, OURS, 0).ok()).collect();
    assert_eq!(held.len(), 512);
    assert_eq!(zone.alloc_frozen(Order::ZERO).unwrap_err(), AllocError::OutOfFrames);
    // Every second frame: half is free, nothing larger than a frame.
    let (kept, freed): (Vec<_>, Vec<_>) =
        held.into_iter().partition(|folio| folio.pfn().as_u64() % 2 == 0);
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

/// With how many free frames each level begins and ends, where the marks are 100, 200 and 300.
const LEVELS: [(Level, [u32; 2]); 4] = [
    (Level::Enough, [301, 300]),
    (Level::BelowHigh, [299, 200]),
    (Level::BelowLow, [199, 100]),
    (Level::BelowMin, [99, 0]),
];

/// The levels follow what is free, wherever it lies; the count is the buddy's.
#[test]
fn the_level_falls_and_rises_with_what_is_free() {
    let arena = arena::<DefaultScheme>(1);
    let zone = arena.zone();
    let marks = Watermarks::for_frames(512);
    assert_eq!((zone.watermarks(), zone.free_frames(), zone.level()), (marks, 512, Level::Enough));
    zone.set_watermarks(Watermarks { min: 100, low: 200, high: 300 });
    let mut held = Vec::new();
    for (frames, level) in
        LEVELS.into_iter().flat_map(|(level, some)| some.map(|frames| (frames, level)))
    {
        while zone.stats().free_frames > frames {
            held.push(zone.alloc(Order::ZERO, OURS, 0).unwrap());
        }
        assert_eq!(zone.level(), level, "{frames} frames, some of them in a list");
        zone.drain();
        assert_eq!((zone.free_frames(), zone.level()), (frames, level));
        for (other, _) in LEVELS {
            assert_eq!(zone.is_at_least(other), level >= other, "{other:?} where it is {level:?}");
        }
    }
    zone.set_watermarks(Watermarks { min: 0, low: 0, high: 0 });
    assert_eq!(zone.watermarks(), marks, "back to what fits");
    drop(held);
    assert_all_free(zone);
    assert_eq!(zone.level(), Level::Enough);
    // The whole zone in one CPU's list: the buddy has none, and yet nobody need reclaim.
    zone.alloc_frozen(BLOCK_ORDER).unwrap().free();
    assert_eq!(
        (zone.free_frames(), zone.stats().free_frames, zone.level()),
        (0, 512, Level::Enough)
    );
    let offline = arena.offline(0, &common::Index::new(0)).unwrap();
    assert_eq!((zone.watermarks().high, zone.free_frames()), (0, 0));
    arena.online(offline);
    assert_eq!((zone.watermarks(), zone.free_frames()), (marks, 512));
    let wrong = Watermarks { min: 2, low: 1, high: 3 };
    let sets = std::panic::AssertUnwindSafe(|| zone.set_watermarks(wrong));
    assert!(std::panic::catch_unwind(sets).is_err());
}
