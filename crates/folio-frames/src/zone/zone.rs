//! A zone: a memmap, the allocator over it, and the address of its frames' bytes.

use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

use crossbeam_utils::CachePadded;
use folio_ref::CHECKS;
use lock_api::Mutex;

use crate::base::ids::{BLOCK_ORDER, FRAME_SIZE, Order, Pfn, PfnRange};
use crate::base::platform::Platform;
use crate::memmap::blocks::Blocks;
use crate::memmap::memmap::{Descriptor, Kind, Memmap};
use crate::memmap::numbers::{Number, Numbers};
use crate::zone::buddy::Buddy;
use crate::zone::deferred::Deferred;
use crate::zone::folio::{FrozenFolio, KindOps};
use crate::zone::gauge::Gauge;
use crate::zone::pcp::{self, PerCpu};
use crate::zone::track::Place;

/// The frames of one allocator. A zone lives forever: each handle on frames has a `&'static Zone`,
/// so a late put always finds its word (R7).
///
/// Lock order: a per-CPU list, then the buddy. Neither is held while code outside this crate runs.
///
/// ```
/// use std::alloc::{Layout, alloc_zeroed};
/// use std::ptr::NonNull;
/// use folio_frames::{MemmapMemory, Order, Pfn, UserSpace, Zone};
///
/// // Two blocks of 2 MiB. A kernel passes its direct map, and metadata from its boot allocator.
/// let frames = 1024;
/// let layout = Zone::<UserSpace>::layout(frames);
/// let bytes = Layout::from_size_align(4 << 20, 4 << 20)?;
/// // SAFETY: neither layout is empty.
/// let (metadata, direct_map) = unsafe { (alloc_zeroed(layout), alloc_zeroed(bytes)) };
/// let metadata = NonNull::new(metadata).expect("memory");
/// assert!(!direct_map.is_null());
/// let first = Pfn::new(1 << 20);
/// // SAFETY: both allocations belong to this zone alone, and are never freed.
/// let zone = unsafe {
///     Zone::<UserSpace>::new(metadata, MemmapMemory::Zeroed, first, frames, direct_map, &[])
/// };
/// let zone: &'static Zone<UserSpace> = Box::leak(Box::new(zone));
/// // SAFETY: the bytes of both blocks are mapped.
/// unsafe { zone.online_range(0..2) };
///
/// let folio = zone.alloc_frozen(Order::ZERO)?.init();
/// let found = zone.try_get(folio.pfn())?;
/// assert_eq!(found.pfn(), folio.pfn());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Zone<P: Platform> {
    /// The numbers by which slots name its frames: as many as the memmap has frames.
    pub(crate) numbers: Numbers,
    /// The address at which the bytes of number 0 would lie.
    pub(super) numbered_map: Address,
    /// The address of the first frame's bytes. **Invariant:** while any frame is online, the bytes
    /// of all online frames are mapped at their offset from here.
    pub(super) direct_map: Address,
    /// The zone that has the metadata since this one retired (`retire.rs`); null before.
    pub(crate) successor: AtomicPtr<Self>,
    pub(crate) memmap: Memmap<P::Scheme>,
    pub(crate) blocks: Blocks,
    /// On cache lines of its own, as the gauge is: other threads write it while a hit, an
    /// allocation or a walk reads the fields around it.
    pub(crate) buddy: CachePadded<Mutex<P::Lock, Buddy>>,
    pub(crate) gauge: CachePadded<Gauge>,
    pub(crate) deferred: Deferred,
    pub(crate) per_cpu: [CachePadded<PerCpu<P>>; pcp::CPUS],
    pub(super) kinds: &'static [KindOps<P>],
    /// Takes the frames that are freed, if another allocator has them.
    pub(crate) outer: Option<Outer<P>>,
    pub(super) first: Pfn,
    /// Frames in use as this zone, from the first; at most the memmap's.
    pub(super) frames: u32,
    /// The one order above [`MAX_ORDER`](crate::MAX_ORDER) that it hands out, if it has one.
    pub(super) huge: Option<Order>,
    /// Frames before the first block without metadata (`holes.rs`): all, if there is none.
    pub(crate) unbroken: u32,
    /// Frames that do not exist.
    pub(crate) holes: u32,
    /// See [`Zone::set_scrub`]. 1 or 0: a `bool` would move the fields that a hit needs.
    pub(crate) scrub: AtomicU32,
}

