//! Splitting a frozen folio into smaller ones.

use core::ops::Range;

use folio_ref::CHECKS;

use crate::base::ids::Order;
use crate::base::platform::Platform;
use crate::base::trace::Event;
use crate::zone::folio::FrozenFolio;
use crate::zone::zone::Zone;

impl<P: Platform> FrozenFolio<P> {
    /// Splits the folio into equal pieces of a smaller order. Returns the exclusive handle of each,
    /// with the same kind, owner data and dirty bit. The new heads were tails and stay frozen, so
    /// no reference can be taken meanwhile. Pieces that are not taken from the iterator leak, as a
    /// handle that is dropped does.
    ///
    /// # Panics
    ///
    /// Panics if `order` is larger than the folio's.
    pub fn split(self, order: Order) -> impl Iterator<Item = Self> {
        let (zone, whole, kind, owner_data) =
            (self.zone(), self.order(), self.kind(), self.owner_data());
        assert!(order <= whole, "a folio of {whole:?} cannot be split into pieces of {order:?}");
        let dirty = self.is_dirty();
        let first = self.into_index();
        // Back to front, so that the old head, which a walker may probe, shrinks last.
        for piece in (first..first + whole.frames()).step_by(order.frames() as usize).rev() {
            let head = zone.descriptor(piece);
            assert!(!CHECKS || head.word.snapshot().is_frozen(), "a tail is {:?} (R1)", head.word);
            head.set_owner_data(owner_data);
            zone.memmap.clear_referenced(piece);
            head.set_dirty(dirty);
            head.set_shape(kind, order);
            P::trace(Event::Split, || zone.pfn(piece));
        }
        Pieces { zone, left: first..first + whole.frames(), order }
    }
}

/// The exclusive handles of neighbouring folios of one order.
struct Pieces<P: Platform> {
    zone: &'static Zone<P>,
    left: Range<u32>,
    order: Order,
}

impl<P: Platform> Iterator for Pieces<P> {
    type Item = FrozenFolio<P>;

    #[inline]
    fn next(&mut self) -> Option<FrozenFolio<P>> {
        let index = self.left.start;
        (!self.left.is_empty()).then(|| {
            self.left.start += self.order.frames();
            FrozenFolio::from_index(self.zone, index)
        })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let pieces = self.left.len() / self.order.frames() as usize;
        (pieces, Some(pieces))
    }
}

impl<P: Platform> Drop for Pieces<P> {
    fn drop(&mut self) {
        // Dropping the first one reports the leak.
        self.next().into_iter().for_each(drop);
    }
}
