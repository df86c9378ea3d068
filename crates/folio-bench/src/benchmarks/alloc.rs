//! What does it cost to allocate and free a block, beside a well-known allocator and the least that
//! a lock can do?

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

/// The same with blocks of 2 MiB: more than any list of a CPU holds.
const BLOCK_BATCH: &str = "order-9 x 16";

/// Blocks of 2 MiB that each subject owns.
const BLOCKS: usize = 64;

/// Pairs of each thread in one sample.
const PAIRS: usize = 40_000;

fn order(scenario: Scenario) -> usize {
    if [BLOCK, BLOCK_BATCH].contains(&scenario.name) { 9 } else { 0 }
}

/// Runs a case on one thread with an allocator's two halves.
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
        let (zone, order) = (self.0.zone(), Order::new(order(scenario) as u8).expect("an order"));
        pairs(scenario, || zone.alloc_frozen(order).expect("a free block"), FrozenFolio::free)
    }
}

/// The allocator of many kernels in Rust, behind a lock. With all its orders: two free blocks of
/// its largest order merge into nothing and are lost.
struct BuddySystem(Mutex<FrameAllocator<32>>);

impl Contender for BuddySystem {
    fn name(&self) -> String {
        "buddy_system_allocator".to_owned()
    }
    fn work(&self, scenario: Scenario, _: usize) -> u64 {
        let frames = 1 << order(scenario);
        pairs(
            scenario,
            || self.0.lock().alloc(frames).expect("a free block"),
            |first| self.0.lock().dealloc(first, frames),
        )
    }
}

/// No allocator at all: numbers on a stack, of one size only.
struct Stack(Mutex<Vec<usize>>);

impl Contender for Stack {
    fn name(&self) -> String {
        "mutex-stack".to_owned()
    }
    fn work(&self, scenario: Scenario, _: usize) -> u64 {
        pairs(
            scenario,
            || self.0.lock().pop().expect("a number"),
            |number| self.0.lock().push(number),
        )
    }
}

/// The question.
///
/// # Errors
///
/// What the system says when memory for the frames can not be had.
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

/// Measures it.
///
/// # Errors
///
/// As [`matrix`].
pub(super) fn ask(ask: &mut Ask<'_>) -> io::Result<Report> {
    Ok(matrix()?.measure(ask))
}
