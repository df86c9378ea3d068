//! The steps that the fuzzer combines, and their effect on zone and model.

use arbitrary::Arbitrary;
use folio_frames::{
    AllocError, Arena, BLOCK_ORDER, Kind, MAX_ORDER, MigrateError, MigrateType, Offline,
    OfflineError, Order, Owner, Pfn, Refusal, Slot, UserSpace, migrate,
};

use crate::model::{BLOCKS, Block, BlockState, FRAMES, Model};

const SLOTS: usize = 6;
const OURS: Kind = Kind::owner(0);

/// A step of the fuzzer. Numbers are taken modulo the number of choices.
#[derive(Arbitrary, Debug)]
pub(crate) enum Step {
    AllocFrozen {
        order: u8,
    },
    Alloc {
        order: u8,
    },
    /// Allocates into an empty slot.
    Fill {
        slot: u8,
        order: u8,
    },
    /// Opens a frozen block with one reference.
    Init {
        block: u8,
    },
    Clone {
        block: u8,
    },
    /// Drops a reference, or frees a frozen block.
    Drop {
        block: u8,
    },
    Split {
        block: u8,
        order: u8,
    },
    /// Looks up a slot and keeps the reference.
    Get {
        slot: u8,
    },
    /// Looks up a slot and drops the reference at once.
    GetAndDrop {
        slot: u8,
    },
    /// Takes the page lock, freezes the folio if it has no other reference, and publishes it again.
    Refreeze {
        slot: u8,
    },
    /// Takes the page lock, freezes the folio if it has no other reference, and removes it.
    Reclaim {
        slot: u8,
    },
    /// Empties a slot and keeps its reference.
    Remove {
        slot: u8,
    },
    /// Replaces the folio of a slot by another, even while references to it exist.
    Replace {
        slot: u8,
    },
    Migrate {
        frame: u16,
    },
    Offline {
        block: u8,
    },
    Online {
        which: u8,
    },
    Walk {
        frame: u16,
        head: bool,
        keep: bool,
    },
    SetReferenced {
        block: u8,
    },
    Drain,
}

struct Index(Vec<Slot<UserSpace>>);

impl Owner<UserSpace> for Index {
    fn with_slot(&self, _: Pfn, owner_data: u64, visit: &mut dyn FnMut(&Slot<UserSpace>)) -> bool {
        usize::try_from(owner_data).ok().and_then(|slot| self.0.get(slot)).map(visit).is_some()
    }
}

struct World {
    arena: Arena<UserSpace>,
    index: Index,
    model: Model,
    offline: Vec<Offline<UserSpace>>,
}

/// Runs the steps in order, compares after each, and frees everything at the end.
pub(crate) fn run(steps: &[Step]) {
    let arena = Arena::new(BLOCKS * BLOCK_ORDER.bytes(), &[]).expect("memory");
    let model = Model::new(arena.zone());
    let slots = (0..SLOTS).map(|_| Slot::new()).collect();
    let mut world = World { arena, index: Index(slots), model, offline: Vec::new() };
    for step in steps {
        world.step(step);
        world.model.compare();
    }
    world.model.compare_all();
    for slot in 0..SLOTS {
        world.remove(slot, false);
    }
    for offline in world.offline.drain(..) {
        world.model.offline[offline.block()] = false;
        world.arena.online(offline);
    }
    world.model.blocks.drain(..).for_each(Block::free);
    let zone = world.arena.zone();
    zone.drain();
    world.model.compare_all();
    // Three blocks of 2 MiB: the first two merge.
    let stats = zone.stats();
    assert_eq!(
        (stats.free_frames, stats.largest_free_order),
        (FRAMES, Some(MAX_ORDER)),
        "not merged: {zone:?}"
    );
}

fn order(n: u8) -> Order {
    // Small orders are requested more often.
    let n = if n < 128 { n % 4 } else { n % (MAX_ORDER.as_u8() + 1) };
    Order::new(n).expect("an order")
}

