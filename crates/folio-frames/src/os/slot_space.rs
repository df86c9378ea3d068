//! Addresses of slots, with memory only where slots are open.
//!
//! ```text
//!  span     addresses from the system, without memory at first
//!  range    2^k leaves of a span: the slots of one owner, at fixed addresses until it is dropped
//!  group    512 leaves, 2 MiB of addresses: those that one table of the system maps
//!  leaf     512 slots, a page of memory: all open, or all closed
//! ```
//!
//! A closed slot is all zeroes, as fresh memory is (`closed.rs`). So the memory of a closed leaf
//! can be given back, and a thread that looks at it still finds empty slots. `leaf_memory.rs` says
//! when. (A compare-and-swap that comes too late fails, and may leave a page of zeroes until then.)
//!
//! The unsafe code here maps the addresses, and shows them as slots.

use core::fmt;
use core::marker::PhantomData;
use core::ops::Range;
use core::ptr::NonNull;
use core::slice;
use core::sync::atomic::{AtomicUsize, Ordering};
use std::io;
use std::sync::Arc;
use std::vec::Vec;

use rustix::mm::{mmap_anonymous, munmap};

use crate::base::ids::FRAME_SIZE;
use crate::base::platform::Platform;
use crate::base::seeded_bugs::{leaf_closed_in_use, leaf_version_forgotten};
use crate::index::closed::Versions;
use crate::index::entry::FIRST_VERSION;
use crate::index::slot::Slot;
use crate::os::futex_lock::FutexLock;
use crate::os::leaf_memory::{
    Address, FLAGS, GROUP_BYTES, LEAF, LEAF_BYTES, LeafMemory, PROTECTION, forbid_huge_pages,
    max_spares,
};

/// The bytes of addresses of the first span. Each later one has at least as many as all before.
const MIN_SPAN: usize = 256 << 20;

/// Addresses for slots, shared by its clones and ranges.
pub struct SlotSpace<P: Platform> {
    inner: Arc<Inner>,
    platform: PhantomData<fn() -> P>,
}

type Mutex<T> = lock_api::Mutex<FutexLock, T>;

struct Inner {
    state: Mutex<State>,
    /// The bytes of open leaves, and of the tables of the system that map them.
    open_bytes: AtomicUsize,
    spare_bytes: AtomicUsize,
}

#[derive(Default)]
struct State {
    spans: Vec<Span>,
    /// Unused ranges by the binary logarithm of their leaves. All their bytes are zeroes.
    unused: Vec<Vec<Address>>,
    memory: LeafMemory,
}

impl<P: Platform> SlotSpace<P> {
    /// Returns a space without any addresses. It takes them from the system as they are wanted.
    pub fn new() -> Self {
        let [open_bytes, spare_bytes] = [0; 2].map(AtomicUsize::new);
        let inner = Inner { state: Mutex::default(), open_bytes, spare_bytes };
        Self { inner: Arc::new(inner), platform: PhantomData }
    }

    /// Returns a range of at least this number of slots, all closed.
    ///
    /// # Errors
    ///
    /// `OutOfMemory` if there are not as many addresses.
    pub fn reserve(&self, slots: usize) -> io::Result<SlotRange<P>> {
        let leaves = slots.div_ceil(LEAF).checked_next_power_of_two();
        let leaves = leaves.filter(|leaves| leaves.checked_mul(LEAF_BYTES).is_some());
        let leaves = leaves.ok_or(io::ErrorKind::OutOfMemory)?;
        let first = self.inner.state.lock().take(leaves.ilog2() as usize)?;
        let owner = Owner { version: FIRST_VERSION };
        let inner = Arc::clone(&self.inner);
        Ok(SlotRange {
            first: first.0.cast(),
            len: leaves * LEAF,
            owner: lock_api::Mutex::new(owner),
            inner,
        })
    }

    /// Returns the bytes of memory of all leaves, and of the tables of the system that map them. A
    /// closed leaf may have memory for a while ([`Self::max_resident_bytes`]).
    pub fn resident_bytes(&self) -> usize {
        // Relaxed: only reports and limits depend on it.
        let open = self.inner.open_bytes.load(Ordering::Relaxed);
        open + self.inner.spare_bytes.load(Ordering::Relaxed)
    }

