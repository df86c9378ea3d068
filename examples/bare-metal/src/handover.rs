//! From the firmware's map to a zone: memory after the kernel serves the allocations made before
//! the zone exists; all other frames of the map go online. A room of unsafe code: the promises
//! about the memory that the zone gets.

use core::alloc::Layout;
use core::mem::MaybeUninit;
use core::ops::Range;
use core::ptr::{self, NonNull};

use folio_frames::{FRAME_SIZE, MemmapMemory, MemoryMap, Pfn, PfnRange, Zone};

use crate::arch::boot;
use crate::arch::firmware::Firmware;
use crate::platform::Machine;

/// The maximum number of ranges of usable memory in the firmware's map.
const MAX_RANGES: usize = 32;
/// The maximum number of ranges in it that are in use.
const MAX_RESERVED: usize = 16;

/// The memory that the kernel has got.
pub struct Memory {
    /// The zone of all of it.
    pub zone: &'static Zone<Machine>,
    /// Number of usable ranges in the firmware's map.
    pub ranges: usize,
    /// Number of whole frames in the map, as far as memory is mapped.
    pub frames: u64,
    /// Number of these frames that are not in the zone, as they were in use before.
    pub reserved: u64,
}

/// A bump allocator for the memory that is needed before the zone exists. It never frees.
pub struct Early {
    left: Range<usize>,
}

impl Early {
    /// Returns an allocator over the memory after the kernel, up to the end of its map range or to
    /// a part that is in use, as far as the boot code has mapped it.
    ///
    /// # Panics
    ///
    /// Panics if the map does not contain the memory of the kernel.
    pub fn behind_the_kernel(firmware: &Firmware) -> Self {
        let start = boot::image().end;
        let range = firmware
            .memory()
            .find(|range| range.contains(&(start as u64)))
            .expect("the map contains the memory of the kernel");
        let reserved = firmware.reserved().map(|range| range.start);
        let next = reserved.filter(|&reserved| reserved >= start as u64).min().unwrap_or(u64::MAX);
        Self { left: start..range.end.min(boot::MAPPED).min(next) as usize }
    }

    /// Returns memory of this layout, which is never freed. Its contents are arbitrary.
    ///
    /// # Panics
    ///
    /// Panics if the layout does not fit into the remaining memory.
    fn take(&mut self, layout: Layout) -> NonNull<u8> {
        let start = self.left.start.next_multiple_of(layout.align());
        let end = start + layout.size();
        assert!(
            end <= self.left.end,
            "{layout:?} does not fit into the memory left after the kernel: {:x?}",
            self.left
        );
        self.left.start = end;
        NonNull::new(ptr::with_exposed_provenance_mut(start)).expect("the kernel does not lie at 0")
    }

    /// Makes a zone of the firmware's map, whole, and brings all its frames online that are not in
    /// use. Consumes `self`: its remaining memory goes online as well.
    ///
    /// # Panics
    ///
    /// Panics if the map has more than [`MAX_RANGES`] ranges of usable memory, or more than
    /// [`MAX_RESERVED`] of them are in use.
    pub fn into_zone(mut self, firmware: &Firmware) -> Memory {
        let (mut usable, ranges) = collect::<MAX_RANGES>(firmware.memory());
        let end = usable.iter().map(|range| range.end).max().expect("an array that is not empty");
        let mapped = boot::map_up_to(end);
        let pfn = |address| Pfn::new(address / FRAME_SIZE as u64);
        let mapped = PfnRange { start: pfn(mapped.start), end: pfn(mapped.end) };
        let all = MemoryMap::new(&mut usable, &mut []).within(&mapped);
        let frames = all.frames();
        // At least as large as that without the reserved frames.
        let metadata = self.take(Zone::<Machine>::layout(all.span().frames() as u32));
        let place = self.take(Layout::new::<Zone<Machine>>()).cast::<MaybeUninit<Zone<Machine>>>();
        // SAFETY: `take` returned memory of this layout, once; the identity map covers it.
        let place = unsafe { &mut *place.as_ptr() };

        // The page at address 0 has no reference in Rust.
        let own = [0..1, boot::image().start as u64..self.left.start as u64];
        let (mut reserved, _) = collect::<MAX_RESERVED>(own.into_iter().chain(firmware.reserved()));
        let map = MemoryMap::new(&mut usable, &mut reserved).within(&mapped);
        let start = map.span().start.as_u64() as usize * FRAME_SIZE;
        let bytes = ptr::with_exposed_provenance_mut(start);
        // SAFETY: the metadata has the layout of a zone of at least these frames, is used only
        // here, and may hold anything. The identity map covers every frame of the map, and the map
        // has no frame that the kernel uses or the firmware reserves.
        let zone =
            unsafe { Zone::from_map_in(place, metadata, MemmapMemory::Garbage, &map, bytes, &[]) };
        let zone: &'static Zone<Machine> = zone;
        // SAFETY: the bytes of all frames in the map are mapped, as above.
        unsafe { zone.online_range(0..zone.blocks()) };
        Memory { zone, ranges, frames, reserved: frames - map.frames() }
    }
}

/// Returns the ranges in an array, and their number. All other elements are empty.
///
/// # Panics
///
/// Panics if there are more than `N`.
fn collect<const N: usize>(ranges: impl Iterator<Item = Range<u64>>) -> ([Range<u64>; N], usize) {
    let (mut all, mut len) = ([const { 0..0 }; N], 0);
    for range in ranges {
        assert!(len < N, "this kernel can use {N} ranges of the firmware, but there are more");
        all[len] = range;
        len += 1;
    }
    (all, len)
}
