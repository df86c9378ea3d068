//! Measures moving folios under their index, beside a bare copy of the same pages.
//!
//! The bare copy goes the same way: each page into the place that the previous one left. Otherwise
//! warm targets would be compared with cold ones.

use std::io;
use std::sync::{Mutex, PoisonError};

use folio_frames::{
    Arena, FrozenFolio, Kind, MigrateType, Order, Owner, Pfn, Slot, UserSpace, migrate,
};
use folio_ref::DefaultScheme;

use crate::harness::{Ask, Contender, Matrix, Report, Scenario, Shape, Unit};

type P = UserSpace<DefaultScheme>;

const SMALL: &str = "4K";
const LARGE: &str = "2M";

/// The bytes of pages that move, of each size: more than the processor's caches hold.
const MOVED: usize = 64 << 20;

/// The bytes that each sample moves.
const SAMPLE: usize = 128 << 20;

fn order(scenario: Scenario) -> Order {
    Order::new(if scenario.name == LARGE { 9 } else { 0 }).expect("the order is valid")
}

fn pages(scenario: Scenario) -> usize {
    MOVED / order(scenario).bytes()
}

/// The slots by number. The owner data of a folio is the number of its slot.
struct Index(Vec<Slot<P>>);

impl Owner<P> for Index {
    fn with_slot(&self, _: Pfn, owner_data: u64, visit: &mut dyn FnMut(&Slot<P>)) -> bool {
        self.0.get(owner_data as usize).map(visit).is_some()
    }
}

fn arena() -> io::Result<Arena<P>> {
    Arena::new(MOVED + (16 << 20), &[])
}

/// Allocates the pages of a scenario.
fn allocate(arena: &Arena<P>, scenario: Scenario) -> impl Iterator<Item = FrozenFolio<P>> {
    let zone = arena.zone();
    (0..pages(scenario)).map(move |n| {
        let mut folio = zone
            .alloc_frozen_as(order(scenario), MigrateType::Movable)
            .expect("there is room for all pages");
        folio.set_owner(Kind::owner(0), n as u64);
        folio.as_mut_slice().fill(n as u8);
        folio
    })
}

struct Folio {
    arena: Arena<P>,
    index: Index,
}

impl Folio {
    /// Empties all slots.
    fn clear(&self) {
        for slot in &self.index.0 {
            if let Some(locked) = slot.try_lock(self.arena.zone()) {
                drop(locked.remove());
            }
        }
    }
}

impl Contender for Folio {
    fn name(&self) -> String {
        "folio".to_owned()
    }
    fn prepare(&self, scenario: Scenario) {
        self.clear();
        for (slot, folio) in self.index.0.iter().zip(allocate(&self.arena, scenario)) {
            slot.install(folio).expect("the slot is empty").publish();
        }
    }
    fn work(&self, scenario: Scenario, _: usize) -> u64 {
        let (zone, n) = (self.arena.zone(), pages(scenario));
        for page in 0..SAMPLE / order(scenario).bytes() {
            let from = self.index.0[page % n].pfn(zone).expect("the slot holds a page");
            migrate(zone, from, &self.index).expect("the page has no other reference");
        }
        SAMPLE as u64
    }
}

impl Drop for Folio {
    fn drop(&mut self) {
        self.clear();
    }
}

struct Memcpy {
    arena: Arena<P>,
    /// The pages, then the free place.
    pages: Mutex<Vec<FrozenFolio<P>>>,
}

impl Memcpy {
    fn clear(&self) {
        self.pages
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .drain(..)
            .for_each(FrozenFolio::free);
    }
}

impl Contender for Memcpy {
    fn name(&self) -> String {
        "memcpy".to_owned()
    }
    fn prepare(&self, scenario: Scenario) {
        self.clear();
        let mut pages = self.pages.lock().unwrap_or_else(PoisonError::into_inner);
        pages.extend(allocate(&self.arena, scenario));
        pages.push(
            self.arena
                .zone()
                .alloc_frozen_as(order(scenario), MigrateType::Movable)
                .expect("there is room for one more page"),
        );
    }
    fn work(&self, scenario: Scenario, _: usize) -> u64 {
        let mut pages = self.pages.lock().unwrap_or_else(PoisonError::into_inner);
        let mut spare = pages.pop().expect("there is a free place");
        for page in 0..SAMPLE / order(scenario).bytes() {
            let n = page % pages.len();
            spare.as_mut_slice().copy_from_slice(pages[n].as_slice());
            std::mem::swap(&mut spare, &mut pages[n]);
        }
        pages.push(spare);
        SAMPLE as u64
    }
}

impl Drop for Memcpy {
    fn drop(&mut self) {
        self.clear();
    }
}

/// Makes the matrix.
///
/// # Errors
///
/// The system's error if memory for the frames is not to be had.
pub(super) fn matrix() -> io::Result<Matrix<'static>> {
    let index = Index((0..MOVED / Order::ZERO.bytes()).map(|_| Slot::new()).collect());
    let contenders: Vec<Box<dyn Contender>> = vec![
        Box::new(Folio { arena: arena()?, index }),
        Box::new(Memcpy { arena: arena()?, pages: Mutex::new(Vec::new()) }),
    ];
    Ok(Matrix {
        title: "Moving folios under their index",
        unit: Unit::GibPerS,
        per: "second",
        scenarios: [SMALL, LARGE].map(|name| Scenario { name, threads: 1 }).into(),
        contenders,
        compared_with: &["memcpy"],
        ours: "folio".to_owned(),
        shape: Shape::Bars,
    })
}

/// Runs the benchmark.
///
/// # Errors
///
/// The system's error if memory for the frames is not to be had.
pub(super) fn ask(ask: &mut Ask<'_>) -> io::Result<Report> {
    matrix()?.measure(ask)
}
