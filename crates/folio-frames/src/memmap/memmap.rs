//! The memmap: one descriptor per frame, over memory that the caller provides.
//!
//! | field | written by | read by |
//! | --- | --- | --- |
//! | `word` | every thread, by folio-ref's rules | every thread |
//! | `shape` (kind, order) | the owner (1) | every thread, racily (2) |
//! | `owner_data` | the owner (1): list links while the block is free | every thread, racily (2) |
//! | `dirty` | the exclusive handle, or the owner of the page lock | the same; others racily |
//! | `volatile` | the exclusive handle | those with a reference, exactly |
//! | `raw` (builds with checks) | those that give up or take a raw reference | the same |
//!
//! 1. The exclusive handle; while the block is free, the owner of the zone's lock.
//! 2. Checked again after a get (R8).
//!
//! Beside the descriptors lies one byte for each frame, with its **referenced bit**: written by
//! every thread, racily, a hint for reclaim. It is the number of uses, up to 3, since reclaim last
//! took it, with the time of the last of them, and set if that number is not 0 (`memmap/uses.rs`).
//! It lies apart so that a read without the descriptor needs no line of it: 64 such bytes share a
//! line. Linux keeps it in `page->flags` (`PG_referenced`), with one bit for readahead
//! (`PG_readahead`).
//!
//! **Invariant:** exactly the heads of blocks have a shape; every other frame's shape is
//! [`Kind::INTERIOR`], 0. So zeroed metadata means: frozen (if zero is frozen in the scheme), no
//! block, offline.

use core::alloc::Layout;
use core::fmt;
use core::ops::Range;
use core::ptr::NonNull;
use core::sync::atomic::Ordering;

use folio_ref::{CHECKS, PageRef, Scheme};

use crate::base::ids::Order;
use crate::base::sync::{AtomicU8, AtomicU16, AtomicU64};
use crate::memmap::numbers::{Number, Numbers};
use crate::memmap::raw_count::RawCount;
use crate::memmap::uses::{Clock, Use, Uses};

/// The kind of a block: free, plain, or one of its owner's own kinds.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Kind(u8);

impl Kind {
    /// Not the head of a block: a tail, or offline.
    pub const INTERIOR: Self = Self(0);
    /// In the buddy's free lists.
    pub const FREE: Self = Self(1);
    /// In a per-CPU list.
    pub const FREE_PER_CPU: Self = Self(2);
    /// Free, and captured because its 2 MiB block is being emptied.
    pub const ISOLATED: Self = Self(3);
    /// Not in the memory map: frozen forever.
    pub const HOLE: Self = Self(4);
    /// Allocated, without a kind of its owner's.
    pub const PLAIN: Self = Self(5);
    const FIRST_OWNER: u8 = 16;

    /// Returns the `n`-th kind of the owner's own numbering.
    ///
    /// # Panics
    ///
    /// Panics if `n` is 240 or more.
    pub const fn owner(n: u8) -> Self {
        assert!(n < 240, "an owner has the kinds 0 to 239");
        Self(Self::FIRST_OWNER + n)
    }

    /// Returns `true` if a block of this kind is allocated: its owner is outside the allocator.
    pub const fn is_allocated(self) -> bool {
        self.0 >= Self::PLAIN.0
    }

    /// Panics unless a block of this kind is allocated.
    pub(crate) fn assert_allocated(self) {
        assert!(self.is_allocated(), "kind {self:?} is not that of an allocated folio");
    }

    /// Returns `true` if a block of this kind is free.
    pub const fn is_free(self) -> bool {
        self.0 >= Self::FREE.0 && self.0 <= Self::ISOLATED.0
    }
}

impl fmt::Debug for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::INTERIOR => f.write_str("interior"),
            Self::FREE => f.write_str("free"),
            Self::FREE_PER_CPU => f.write_str("free (per CPU)"),
            Self::ISOLATED => f.write_str("free (isolated)"),
            Self::HOLE => f.write_str("hole"),
            Self::PLAIN => f.write_str("plain"),
            Self(n) => write!(f, "owner kind {}", n.wrapping_sub(Self::FIRST_OWNER)),
        }
    }
}

/// Kind and order in one load.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shape {
    pub(crate) kind: Kind,
    pub(crate) order: Order,
}