impl World {
    /// Allocates a block. If the allocation fails, asserts that it had to.
    fn alloc(&mut self, order: Order) -> Option<usize> {
        let zone = self.arena.zone();
        // The migrate type decides where a block lies, never that an allocation fails.
        let migrate_type = [MigrateType::Movable, MigrateType::Reclaimable, MigrateType::Unmovable]
            [self.model.blocks.len() % 3];
        let frozen = zone.alloc_frozen_as(order, migrate_type).or_else(|_| {
            // Draining merges the frames of the per-CPU lists. Afterwards every possible block
            // exists.
            zone.drain();
            zone.alloc_frozen_as(order, migrate_type)
        });
        match frozen {
            Ok(mut frozen) => {
                frozen.set_owner(OURS, u64::MAX);
                Some(self.model.add(frozen))
            }
            Err(error) => {
                assert!(
                    !self.model.could_hold(order),
                    "{error}, but there is room for {order:?}: {zone:?}"
                );
                let none = matches!(error, AllocError::OutOfFrames | AllocError::Offline);
                assert_eq!(none, self.model.free_frames() == 0, "{error}: {zone:?}");
                None
            }
        }
    }

    /// Returns the position of the block that is in a slot, if any.
    fn in_slot(&self, slot: usize) -> Option<usize> {
        self.model.blocks.iter().position(|block| block.slot == Some(slot))
    }

    fn install(&mut self, block: usize, slot: usize) {
        let BlockState::Frozen(mut frozen) =
            std::mem::replace(&mut self.model.blocks[block].state, BlockState::Shared(vec![]))
        else {
            unreachable!("it was just allocated")
        };
        frozen.set_owner(OURS, slot as u64);
        self.index.0[slot].install(frozen).expect("the slot is empty").publish();
        self.model.blocks[block].slot = Some(slot);
    }

    fn remove(&mut self, slot: usize, keep: bool) {
        let locked = self.index.0[slot].try_lock(self.arena.zone());
        let Some(at) = self.in_slot(slot) else {
            assert!(locked.is_none(), "the slot holds a folio that was never installed");
            return;
        };
        let folio = locked.expect("no other thread locks the slot").remove();
        let block = &mut self.model.blocks[at];
        assert_eq!(folio.pfn(), block.pfn);
        block.slot = None;
        let BlockState::Shared(references) = &mut block.state else {
            unreachable!("a slot's folio is shared")
        };
        references.push(folio);
        if !keep {
            self.model.drop_one(at);
        }
    }

    fn step(&mut self, step: &Step) {
        let zone = self.arena.zone();
        let count = self.model.blocks.len();
        let pick = |n: u8| (count > 0).then(|| usize::from(n) % count.max(1));
        match *step {
            Step::AllocFrozen { order: n } => {
                self.alloc(order(n));
            }
            Step::Alloc { order: n } => {
                if let Some(at) = self.alloc(order(n)) {
                    self.model.blocks[at].init();
                }
            }
            Step::Fill { slot, order: n } => {
                let slot = usize::from(slot) % SLOTS;
                if self.in_slot(slot).is_none()
                    && let Some(at) = self.alloc(order(n))
                {
                    self.install(at, slot);
                }
            }
            Step::Init { block } => {
                if let Some(at) = pick(block) {
                    self.model.blocks[at].init();
                }
            }
            Step::Clone { block } => {
                if let Some(BlockState::Shared(references)) =
                    pick(block).map(|at| &mut self.model.blocks[at].state)
                    && let Some(first) = references.first()
                {
                    references.push(first.clone());
                }
            }
            Step::Drop { block } => {
                if let Some(at) = pick(block) {
                    self.model.drop_one(at);
                }
            }
            Step::Split { block, order: n } => {
                if let Some(at) = pick(block) {
                    self.model.split(at, order(n));
                }
            }
            Step::Get { slot } => self.get(usize::from(slot) % SLOTS, true),
            Step::GetAndDrop { slot } => self.get(usize::from(slot) % SLOTS, false),
            Step::Refreeze { slot } => self.freeze(usize::from(slot) % SLOTS, false),
            Step::Reclaim { slot } => self.freeze(usize::from(slot) % SLOTS, true),
            Step::Remove { slot } => self.remove(usize::from(slot) % SLOTS, true),
            Step::Replace { slot } => self.replace(usize::from(slot) % SLOTS),
            Step::Migrate { frame } => {
                self.migrate(zone.pfns().start.as_u64() + u64::from(frame) % u64::from(FRAMES))
            }
            Step::Offline { block } => self.take_offline(usize::from(block) % BLOCKS),
            Step::Online { which } => {
                if !self.offline.is_empty() {
                    let offline = self.offline.swap_remove(usize::from(which) % self.offline.len());
                    self.model.offline[offline.block()] = false;
                    self.arena.online(offline);
                }
            }
            Step::Walk { frame, head, keep } => {
                let pfn =
                    Pfn::new(zone.pfns().start.as_u64() + u64::from(frame) % u64::from(FRAMES));
                self.walk(pfn, head, keep);
            }
            Step::SetReferenced { block } => {
                if let Some(BlockState::Shared(references)) =
                    pick(block).map(|at| &self.model.blocks[at].state)
                    && let Some(first) = references.first()
                {
                    first.set_referenced();
                    assert!(
                        zone.take_referenced(first.pfn()) && !zone.take_referenced(first.pfn())
                    );
                }
            }
            Step::Drain => {
                zone.drain();
            }
        }
    }

