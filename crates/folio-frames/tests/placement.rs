//! Where the allocator puts things: by mobility, so that 2 MiB blocks survive; one huge order
//! above; the CPU's lists first.

mod common;

use std::cell::Cell;
use std::collections::BTreeSet;

use common::{Index, OURS, arena, assert_all_free, order};
use folio_frames::{
    AllocError, Arena, BLOCK_ORDER, FRAME_SIZE, FrozenFolio, MAX_ORDER, MigrateType, Order, Pfn,
    Platform, UserSpace, Zone,
};
use folio_ref::DefaultScheme;

type Token = FrozenFolio<UserSpace>;

fn block_of(zone: &Zone<UserSpace>, pfn: Pfn) -> u64 {
    (pfn.as_u64() - zone.pfns().start.as_u64()) / u64::from(BLOCK_ORDER.frames())
}

#[test]
fn what_stays_is_kept_apart_from_what_moves() {
    let arena = arena::<DefaultScheme>(12);
    let zone = arena.zone();
    let mut held: Vec<(MigrateType, Token)> = Vec::new();
    for n in 0..600 {
        for migrate_type in [MigrateType::Movable, MigrateType::Reclaimable, MigrateType::Unmovable]
        {
            held.push((
                migrate_type,
                zone.alloc_frozen_as(order((n % 3) as u8), migrate_type).unwrap(),
            ));
        }
    }
    for migrate_type in [MigrateType::Movable, MigrateType::Reclaimable, MigrateType::Unmovable] {
        let own = |whose: &dyn Fn(MigrateType) -> bool| -> BTreeSet<u64> {
            held.iter()
                .filter(|held| whose(held.0))
                .map(|held| block_of(zone, held.1.pfn()))
                .collect()
        };
        let (ours, others) =
            (own(&|whose| whose == migrate_type), own(&|whose| whose != migrate_type));
        assert!(ours.is_disjoint(&others), "{migrate_type:?} shares a block: {ours:?} {others:?}");
    }
    zone.assert_sound();
    for (_, token) in held {
        token.free();
    }
    assert_all_free(zone);
    assert_eq!(zone.stats().whole_blocks, 12);
}

/// Two page tables, allocated long apart while pages fill everything, must not spoil two blocks.
#[test]
fn the_second_thing_that_stays_joins_the_first() {
    let arena = arena::<DefaultScheme>(4);
    let zone = arena.zone();
    let mut pages: Vec<Token> = (0..2048)
        .map(|_| zone.alloc_frozen_as(Order::ZERO, MigrateType::Movable).unwrap())
        .collect();
    // A few pages of every block are freed.
    let (freed, kept): (Vec<Token>, Vec<Token>) =
        pages.drain(..).partition(|page| page.pfn().as_u64() % 8 < 2);
    freed.into_iter().for_each(Token::free);
    zone.drain();
    // Each larger than a CPU's list, so that it comes from the buddy.
    let stay: Vec<Token> = (0..100).map(|_| zone.alloc_frozen(order(1)).unwrap()).collect();
    let blocks: BTreeSet<u64> = stay.iter().map(|token| block_of(zone, token.pfn())).collect();
    assert!(blocks.len() <= 2, "100 times 2 frames, 64 such in each block: {blocks:?}");
    assert!(zone.counters().blocks_claimed >= 2, "{:?}", zone.counters());
    stay.into_iter().chain(kept).for_each(Token::free);
    assert_all_free(zone);
}

#[test]
fn a_page_that_moves_borrows_a_place_rather_than_a_block() {
    let arena = arena::<DefaultScheme>(1);
    let zone = arena.zone();
    let stay: Vec<Token> = (0..6).map(|_| zone.alloc_frozen(order(6)).unwrap()).collect();
    let page = zone.alloc_frozen_as(order(4), MigrateType::Movable).unwrap();
    assert_eq!((zone.counters().blocks_borrowed, zone.counters().blocks_claimed), (1, 1));
    page.free();
    stay.into_iter().for_each(Token::free);
    assert_all_free(zone);
}

