//! A zone, all that is allocated from it, and the model beside it.

mod evacuate;

use std::collections::BTreeMap;

use folio_frames::{
    AllocError, Arena, BLOCK_ORDER, Contig, ContigError, FolioRef, FrozenFolio, Lookup,
    MigrateError, MigrateType, Offline, OfflineError, Order, Pfn, PfnRange, Refusal, UserSpace,
    Zone, migrate,
};

use super::common::{Index, OURS, order};
use super::free_ranges::FreeRanges;

type P = UserSpace;

const BLOCKS: usize = 8;
const BLOCK: u64 = BLOCK_ORDER.frames() as u64;
const SLOTS: usize = 600;
/// 8 MiB, so that two of them fit.
const HUGE: u8 = 11;

/// A folio in a slot.
struct Page {
    start: u64,
    len: u64,
    /// References beside the slot's. While there is one, the page cannot move.
    pin_owners: Vec<FolioRef<P>>,
}

pub(crate) struct World {
    random: fastrand::Rng,
    arena: Arena<P>,
    zone: &'static Zone<P>,
    index: Index<P>,
    free: FreeRanges,
    handles: Vec<FrozenFolio<P>>,
    /// Each entry has all references to one folio that is in no slot.
    counted: Vec<Vec<FolioRef<P>>>,
    pages: Vec<Option<Page>>,
    contigs: Vec<Contig<P>>,
    offline: Vec<Offline<P>>,
    /// With more free frames than this, steps allocate more than they free.
    target: u64,
    done: BTreeMap<String, u64>,
}

