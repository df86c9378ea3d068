//! Tests on one CPU, in order: the promises of folio-frames, checked on real frames.

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

/// Checks that each frame is allocated at most once, and that all frames are free again.
pub fn allocate(zone: &'static Zone<Machine>) {
    const SINGLES: usize = 512;
    let before = free_frames(zone);
    let mut singles = [const { None::<FrozenFolio<Machine>> }; SINGLES];
    for (n, place) in singles.iter_mut().enumerate() {
        let mut frame = zone.alloc_frozen(Order::ZERO).expect("a frame");
        fill(frame.as_mut_slice(), n as u64);
        *place = Some(frame);
    }
    let blocks: [_; 11] =
        core::array::from_fn(|n| zone.alloc_frozen(order(n as u8)).expect("a block of each order"));
    let taken: u32 =
        blocks.iter().map(|block| block.order().frames()).sum::<u32>() + SINGLES as u32;
    assert_eq!(free_frames(zone), before - taken);
    for (n, frame) in singles.into_iter().enumerate() {
        let frame = frame.expect("filled above");
        assert!(holds(frame.as_slice(), n as u64, 1), "{frame:?} was allocated twice");
        frame.free();
    }
    blocks.into_iter().for_each(FrozenFolio::free);
    assert_eq!(free_frames(zone), before);
    say!(
        "allocate: {taken} frames in blocks of orders 0 to 10, each allocated once, all free again"
    );
}

/// Checks that a reference can be taken to a live head, but not to a tail or a free frame.
pub fn folio(zone: &'static Zone<Machine>) {
    let folio = zone.alloc(order(3), KIND, 7).expect("a folio");
    let head = folio.pfn();
    let second = zone.try_get(head).expect("the head is live");
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
    say!("folio: 8 frames; the head was referenced, 7 tails refused, all 8 refused when free");
}

/// Checks that a block can be split into blocks that are separate folios.
pub fn split(zone: &'static Zone<Machine>) {
    let before = free_frames(zone);
    let mut whole = zone.alloc_frozen(order(4)).expect("a block");
    fill(whole.as_mut_slice(), 9);
    let mut pieces = whole.split(order(1)).map(|mut piece| {
        piece.set_owner(KIND, 9);
        piece.init()
    });
    let pieces: [_; 8] = core::array::from_fn(|_| pieces.next().expect("eight pieces"));
    for piece in &pieces {
        assert_eq!(piece.order(), order(1));
        assert!(holds(piece.as_slice(), 9, 1), "{piece:?} lost its bytes");
        assert_eq!(zone.try_get(Pfn::new(piece.pfn().as_u64() + 1)).err(), Some(Refusal::Tail));
    }
    let (odd, even) = pieces.into_iter().enumerate().fold(
        ([const { None }; 8], [const { None }; 8]),
        |mut sorted, (n, piece)| {
            let half = if n % 2 == 1 { &mut sorted.0 } else { &mut sorted.1 };
            half[n] = Some(piece);
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

/// Checks that a folio can be migrated: its index still finds it, and the old frame is free.
pub fn migrate(zone: &'static Zone<Machine>) {
    let index = One(Slot::new());
    let mut folio = zone.alloc_frozen(order(2)).expect("a folio");
    folio.set_owner(KIND, 0);
    fill(folio.as_mut_slice(), 11);
    let from = folio.pfn();
    let pinned = index.0.install(folio).expect("an empty slot").publish_and_get(zone);
    let refused = folio_frames::migrate(zone, from, &index).expect_err("it is pinned");
    drop(pinned);
    let to = folio_frames::migrate(zone, from, &index).expect("it is not pinned");
    assert_eq!(zone.try_get(from).err(), Some(Refusal::Free));
    let moved = zone.try_get(to).expect("live");
    assert!(holds(moved.as_slice(), 11, 1), "the copy differs");
    drop(moved);
    drop(index.0.try_lock(zone).expect("a folio").remove());
    say!("migrate: {from:?} to {to:?}; while it was pinned: {refused}");
}
