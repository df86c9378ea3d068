//! The frames of a request to a distant store, until its pages are published: how they are
//! allocated, and the wait where there are none.

use std::io;
use std::mem;
use std::ops::Range;
use std::time::Duration;

use folio_frames::joined_mut;
use folio_ref::Scheme;

use crate::memory::alloc;
use crate::memory::out_of_memory::out_of_memory;
use crate::rt::in_flight::{HeldBy, Hold, Holder};
use crate::state::frames::FrozenFolio;
use crate::state::mapping::Mapping;
use crate::state::shared::Awaited;
use crate::state::units::CACHED;
use crate::writeback::dirty_pages;

/// The pauses of a request that finds no memory, 85 ms in all.
const PAUSES: [Duration; 4] = [
    Duration::from_millis(1),
    Duration::from_millis(4),
    Duration::from_millis(16),
    Duration::from_millis(64),
];

/// The number of times in a row, a minute, that it makes these pauses for fills in flight, without
/// an end of one.
const PATIENCE: u32 = 700;

/// The same for requests, writes and dirty pages alone, 5 s.
const SLOW_PATIENCE: u32 = 60;

/// The number of times after which it has requests that are stuck driven.
const STUCK_AFTER: u32 = 3;

/// Frames of a request, which count as in flight until this is dropped. They are in no slot.
pub(super) struct Frames<'m, S: Scheme> {
    mapping: &'m Mapping<S>,
    pub(super) folios: Vec<FrozenFolio<S>>,
    hold: Hold<'m>,
}

impl<'m, S: Scheme> Frames<'m, S> {
    /// Returns the frames of the pages from `first` on, marked as theirs.
    fn new(mapping: &'m Mapping<S>, first: u64, mut folios: Vec<FrozenFolio<S>>) -> Self {
        for (page, folio) in (first..).zip(&mut folios) {
            folio.set_owner(CACHED, mapping.owner_data(page as u32));
        }
        let hold = mapping.shared.memory_wait.hold(HeldBy::Request, folios.len());
        mapping.count_in_flight(folios.len() as u64);
        Self { mapping, folios, hold }
    }

    /// Returns the memory of some bytes of the frames, one slice for each contiguous piece.
    pub(super) fn pieces(&mut self, bytes: Range<usize>) -> Vec<&mut [u8]> {
        let mut at = 0;
        let pieces = joined_mut(self.folios.iter_mut()).filter_map(|piece| {
            let begins = at;
            at += piece.len();
            let from = bytes.start.clamp(begins, at) - begins;
            let to = bytes.end.clamp(begins, at) - begins;
            (from < to).then(|| &mut piece[from..to])
        });
        pieces.collect()
    }
}

impl<S: Scheme> Drop for Frames<'_, S> {
    fn drop(&mut self) {
        mem::take(&mut self.folios).into_iter().for_each(FrozenFolio::free);
        self.mapping.count_in_flight((self.hold.pages() as u64).wrapping_neg());
    }
}

/// Returns frames for some pages: as many as there are without waiting, at least one.
///
/// # Errors
///
/// `OutOfMemory` if there was none in all of the [`PAUSES`], and nothing in flight or dirty that
/// could be waited for, or nothing of that ended for a minute, or 5 s.
pub(super) async fn allocate<'m, S: Scheme>(
    mapping: &'m Mapping<S>,
    pages: &Range<u64>,
) -> io::Result<Frames<'m, S>> {
    let wanted = (pages.end - pages.start) as usize;
    let shared = &mapping.shared;
    let folios = alloc::allocate_from(mapping, pages.start as u32, wanted);
    if !folios.is_empty() {
        return Ok(Frames::new(mapping, pages.start, folios));
    }
    let mut look = shared.memory_wait.look();
    let (mut fruitless, mut may_sleep) = (0, true);
    loop {
        for pause in PAUSES {
            let folios = alloc::allocate_from(mapping, pages.start as u32, wanted);
            if !folios.is_empty() {
                return Ok(Frames::new(mapping, pages.start, folios));
            }
            may_sleep &= shared.drive.sleep(pause).await;
        }
        if let Some(frame) = alloc::allocate_at_once(shared) {
            return Ok(Frames::new(mapping, pages.start, vec![frame]));
        }
        fruitless = if look.has_ended() { 0 } else { fruitless + 1 };
        let has_dirty = dirty_pages::count(shared) > dirty_pages::count_sick(shared);
        let patience = match shared.awaited() {
            Awaited::Fills => PATIENCE,
            Awaited::Slow => SLOW_PATIENCE,
            Awaited::Nothing if has_dirty => SLOW_PATIENCE,
            Awaited::Nothing => 0,
        };
        // No time passes without a thread.
        if !may_sleep || fruitless > patience || patience == 0 {
            return Err(out_of_memory(shared));
        }
        if has_dirty {
            shared.flusher.notify_now();
        }
        if fruitless % STUCK_AFTER == STUCK_AFTER - 1 {
            shared.drive_stuck();
        }
    }
}
