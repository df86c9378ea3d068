//! The hot paths on two platforms, one that leaves the trace hook alone and one that sets it, for
//! `cargo x tracepoints`.
//!
//! A library that is never linked: only its assembly is looked at.

#![forbid(unsafe_code)]

#[cfg(traced)]
use std::sync::atomic::{AtomicU64, Ordering};

#[cfg(traced)]
use folio_frames::Event;
use folio_frames::{FolioRef, FrozenFolio, Lookup, Order, Pfn, Platform, Slot, UserSpace, Zone};
use folio_ref::DefaultScheme;

/// A process's own, with a hook when it is built with `--cfg traced`.
#[derive(Debug)]
pub struct Here;

/// What it was told.
#[cfg(traced)]
pub static TOLD: AtomicU64 = AtomicU64::new(0);

impl Platform for Here {
    type Scheme = <UserSpace as Platform>::Scheme;
    type Lock = <UserSpace as Platform>::Lock;

    fn cpu() -> usize {
        UserSpace::<DefaultScheme>::cpu()
    }
    fn wait(key: usize, still: &dyn Fn() -> bool) {
        UserSpace::<DefaultScheme>::wait(key, still);
    }
    fn wake_all(key: usize) {
        UserSpace::<DefaultScheme>::wake_all(key);
    }
    #[cfg(traced)]
    #[inline(always)]
    fn trace(event: Event, frame: impl FnOnce() -> Pfn) {
        // Relaxed: a number that nothing hangs on.
        TOLD.store(frame().as_u64() << 8 | event as u64, Ordering::Relaxed);
    }
}

/// One more reference.
#[inline(never)]
pub fn share(folio: &FolioRef<Here>) -> FolioRef<Here> {
    folio.clone()
}

/// One reference less, and all that the last one brings.
#[inline(never)]
pub fn put(folio: FolioRef<Here>) {
    drop(folio);
}

/// A lookup.
#[inline(never)]
pub fn get(slot: &Slot<Here>, zone: &'static Zone<Here>) -> Lookup<Here> {
    slot.get(zone)
}

/// From a frame's number.
#[inline(never)]
pub fn walk(zone: &'static Zone<Here>, pfn: Pfn) -> Option<FolioRef<Here>> {
    zone.try_get(pfn).ok()
}

/// One frame.
#[inline(never)]
pub fn alloc(zone: &'static Zone<Here>) -> Option<FrozenFolio<Here>> {
    zone.alloc_frozen(Order::ZERO).ok()
}

/// Frozen to live.
#[inline(never)]
pub fn open(folio: FrozenFolio<Here>) -> FolioRef<Here> {
    folio.init()
}

/// Back to the allocator.
#[inline(never)]
pub fn free(folio: FrozenFolio<Here>) {
    folio.free();
}
