//! The memmap: one descriptor per frame, over memory that the caller provides.
//!
//! | field | who writes it | who reads it |
//! | --- | --- | --- |
//! | `word` | everybody, by folio-ref's rules | everybody |
//! | `shape` (kind, order) | the token's holder, or the zone lock while free | everybody, racily; re-checked after a get (R8) |
//! | `owner_data` | the token's holder, or the zone lock while free (list links) | as `shape` |
//! | `dirty` | the holder of the token, or of the claim on the folio's slot | the same; others racily |
//!
//! Beside the descriptors stands one byte for each frame, its **mark**: written by everybody,
//! racily, a hint for reclaim. Apart, so that a read that does not touch the descriptor need not
//! touch it for the mark: 64 marks share a line.
//!
//! **Invariant:** exactly the heads of blocks have a shape; every other frame's shape is
//! [`Kind::INTERIOR`], 0. So zeroed metadata says: frozen (where the scheme says so too), no block,
//! not there.

use core::alloc::Layout;
use core::fmt;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU8 as Mark, Ordering};

use folio_ref::{CHECKS, PageRef, Scheme};

use crate::base::ids::Order;
use crate::base::sync::{AtomicU8, AtomicU16, AtomicU64};
use crate::memmap::numbers::{Number, Numbers};

/// What a block is.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Kind(u8);

impl Kind {
    /// No head of a block: a tail, or not there at all.
    pub const INTERIOR: Self = Self(0);
    /// In the buddy's free lists.
    pub const FREE: Self = Self(1);
    /// In a per-CPU list.
    pub const FREE_PER_CPU: Self = Self(2);
    /// Free, and held back because its block goes offline.
    pub const ISOLATED: Self = Self(3);
    /// Allocated, without an owner's kind.
    pub const PLAIN: Self = Self(4);
    const FIRST_OWNER: u8 = 16;

    /// The `n`-th kind of the owner's own numbering, `n` below 240.
    ///
    /// # Panics
    ///
    /// When `n` is 240 or more.
    pub const fn owner(n: u8) -> Self {
        assert!(n < 240, "an owner has 240 kinds");
        Self(Self::FIRST_OWNER + n)
    }

    /// Whether a block of this kind belongs to somebody outside the allocator.
    pub const fn is_allocated(self) -> bool {
        self.0 >= Self::PLAIN.0
    }

    /// Whether a block of this kind is free.
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

/// A mark: nothing is known, or used once after it was read ahead.
const UNUSED: u8 = 0;
/// A mark: used since reclaim last looked.
const USED: u8 = 1;
/// A mark: read ahead, and its reader did not come yet.
const AHEAD: u8 = 2;
/// A mark: read ahead; the reader that comes is told so.
const MILESTONE: u8 = 3;

/// One frame's metadata.
#[repr(C)]
pub(crate) struct Descriptor<S: Scheme> {
    pub(crate) word: PageRef<S>,
    shape: AtomicU16,
    dirty: AtomicU8,
    spare: AtomicU8,
    owner_data: AtomicU64,
}

const _: () = assert!(size_of::<Descriptor<folio_ref::schemes::LiveBitHigh>>() == 16);
const _: () = assert!(size_of::<Descriptor<folio_ref::schemes::Generational>>() == 24);

impl<S: Scheme> Descriptor<S> {
    fn new() -> Self {
        Self {
            word: PageRef::frozen(),
            shape: AtomicU16::new(0),
            dirty: AtomicU8::new(0),
            spare: AtomicU8::new(0),
            owner_data: AtomicU64::new(0),
        }
    }

    /// Acquire: a walker that sees a head's shape sees what was written before it.
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
        // Relaxed: whoever acts on it took a reference or the zone lock, which gives the edge.
        self.owner_data.load(Ordering::Relaxed)
    }

    pub(crate) fn set_owner_data(&self, value: u64) {
        self.owner_data.store(value, Ordering::Relaxed);
    }

