//! Where the frames of pages come from: free ones, else what reclaim frees.

use std::io;
use std::time::Duration;

use folio_frames::{Level, MAX_ORDER, MigrateType, Order};
use folio_ref::Scheme;

use crate::rt::shim::{rest, yield_now};
use crate::state::frames::FrozenFolio;
use crate::state::mapping::Mapping;
use crate::state::shared::Shared;
use crate::state::units::CACHED;

/// Pages that are freed at once when some have to be: some of the next misses are spared the same.
pub(crate) const BATCH: usize = 32;

/// Tries of an allocation before it fails. Reclaim may find nothing for a moment: somebody takes a
/// block offline or closes a large file, and what they hold comes back.
const ROUNDS: usize = 200;

/// Rounds that only yield; the later ones sleep for [`PAUSE`].
const YIELDS: usize = 16;

const PAUSE: Duration = Duration::from_millis(1);

/// Pages from which on a request that is cut into many pieces is slower.
const WORTH_A_PIECE: usize = 64;

impl<S: Scheme> Shared<S> {
    /// A frozen frame, by reclaim if there is no free one.
    ///
    /// # Errors
    ///
    /// `OutOfMemory`, with how much is pinned, when for about 200 ms there was nothing to reclaim.
    pub(crate) fn allocate(&self) -> io::Result<FrozenFolio<S>> {
        self.look_at_level();
        self.zone()
            .alloc_frozen_as(Order::ZERO, MigrateType::Movable)
            .or_else(|_| self.allocate_by_reclaim())
    }

    /// Frees frames for who found none. Some may be free already, in the lists of other threads.
    /// How many it freed.
    pub(crate) fn free_some(&self, wanted: usize) -> usize {
        self.zone().drain();
        match self.zone().free_frames() {
            0 => self.reclaim(wanted),
            free => free as usize,
        }
    }

    #[cold]
    fn allocate_by_reclaim(&self) -> io::Result<FrozenFolio<S>> {
        let zone = self.zone();
        self.counters.direct_reclaims.add(1);
        // If its thread could not be started, it may be now.
        self.reclaimer.notify_soon();
        self.fit();
        for round in 0..ROUNDS {
            if self.free_some(BATCH) == 0 {
                self.write_back_some();
            }
            if let Ok(folio) = zone.alloc_frozen_as(Order::ZERO, MigrateType::Movable) {
                return Ok(folio);
            }
            if round < YIELDS {
                yield_now();
            } else {
                rest(PAUSE);
            }
        }
        Err(self.out_of_memory())
    }

    /// Up to `frames` frozen frames, as many as there are without waiting: for what need not be
    /// read. They lie one behind the other where memory does, in as few pieces as there are: a
    /// request into one piece is faster than into many.
    pub(crate) fn allocate_some(&self, frames: usize) -> Vec<FrozenFolio<S>> {
        self.look_at_level();
        let mut folios = Vec::with_capacity(frames);
        // Of what others free in the meantime they may be quicker: it frees no more than it wants.
        let mut batches = frames.div_ceil(BATCH);
        while folios.len() < frames {
            let left = frames - folios.len();
            let most =
                Order::new(left.ilog2() as u8).map_or(MAX_ORDER, |order| order.min(MAX_ORDER));
            match self.zone().alloc_frozen_up_to(most, MigrateType::Movable) {
                // What the reclaimer would free in a moment is freed here: it may be in one piece.
                Ok(block)
                    if block.order() < most
                        && left >= WORTH_A_PIECE
                        && batches > 0
                        && !self.zone().is_at_least(Level::Enough) =>
                {
                    block.free();
                    batches = if self.reclaim(BATCH) > 0 { batches - 1 } else { 0 };
                    self.zone().drain();
                }
                Ok(block) => folios.extend(block.split(Order::ZERO)),
                Err(_) if batches > 0 => {
                    batches = 0;
                    self.counters.direct_reclaims.add(1);
                    self.free_some(left);
                }
                Err(_) => break,
            }
        }
        folios
    }
}

impl<S: Scheme> Mapping<S> {
    /// A folio for a page, in no slot yet. With no lock held but `grow`.
    pub(crate) fn spare(&self, page: u32) -> io::Result<FrozenFolio<S>> {
        let mut folio = self.shared.allocate()?;
        folio.set_owner(CACHED, self.owner_data(page));
        Ok(folio)
    }
}
