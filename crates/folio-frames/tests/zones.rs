//! Several zones: one index over pages of all, lookups by frame number and by slot, and migration
//! from one zone to another.

mod common;

use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use common::{Index, OURS, assert_all_free, order, zone_at};
use folio_frames::{
    FolioRefs, Lookup, MigrateError, Order, Owner, Pfn, Refusal, Slot, UserSpace, Zone,
    ZoneRefused, Zones, migrate, migrate_to,
};

type Space = UserSpace;

fn insert_all(zones: &Zones<Space>, all: &[&'static Zone<Space>]) {
    for zone in all {
        zones.insert(zone).expect("room in the table, and blocks of its own");
    }
}

#[test]
fn a_frame_number_leads_to_its_zone() {
    let zones = Zones::<Space, 3>::new();
    assert_eq!(zones.of(Pfn::new(0)).map(|_| ()), None);
    let all = [zone_at(0, 2), zone_at(0x400, 1), zone_at(0x1000, 1)];
    for zone in all {
        assert_eq!(zones.insert(zone), Ok(()));
        assert_eq!(zones.insert(zone), Err(ZoneRefused::Overlaps));
    }
    assert_eq!(zones.insert(zone_at(0x400, 2)), Err(ZoneRefused::Overlaps));
    assert_eq!(zones.insert(zone_at(0x2000, 1)), Err(ZoneRefused::Full));
    let of = |pfn| {
        let zone = zones.of(Pfn::new(pfn))?;
        all.iter().position(|&one| ptr::eq(one, zone))
    };
    let found = [0, 0x3ff, 0x400, 0x5ff, 0x600, 0xfff, 0x1000, 0x11ff, 0x1200].map(of);
    assert_eq!(found, [Some(0), Some(0), Some(1), Some(1), None, None, Some(2), Some(2), None]);
    let folio = all[1].alloc(Order::ZERO, OURS, 0).unwrap();
    assert_eq!(zones.try_get(folio.pfn()).unwrap().pfn(), folio.pfn());
    assert_eq!(zones.try_get(Pfn::new(0x600)).err(), Some(Refusal::Offline));
}

#[test]
fn one_index_has_pages_of_all_zones() {
    let zones = Zones::<Space>::new();
    let all = [zone_at(0, 1), zone_at(0x400, 1), zone_at(0x800, 1)];
    insert_all(&zones, &all);
    let index = Index::new(9);
    for slot in 0..9 {
        index.publish(all[slot % 3], slot, order((slot / 3) as u8));
    }
    for (n, slot) in index.0.iter().enumerate() {
        let Lookup::Hit(folio) = zones.get(slot) else { panic!("slot {n} has a folio") };
        assert!(ptr::eq(folio.zone(), all[n % 3]));
        assert_eq!((folio.as_slice()[0], folio.owner_data()), (n as u8, n as u64));
        let (zone, pfn) = zones.find(slot).unwrap();
        assert_eq!((ptr::eq(zone, all[n % 3]), pfn), (true, folio.pfn()));
        drop(folio);
        let locked = zones.try_lock(slot).unwrap();
        assert!(zones.try_lock(slot).is_none(), "the page lock has one holder");
        drop(locked.remove());
        assert!(matches!(zones.get(slot), Lookup::Empty));
        assert!(zones.find(slot).is_none() && zones.try_lock(slot).is_none());
    }
    all.into_iter().for_each(assert_all_free);
}

#[test]
#[should_panic(expected = "of a zone that is not in the table")]
fn a_folio_of_a_zone_outside_the_table_is_reported() {
    let zones = Zones::<Space>::new();
    zones.insert(zone_at(0, 1)).unwrap();
    let index = Index::new(1);
    index.publish(zone_at(0x400, 1), 0, Order::ZERO);
    let _ = zones.get(&index.0[0]);
}

#[test]
fn a_folio_moves_to_another_zone_and_back() {
    let (dma, normal) = (zone_at::<Space>(0, 1), zone_at(0x1000, 1));
    let zones = Zones::<Space>::new();
    insert_all(&zones, &[dma, normal]);
    let index = Index::new(4);
    let from = index.publish(dma, 3, order(2));
    let to = migrate_to(dma, from, &index, normal).unwrap();
    assert!(normal.pfns().any(|pfn| pfn == to));
    assert_eq!(dma.stats().free_frames, dma.stats().online_frames);
    assert_eq!(dma.try_get(from).err(), Some(Refusal::Free));
    assert_eq!(migrate_to(dma, from, &index, normal), Err(MigrateError::NotMovable));
    let Lookup::Hit(folio) = zones.get(&index.0[3]) else { panic!("it moved with its slot") };
    assert_eq!((folio.order(), folio.as_slice()), (order(2), &[3; 4 * 4096][..]));
    assert_eq!(migrate_to(normal, to, &index, dma), Err(MigrateError::Busy), "it is pinned");
    drop(folio);
    let back = migrate_to(normal, to, &index, dma).unwrap();
    assert!(ptr::eq(zones.find(&index.0[3]).unwrap().0, dma));
    assert!(migrate(dma, back, &index).is_ok());

    // A zone that is full takes nothing.
    let all: Vec<_> = std::iter::from_fn(|| normal.alloc_frozen(Order::ZERO).ok()).collect();
    let (zone, pfn) = zones.find(&index.0[3]).unwrap();
    assert_eq!(migrate_to(zone, pfn, &index, normal), Err(MigrateError::OutOfFrames));
    all.into_iter().for_each(folio_frames::FrozenFolio::free);
    drop(zones.try_lock(&index.0[3]).unwrap().remove());
    [dma, normal].into_iter().for_each(assert_all_free);
}

/// An owner of a folio that is in no slot: it lends its references.
struct Lender(std::sync::Mutex<Option<FolioRefs<Space>>>);

impl Owner<Space> for Lender {
    fn with_slot(&self, _: Pfn, _: u64, _: &mut dyn FnMut(&Slot<Space>)) -> bool {
        false
    }
    fn lend(&self, _: Pfn, _: u64) -> Option<FolioRefs<Space>> {
        self.0.lock().unwrap().take()
    }
    fn take_back(&self, _: u64, refs: FolioRefs<Space>) {
        *self.0.lock().unwrap() = Some(refs);
    }
}

#[test]
fn lent_references_move_to_another_zone() {
    let (dma, normal) = (zone_at::<Space>(0, 1), zone_at(0x1000, 1));
    let mut folio = dma.alloc_frozen(order(1)).unwrap();
    folio.set_owner(OURS, 5);
    folio.as_mut_slice().fill(5);
    let from = folio.pfn();
    let owner = Lender(std::sync::Mutex::new(Some(folio.init_many(3))));
    let to = migrate_to(dma, from, &owner, normal).unwrap();
    assert_all_free(dma);
    let refs = owner.0.lock().unwrap().take().expect("taken back");
    assert_eq!((refs.pfn(), refs.count()), (to, 3));
    assert!(ptr::eq(refs.zone(), normal));
    drop(refs);
    assert_all_free(normal);
}

#[test]
fn readers_find_pages_that_move_between_zones() {
    const PAGES: usize = 16;
    let zones = Zones::<Space>::new();
    let all = [zone_at::<Space>(0, 1), zone_at(0x400, 1)];
    insert_all(&zones, &all);
    let index = Index::new(PAGES);
    (0..PAGES).for_each(|slot| {
        index.publish(all[slot % 2], slot, order((slot % 3) as u8));
    });
    let (is_over, moved) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        let readers: [_; 2] = std::array::from_fn(|n| {
            let (zones, index, is_over) = (&zones, &index, &is_over);
            scope.spawn(move || {
                let mut hits = 0;
                let mut slot = n;
                while !is_over.load(Ordering::Relaxed) || hits < 1000 {
                    slot = (slot * 5 + 1) % PAGES;
                    match zones.get(&index.0[slot]) {
                        Lookup::Hit(folio) => {
                            assert_eq!(folio.owner_data(), slot as u64, "another slot's (R8)");
                            assert!(folio.as_slice().iter().all(|&byte| byte == slot as u8));
                            hits += 1;
                        }
                        Lookup::InProgress => index.0[slot].wait(),
                        Lookup::Moved => {}
                        lookup => panic!("{lookup:?}"),
                    }
                }
            })
        });
        for round in 0..4000 {
            let (zone, pfn) = zones.find(&index.0[round % PAGES]).expect("no slot is empty");
            let to = all[usize::from(ptr::eq(zone, all[0]))];
            moved.fetch_add(
                usize::from(migrate_to(zone, pfn, &index, to).is_ok()),
                Ordering::Relaxed,
            );
        }
        is_over.store(true, Ordering::Relaxed);
        for reader in readers {
            reader.join().unwrap();
        }
    });
    assert!(moved.into_inner() > 100, "few pages moved");
    index.0.iter().for_each(|slot| drop(zones.try_lock(slot).unwrap().remove()));
    all.into_iter().for_each(assert_all_free);
}