    pub(crate) fn is_dirty(&self) -> bool {
        // Relaxed: the claim or the token, passed on by their holders, gives the edge.
        self.dirty.load(Ordering::Relaxed) != 0
    }

    pub(crate) fn set_dirty(&self, dirty: bool) {
        // Relaxed: as above.
        self.dirty.store(u8::from(dirty), Ordering::Relaxed);
    }
}

/// What the memory given for a memmap holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemmapMemory {
    /// Zeroes: fresh from the system. Under a scheme where zero means frozen nothing is written.
    Zeroed,
    /// Anything: every descriptor is initialised.
    Garbage,
}

/// The descriptors of a zone, by index from the zone's first frame.
pub(crate) struct Memmap<S: Scheme> {
    /// **Invariant:** points to `frames` initialised descriptors that are never unmapped or
    /// written otherwise (R7: the promise of [`Memmap::new`]'s caller). Where zero means
    /// frozen, those of offline blocks may become zeroes at any moment: a value like any
    /// other.
    descriptors: NonNull<Descriptor<S>>,
    /// **Invariant:** points to `frames` bytes, in the same way.
    marks: NonNull<Mark>,
    /// **Invariant:** where that of number 0 would lie.
    numbered_marks: *mut Mark,
    frames: u32,
}

// SAFETY: a memmap is two shared slices of atomics.
unsafe impl<S: Scheme> Send for Memmap<S> {}
// SAFETY: as above.
unsafe impl<S: Scheme> Sync for Memmap<S> {}

impl<S: Scheme> Memmap<S> {
    pub(crate) fn layout(frames: u32) -> Layout {
        Self::layout_and_marks(frames).0
    }

    fn layout_and_marks(frames: u32) -> (Layout, usize) {
        let array = Layout::array::<Descriptor<S>>(frames as usize);
        let marks = Layout::array::<Mark>(frames as usize);
        let both = array.and_then(|array| array.extend(marks?));
        both.expect("2^32 descriptors and marks fit an address space")
    }

    /// # Safety
    ///
    /// `memory` has the layout of [`Memmap::layout`], is this memmap's alone for ever, and holds
    /// what `holds` says.
    pub(crate) unsafe fn new(memory: NonNull<u8>, numbers: &Numbers, holds: MemmapMemory) -> Self {
        let frames = numbers.frames();
        let descriptors = memory.cast::<Descriptor<S>>();
        let (_, offset) = Self::layout_and_marks(frames);
        // SAFETY: within the layout, by its construction.
        let marks = unsafe { memory.add(offset) }.cast::<Mark>();
        if holds == MemmapMemory::Garbage {
            // SAFETY: in bounds, nobody else's; any byte is an atomic one.
            unsafe { marks.write_bytes(0, frames as usize) };
        }
        if !(S::ZERO_IS_FROZEN && holds == MemmapMemory::Zeroed) {
            for index in 0..frames as usize {
                // SAFETY: within the memory's layout.
                let descriptor = unsafe { descriptors.add(index) };
                // SAFETY: aligned, in bounds, nobody else's.
                unsafe { descriptor.write(Descriptor::new()) };
            }
        }
        let numbered_marks = numbers.zeroth(marks.as_ptr().cast(), size_of::<Mark>()).cast();
        Self { descriptors, marks, numbered_marks, frames }
    }

    /// The same descriptors and marks, as they are, for the heir of a zone that retired: a late put
    /// finds its word and generation (R2, R7).
    #[cfg(feature = "std")]
    pub(crate) fn inherit(&self) -> Self {
        Self { ..*self }
    }

    pub(crate) fn frames(&self) -> u32 {
        self.frames
    }

    /// Descriptors that are heads of a free block, and of one in use. Racy, and slow: it looks at
    /// every descriptor.
    fn heads(&self) -> (usize, usize) {
        (0..self.frames).map(|index| self.get(index).shape().kind).fold(
            (0, 0),
            |(free, used), kind| {
                (free + usize::from(kind.is_free()), used + usize::from(kind.is_allocated()))
            },
        )
    }