    /// Returns the bytes that [`Self::resident_bytes`] does not exceed until another leaf is
    /// opened: those of the open leaves, and an eighth more for closed ones, at most 64 pages.
    pub fn max_resident_bytes(&self) -> usize {
        // Relaxed: only reports and limits depend on it.
        let open = self.inner.open_bytes.load(Ordering::Relaxed);
        open + max_spares(open / FRAME_SIZE) * FRAME_SIZE
    }

    /// Returns the first open leaf from a number on, and its tag. The numbers of leaves are those
    /// of all ranges. Racy.
    pub fn next_open(&self, number: usize) -> Option<(usize, u64)> {
        self.inner.first_open(number..usize::MAX)
    }
}

impl<P: Platform> Default for SlotSpace<P> {
    fn default() -> Self {
        Self::new()
    }
}

impl<P: Platform> fmt::Debug for SlotSpace<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "addresses of slots, {} bytes resident", self.resident_bytes())
    }
}

impl State {
    /// Takes an unused range of 2^order leaves, or the first part of a larger one.
    fn take(&mut self, order: usize) -> io::Result<Address> {
        if !self.unused.iter().skip(order).any(|ranges| !ranges.is_empty()) {
            self.add_span(LEAF_BYTES << order)?;
        }
        let larger = self.unused.iter().skip(order).position(|ranges| !ranges.is_empty());
        let larger = order + larger.expect("a span was just added");
        let first = self.unused[larger].pop().expect("it is not empty");
        for half in order..larger {
            // SAFETY: the range has 2^larger leaves, and `half` is less.
            self.put(half, Address(unsafe { first.0.byte_add(LEAF_BYTES << half) }));
        }
        Ok(first)
    }

    fn put(&mut self, order: usize, first: Address) {
        if self.unused.len() <= order {
            self.unused.resize_with(order + 1, Vec::new);
        }
        self.unused[order].push(first);
    }

    /// Takes addresses from the system, `bytes` at least.
    fn add_span(&mut self, bytes: usize) -> io::Result<()> {
        let all: usize = self.spans.iter().map(|span| span.bytes).sum();
        let many = bytes.max(all.next_power_of_two()).max(MIN_SPAN);
        let span = Span::map(many).or_else(|_| Span::map(bytes.max(GROUP_BYTES)))?;
        self.put((span.bytes / LEAF_BYTES).ilog2() as usize, Address(span.first()));
        self.spans.push(span);
        Ok(())
    }
}

impl Inner {
    /// Notes a leaf that is about to be opened.
    fn open(&self, leaf: Address, tag: u64) {
        self.change(|memory| memory.open(leaf, tag));
    }

    /// Notes a closed leaf, of which the memory may be given back.
    fn close(&self, leaf: Address) {
        self.change(|memory| memory.close(leaf));
    }

    fn change(&self, change: impl FnOnce(&mut LeafMemory)) {
        let mut state = self.state.lock();
        change(&mut state.memory);
        // Relaxed: only reports and limits depend on them.
        self.open_bytes.store(state.memory.open_bytes(), Ordering::Relaxed);
        self.spare_bytes.store(state.memory.spare_bytes(), Ordering::Relaxed);
    }

    /// Returns the first open leaf of these numbers, and its tag.
    fn first_open(&self, leaves: Range<usize>) -> Option<(usize, u64)> {
        self.state.lock().memory.first_open(leaves)
    }
}

/// Slots at fixed addresses. Each leaf of 512 slots is closed at first.
///
/// ```
/// use folio_frames::{Arena, Order, SlotSpace, UserSpace};
///
/// let arena = Arena::<UserSpace>::new(2 << 20, &[])?;
/// let zone = arena.zone();
/// let space = SlotSpace::<UserSpace>::new();
/// let range = space.reserve(1 << 20)?;
/// let slot = range.get(700).unwrap();
///
/// // A closed leaf needs no memory, and takes no folio.
/// assert_eq!(space.resident_bytes(), 0);
/// let folio = slot.install(zone.alloc_frozen(Order::ZERO)?).unwrap_err();
///
/// // Slot 700 lies in leaf 1.
/// range.lock().open(1, 0);
/// slot.install(folio).unwrap().publish();
/// assert!(!range.lock().close(1));
///
/// drop(slot.try_lock(zone).unwrap().remove());
/// assert!(range.lock().close(1));
/// assert_eq!(space.resident_bytes(), 0);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct SlotRange<P: Platform> {
    /// **Invariant:** `len` slots of a span of `inner`, which no other range has.
    first: NonNull<Slot<P>>,
    len: usize,
    owner: lock_api::Mutex<P::Lock, Owner>,
    inner: Arc<Inner>,
}

