//! The hot paths on a platform that leaves the trace hook alone and, with `--cfg traced`, one that
//! sets it, for `cargo x tracepoints`.
//!
//! A library that is never linked: only its assembly is read.

#![forbid(unsafe_code)]

#[cfg(traced)]
use std::sync::atomic::{AtomicU64, Ordering};

#[cfg(traced)]
use folio_frames::Event;
use folio_frames::{FolioRef, FrozenFolio, Lookup, Order, Pfn, Platform, Slot, UserSpace, Zone};
use folio_ref::DefaultScheme;

/// The platform of a process, with a trace hook under `--cfg traced`.
#[derive(Debug)]
pub struct Here;

/// The last event and its frame.
#[cfg(traced)]
pub static LAST: AtomicU64 = AtomicU64::new(0);

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
        // Relaxed: no other access depends on this value.
        LAST.store(frame().as_u64() << 8 | event as u64, Ordering::Relaxed);
    }
}

/// Takes one more reference.
#[inline(never)]
pub fn share(folio: &FolioRef<Here>) -> FolioRef<Here> {
    folio.clone()
}

/// Drops a reference, and destroys the folio if it was the last.
#[inline(never)]
pub fn put(folio: FolioRef<Here>) {
    drop(folio);
}

/// Looks a folio up in its slot.
#[inline(never)]
pub fn get(slot: &Slot<Here>, zone: &'static Zone<Here>) -> Lookup<Here> {
    slot.get(zone)
}

/// Looks a folio up by frame number.
#[inline(never)]
pub fn walk(zone: &'static Zone<Here>, pfn: Pfn) -> Option<FolioRef<Here>> {
    zone.try_get(pfn).ok()
}

/// Allocates one frame.
#[inline(never)]
pub fn alloc(zone: &'static Zone<Here>) -> Option<FrozenFolio<Here>> {
    zone.alloc_frozen(Order::ZERO).ok()
}

/// Makes a frozen folio live.
#[inline(never)]
pub fn open(folio: FrozenFolio<Here>) -> FolioRef<Here> {
    folio.init()
}

/// Frees a frozen folio.
#[inline(never)]
pub fn free(folio: FrozenFolio<Here>) {
    folio.free();
}
