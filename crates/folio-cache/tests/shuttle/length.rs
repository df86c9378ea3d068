//! Changes of a file's length, by the cache and by other programs, under the schedules of shuttle.

use folio_frames::FRAME_SIZE;
use folio_ref::testing::explore::{Search, deeper, explore, race};

use crate::{LAST, RANDOM, WEAK, World, read};

/// The last page is read while the file is truncated before it. The reader gets the page or the end
/// of the file, and nothing of the page is left when the file is long again.
///
/// A truncate must publish the file's new length before the backing's. Otherwise a fill between the
/// two takes the missing page for a dirty one, and its reader gets zeroes that no file ever held.
fn truncate_against_fill(search: Search) {
    explore("a truncate against a fill", search, || {
        let world = World::at(LAST, &[2; FRAME_SIZE]);
        race(vec![
            world.thread(|file| {
                let (n, bytes) = read::<2048>(file, LAST);
                assert!(n == 0 || n == 2048 && bytes == [2; 2048], "{n} bytes: {:?}", &bytes[..8]);
            }),
            world.thread(|file| file.set_len(LAST).unwrap()),
        ]);
        assert_eq!(world.file.len(), LAST);
        world.file.set_len(LAST + FRAME_SIZE as u64).unwrap();
        assert_eq!(read::<64>(&world.file, LAST), (64, [0; 64]), "bytes from before the truncate");
        world.end();
    });
}

#[test]
fn a_truncated_page_does_not_come_back() {
    truncate_against_fill(deeper(2));
    truncate_against_fill(RANDOM);
    truncate_against_fill(WEAK);
}

/// A page is missed and pinned while the file is truncated in its middle. The handle has the page,
/// or the bytes before the new end.
///
/// The handle must not have zeroes that no file ever held (`models/length.pml`). That happens if
/// its reader uses the longer length, the fill the shorter one, and `truncate_seq` is not advanced
/// yet.
fn truncate_against_handle(search: Search) {
    explore("a truncate against a miss that pins the page", search, || {
        let world = World::at(LAST, &[1; FRAME_SIZE]);
        race(vec![
            world.thread(|file| {
                let page = file.page(LAST).unwrap().unwrap();
                assert!(matches!(page.len(), 100 | FRAME_SIZE), "{} bytes", page.len());
                assert!(
                    page.iter().all(|&byte| byte == 1),
                    "zeroes that no file ever held, in {} bytes",
                    page.len()
                );
            }),
            world.thread(|file| file.set_len(LAST + 100).unwrap()),
        ]);
        world.end();
    });
}

#[test]
fn a_handle_racing_a_truncate_has_bytes_the_file_held() {
    truncate_against_handle(deeper(2));
    truncate_against_handle(RANDOM);
    truncate_against_handle(WEAK);
}

/// Another program appends to the file. Its last page is written to just when the cache notices.
///
/// The page may become dirty after the check of its dirty bit (`models/length.pml`). It must not
/// stay cached with zeroes in place of the other program's bytes: the next writeback would write
/// these zeroes to the file.
fn write_against_external_append(search: Search) {
    explore("a write to the last page against a refresh after an external append", search, || {
        let world = World::at(LAST, &[1; 100]);
        assert_eq!(read::<100>(&world.file, LAST), (100, [1; 100]));
        world.backing.scribble(LAST + 100, &[7; 100]);
        race(vec![
            world.thread(|file| assert_eq!(file.write_at(&[8; 10], LAST).unwrap(), 10)),
            world.thread(|file| {
                let (n, bytes) = read::<100>(file, LAST + 100);
                assert!(
                    n == 0 || n == 100 && bytes == [7; 100],
                    "{n} bytes of the append: {:?}",
                    &bytes[..8]
                );
            }),
        ]);
        let whole = [[8; 10].as_slice(), &[1; 90], &[7; 100]].concat();
        assert_eq!(world.file.read_at(&mut [0; 300], LAST).unwrap(), 200);
        world.file.sync_all().unwrap();
        assert!(world.backing.contents()[LAST as usize..] == whole, "an external append was lost");
        world.end();
    });
}

#[test]
fn an_external_append_survives_a_write_before_it() {
    write_against_external_append(deeper(2));
    write_against_external_append(RANDOM);
    write_against_external_append(WEAK);
}

/// Another program truncates the file before its last page. That page is written to just when the
/// cache notices. The write is newer, so the file extends to its end again.
fn write_against_external_truncation(search: Search) {
    explore(
        "a write to the last page against a refresh after an external truncation",
        search,
        || {
            let before = LAST - FRAME_SIZE as u64;
            let world = World::at(before, &[1; 2 * FRAME_SIZE]);
            assert_eq!(read::<64>(&world.file, LAST), (64, [1; 64]));
            world.backing.cut(LAST);
            race(vec![
                world.thread(|file| assert_eq!(file.write_at(&[8; 64], LAST).unwrap(), 64)),
                world.thread(|file| {
                    // A read past the end queries the backing.
                    assert_eq!(file.read_at(&mut [0; 1], LAST + FRAME_SIZE as u64).unwrap(), 0);
                }),
            ]);
            assert!(
                world.file.len() >= LAST + 64,
                "the file ends at {} of {LAST} + 64 bytes",
                world.file.len()
            );
            assert_eq!(read::<64>(&world.file, LAST), (64, [8; 64]), "a write was lost");
            world.file.sync_all().unwrap();
            assert!(
                world.backing.contents()[LAST as usize..][..64] == [8; 64],
                "a write did not reach the backing"
            );
            world.end();
        },
    );
}

#[test]
fn a_write_past_an_external_truncation_is_in_the_file() {
    write_against_external_truncation(deeper(2));
    write_against_external_truncation(RANDOM);
    write_against_external_truncation(WEAK);
}