/// **Invariant:** while it is not locked, a leaf has open slots only, or closed ones only.
struct Owner {
    /// The version at which slots open.
    version: u32,
}

// SAFETY: a shared slice of slots, which any thread may use.
unsafe impl<P: Platform> Send for SlotRange<P> {}
// SAFETY: as above.
unsafe impl<P: Platform> Sync for SlotRange<P> {}

impl<P: Platform> SlotRange<P> {
    /// The number of slots in a leaf.
    pub const LEAF: usize = LEAF;

    /// Returns the number of slots.
    #[expect(clippy::len_without_is_empty, reason = "a range has slots")]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Returns the address of the first slot.
    pub(super) fn first(&self) -> NonNull<Slot<P>> {
        self.first
    }

    /// Returns a slot, or `None` if the range has fewer.
    #[inline(always)]
    pub fn get(&self, slot: usize) -> Option<&Slot<P>> {
        if slot >= self.len {
            return None;
        }
        // SAFETY: the invariant of `first`.
        let slot = unsafe { self.first.add(slot) };
        // SAFETY: as above. Slots are atomics, and any bytes are one.
        Some(unsafe { slot.as_ref() })
    }

    /// Returns the slots from one on, at most `most`. They may be closed.
    #[inline]
    pub fn slots_from(&self, slot: usize, most: usize) -> &[Slot<P>] {
        let slot = slot.min(self.len);
        // SAFETY: the invariant of `first`.
        let first = unsafe { self.first.add(slot) };
        // SAFETY: as above. Slots are atomics, and any bytes are one.
        unsafe { slice::from_raw_parts(first.as_ptr(), most.min(self.len - slot)) }
    }

    /// Returns the first open leaf of those in `leaves`. Racy.
    pub fn next_open(&self, leaves: Range<usize>) -> Option<usize> {
        let first = Address(self.first.cast()).number();
        let end = self.len / LEAF;
        let found =
            self.inner.first_open(first + leaves.start.min(end)..first + leaves.end.min(end));
        found.map(|(leaf, _)| leaf - first)
    }

    /// Makes the system give a closed leaf its page, which takes microseconds, before
    /// [`LockedLeaves::open`] needs it. Call it only for a leaf that is about to be opened: the
    /// page is counted from then on.
    ///
    /// # Panics
    ///
    /// Panics if the range has no such leaf.
    pub fn prepare(&self, leaf: usize) {
        self.leaf(leaf)[0].touch();
    }

    /// Takes the right to open and close leaves.
    pub fn lock(&self) -> LockedLeaves<'_, P> {
        LockedLeaves { range: self, owner: self.owner.lock() }
    }

    fn leaf(&self, leaf: usize) -> &[Slot<P>; LEAF] {
        assert!(leaf < self.len / LEAF, "leaf {leaf} of {}", self.len / LEAF);
        // SAFETY: the invariant of `first`.
        let slots = unsafe { self.first.add(leaf * LEAF) }.cast::<[Slot<P>; LEAF]>();
        // SAFETY: as above. Slots are atomics, and any bytes are one.
        unsafe { slots.as_ref() }
    }

    fn address(&self, leaf: usize) -> Address {
        Address(NonNull::from(self.leaf(leaf)).cast())
    }
}

impl<P: Platform> Drop for SlotRange<P> {
    fn drop(&mut self) {
        // What is left is empty, or holds references that are lost.
        while let Some(leaf) = self.next_open(0..usize::MAX) {
            let slots = self.address(leaf).0.cast::<[Slot<P>; LEAF]>();
            // SAFETY: the slots of a leaf, and no other thread has the range any more.
            unsafe { &mut *slots.as_ptr() }.iter_mut().for_each(Slot::clear);
            self.inner.close(self.address(leaf));
        }
        let order = (self.len / LEAF).ilog2() as usize;
        self.inner.state.lock().put(order, Address(self.first.cast()));
    }
}

