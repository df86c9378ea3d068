//! The naive model: a list of the blocks in use with their states, and the set of blocks of 2 MiB
//! that are offline. All other frames are free.

use folio_frames::{BLOCK_ORDER, FRAME_SIZE, FolioRef, FrozenFolio, Order, Pfn, UserSpace, Zone};
use folio_ref::Snapshot;

/// Number of blocks of 2 MiB: two that can merge, and one that cannot.
pub(crate) const BLOCKS: usize = 3;
pub(crate) const FRAMES: u32 = BLOCKS as u32 * BLOCK_ORDER.frames();

/// The state of a block in use.
pub(crate) enum BlockState {
    /// Frozen, with its exclusive handle.
    Frozen(FrozenFolio<UserSpace>),
    /// Live, with the references outside its slot.
    Shared(Vec<FolioRef<UserSpace>>),
}

/// One block in use.
pub(crate) struct Block {
    pub(crate) pfn: Pfn,
    pub(crate) order: Order,
    pub(crate) state: BlockState,
    pub(crate) slot: Option<usize>,
    /// A number that is written into its first and its last frame.
    stamp: u64,
}

impl Block {
    /// Returns the number of references outside the slot.
    pub(crate) fn references(&self) -> usize {
        if let BlockState::Shared(references) = &self.state { references.len() } else { 0 }
    }

    pub(crate) fn contains(&self, pfn: Pfn) -> bool {
        pfn.as_u64()
            .checked_sub(self.pfn.as_u64())
            .is_some_and(|n| n < u64::from(self.order.frames()))
    }

    /// Opens a frozen block with one reference.
    pub(crate) fn init(&mut self) {
        if let BlockState::Frozen(_) = self.state {
            let BlockState::Frozen(frozen) =
                std::mem::replace(&mut self.state, BlockState::Shared(Vec::new()))
            else {
                return;
            };
            self.state = BlockState::Shared(vec![frozen.init()]);
        }
    }

    /// Frees a frozen block, or drops all references to a live one.
    pub(crate) fn free(self) {
        match self.state {
            BlockState::Frozen(frozen) => frozen.free(),
            BlockState::Shared(references) => drop(references),
        }
    }

    /// Returns the expected owner data.
    pub(crate) fn owner_data(&self) -> u64 {
        match &self.state {
            BlockState::Frozen(frozen) => frozen.owner_data(),
            BlockState::Shared(references) => references
                .first()
                .map_or_else(|| self.slot.map_or(u64::MAX, |n| n as u64), FolioRef::owner_data),
        }
    }

    /// Reads the stamps of the first and the last frame.
    fn stamps(bytes: &[u8]) -> (u64, u64) {
        let read =
            |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        (read(0), read(bytes.len() - FRAME_SIZE))
    }

    /// Writes the stamp into the first and the last frame.
    fn write(frozen: &mut FrozenFolio<UserSpace>, stamp: u64) {
        let bytes = frozen.as_mut_slice();
        let last = bytes.len() - FRAME_SIZE;
        bytes[..8].copy_from_slice(&stamp.to_le_bytes());
        bytes[last..last + 8].copy_from_slice(&stamp.to_le_bytes());
    }
}

/// The expected state of the zone.
pub(crate) struct Model {
    zone: &'static Zone<UserSpace>,
    pub(crate) blocks: Vec<Block>,
    pub(crate) offline: [bool; BLOCKS],
    next_stamp: u64,
}

impl Model {
    pub(crate) fn new(zone: &'static Zone<UserSpace>) -> Self {
        Self { zone, blocks: Vec::new(), offline: [false; BLOCKS], next_stamp: 1 }
    }

    fn index(&self, pfn: Pfn) -> u32 {
        u32::try_from(pfn.as_u64() - self.zone.pfns().start.as_u64()).expect("a frame of the zone")
    }

    /// Returns the blocks of 2 MiB that the block of frames at `pfn` lies in: one, or two for the
    /// largest order.
    pub(crate) fn block_of(&self, pfn: Pfn) -> std::ops::RangeInclusive<usize> {
        let frames = self
            .blocks
            .iter()
            .find(|block| block.pfn == pfn)
            .map_or(1, |block| block.order.frames());
        let per_block = BLOCK_ORDER.frames();
        let first = self.index(pfn);
        (first / per_block) as usize..=((first + frames - 1) / per_block) as usize
    }

    pub(crate) fn is_offline(&self, pfn: Pfn) -> bool {
        self.offline[(self.index(pfn) / BLOCK_ORDER.frames()) as usize]
    }

    /// Adds a block that was just allocated. Asserts that none of its frames is in use or offline.
    /// Returns its position in the list.
    pub(crate) fn add(&mut self, mut frozen: FrozenFolio<UserSpace>) -> usize {
        let (pfn, order) = (frozen.pfn(), frozen.order());
        self.assert_free(pfn, order, None);
        Block::write(&mut frozen, self.next_stamp);
        self.blocks.push(Block {
            pfn,
            order,
            state: BlockState::Frozen(frozen),
            slot: None,
            stamp: self.next_stamp,
        });
        self.next_stamp += 1;
        self.blocks.len() - 1
    }

