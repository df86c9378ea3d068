//! Slots, page locks and optimistic reads over a weak memory: each ordering that the code names has
//! a small case here, in which its absence shows.
//!
//! `cargo x prove` runs it, as it runs `shuttle.rs`. The real code runs over C11's memory as
//! `folio_ref::testing::memory` models it: a load may return an older value. Each case is played
//! depth first, with a bound on preemptions and on old values. `cargo x orderings` weakens the
//! orderings.

#![cfg(shuttle)]

mod common;

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use common::{Index, OURS, assert_all_free};
use folio_frames::{
    Arena, FrozenFolio, Lookup, Order, Slot, UserSpace, WeakLock, WeakRange, Zone, joined_mut,
};
use folio_ref::testing::explore::{Search, explore, race};
use folio_ref::testing::stepped::AtomicU64;

type Space = UserSpace;

/// Depth first, with at most two preemptions and two old values.
const WEAK: Search = Search::Weak { preemptions: 2, old: 2 };

/// An arena and slots, shared by all executions of a case; and a word beside them, which code under
/// a page lock accesses without an order of its own.
struct World {
    arena: Arena<Space>,
    index: Index<Space>,
    word: AtomicU64,
    /// The number of times that a thread could do what it tried.
    done: AtomicUsize,
    /// A folio full of 99, allocated before the race, so that the allocator has no part in it; and
    /// those that are freed after it.
    spare: Mutex<Vec<FrozenFolio<Space>>>,
}

impl World {
    fn zone(&self) -> &'static Zone<Space> {
        self.arena.zone()
    }

    fn slot(&self) -> &Slot<Space> {
        &self.index.0[7]
    }

    /// Allocates the folio for a thread of the race.
    fn allocate(&self) {
        let mut folio = self.zone().alloc_frozen(Order::ZERO).expect("a free frame");
        folio.set_owner(OURS, 7);
        folio.as_mut_slice().fill(99);
        self.spare.lock().unwrap().push(folio);
    }

    /// Takes the folio.
    fn folio(&self) -> FrozenFolio<Space> {
        self.spare.lock().unwrap().pop().expect("one thread takes it")
    }

    /// Frees a folio after the race.
    fn give_back(&self, folio: FrozenFolio<Space>) {
        self.spare.lock().unwrap().push(folio);
    }
}

type Act = fn(&World);

/// Plays two threads after `before`, and checks the world by `after`.
fn play(name: &str, before: Act, threads: [Act; 2], after: Act) {
    let arena = Arena::new(2 << 20, &[]).expect("memory for a test");
    let index = Index::new(8);
    let (word, done) = (AtomicU64::new(0), AtomicUsize::new(0));
    let world = Arc::new(World { arena, index, word, done, spare: Mutex::default() });
    explore(name, WEAK, move || {
        world.word.store(0, Relaxed);
        world.done.store(0, Relaxed);
        world.allocate();
        before(&world);
        let thread = |act: Act| -> Box<dyn FnOnce() + Send> {
            let world = Arc::clone(&world);
            Box::new(move || act(&world))
        };
        race(threads.map(thread).into());
        after(&world);
        if !world.slot().is_empty() {
            world.index.remove(world.zone(), 7);
        }
        world.spare.lock().unwrap().drain(..).for_each(FrozenFolio::free);
        assert_all_free(world.zone());
    });
}

/// Publishes a folio full of 7.
fn publish(world: &World) {
    world.index.publish(world.zone(), 7, Order::ZERO);
}

/// Adds 1 to the word in two steps, under the page lock.
fn add_in_two_steps(world: &World) {
    world.word.store(world.word.load(Relaxed) + 1, Relaxed);
    world.done.fetch_add(1, Relaxed);
}

fn assert_all_added(world: &World) {
    let (word, done) = (world.word.load(Relaxed), world.done.load(Relaxed));
    assert_eq!(word, done as u64, "a lock holder did not see what the one before did");
}