#[test]
fn a_page_that_moves_takes_a_block_over_where_half_of_it_is_free() {
    for (used, expected) in [(4, (0, 2)), (5, (1, 1))] {
        let arena = arena::<DefaultScheme>(1);
        let zone = arena.zone();
        let stay: Vec<Token> = (0..used).map(|_| zone.alloc_frozen(order(6)).unwrap()).collect();
        let page = zone.alloc_frozen_as(order(4), MigrateType::Movable).unwrap();
        let counters = zone.counters();
        assert_eq!(
            (counters.blocks_borrowed, counters.blocks_claimed),
            expected,
            "{used} of 8 parts are in use"
        );
        zone.assert_sound();
        page.free();
        stay.into_iter().for_each(Token::free);
        assert_all_free(zone);
    }
}

/// Each list is nearly in order: what is freed goes to the nearer end, or next to what is there.
#[test]
fn of_the_free_blocks_of_an_order_a_low_one_is_taken() {
    let arena = arena::<DefaultScheme>(2);
    let zone = arena.zone();
    // Not through the CPU's lists.
    let part = order(4);
    let mut parts: Vec<Token> =
        std::iter::from_fn(|| zone.alloc_frozen_as(part, MigrateType::Movable).ok()).collect();
    parts.sort_by_key(Token::pfn);
    let first = zone.pfns().start.as_u64();
    let place = |token: &Token| (token.pfn().as_u64() - first) / u64::from(part.frames());
    // No two of them merge.
    for freed in [20, 40, 10, 60, 12, 50, 35, 14] {
        let at = parts.iter().position(|token| place(token) == freed).unwrap();
        parts.remove(at).free();
        zone.assert_sound();
    }
    for expected in [10, 14, 35, 12, 20, 40, 50, 60] {
        let next = zone.alloc_frozen_as(part, MigrateType::Movable).unwrap();
        assert_eq!(place(&next), expected);
        parts.push(next);
    }
    zone.assert_sound();
    parts.into_iter().for_each(Token::free);
    assert_all_free(zone);
}

#[test]
fn all_frames_are_handed_out_whatever_the_migrate_type() {
    let arena = arena::<DefaultScheme>(3);
    let zone = arena.zone();
    for migrate_type in [MigrateType::Unmovable, MigrateType::Movable, MigrateType::Reclaimable] {
        let all: Vec<Token> =
            std::iter::from_fn(|| zone.alloc_frozen_as(Order::ZERO, migrate_type).ok()).collect();
        assert_eq!(all.len(), 3 * 512);
        zone.assert_sound();
        all.into_iter().for_each(Token::free);
        assert_all_free(zone);
        assert_eq!(zone.stats().whole_blocks, 3, "{zone:?}");
    }
}

/// What lies in the list of another CPU is free: who finds nothing else takes it from there.
/// (Before, the caller had to drain by hand.)
#[test]
fn what_another_cpu_holds_back_is_found_before_out_of_frames() {
    let arena = arena::<DefaultScheme>(1);
    let zone = arena.zone();
    std::thread::scope(|scope| {
        scope.spawn(|| zone.alloc_frozen(Order::ZERO).unwrap().free()).join().unwrap();
    });
    assert_eq!(zone.stats().free_frames, 512);
    assert!(zone.free_frames() < 512, "some are in the other thread's list");
    zone.alloc_frozen(BLOCK_ORDER).expect("all of it").free();
    assert_all_free(zone);
}

#[test]
fn small_orders_go_through_the_list_of_their_cpu() {
    let arena = arena::<DefaultScheme>(2);
    let zone = arena.zone();
    for n in 0..=4 {
        let before = zone.counters();
        for _ in 0..1000 {
            zone.alloc_frozen(order(n)).unwrap().free();
        }
        let after = zone.counters();
        let (through, buddy) = (
            after.per_cpu_allocated - before.per_cpu_allocated,
            after.buddy_allocated - before.buddy_allocated,
        );
        match n {
            0..=3 => assert!(through == 1000 && buddy <= 32, "{after:?}"),
            _ => assert!(through == 0 && buddy == 1000, "{after:?}"),
        }
        assert_eq!(after.per_cpu_freed - before.per_cpu_freed, through);
    }
    assert_all_free(zone);
}