impl Shape {
    pub(crate) const INTERIOR: Self = Self { kind: Kind::INTERIOR, order: Order::ZERO };

    fn from_bits(bits: u16) -> Self {
        let [kind, order] = bits.to_le_bytes();
        Self { kind: Kind(kind), order: Order::new(order).unwrap_or(Order::ZERO) }
    }

    fn to_bits(self) -> u16 {
        u16::from_le_bytes([self.kind.0, self.order.as_u8()])
    }
}

/// One frame's metadata.
#[repr(C)]
pub(crate) struct Descriptor<S: Scheme> {
    pub(crate) word: PageRef<S>,
    shape: AtomicU16,
    dirty: AtomicU8,
    volatile: AtomicU8,
    pub(crate) raw: RawCount,
    owner_data: AtomicU64,
}

const _: () = assert!(
    size_of::<Descriptor<folio_ref::schemes::LiveBitHigh>>() == 16 + 2 * size_of::<RawCount>()
);
const _: () = assert!(size_of::<Descriptor<folio_ref::schemes::Generational>>() == 24);

impl<S: Scheme> Descriptor<S> {
    fn new() -> Self {
        Self {
            word: PageRef::frozen(),
            shape: AtomicU16::new(0),
            dirty: AtomicU8::new(0),
            volatile: AtomicU8::new(0),
            raw: RawCount::new(),
            owner_data: AtomicU64::new(0),
        }
    }

    /// Returns the shape. Acquire: a walker that sees a head's shape sees all writes before it.
    #[inline(always)]
    pub(crate) fn shape(&self) -> Shape {
        Shape::from_bits(self.shape.load(Ordering::Acquire))
    }

    #[inline(always)]
    pub(crate) fn set_shape(&self, kind: Kind, order: Order) {
        // Release: pairs with Acquire in shape.
        self.shape.store(Shape { kind, order }.to_bits(), Ordering::Release);
    }

    pub(crate) fn owner_data(&self) -> u64 {
        // Relaxed: a caller that acts on it took a reference or the zone's lock, which orders it.
        self.owner_data.load(Ordering::Relaxed)
    }

    pub(crate) fn set_owner_data(&self, value: u64) {
        self.owner_data.store(value, Ordering::Relaxed);
    }

    pub(crate) fn is_dirty(&self) -> bool {
        // Relaxed: the page lock or the exclusive handle orders it when it is passed on.
        self.dirty.load(Ordering::Relaxed) != 0
    }

    pub(crate) fn set_dirty(&self, dirty: bool) {
        // Relaxed: as in is_dirty.
        self.dirty.store(u8::from(dirty), Ordering::Relaxed);
    }

    /// Returns `true` if the bytes may change while references exist. Exact for a caller with a
    /// reference.
    #[inline(always)]
    pub(crate) fn is_volatile(&self) -> bool {
        // Relaxed: it changes under the exclusive handle only, and the get of the caller's
        // reference is ordered behind that.
        self.volatile.load(Ordering::Relaxed) != 0
    }

    /// Records that the bytes may change while references exist, before the folio opens.
    pub(crate) fn set_volatile(&self) {
        // Relaxed: the Release of unfreeze publishes it.
        self.volatile.store(1, Ordering::Relaxed);
    }

    /// Records that the bytes do not change any more, after the folio was frozen. Without a store
    /// if they did not before.
    #[inline(always)]
    pub(crate) fn clear_volatile(&self) {
        if self.is_volatile() {
            // Relaxed: as in set_volatile.
            self.volatile.store(0, Ordering::Relaxed);
        }
    }
}

/// The contents of the memory that is passed for a memmap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemmapMemory {
    /// Zeroes: fresh from the system. Under a scheme where zero means frozen, nothing is written.
    Zeroed,
    /// Anything: every descriptor is initialised.
    Garbage,
}

