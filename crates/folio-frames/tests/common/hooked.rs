//! A platform with hooks in its locks and puts, with which tests force schedules.

use std::cell::{Cell, RefCell};
use std::marker::PhantomData;
use std::rc::Rc;
use std::thread;

use folio_frames::{
    ContigError, MigrateType, OfflineError, Order, Owner, Pfn, Platform, Slot, UserSpace, Zone,
    migrate,
};
use folio_ref::{DefaultScheme, Scheme};

use super::{OURS, order};

/// A lock that runs the thread's hook before it is taken and after it is released.
pub(crate) struct Hooked(parking_lot::RawMutex);

pub(crate) type Hook = Box<dyn FnMut() -> bool>;

thread_local! {
    pub(crate) static HOOK: RefCell<Option<Hook>> = const { RefCell::new(None) };
    pub(crate) static AT_STOP: RefCell<Option<Box<dyn FnOnce()>>> = const { RefCell::new(None) };
    /// The number of locks that this thread holds.
    static HELD: Cell<u32> = const { Cell::new(0) };
}

/// Runs the hook, unless the thread holds a lock. A hook that returns `true` does not run again.
pub(crate) fn run_hook() {
    if HELD.get() > 0 {
        return;
    }
    // Taken out, so that it does not run inside itself.
    if let Some(mut hook) = HOOK.take()
        && !hook()
    {
        HOOK.set(Some(hook));
    }
}

pub(crate) fn hook(act: impl FnMut() -> bool + 'static) {
    HOOK.set(Some(Box::new(act)));
}

// SAFETY: it excludes as the lock inside does. The hook runs while this lock is not held.
unsafe impl lock_api::RawMutex for Hooked {
    #[allow(clippy::declare_interior_mutable_const, reason = "the trait requires it")]
    const INIT: Self = Self(parking_lot::RawMutex::INIT);
    type Guard = <parking_lot::RawMutex as lock_api::RawMutex>::Guard;

    fn lock(&self) -> Self::Guard {
        run_hook();
        HELD.set(HELD.get() + 1);
        self.0.lock()
    }
    fn try_lock(&self) -> Option<Self::Guard> {
        run_hook();
        let guard = self.0.try_lock();
        HELD.set(HELD.get() + u32::from(guard.is_some()));
        guard
    }
    fn is_locked(&self) -> bool {
        self.0.is_locked()
    }
    unsafe fn unlock(&self, guard: Self::Guard) {
        // SAFETY: the caller's promise.
        unsafe { self.0.unlock(guard) };
        HELD.set(HELD.get() - 1);
        run_hook();
    }
}

/// User space with these hooks. The pool of metadata goes by type: `N` keeps tests apart.
pub(crate) struct Hooks<const N: usize, S = DefaultScheme>(PhantomData<S>);

impl<const N: usize, S: Scheme> Platform for Hooks<N, S> {
    type Scheme = S;
    type Lock = Hooked;

    fn cpu() -> usize {
        0
    }
    fn wait(key: usize, still: &dyn Fn() -> bool) {
        UserSpace::<S>::wait(key, still);
    }
    fn wake_all(key: usize) {
        UserSpace::<S>::wake_all(key);
    }
    fn unwinding() -> bool {
        thread::panicking()
    }
    fn between_put_steps() {
        if let Some(act) = AT_STOP.take() {
            act();
        }
    }
}

pub(crate) struct NoSlots;
impl<P: Platform> Owner<P> for NoSlots {
    fn with_slot(&self, _: Pfn, _: u64, _: &mut dyn FnMut(&Slot<P>)) -> bool {
        false
    }
}

/// A value that a hook passes to its test.
pub(crate) type Shared<T> = Rc<RefCell<Option<T>>>;

/// Returns two handles to one value: the hook stores it by the first, the test takes it by the
/// second.
pub(crate) fn shared<T>() -> (Shared<T>, Shared<T>) {
    let value = Rc::new(RefCell::new(None));
    (Rc::clone(&value), value)
}

/// Asserts that the zone of a dropped arena refuses all that safe code can ask of it.
pub(crate) fn assert_closed<P: Platform>(zone: &'static Zone<P>) {
    for n in 0..=18 {
        assert!(zone.alloc_frozen(order(n)).is_err(), "{n}");
        assert!(zone.alloc_frozen_up_to(order(n), MigrateType::Movable).is_err());
    }
    assert!(zone.alloc(Order::ZERO, OURS, 0).is_err());
    for block in 0..zone.blocks() {
        assert_eq!(zone.offline(block, &NoSlots).unwrap_err(), OfflineError::NotOnline);
    }
    let error = zone.alloc_contig(3, Order::ZERO, &NoSlots).unwrap_err();
    assert!([ContigError::NoPlace, ContigError::NotOnline].contains(&error), "{error:?}");
    let error = zone.alloc_contig_range(zone.block_range(0), &NoSlots).unwrap_err();
    assert_eq!(error, ContigError::NotOnline);
    assert_eq!(zone.compact(9, &NoSlots).emptied, 0);
    assert_eq!((zone.drain(), zone.free_frames()), (0, 0));
    zone.assert_sound();
}

/// Asserts that the zone is closed, all its frames were freed, and it refuses those of its heir.
pub(crate) fn assert_retired<P: Platform>(zone: &'static Zone<P>) {
    assert_closed(zone);
    let stats = zone.stats();
    assert_eq!((stats.online_frames, stats.free_frames, stats.largest_free_order), (0, 0, None));
    for pfn in zone.pfns() {
        assert!(zone.try_get(pfn).is_err() && zone.try_get_head(pfn).is_err());
        assert!(migrate(zone, pfn, &NoSlots).is_err());
    }
}
