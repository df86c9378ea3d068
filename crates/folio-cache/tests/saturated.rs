//! A page with 2^30 references: its frame leaks, but its bytes are not lost.

mod common;

use std::mem;
use std::sync::Arc;

use folio_cache::testing::Memory;
use folio_cache::{CACHED, Cache};
use folio_frames::{FolioRefs, Pfn, Refusal};
use folio_ref::{MAX_AT_ONCE, SATURATED, Snapshot};

/// Saturates the reference count of each cached page that is `chosen` by its first byte. Returns
/// their frame numbers.
fn saturate(cache: &Cache, chosen: impl Fn(u8) -> bool) -> Vec<Pfn> {
    let zone = cache.frames().zone();
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

/// Returns `n` pages, each filled with its number, from 1.
fn pages(n: u8) -> Vec<u8> {
    (1..=n).flat_map(|page| [page; 4096]).collect()
}

#[test]
fn a_saturated_page_is_read_from_a_copy() {
    let cache: Cache = Cache::new(2 << 20).unwrap();
    let file = cache.open_backing(Arc::new(Memory::new(&pages(3)))).unwrap();
    file.read_at(&mut [0; 3 * 4096], 0).unwrap();
    let [pfn] = saturate(&cache, |byte| byte == 2)[..] else { panic!("one page is full of twos") };
    let before = file.page(0).unwrap().unwrap();
    let copy = file.page(4096).unwrap().expect("the file has three pages");
    assert!(copy.iter().all(|&byte| byte == 2));
    // The next reader finds the copy too.
    let again = file.page(4096).unwrap().unwrap();
    assert!(copy.as_ptr() == again.as_ptr());
    assert!(before.iter().all(|&byte| byte == 1));
    let seen = cache.frames().zone().peek(pfn);
    assert_eq!(seen.snapshot, Snapshot::Saturated);
    assert_eq!(cache.frames().zone().try_get(pfn).unwrap_err(), Refusal::Saturated);
}

/// A sync must neither skip a saturated page nor leave it unwritten if no read replaced it by a
/// copy.
#[test]
fn a_dirty_saturated_page_is_written_at_its_offset() {
    for saturated in [&[1_u8][..], &[2], &[4], &[2, 3], &[1, 2, 3, 4]] {
        let cache: Cache = Cache::new(2 << 20).unwrap();
        let memory = Arc::new(Memory::new(&[9; 4 * 4096]));
        let file = cache.open_backing(memory.clone()).unwrap();
        file.write_at(&pages(4), 0).unwrap();
        assert_eq!(saturate(&cache, |byte| saturated.contains(&byte)).len(), saturated.len());
        file.sync_data().unwrap();
        assert!(memory.durable() == pages(4), "with {saturated:?} saturated");
        assert!(
            cache.frames().zone().pfns().all(|pfn| !cache.frames().zone().peek(pfn).dirty),
            "with {saturated:?} saturated"
        );
        // The next write goes to the copies.
        file.write_at(&[7; 10], 2 * 4096 - 5).unwrap();
        file.sync_data().unwrap();
        let expected = [&pages(4)[..2 * 4096 - 5], &[7; 10], &pages(4)[2 * 4096 + 5..]].concat();
        assert!(memory.durable() == expected, "with {saturated:?} saturated");
    }
}