/// The descriptors and referenced bits of a zone, by index from the zone's first frame.
pub(crate) struct Memmap<S: Scheme> {
    /// **Invariant:** points to `frames` descriptors. Those of blocks with metadata (`holes.rs`)
    /// are initialised, and never unmapped or written otherwise (R7: the promise of
    /// [`Memmap::new`]'s caller). Where zero means frozen, the descriptors of offline blocks may
    /// become zeroes at any moment: a valid value.
    descriptors: NonNull<Descriptor<S>>,
    /// **Invariant:** points to `frames` bytes. Those of blocks with metadata are initialised, and
    /// never unmapped or written otherwise.
    uses: NonNull<Use>,
    /// **Invariant:** the address at which the byte of number 0 would lie.
    numbered_uses: *mut Use,
    clock: Clock,
    frames: u32,
}

// SAFETY: a memmap is two shared slices of atomics.
unsafe impl<S: Scheme> Send for Memmap<S> {}
// SAFETY: as above.
unsafe impl<S: Scheme> Sync for Memmap<S> {}

impl<S: Scheme> Memmap<S> {
    pub(crate) fn layout(frames: u32) -> Layout {
        Self::layout_and_uses(frames).0
    }

    fn layout_and_uses(frames: u32) -> (Layout, usize) {
        let array = Layout::array::<Descriptor<S>>(frames as usize);
        let uses = Layout::array::<Use>(frames as usize);
        let both = array.and_then(|array| array.extend(uses?));
        both.expect("2^32 descriptors and referenced bits fit an address space")
    }

    /// Returns the bytes of descriptors and of referenced bits of these frames, as offsets in the
    /// layout for `frames` frames.
    pub(crate) fn bytes_in(frames: u32, of: Range<usize>) -> [Range<usize>; 2] {
        let (_, uses) = Self::layout_and_uses(frames);
        let size = size_of::<Descriptor<S>>();
        [of.start * size..of.end * size, uses + of.start..uses + of.end]
    }

    /// # Safety
    ///
    /// `memory` has the layout of [`Memmap::layout`]. What belongs to the frames of these runs is
    /// this memmap's alone forever, and contains what `holds` says. No other frame is asked for.
    pub(crate) unsafe fn new(
        memory: NonNull<u8>,
        numbers: &Numbers,
        holds: MemmapMemory,
        runs: impl Iterator<Item = Range<usize>>,
    ) -> Self {
        let frames = numbers.frames();
        let descriptors = memory.cast::<Descriptor<S>>();
        let (_, offset) = Self::layout_and_uses(frames);
        // SAFETY: within the layout, by its construction.
        let uses = unsafe { memory.add(offset) }.cast::<Use>();
        for run in runs {
            if holds == MemmapMemory::Garbage {
                // SAFETY: in bounds.
                let first = unsafe { uses.add(run.start) };
                // SAFETY: in bounds, and not shared yet; any byte is a valid atomic.
                unsafe { first.write_bytes(0, run.len()) };
            }
            if S::ZERO_IS_FROZEN && holds == MemmapMemory::Zeroed {
                continue;
            }
            for index in run {
                // SAFETY: within the memory's layout.
                let descriptor = unsafe { descriptors.add(index) };
                // SAFETY: aligned, in bounds, and not shared yet.
                unsafe { descriptor.write(Descriptor::new()) };
            }
        }
        let numbered_uses = numbers.zeroth(uses.as_ptr().cast(), size_of::<Use>()).cast();
        Self { descriptors, uses, numbered_uses, clock: Clock::new(frames), frames }
    }

    /// Returns the same descriptors and referenced bits, unchanged, for the successor of a zone
    /// that retired: a late put finds its word and generation (R2, R7).
    #[cfg(feature = "std")]
    pub(crate) fn inherit(&self) -> Self {
        Self { clock: Clock::new(self.frames), ..*self }
    }

    pub(crate) fn frames(&self) -> u32 {
        self.frames
    }

    /// Returns the address of the descriptors of `frames` frames from `index` on, and their length
    /// in bytes.
    #[cfg(feature = "std")]
    pub(crate) fn bytes_of(&self, index: u32, frames: u32) -> (*mut u8, usize) {
        assert!(
            index + frames <= self.frames,
            "frame {index} and {frames} more of a memmap of {}",
            self.frames
        );
        (
            self.descriptors.as_ptr().wrapping_add(index as usize).cast(),
            frames as usize * size_of::<Descriptor<S>>(),
        )
    }

