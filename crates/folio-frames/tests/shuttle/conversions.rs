//! Accesses to a slot beside a thread that makes it absent: a conversion of guest memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use folio_frames::{Lookup, Order};
use folio_ref::schemes::{Generational, LiveBitHigh, ZeroFrozen};
use folio_ref::testing::explore::{Search, deeper, explore, race};
use folio_ref::testing::stepped::step;
use folio_ref::{DefaultScheme, Scheme};

use crate::{WEAK, World};

/// A thread accesses a page, and fills it if it is missing, while another converts it.
fn access_against_conversion<S: Scheme>(search: Search) {
    let world = World::<S>::new(&[]);
    explore(&format!("access against conversion, {}", S::NAME), search, move || {
        world.index.publish(world.zone(), 7, Order::ZERO);
        let inside = Arc::new(AtomicUsize::new(0));
        let accesses = Arc::clone(&inside);
        race(vec![
            world.thread(move |world| {
                let slot = &world.index.0[7];
                match slot.get(world.zone()) {
                    Lookup::Hit(folio) => {
                        accesses.fetch_add(1, SeqCst);
                        assert_eq!(folio.as_slice()[0], 7, "an access inside a conversion");
                        step();
                        assert_eq!(folio.as_slice()[4095], 7, "an access inside a conversion");
                        accesses.fetch_sub(1, SeqCst);
                    }
                    Lookup::Empty => {
                        // A fault that comes too late to see the absence.
                        let folio = world.zone().alloc_frozen(Order::ZERO).unwrap();
                        let refused = slot.install(folio).expect_err("the slot is absent");
                        refused.free();
                    }
                    _ => {}
                }
            }),
            world.thread(move |world| {
                let slot = &world.index.0[7];
                let locked = slot.try_lock(world.zone()).expect("the slot is not locked");
                let Ok(mut private) = locked.make_absent() else { return };
                assert_eq!(inside.load(SeqCst), 0, "a conversion beside an access");
                private.as_mut_slice().fill(99);
                step();
                assert_eq!(inside.load(SeqCst), 0, "an access inside a conversion");
                assert!(slot.is_absent(), "an absent slot was filled");
                private.as_mut_slice().fill(7);
                slot.restore(private).expect("the slot is absent").publish();
            }),
        ]);
        assert_eq!(world.read(7), Some(7));
        world.end();
    });
}

#[test]
fn no_access_lies_inside_a_conversion() {
    access_against_conversion::<Generational>(deeper(2));
    access_against_conversion::<LiveBitHigh>(deeper(2));
    access_against_conversion::<ZeroFrozen>(deeper(2));
    access_against_conversion::<DefaultScheme>(WEAK);
}
