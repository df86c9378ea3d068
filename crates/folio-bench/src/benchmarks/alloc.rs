//! Measures allocating and freeing a block, beside another allocator and a stack under a lock.

use std::hint::black_box;
use std::io;

use buddy_system_allocator::FrameAllocator;
use folio_frames::{Arena, FrozenFolio, Order, UserSpace};
use folio_ref::DefaultScheme;
use parking_lot::Mutex;

use crate::harness::{Ask, Contender, Matrix, Report, Scenario, Shape, Unit, one_and_all};

/// One frame.
const SINGLE: &str = "order-0";
/// A block of 2 MiB.
const BLOCK: &str = "order-9";
/// A batch of frames, allocated one by one and then freed one by one.
const BATCH: &str = "order-0 x 64";

/// A batch of 2 MiB blocks: more than any per-CPU list holds.
const BLOCK_BATCH: &str = "order-9 x 16";

/// The number of 2 MiB blocks that each contender owns.
const BLOCKS: usize = 64;

/// Pairs per thread in one sample. A debug build, in which a pair takes ten times as long, shows no
/// figure: it runs for the tests.
const PAIRS: usize = if cfg!(debug_assertions) { 4_000 } else { 40_000 };

fn order(scenario: Scenario) -> usize {
    if [BLOCK, BLOCK_BATCH].contains(&scenario.name) { 9 } else { 0 }
}

/// Runs a scenario on one thread, with the two halves of an allocator. Returns the number of pairs.
fn pairs<T>(scenario: Scenario, mut alloc: impl FnMut() -> T, mut free: impl FnMut(T)) -> u64 {
    let of_one_batch = match scenario.name {
        BATCH => 64,
        BLOCK_BATCH => 16,
        _ => 1,
    };
    if of_one_batch > 1 {
        let mut batch = Vec::with_capacity(of_one_batch);
        for _ in 0..PAIRS / of_one_batch {
            batch.extend((0..of_one_batch).map(|_| black_box(alloc())));
            batch.drain(..).for_each(&mut free);
        }
        return (PAIRS / of_one_batch * of_one_batch) as u64;
    }
    for _ in 0..PAIRS {
        free(black_box(alloc()));
    }
    PAIRS as u64
}

struct Folio(Arena<UserSpace>);

impl Contender for Folio {
    fn name(&self) -> String {
        "folio".to_owned()
    }
    fn work(&self, scenario: Scenario, _: usize) -> u64 {
        let (zone, order) =
            (self.0.zone(), Order::new(order(scenario) as u8).expect("the order is valid"));
        pairs(scenario, || zone.alloc_frozen(order).expect("a block is free"), FrozenFolio::free)
    }
}

/// The buddy allocator of many Rust kernels, behind a lock. It manages all its orders: two free
/// blocks of its largest order merge into nothing and are lost.
struct BuddySystem(Mutex<FrameAllocator<32>>);

impl Contender for BuddySystem {
    fn name(&self) -> String {
        "buddy_system_allocator".to_owned()
    }
    fn work(&self, scenario: Scenario, _: usize) -> u64 {
        let frames = 1 << order(scenario);
        pairs(
            scenario,
            || self.0.lock().alloc(frames).expect("a block is free"),
            |first| self.0.lock().dealloc(first, frames),
        )
    }
}

/// Not an allocator: frame numbers on a stack, of one size only.
struct Stack(Mutex<Vec<usize>>);

impl Contender for Stack {
    fn name(&self) -> String {
        "mutex-stack".to_owned()
    }
    fn work(&self, scenario: Scenario, _: usize) -> u64 {
        pairs(
            scenario,
            || self.0.lock().pop().expect("the stack holds a number"),
            |number| self.0.lock().push(number),
        )
    }
}

/// Makes the matrix.
///
/// # Errors
///
/// The system's error if memory for the frames is not to be had.
pub(super) fn matrix() -> io::Result<Matrix<'static>> {
    let mut buddy = FrameAllocator::new();
    buddy.add_frame(1 << 20, (1 << 20) + BLOCKS * 512);
    let contenders: Vec<Box<dyn Contender>> = vec![
        Box::new(Folio(Arena::<UserSpace<DefaultScheme>>::new(BLOCKS << 21, &[])?)),
        Box::new(BuddySystem(Mutex::new(buddy))),
        Box::new(Stack(Mutex::new((0..BLOCKS * 512).collect()))),
    ];
    let scenarios = [SINGLE, BATCH, BLOCK, BLOCK_BATCH];
    Ok(Matrix {
        title: "Allocating and freeing a block",
        unit: Unit::Ns,
        per: "pair",
        scenarios: one_and_all()
            .into_iter()
            .flat_map(|threads| scenarios.map(|name| Scenario { name, threads }))
            .collect(),
        contenders,
        compared_with: &["buddy_system_allocator", "mutex-stack"],
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
