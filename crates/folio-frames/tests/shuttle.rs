//! The frames under schedules that shuttle plays: slots, claims, migration, offline, split, and
//! reads without a reference.
//!
//! `cargo x prove` runs it: `RUSTFLAGS='--cfg shuttle' cargo test --release -p folio-frames --test
//! shuttle`. The real code over its real, zeroed memory; before each operation on a word, a slot, a
//! descriptor or a lock any other thread may go on. With `DEEP=1` depth-first searches go one
//! preemption further: minutes instead of seconds (`cargo x prove --all`).
//!
//! What this can not see: all is sequentially consistent, so no ordering and no fence (loom, Miri
//! and `models/slot.pml` are for those); depth first knows schedules up to its number of
//! preemptions, PCT some; hints (marks, gauges) do not step.

#![cfg(shuttle)]

mod common;

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use common::{Index, OURS, assert_all_free, order};
use folio_frames::{
    Arena, Claim, FrozenClaim, FrozenFolio, Kind, KindOps, Lookup, MigrateError, Mobility, Order,
    Refusal, UserSpace, Zone, migrate,
};
use folio_ref::explore::{Search, deeper, explore, race};
use folio_ref::schemes::{FrozenBit, Generational, LiveBitHigh, LiveBitLow, ZeroFrozen};
use folio_ref::stepped::step;
use folio_ref::{DefaultScheme, Scheme};

type Space<S = DefaultScheme> = UserSpace<S>;

/// Some schedules of what has too many.
const BY_CHANCE: Search = Search::Pct { depth: 4, executions: 5_000, seed: 1 };

/// An arena and slots. One for all executions of a case: each leaves it as it was.
struct World<S: Scheme> {
    arena: Arena<Space<S>>,
    index: Index<Space<S>>,
}

impl<S: Scheme> World<S> {
    fn new(kinds: &'static [KindOps<Space<S>>]) -> Arc<Self> {
        let arena = Arena::new(2 << 20, kinds).expect("memory for a test");
        Arc::new(Self { arena, index: Index::new(8) })
    }

    fn zone(&self) -> &'static Zone<Space<S>> {
        self.arena.zone()
    }

    /// A thread of the race, with what it works on.
    fn thread(
        self: &Arc<Self>,
        act: impl FnOnce(&Self) + Send + 'static,
    ) -> Box<dyn FnOnce() + Send> {
        let world = Arc::clone(self);
        Box::new(move || act(&world))
    }

    /// All slots are emptied, and nothing is left.
    fn end(&self) {
        for slot in (0..self.index.0.len()).filter(|&slot| !self.index.0[slot].is_empty()) {
            self.index.remove(self.zone(), slot);
        }
        assert_all_free(self.zone());
    }

    /// The bytes in a slot, read with a reference. `None`: nothing is there.
    fn read(&self, slot: usize) -> Option<u8> {
        loop {
            match self.index.0[slot].get(self.zone()) {
                Lookup::Hit(folio) => {
                    let first = folio.as_slice()[0];
                    step();
                    assert_eq!(
                        folio.as_slice()[folio.as_slice().len() - 1],
                        first,
                        "bytes change under a reference"
                    );
                    assert_eq!(folio.private(), slot as u64, "another slot's folio (R8)");
                    return Some(first);
                }
                Lookup::InProgress => self.index.0[slot].wait(),
                Lookup::Moved => {}
                Lookup::Empty => return None,
                Lookup::Saturated => panic!("two references are not many"),
            }
        }
    }
}

/// One who looks a folio up and one who moves it, and then uses the frame for something else. And,
/// if asked for, one who comes by its old frame's number.
fn migrate_against_try_get<S: Scheme>(search: Search, walker: bool) {
    let world = World::<S>::new(&[]);
    explore(
        &format!(
            "migrate against try_get{}, {}",
            if walker { " and a walker" } else { "" },
            S::NAME
        ),
        search,
        move || {
            let pfn = world.index.publish(world.zone(), 7, Order::ZERO);
            let mut threads = vec![
                world.thread(|world| assert_eq!(world.read(7), Some(7))),
                world.thread(move |world| match migrate(world.zone(), pfn, &world.index) {
                    Ok(to) => {
                        assert_ne!(to, pfn);
                        // The frame that it left is one of them.
                        for mobility in [Mobility::Movable, Mobility::Unmovable] {
                            let mut others =
                                world.zone().alloc_frozen_as(Order::ZERO, mobility).unwrap();
                            others.set_owner(OURS, 100);
                            drop(others.init());
                        }
                    }
                    Err(error) => assert_eq!(error, MigrateError::Busy),
                }),
            ];
            if walker {
                threads.push(world.thread(move |world| {
                    if let Ok(folio) = world.zone().try_get_head(pfn) {
                        let is_whose_it_says = folio.private() == 100 || folio.as_slice()[0] == 7;
                        assert!(is_whose_it_says, "{folio:?} holds what its owner did not write");
                    }
                }));
            }
            race(threads);
            assert_eq!(world.read(7), Some(7));
            world.end();
        },
    );
}