#[test]
fn a_cpu_keeps_64_frames_of_an_order_and_half_of_them_when_it_gives_some_back() {
    for n in 0..=3 {
        let arena = arena::<DefaultScheme>(4);
        let zone = arena.zone();
        let capacity = 64 >> n;
        let mut tokens: Vec<Token> =
            (0..=capacity).map(|_| zone.alloc_frozen(order(n)).unwrap()).collect();
        zone.drain();
        let held = || (zone.stats().free_frames - zone.free_frames()) >> n;
        tokens.drain(1..).for_each(Token::free);
        assert_eq!(held(), capacity, "blocks of order {n}");
        tokens.into_iter().for_each(Token::free);
        assert_eq!(held(), capacity / 2 + 1, "blocks of order {n}");
        assert_all_free(zone);
    }
}

/// User space whose threads say which CPU they are on.
struct Numbered;

thread_local! {
    static CPU: Cell<usize> = const { Cell::new(0) };
}

impl Platform for Numbered {
    type Scheme = DefaultScheme;
    type Lock = <UserSpace as Platform>::Lock;

    fn cpu() -> usize {
        CPU.get()
    }
    fn wait(key: usize, still: &dyn Fn() -> bool) {
        UserSpace::<DefaultScheme>::wait(key, still);
    }
    fn wake_all(key: usize) {
        UserSpace::<DefaultScheme>::wake_all(key);
    }
}

#[test]
fn each_of_16_cpus_has_its_own_lists_and_more_share_them() {
    let arena = Arena::<Numbered>::new(4 << 21, &[]).unwrap();
    let zone = arena.zone();
    let from_buddy = |cpu: usize| {
        CPU.set(cpu);
        let before = zone.counters().buddy_allocated;
        zone.alloc_frozen(Order::ZERO).unwrap().free();
        zone.counters().buddy_allocated - before
    };
    assert_eq!([0, 1, 15].map(from_buddy), [32; 3], "each fills its list");
    assert_eq!([0, 1, 15, 16, 17, 1023].map(from_buddy), [0; 6]);
    assert_all_free(zone);
}

/// All of a zone as single frames, by their 2 MiB block.
fn full(zone: &'static Zone<UserSpace>) -> Vec<Vec<Token>> {
    let mut blocks: Vec<Vec<Token>> = (0..zone.blocks()).map(|_| Vec::new()).collect();
    while let Ok(token) = zone.alloc_frozen_as(Order::ZERO, MigrateType::Movable) {
        blocks[block_of(zone, token.pfn()) as usize].push(token);
    }
    blocks
}

/// The story of 10 blocks where first fit leaves 11: a 2 MiB block that was nearly empty gave what
/// was freed in it last to whoever came next, and was never free as a whole.
#[test]
fn a_high_block_is_left_alone_while_a_lower_one_has_room() {
    let arena = arena::<DefaultScheme>(16);
    let zone = arena.zone();
    let mut blocks = full(zone);
    // Every other frame, so that nothing merges.
    let mut every_other = |block: usize, frames: std::ops::Range<u64>| {
        let is_in = |token: &mut Token| {
            let within = token.pfn().as_u64() % u64::from(BLOCK_ORDER.frames());
            within.is_multiple_of(2) && frames.contains(&within)
        };
        blocks[block].extract_if(.., is_in).for_each(Token::free);
        zone.drain();
    };
    every_other(9, 0..40);
    every_other(3, 0..16);
    every_other(9, 40..512);
    let next: Vec<Token> =
        (0..8).map(|_| zone.alloc_frozen_as(Order::ZERO, MigrateType::Movable).unwrap()).collect();
    let from: Vec<u64> = next.iter().map(|token| block_of(zone, token.pfn())).collect();
    assert_eq!(from, [3; 8], "block 3 has 8 free frames, block 9 has 256");
    zone.assert_sound();
    blocks.into_iter().flatten().chain(next).for_each(Token::free);
    assert_all_free(zone);
}

