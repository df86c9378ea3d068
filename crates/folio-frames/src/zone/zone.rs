//! A zone: a memmap, the allocator over it, and where its frames' bytes lie.

use core::alloc::Layout;
use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicBool, AtomicPtr, Ordering};

use crossbeam_utils::CachePadded;
use folio_ref::CHECKS;
use lock_api::Mutex;

use crate::base::ids::{BLOCK_ORDER, FRAME_SIZE, MAX_ORDER, Order, Pfn, PfnRange};
use crate::base::platform::{KindOps, Platform};
use crate::memmap::blocks::{Block, Blocks};
use crate::memmap::memmap::{Descriptor, Kind, Memmap, MemmapMemory};
use crate::memmap::numbers::{Number, Numbers};
use crate::zone::alloc::PerCpu;
use crate::zone::buddy::Buddy;
use crate::zone::deferred::Deferred;
use crate::zone::folio::FrozenFolio;
use crate::zone::pcp;
use crate::zone::watermarks::Gauge;

/// Frames that one allocator hands out. Lives for ever: everything that refers to frames holds
/// `&'static Zone`, so no late put ever finds its word gone (R7).
///
/// Lock order: a per-CPU list, then the buddy. Neither is held while anything outside this crate
/// runs.
pub struct Zone<P: Platform> {
    /// How slots name its frames: as many as the memmap has.
    pub(crate) numbers: Numbers,
    /// Where the bytes of number 0 would lie.
    numbered_map: Address,
    /// Where the first frame's bytes lie. **Invariant:** while any frame is online, the bytes of
    /// all online frames are mapped at their offset from here.
    direct_map: Address,
    /// The zone that has the metadata since this one retired (`retire.rs`); null before.
    pub(crate) heir: AtomicPtr<Self>,
    pub(crate) memmap: Memmap<P::Scheme>,
    pub(crate) blocks: Blocks,
    pub(crate) buddy: Mutex<P::Lock, Buddy>,
    pub(crate) gauge: Gauge,
    pub(crate) deferred: Deferred,
    pub(crate) per_cpu: [CachePadded<PerCpu<P>>; pcp::CPUS],
    kinds: &'static [KindOps<P>],
    first: Pfn,
    /// Frames in use as this zone, from the first; at most the memmap's.
    frames: u32,
    /// The one order above [`MAX_ORDER`] that it hands out, if there is one.
    huge: Option<Order>,
    /// See [`Zone::set_scrub`].
    pub(crate) scrub: AtomicBool,
}

/// An address of bytes that other values account for.
#[derive(Clone, Copy)]
struct Address(*mut u8);

// SAFETY: a number; nothing is read or written by it alone.
unsafe impl Send for Address {}
// SAFETY: as above.
unsafe impl Sync for Address {}

impl<P: Platform> Zone<P> {
    /// The metadata that [`Zone::new`] needs for `frames` frames.
    pub fn layout(frames: u32) -> Layout {
        let (layout, _) = Self::layout_and_blocks(frames);
        layout
    }

    fn layout_and_blocks(frames: u32) -> (Layout, usize) {
        let blocks = (frames / BLOCK_ORDER.frames()) as usize;
        let table = Layout::array::<Block>(blocks).expect("a block table fits an address space");
        Memmap::<P::Scheme>::layout(frames)
            .extend(table)
            .expect("memmap and block table fit an address space")
    }

    /// A zone of `frames` frames from `first` on, all offline; [`Zone::online_block`] hands them
    /// over.
    ///
    /// Each block's `destroy` is looked up in `kinds`; a kind that is not there is freed.
    ///
    /// # Panics
    ///
    /// When `frames` is 0 or no multiple of a block (512), `first` is not aligned to 1024, or the
    /// zones that this program ever made would have more than 2^32 frames (16 TiB).
    ///
    /// # Safety
    ///
    /// - `metadata` has the layout of [`Zone::layout`] and belongs to this zone alone, for ever: it
    ///   is never unmapped, made read-only or used for anything else (R7). It holds what `holds`
    ///   says.
    /// - `direct_map` is where the first frame's bytes lie; the bytes of each frame that is brought
    ///   online are readable and writable at their offset from it until its block is offline again,
    ///   and nobody touches them except through this crate.
    pub unsafe fn new(
        metadata: NonNull<u8>,
        holds: MemmapMemory,
        first: Pfn,
        frames: u32,
        direct_map: *mut u8,
        kinds: &'static [KindOps<P>],
    ) -> Self {
        let numbers = Numbers::reserve(frames)
            .expect("zones have some frames, and no more than 2^32 together");
        // SAFETY: the caller's promise.
        unsafe { Self::with_numbers(metadata, holds, first, numbers, frames, direct_map, kinds) }
    }

