//! A page with 2^30 references: its frame is leaked, its bytes are not.

mod common;

use std::mem;
use std::sync::Arc;

use folio_cache::{CACHED, Cache, Memory};
use folio_frames::{FolioRefs, Pfn, Refusal};
use folio_ref::{MAX_AT_ONCE, SATURATED, Snapshot};

/// Takes so many references on each page of the cache that are `chosen` by their first byte.
fn saturate(cache: &Cache, chosen: impl Fn(u8) -> bool) -> Vec<Pfn> {
    let zone = cache.zone();
    let cached = zone.pfns().filter(|&pfn| zone.peek(pfn).kind == CACHED);
    let pages =
        cached.filter_map(|pfn| zone.try_get(pfn).ok()).filter(|page| chosen(page.as_slice()[0]));
    pages
        .map(|page| {
            let pfn = page.pfn();
            let mut many = FolioRefs::from(page.clone());
            (1..MAX_AT_ONCE).for_each(|_| many.join(page.clone()).expect("the same folio"));
            (0..SATURATED / MAX_AT_ONCE).for_each(|_| mem::forget(many.clone()));
            pfn
        })
        .collect()
}

/// Each page is full of its number, from 1.
fn pages(n: u8) -> Vec<u8> {
    (1..=n).flat_map(|page| [page; 4096]).collect()
}

#[test]
fn a_saturated_page_is_read_from_a_copy() {
    let cache: Cache = Cache::new(2 << 20).unwrap();
    let file = cache.open_backing(Arc::new(Memory::new(&pages(3)))).unwrap();
    file.read_at(0, &mut [0; 3 * 4096]).unwrap();
    let [pfn] = saturate(&cache, |byte| byte == 2)[..] else { panic!("one page is full of twos") };
    let before = file.page(0).unwrap().unwrap();
    let copy = file.page(4096).unwrap().expect("the file is longer");
    assert!(copy.iter().all(|&byte| byte == 2));
    // The next one finds the copy too.
    let again = file.page(4096).unwrap().unwrap();
    assert!(copy.as_ptr() == again.as_ptr());
    assert!(before.iter().all(|&byte| byte == 1));
    let seen = cache.zone().peek(pfn);
    assert_eq!(seen.snapshot, Snapshot::Saturated);
    assert_eq!(cache.zone().try_get(pfn).unwrap_err(), Refusal::Saturated);
}

/// A sync skipped such a page, and said that all was durable; one that nobody read was never
/// written.
#[test]
fn a_saturated_page_that_is_dirty_is_written_where_it_belongs() {
    for which in [&[1_u8][..], &[2], &[4], &[2, 3], &[1, 2, 3, 4]] {
        let cache: Cache = Cache::new(2 << 20).unwrap();
        let memory = Arc::new(Memory::new(&[9; 4 * 4096]));
        let file = cache.open_backing(memory.clone()).unwrap();
        file.write_at(0, &pages(4)).unwrap();
        assert_eq!(saturate(&cache, |byte| which.contains(&byte)).len(), which.len());
        file.sync_data().unwrap();
        assert!(memory.durable() == pages(4), "with {which:?} saturated");
        assert!(
            cache.zone().pfns().all(|pfn| !cache.zone().peek(pfn).dirty),
            "with {which:?} saturated"
        );
        // And again, from then on in a copy.
        file.write_at(2 * 4096 - 5, &[7; 10]).unwrap();
        file.sync_data().unwrap();
        let expected = [&pages(4)[..2 * 4096 - 5], &[7; 10], &pages(4)[2 * 4096 + 5..]].concat();
        assert!(memory.durable() == expected, "with {which:?} saturated");
    }
}
