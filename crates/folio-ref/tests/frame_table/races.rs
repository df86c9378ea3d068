//! The races of the table, each in every interleaving of two threads.

use loom::sync::Arc;
use loom::thread;

use crate::table::{PageTable, Refusal, Table, UserPage};

/// Runs two threads on a table of one frame, which is unused at the end.
fn race(prepare: fn(&Table), first: fn(&Table), second: fn(&Table)) {
    loom::model(move || {
        let table = Arc::new(Table::new(1));
        prepare(&table);
        let other = {
            let table = table.clone();
            thread::spawn(move || second(&table))
        };
        first(&table);
        other.join().unwrap();
        assert_eq!(table.state(0), Refusal::Unused);
    });
}

fn nothing(_: &Table) {}

/// Shares the frame, and forgets the reference: `drop_forgotten` ends it.
fn share(table: &Table) {
    std::mem::forget(table.claim_shared(0, PageTable { level: 7 }).expect("unused"));
}

fn share_with_two(table: &Table) {
    share(table);
    std::mem::forget(table.lookup::<PageTable>(0).expect("shared"));
}

fn drop_forgotten(table: &Table) {
    let mine = table.restore::<PageTable>(0);
    assert_eq!(mine.get(|table| table.level), 7);
}

/// Looks the page table up, and reads it.
fn look(table: &Table) {
    if let Ok(found) = table.lookup::<PageTable>(0) {
        assert_eq!(found.get(|table| table.level), 7);
    }
}

fn make_unique(table: &Table) {
    match table.restore::<PageTable>(0).into_unique() {
        Ok(mut unique) => unique.change(|table| table.level = 8),
        Err(shared) => assert_eq!(shared.get(|table| table.level), 7),
    }
}

fn build(table: &Table) {
    match table.claim(0, PageTable { level: 1 }) {
        Ok(mut unique) => unique.change(|table| table.level += 1),
        Err(refusal) => assert!(matches!(refusal, Refusal::BeingBuilt | Refusal::Unique)),
    }
}

fn build_shared(table: &Table) {
    drop(table.claim_shared(0, PageTable { level: 7 }).expect("the other thread never claims"));
}

/// Ends the frame's life as a page table, and begins one as a user page.
fn reuse(table: &Table) {
    drop_forgotten(table);
    // The reader may still have the page table.
    if let Ok(page) = table.claim_shared(0, UserPage { owner: 9 }) {
        assert_eq!(page.get(|page| page.owner), 9);
    }
}

/// The reader sees whole metadata or is refused, and one of both takes the frame apart.
#[test]
fn a_lookup_beside_the_last_drop() {
    race(share, drop_forgotten, look);
}

/// The owner writes only after the other reader has ended, and sees its end.
#[test]
fn a_unique_frame_beside_a_drop() {
    race(share_with_two, make_unique, drop_forgotten);
}

/// One of two claims builds the frame; the other is refused or comes after its life.
#[test]
fn a_claim_beside_a_claim() {
    race(nothing, build, build);
}

/// A lookup finds no frame that is being built.
#[test]
fn a_claim_beside_a_lookup() {
    race(nothing, build_shared, look);
}

/// A lookup of the page table never gets the user page that took its frame.
#[test]
fn a_lookup_beside_a_reuse() {
    race(share, reuse, look);
}