#[test]
fn each_lock_holder_sees_what_the_last_one_did() {
    let add: Act = |world| {
        if let Some(locked) = world.slot().try_lock(world.zone()) {
            add_in_two_steps(world);
            drop(locked);
        }
    };
    play("two lock holders", publish, [add, add], assert_all_added);
    let change: Act = |world| {
        if let Some(locked) = world.slot().try_lock(world.zone()) {
            add_in_two_steps(world);
            locked.freeze().expect("there is no other reference").publish();
        }
    };
    play("two lock holders that change the folio", publish, [change, change], assert_all_added);
}

#[test]
fn a_thread_that_waits_for_a_page_lock_gets_it() {
    let add: Act = |world| {
        loop {
            if let Some(locked) = world.slot().try_lock(world.zone()) {
                add_in_two_steps(world);
                return drop(locked);
            }
            world.slot().wait();
        }
    };
    play("two lock holders that wait", publish, [add, add], |world| {
        assert_eq!(world.word.load(Relaxed), 2, "a lock holder did not see the one before");
    });
}

/// Notes something, and empties the slot.
fn empty(world: &World) {
    let locked = world.slot().try_lock(world.zone()).expect("no other thread locks it");
    world.word.store(1, Relaxed);
    drop(locked.remove());
}

/// Asserts that what was done before the slot was emptied is seen.
fn assert_noted(world: &World) {
    assert_eq!(world.word.load(Relaxed), 1, "the slot is empty, and what was done is not seen");
}

#[test]
fn a_thread_that_finds_a_slot_empty_sees_why() {
    let install: Act = |world| {
        let folio = world.folio();
        match world.slot().install(folio) {
            Ok(locked) => {
                assert_noted(world);
                locked.publish();
            }
            Err(folio) => world.give_back(folio),
        }
    };
    play("install in a slot that was emptied", publish, [empty, install], |_| {});
    let look: Act = |world| {
        if matches!(world.slot().get(world.zone()), Lookup::Empty) {
            assert_noted(world);
        }
    };
    play("get of a slot that was emptied", publish, [empty, look], |_| {});
    let look: Act = |world| {
        if world.slot().is_empty() {
            assert_noted(world);
        }
    };
    play("is_empty of a slot that was emptied", publish, [empty, look], |_| {});
}

/// Reads the slot's folio optimistically. Its bytes must be one content that the slot had.
fn read_optimistically(world: &World) {
    let mut bytes = [0; 64];
    if world.slot().read(world.arena.direct_map(), 0, &mut bytes, || true).is_some() {
        let whole = [7, 8].into_iter().any(|byte| bytes == [byte; 64]);
        assert!(whole, "bytes that were never in the slot: {bytes:?}");
    }
}

#[test]
fn an_optimistic_read_has_one_content_of_its_slot() {
    let write: Act = |world| {
        let locked = world.slot().try_lock(world.zone()).expect("no other thread locks it");
        let mut locked = locked.freeze().expect("there is no other reference");
        locked.folio_mut().as_mut_slice().fill(8);
        locked.publish();
    };
    play("an optimistic read of a write", publish, [write, read_optimistically], |_| {});
    let fill: Act = |world| {
        let mut folio = world.folio();
        folio.as_mut_slice().fill(8);
        world.slot().install(folio).expect("an empty slot").publish();
    };
    play("an optimistic read of a fill", |_| {}, [fill, read_optimistically], |_| {});
    let fill: Act = |world| {
        let mut folio = world.folio();
        joined_mut([&mut folio]).for_each(|bytes| bytes.fill(8));
        world.slot().install(folio).expect("an empty slot").publish();
    };
    play("an optimistic read of a joined fill", |_| {}, [fill, read_optimistically], |_| {});
    let reuse: Act = |world| {
        let locked = world.slot().try_lock(world.zone()).expect("no other thread locks it");
        let mut folio = locked.freeze().expect("there is no other reference").remove();
        folio.as_mut_slice().fill(99);
        world.give_back(folio);
    };
    play("an optimistic read of a frame used again", publish, [reuse, read_optimistically], |_| {});
    let reuse: Act = |world| {
        let locked = world.slot().try_lock(world.zone()).expect("no other thread locks it");
        let mut folio = locked.freeze().expect("there is no other reference").remove();
        joined_mut([&mut folio]).for_each(|bytes| bytes.fill(99));
        world.give_back(folio);
    };
    play("an optimistic read of a joined reuse", publish, [reuse, read_optimistically], |_| {});
}