    fn get(&mut self, slot: usize, keep: bool) {
        let found = self.index.0[slot].get(self.arena.zone());
        match (found, self.in_slot(slot)) {
            (folio_frames::Lookup::Empty, None) => {}
            (folio_frames::Lookup::Hit(folio), Some(at)) => {
                let block = &mut self.model.blocks[at];
                assert_eq!((folio.pfn(), folio.owner_data()), (block.pfn, slot as u64));
                let BlockState::Shared(references) = &mut block.state else {
                    unreachable!("a slot's folio is shared")
                };
                if keep {
                    references.push(folio);
                }
            }
            (found, expected) => panic!("slot {slot}: {found:?} instead of {expected:?}"),
        }
    }

    fn freeze(&mut self, slot: usize, take: bool) {
        let Some(locked) = self.index.0[slot].try_lock(self.arena.zone()) else {
            assert_eq!(self.in_slot(slot), None, "no other thread locks the slot");
            return;
        };
        let at = self.in_slot(slot).expect("a locked slot has a folio");
        let block = &mut self.model.blocks[at];
        match locked.freeze() {
            Ok(frozen) => {
                assert_eq!(block.references(), 0, "frozen although references exist");
                if take {
                    block.state = BlockState::Frozen(frozen.remove());
                    block.slot = None;
                } else {
                    frozen.publish();
                }
            }
            Err(_) => assert!(block.references() > 0, "busy, but without references"),
        }
    }

    fn replace(&mut self, slot: usize) {
        let Some(old) = self.in_slot(slot) else { return };
        let Some(new) = self.alloc(self.model.blocks[old].order) else { return };
        let locked =
            self.index.0[slot].try_lock(self.arena.zone()).expect("no other thread locks the slot");
        let state = &mut self.model.blocks[new].state;
        let BlockState::Frozen(mut frozen) = std::mem::replace(state, BlockState::Shared(vec![]))
        else {
            unreachable!("it was just allocated")
        };
        frozen.set_owner(OURS, slot as u64);
        let reference = locked.replace(frozen);
        self.model.blocks[new].slot = Some(slot);
        let block = &mut self.model.blocks[old];
        block.slot = None;
        assert_eq!(reference.pfn(), block.pfn);
        let BlockState::Shared(references) = &mut block.state else {
            unreachable!("a slot's folio is shared")
        };
        references.push(reference);
    }