    /// Zeroes a descriptor, which R7 forbids.
    #[cfg(broken)]
    pub(crate) fn zero(&self, index: u32) {
        // SAFETY: in bounds; all fields are atomics of which every bit pattern is valid.
        let descriptor = unsafe { self.descriptors.add(index as usize) };
        // SAFETY: as above. It races with readers on purpose.
        unsafe { descriptor.write_bytes(0, 1) };
    }

    #[inline(always)]
    pub(crate) fn get(&self, index: u32) -> &Descriptor<S> {
        assert!(!CHECKS || index < self.frames, "frame {index} of a memmap of {}", self.frames);
        // SAFETY: every index inside this crate is below `frames`: it comes from a range check in
        // `Zone::index`, from a list of frames of this zone, or from a slot that contained one.
        let descriptor = unsafe { self.descriptors.add(index as usize) };
        // SAFETY: the invariant on `descriptors`; its block has metadata, as `Zone::index` or the
        // caller checked. All fields are atomics, so shared access is enough.
        unsafe { descriptor.as_ref() }
    }

    #[inline(always)]
    fn last_use(&self, index: u32) -> &Use {
        assert!(
            !CHECKS || index < self.frames,
            "referenced bit {index} of a memmap of {}",
            self.frames
        );
        // SAFETY: in bounds, as in `get`.
        let last_use = unsafe { self.uses.add(index as usize) };
        // SAFETY: the invariant on `uses`.
        unsafe { last_use.as_ref() }
    }

    /// Counts a use, up to 3, with a store only below that: a hit on a hot page writes nothing.
    /// Returns `true` if this was the first use of a readahead marker.
    ///
    /// A frame that was read ahead counts as referenced until its first use, and no longer then: it
    /// was kept for that use, and the pages of a scan are evicted first once the scan has passed.
    #[inline(always)]
    pub(crate) fn set_referenced(&self, index: u32) -> bool {
        self.last_use(index).count(&self.clock, index)
    }

    /// Returns `true` if `n` frames from `index` on were used 3 times. Faster than to look at one
    /// after the other.
    #[inline(always)]
    pub(crate) fn are_hot(&self, index: u32, n: u32) -> bool {
        // No branch in the loop: the bytes lie in a cache line or two.
        (index..index + n).fold(true, |are_hot, index| are_hot & self.last_use(index).is_hot())
    }

    /// Counts a use of the frame with a number of this zone. Returns `true` if this was the first
    /// use of a readahead marker.
    #[inline(always)]
    pub(crate) fn set_referenced_of(&self, number: Number) -> bool {
        let last_use = self.numbered_uses.wrapping_add(number.as_usize());
        // SAFETY: there are as many bytes as numbers, by the invariants on `numbered_uses` and
        // `uses`, and a `Number` was checked to be one of them.
        unsafe { &*last_use }.count(&self.clock, number.as_usize() as u32)
    }

    pub(crate) fn set_readahead(&self, index: u32, is_marker: bool) {
        self.last_use(index).set_readahead(is_marker);
    }

    pub(crate) fn is_referenced(&self, index: u32) -> bool {
        self.last_use(index).is_set()
    }

    pub(crate) fn is_readahead(&self, index: u32) -> bool {
        self.last_use(index).is_readahead()
    }

    /// Takes the uses of a frame since they were last taken. Returns `None` and changes nothing if
    /// the page was read ahead and not used yet.
    #[inline]
    pub(crate) fn take_uses(&self, index: u32) -> Option<Uses> {
        self.last_use(index).take(&self.clock)
    }

    /// Returns the clock of the uses.
    #[inline]
    pub(crate) fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Gives a frame the uses of another one, perhaps of another zone: its page moves here.
    pub(crate) fn copy_uses(&self, index: u32, from: &Self, from_index: u32) {
        let own_time = (!core::ptr::eq(self, from)).then_some(&self.clock);
        self.last_use(index).copy(from.last_use(from_index), own_time);
    }

    /// Forgets the uses of a frame.
    #[inline]
    pub(crate) fn clear_referenced(&self, index: u32) {
        self.last_use(index).clear();
    }
}

impl<S: Scheme> fmt::Debug for Memmap<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "memmap of {} descriptors of {} bytes ({})",
            self.frames,
            size_of::<Descriptor<S>>(),
            S::NAME
        )
    }
}