#[test]
fn a_reference_shows_the_bytes_that_were_published() {
    let fill: Act = |world| {
        let mut folio = world.folio();
        folio.as_mut_slice().fill(8);
        let folio = world.slot().install(folio).expect("an empty slot");
        drop(folio.publish_and_get(world.zone()));
    };
    let get: Act = |world| {
        if let Lookup::Hit(folio) = world.slot().get(world.zone()) {
            assert_eq!((*folio.frame(), folio.owner_data()), ([8; 4096], 7));
        }
    };
    play("get of a fill", |_| {}, [fill, get], |_| {});
    let get: Act = |world| {
        if let Some(folio) = world.slot().get_alone(world.zone()) {
            assert_eq!((*folio.frame(), folio.owner_data()), ([8; 4096], 7));
        }
    };
    play("get_alone of a fill", |_| {}, [fill, get], |_| {});
}

/// Two threads publish a lazy range, as those do that find it reserved. A reader beside them finds
/// the first slot if it finds the number, and what was done before: the slots are mapped.
#[test]
fn a_lazy_range_that_is_found_is_whole() {
    const FIRST: usize = 4096;
    explore("a lazy range", WEAK, || {
        let world = Arc::new((WeakRange::default(), AtomicU64::new(0)));
        let thread = |act: fn(&WeakRange, &AtomicU64)| -> Box<dyn FnOnce() + Send> {
            let world = Arc::clone(&world);
            Box::new(move || act(&world.0, &world.1))
        };
        let publish = |range: &WeakRange, mapped: &AtomicU64| {
            mapped.store(1, Relaxed);
            range.publish(512, FIRST);
        };
        let read = |range: &WeakRange, mapped: &AtomicU64| {
            assert_eq!(range.first_with(512), None, "a slot past the end");
            if let Some(first) = range.first_with(511) {
                assert_eq!(first, FIRST, "the number came before the first slot");
                assert_eq!(mapped.load(Relaxed), 1, "the number came before the slots");
            }
        };
        race([publish, publish, read].map(thread).into());
        assert_eq!(world.0.first_with(0), Some(FIRST));
    });
}

/// Of three threads that lock, each gets the lock, and sees what the one before did: also one that
/// sleeps, and one that it is handed to.
#[test]
fn each_owner_of_a_futex_lock_sees_what_the_last_one_did() {
    explore("three threads lock", WEAK, || {
        let count = Arc::new((lock_api::Mutex::<WeakLock, ()>::new(()), AtomicU64::new(0)));
        let thread = |act: fn(&lock_api::Mutex<WeakLock, ()>, &AtomicU64)| {
            let count = Arc::clone(&count);
            let act: Box<dyn FnOnce() + Send> = Box::new(move || act(&count.0, &count.1));
            act
        };
        let add = |lock: &lock_api::Mutex<WeakLock, ()>, count: &AtomicU64| {
            let _guard = lock.lock();
            count.store(count.load(Relaxed) + 1, Relaxed);
        };
        let try_to_add = |lock: &lock_api::Mutex<WeakLock, ()>, count: &AtomicU64| {
            if let Some(_guard) = lock.try_lock() {
                count.store(count.load(Relaxed) + 10, Relaxed);
            }
        };
        race([add, add, try_to_add].map(thread).into());
        let _guard = count.0.try_lock().expect("all have unlocked");
        assert!([2, 12].contains(&count.1.load(Relaxed)), "{}", count.1.load(Relaxed));
    });
}