/// Before it was so, 9 blocks stayed whole where one page in eight stays, instead of 9.6.
#[test]
fn a_roomy_block_is_left_alone_even_where_it_has_the_better_fit() {
    let arena = arena::<DefaultScheme>(16);
    let zone = arena.zone();
    let mut blocks = full(zone);
    let mut free = |block: usize, which: &dyn Fn(u64) -> bool| {
        let is_in =
            |token: &mut Token| which(token.pfn().as_u64() % u64::from(BLOCK_ORDER.frames()));
        blocks[block].extract_if(.., is_in).for_each(Token::free);
        zone.drain();
        zone.assert_sound();
    };
    let takes = |frames: usize, block: u64| {
        let next: Vec<Token> = (0..frames)
            .map(|_| zone.alloc_frozen_as(Order::ZERO, MigrateType::Movable).unwrap())
            .collect();
        assert!(
            next.iter().all(|token| block_of(zone, token.pfn()) == block),
            "{frames} of block {block}: {next:?}"
        );
        zone.drain();
        zone.assert_sound();
        next
    };
    // Single frames and a pair, one more than half of the block; and one hole of 32.
    free(3, &|within| within.is_multiple_of(2) || within == 1);
    free(9, &|within| (32..64).contains(&within));
    let mut next = takes(32, 9);
    // With 65 of these gone it is as good as any.
    next.extend(takes(66, 3));
    free(9, &|within| within < 8);
    next.extend(takes(8, 3));
    blocks.into_iter().flatten().chain(next).for_each(Token::free);
    assert_all_free(zone);
}

#[test]
fn a_block_is_roomy_no_longer_as_soon_as_enough_of_it_is_taken() {
    let arena = arena::<DefaultScheme>(16);
    let zone = arena.zone();
    let mut blocks = full(zone);
    let mut free = |block: usize, frames: std::ops::Range<u64>| {
        let is_in = |token: &mut Token| {
            frames.contains(&(token.pfn().as_u64() % u64::from(BLOCK_ORDER.frames())))
        };
        blocks[block].extract_if(.., is_in).for_each(Token::free);
        zone.drain();
    };
    // An order that has no list, so that nothing is freed in this block any more.
    let take = || zone.alloc_frozen_as(order(4), MigrateType::Movable).unwrap();
    free(3, 0..384);
    let mut taken: Vec<Token> = (0..13).map(|_| take()).collect();
    // 176 of 512 are left in it, a hole of 16 among them; in the other block there is one of 32.
    free(9, 0..32);
    taken.push(take());
    assert!(taken.iter().all(|token| block_of(zone, token.pfn()) == 3), "{taken:?}");
    zone.assert_sound();
    blocks.into_iter().flatten().chain(taken).for_each(Token::free);
    assert_all_free(zone);
}

/// Pairs and larger in the lists of CPUs cost a tenth of a whole block of 128, single frames hardly
/// anything.
#[test]
fn a_cpu_holds_only_single_frames_back_while_memory_is_short() {
    let arena = arena::<DefaultScheme>(16);
    let zone = arena.zone();
    let held = || zone.stats().free_frames - zone.free_frames();
    let pair = || zone.alloc_frozen_as(order(1), MigrateType::Movable).unwrap();
    let kept = [pair(), pair()];
    pair().free();
    assert!(held() >= 16, "{} frames in the list of one CPU", held());
    let mut rest: Vec<Token> = (0..15 * 512)
        .map(|_| zone.alloc_frozen_as(Order::ZERO, MigrateType::Movable).unwrap())
        .collect();
    let before = zone.counters();
    kept.into_iter().for_each(Token::free);
    let pairs: Vec<Token> = (0..20).map(|_| pair()).collect();
    let after = zone.counters();
    assert_eq!(
        (after.per_cpu_freed, after.per_cpu_allocated),
        (before.per_cpu_freed, before.per_cpu_allocated)
    );
    assert!(held() <= 16, "{} frames in the list of one CPU", held());
    rest.swap_remove(0).free();
    rest.extend((0..20).map(|_| zone.alloc_frozen_as(Order::ZERO, MigrateType::Movable).unwrap()));
    let singles = zone.counters();
    let (freed, taken) = (
        singles.per_cpu_freed - after.per_cpu_freed,
        singles.per_cpu_allocated - after.per_cpu_allocated,
    );
    assert_eq!(
        (freed, taken),
        (1, 20),
        "one freed where all else is in use, and more taken than a list holds"
    );
    rest.extend(pairs);
    rest.into_iter().for_each(Token::free);
    assert_all_free(zone);
}

