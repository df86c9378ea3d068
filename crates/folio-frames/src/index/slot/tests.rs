//! Tests of slots: their versions.

use folio_ref::DefaultScheme;

use super::*;
use crate::index::entry::VERSION;
use crate::{Arena, Order, UserSpace};

type Frames = UserSpace<DefaultScheme>;

#[test]
fn each_unlock_advances_the_version_unless_nothing_happened() {
    let arena = Arena::<Frames>::new(2 << 20, &[]).unwrap();
    let zone = arena.zone();
    let frozen = || zone.alloc_frozen(Order::ZERO).unwrap();
    // One step before the version wraps. It is never 0, which is that of a closed slot.
    let slot = Slot::<Frames> { value: AtomicU64::new(VERSION), platform: PhantomData };
    let version = || slot.load(Ordering::Relaxed).version();
    drop(slot.install(frozen()).unwrap());
    assert_eq!((version(), slot.is_empty()), (1, true));
    let locked = slot.install(frozen()).unwrap();
    assert_eq!(version(), 1);
    locked.publish();
    assert_eq!(version(), 2);
    drop(slot.try_lock(zone).unwrap());
    assert_eq!(version(), 2, "nothing happened");
    drop(slot.try_lock(zone).unwrap().replace(frozen()));
    assert_eq!(version(), 3);
    slot.try_lock(zone).unwrap().freeze().unwrap().replace(frozen()).free();
    assert_eq!(version(), 4);
    drop(slot.try_lock(zone).unwrap().freeze().unwrap().publish_and_get(zone));
    assert_eq!(version(), 5);
    drop(slot.try_lock(zone).unwrap().remove());
    assert_eq!((version(), slot.is_empty()), (6, true));
    slot.install(frozen()).unwrap().remove().free();
    assert_eq!(version(), 7);
}
