//! The constructors of a zone.

use core::alloc::Layout;
use core::mem::MaybeUninit;
use core::ops::Range;
use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicPtr, AtomicU32};

use crossbeam_utils::CachePadded;
use lock_api::Mutex;

use crate::base::ids::{BLOCK_ORDER, FRAME_SIZE, MAX_ORDER, Order, Pfn};
use crate::base::platform::Platform;
use crate::memmap::blocks::Blocks;
use crate::memmap::memmap::{Memmap, MemmapMemory};
use crate::memmap::numbers::Numbers;
use crate::zone::buddy::Buddy;
use crate::zone::deferred::Deferred;
use crate::zone::folio::KindOps;
use crate::zone::pcp;
use crate::zone::zone::{Address, Zone};

/// The number of frames in an address space of 2^64 bytes.
const MOST_FRAMES: u64 = 1 << 52;

/// Writes each field of the zone at a place, so that no other place is needed. Fails to compile if
/// a field is missing.
macro_rules! write_fields {
    ($zone:ident, besides [$($written:ident),*], { $($field:ident: $value:expr,)* }) => {
        let _ = |zone: &Self| { let Self { $($written: _,)* $($field: _,)* } = zone; };
        $(
            let value = $value;
            // SAFETY: a field of the place.
            let field = unsafe { &raw mut (*$zone).$field };
            // SAFETY: as above, and nothing else uses the place.
            unsafe { field.write(value) };
        )*
    };
}

/// Panics if no zone can have `frames` frames from `first` on, with their bytes at `direct_map`.
/// Inlined: with constants nothing of it is left.
#[inline(always)]
pub(crate) fn assert_fits(first: Pfn, frames: u32, direct_map: *mut u8) {
    assert!(
        frames.is_multiple_of(BLOCK_ORDER.frames()),
        "frame count {frames} is not a multiple of 512 (2 MiB)"
    );
    assert!(frames < 1 << 30, "frame count {frames} is not below 2^30 (4 TiB)");
    assert!(
        first.as_u64().is_multiple_of(u64::from(MAX_ORDER.frames())),
        "{first:?} is not a multiple of 1024 frames (4 MiB)"
    );
    assert!(
        first.as_u64() <= MOST_FRAMES - u64::from(frames),
        "{frames} frames from {first:?} on end above frame 2^52 (2^64 bytes)"
    );
    assert!(
        direct_map.addr().is_multiple_of(FRAME_SIZE),
        "the direct map at {direct_map:?} is not aligned to a frame (4096)"
    );
}

impl<P: Platform> Zone<P> {
    /// Returns the layout of the metadata that [`Zone::new`] needs for `frames` frames, a multiple
    /// of 512.
    pub fn layout(frames: u32) -> Layout {
        let (layout, _) = Self::layout_and_blocks(frames);
        layout
    }

    /// Reserves numbers for the frames of a zone. They are never given back: all that may be wrong
    /// with the zone is found before.
    pub(super) fn reserve_numbers(frames: u32) -> Numbers {
        let Some(numbers) = Numbers::reserve(frames) else {
            panic!(
                "a zone of {frames} frames: it must have some, and all zones that a program ever \
                 made together less than 2^32 (16 TiB)"
            )
        };
        numbers
    }

    pub(crate) fn layout_and_blocks(frames: u32) -> (Layout, usize) {
        let table = Blocks::layout((frames / BLOCK_ORDER.frames()) as usize);
        Memmap::<P::Scheme>::layout(frames)
            .extend(table)
            .expect("memmap and block table fit an address space")
    }

    /// Makes a zone of `frames` frames from `first` on, all offline. [`Zone::online_block`] and
    /// [`Zone::online_range`] bring them online.
    ///
    /// When a folio's last reference is dropped, its `destroy` is looked up in `kinds`; a folio of
    /// any other kind is freed.
    ///
    /// # Panics
    ///
    /// Panics if `frames` is 0, not a multiple of a block (512), or 2^30 (4 TiB) or more, if
    /// `first` is not aligned to 1024, if a frame has a number of 2^52 or more, if `direct_map` is
    /// not aligned to a frame, or if all zones that this program ever made would have 2^32 frames
    /// (16 TiB) or more.
    ///
    /// # Safety
    ///
    /// - `metadata` has the layout of [`Zone::layout`] and belongs to this zone alone, forever: it
    ///   is never unmapped, made read-only or used for anything else (R7). It contains what `holds`
    ///   says.
    /// - `direct_map` is the address of the first frame's bytes. The bytes of each frame that comes
    ///   online are readable and writable at their offset from it until its block is offline again,
    ///   and no code accesses them except through this crate.
    pub unsafe fn new(
        metadata: NonNull<u8>,
        holds: MemmapMemory,
        first: Pfn,
        frames: u32,
        direct_map: *mut u8,
        kinds: &'static [KindOps<P>],
    ) -> Self {
        assert_fits(first, frames, direct_map);
        let numbers = Self::reserve_numbers(frames);
        // SAFETY: the caller's promise.
        unsafe { Self::with_numbers(metadata, holds, first, numbers, frames, direct_map, kinds) }
    }

