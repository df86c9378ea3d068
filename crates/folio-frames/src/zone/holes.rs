//! Memory maps as they are: frames of a zone that do not exist.
//!
//! | in the map | metadata | what it is |
//! | --- | --- | --- |
//! | a whole 2 MiB block | yes | a block as any other |
//! | a part of a block | yes | its missing frames are *holes*: heads of kind [`Kind::HOLE`], frozen forever |
//! | nothing of a block | none | the table of blocks says so, and is asked first |
//!
//! (Linux `SPARSEMEM_VMEMMAP`: the memmap is one array of addresses, mapped where memory is.)
//!
//! **Invariants:** holes are made before the zone is shared, and never change. A hole never enters
//! the allocator: its word stays frozen (R1, R2), and no free block contains it, as its head has a
//! shape that merges with nothing. Its metadata stays (R7). A block without metadata is never
//! online, and no code reads a descriptor of it: a frame number from outside passes
//! [`Zone::index`], and a step from one block to another passes [`Blocks::has_metadata`].
//!
//! [`Blocks::has_metadata`]: crate::memmap::blocks::Blocks::has_metadata

use core::mem::MaybeUninit;
use core::ops::Range;
use core::ptr::NonNull;

use folio_ref::CHECKS;

use crate::base::ids::{BLOCK_ORDER, Order, aligned};
use crate::base::platform::Platform;
use crate::base::seeded_bugs::holes_freed;
use crate::memmap::blocks::Blocks;
use crate::memmap::memmap::{Kind, Memmap, MemmapMemory};
use crate::memmap::memory_map::MemoryMap;
use crate::zone::buddy::Buddy;
use crate::zone::folio::KindOps;
use crate::zone::new::assert_fits;
use crate::zone::zone::Zone;