/// The right to open and close the leaves of a range.
pub struct LockedLeaves<'r, P: Platform> {
    range: &'r SlotRange<P>,
    owner: lock_api::MutexGuard<'r, P::Lock, Owner>,
}

impl<P: Platform> LockedLeaves<'_, P> {
    /// Returns `true` if a leaf is open.
    ///
    /// # Panics
    ///
    /// Panics if the range has no such leaf. So do the other methods.
    pub fn is_open(&self, leaf: usize) -> bool {
        !self.range.leaf(leaf)[0].is_closed()
    }

    /// Opens a leaf if it is closed: its slots are empty then. [`SlotSpace::next_open`] returns the
    /// tag.
    pub fn open(&mut self, leaf: usize, tag: u64) {
        if !self.is_open(leaf) {
            self.range.inner.open(self.range.address(leaf), tag);
            let version = if leaf_version_forgotten() { FIRST_VERSION } else { self.owner.version };
            self.range.leaf(leaf).iter().for_each(|slot| slot.open(version));
        }
    }

    /// Closes a leaf if it is open and all its slots are empty. Its memory is given back, now or
    /// with that of other leaves. Returns `true` if it is closed now.
    ///
    /// A leaf stays open if one of its slots is absent. It also stays open if the page lock of one
    /// of its slots was released 2^25 times more often than that of another.
    pub fn close(&mut self, leaf: usize) -> bool {
        let slots = self.range.leaf(leaf);
        if !self.is_open(leaf) {
            return true;
        }
        if !slots.iter().all(Slot::is_empty) {
            return false;
        }
        let (mut closed, mut versions) = ([0; LEAF], Versions::new(self.owner.version));
        let mut count = 0;
        while count < LEAF {
            let version = slots[count].close();
            let version = version.or(leaf_closed_in_use().then_some(FIRST_VERSION));
            let Some(version) = version else { break };
            versions.add(version);
            closed[count] = version;
            count += 1;
        }
        let Some(base) = versions.next_base().filter(|_| count == LEAF) else {
            slots.iter().zip(&closed[..count]).for_each(|(slot, &version)| slot.open(version));
            return false;
        };
        self.owner.version = base;
        self.range.inner.close(self.range.address(leaf));
        true
    }
}

/// Addresses from the system, a whole number of groups. Dropping it unmaps them.
struct Span {
    mapping: Address,
    mapped: usize,
    bytes: usize,
}

impl Span {
    /// Reserves `bytes` bytes of addresses.
    fn map(bytes: usize) -> io::Result<Self> {
        let mapped = bytes.checked_add(GROUP_BYTES).ok_or(io::ErrorKind::OutOfMemory)?;
        // SAFETY: a new mapping at no fixed address touches nothing that exists.
        let mapping =
            unsafe { mmap_anonymous(core::ptr::null_mut(), mapped, PROTECTION, FLAGS) }?.cast();
        let mapping = Address(NonNull::new(mapping).expect("a mapping is not at 0"));
        let span = Self { mapping, mapped, bytes };
        forbid_huge_pages(span.first(), bytes);
        Ok(span)
    }

    fn first(&self) -> NonNull<u8> {
        let first = self.mapping.0.addr().get().next_multiple_of(GROUP_BYTES);
        // SAFETY: the mapping has a group more than `bytes`.
        unsafe { self.mapping.0.byte_add(first - self.mapping.0.addr().get()) }
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        // SAFETY: this is its own mapping, and all ranges of it are gone.
        let unmapped = unsafe { munmap(self.mapping.0.as_ptr().cast(), self.mapped) };
        debug_assert!(unmapped.is_ok(), "munmap of slots: {unmapped:?}");
    }
}

impl<P: Platform> fmt::Debug for SlotRange<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} slots", self.len)
    }
}

impl<P: Platform> fmt::Debug for LockedLeaves<'_, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the leaves of {:?}", self.range)
    }
}