#[test]
fn a_reader_finds_its_bytes_while_they_move() {
    migrate_against_try_get::<Generational>(deeper(2), false);
    migrate_against_try_get::<ZeroFrozen>(deeper(2), false);
    migrate_against_try_get::<Generational>(deeper(1), true);
    migrate_against_try_get::<FrozenBit>(deeper(1), true);
    migrate_against_try_get::<LiveBitHigh>(BY_CHANCE, true);
}

const FIRST: Kind = Kind::owner(1);
const SECOND: Kind = Kind::owner(2);

/// How often a destructor ran. One test at a time uses it.
static DESTROYED: AtomicUsize = AtomicUsize::new(0);

fn destroyed<S: Scheme>(by: u64, folio: FrozenFolio<Space<S>>) {
    assert_eq!(folio.private(), by, "a destructor of what the frame had been (R4)");
    DESTROYED.fetch_add(1, SeqCst);
    folio.free();
}

struct Kinds<S>(std::marker::PhantomData<S>);

impl<S: Scheme> Kinds<S> {
    const ALL: &'static [KindOps<Space<S>>] = &[
        KindOps { kind: FIRST, name: "first", destroy: |folio| destroyed(1, folio) },
        KindOps { kind: SECOND, name: "second", destroy: |folio| destroyed(2, folio) },
    ];
}

/// The last put of a folio, a walker who may revive it, and one who takes its block offline, or
/// allocates it anew.
fn late_step<S: Scheme>(search: Search, offline: bool) {
    let world = World::<S>::new(Kinds::<S>::ALL);
    let what = if offline { "offline" } else { "reuse" };
    explore(&format!("{what} against the late step of put, {}", S::NAME), search, move || {
        DESTROYED.store(0, SeqCst);
        let folio = world.zone().alloc(Order::ZERO, FIRST, 1).unwrap();
        let pfn = folio.pfn();
        race(vec![
            world.thread(move |_| drop(folio)),
            world.thread(move |world| drop(world.zone().try_get(pfn))),
            world.thread(move |world| {
                if !offline {
                    drop(world.zone().alloc(Order::ZERO, SECOND, 2).unwrap());
                } else if let Ok(block) = world.arena.offline(0, &world.index) {
                    assert_eq!(
                        world.zone().try_get(pfn).err(),
                        Some(Refusal::Offline),
                        "the late step thawed it"
                    );
                    world.arena.online(block);
                }
            }),
        ]);
        assert_eq!(DESTROYED.load(SeqCst), if offline { 1 } else { 2 }, "each life ends once (R3)");
        world.end();
    });
}

#[test]
fn the_late_step_of_a_put_ends_a_life_once() {
    late_step::<FrozenBit>(deeper(2), false);
    late_step::<Generational>(deeper(1), false);
    late_step::<LiveBitLow>(BY_CHANCE, false);
    late_step::<FrozenBit>(deeper(0), true);
    late_step::<FrozenBit>(BY_CHANCE, true);
    late_step::<Generational>(BY_CHANCE, true);
}