    /// Where the descriptors of a frame and those after it lie, in bytes.
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

    /// What nobody may do (R7).
    #[cfg(broken = "metadata-zeroed")]
    pub(crate) fn zero(&self, index: u32) {
        // SAFETY: in bounds; all fields are atomics of which every bit pattern is valid.
        let descriptor = unsafe { self.descriptors.add(index as usize) };
        // SAFETY: as above. It races with readers, and is meant to.
        unsafe { descriptor.write_bytes(0, 1) };
    }

    #[inline(always)]
    pub(crate) fn get(&self, index: u32) -> &Descriptor<S> {
        assert!(!CHECKS || index < self.frames, "frame {index} of a memmap of {}", self.frames);
        // SAFETY: every index inside this crate is below `frames`: it comes from a range check in
        // `Zone::index`, from a list of frames of this zone, or from a slot that only held such.
        let descriptor = unsafe { self.descriptors.add(index as usize) };
        // SAFETY: the invariant on `descriptors`; all fields are atomics, so shared access is
        // enough.
        unsafe { descriptor.as_ref() }
    }
    #[inline(always)]
    fn mark(&self, index: u32) -> &Mark {
        assert!(
            !CHECKS || index < self.frames,
            "the mark of frame {index} of a memmap of {}",
            self.frames
        );
        // SAFETY: in bounds, as in `get`.
        let mark = unsafe { self.marks.add(index as usize) };
        // SAFETY: the invariant on `marks`.
        unsafe { mark.as_ref() }
    }

    /// Notes that the folio was used. A store only when it was not noted yet: a hit on a hot page
    /// writes nothing. Whether it was a milestone that nobody had passed.
    ///
    /// What was read ahead counts as marked until it is used the first time, and not any more then:
    /// it was kept for that use, and a scan's pages are the first to go when the scan has
    /// passed.
    #[inline(always)]
    pub(crate) fn set_mark(&self, index: u32) -> bool {
        use_once(self.mark(index))
    }

    /// The same by a number of this zone.
    #[inline(always)]
    pub(crate) fn set_mark_of(&self, number: Number) -> bool {
        let mark = self.numbered_marks.wrapping_add(number.as_usize());
        // SAFETY: as many marks as there are numbers lie there, by the invariants on
        // `numbered_marks` and `marks`, and a number is one of them once it was checked.
        use_once(unsafe { &*mark })
    }

    pub(crate) fn set_readahead(&self, index: u32, is_marker: bool) {
        // Relaxed: a hint.
        self.mark(index).store(if is_marker { MILESTONE } else { AHEAD }, Ordering::Relaxed);
    }

    pub(crate) fn is_referenced(&self, index: u32) -> bool {
        // Relaxed: a hint.
        self.mark(index).load(Ordering::Relaxed) != UNUSED
    }

    pub(crate) fn clear_mark(&self, index: u32) {
        // Relaxed: a hint. Only if need be: the line is shared with 63 others.
        if self.is_referenced(index) {
            self.mark(index).store(UNUSED, Ordering::Relaxed);
        }
    }
}

#[inline(always)]
fn use_once(mark: &Mark) -> bool {
    // Relaxed: a hint.
    let seen = mark.load(Ordering::Relaxed);
    if seen == USED {
        return false;
    }
    mark.store(if seen == UNUSED { USED } else { UNUSED }, Ordering::Relaxed);
    seen == MILESTONE
}

impl<S: Scheme> fmt::Debug for Memmap<S> {
    /// `{:#?}` counts the heads as well, which touches every descriptor.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "memmap of {} descriptors of {} bytes ({})",
            self.frames,
            size_of::<Descriptor<S>>(),
            S::NAME
        )?;
        if !f.alternate() {
            return Ok(());
        }
        let (free, used) = self.heads();
        write!(f, ": {free} head free blocks, {used} blocks in use")
    }
}
