//! The last close of a file without a name drops its dirty pages.

use folio_ref::testing::explore::{Search, deeper, explore, race};

use super::{RANDOM, WEAK, World, assert_nothing_leaked, read};

/// The last close races an open of the same file. The open reads what was written or what the
/// backing has, the whole page of one of them, and what it read once stays.
fn last_close_against_an_open(search: Search) {
    explore("the last close of an unlinked file against an open", search, || {
        let World { cache, backing, file } = World::new(1);
        assert_eq!(file.write_at(&[9; 4096], 0).unwrap(), 4096);
        backing.set_unlinked(true);
        let (opens, opened) = (cache.clone(), backing.clone());
        race(vec![
            Box::new(move || drop(file)),
            Box::new(move || {
                let file = opens.open_backing(opened).unwrap();
                let (read_bytes, bytes) = read::<4096>(&file, 0);
                assert_eq!(read_bytes, 4096);
                assert!(bytes == [1; 4096] || bytes == [9; 4096], "neither the old nor the new");
                assert_eq!(read::<4096>(&file, 0), (4096, bytes), "a page was lost while open");
            }),
        ]);
        assert_eq!(backing.contents(), [1; 4096], "a file without a name was written");
        assert_nothing_leaked(&cache);
    });
}

#[test]
fn an_open_racing_the_last_close_keeps_what_it_finds() {
    last_close_against_an_open(deeper(1));
    last_close_against_an_open(RANDOM);
    last_close_against_an_open(WEAK);
}
