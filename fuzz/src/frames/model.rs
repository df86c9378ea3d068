//! The naive model: a list of blocks in use with their holders, and which blocks of 2 MiB are
//! offline. Everything else is free.

use folio_frames::{BLOCK_ORDER, FRAME_SIZE, FolioRef, FrozenFolio, Order, Pfn, UserSpace, Zone};
use folio_ref::Snapshot;

/// Blocks of 2 MiB: two that can merge, and one that can not.
pub(crate) const BLOCKS: usize = 3;
pub(crate) const FRAMES: u32 = BLOCKS as u32 * BLOCK_ORDER.frames();

/// Who has a block.
pub(crate) enum Holder {
    Frozen(FrozenFolio<UserSpace>),
    /// References outside its slot.
    Shared(Vec<FolioRef<UserSpace>>),
}

/// One block in use.
pub(crate) struct Block {
    pub(crate) pfn: Pfn,
    pub(crate) order: Order,
    pub(crate) holder: Holder,
    pub(crate) slot: Option<usize>,
    /// What is written into its first frame and its last.
    change_token: u64,
}

impl Block {
    pub(crate) fn references(&self) -> usize {
        if let Holder::Shared(references) = &self.holder { references.len() } else { 0 }
    }

    pub(crate) fn contains(&self, pfn: Pfn) -> bool {
        pfn.as_u64()
            .checked_sub(self.pfn.as_u64())
            .is_some_and(|n| n < u64::from(self.order.frames()))
    }

    pub(crate) fn open(&mut self) {
        if let Holder::Frozen(_) = self.holder {
            let Holder::Frozen(token) =
                std::mem::replace(&mut self.holder, Holder::Shared(Vec::new()))
            else {
                return;
            };
            self.holder = Holder::Shared(vec![token.init()]);
        }
    }

    pub(crate) fn restore(self) {
        match self.holder {
            Holder::Frozen(token) => token.free(),
            Holder::Shared(references) => drop(references),
        }
    }

    /// What its owner noted.
    pub(crate) fn owner_data(&self) -> u64 {
        match &self.holder {
            Holder::Frozen(token) => token.owner_data(),
            Holder::Shared(references) => references
                .first()
                .map_or_else(|| self.slot.map_or(u64::MAX, |n| n as u64), FolioRef::owner_data),
        }
    }

    fn change_tokens(bytes: &[u8]) -> (u64, u64) {
        let read =
            |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        (read(0), read(bytes.len() - FRAME_SIZE))
    }

    fn write(token: &mut FrozenFolio<UserSpace>, change_token: u64) {
        let bytes = token.as_mut_slice();
        let last = bytes.len() - FRAME_SIZE;
        bytes[..8].copy_from_slice(&change_token.to_le_bytes());
        bytes[last..last + 8].copy_from_slice(&change_token.to_le_bytes());
    }
}

/// The zone as it should be.
pub(crate) struct Model {
    zone: &'static Zone<UserSpace>,
    pub(crate) blocks: Vec<Block>,
    pub(crate) offline: [bool; BLOCKS],
    next_change_token: u64,
}

impl Model {
    pub(crate) fn new(zone: &'static Zone<UserSpace>) -> Self {
        Self { zone, blocks: Vec::new(), offline: [false; BLOCKS], next_change_token: 1 }
    }

    fn index(&self, pfn: Pfn) -> u32 {
        u32::try_from(pfn.as_u64() - self.zone.pfns().start.as_u64()).expect("a frame of the zone")
    }

    /// The blocks of 2 MiB that a block of frames from here on lies in: the first, and for the
    /// largest order the next.
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

    /// A block that was just allocated: nobody else may have any of it.
    pub(crate) fn add(&mut self, mut token: FrozenFolio<UserSpace>) -> usize {
        let (pfn, order) = (token.pfn(), token.order());
        self.assert_free(pfn, order, None);
        Block::write(&mut token, self.next_change_token);
        self.blocks.push(Block {
            pfn,
            order,
            holder: Holder::Frozen(token),
            slot: None,
            change_token: self.next_change_token,
        });
        self.next_change_token += 1;
        self.blocks.len() - 1
    }

    /// All of it is free and online, but for what block `own` has.
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

    pub(crate) fn moved(&mut self, at: usize, target: Pfn) {
        self.assert_free(target, self.blocks[at].order, Some(at));
        self.blocks[at].pfn = target;
    }

