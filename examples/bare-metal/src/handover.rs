//! From the boot loader's map to a zone: the memory behind the kernel gives what must exist before
//! there is an allocator, and the whole blocks that are left go online. A room of unsafe code: the
//! promises of who brings memory.

use core::alloc::Layout;
use core::ops::Range;
use core::ptr::{self, NonNull};

use folio_frames::{BLOCK_ORDER, FRAME_SIZE, MemmapMemory, Pfn, Zone};

use crate::boot;
use crate::firmware::StartInfo;
use crate::platform::Machine;

const BLOCK: usize = BLOCK_ORDER.bytes();

/// Memory that is given out once and never taken back: what is used before the zone is.
pub struct Early {
    left: Range<usize>,
}

impl Early {
    /// The memory behind the kernel, up to the end of its range in the map.
    ///
    /// # Panics
    ///
    /// When the map does not know the memory that the kernel lies in.
    pub fn behind_the_kernel(info: &StartInfo) -> Self {
        let end = boot::end_of_kernel();
        let range =
            info.memory().find(|range| range.contains(&end)).expect("the kernel lies in memory");
        Self { left: end..range.end }
    }

    /// Memory of this layout, for ever. It holds anything.
    fn take(&mut self, layout: Layout) -> NonNull<u8> {
        let start = self.left.start.next_multiple_of(layout.align());
        let end = start + layout.size();
        assert!(
            end <= self.left.end,
            "{layout:?} does not fit behind the kernel: {:x?}",
            self.left
        );
        self.left.start = end;
        NonNull::new(ptr::with_exposed_provenance_mut(start)).expect("the kernel does not lie at 0")
    }

    /// Puts a value there, for ever.
    pub fn place<T>(&mut self, value: T) -> &'static T {
        let place = self.take(Layout::new::<T>()).cast::<T>();
        // SAFETY: `take` gives memory of the layout, once, which the identity map covers.
        unsafe { place.write(value) };
        // SAFETY: just written, and never again.
        unsafe { place.as_ref() }
    }

    /// A zone of all memory in the map; every whole block that nobody uses is online. Also says how
    /// many. `self` is used up: what it has left goes online as well.
    pub fn into_zone(mut self, info: &StartInfo) -> (&'static Zone<Machine>, usize) {
        let kernel = self.left.end;
        let end = info
            .memory()
            .map(|range| range.end)
            .filter(|&end| end <= 1 << 32)
            .max()
            .expect("some memory");
        let frames = (end.next_multiple_of(BLOCK) / FRAME_SIZE) as u32;
        let metadata = self.take(Zone::<Machine>::layout(frames));
        let bytes = ptr::with_exposed_provenance_mut(0);
        // SAFETY: the metadata has its layout, is given out once, and holds anything. The first
        // frame's bytes would lie at 0: the identity map covers every frame of memory, and
        // only such go online.
        let zone =
            unsafe { Zone::new(metadata, MemmapMemory::Garbage, Pfn::new(0), frames, bytes, &[]) };
        let zone = self.place(zone);
        let mut online = 0;
        for range in info.memory() {
            // The kernel's own range begins where `self` has not given anything out yet; below the
            // kernel lie the firmware's tables and the trampoline.
            let start = if range.end == kernel { self.left.start } else { range.start.max(kernel) };
            for block in start.div_ceil(BLOCK)..range.end / BLOCK {
                // SAFETY: the block lies in memory that the map calls free, behind everything that
                // we or the boot loader put there, and is mapped at its own
                // address.
                unsafe { zone.online_block(block) };
                online += 1;
            }
        }
        (zone, online)
    }
}
