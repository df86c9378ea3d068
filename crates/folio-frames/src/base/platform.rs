//! What the surroundings give: the scheme, the lock, the CPU number, sleeping, the registers for
//! copies.
//!
//! One trait, so that everything above carries one type parameter. A kernel implements it with its
//! spin lock that disables interrupts, its CPU number and its wait queues; user space takes
//! `UserSpace`.

#[cfg(feature = "track")]
use core::panic::Location;

use crate::base::ids::Pfn;
use crate::base::trace::Event;
use crate::index::racy_copy::Vectors;
use crate::memmap::memmap::Kind;
use crate::zone::folio::FrozenFolio;

/// The surroundings that frames live in.
pub trait Platform: Sized + Send + Sync + 'static {
    /// How reference counts are encoded.
    type Scheme: folio_ref::Scheme;
    /// What protects the free lists. Held for a bounded number of descriptor writes.
    type Lock: lock_api::RawMutex + Send + Sync;

    /// A byte with which the bytes of each freed folio are overwritten, so that a read of memory
    /// that was not written since shows itself. `None`: they stay as they are. For debug builds of
    /// platforms whose frames are mapped.
    const POISON: Option<u8> = None;

    /// The CPU that runs this, as a hint for the choice of a per-CPU list. Any value is correct.
    fn cpu() -> usize;

    /// Sleeps on `key` while `still()` holds. `still` is evaluated again after the sleeper is
    /// visible to [`wake_all`](Self::wake_all); waking without reason is allowed.
    fn wait(key: usize, still: &dyn Fn() -> bool);

    /// Wakes everybody who sleeps on `key`.
    fn wake_all(key: usize);

    /// The widest registers that a copy may use: there, and saved when somebody else runs on this
    /// CPU. Asked for each copy of 256 bytes and more.
    #[inline(always)]
    fn vectors() -> Vectors {
        Vectors::BITS_128
    }

    /// Whether this thread unwinds from a panic: then a token dropped on the way is not reported as
    /// well.
    fn unwinding() -> bool {
        false
    }

    /// Called between the two steps of a last put, where the reuse race lives (R4, R7). For tests.
    #[inline(always)]
    fn between_put_steps() {}

    /// Called in a read without a reference, after the copy and before the second look. For tests.
    #[inline(always)]
    fn between_copy_and_check() {}
    /// Told of every transition of every frame: see [`Event`]. By default nobody is, and it costs
    /// nothing.
    #[inline(always)]
    fn trace(_event: Event, _frame: impl FnOnce() -> Pfn) {}

    /// Told that references of a folio were taken at a line of code. `zone` tells zones apart. It
    /// must not call back, and takes no lock that whoever takes or returns a reference could
    /// hold.
    #[cfg(feature = "track")]
    fn reference_began(
        _zone: usize,
        _head: Pfn,
        _site: &'static Location<'static>,
        _references: u32,
    ) {
    }

    /// Told that references taken there are about to end. As
    /// [`reference_began`](Self::reference_began).
    #[cfg(feature = "track")]
    fn reference_ended(
        _zone: usize,
        _head: Pfn,
        _site: &'static Location<'static>,
        _references: u32,
    ) {
    }

    /// Says where the references of a folio were taken that did not end, and how many there:
    /// [`Zone::pin_owners`](crate::Zone::pin_owners).
    #[cfg(feature = "track")]
    fn pin_owners(
        _zone: usize,
        _head: Pfn,
        _visit: &mut dyn FnMut(&'static Location<'static>, u32),
    ) {
    }
}

/// What is done with a folio of one kind when its last reference is gone.
#[derive(Debug)]
pub struct KindOps<P: Platform> {
    /// The kind.
    pub kind: Kind,
    /// Its name in reports.
    pub name: &'static str,
    /// Runs in whichever thread put last, which may be one that never used this folio (the reuse
    /// race, R4): so it may take no lock that any caller of a put could hold. Ends in
    /// [`FrozenFolio::free`] or `init`.
    pub destroy: fn(FrozenFolio<P>),
}
