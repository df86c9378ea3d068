//! Sleeping on a slot, and waking: a platform that records these calls instead of sleeping.

mod common;

use std::cell::RefCell;

use common::OURS;
use folio_frames::{Arena, FrozenFolio, Order, Platform, Slot, UserSpace, Zone};
use folio_ref::DefaultScheme;

/// A call of the slot to its platform.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Call {
    /// To sleep on a key, and if there still was a reason to.
    Wait(usize, bool),
    Wake(usize),
}

thread_local! {
    static CALLS: RefCell<Vec<Call>> = const { RefCell::new(Vec::new()) };
    /// Runs once between the decision to sleep and the sleep.
    static MEANWHILE: RefCell<Option<Box<dyn FnOnce()>>> = const { RefCell::new(None) };
}

fn calls() -> Vec<Call> {
    CALLS.take()
}

struct Recorder;

impl Platform for Recorder {
    type Scheme = DefaultScheme;
    type Lock = <UserSpace as Platform>::Lock;

    fn cpu() -> usize {
        0
    }
    fn wait(key: usize, still: &dyn Fn() -> bool) {
        if let Some(act) = MEANWHILE.take() {
            act();
        }
        CALLS.with_borrow_mut(|calls| calls.push(Call::Wait(key, still())));
    }
    fn wake_all(key: usize) {
        CALLS.with_borrow_mut(|calls| calls.push(Call::Wake(key)));
    }
}

fn frozen(zone: &'static Zone<Recorder>) -> FrozenFolio<Recorder> {
    let mut folio = zone.alloc_frozen(Order::ZERO).unwrap();
    folio.set_owner(OURS, 0);
    folio
}

#[test]
fn the_end_of_a_page_lock_wakes_only_sleepers() {
    let arena = Arena::<Recorder>::new(2 << 20, &[]).unwrap();
    let zone = arena.zone();
    let slots: &'static [Slot<Recorder>; 2] = Box::leak(Box::new([Slot::new(), Slot::new()]));
    let slot = &slots[0];
    let spare = frozen(zone);
    assert_eq!(format!("{slot:?}"), "empty slot");
    slot.wait();
    assert_eq!(calls(), [], "nothing is in progress");

    let locked = slot.install(frozen(zone)).unwrap();
    let shown = format!("{slot:?}");
    let name = shown.strip_suffix(", locked").unwrap();
    assert!(
        name.strip_prefix("slot of frame number ")
            .is_some_and(|number| number.parse::<u32>().is_ok()),
        "{name}"
    );
    slot.wait();
    let first = calls();
    let [Call::Wait(key, true)] = first[..] else { panic!("{first:?}") };
    assert_eq!(format!("{slot:?}"), format!("{name}, locked, waited for"));
    slot.wait();
    assert_eq!(calls(), [Call::Wait(key, true)], "the second sleeper sleeps on the same key");
    locked.publish();
    assert_eq!(calls(), [Call::Wake(key)]);
    assert_eq!(format!("{slot:?}"), name);
    slot.wait();
    assert_eq!(calls(), [], "a published page is not waited for");

    let locked = slot.try_lock(zone).unwrap();
    assert_eq!(format!("{locked:?}"), format!("page lock on {name}, locked"));
    drop(locked);
    assert_eq!(calls(), [], "nothing sleeps, so nothing is woken");

    // The page lock ends between the decision to sleep and the sleep.
    let locked = slot.try_lock(zone).unwrap();
    MEANWHILE.set(Some(Box::new(move || drop(locked))));
    slot.wait();
    assert_eq!(calls(), [Call::Wake(key), Call::Wait(key, false)]);

    let other = slots[1].install(spare).unwrap();
    slots[1].wait();
    assert!(!calls().contains(&Call::Wait(key, true)), "each slot has a key of its own");
    drop(other);
    drop(slot.try_lock(zone).unwrap().remove());
    common::assert_all_free(zone);
}
