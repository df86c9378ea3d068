//! The pin owners of a frame, by the line of code that took the reference. Needs the feature
//! `track`.
#![cfg(feature = "track")]

mod common;

use std::panic::Location;

use common::{Index, OURS, arena, assert_all_free, order};
use folio_frames::{
    Adjacent, FolioRef, FolioRefs, Lookup, MigrateError, OfflineError, Order, Slot, UserSpace,
    migrate, put_all,
};
use folio_ref::DefaultScheme;

const NO_PIN_OWNER: &str = "none except slots";

#[track_caller]
fn line() -> String {
    let at = Location::caller();
    format!("{}:{}:", at.file(), at.line())
}

#[test]
fn a_busy_folio_lists_its_pin_owners() {
    let arena = arena::<DefaultScheme>(2);
    let zone = arena.zone();
    let index = Index::new(1);
    let pfn = index.publish(zone, 0, Order::ZERO);
    assert_eq!(
        zone.pin_owners(pfn).to_string(),
        NO_PIN_OWNER,
        "the slot's reference is not listed"
    );
    let (by_walk, walk) = (zone.try_get(pfn).unwrap(), line());
    let Lookup::Hit(by_slot) = index.0[0].get(zone) else { panic!("the folio is in its slot") };
    let (clones, clone) = (vec![by_slot.clone(), by_slot.clone()], line());

    assert_eq!(migrate(zone, pfn, &index), Err(MigrateError::Busy));
    let listed = zone.pin_owners(pfn).to_string();
    assert!(listed.contains(&format!("1 from {walk}")), "{listed}");
    // Both clones are from one line, but from two columns.
    assert_eq!(listed.matches(&clone).count(), 2, "{listed}");
    drop((clones, by_slot));

    let block = ((pfn.as_u64() - zone.pfns().start.as_u64()) / 512) as usize;
    let Err(OfflineError::Busy { frames: 1, first }) = arena.offline(block, &index) else {
        panic!("the folio is pinned")
    };
    let listed = format!("{:?}", zone.pin_owners(first));
    assert!(
        listed.starts_with(&format!("1 from {walk}")) && listed.matches(".rs:").count() == 1,
        "{listed}"
    );
    drop(by_walk);
    let to = migrate(zone, pfn, &index).unwrap();
    assert_eq!(
        [zone.pin_owners(pfn), zone.pin_owners(to)].map(|pin_owners| pin_owners.to_string()),
        [NO_PIN_OWNER; 2]
    );
    index.remove(zone, 0);
    assert_all_free(zone);
}

/// Converts references in every way: no entry of the table is lost, and none stays.
#[test]
fn a_reference_is_listed_exactly_as_long_as_it_lives() {
    let arena = arena::<DefaultScheme>(1);
    let zone = arena.zone();
    let listed = || {
        let mut listed = 0;
        zone.pin_owners_of(zone.pfns()).for_each(|_, _, references| listed += references);
        listed
    };
    let folio = || zone.alloc(order(1), OURS, 0).unwrap();
    let many = |folio: FolioRef<UserSpace>| {
        let mut refs = FolioRefs::from(folio.clone());
        refs.join(folio).unwrap();
        refs
    };

    let refs = many(folio());
    assert_eq!(listed(), 2);
    let each: Vec<_> = refs.into_each().collect();
    assert_eq!(listed(), 2);
    drop(each);
    assert_eq!(listed(), 0);
    let frozen = many(folio()).freeze().unwrap();
    assert_eq!(listed(), 0);
    let refs = frozen.init_many(3);
    assert_eq!((listed(), zone.pin_owners(refs.pfn()).to_string().contains(file!())), (3, true));
    drop(refs);
    assert_eq!(listed(), 0);

    let busy = folio();
    let other = busy.clone();
    let busy = busy.freeze().expect_err("there is another reference");
    assert_eq!(listed(), 2);
    drop(other);
    busy.freeze().unwrap().free();
    folio().drop_expecting_last();
    put_all([folio(), folio()]);
    assert_eq!(listed(), 0);

    let mut pieces =
        zone.alloc_frozen(order(1)).unwrap().split(Order::ZERO).map(|piece| piece.init());
    let mut adjacent = Adjacent::from(pieces.next().unwrap());
    adjacent.join(pieces.next().unwrap()).unwrap();
    let clone = adjacent.clone();
    assert_eq!(listed(), 4);
    drop(adjacent);
    assert_eq!(listed(), 2);
    drop(clone);
    assert_eq!(listed(), 0);

    let slot = Slot::<UserSpace>::new();
    let pinned =
        slot.install(zone.alloc_frozen(Order::ZERO).unwrap()).unwrap().publish_and_get(zone);
    assert_eq!(listed(), 1);
    drop(slot.try_lock(zone).unwrap());
    let old = slot.try_lock(zone).unwrap().replace(zone.alloc_frozen(Order::ZERO).unwrap());
    assert_eq!(listed(), 2, "the slot's reference belongs to the caller now");
    let left = slot.try_lock(zone).unwrap().remove();
    assert_eq!(listed(), 3);
    drop((pinned, old, left));
    assert_eq!(listed(), 0);
    assert_all_free(zone);
}
