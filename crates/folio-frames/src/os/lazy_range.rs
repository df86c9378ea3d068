//! A range of slots that is reserved at its first use, and found by two loads from one line.
//!
//! The unsafe code here shows the slots of the range by their address.

use core::fmt;
use core::mem;
use core::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};
use std::boxed::Box;

use once_cell::race::OnceBox;

use crate::base::platform::Platform;
use crate::index::slot::Slot;
use crate::os::slot_space::SlotRange;

/// At most one range, with a value of its owner beside it. It takes the memory of three pointers
/// until it is set.
///
/// ```
/// use folio_frames::{LazyRange, SlotSpace, UserSpace};
///
/// let lazy = LazyRange::<UserSpace, &str>::new();
/// assert!(lazy.get(0).is_none());
/// let space = SlotSpace::<UserSpace>::new();
/// let (range, name) = lazy.get_or_set(space.reserve(1000)?, "mine");
/// assert_eq!((range.len(), *name), (1024, "mine"));
/// assert!(lazy.get(1023).is_some() && lazy.get(1024).is_none());
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct LazyRange<P: Platform, T> {
    /// The number of slots of `reserved`. 0: there is none, or no thread has used it yet.
    len: AtomicUsize,
    /// The first slot of `reserved`, if `len` is not 0.
    first: AtomicPtr<Slot<P>>,
    reserved: OnceBox<(SlotRange<P>, T)>,
}

impl<P: Platform, T> LazyRange<P, T> {
    /// Returns no range yet.
    pub const fn new() -> Self {
        Self {
            len: AtomicUsize::new(0),
            first: AtomicPtr::new(core::ptr::null_mut()),
            reserved: OnceBox::new(),
        }
    }

    /// Returns a slot, or `None` if there is no range or it has fewer slots.
    #[inline(always)]
    pub fn get(&self, slot: usize) -> Option<&Slot<P>> {
        let first = first_with(&self.len, &self.first, slot)?;
        debug_assert!(!first.is_null(), "slot {slot} of a range that is not published");
        // SAFETY: `first` names the slots of `reserved`, which has more than `slot` of them.
        let slot = unsafe { first.add(slot) };
        // SAFETY: as above. The range stays until this is dropped, and its slots are atomics.
        Some(unsafe { &*slot })
    }

    /// Returns the range and the value beside it, if it is set.
    pub fn reserved(&self) -> Option<&(SlotRange<P>, T)> {
        let reserved = self.reserved.get()?;
        // Whatever is done with the slots of the range, `get` finds them after it.
        self.publish(&reserved.0);
        Some(reserved)
    }

    /// Sets the range and the value beside it, unless another thread has. Returns those that are
    /// set.
    pub fn get_or_set(&self, range: SlotRange<P>, beside: T) -> &(SlotRange<P>, T) {
        let reserved = self.reserved.get_or_init(|| Box::new((range, beside)));
        self.publish(&reserved.0);
        reserved
    }

    fn publish(&self, range: &SlotRange<P>) {
        publish(&self.len, &self.first, (range.len(), range.first().as_ptr()));
    }

    /// Forgets the range: its addresses stay reserved for as long as the process lives.
    pub fn leak(&mut self) {
        *self.len.get_mut() = 0;
        mem::forget(mem::take(&mut self.reserved));
    }
}

/// A word of the processor's memory, or of the weak one that tests play.
trait Word<T> {
    #[track_caller]
    fn load(&self, order: Ordering) -> T;
    #[track_caller]
    fn store(&self, value: T, order: Ordering);
}

/// Returns the first slot of a range that has more than `slot` slots.
#[inline(always)]
fn first_with<F>(len: &impl Word<usize>, first: &impl Word<F>, slot: usize) -> Option<F> {
    // Acquire: pairs with Release in publish. `first` is stored, and the slots are mapped.
    if slot >= len.load(Ordering::Acquire) {
        return None;
    }
    // Relaxed: ordered by the load above.
    Some(first.load(Ordering::Relaxed))
}

/// Publishes the number of slots and the first one, unless another thread has.
#[inline]
fn publish<F>(len: &impl Word<usize>, first: &impl Word<F>, range: (usize, F)) {
    // Relaxed: the number is only compared.
    if len.load(Ordering::Relaxed) == 0 {
        // Relaxed: published by the store below. All threads store the same.
        first.store(range.1, Ordering::Relaxed);
        // Release: pairs with Acquire in first_with.
        len.store(range.0, Ordering::Release);
    }
}

impl Word<usize> for AtomicUsize {
    #[inline(always)]
    fn load(&self, order: Ordering) -> usize {
        self.load(order)
    }

    #[inline(always)]
    fn store(&self, value: usize, order: Ordering) {
        self.store(value, order);
    }
}

impl<T> Word<*mut T> for AtomicPtr<T> {
    #[inline(always)]
    fn load(&self, order: Ordering) -> *mut T {
        self.load(order)
    }

    #[inline(always)]
    fn store(&self, value: *mut T, order: Ordering) {
        self.store(value, order);
    }
}

#[cfg(shuttle)]
impl Word<usize> for folio_ref::testing::stepped::AtomicU64 {
    #[track_caller]
    fn load(&self, order: Ordering) -> usize {
        self.load(order) as usize
    }

    #[track_caller]
    fn store(&self, value: usize, order: Ordering) {
        self.store(value as u64, order);
    }
}

/// The two words of a [`LazyRange`] over a weak memory, for tests. The first slot is a number.
#[cfg(shuttle)]
#[derive(Debug, Default)]
pub struct WeakRange {
    len: folio_ref::testing::stepped::AtomicU64,
    first: folio_ref::testing::stepped::AtomicU64,
}

#[cfg(shuttle)]
impl WeakRange {
    /// Returns the first slot as [`LazyRange::get`] finds it.
    pub fn first_with(&self, slot: usize) -> Option<usize> {
        first_with(&self.len, &self.first, slot)
    }

    /// Publishes a range as [`LazyRange`] does.
    pub fn publish(&self, len: usize, first: usize) {
        publish(&self.len, &self.first, (len, first));
    }
}

impl<P: Platform, T> Default for LazyRange<P, T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<P: Platform, T> fmt::Debug for LazyRange<P, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.reserved.get() {
            Some((range, _)) => fmt::Debug::fmt(range, f),
            None => write!(f, "no slots yet"),
        }
    }
}