    /// Makes a zone of `frames` frames, as [`Zone::new`], over metadata for as many frames as there
    /// are numbers.
    ///
    /// # Safety
    ///
    /// As there.
    pub(crate) unsafe fn with_numbers(
        metadata: NonNull<u8>,
        holds: MemmapMemory,
        first: Pfn,
        numbers: Numbers,
        in_use: u32,
        direct_map: *mut u8,
        kinds: &'static [KindOps<P>],
    ) -> Self {
        let frames = numbers.frames();
        let per_block = BLOCK_ORDER.frames();
        assert!(
            frames > 0 && frames.is_multiple_of(per_block),
            "{frames} frames are no whole number of 2 MiB blocks"
        );
        assert!(frames < 1 << 30, "{frames} frames are more than a slot can name");
        assert!(
            first.as_u64().is_multiple_of(u64::from(MAX_ORDER.frames())),
            "{first:?} is not aligned to the largest block"
        );
        let (_, offset) = Self::layout_and_blocks(frames);
        // SAFETY: the caller's promise on `metadata`.
        let memmap = unsafe { Memmap::new(metadata, &numbers, holds) };
        // SAFETY: within the layout, by its construction.
        let table = unsafe { metadata.add(offset) };
        // SAFETY: as above, behind the descriptors.
        let blocks = unsafe { Blocks::new(table.cast(), frames / per_block, holds) };
        Self::over(memmap, blocks, numbers, first, in_use, direct_map, kinds)
    }

    /// Makes a zone over metadata that exists, in which every block is offline.
    pub(crate) fn over(
        memmap: Memmap<P::Scheme>,
        blocks: Blocks,
        numbers: Numbers,
        first: Pfn,
        frames: u32,
        direct_map: *mut u8,
        kinds: &'static [KindOps<P>],
    ) -> Self {
        assert!(
            frames <= memmap.frames(),
            "a zone of {frames} frames over a memmap of {}",
            memmap.frames()
        );
        Self {
            numbered_map: Address(numbers.zeroth(direct_map, FRAME_SIZE)),
            direct_map: Address(direct_map),
            heir: AtomicPtr::new(ptr::null_mut()),
            memmap,
            numbers,
            blocks,
            buddy: Mutex::new(Buddy::default()),
            gauge: Gauge::default(),
            deferred: Deferred::default(),
            per_cpu: core::array::from_fn(|_| CachePadded::default()),
            kinds,
            first,
            frames,
            huge: None,
            scrub: AtomicBool::new(false),
        }
    }

    /// Lets the zone hand out blocks of one more order, such as 1 GiB. They are formed when one is
    /// asked for, from free blocks that lie together, and stay whole until nothing else is
    /// left.
    ///
    /// # Panics
    ///
    /// When the order is not above [`MAX_ORDER`], or the zone's first frame is not aligned to it.
    #[must_use]
    pub fn with_huge_order(mut self, order: Order) -> Self {
        assert!(
            order > MAX_ORDER,
            "{order:?} is no huge order: allowed is what is above {MAX_ORDER:?}"
        );
        assert!(
            self.first.as_u64().is_multiple_of(u64::from(order.frames())),
            "{:?} is not aligned to the huge {order:?}",
            self.first
        );
        self.huge = Some(order);
        self
    }

    /// The one order above [`MAX_ORDER`] that the zone hands out, if it has one.
    pub fn huge_order(&self) -> Option<Order> {
        self.huge
    }

    /// All frames of the zone, online or not.
    pub fn pfns(&self) -> PfnRange {
        PfnRange { start: self.first, end: self.pfn(self.frames()) }
    }

    /// Blocks of 2 MiB in the zone.
    pub fn blocks(&self) -> usize {
        (self.frames() / BLOCK_ORDER.frames()) as usize
    }

    /// The frames of one block.
    ///
    /// # Panics
    ///
    /// When there is no such block.
    pub fn block_range(&self, block: usize) -> PfnRange {
        assert!(block < self.blocks(), "block {block} of a zone with {}", self.blocks());
        let start = block as u32 * BLOCK_ORDER.frames();
        PfnRange { start: self.pfn(start), end: self.pfn(start + BLOCK_ORDER.frames()) }
    }

    /// What becomes of a folio whose last reference is gone. The kind is read here, from the frame
    /// as it is now, after the freeze was won (R4).
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

    /// As [`Zone::destroy`], of what the folio is.
    #[inline]
    pub(crate) fn destroy_by_kind(&self, folio: FrozenFolio<P>) {
        let kind = folio.kind();
        self.destroy(folio, kind);
    }

    /// Whether a kind has a `destroy` of its own.
    #[inline]
    pub(crate) fn has_destructor(&self, kind: Kind) -> bool {
        self.kinds.iter().any(|ops| ops.kind == kind)
    }