impl<P: Platform> Zone<P> {
    /// Makes a zone of the frames in a memory map, all offline. It spans [`MemoryMap::span`].
    /// [`Zone::online_range`] of all its blocks brings exactly the frames in the map online.
    ///
    /// Of the metadata only what [`Zone::metadata_of`] says is read or written, for those blocks
    /// that [`MemoryMap::blocks`] names: a large hole needs no memory.
    ///
    /// When a folio's last reference is dropped, its `destroy` is looked up in `kinds`; a folio of
    /// any other kind is freed.
    ///
    /// # Panics
    ///
    /// Panics if the map has no frame, or spans 2^30 frames (4 TiB) or more, if `direct_map` is not
    /// aligned to a frame, or if all zones that this program ever made would have 2^32 frames (16
    /// TiB) or more.
    ///
    /// # Safety
    ///
    /// - `metadata` has the layout of [`Zone::layout`] for the frames of the span, and the parts
    ///   that are read or written belong to this zone alone, forever: they are never unmapped, made
    ///   read-only or used for anything else (R7). They contain what `holds` says.
    /// - `direct_map` is the address of the bytes of the span's first frame. The bytes of each
    ///   frame in the map that comes online are readable and writable at their offset from it until
    ///   its block is offline again, and no code accesses them except through this crate.
    ///
    /// ```
    /// use std::alloc::{Layout, alloc_zeroed};
    /// use std::ptr::NonNull;
    /// use folio_frames::{MemmapMemory, MemoryMap, UserSpace, Zone};
    ///
    /// // What the firmware reports, and what the kernel took already.
    /// let mut usable = [0..0x9_fc00, 0x10_0000..0x3f_e000];
    /// let mut reserved = [0..0x1000, 0x10_0000..0x12_3456];
    /// let map = MemoryMap::new(&mut usable, &mut reserved);
    ///
    /// let span = map.span();
    /// let layout = Zone::<UserSpace>::layout(span.frames() as u32);
    /// let bytes = Layout::from_size_align(span.frames() as usize * 4096, 4 << 20)?;
    /// // SAFETY: neither layout is empty.
    /// let (metadata, direct_map) = unsafe { (alloc_zeroed(layout), alloc_zeroed(bytes)) };
    /// let metadata = NonNull::new(metadata).expect("memory");
    /// // SAFETY: both allocations belong to this zone alone, and are never freed.
    /// let zone = unsafe {
    ///     Zone::<UserSpace>::from_map(metadata, MemmapMemory::Zeroed, &map, direct_map, &[])
    /// };
    /// let zone: &'static Zone<UserSpace> = Box::leak(Box::new(zone));
    /// // SAFETY: the bytes of all frames in the map are mapped.
    /// unsafe { zone.online_range(0..zone.blocks()) };
    /// assert_eq!(u64::from(zone.stats().online_frames), map.frames());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub unsafe fn from_map(
        metadata: NonNull<u8>,
        holds: MemmapMemory,
        map: &MemoryMap<'_>,
        direct_map: *mut u8,
        kinds: &'static [KindOps<P>],
    ) -> Self {
        let mut zone = MaybeUninit::uninit();
        // SAFETY: the caller's promise.
        unsafe { Self::map_into(&mut zone, metadata, holds, map, direct_map, kinds) };
        // SAFETY: it was just written.
        unsafe { zone.assume_init() }
    }

    /// Makes a zone of the frames in a memory map in the memory that will have it, as
    /// [`from_map`](Self::from_map) does. It needs a few hundred bytes of stack, where a zone has
    /// more than 3 KiB.
    ///
    /// # Panics
    ///
    /// Panics if the map has no frame, or spans 2^30 frames (4 TiB) or more, if `direct_map` is not
    /// aligned to a frame, or if all zones that this program ever made would have 2^32 frames (16
    /// TiB) or more.
    ///
    /// # Safety
    ///
    /// `metadata` and `direct_map` meet the requirements of [`from_map`](Self::from_map).
    pub unsafe fn from_map_in(
        place: &'static mut MaybeUninit<Self>,
        metadata: NonNull<u8>,
        holds: MemmapMemory,
        map: &MemoryMap<'_>,
        direct_map: *mut u8,
        kinds: &'static [KindOps<P>],
    ) -> &'static mut Self {
        // SAFETY: the caller's promise.
        unsafe { Self::map_into(place, metadata, holds, map, direct_map, kinds) }
    }

    /// Makes the zone at a place.
    ///
    /// # Safety
    ///
    /// `metadata` and `direct_map` meet the requirements of [`from_map`](Self::from_map).
    unsafe fn map_into<'z>(
        place: &'z mut MaybeUninit<Self>,
        metadata: NonNull<u8>,
        holds: MemmapMemory,
        map: &MemoryMap<'_>,
        direct_map: *mut u8,
        kinds: &'static [KindOps<P>],
    ) -> &'z mut Self {
        let span = map.span();
        assert!(
            span.frames() > 0,
            "a memory map without a whole frame: {map:?}: pass the usable memory in bytes"
        );
        assert!(
            span.frames() < 1 << 30,
            "the map spans {} frames, allowed is below 2^30 (4 TiB)",
            span.frames()
        );
        let frames = span.frames() as u32;
        let first = span.start;
        assert_fits(first, frames, direct_map);
        let numbers = Self::reserve_numbers(frames);
        // SAFETY: the caller's promise. Descriptors and referenced bits of these blocks only are
        // initialised here.
        let (memmap, blocks) =
            unsafe { Self::over_metadata(metadata, holds, &numbers, map.blocks()) };
        let zone = Self::over_in(place, memmap, blocks, numbers, first, frames, direct_map, kinds);
        let index = |pfn: crate::Pfn| (pfn.as_u64() - span.start.as_u64()) as u32;
        let mut at = 0;
        for range in map.ranges() {
            zone.punch(at..index(range.start));
            at = index(range.end);
        }
        zone.punch(at..frames);
        zone
    }

    /// Returns the bytes of the metadata of a zone of `frames` frames that are read or written for
    /// these blocks: descriptors, referenced bits, and the table of all blocks. Three offsets from
    /// the start of the metadata. A kernel maps the pages that they touch, and no other.
    ///
    /// # Panics
    ///
    /// Panics if a zone of `frames` frames has no such blocks.
    pub fn metadata_of(frames: u32, blocks: Range<usize>) -> [Range<usize>; 3] {
        let all = (frames / BLOCK_ORDER.frames()) as usize;
        assert!(
            blocks.start <= blocks.end && blocks.end <= all,
            "blocks {blocks:?} are not within a zone of {all} blocks"
        );
        let per_block = BLOCK_ORDER.frames() as usize;
        let indices = blocks.start * per_block..blocks.end * per_block;
        let [descriptors, uses] = Memmap::<P::Scheme>::bytes_in(frames, indices);
        let (_, table) = Self::layout_and_blocks(frames);
        [descriptors, uses, table..table + Blocks::layout(all).size()]
    }

    /// Makes a gap of the map holes, before the zone is shared.
    fn punch(&mut self, gap: Range<u32>) {
        let per_block = BLOCK_ORDER.frames();
        let mut at = gap.start;
        while at < gap.end {
            let end = gap.end.min((at / per_block + 1) * per_block);
            self.blocks.add_holes(at, end - at);
            self.holes += end - at;
            if self.blocks.of(at).has_metadata() {
                for (head, order) in aligned(at..end) {
                    self.descriptor(head).set_shape(Kind::HOLE, order);
                }
            } else {
                self.unbroken = self.unbroken.min(at);
            }
            at = end;
        }
    }

    /// Returns the number of frames of these blocks that are in the map, and of blocks that are
    /// whole.
    pub(crate) fn in_map(&self, blocks: &Range<usize>) -> (u32, u32) {
        if self.holes == 0 {
            return (blocks.len() as u32 * BLOCK_ORDER.frames(), blocks.len() as u32);
        }
        let all = self.blocks.all();
        assert!(
            !CHECKS || blocks.end <= all.len(),
            "blocks {blocks:?} are not within a table of {}",
            all.len()
        );
        // Not by an index: this runs in an allocation, which does not panic.
        let all = all.iter().skip(blocks.start).take(blocks.len());
        all.fold((0, 0), |(frames, whole), block| {
            (frames + block.frames(), whole + u32::from(block.is_whole()))
        })
    }

    /// Returns `true` if none of these frames is a hole.
    pub(crate) fn is_in_map(&self, frames: Range<u32>) -> bool {
        let per_block = BLOCK_ORDER.frames();
        self.holes == 0
            || (frames.start / per_block..frames.end.div_ceil(per_block)).all(|block| {
                let first = block * per_block;
                self.blocks.has_metadata(first)
                    && holes(self, first)
                        .all(|hole| hole.end <= frames.start || hole.start >= frames.end)
            })
    }

    /// Frees the frames of a block that are in the map, under the zone's lock.
    pub(crate) fn free_around_holes(&self, buddy: &mut Buddy, first: u32) {
        let entry = self.blocks.of(first);
        if entry.is_whole() || holes_freed() {
            buddy.free(self.map(), first, BLOCK_ORDER);
            return;
        }
        let (mut at, mut freed) = (first, 0);
        let end = first + BLOCK_ORDER.frames();
        for hole in holes(self, first).chain(core::iter::once(end..end)) {
            for (head, order) in aligned(at..hole.start) {
                buddy.free(self.map(), head, order);
                freed += order.frames();
            }
            at = hole.end;
        }
        assert!(
            !CHECKS || freed == entry.frames(),
            "block {} has {} frames, {freed} came online",
            first / BLOCK_ORDER.frames(),
            entry.frames()
        );
    }

    /// Checks that frames at address 0 do not come online: no reference can point there.
    pub(crate) fn assert_not_at_null(&self, blocks: &Range<usize>) {
        assert!(
            !blocks.contains(&0)
                || !self.address(0).is_null()
                || !self.blocks.has_metadata(0)
                || self.descriptor(0).shape().kind == Kind::HOLE,
            "the bytes of {:?} are at address 0, where no reference can point: reserve it in the \
             memory map",
            self.pfn(0)
        );
    }

    /// Checks the holes of a zone, for tests.
    ///
    /// # Panics
    ///
    /// Panics if a hole is live, or is not where the table of blocks counts it.
    pub(crate) fn assert_holes_sound(&self) {
        for (block, entry) in self.blocks.all()[..self.blocks()].iter().enumerate() {
            if entry.is_whole() || !entry.has_metadata() {
                continue;
            }
            let mut count = 0;
            for hole in holes(self, block as u32 * BLOCK_ORDER.frames()) {
                for index in hole {
                    let word = &self.descriptor(index).word;
                    assert!(word.snapshot().is_frozen(), "a hole is {word:?} (R1)");
                    count += 1;
                }
            }
            assert_eq!(count, BLOCK_ORDER.frames() - entry.frames(), "holes of block {block}");
        }
    }

    /// Returns the frames of the zone that have metadata.
    pub(crate) fn with_metadata(&self) -> impl Iterator<Item = u32> {
        let per_block = BLOCK_ORDER.frames();
        (0..self.frames() / per_block)
            .filter(move |&block| self.blocks.has_metadata(block * per_block))
            .flat_map(move |block| block * per_block..(block + 1) * per_block)
    }
}

/// Returns the holes of a block that has metadata.
fn holes<P: Platform>(zone: &Zone<P>, first: u32) -> impl Iterator<Item = Range<u32>> {
    let mut at = first;
    core::iter::from_fn(move || {
        while at < first + BLOCK_ORDER.frames() {
            let shape = zone.descriptor(at).shape();
            // Only holes are certain to stay what they are: all others may change meanwhile.
            let order = if shape.kind == Kind::HOLE { shape.order } else { Order::ZERO };
            at += order.frames();
            if shape.kind == Kind::HOLE {
                return Some(at - order.frames()..at);
            }
        }
        None
    })
}