#[test]
fn a_cpu_holds_less_back_while_memory_is_short() {
    let arena = arena::<DefaultScheme>(16);
    let zone = arena.zone();
    let mut blocks = full(zone);
    let before = zone.counters().per_cpu_freed;
    blocks.pop().unwrap().into_iter().for_each(Token::free);
    let held = zone.stats().free_frames - zone.free_frames();
    assert!(held <= 16, "{held} of 512 free frames are in the list of one CPU");
    let listed = zone.counters().per_cpu_freed - before;
    assert!(listed < 64, "{listed} of 512 frames of a block that empties went through the lists");
    // With room again, the lists are used again.
    blocks.drain(..8).flatten().for_each(Token::free);
    let before = zone.counters().per_cpu_freed;
    (0..1000).for_each(|_| zone.alloc_frozen_as(Order::ZERO, MigrateType::Movable).unwrap().free());
    assert_eq!(zone.counters().per_cpu_freed - before, 1000);
    blocks.into_iter().flatten().for_each(Token::free);
    assert_all_free(zone);
    assert_eq!(zone.stats().whole_blocks, 16);
}

/// 32 MiB, so that a test has room for several.
const HUGE: u8 = 13;

#[test]
fn one_huge_order_is_formed_on_demand_and_stays_whole() {
    let huge = order(HUGE);
    let arena = Arena::<UserSpace>::with_huge_order(huge.bytes() * 2, &[], huge).unwrap();
    let zone = arena.zone();
    assert_eq!(
        zone.stats().largest_free_order,
        Some(MAX_ORDER),
        "none is formed before one is asked for"
    );
    let mut folio = zone.alloc_frozen(huge).unwrap();
    assert_eq!((folio.order(), folio.as_slice().len()), (huge, huge.bytes()));
    assert_eq!(
        folio.as_slice().as_ptr().addr() % huge.bytes(),
        0,
        "its bytes are aligned as its frames are"
    );
    folio.as_mut_slice()[huge.bytes() - FRAME_SIZE..].fill(7);
    let head = folio.init();
    let tail = Pfn::new(head.pfn().as_u64() + u64::from(huge.frames()) - 1);
    assert_eq!(zone.try_get_head(tail).unwrap().pfn(), head.pfn(), "the last tail knows its head");
    drop(head);
    assert_eq!(zone.stats().largest_free_order, Some(huge), "it stays whole");
    // Small things go elsewhere.
    let half: Vec<Token> = (0..8).map(|_| zone.alloc_frozen(order(10)).unwrap()).collect();
    assert_eq!(zone.stats().largest_free_order, Some(huge));
    assert!(zone.alloc_frozen(huge).map(Token::free).is_ok());
    // Until nothing else is left.
    let rest: Vec<Token> = (0..8).map(|_| zone.alloc_frozen(order(10)).unwrap()).collect();
    assert_eq!(zone.alloc_frozen(huge).unwrap_err(), AllocError::OutOfFrames);
    half.into_iter().chain(rest).for_each(Token::free);
    assert_eq!(zone.alloc_frozen(order(12)).unwrap_err(), AllocError::TooLarge { most: huge });
    assert_all_free(zone);
    let folio = zone.alloc_frozen(huge).unwrap();
    folio.split(order(9)).for_each(Token::free);
    assert_all_free(zone);
    assert_eq!(zone.stats().whole_blocks, 32);
}

