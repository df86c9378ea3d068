//! Who sleeps on a slot, and who is woken: a platform that writes down what it was asked for
//! instead of sleeping.

mod common;

use std::cell::RefCell;

use common::OURS;
use folio_frames::{Arena, FrozenFolio, Order, Platform, Slot, UserSpace, Zone};
use folio_ref::DefaultScheme;

/// What the slot asked of its platform.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Asked {
    /// To sleep on a key; whether there still was a reason to.
    Wait(usize, bool),
    Wake(usize),
}

thread_local! {
    static ASKED: RefCell<Vec<Asked>> = const { RefCell::new(Vec::new()) };
    /// What happens between the decision to sleep and the sleep.
    static MEANWHILE: RefCell<Option<Box<dyn FnOnce()>>> = const { RefCell::new(None) };
}

fn asked() -> Vec<Asked> {
    ASKED.take()
}

struct Notes;

impl Platform for Notes {
    type Scheme = DefaultScheme;
    type Lock = <UserSpace as Platform>::Lock;

    fn cpu() -> usize {
        0
    }
    fn wait(key: usize, still: &dyn Fn() -> bool) {
        if let Some(act) = MEANWHILE.take() {
            act();
        }
        ASKED.with_borrow_mut(|asked| asked.push(Asked::Wait(key, still())));
    }
    fn wake_all(key: usize) {
        ASKED.with_borrow_mut(|asked| asked.push(Asked::Wake(key)));
    }
}

fn frozen(zone: &'static Zone<Notes>) -> FrozenFolio<Notes> {
    let mut folio = zone.alloc_frozen(Order::ZERO).unwrap();
    folio.set_owner(OURS, 0);
    folio
}

#[test]
fn who_meets_a_claim_sleeps_and_its_end_wakes_only_who_sleeps() {
    let arena = Arena::<Notes>::new(2 << 20, &[]).unwrap();
    let zone = arena.zone();
    let slots: &'static [Slot<Notes>; 2] = Box::leak(Box::new([Slot::new(), Slot::new()]));
    let slot = &slots[0];
    let spare = frozen(zone);
    assert_eq!(format!("{slot:?}"), "empty slot");
    slot.wait();
    assert_eq!(asked(), [], "nothing is in progress");

    let locked = slot.install(frozen(zone)).unwrap();
    let shown = format!("{slot:?}");
    let name = shown.strip_suffix(", locked").unwrap();
    assert!(
        name.strip_prefix("slot of frame number ")
            .is_some_and(|number| number.parse::<u32>().is_ok()),
        "{name}"
    );
    slot.wait();
    let first = asked();
    let [Asked::Wait(key, true)] = first[..] else { panic!("{first:?}") };
    assert_eq!(format!("{slot:?}"), format!("{name}, locked, waited for"));
    slot.wait();
    assert_eq!(asked(), [Asked::Wait(key, true)], "the second sleeper sleeps on the same key");
    locked.publish();
    assert_eq!(asked(), [Asked::Wake(key)]);
    assert_eq!(format!("{slot:?}"), name);
    slot.wait();
    assert_eq!(asked(), [], "a page that is there is not waited for");

    let locked = slot.try_lock(zone).unwrap();
    assert_eq!(format!("{locked:?}"), format!("locked on {name}, locked"));
    drop(locked);
    assert_eq!(asked(), [], "nobody sleeps: nobody is woken");

    // The claim ends between the decision to sleep and the sleep.
    let locked = slot.try_lock(zone).unwrap();
    MEANWHILE.set(Some(Box::new(move || drop(locked))));
    slot.wait();
    assert_eq!(asked(), [Asked::Wake(key), Asked::Wait(key, false)]);

    let other = slots[1].install(spare).unwrap();
    slots[1].wait();
    assert!(!asked().contains(&Asked::Wait(key, true)), "each slot has a key of its own");
    drop(other);
    drop(slot.try_lock(zone).unwrap().remove());
    common::assert_all_free(zone);
}
