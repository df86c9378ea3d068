//! A zone without an allocator of its own: another allocator has the frames, and the zone has their
//! descriptors. So a kernel keeps its page allocator, and a hypervisor that gives each guest page a
//! fixed frame needs none.
//!
//! ```text
//!   the other allocator ──adopt──▶ FrozenFolio ──▶ as in any zone ──last put, free──▶ its `free`
//! ```
//!
//! Every block stays offline, so the zone's lists stay empty: nothing is allocated or compacted,
//! and nothing moves within the zone or into it. A frame that was not adopted is frozen and no head
//! of a block, which is what a frame of an offline block is to a walker (R1).

use folio_ref::CHECKS;

use crate::base::ids::{MAX_ORDER, Order, Pfn};
use crate::base::platform::Platform;
use crate::memmap::memmap::{Kind, Shape};
use crate::zone::folio::FrozenFolio;
use crate::zone::zone::{Outer, Zone};

impl<P: Platform> Zone<P> {
    /// Lets another allocator have the frames. They enter by [`adopt`](Self::adopt), and a folio
    /// that is freed goes to `free`.
    ///
    /// `free` runs in the thread that dropped the last reference, which may never have used the
    /// folio (R4). So it must not take a lock that any code could hold while it drops a reference.
    ///
    /// ```
    /// # use std::alloc::{Layout, alloc_zeroed};
    /// # use std::ptr::NonNull;
    /// use std::sync::Mutex;
    /// use folio_frames::{MemmapMemory, Order, Pfn, UserSpace, Zone};
    ///
    /// /// The kernel's own allocator.
    /// static FREE: Mutex<Vec<Pfn>> = Mutex::new(Vec::new());
    ///
    /// # let layout = Zone::<UserSpace>::layout(512);
    /// # let bytes = Layout::from_size_align(2 << 20, 4 << 20)?;
    /// # // SAFETY: neither layout is empty.
    /// # let (metadata, direct_map) = unsafe { (alloc_zeroed(layout), alloc_zeroed(bytes)) };
    /// # let metadata = NonNull::new(metadata).expect("memory");
    /// # assert!(!direct_map.is_null());
    /// # let first = Pfn::new(1 << 20);
    /// # // SAFETY: both allocations belong to this zone alone, and are never freed.
    /// # let zone = unsafe {
    /// #     Zone::<UserSpace>::new(metadata, MemmapMemory::Zeroed, first, 512, direct_map, &[])
    /// # };
    /// let zone = zone.with_outer_allocator(|_, pfn, _| FREE.lock().unwrap().push(pfn));
    /// let zone: &'static Zone<UserSpace> = Box::leak(Box::new(zone));
    ///
    /// // SAFETY: the frame is free, and its bytes are mapped.
    /// let folio = unsafe { zone.adopt(first, Order::ZERO) }.expect("a frame of the zone").init();
    /// let another = zone.try_get(first)?;
    /// drop(folio);
    /// assert!(FREE.lock().unwrap().is_empty());
    /// drop(another);
    /// assert_eq!(*FREE.lock().unwrap(), [first]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Panics
    ///
    /// Panics if a block of the zone is online.
    #[must_use]
    pub fn with_outer_allocator(mut self, free: fn(&'static Self, Pfn, Order)) -> Self {
        self.set_outer_allocator(free);
        self
    }

    /// Lets another allocator have the frames of a zone that was made [in place](Self::new_in), as
    /// [`with_outer_allocator`](Self::with_outer_allocator) does.
    ///
    /// # Panics
    ///
    /// Panics if a block of the zone is online.
    pub fn set_outer_allocator(&mut self, free: fn(&'static Self, Pfn, Order)) {
        assert!(
            self.online_frames() == 0,
            "a zone with {} frames online has its own allocator",
            self.online_frames()
        );
        self.outer = Some(free);
    }

    /// Takes a block of frames from the other allocator. Returns its exclusive handle: frozen, of
    /// kind [`Kind::PLAIN`]. Only the first descriptor is written.
    ///
    /// Returns `None` if the zone has its own allocator, if the frames do not all lie in it or the
    /// first is not aligned to the order, if the order is neither at most [`MAX_ORDER`] nor the
    /// [huge one](Self::with_huge_order), if one of them is a hole of the memory map, if the bytes
    /// of the first are at address 0, where no reference can point, or if the first is the head of
    /// a folio already.
    ///
    /// # Panics
    ///
    /// With [`CHECKS`], panics if a frame is not frozen, or is the head of another folio: other
    /// code broke R1 or R2, or the caller its promise.
    ///
    /// # Safety
    ///
    /// - The caller has these frames alone: no folio has one of them, and no other call adopts one.
    /// - The bytes are mapped, under the conditions of [`Zone::new`], until `free` gets them.
    #[must_use = "an exclusive handle that is not used leaks its frames"]
    pub unsafe fn adopt(&'static self, first: Pfn, order: Order) -> Option<FrozenFolio<P>> {
        self.outer?;
        let index = self.index(first)?;
        let is_block = order <= MAX_ORDER || self.huge_order() == Some(order);
        let fits = order.frames() <= self.frames() - index;
        if !is_block || !fits || !index.is_multiple_of(order.frames()) {
            return None;
        }
        // A frame inside a hole looks as one that was not adopted.
        if !self.is_in_map(index..index + order.frames()) {
            return None;
        }
        // No Rust reference can point to these bytes.
        if self.address(index).is_null() {
            return None;
        }
        if self.descriptor(index).shape() != Shape::INTERIOR {
            return None;
        }
        for frame in index..index + if CHECKS { order.frames() } else { 0 } {
            assert!(
                !CHECKS || self.descriptor(frame).shape() == Shape::INTERIOR,
                "frame {frame} is adopted as a part of another folio: it is {:?}",
                self.descriptor(frame).shape().kind
            );
        }
        Some(self.hand_out(index, order))
    }

    /// Gives a block that was freed back to the other allocator.
    #[cold]
    pub(crate) fn free_outer(&'static self, free: Outer<P>, index: u32, order: Order) {
        let head = self.descriptor(index);
        assert!(
            !CHECKS || head.shape().kind.is_allocated(),
            "a frame that is {:?} was freed again",
            head.shape().kind
        );
        // Before the other allocator has the frame, which it may pass to adopt at once.
        head.set_shape(Kind::INTERIOR, Order::ZERO);
        free(self, self.pfn(index), order);
    }
}