    /// Asserts that all of a block is online and free, except for the frames of block `own`.
    fn assert_free(&self, pfn: Pfn, order: Order, own: Option<usize>) {
        let first = self.index(pfn);
        assert_eq!(first % order.frames(), 0, "{pfn:?} is not aligned to {order:?}");
        let end = first + order.frames();
        for (at, block) in self.blocks.iter().enumerate() {
            let (other, other_end) =
                (self.index(block.pfn), self.index(block.pfn) + block.order.frames());
            assert!(
                end <= other || other_end <= first || own == Some(at),
                "{pfn:?} of {order:?} overlaps {:?}",
                block.pfn
            );
        }
        for number in first / BLOCK_ORDER.frames()..=(end - 1) / BLOCK_ORDER.frames() {
            assert!(!self.offline[number as usize], "{pfn:?} of {order:?} is offline");
        }
    }

    /// Records that a block was moved, and asserts that its target was free.
    pub(crate) fn moved(&mut self, at: usize, target: Pfn) {
        self.assert_free(target, self.blocks[at].order, Some(at));
        self.blocks[at].pfn = target;
    }

    /// Drops one reference, or frees a frozen block.
    pub(crate) fn drop_one(&mut self, at: usize) {
        let block = &mut self.blocks[at];
        match &mut block.state {
            BlockState::Frozen(_) => self.blocks.swap_remove(at).free(),
            BlockState::Shared(references) => {
                references.pop();
                if references.is_empty() && block.slot.is_none() {
                    self.blocks.swap_remove(at);
                }
            }
        }
    }

    /// Splits a frozen block into blocks of `order`.
    pub(crate) fn split(&mut self, at: usize, order: Order) {
        if !matches!(self.blocks[at].state, BlockState::Frozen(_)) || self.blocks[at].order < order
        {
            return;
        }
        let BlockState::Frozen(frozen) = self.blocks.swap_remove(at).state else { return };
        let (mut next, frames) = (frozen.pfn().as_u64(), u64::from(order.frames()));
        for mut piece in frozen.split(order) {
            assert_eq!(
                (piece.pfn().as_u64(), piece.order()),
                (next, order),
                "the pieces of a split are not adjacent"
            );
            next += frames;
            Block::write(&mut piece, self.next_stamp);
            let stamp = self.next_stamp;
            self.blocks.push(Block {
                pfn: piece.pfn(),
                order,
                state: BlockState::Frozen(piece),
                slot: None,
                stamp,
            });
            self.next_stamp += 1;
        }
    }

    /// Returns for each frame `true` if it is in use.
    fn used(&self) -> [bool; FRAMES as usize] {
        let mut used = [false; FRAMES as usize];
        for block in &self.blocks {
            let first = self.index(block.pfn) as usize;
            used[first..first + block.order.frames() as usize].fill(true);
        }
        used
    }

    /// Returns the number of frames in use in one block of 2 MiB.
    pub(crate) fn used_in(&self, number: usize) -> u32 {
        let per_block = BLOCK_ORDER.frames() as usize;
        self.used()[number * per_block..][..per_block].iter().map(|&used| u32::from(used)).sum()
    }

    /// Returns the number of frames that are free and online.
    pub(crate) fn free_frames(&self) -> u32 {
        let offline =
            self.offline.iter().filter(|&&offline| offline).count() as u32 * BLOCK_ORDER.frames();
        FRAMES - offline - self.blocks.iter().map(|block| block.order.frames()).sum::<u32>()
    }

    /// Returns `true` if an aligned block of `order` is free and online.
    pub(crate) fn could_hold(&self, order: Order) -> bool {
        let mut used = self.used();
        for (number, _) in self.offline.iter().enumerate().filter(|(_, offline)| **offline) {
            used[number * BLOCK_ORDER.frames() as usize..][..BLOCK_ORDER.frames() as usize]
                .fill(true);
        }
        used.chunks_exact(order.frames() as usize).any(|frames| frames.iter().all(|&used| !used))
    }

    /// Compares the blocks in use and the number of free frames. Fast, called after every step.
    pub(crate) fn compare(&self) {
        let stats = self.zone.stats();
        assert_eq!(stats.free_frames, self.free_frames(), "free frames: {:?}", self.zone);
        for block in &self.blocks {
            let seen = self.zone.peek(block.pfn);
            assert_eq!(seen.order, block.order);
            let count = block.references() + usize::from(block.slot.is_some());
            match &block.state {
                BlockState::Frozen(frozen) => {
                    assert!(seen.snapshot.is_frozen(), "{seen:?}");
                    assert_eq!(
                        Block::stamps(frozen.as_slice()),
                        (block.stamp, block.stamp),
                        "overwritten"
                    );
                }
                BlockState::Shared(references) => {
                    assert_eq!(seen.snapshot, Snapshot::Live(count as u32), "reference count");
                    if let Some(reference) = references.first() {
                        assert_eq!(reference.pfn(), block.pfn);
                        assert_eq!(
                            Block::stamps(reference.as_slice()),
                            (block.stamp, block.stamp),
                            "overwritten"
                        );
                    }
                }
            }
        }
    }

    /// Compares every frame: all except live heads are frozen.
    pub(crate) fn compare_all(&self) {
        self.compare();
        for pfn in self.zone.pfns() {
            let live = self
                .blocks
                .iter()
                .any(|block| block.pfn == pfn && matches!(block.state, BlockState::Shared(_)));
            let seen = self.zone.peek(pfn);
            assert_eq!(seen.snapshot.is_frozen(), !live, "{pfn:?} is {seen:?} (R1)");
        }
    }
}
