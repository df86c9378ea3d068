//! Whole blocks of 2 MiB, one of which stays in the lists of its CPU.

mod common;

use common::{Index, arena, assert_all_free};
use folio_frames::{BLOCK_ORDER, FrozenFolio, MAX_ORDER, MigrateType, Order, UserSpace};
use folio_ref::DefaultScheme;

type Token = FrozenFolio<UserSpace>;

#[test]
fn the_whole_block_that_was_freed_last_is_handed_out_first() {
    let arena = arena::<DefaultScheme>(4);
    let zone = arena.zone();
    let mut tokens: Vec<Token> = (0..4).map(|_| zone.alloc_frozen(BLOCK_ORDER).unwrap()).collect();
    tokens.sort_by_key(Token::pfn);
    let last = tokens[3].pfn();
    // The first ones while memory is short: then none is kept.
    tokens.remove(0).free();
    tokens.remove(0).free();
    tokens.remove(1).free();
    let next = zone.alloc_frozen(BLOCK_ORDER).unwrap();
    assert_eq!(next.pfn(), last, "its bytes may still be in the processor's cache");
    tokens.into_iter().chain([next]).for_each(Token::free);
    assert_all_free(zone);
}

/// A pair of a whole block once went through the zone's lock, where two threads met: 119 ns.
#[test]
fn a_whole_block_goes_through_the_list_of_its_cpu() {
    let arena = arena::<DefaultScheme>(4);
    let zone = arena.zone();
    let block = || zone.alloc_frozen(BLOCK_ORDER).unwrap();
    let listed = || zone.stats().free_frames - zone.free_frames();
    block().free();
    assert_eq!(listed(), 512);
    let before = zone.counters();
    (0..1000).for_each(|_| block().free());
    let after = zone.counters();
    assert_eq!(after.per_cpu_allocated - before.per_cpu_allocated, 1000);
    assert_eq!(
        (after.buddy_allocated, after.buddy_freed),
        (before.buddy_allocated, before.buddy_freed)
    );
    // One, and it is free and whole to whoever counts, or asks for more than there is elsewhere.
    let all: Vec<Token> = (0..4).map(|_| block()).collect();
    all.into_iter().for_each(Token::free);
    assert_eq!((listed(), zone.stats().free_frames, zone.stats().whole_blocks), (512, 4 * 512, 4));
    assert_eq!(zone.stats().largest_free_order, Some(MAX_ORDER));
    let pieces: Vec<Token> = (0..2).map(|_| zone.alloc_frozen(MAX_ORDER).unwrap()).collect();
    assert_eq!(zone.stats().free_frames, 0);
    pieces.into_iter().for_each(Token::free);
    assert_all_free(zone);
}

/// Who takes the largest that is free takes nothing from the lists of CPUs: neither single frames,
/// of which no large piece is made, nor a whole block where another is free.
#[test]
fn what_lists_hold_stays_there_unless_it_is_what_is_missing() {
    let arena = arena::<DefaultScheme>(2);
    let zone = arena.zone();
    let listed = || zone.stats().free_frames - zone.free_frames();
    let up_to = |order| zone.alloc_frozen_up_to(order, MigrateType::Movable).unwrap();
    zone.alloc_frozen(BLOCK_ORDER).unwrap().free();
    let other = up_to(BLOCK_ORDER);
    assert_eq!((other.order(), listed()), (BLOCK_ORDER, 512));
    other.free();
    let mut all: Vec<Token> = (0..1024).map(|_| up_to(Order::ZERO)).collect();
    all.swap_remove(700).free();
    all.swap_remove(300).free();
    let before = (listed(), zone.counters().buddy_allocated);
    all.push(up_to(BLOCK_ORDER));
    assert_eq!((before.0, all[1022].order(), listed()), (2, Order::ZERO, 1));
    assert_eq!(zone.counters().buddy_allocated, before.1, "it went through the buddy");
    all.into_iter().for_each(Token::free);
    assert_all_free(zone);
}

#[test]
fn a_whole_block_in_a_list_is_found_by_who_needs_it() {
    let arena = arena::<DefaultScheme>(2);
    let zone = arena.zone();
    let listed = || {
        zone.alloc_frozen(BLOCK_ORDER).unwrap().free();
        assert_eq!(zone.stats().free_frames - zone.free_frames(), 512);
    };
    listed();
    // The rest of the zone, so that nothing whole is left but in the list, and single frames are
    // free.
    let rest: Vec<Token> = (0..512)
        .map(|_| zone.alloc_frozen_as(Order::ZERO, MigrateType::Movable).unwrap())
        .collect();
    assert_eq!((zone.free_frames(), zone.stats().largest_free_order), (0, Some(BLOCK_ORDER)));
    let most = zone.alloc_frozen_up_to(MAX_ORDER, MigrateType::Movable).unwrap();
    assert_eq!(most.order(), BLOCK_ORDER, "not a single frame");
    most.free();
    rest.into_iter().for_each(Token::free);
    assert_all_free(zone);
    // Whoever takes its memory offline.
    listed();
    for block in [0, 1] {
        let offline = arena.offline(block, &Index::new(0)).unwrap();
        assert_eq!((zone.stats().free_frames, zone.stats().whole_blocks), (512, 1));
        arena.online(offline);
    }
    // Whoever uses it for something else.
    listed();
    let all: Vec<Token> =
        std::iter::from_fn(|| zone.alloc_frozen_as(Order::ZERO, MigrateType::Movable).ok())
            .collect();
    assert_eq!(all.len(), 2 * 512);
    all.into_iter().for_each(Token::free);
    assert_all_free(zone);
}

#[test]
fn while_memory_is_short_no_whole_block_is_held_back() {
    let arena = arena::<DefaultScheme>(16);
    let zone = arena.zone();
    let mut all: Vec<Token> = (0..16).map(|_| zone.alloc_frozen(BLOCK_ORDER).unwrap()).collect();
    for freed in 1..=16 {
        all.pop().unwrap().free();
        let listed = zone.stats().free_frames - zone.free_frames();
        // How much is free it looked up when the third came, and found two: an eighth.
        assert_eq!(listed, if freed <= 3 { 0 } else { 512 }, "{freed} of 16 blocks are free");
        assert_eq!(zone.stats().free_frames, freed * 512);
    }
    assert_all_free(zone);
}
