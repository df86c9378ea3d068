//! A platform with the spin lock of the crate spin, which disables interrupts while it is held.

#![cfg(not(shuttle))]

use std::cell::Cell;
use std::thread;

use folio_frames::{Arena, Event, Interrupts, LockApi04, Lookup, Order, Pfn, Platform, Slot};
use folio_ref::DefaultScheme;

thread_local! {
    /// The number of locks that this thread holds.
    static HELD: Cell<usize> = const { Cell::new(0) };
    static TIMES: Cell<usize> = const { Cell::new(0) };
}

/// The interrupts of a thread, which stands for a CPU.
struct Flag;

impl Interrupts for Flag {
    /// The number of locks before. Interrupts were enabled if it is 0.
    type State = usize;

    fn disable() -> usize {
        TIMES.set(TIMES.get() + 1);
        HELD.replace(HELD.get() + 1)
    }

    fn restore(before: usize) {
        let held = HELD.replace(before);
        assert_eq!(held, before + 1, "locks are released in the reverse order");
    }
}

struct Machine;

impl Platform for Machine {
    type Scheme = DefaultScheme;
    type Lock = LockApi04<spin::Mutex<()>, Flag>;

    fn cpu() -> usize {
        0
    }

    fn wait(_: usize, still: &dyn Fn() -> bool) {
        while still() {
            thread::yield_now();
        }
    }

    fn wake_all(_: usize) {}

    fn trace(event: Event, _: impl FnOnce() -> Pfn) {
        // This transition happens under the zone's lock, and most others under none.
        let is_under_lock = matches!(event, Event::Offline);
        let may_be_either = matches!(event, Event::Freed | Event::Online);
        let disabled = HELD.get() > 0;
        assert!(may_be_either || disabled == is_under_lock, "{event:?}: {disabled}");
    }
}

#[test]
fn a_spin_lock_disables_interrupts_while_it_is_held() {
    let arena = Arena::<Machine>::new(8 << 20, &[]).unwrap();
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                for round in 0..2000 {
                    let order = Order::new((round % 11) as u8).unwrap();
                    if let Ok(folio) = arena.zone().alloc_frozen(order) {
                        drop(folio.init());
                    }
                    assert_eq!(HELD.get(), 0, "interrupts stay disabled");
                }
                assert!(TIMES.get() >= 2000, "a lock for each call at least");
            });
        }
    });
    arena.zone().drain();
    let offline = arena.zone().offline_if_free(1).unwrap();
    arena.online(offline);
    assert_eq!(arena.zone().free_frames(), 2048);
}

/// A platform is a name for five items, and needs no traits of its own.
#[test]
fn everything_prints_on_a_platform_that_does_not() {
    let arena = Arena::<Machine>::new(2 << 20, &[]).unwrap();
    assert!(format!("{arena:?}").contains("zone of 512 frames"), "{arena:?}");
    let slot = Slot::new();
    assert_eq!(format!("{:?}", slot.get(arena.zone())), "Empty");
    slot.install(arena.zone().alloc_frozen(Order::ZERO).unwrap()).unwrap().publish();
    let hit = slot.get(arena.zone());
    assert!(format!("{hit:?}").starts_with("Hit(folio at pfn"), "{hit:?}");
    let Lookup::Hit(folio) = hit else { panic!("{hit:?}") };
    drop(slot.try_lock(arena.zone()).unwrap().remove());
    drop(folio);
}