/// It found that a walker was told that a tail is offline when its block was cut between two of its
/// looks.
///
/// A folio of two frames is frozen and cut, and each half published in a slot of its own; one reads
/// the first slot, one comes by the number of the frame that was a tail.
fn split_against_get<S: Scheme>(search: Search) {
    let world = World::<S>::new(&[]);
    explore(&format!("split against get, {}", S::NAME), search, move || {
        let pfn = world.index.publish(world.zone(), 7, order(1));
        let tail = folio_frames::Pfn::new(pfn.as_u64() + 1);
        race(vec![
            world.thread(|world| {
                let Ok(frozen) =
                    world.index.0[7].claim(world.zone()).expect("nobody else claims").freeze()
                else {
                    return;
                };
                for (mut part, slot) in frozen.remove().split(Order::ZERO).zip([7, 6]) {
                    part.set_owner(OURS, slot as u64);
                    part.as_mut_slice().fill(slot as u8);
                    world.index.0[slot].install(part).expect("an empty slot").publish();
                }
            }),
            world.thread(|world| assert!(matches!(world.read(7), None | Some(7)))),
            world.thread(move |world| match world.zone().try_get_head(tail) {
                Ok(folio) => {
                    // The whole, or the half that it is now.
                    let is_whole = folio.order() == order(1);
                    assert!(
                        is_whole && folio.pfn() == pfn
                            || folio.order() == Order::ZERO && folio.pfn() == tail
                    );
                    let (bytes, holds) = (folio.as_slice(), if is_whole { 7 } else { 6 });
                    assert_eq!((bytes[0], bytes[bytes.len() - 1]), (holds, holds));
                }
                // Never `Offline`: a walker may have seen a tail before the cut, and its head after
                // it.
                Err(refusal) => {
                    assert!(
                        matches!(refusal, Refusal::Frozen | Refusal::Tail | Refusal::Moved),
                        "{refusal:?}"
                    )
                }
            }),
        ]);
        world.end();
    });
}

#[test]
fn a_tail_is_refused_until_it_is_a_folio_of_its_own() {
    split_against_get::<Generational>(deeper(1));
    split_against_get::<FrozenBit>(BY_CHANCE);
}

/// A folio with a slot for each of its two frames is made; one reads the second slot, with a
/// reference and without; one cuts it and writes to the first frame in place, and gives the second
/// to another slot; one comes by the number of the frame that is a tail.
///
/// The first version of [`Claim::split`] opened the head first. Who had read the second slot before
/// got a reference of the head alone, looked at the second slot again, which was not changed yet,
/// and held nothing of the second frame while that was given away: found in the 1200th schedule by
/// chance, and in none with one preemption (canary `head-opened-first`).
fn parts_against_readers<S: Scheme>(search: Search) {
    let world = World::<S>::new(&[]);
    explore(&format!("parts of a folio against readers, {}", S::NAME), search, move || {
        let block = world.zone().alloc_frozen(order(1)).unwrap();
        let tail = folio_frames::Pfn::new(block.pfn().as_u64() + 1);
        let mut parts: Vec<_> = block.split(Order::ZERO).collect();
        for (part, slot) in parts.iter_mut().zip([6, 7]) {
            part.set_owner(OURS, slot);
            part.as_mut_slice().fill(slot as u8);
        }
        let parts = std::sync::Mutex::new(parts);
        race(vec![
            world.thread(move |world| {
                let slots = &world.index.0[6..8];
                let parts = parts.into_inner().unwrap().into_iter().zip(slots);
                let mut claims: Vec<_> =
                    parts.map(|(part, slot)| slot.install(part).ok()).collect();
                drop(FrozenClaim::publish_as_one(&mut claims));
                let mut claims: Vec<_> =
                    slots.iter().map(|slot| slot.claim(world.zone())).collect();
                if Claim::split(&mut claims) {
                    // A walker may hold it.
                    if let Ok(mut first) =
                        slots[0].claim(world.zone()).expect("nobody else claims").freeze()
                    {
                        first.folio_mut().as_mut_slice().fill(66);
                        first.publish();
                    }
                    if let Ok(second) =
                        slots[1].claim(world.zone()).expect("nobody else claims").freeze()
                    {
                        let mut second = second.remove();
                        second.set_owner(OURS, 5);
                        second.as_mut_slice().fill(5);
                        world.index.0[5].install(second).expect("an empty slot").publish();
                    }
                } else {
                    assert!(
                        claims.iter().all(Option::is_some),
                        "who can not cut it has his claims"
                    );
                }
            }),
            world.thread(|world| {
                let slot = &world.index.0[7];
                let mut bytes = [0; 64];
                if slot.read(world.arena.direct_map(), 0, &mut bytes, || true).is_some() {
                    assert_eq!(bytes, [7; 64], "what never was in this slot");
                }
                loop {
                    match slot.get(world.zone()) {
                        Lookup::Hit(folio) => {
                            let before = *folio.frame();
                            step();
                            assert_eq!(
                                (before, *folio.frame()),
                                ([7; 4096], [7; 4096]),
                                "another's bytes (R8)"
                            );
                            assert!(folio.order() == Order::ZERO || folio.order() == order(1));
                            return assert_eq!(folio.private(), 7, "another slot's frame (R8)");
                        }
                        Lookup::InProgress => slot.wait(),
                        Lookup::Moved => {}
                        Lookup::Empty => return,
                        Lookup::Saturated => panic!("a few references are not many"),
                    }
                }
            }),
            world.thread(move |world| {
                if let Ok(folio) = world.zone().try_get_head(tail) {
                    let frame =
                        folio.as_slice()[(tail.as_u64() - folio.pfn().as_u64()) as usize * 4096];
                    assert!(
                        frame == 7 || frame == 5 && folio.private() == 5,
                        "{folio:?} holds {frame}"
                    );
                }
            }),
        ]);
        world.end();
    });
}