    /// The zone that the frames belong to now: this one, or, since it retired, the last that
    /// inherited its metadata. Lasting for a frame of which the caller has the only control.
    #[inline]
    pub(crate) fn heir(&'static self) -> &'static Self {
        let mut zone = self;
        // Acquire: pairs with Release in inherit.
        while let Some(heir) = NonNull::new(zone.heir.load(Ordering::Acquire)) {
            // SAFETY: `inherit` stores zones that live for ever.
            zone = unsafe { heir.as_ref() };
        }
        zone
    }

    /// Returns `true` once another zone has the metadata. Exact for a caller that has a reference of
    /// a frame, as a zone retires when all its frames are free.
    #[inline]
    pub(crate) fn has_heir(&self) -> bool {
        // Relaxed: the heir was there before the frame's life began, which the caller's get saw.
        !self.heir.load(Ordering::Relaxed).is_null()
    }

    /// Returns `true` once the zone retired. Exact under the zone's lock.
    pub(crate) fn is_retired(&self) -> bool {
        self.numbers.frames() == 0
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
    pub(crate) fn set_mark(&self, index: u32) -> bool {
        self.memmap.set_mark(index)
    }

    #[inline(always)]
    pub(crate) fn set_mark_of(&self, number: Number) -> bool {
        self.memmap.set_mark_of(number)
    }

    pub(crate) fn pfn(&self, index: u32) -> Pfn {
        Pfn::new(self.first.as_u64() + u64::from(index))
    }

    /// How a slot names a frame.
    #[inline(always)]
    pub(crate) fn number(&self, index: u32) -> u32 {
        self.numbers.of(index)
    }

    /// `None`: no frame of this zone.
    pub(crate) fn index(&self, pfn: Pfn) -> Option<u32> {
        let index = pfn.as_u64().checked_sub(self.first.as_u64())?;
        (index < u64::from(self.frames())).then_some(index as u32)
    }

    /// Where a frame's bytes lie.
    #[inline(always)]
    pub(crate) fn address(&self, index: u32) -> *mut u8 {
        self.direct_map.0.wrapping_add(index as usize * FRAME_SIZE)
    }

    /// The same by a number of this zone.
    #[inline(always)]
    pub(crate) fn address_of(&self, number: Number) -> *mut u8 {
        self.numbered_map.0.wrapping_add(number.as_usize() * FRAME_SIZE)
    }
}

/// What a user is told when a rule is broken, provoked from inside: no caller can.
#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::string::String;

    use super::*;
    use crate::{Arena, Refusal, UserSpace};

    fn message(act: impl FnOnce()) -> String {
        let panic = catch_unwind(AssertUnwindSafe(act)).expect_err("nobody noticed");
        *panic.downcast::<String>().unwrap_or_else(|panic| {
            std::boxed::Box::new(String::from(*panic.downcast::<&str>().expect("a message")))
        })
    }

    /// Kept for ever: what is broken in it must not meet the checks of its end, nor another test.
    fn zone() -> (&'static Zone<UserSpace>, Pfn) {
        let arena = std::boxed::Box::leak(std::boxed::Box::new(
            Arena::new(BLOCK_ORDER.bytes(), &[]).unwrap(),
        ));
        (arena.zone(), arena.zone().pfns().start)
    }

    #[test]
    #[cfg_attr(not(debug_assertions), ignore = "a check of debug builds")]
    fn a_free_frame_that_lets_somebody_in_is_reported() {
        let (zone, free) = zone();
        assert_eq!(zone.try_get(free).err(), Some(Refusal::Free));
        zone.descriptor(zone.index(free).unwrap()).word.take_frozen().init();
        let said = message(|| drop(zone.try_get(free)));
        assert!(
            said.starts_with("try_get succeeded on pfn 0x100000, which is free (R1)"),
            "{said}"
        );
    }

    #[test]
    #[cfg_attr(not(debug_assertions), ignore = "a check of debug builds")]
    fn a_destructor_of_what_the_frame_had_been_is_reported() {
        let (zone, _) = zone();
        let folio = zone.alloc_frozen(Order::ZERO).unwrap();
        let said = message(|| zone.destroy(folio, Kind::owner(7)));
        assert!(
            said.contains("the destructor was chosen by what the frame had been (R4)"),
            "{said}"
        );
    }

    #[test]
    #[cfg_attr(not(debug_assertions), ignore = "a check of debug builds")]
    fn metadata_that_is_used_again_under_frames_in_use_is_reported() {
        let (zone, _) = zone();
        // SAFETY: it is refused before it does anything, which is what is shown.
        let said = message(|| _ = unsafe { zone.inherit(512, ptr::null_mut(), None, &[]) });
        assert!(said.contains("numbers of a zone that has not retired (R7)"), "{said}");
    }
}
