//! One CPU, one thing after the other: what folio-frames promises, tried on real frames.

use folio_frames::{FrozenFolio, Kind, Order, Owner, Pfn, Refusal, Slot, Zone};

use crate::platform::Machine;
use crate::{fill, holds, say};

const KIND: Kind = Kind::owner(1);

fn order(n: u8) -> Order {
    Order::new(n).expect("an order below the largest")
}

fn free_frames(zone: &Zone<Machine>) -> u32 {
    zone.drain();
    zone.stats().free_frames
}

/// Frames are handed out once each, and come back.
pub fn allocate(zone: &'static Zone<Machine>) {
    const SINGLES: usize = 512;
    let before = free_frames(zone);
    let mut singles = [const { None::<FrozenFolio<Machine>> }; SINGLES];
    for (note, place) in singles.iter_mut().enumerate() {
        let mut frame = zone.alloc_frozen(Order::ZERO).expect("a frame");
        fill(frame.as_mut_slice(), note as u64);
        *place = Some(frame);
    }
    let blocks: [_; 11] =
        core::array::from_fn(|n| zone.alloc_frozen(order(n as u8)).expect("a block of each order"));
    let taken: u32 =
        blocks.iter().map(|block| block.order().frames()).sum::<u32>() + SINGLES as u32;
    assert_eq!(free_frames(zone), before - taken);
    for (note, frame) in singles.into_iter().enumerate() {
        let frame = frame.expect("filled above");
        assert!(holds(frame.as_slice(), note as u64, 1), "{frame:?} was handed out twice");
        frame.free();
    }
    blocks.into_iter().for_each(FrozenFolio::free);
    assert_eq!(free_frames(zone), before);
    say!(
        "allocate: {taken} frames in blocks of orders 0 to 10, each handed out once, all free again"
    );
}

/// Heads can be acquired while they are live, tails and free frames never.
pub fn folio(zone: &'static Zone<Machine>) {
    let folio = zone.alloc(order(3), KIND, 7).expect("a folio");
    let head = folio.pfn();
    let second = zone.try_get(head).expect("a live head can be acquired");
    assert_eq!((second.kind(), second.owner_data(), second.order()), (KIND, 7, order(3)));
    for n in 1..8 {
        let tail = Pfn::new(head.as_u64() + n);
        assert_eq!(zone.try_get(tail).err(), Some(Refusal::Tail));
        assert_eq!(zone.try_get_head(tail).expect("its head is live").pfn(), head);
    }
    drop((folio, second));
    for n in 0..8 {
        assert_eq!(zone.try_get(Pfn::new(head.as_u64() + n)).err(), Some(Refusal::Free));
    }
    say!("folio: 8 frames; the head was acquired, 7 tails refused, all 8 refused when free");
}

/// A block in parts, each part a folio of its own.
pub fn split(zone: &'static Zone<Machine>) {
    let before = free_frames(zone);
    let mut whole = zone.alloc_frozen(order(4)).expect("a block");
    fill(whole.as_mut_slice(), 9);
    let mut parts = whole.split(order(1)).map(|mut part| {
        part.set_owner(KIND, 9);
        part.init()
    });
    let parts: [_; 8] = core::array::from_fn(|_| parts.next().expect("eight parts"));
    for part in &parts {
        assert_eq!(part.order(), order(1));
        assert!(holds(part.as_slice(), 9, 1), "{part:?} lost its bytes");
        assert_eq!(zone.try_get(Pfn::new(part.pfn().as_u64() + 1)).err(), Some(Refusal::Tail));
    }
    let (odd, even) = parts.into_iter().enumerate().fold(
        ([const { None }; 8], [const { None }; 8]),
        |mut sorted, (n, part)| {
            let half = if n % 2 == 1 { &mut sorted.0 } else { &mut sorted.1 };
            half[n] = Some(part);
            sorted
        },
    );
    drop(odd);
    drop(even);
    assert_eq!(free_frames(zone), before);
    say!("split: 16 frames into 8 folios, freed in another order, merged again");
}

/// An index of one slot.
struct One(Slot<Machine>);

impl Owner<Machine> for One {
    fn with_slot(&self, _: Pfn, _: u64, visit: &mut dyn FnMut(&Slot<Machine>)) -> bool {
        visit(&self.0);
        true
    }
}

/// A folio moves; its index goes on finding it, and the old frame is free.
pub fn migrate(zone: &'static Zone<Machine>) {
    let index = One(Slot::new());
    let mut folio = zone.alloc_frozen(order(2)).expect("a folio");
    folio.set_owner(KIND, 0);
    fill(folio.as_mut_slice(), 11);
    let from = folio.pfn();
    let held = index.0.install(folio).expect("an empty slot").publish_and_get(zone);
    let refused = folio_frames::migrate(zone, from, &index).expect_err("somebody holds it");
    drop(held);
    let to = folio_frames::migrate(zone, from, &index).expect("nobody holds it");
    assert_eq!(zone.try_get(from).err(), Some(Refusal::Free));
    let moved = zone.try_get(to).expect("live");
    assert!(holds(moved.as_slice(), 11, 1), "the copy differs");
    drop(moved);
    drop(index.0.try_lock(zone).expect("a folio").remove());
    say!("migrate: {from:?} to {to:?}; while it was held: {refused}");
}
