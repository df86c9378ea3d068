//! A table of typed frames, as a kernel has it: that one word holds all states of a frame, and five
//! races under loom.
//!
//! `cargo x prove` runs the races in every interleaving. Each has a seeded bug in `table.rs`.
//!
//! Blind spots: more than two threads, and more than two lives of a frame.

#![cfg(not(shuttle))]

mod cell;
#[cfg(loom)]
mod races;
mod table;

#[cfg(not(loom))]
mod states {
    use crate::table::{PageTable, Refusal, Table, UserPage};

    #[test]
    fn each_state_refuses_what_it_does_not_allow() {
        let table = Table::new(2);
        assert_eq!(table.lookup::<UserPage>(0).unwrap_err(), Refusal::Unused);
        let mut unique = table.claim(0, UserPage { owner: 1 }).unwrap();
        assert_eq!(table.lookup::<UserPage>(0).unwrap_err(), Refusal::Unique);
        assert_eq!(table.claim(0, PageTable { level: 1 }).unwrap_err(), Refusal::Unique);
        unique.change(|page| page.owner = 2);
        let first = unique.share();
        let second = table.lookup::<UserPage>(0).unwrap();
        assert_eq!((second.get(|page| page.owner), table.state(0)), (2, Refusal::Shared));
        assert_eq!(table.lookup::<PageTable>(0).unwrap_err(), Refusal::OtherKind);
        let first = first.into_unique().unwrap_err();
        // As the entry of a page table holds it.
        std::mem::forget(first);
        let first = table.restore::<UserPage>(0);
        drop((first, second));
        assert_eq!((table.state(0), table.state(1)), (Refusal::Unused, Refusal::Unused));
    }

    #[test]
    fn a_sole_reference_becomes_unique_and_shared_again() {
        let table = Table::new(1);
        let shared = table.claim_shared(0, PageTable { level: 4 }).unwrap();
        let mut unique = shared.into_unique().unwrap();
        assert_eq!(table.state(0), Refusal::Unique);
        unique.change(|table| table.level = 3);
        let shared = unique.share();
        let both = (shared.clone(), shared);
        assert_eq!(both.0.get(|table| table.level), 3);
        drop(both);
        drop(table.claim(0, UserPage { owner: 1 }).unwrap());
        assert_eq!(table.state(0), Refusal::Unused);
    }
}