    fn migrate(&mut self, pfn: u64) {
        let pfn = Pfn::new(pfn);
        let result = migrate(self.arena.zone(), pfn, &self.index);
        let Some(at) = self.model.blocks.iter().position(|block| block.pfn == pfn) else {
            assert_eq!(result, Err(MigrateError::NotMovable), "{pfn:?} is not a head");
            return;
        };
        let block = &self.model.blocks[at];
        match result {
            Ok(target) => {
                assert!(
                    block.slot.is_some() && block.references() == 0,
                    "moved although references exist"
                );
                self.model.moved(at, target);
            }
            Err(MigrateError::NotMovable) => {
                assert!(block.owner_data() >= SLOTS as u64, "its slot exists")
            }
            // Its owner data names a slot that it has left.
            Err(MigrateError::Moved) => assert_eq!(block.slot, None),
            Err(MigrateError::Busy) => {
                assert!(block.references() > 0, "busy, but without references")
            }
            Err(MigrateError::OutOfFrames) => {
                // Migration cannot merge the frames of the per-CPU lists.
                let order = block.order;
                assert!(order > Order::ZERO || !self.model.could_hold(order), "there is room");
            }
            Err(error) => panic!("the model knows no such error: {error}"),
        }
    }

    fn take_offline(&mut self, number: usize) {
        match self.arena.offline(number, &self.index) {
            Ok(offline) => {
                assert!(!self.model.offline[number], "offline twice");
                self.model.offline[number] = true;
                // Each slot knows where its folio is now.
                for at in 0..self.model.blocks.len() {
                    let block = &self.model.blocks[at];
                    if !self.model.block_of(block.pfn).contains(&number) {
                        continue;
                    }
                    let slot = block.slot.expect("only a slot's folio can have been moved");
                    assert_eq!(block.references(), 0, "moved although references exist");
                    let target =
                        self.index.0[slot].pfn(self.arena.zone()).expect("the slot holds it");
                    self.model.moved(at, target);
                }
                self.offline.push(offline);
            }
            Err(error) => {
                // Some folios may have been moved before the error.
                for at in 0..self.model.blocks.len() {
                    if let Some(slot) = self.model.blocks[at].slot {
                        let target =
                            self.index.0[slot].pfn(self.arena.zone()).expect("the slot holds it");
                        if target != self.model.blocks[at].pfn {
                            assert_eq!(
                                self.model.blocks[at].references(),
                                0,
                                "moved although references exist"
                            );
                            self.model.moved(at, target);
                        }
                    }
                }
                match error {
                    OfflineError::NotOnline => assert!(self.model.offline[number]),
                    OfflineError::Busy { frames, first } => {
                        assert!(
                            self.model.blocks.iter().any(|block| block.contains(first)),
                            "{first:?} is free"
                        );
                        assert_eq!(frames, self.model.used_in(number), "frames in use");
                        assert!(frames > 0, "busy without a frame in use");
                    }
                    OfflineError::OutOfFrames => {
                        assert!(
                            self.model.used_in(number) > 0,
                            "out of frames, but nothing had to be moved"
                        );
                    }
                    error => panic!("the model knows no such error: {error}"),
                }
            }
        }
    }

    fn walk(&mut self, pfn: Pfn, head: bool, keep: bool) {
        let zone = self.arena.zone();
        let got = if head { zone.try_get_head(pfn) } else { zone.try_get(pfn) };
        let block = self.model.blocks.iter_mut().find(|block| block.contains(pfn));
        match (block, got) {
            (None, Err(Refusal::Offline)) => {
                assert!(self.model.is_offline(pfn), "{pfn:?} is online")
            }
            (None, Err(Refusal::Free)) => {
                assert!(!self.model.is_offline(pfn), "{pfn:?} is offline")
            }
            (Some(block), Err(Refusal::Tail)) => {
                assert!(!head && block.pfn != pfn, "{pfn:?} is a head")
            }
            (Some(block), Err(Refusal::Frozen)) => {
                assert!(
                    (head || block.pfn == pfn) && matches!(block.state, BlockState::Frozen(_)),
                    "{pfn:?} is open"
                );
            }
            (Some(block), Ok(folio)) => {
                assert!(head || block.pfn == pfn, "{pfn:?} is a tail (R1)");
                assert_eq!(folio.pfn(), block.pfn);
                let BlockState::Shared(references) = &mut block.state else {
                    panic!("{pfn:?} is frozen (R1)")
                };
                if keep {
                    references.push(folio);
                }
            }
            (block, got) => {
                panic!(
                    "{pfn:?}: {got:?}, though {}",
                    if block.is_some() { "in use" } else { "not in use" }
                )
            }
        }
    }
}