/// One above the largest order that halves merge into.
#[test]
fn the_smallest_huge_order_is_counted_as_all_others() {
    let huge = order(MAX_ORDER.as_u8() + 1);
    let arena = Arena::<UserSpace>::with_huge_order(huge.bytes() * 2, &[], huge).unwrap();
    let zone = arena.zone();
    let before = zone.counters();
    let both = [(); 2].map(|()| zone.alloc_frozen(huge).unwrap());
    assert_eq!(zone.alloc_frozen(huge).unwrap_err(), AllocError::OutOfFrames);
    assert_eq!(zone.counters().buddy_allocated - before.buddy_allocated, 2);
    both.into_iter().for_each(Token::free);
    let after = zone.counters();
    assert_eq!(after.buddy_freed - before.buddy_freed, 2);
    assert_eq!(zone.stats().largest_free_order, Some(huge));
    assert_all_free(zone);
    // Of one of them a part is taken: the other is the one that is left.
    let part = zone.alloc_frozen(BLOCK_ORDER).unwrap();
    zone.assert_sound();
    assert_eq!(zone.stats().largest_free_order, Some(huge));
    zone.alloc_frozen(huge).unwrap().free();
    part.free();
    assert_all_free(zone);
}

#[test]
fn up_to_an_order_the_largest_that_is_free_is_handed_out() {
    let huge = order(HUGE);
    let arena = Arena::<UserSpace>::with_huge_order(huge.bytes(), &[], huge).unwrap();
    let zone = arena.zone();
    zone.alloc_frozen(huge).unwrap().free();
    let up_to = |n: u8| zone.alloc_frozen_up_to(order(n), MigrateType::Movable);
    let part = up_to(9).unwrap();
    assert_eq!(part.order(), order(9), "there is nothing but one huge block");
    part.free();
    assert_all_free(zone);
    for (size, wanted, expected) in [(4, 5, 4), (4, 4, 4), (4, 2, 2), (0, 4, 0), (0, 0, 0)] {
        let parts =
            std::iter::from_fn(|| zone.alloc_frozen_as(order(size), MigrateType::Movable).ok());
        let (free, used): (Vec<Token>, Vec<Token>) =
            parts.partition(|part| (part.pfn().as_u64() >> size).is_multiple_of(2));
        free.into_iter().for_each(Token::free);
        zone.drain();
        let before = zone.counters().per_cpu_allocated;
        let part = up_to(wanted).unwrap();
        assert_eq!(part.order(), order(expected), "up to {wanted} where {size} is the largest");
        // Single frames are what the lists of CPUs are for.
        assert_eq!(zone.counters().per_cpu_allocated - before, u64::from(expected == 0));
        used.into_iter().chain([part]).for_each(Token::free);
        assert_all_free(zone);
    }
}

#[test]
fn a_block_of_a_free_huge_block_goes_offline_alone() {
    let huge = order(HUGE);
    let arena = Arena::<UserSpace>::with_huge_order(huge.bytes(), &[], huge).unwrap();
    let zone = arena.zone();
    zone.alloc_frozen(huge).unwrap().free();
    let offline = arena.offline(5, &Index::new(0)).unwrap();
    assert_eq!(zone.stats().free_frames, 15 * 512);
    assert!(
        matches!(zone.alloc_frozen(huge), Err(AllocError::Fragmented { largest }) if largest == MAX_ORDER)
    );
    zone.assert_sound();
    // In use while one of its blocks is being emptied: what is freed then is held back, and comes
    // back after.
    arena.online(offline);
    let folio = zone.alloc(huge, OURS, 0).unwrap();
    assert!(arena.offline(3, &Index::new(0)).is_err());
    drop(folio);
    assert_all_free(zone);
    assert_eq!(zone.stats().whole_blocks, 16);
}

#[test]
fn an_order_that_a_zone_does_not_have_is_an_error_and_nothing_is_lost() {
    let arena = arena::<DefaultScheme>(2);
    let zone = arena.zone();
    assert_eq!(zone.alloc_frozen(order(11)).unwrap_err(), AllocError::TooLarge { most: MAX_ORDER });
    assert_eq!(zone.alloc_frozen(order(18)).unwrap_err(), AllocError::TooLarge { most: MAX_ORDER });
    assert_eq!(Order::new(19), None);
    let blocks: Vec<_> =
        (0..2).map(|block| arena.offline(block, &Index::new(0)).unwrap()).collect();
    assert_eq!(zone.alloc_frozen(Order::ZERO).unwrap_err(), AllocError::Offline);
    for block in blocks {
        arena.online(block);
    }
    assert_all_free(zone);
}
