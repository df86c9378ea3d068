//! Policies at the edge: few frames, calls in any order, a size that changes in the middle; and a
//! policy that names nonsense.

mod common;

use std::cell::RefCell;
use std::sync::Arc;

use common::assert_nothing_leaked;
use folio_cache::policy::{
    Advice, Clock, FrameState, Frames, HotCold, Policy, S3Fifo, Sieve, Uses,
};
use folio_cache::testing::Memory;
use folio_cache::{Cache, ReadRequest};

/// Frames with what any thread may have done to them.
struct Table(RefCell<Vec<FrameState>>, RefCell<fastrand::Rng>);

impl Frames for Table {
    fn count(&self) -> u32 {
        self.0.borrow().len() as u32
    }

    fn inspect(&self, frame: u32) -> FrameState {
        self.0.borrow()[frame as usize]
    }

    fn take_referenced(&self, _: u32) -> bool {
        self.1.borrow_mut().u8(..) < 60
    }

    fn take_uses(&self, _: u32) -> Option<Uses> {
        let mut random = self.1.borrow_mut();
        (random.u8(..4) > 0).then(|| Uses { count: random.u8(..), age: random.u8(..) })
    }

    fn is_ahead(&self, _: u32) -> bool {
        self.1.borrow_mut().u8(..8) == 0
    }

    fn now(&self) -> u32 {
        self.1.borrow_mut().u32(..)
    }
}

fn policies(frames: u32) -> [Box<dyn Policy>; 4] {
    [
        Box::new(Clock::new()),
        Box::new(Sieve::new(frames)),
        Box::new(S3Fifo::new(frames)),
        Box::new(HotCold::new(frames)),
    ]
}

/// Any calls in any order, as late reports of several threads are.
#[test]
fn each_policy_bears_any_order_of_calls() {
    for count in [1, 2, 3, 7, 512, 5000] {
        for mut policy in policies(count) {
            let mut random = fastrand::Rng::with_seed(u64::from(count));
            let states = vec![FrameState::NotCached; count as usize];
            let table = Table(RefCell::new(states), RefCell::new(random.fork()));
            for _ in 0..30_000 {
                let (frame, page) = (random.u32(..count), random.u64(..) >> random.u8(..64));
                let name = policy.name();
                match random.u8(..24) {
                    0 => policy.resize(random.u32(..=count)),
                    1 => policy.restore(frame),
                    2 => policy.moved(&table, frame, random.u32(..count)),
                    3 => policy.evicted_with(frame, page),
                    4 => _ = (policy.is_cold(frame), policy.is_hot(frame)),
                    5 => {
                        let advice = [Advice::Once, Advice::Normal][random.usize(..2)];
                        policy.insert_advised(&table, frame, page, advice);
                    }
                    6..14 => {
                        table.0.borrow_mut()[frame as usize] = FrameState::Evictable(page);
                        policy.insert(&table, frame, page);
                    }
                    14..20 => {
                        let wanted = [0, 1, 4, 40, usize::MAX][random.usize(..5)];
                        let mut victims = vec![frame];
                        policy.pick_victims(&table, wanted, &mut victims);
                        assert_eq!(victims[0], frame, "{name} keeps what is there");
                        for victim in &victims[1..] {
                            let state = &mut table.0.borrow_mut()[*victim as usize];
                            assert!(matches!(state, FrameState::Evictable(_)), "{name}: {state:?}");
                            *state = FrameState::NotCached;
                        }
                    }
                    _ => {
                        let states = [
                            FrameState::NotCached,
                            FrameState::Pinned,
                            FrameState::Evictable(page),
                        ];
                        table.0.borrow_mut()[frame as usize] = states[random.usize(..3)];
                    }
                }
            }
        }
    }
}

/// A policy that names what there is not.
#[derive(Debug)]
struct Nonsense(fastrand::Rng, u32);

impl Policy for Nonsense {
    fn name(&self) -> &'static str {
        "\u{1b}[31m\"nonsense\"\n"
    }

    fn insert(&mut self, _: &dyn Frames, _: u32, _: u64) {}

    fn pick_victims(&mut self, frames: &dyn Frames, wanted: usize, victims: &mut Vec<u32>) {
        let random = &mut self.0;
        match random.u8(..6) {
            0 => victims.clear(),
            1 => victims.extend([u32::MAX, frames.count(), frames.count() - 1, u32::MAX - 1]),
            2 => victims.extend(vec![self.1; 3 * wanted.min(1000)]),
            3 => victims.extend((0..20_000).map(|_| random.u32(..))),
            4 => victims.extend((0..wanted.min(1000)).map(|_| random.u32(..frames.count()))),
            _ => {}
        }
        self.1 = random.u32(..frames.count() + 2);
    }

    fn is_cold(&self, frame: u32) -> bool {
        frame.is_multiple_of(3)
    }

    fn is_hot(&self, frame: u32) -> bool {
        frame.is_multiple_of(2)
    }

    fn restore(&mut self, _: u32) {}
    fn moved(&mut self, _: &dyn Frames, _: u32, _: u32) {}
    fn resize(&mut self, _: u32) {}
}

#[test]
fn nonsense_of_a_policy_costs_hits_and_nothing_else() {
    for seed in 0..4 {
        let make =
            move |_| -> Box<dyn Policy> { Box::new(Nonsense(fastrand::Rng::with_seed(seed), 0)) };
        let builder = Cache::builder().capacity(4 << 20).max_capacity(8 << 20);
        let cache = builder.policy(make).build().unwrap();
        let contents: Vec<u8> = (0..12 << 20).map(|n: u32| (n / 4096) as u8).collect();
        let file = cache.open_backing(Arc::new(Memory::new(&contents))).unwrap();
        let mut random = fastrand::Rng::with_seed(seed);
        for _ in 0..600 {
            let (offset, len) = (random.usize(..11 << 20), random.usize(1..200_000));
            let expected = &contents[offset..offset + len];
            match random.u8(..10) {
                0 => _ = cache.set_capacity([2 << 20, 8 << 20, 4 << 20][random.usize(..3)]),
                1 => _ = cache.reclaim(random.usize(..2000)),
                2 => _ = cache.frames().compact(1),
                3 => {
                    let mut bytes = [0; 100];
                    let mut reads = [ReadRequest::new(&mut bytes, offset as u64)];
                    file.read_many(&mut reads);
                    let [read] = reads;
                    let read = read.result.unwrap();
                    assert_eq!(bytes[..read], contents[offset..offset + read]);
                }
                4 => file.write_all_at(expected, offset as u64).unwrap(),
                _ => {
                    let mut bytes = vec![0; len];
                    file.read_exact_at(&mut bytes, offset as u64).unwrap();
                    assert!(bytes == expected, "{seed}: {offset}");
                }
            }
        }
        file.close().unwrap();
        cache.quiesce();
        assert_nothing_leaked(&cache);
    }
}