    /// Makes a zone of `in_use` frames over metadata for as many frames as there are numbers.
    ///
    /// # Safety
    ///
    /// `metadata` and `direct_map` meet the requirements of [`Zone::new`].
    pub(crate) unsafe fn with_numbers(
        metadata: NonNull<u8>,
        holds: MemmapMemory,
        first: Pfn,
        numbers: Numbers,
        in_use: u32,
        direct_map: *mut u8,
        kinds: &'static [KindOps<P>],
    ) -> Self {
        let all = core::iter::once(0..(numbers.frames() / BLOCK_ORDER.frames()) as usize);
        // SAFETY: the caller's promise.
        let (memmap, blocks) = unsafe { Self::over_metadata(metadata, holds, &numbers, all) };
        Self::over(memmap, blocks, numbers, first, in_use, direct_map, kinds)
    }

    /// Makes a zone in the memory that will have it, as [`new`](Self::new) does. It needs a few
    /// hundred bytes of stack, where a zone has more than 3 KiB.
    ///
    /// # Panics
    ///
    /// Panics if `frames` is 0, not a multiple of a block (512), or 2^30 (4 TiB) or more, if
    /// `first` is not aligned to 1024, if a frame has a number of 2^52 or more, if `direct_map` is
    /// not aligned to a frame, or if all zones that this program ever made would have 2^32 frames
    /// (16 TiB) or more.
    ///
    /// # Safety
    ///
    /// `metadata` and `direct_map` meet the requirements of [`Zone::new`].
    ///
    /// ```
    /// # use std::alloc::{Layout, alloc_zeroed};
    /// use std::mem::MaybeUninit;
    /// # use std::ptr::NonNull;
    /// use folio_frames::{MemmapMemory, Order, Pfn, UserSpace, Zone};
    ///
    /// # let layout = Zone::<UserSpace>::layout(512);
    /// # let bytes = Layout::from_size_align(2 << 20, 4 << 20)?;
    /// # // SAFETY: neither layout is empty.
    /// # let (metadata, direct_map) = unsafe { (alloc_zeroed(layout), alloc_zeroed(bytes)) };
    /// # let metadata = NonNull::new(metadata).expect("memory");
    /// # assert!(!direct_map.is_null());
    /// # let first = Pfn::new(1 << 20);
    /// # let holds = MemmapMemory::Zeroed;
    /// // A kernel has this in a static, or takes it from its boot allocator.
    /// let place = Box::leak(Box::<Zone<UserSpace>>::new_uninit());
    /// // SAFETY: both allocations belong to this zone alone, and are never freed.
    /// let zone = unsafe { Zone::new_in(place, metadata, holds, first, 512, direct_map, &[]) };
    /// let zone: &'static Zone<UserSpace> = zone;
    /// // SAFETY: the bytes of the block are mapped.
    /// unsafe { zone.online_block(0) };
    /// zone.alloc_frozen(Order::ZERO)?.free();
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub unsafe fn new_in(
        place: &'static mut MaybeUninit<Self>,
        metadata: NonNull<u8>,
        holds: MemmapMemory,
        first: Pfn,
        frames: u32,
        direct_map: *mut u8,
        kinds: &'static [KindOps<P>],
    ) -> &'static mut Self {
        assert_fits(first, frames, direct_map);
        let numbers = Self::reserve_numbers(frames);
        let all = core::iter::once(0..(frames / BLOCK_ORDER.frames()) as usize);
        // SAFETY: the caller's promise.
        let (memmap, blocks) = unsafe { Self::over_metadata(metadata, holds, &numbers, all) };
        Self::over_in(place, memmap, blocks, numbers, first, frames, direct_map, kinds)
    }

    /// Makes the memmap and the table of blocks for as many frames as there are numbers. Only these
    /// runs of blocks have metadata.
    ///
    /// # Safety
    ///
    /// `metadata`, as far as it belongs to these blocks, meets the requirements of [`Zone::new`].
    pub(super) unsafe fn over_metadata(
        metadata: NonNull<u8>,
        holds: MemmapMemory,
        numbers: &Numbers,
        runs: impl Iterator<Item = Range<usize>>,
    ) -> (Memmap<P::Scheme>, Blocks) {
        let frames = numbers.frames();
        let per_block = BLOCK_ORDER.frames();
        let (_, offset) = Self::layout_and_blocks(frames);
        let per_run = per_block as usize;
        let runs = runs.map(|run| run.start * per_run..run.end * per_run);
        // SAFETY: the caller's promise on `metadata`.
        let memmap = unsafe { Memmap::new(metadata, numbers, holds, runs) };
        // SAFETY: within the layout, by its construction.
        let table = unsafe { metadata.add(offset) };
        // SAFETY: as above, behind the descriptors.
        let blocks = unsafe { Blocks::new(table.cast(), frames / per_block, holds) };
        (memmap, blocks)
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
        let mut zone = MaybeUninit::uninit();
        Self::over_in(&mut zone, memmap, blocks, numbers, first, frames, direct_map, kinds);
        // SAFETY: it was just written.
        unsafe { zone.assume_init() }
    }

    /// Makes a zone as [`over`](Self::over) does, in place.
    #[expect(clippy::too_many_arguments, reason = "those of the constructors, and the place")]
    pub(super) fn over_in<'z>(
        place: &'z mut MaybeUninit<Self>,
        memmap: Memmap<P::Scheme>,
        blocks: Blocks,
        numbers: Numbers,
        first: Pfn,
        frames: u32,
        direct_map: *mut u8,
        kinds: &'static [KindOps<P>],
    ) -> &'z mut Self {
        assert!(
            frames <= memmap.frames(),
            "a zone of {frames} frames over a memmap of {}",
            memmap.frames()
        );
        let zone = place.as_mut_ptr();
        for cpu in 0..pcp::CPUS {
            // SAFETY: a field of the place.
            let per_cpu = unsafe { &raw mut (*zone).per_cpu[cpu] };
            // SAFETY: as above, and nothing else uses the place.
            unsafe { per_cpu.write(CachePadded::default()) };
        }
        write_fields!(zone, besides [per_cpu], {
            numbered_map: Address(numbers.zeroth(direct_map, FRAME_SIZE)),
            direct_map: Address(direct_map),
            successor: AtomicPtr::new(ptr::null_mut()),
            memmap: memmap,
            numbers: numbers,
            blocks: blocks,
            buddy: CachePadded::new(Mutex::new(Buddy::default())),
            gauge: CachePadded::default(),
            deferred: Deferred::default(),
            kinds: kinds,
            outer: None,
            first: first,
            frames: frames,
            huge: None,
            unbroken: frames,
            holes: 0,
            scrub: AtomicU32::new(0),
        });
        // SAFETY: every field was written.
        unsafe { place.assume_init_mut() }
    }

    /// Lets the zone hand out blocks of one more order, such as 1 GiB. Such a block is formed on
    /// request, from free blocks that lie together, and stays whole until no other block is left.
    ///
    /// # Panics
    ///
    /// Panics if the order is not above [`MAX_ORDER`], or if the zone's first frame is not aligned
    /// to it.
    #[must_use]
    pub fn with_huge_order(mut self, order: Order) -> Self {
        self.set_huge_order(order);
        self
    }

    /// Lets a zone that was made [in place](Self::new_in) hand out blocks of one more order, as
    /// [`with_huge_order`](Self::with_huge_order) does.
    ///
    /// # Panics
    ///
    /// Panics if the order is not above [`MAX_ORDER`], or if the zone's first frame is not aligned
    /// to it.
    pub fn set_huge_order(&mut self, order: Order) {
        assert!(
            order > MAX_ORDER,
            "{order:?} is not a huge order: allowed is any above {MAX_ORDER:?}"
        );
        assert!(
            self.first.as_u64().is_multiple_of(u64::from(order.frames())),
            "{:?} is not aligned to the huge {order:?}",
            self.first
        );
        self.huge = Some(order);
    }
}
