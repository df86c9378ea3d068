//! A zone: a memmap, the allocator over it, and where its frames' bytes lie.

use core::alloc::Layout;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicPtr, AtomicU8, AtomicU32, Ordering};

use crossbeam_utils::CachePadded;
use folio_ref::CHECKS;
use lock_api::Mutex;

use crate::alloc::PerCpu;
use crate::blocks::{Block, Blocks};
use crate::buddy::Buddy;
use crate::folio::FrozenFolio;
use crate::handover::Waiting;
use crate::ids::{BLOCK_ORDER, FRAME_SIZE, MAX_ORDER, Order, Pfn, PfnRange};
use crate::memmap::{Descriptor, Kind, Memmap, MemmapMemory};
use crate::numbers::{Number, Numbers};
use crate::pcp;
use crate::platform::{KindOps, Platform};
use crate::watermarks::Gauge;

/// Frames that one allocator hands out. Lives for ever: everything that refers to frames holds
/// `&'static Zone`, so no late put ever finds its word gone (R7).
///
/// Lock order: a per-CPU list, then the buddy. Neither is held while anything outside this crate
/// runs.
pub struct Zone<P: Platform> {
    /// How slots name its frames: as many as the memmap has.
    pub(crate) numbers: Numbers,
    /// Where the bytes of number 0 would lie.
    numbered_map: AtomicPtr<u8>,
    /// Where the first frame's bytes lie. **Invariant:** while any frame is online, the bytes of
    /// all online frames are mapped at their offset from here.
    direct_map: AtomicPtr<u8>,
    pub(crate) memmap: Memmap<P::Scheme>,
    pub(crate) blocks: Blocks,
    pub(crate) buddy: Mutex<P::Lock, Buddy>,
    pub(crate) gauge: Gauge,
    pub(crate) waiting: Waiting,
    pub(crate) per_cpu: [CachePadded<PerCpu<P>>; pcp::CPUS],
    kinds: &'static [KindOps<P>],
    first: Pfn,
    /// Frames in use as this zone, from the first; at most the memmap's.
    frames: AtomicU32,
    /// How often the zone got new bytes.
    epoch: AtomicU32,
    /// The one order above [`MAX_ORDER`] that it hands out; 0: none.
    huge: AtomicU8,
}

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
        unsafe { Self::with_numbers(metadata, holds, first, numbers, direct_map, kinds) }
    }

    /// As [`Zone::new`], of as many frames as there are numbers.
    ///
    /// # Safety
    ///
    /// As there.
    pub(crate) unsafe fn with_numbers(
        metadata: NonNull<u8>,
        holds: MemmapMemory,
        first: Pfn,
        numbers: Numbers,
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
        let memmap = unsafe { Memmap::new(metadata, numbers, holds) };
        // SAFETY: within the layout, by its construction.
        let table = unsafe { metadata.add(offset) };
        // SAFETY: as above, behind the descriptors.
        let blocks = unsafe { Blocks::new(table.cast(), frames / per_block, holds) };
        Self {
            memmap,
            numbers,
            blocks,
            buddy: Mutex::new(Buddy::default()),
            gauge: Gauge::default(),
            waiting: Waiting::default(),
            per_cpu: core::array::from_fn(|_| CachePadded::default()),
            kinds,
            first,
            frames: AtomicU32::new(frames),
            direct_map: AtomicPtr::new(direct_map),
            numbered_map: AtomicPtr::new(numbers.zeroth(direct_map, FRAME_SIZE)),
            epoch: AtomicU32::new(0),
            huge: AtomicU8::new(0),
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
    pub fn with_huge_order(self, order: Order) -> Self {
        self.set_huge_order(Some(order));
        self
    }

    /// As [`Zone::with_huge_order`], before any block is online.
    pub(crate) fn set_huge_order(&self, order: Option<Order>) {
        if let Some(order) = order {
            assert!(
                order > MAX_ORDER,
                "{order:?} is no huge order: allowed is what is above {MAX_ORDER:?}"
            );
            assert!(
                self.first.as_u64().is_multiple_of(u64::from(order.frames())),
                "{:?} is not aligned to the huge {order:?}",
                self.first
            );
        }
        // Relaxed: set before any frame came online; whoever holds a frame got that edge with it.
        self.huge.store(order.map_or(0, Order::as_u8), Ordering::Relaxed);
    }

    /// The one order above [`MAX_ORDER`] that the zone hands out, if it has one.
    pub fn huge_order(&self) -> Option<Order> {
        // Relaxed: as in `set_huge_order`.
        Order::new(self.huge.load(Ordering::Relaxed)).filter(|&order| order > Order::ZERO)
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

    #[cfg(feature = "std")]
    pub(crate) fn kinds(&self) -> &'static [KindOps<P>] {
        self.kinds
    }

    pub(crate) fn frames(&self) -> u32 {
        // Relaxed: set before the zone is handed to anybody.
        self.frames.load(Ordering::Relaxed)
    }

    pub(crate) fn epoch(&self) -> u32 {
        // Relaxed: it changes only while no block is online.
        self.epoch.load(Ordering::Relaxed)
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
        // Relaxed: set before any frame came online; whoever holds a frame got that edge with it.
        self.direct_map.load(Ordering::Relaxed).wrapping_add(index as usize * FRAME_SIZE)
    }

    /// The same by a number of this zone.
    #[inline(always)]
    pub(crate) fn address_of(&self, number: Number) -> *mut u8 {
        // Relaxed: as in address.
        self.numbered_map.load(Ordering::Relaxed).wrapping_add(number.as_usize() * FRAME_SIZE)
    }

    /// Gives a zone whose blocks are all offline new bytes and a new length.
    ///
    /// # Safety
    ///
    /// As [`Zone::new`] says of `direct_map`; no block is online, `frames` is not above the
    /// memmap's.
    #[cfg(feature = "std")]
    pub(crate) unsafe fn reuse(&self, frames: u32, direct_map: *mut u8, huge: Option<Order>) {
        assert!(!CHECKS || self.blocks.count().0 == 0, "a zone with blocks online was reused (R7)");
        assert!(frames <= self.memmap.frames());
        self.set_huge_order(huge);
        self.frames.store(frames, Ordering::Relaxed);
        self.direct_map.store(direct_map, Ordering::Relaxed);
        self.numbered_map.store(self.numbers.zeroth(direct_map, FRAME_SIZE), Ordering::Relaxed);
        self.epoch.fetch_add(1, Ordering::Relaxed);
        self.reset_counters();
        self.gauge.forget_marks();
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
        let said = message(|| unsafe { zone.reuse(512, core::ptr::null_mut(), None) });
        assert!(said.contains("a zone with blocks online was reused (R7)"), "{said}");
    }
}
