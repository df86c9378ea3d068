//! From the boot loader's map to a zone: memory after the kernel serves the allocations made before
//! the zone exists; the remaining whole blocks go online. A room of unsafe code: the promises about
//! the memory that the zone gets.

use core::alloc::Layout;
use core::ops::Range;
use core::ptr::{self, NonNull};

use folio_frames::{BLOCK_ORDER, FRAME_SIZE, MemmapMemory, Pfn, Zone};

use crate::boot;
use crate::firmware::StartInfo;
use crate::platform::Machine;

const BLOCK: usize = BLOCK_ORDER.bytes();

/// A bump allocator for the memory that is needed before the zone exists. It never frees.
pub struct Early {
    left: Range<usize>,
}

impl Early {
    /// Returns an allocator over the memory after the kernel, up to the end of its map range.
    ///
    /// # Panics
    ///
    /// Panics if the map does not contain the memory of the kernel.
    pub fn behind_the_kernel(info: &StartInfo) -> Self {
        let end = boot::end_of_kernel();
        let range = info
            .memory()
            .find(|range| range.contains(&end))
            .expect("the map contains the memory of the kernel");
        Self { left: end..range.end }
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

    /// Allocates a value, which is never freed.
    pub fn place<T>(&mut self, value: T) -> &'static T {
        let place = self.take(Layout::new::<T>()).cast::<T>();
        // SAFETY: `take` returns memory of this layout only once; the identity map covers it.
        unsafe { place.write(value) };
        // SAFETY: the value was just written, and is never written again.
        unsafe { place.as_ref() }
    }

    /// Creates a zone of all memory in the map, with every unused whole block online. Returns the
    /// zone and the number of online blocks. Consumes `self`: its remaining memory goes online as
    /// well.
    pub fn into_zone(mut self, info: &StartInfo) -> (&'static Zone<Machine>, usize) {
        let kernel = self.left.end;
        let end = info
            .memory()
            .map(|range| range.end)
            .filter(|&end| end <= 1 << 32)
            .max()
            .expect("the map contains memory below 4 GiB");
        let frames = (end.next_multiple_of(BLOCK) / FRAME_SIZE) as u32;
        let metadata = self.take(Zone::<Machine>::layout(frames));
        let bytes = ptr::with_exposed_provenance_mut(0);
        // SAFETY: the metadata has the zone's layout, is used only here, and may hold anything. The
        // bytes of frame 0 are at address 0. The identity map covers every frame of the map's
        // memory, and only such frames go online.
        let zone =
            unsafe { Zone::new(metadata, MemmapMemory::Garbage, Pfn::new(0), frames, bytes, &[]) };
        let zone = self.place(zone);
        let mut online = 0;
        for range in info.memory() {
            // The kernel's own range begins at the memory that `self` has left. The memory below
            // the kernel has the firmware's tables and the trampoline.
            let start = if range.end == kernel { self.left.start } else { range.start.max(kernel) };
            for block in start.div_ceil(BLOCK)..range.end / BLOCK {
                // SAFETY: the map calls the memory of the block usable. It is after everything
                // that the kernel or the boot loader placed, and is identity-mapped.
                unsafe { zone.online_block(block) };
                online += 1;
            }
        }
        (zone, online)
    }
}