fn place(pfn: Pfn, order: Order) -> (u64, u64) {
    (pfn.as_u64(), u64::from(order.frames()))
}

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        let huge = order(HUGE);
        let arena = Arena::<P>::with_huge_order(BLOCKS * BLOCK_ORDER.bytes(), &[], huge)
            .expect("memory for a test");
        let zone = arena.zone();
        let mut free = FreeRanges::default();
        free.insert(zone.pfns().start.as_u64(), zone.pfns().frames());
        Self {
            random: fastrand::Rng::with_seed(seed),
            arena,
            zone,
            index: Index::new(SLOTS),
            free,
            handles: Vec::new(),
            counted: Vec::new(),
            pages: (0..SLOTS).map(|_| None).collect(),
            contigs: Vec::new(),
            offline: Vec::new(),
            target: 0,
            done: BTreeMap::new(),
        }
    }

    /// Returns the number of times that each operation ran.
    pub(crate) fn done(&self) -> &BTreeMap<String, u64> {
        &self.done
    }

    fn did(&mut self, what: &str) {
        match self.done.get_mut(what) {
            Some(count) => *count += 1,
            None => drop(self.done.insert(what.to_owned(), 1)),
        }
    }

    pub(crate) fn compare_counts(&self) {
        let stats = self.zone.stats();
        assert_eq!(u64::from(stats.free_frames), self.free.frames(), "free frames");
        assert_eq!(
            stats.online_frames as usize,
            (BLOCKS - self.offline.len()) * BLOCK as usize,
            "online frames"
        );
    }

    /// Checks every frame and every slot against the model.
    pub(crate) fn audit(&self) {
        self.zone.assert_sound();
        for pfn in self.zone.pfns() {
            let seen = self.zone.try_get_head(pfn).err();
            assert_eq!(
                seen == Some(Refusal::Free),
                self.free.is_free(pfn.as_u64()),
                "{pfn:?}: {seen:?}"
            );
        }
        for slot in 0..SLOTS {
            self.check_page(slot);
        }
    }

    fn check_page(&self, slot: usize) {
        let Some(page) = &self.pages[slot] else { return assert!(self.index.0[slot].is_empty()) };
        let Lookup::Hit(folio) = self.index.0[slot].get(self.zone) else {
            panic!("{:?}", self.index.0[slot])
        };
        assert_eq!(
            (place(folio.pfn(), folio.order()), folio.owner_data()),
            ((page.start, page.len), slot as u64)
        );
        let bytes = folio.as_slice();
        assert!(
            [bytes[0], bytes[bytes.len() - 1]] == [slot as u8; 2],
            "slot {slot} lost its bytes"
        );
    }

    pub(crate) fn step(&mut self) {
        if self.random.u32(..5000) == 0 {
            self.target = self.random.u64(..self.zone.pfns().frames());
        }
        let wants_more = self.free.frames() > self.target;
        match self.random.u32(..1000) {
            n if n < 700 && (n % 4 > 0) == wants_more => self.allocate(),
            n if n < 700 => self.free_one(),
            n if n < 760 => self.pin_or_unpin(),
            n if n < 800 => self.walk(),
            n if n < 840 => self.split(),
            n if n < 950 => self.migrate(),
            n if n < 965 => self.offline_or_online(),
            n if n < 985 => self.contig(),
            n if n < 990 => self.compact(),
            n if n < 995 => self.refuse(),
            _ => {
                self.zone.drain();
                self.did("drain");
            }
        }
    }

    fn random_order(&mut self) -> Order {
        let largest = [0, 0, 1, 3, 4, 6, 9, 10, HUGE][self.random.usize(..9)];
        order(self.random.u8(..=largest))
    }

    fn random_pfn(&mut self) -> u64 {
        let all = self.zone.pfns();
        self.random.u64(all.start.as_u64()..all.end.as_u64())
    }

    fn allocate(&mut self) {
        let order = self.random_order();
        let migrate_type = [
            MigrateType::Movable,
            MigrateType::Movable,
            MigrateType::Reclaimable,
            MigrateType::Unmovable,
        ][self.random.usize(..4)];
        let mut folio = match self.zone.alloc_frozen_as(order, migrate_type) {
            Ok(folio) => folio,
            Err(error) => return self.has_failed(order, error),
        };
        let (start, len) = place(folio.pfn(), folio.order());
        assert!(folio.order() == order && start.is_multiple_of(len), "{folio:?}");
        self.free.remove(start, len);
        self.did("alloc");
        let slot = self.random.usize(..SLOTS);
        if migrate_type == MigrateType::Movable && self.pages[slot].is_none() {
            folio.set_owner(OURS, slot as u64);
            let bytes = folio.as_mut_slice();
            let last = bytes.len() - 1;
            (bytes[0], bytes[last]) = (slot as u8, slot as u8);
            self.index.0[slot].install(folio).expect("an empty slot").publish();
            self.pages[slot] = Some(Page { start, len, pin_owners: Vec::new() });
        } else if self.random.bool() {
            folio.set_owner(OURS, u64::MAX);
            self.counted.push(vec![folio.init()]);
        } else {
            self.handles.push(folio);
        }
    }

    fn has_failed(&mut self, order: Order, error: AllocError) {
        let frames = u64::from(order.frames());
        match error {
            AllocError::OutOfFrames => assert_eq!(self.free.frames(), 0),
            AllocError::Fragmented { largest } => {
                assert!(
                    largest < order && !self.free.has_aligned(frames),
                    "{order:?}: {error}, in {:?}",
                    self.free
                );
                assert!(self.free.has_aligned(u64::from(largest.frames())));
            }
            AllocError::Offline => assert_eq!(self.offline.len(), BLOCKS),
            AllocError::TooLarge { max } => assert!(order > max, "{error}"),
            error => panic!("{order:?}: {error}"),
        }
        self.did("alloc refused");
    }

    fn free_one(&mut self) {
        match self.random.u32(..4) {
            0 if !self.handles.is_empty() => {
                let handle = self.handles.swap_remove(self.random.usize(..self.handles.len()));
                let (start, len) = place(handle.pfn(), handle.order());
                handle.free();
                self.free.insert(start, len);
                self.did("free");
            }
            1 if !self.counted.is_empty() => {
                let which = self.random.usize(..self.counted.len());
                let folio = self.counted[which].pop().expect("entries are not empty");
                let (start, len) = place(folio.pfn(), folio.order());
                drop(folio);
                if self.counted[which].is_empty() {
                    self.counted.swap_remove(which);
                    self.free.insert(start, len);
                }
                self.did("put");
            }
            _ => {
                let slot = self.random.usize(..SLOTS);
                let Some(page) = self.pages[slot].take() else { return };
                self.index.remove(self.zone, slot);
                if page.pin_owners.is_empty() {
                    self.free.insert(page.start, page.len);
                } else {
                    self.counted.push(page.pin_owners);
                }
                self.did("remove from slot");
            }
        }
    }

    fn pin_or_unpin(&mut self) {
        let slot = self.random.usize(..SLOTS);
        if self.random.bool() && !self.counted.is_empty() {
            let which = self.random.usize(..self.counted.len());
            let another = self.counted[which][0].clone();
            self.counted[which].push(another);
            return self.did("clone");
        }
        let Some(page) = &mut self.pages[slot] else { return };
        if page.pin_owners.is_empty() && self.random.u32(..4) == 0 {
            let Lookup::Hit(folio) = self.index.0[slot].get(self.zone) else {
                panic!("{:?}", self.index.0[slot])
            };
            page.pin_owners.push(folio);
            self.did("get from slot");
        } else {
            page.pin_owners.pop();
        }
    }

    fn walk(&mut self) {
        let pfn = self.random_pfn();
        let got = self.zone.try_get_head(Pfn::new(pfn));
        let is_offline = self
            .offline
            .iter()
            .any(|block| self.zone.block_range(block.block()).any(|at| at.as_u64() == pfn));
        assert_eq!(matches!(got, Err(Refusal::Free)), self.free.is_free(pfn), "{pfn:#x}: {got:?}");
        assert_eq!(matches!(got, Err(Refusal::Offline)), is_offline, "{pfn:#x}: {got:?}");
        if let Ok(folio) = got {
            assert_eq!(folio.kind(), OURS, "{folio:?}");
        }
        self.did("walk");
    }

    fn split(&mut self) {
        if self.handles.is_empty() {
            return;
        }
        let which = self.random.usize(..self.handles.len());
        let order_now = self.handles[which].order();
        if self.random.bool() || order_now == Order::ZERO {
            let mut handle = self.handles.swap_remove(which);
            handle.set_owner(OURS, u64::MAX);
            self.counted.push(vec![handle.init()]);
            return self.did("init");
        }
        let handle = self.handles.swap_remove(which);
        let size = order(self.random.u8(order_now.as_u8().saturating_sub(3)..order_now.as_u8()));
        self.handles.extend(handle.split(size));
        self.did("split");
    }

    fn migrate(&mut self) {
        let slot = self.random.usize(..SLOTS);
        let Some(page) = &self.pages[slot] else { return };
        let pfn = Pfn::new(page.start);
        let (is_pinned, len) = (!page.pin_owners.is_empty(), page.len);
        match migrate(self.zone, pfn, &self.index) {
            Ok(_) => assert!(!is_pinned, "{pfn:?} was migrated while pinned"),
            Err(MigrateError::Busy) => assert!(is_pinned),
            Err(MigrateError::OutOfFrames) => assert!(!self.free.has_aligned(len)),
            Err(error) => panic!("{pfn:?}: {error}"),
        }
        self.follow_moves();
        self.did("migrate");
    }

    /// Updates the model after pages may have moved. Only unpinned pages may move.
    fn follow_moves(&mut self) {
        let mut moved = Vec::new();
        for (slot, page) in self.pages.iter_mut().enumerate() {
            let Some(page) = page else { continue };
            let now = self.index.0[slot].pfn(self.zone).expect("a page in its slot").as_u64();
            if now != page.start {
                assert!(page.pin_owners.is_empty(), "slot {slot} was migrated while pinned");
                self.free.insert(page.start, page.len);
                page.start = now;
                moved.push(slot);
            }
        }
        for &slot in &moved {
            let page = self.pages[slot].as_ref().expect("a slot with a page");
            self.free.remove(page.start, page.len);
        }
        for &slot in &moved {
            self.check_page(slot);
        }
    }

    /// Tries calls that must be refused. The caller compares the counts afterwards.
    fn refuse(&mut self) {
        let pfn = Pfn::new(self.random_pfn());
        let in_slot = self.pages.iter().flatten().any(|page| page.start == pfn.as_u64());
        if !in_slot {
            let error = migrate(self.zone, pfn, &self.index).unwrap_err();
            // `Moved`: a folio that was removed from its slot and is still pinned.
            assert!(
                matches!(error, MigrateError::NotMovable | MigrateError::Moved),
                "{pfn:?}: {error}"
            );
        }
        let outside = PfnRange { start: pfn, end: Pfn::new(u64::MAX) };
        assert_eq!(
            self.zone.alloc_contig_range(outside, &self.index).unwrap_err(),
            ContigError::Unknown
        );
        assert_eq!(self.arena.offline(BLOCKS, &self.index).unwrap_err(), OfflineError::NotOnline);
        self.did("refuse");
    }

    /// Frees everything and checks that no frame is lost.
    pub(crate) fn end(mut self) {
        for what in [
            "alloc",
            "alloc refused",
            "free",
            "put",
            "migrate",
            "offline",
            "online",
            "contig",
            "compact",
            "split",
        ] {
            assert!(
                self.done.get(what).is_some_and(|&count| count >= 100),
                "{what} ran fewer than 100 times: {:?}",
                self.done
            );
        }
        (0..SLOTS)
            .filter(|&slot| self.pages[slot].is_some())
            .for_each(|slot| self.index.remove(self.zone, slot));
        self.pages.clear();
        self.handles.drain(..).for_each(FrozenFolio::free);
        self.counted.clear();
        self.contigs.drain(..).for_each(Contig::free);
        for block in self.offline.drain(..) {
            self.arena.online(block);
        }
        super::common::assert_all_free(self.zone);
        assert_eq!(self.zone.stats().whole_blocks as usize, BLOCKS, "{:?}", self.zone);
    }
}