#[test]
fn a_slot_of_a_folio_with_several_gives_its_own_frame() {
    parts_against_readers::<Generational>(deeper(2));
    parts_against_readers::<FrozenBit>(BY_CHANCE);
}

/// A read without a reference while the folio is written in place, and then leaves the slot and is
/// another's.
fn read_without_a_reference<S: Scheme>(search: Search) {
    let world = World::<S>::new(&[]);
    explore(&format!("a read without a reference, {}", S::NAME), search, move || {
        world.index.publish(world.zone(), 7, Order::ZERO);
        race(vec![
            world.thread(|world| {
                let mut bytes = [0; 64];
                if world.index.0[7].read(world.arena.direct_map(), 0, &mut bytes, || true).is_some()
                {
                    assert!(bytes == [7; 64] || bytes == [8; 64], "what never was: {bytes:?}");
                }
            }),
            world.thread(|world| {
                let claim = world.index.0[7].claim(world.zone()).expect("nobody else claims");
                let mut claim = claim.freeze().expect("nobody else has a reference");
                claim.folio_mut().as_mut_slice().fill(8);
                claim.publish();
                drop(world.index.0[7].claim(world.zone()).expect("nobody else claims").remove());
                let mut others = world.zone().alloc_frozen(Order::ZERO).unwrap();
                others.as_mut_slice().fill(99);
                others.free();
            }),
        ]);
        world.end();
    });
}

#[test]
fn a_copy_without_a_reference_is_one_content_or_not_believed() {
    read_without_a_reference::<Generational>(deeper(2));
    read_without_a_reference::<FrozenBit>(deeper(2));
}

/// A reader looks at a slot while its frame is of one arena. It takes a reference when another arena
/// has the metadata, and the slot holds a frame of the same number. A walker comes by the frame.
fn arena_changes_under_a_reader<S: Scheme>(search: Search, walker: bool) {
    let what = if walker { "walker" } else { "reader" };
    explore(&format!("another arena under a {what}, {}", S::NAME), search, move || {
        let arena = Arena::<Space<S>>::new(2 << 20, &[]).unwrap();
        let zone = arena.zone();
        let index = Arc::new(Index::<Space<S>>::new(8));
        let pfn = index.publish(zone, 7, Order::ZERO);
        let slots = Arc::clone(&index);
        let looks = move || {
            let folio = if walker { zone.try_get(pfn).ok() } else { slots.0[7].get_alone(zone) };
            // Where the new arena's bytes lie, the old zone does not know.
            assert!(folio.is_none_or(|folio| folio.as_slice()[0] == 7), "another arena's (R8)");
        };
        let next = Arc::new(Mutex::new(None));
        let (slots, made) = (Arc::clone(&index), Arc::clone(&next));
        let changes = move || {
            slots.remove(zone, 7);
            drop(arena);
            let arena = Arena::<Space<S>>::new(2 << 20, &[]).unwrap();
            assert!(!std::ptr::eq(zone, arena.zone()));
            let mut folio = arena.zone().alloc_frozen(Order::ZERO).unwrap();
            folio.as_mut_slice().fill(8);
            folio.set_owner(OURS, 7);
            slots.0[7].install(folio).unwrap().publish();
            *made.lock().unwrap() = Some(arena);
        };
        race(vec![Box::new(looks), Box::new(changes)]);
        let arena = next.lock().unwrap().take().unwrap();
        index.remove(arena.zone(), 7);
        assert_all_free(arena.zone());
    });
}

#[test]
fn a_reader_of_an_arena_that_is_gone_gets_nothing_of_the_next() {
    for walker in [false, true] {
        arena_changes_under_a_reader::<DefaultScheme>(deeper(1), walker);
        arena_changes_under_a_reader::<LiveBitLow>(deeper(1), walker);
        arena_changes_under_a_reader::<LiveBitLow>(BY_CHANCE, walker);
    }
}