    /// Drops one reference, or frees a frozen block.
    pub(crate) fn drop_one(&mut self, at: usize) {
        let block = &mut self.blocks[at];
        match &mut block.holder {
            Holder::Frozen(_) => self.blocks.swap_remove(at).restore(),
            Holder::Shared(references) => {
                references.pop();
                if references.is_empty() && block.slot.is_none() {
                    self.blocks.swap_remove(at);
                }
            }
        }
    }

    pub(crate) fn split(&mut self, at: usize, order: Order) {
        if !matches!(self.blocks[at].holder, Holder::Frozen(_)) || self.blocks[at].order < order {
            return;
        }
        let Holder::Frozen(token) = self.blocks.swap_remove(at).holder else { return };
        let (mut next, frames) = (token.pfn().as_u64(), u64::from(order.frames()));
        for mut part in token.split(order) {
            assert_eq!(
                (part.pfn().as_u64(), part.order()),
                (next, order),
                "parts lie one after the other"
            );
            next += frames;
            Block::write(&mut part, self.next_change_token);
            let change_token = self.next_change_token;
            self.blocks.push(Block {
                pfn: part.pfn(),
                order,
                holder: Holder::Frozen(part),
                slot: None,
                change_token,
            });
            self.next_change_token += 1;
        }
    }

    fn used(&self) -> [bool; FRAMES as usize] {
        let mut used = [false; FRAMES as usize];
        for block in &self.blocks {
            let first = self.index(block.pfn) as usize;
            used[first..first + block.order.frames() as usize].fill(true);
        }
        used
    }

    /// Frames in use in one block of 2 MiB.
    pub(crate) fn used_in(&self, number: usize) -> u32 {
        let per_block = BLOCK_ORDER.frames() as usize;
        self.used()[number * per_block..][..per_block].iter().map(|&used| u32::from(used)).sum()
    }

    pub(crate) fn free_frames(&self) -> u32 {
        let offline =
            self.offline.iter().filter(|&&offline| offline).count() as u32 * BLOCK_ORDER.frames();
        FRAMES - offline - self.blocks.iter().map(|block| block.order.frames()).sum::<u32>()
    }

    /// Whether an aligned run of frames is free and online.
    pub(crate) fn could_hold(&self, order: Order) -> bool {
        let mut used = self.used();
        for (number, _) in self.offline.iter().enumerate().filter(|(_, offline)| **offline) {
            used[number * BLOCK_ORDER.frames() as usize..][..BLOCK_ORDER.frames() as usize]
                .fill(true);
        }
        used.chunks_exact(order.frames() as usize).any(|run| run.iter().all(|&used| !used))
    }

    /// What is quickly compared, after every step.
    pub(crate) fn compare(&self) {
        let stats = self.zone.stats();
        assert_eq!(stats.free_frames, self.free_frames(), "free frames: {:?}", self.zone);
        for block in &self.blocks {
            let seen = self.zone.peek(block.pfn);
            assert_eq!(seen.order, block.order);
            let count = block.references() + usize::from(block.slot.is_some());
            match &block.holder {
                Holder::Frozen(token) => {
                    assert!(seen.snapshot.is_frozen(), "{seen:?}");
                    assert_eq!(
                        Block::change_tokens(token.as_slice()),
                        (block.change_token, block.change_token),
                        "overwritten"
                    );
                }
                Holder::Shared(references) => {
                    assert_eq!(seen.snapshot, Snapshot::Live(count as u32), "its count");
                    if let Some(reference) = references.first() {
                        assert_eq!(reference.pfn(), block.pfn);
                        assert_eq!(
                            Block::change_tokens(reference.as_slice()),
                            (block.change_token, block.change_token),
                            "overwritten"
                        );
                    }
                }
            }
        }
    }

    /// Every frame: who is not a live head is frozen.
    pub(crate) fn compare_all(&self) {
        self.compare();
        for pfn in self.zone.pfns() {
            let live = self
                .blocks
                .iter()
                .any(|block| block.pfn == pfn && matches!(block.holder, Holder::Shared(_)));
            let seen = self.zone.peek(pfn);
            assert_eq!(seen.snapshot.is_frozen(), !live, "{pfn:?} is {seen:?} (R1)");
        }
    }
}
