//! Steps that evacuate ranges of frames: offline, contiguous allocation, compaction.

use folio_frames::{ContigError, OfflineError, Pfn, PfnRange};

use super::{BLOCK, BLOCKS, Page, World, order};

impl World {
    /// Returns the number of frames in `start..end` that cannot move: all frames in use, except
    /// those of unpinned pages.
    fn immovable(&self, start: u64, end: u64) -> u64 {
        let moves = self.pages.iter().flatten().filter(|page| page.pin_owners.is_empty());
        let overlap =
            |page: &Page| (page.start + page.len).min(end).saturating_sub(page.start.max(start));
        end - start - self.free.within(start, end) - moves.map(overlap).sum::<u64>()
    }

    pub(super) fn offline_or_online(&mut self) {
        if !self.offline.is_empty() && (self.offline.len() > 2 || self.random.u32(..3) == 0) {
            let offline = self.offline.swap_remove(self.random.usize(..self.offline.len()));
            let start = self.zone.block_range(offline.block()).start.as_u64();
            self.arena.online(offline);
            self.free.insert(start, BLOCK);
            return self.did("online");
        }
        let block = self.random.usize(..BLOCKS);
        let start = self.zone.block_range(block).start.as_u64();
        let immovable = self.immovable(start, start + BLOCK);
        let was_offline = self.offline.iter().any(|offline| offline.block() == block);
        let result = self.arena.offline(block, &self.index);
        self.follow_moves();
        match result {
            Ok(offline) => {
                assert!(
                    immovable == 0 && !was_offline,
                    "block {block} went offline with {immovable} frames that cannot move"
                );
                self.free.remove(start, BLOCK);
                self.offline.push(offline);
                self.did("offline");
            }
            Err(OfflineError::NotOnline) => assert!(was_offline),
            Err(OfflineError::Busy { frames, first }) => {
                assert!(
                    frames > 0 && immovable > 0 && !was_offline,
                    "block {block}: {frames} busy, {immovable} cannot move"
                );
                assert!(
                    (start..start + BLOCK).contains(&first.as_u64())
                        && !self.free.is_free(first.as_u64())
                );
                self.did("offline refused: busy");
            }
            Err(OfflineError::OutOfFrames) => self.did("offline refused: no room"),
            Err(error) => panic!("block {block}: {error}"),
        }
    }

    pub(super) fn contig(&mut self) {
        if !self.contigs.is_empty() && (self.contigs.len() > 3 || self.random.bool()) {
            let contig = self.contigs.swap_remove(self.random.usize(..self.contigs.len()));
            let range = contig.pfns();
            if self.random.bool() {
                contig.free();
                self.free.insert(range.start.as_u64(), range.frames());
            } else {
                self.handles.extend(contig.into_folios());
            }
            return self.did("contig free");
        }
        let frames = self.random.u64(1..=700);
        let (result, asked) = if self.random.bool() {
            let align = order(self.random.u8(..=9));
            (self.zone.alloc_contig(frames as u32, align, &self.index), None)
        } else {
            let start = self.random_pfn();
            let range = PfnRange { start: Pfn::new(start), end: Pfn::new(start + frames) };
            let immovable = if start + frames <= self.zone.pfns().end.as_u64() {
                self.immovable(start, start + frames)
            } else {
                0
            };
            (self.zone.alloc_contig_range(range, &self.index), Some((start, immovable)))
        };
        self.follow_moves();
        match result {
            Ok(contig) => {
                let range = contig.pfns();
                assert!(asked.is_none_or(
                    |(start, immovable)| range.start.as_u64() == start && immovable == 0
                ));
                self.free.remove(range.start.as_u64(), range.frames());
                self.contigs.push(contig);
                self.did("contig");
            }
            Err(ContigError::Busy { frames, first }) => {
                assert!(frames > 0 && !self.free.is_free(first.as_u64()));
                assert!(
                    asked.is_none_or(|(_, immovable)| immovable > 0),
                    "{frames} busy from {first:?}, all can move"
                );
                self.did("contig refused: busy");
            }
            Err(ContigError::OutOfFrames | ContigError::NoPlace) => {
                self.did("contig refused: no room");
            }
            Err(ContigError::NotOnline) => assert!(!self.offline.is_empty()),
            Err(ContigError::Unknown) => {
                assert!(
                    asked.is_some_and(|(start, _)| start + frames > self.zone.pfns().end.as_u64())
                );
            }
            Err(error) => panic!("{frames} frames: {error}"),
        }
    }

    pub(super) fn compact(&mut self) {
        self.zone.drain();
        let before = self.zone.stats().whole_blocks;
        let done = self.zone.compact(self.random.u32(1..=4), &self.index);
        self.zone.drain();
        let after = self.zone.stats().whole_blocks;
        assert_eq!(after, before + done.emptied, "{done:?}");
        self.follow_moves();
        self.did("compact");
    }
}