/// The function by which another allocator takes frames back: the zone, the first frame, and the
/// order.
pub(crate) type Outer<P> = fn(&'static Zone<P>, Pfn, Order);

/// An address of bytes that other values own.
#[derive(Clone, Copy)]
pub(super) struct Address(pub(super) *mut u8);

// SAFETY: a number; it alone reads and writes nothing.
unsafe impl Send for Address {}
// SAFETY: as above.
unsafe impl Sync for Address {}

impl<P: Platform> Zone<P> {
    /// Returns the one order above [`MAX_ORDER`](crate::MAX_ORDER) that the zone hands out, if it
    /// has one.
    pub fn huge_order(&self) -> Option<Order> {
        self.huge
    }

    /// Returns all frames of the zone, online or not, and the holes between them.
    pub fn pfns(&self) -> PfnRange {
        PfnRange { start: self.first, end: self.pfn(self.frames()) }
    }

    /// Returns the number of 2 MiB blocks in the zone.
    pub fn blocks(&self) -> usize {
        (self.frames() / BLOCK_ORDER.frames()) as usize
    }

    /// Returns the frames of one 2 MiB block.
    ///
    /// # Panics
    ///
    /// Panics if the zone has no such block.
    pub fn block_range(&self, block: usize) -> PfnRange {
        assert!(
            block < self.blocks(),
            "block {block} is not below {}, the number of blocks in the zone",
            self.blocks()
        );
        let start = block as u32 * BLOCK_ORDER.frames();
        PfnRange { start: self.pfn(start), end: self.pfn(start + BLOCK_ORDER.frames()) }
    }

    /// Destroys a folio after its last reference was dropped. `kind` was read after the freeze was
    /// won, from the frame as it is now (R4).
    #[cold]
    pub(crate) fn destroy(&self, folio: FrozenFolio<P>, kind: Kind) {
        assert!(
            !CHECKS || folio.kind() == kind,
            "the destructor was chosen by what the frame had been (R4)"
        );
        match self.kinds.iter().find(|ops| ops.kind == kind) {
            Some(ops) => (ops.destroy)(folio),
            None => folio.free(),
        }
    }

    /// Destroys a folio by its present kind.
    #[inline]
    pub(crate) fn destroy_by_kind(&self, folio: FrozenFolio<P>) {
        let kind = folio.kind();
        self.destroy(folio, kind);
    }

    /// Returns `true` if a kind has a `destroy` function of its own.
    #[inline]
    pub(crate) fn has_destructor(&self, kind: Kind) -> bool {
        self.kinds.iter().any(|ops| ops.kind == kind)
    }

    /// Returns the zone that the frames belong to now: this one, or the last that inherited its
    /// metadata after it retired. The answer lasts for a frame under the caller's exclusive
    /// control.
    #[inline]
    pub(crate) fn successor(&'static self) -> &'static Self {
        let mut zone = self;
        // Acquire: pairs with Release in inherit.
        while let Some(successor) = NonNull::new(zone.successor.load(Ordering::Acquire)) {
            // SAFETY: `inherit` stores zones that live forever.
            zone = unsafe { successor.as_ref() };
        }
        zone
    }

    /// Returns `true` once another zone has the metadata. Exact for a caller with a reference to a
    /// frame, as a zone retires only when all its frames are free.
    #[inline]
    pub(crate) fn has_successor(&self) -> bool {
        // Relaxed: the successor was stored before the folio opened, which the caller's get saw.
        !self.successor.load(Ordering::Relaxed).is_null()
    }

    /// Returns `true` once the zone retired. Exact under the zone's lock.
    pub(crate) fn is_retired(&self) -> bool {
        self.numbers.frames() == 0
    }

    /// Returns the name of a folio in the platform's table of references.
    #[inline(always)]
    pub(crate) fn place(&self, index: u32) -> Place<P> {
        Place::new(ptr::from_ref(self).addr(), self.pfn(index))
    }

    #[cfg(feature = "std")]
    pub(crate) fn first(&self) -> Pfn {
        self.first
    }

    pub(crate) fn frames(&self) -> u32 {
        self.frames
    }

    #[inline(always)]
    pub(crate) fn descriptor(&self, index: u32) -> &Descriptor<P::Scheme> {
        self.memmap.get(index)
    }

    #[inline(always)]
    pub(crate) fn set_referenced(&self, index: u32) -> bool {
        self.memmap.set_referenced(index)
    }

    #[inline(always)]
    pub(crate) fn are_hot(&self, index: u32, n: u32) -> bool {
        self.memmap.are_hot(index, n)
    }

    #[inline(always)]
    pub(crate) fn set_referenced_of(&self, number: Number) -> bool {
        self.memmap.set_referenced_of(number)
    }

    pub(crate) fn pfn(&self, index: u32) -> Pfn {
        Pfn::new(self.first.as_u64() + u64::from(index))
    }

    /// Returns the number by which a slot names a frame.
    #[inline(always)]
    pub(crate) fn number(&self, index: u32) -> u32 {
        self.numbers.of(index)
    }

    /// Returns the index of a frame, or `None` if it is not in this zone, or its block has no
    /// metadata.
    pub(crate) fn index(&self, pfn: Pfn) -> Option<u32> {
        let index = pfn.as_u64().checked_sub(self.first.as_u64())?;
        // The table of blocks is asked only where a block may have no metadata.
        (index < u64::from(self.unbroken) || self.is_beyond(index)).then_some(index as u32)
    }

    /// Asks the table of blocks. A function of its own, so that a zone without holes pays nothing.
    #[cold]
    #[inline(never)]
    fn is_beyond(&self, index: u64) -> bool {
        index < u64::from(self.frames()) && self.blocks.has_metadata(index as u32)
    }

    /// Returns the index of a frame, or `None` if it is not in this zone. Its block may have no
    /// metadata.
    pub(crate) fn index_in_span(&self, pfn: Pfn) -> Option<u32> {
        let index = pfn.as_u64().checked_sub(self.first.as_u64())?;
        (index < u64::from(self.frames())).then_some(index as u32)
    }

    /// Returns the address of a frame's bytes.
    #[inline(always)]
    pub(crate) fn address(&self, index: u32) -> *mut u8 {
        self.direct_map.0.wrapping_add(index as usize * FRAME_SIZE)
    }

    /// Returns the address of the bytes of the frame with a number of this zone.
    #[inline(always)]
    pub(crate) fn address_of(&self, number: Number) -> *mut u8 {
        self.numbered_map.0.wrapping_add(number.as_usize() * FRAME_SIZE)
    }
}

/// The reports of broken rules, provoked from inside, as no caller can.
#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::string::String;

    use super::*;
    use crate::{Arena, Refusal, UserSpace};

    fn message(act: impl FnOnce()) -> String {
        let panic = catch_unwind(AssertUnwindSafe(act)).expect_err("a panic");
        *panic.downcast::<String>().unwrap_or_else(|panic| {
            std::boxed::Box::new(String::from(*panic.downcast::<&str>().expect("a message")))
        })
    }

    /// Leaks the arena: the checks at its end, and other tests, must not see its broken state.
    fn zone() -> (&'static Zone<UserSpace>, Pfn) {
        let arena = std::boxed::Box::leak(std::boxed::Box::new(
            Arena::new(BLOCK_ORDER.bytes(), &[]).unwrap(),
        ));
        (arena.zone(), arena.zone().pfns().start)
    }

    #[test]
    #[cfg_attr(not(debug_assertions), ignore = "a check of debug builds")]
    fn a_lookup_of_a_live_free_frame_is_reported() {
        let (zone, free) = zone();
        assert_eq!(zone.try_get(free).err(), Some(Refusal::Free));
        zone.descriptor(zone.index(free).unwrap()).word.take_frozen().init();
        let text = message(|| drop(zone.try_get(free)));
        assert!(
            text.starts_with("try_get succeeded on pfn 0x100000, which is free (R1)"),
            "{text}"
        );
    }

    #[test]
    #[cfg_attr(not(debug_assertions), ignore = "a check of debug builds")]
    fn a_destructor_of_the_former_kind_is_reported() {
        let (zone, _) = zone();
        let folio = zone.alloc_frozen(Order::ZERO).unwrap();
        let text = message(|| zone.destroy(folio, Kind::owner(7)));
        assert!(
            text.contains("the destructor was chosen by what the frame had been (R4)"),
            "{text}"
        );
    }

    #[test]
    #[cfg_attr(not(debug_assertions), ignore = "a check of debug builds")]
    fn metadata_reused_before_retirement_is_reported() {
        let (zone, _) = zone();
        // SAFETY: the call panics before it does anything, as this test shows.
        let text = message(|| _ = unsafe { zone.inherit(512, ptr::null_mut(), None, &[]) });
        assert!(text.contains("numbers of a zone that has not retired (R7)"), "{text}");
    }
}
