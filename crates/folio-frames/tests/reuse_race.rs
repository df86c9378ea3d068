//! The reuse race (R4), forced. T1 brings a count to 0 and sleeps. The frame is revived, freed,
//! reallocated as another kind, and brought to 0 by T3, which sleeps as well. T1 wakes.
//!
//! Without a generation T1 wins, in its own thread, a frame of which it never had a reference: the
//! destructor must be that of the frame's present kind. With a generation T1 loses. A platform that
//! waits between the two steps of a put brings the threads together.

mod common;

use std::cell::RefCell;
use std::marker::PhantomData;
use std::sync::{Mutex, mpsc};
use std::thread::{self, ThreadId};

use common::assert_all_free;
use folio_frames::{
    Arena, FolioRef, FrozenFolio, Kind, KindOps, Order, Owner, Pfn, Platform, Refusal, Slot,
    UserSpace, Zone,
};
use folio_ref::Scheme;
use folio_ref::schemes::{FrozenBit, Generational, LiveBitHigh, LiveBitLow, Tagged};

const FIRST: Kind = Kind::owner(1);
const SECOND: Kind = Kind::owner(2);

/// User space with a stop between the two steps of a put.
struct Stops<S>(PhantomData<S>);

thread_local! {
    /// Runs once at the next stop of this thread.
    static AT_STOP: RefCell<Option<Box<dyn FnOnce()>>> = const { RefCell::new(None) };
}

fn at_stop(act: impl FnOnce() + 'static) {
    AT_STOP.set(Some(Box::new(act)));
}

impl<S: Scheme> Platform for Stops<S> {
    type Scheme = S;
    type Lock = <UserSpace<S> as Platform>::Lock;

    fn cpu() -> usize {
        // One list for all threads: a frame freed by one thread is the next that another allocates.
        0
    }
    fn wait(key: usize, still: &dyn Fn() -> bool) {
        UserSpace::<S>::wait(key, still);
    }
    fn wake_all(key: usize) {
        UserSpace::<S>::wake_all(key);
    }
    fn unwinding() -> bool {
        thread::panicking()
    }
    fn between_put_steps() {
        if let Some(act) = AT_STOP.take() {
            act();
        }
    }
}

/// The destructors that ran: kind of the destructor, kind and owner data of the folio, thread.
static DESTROYED: Mutex<Vec<(Kind, Kind, u64, ThreadId)>> = Mutex::new(Vec::new());

fn destroyed<P: Platform>(by: Kind, folio: FrozenFolio<P>) {
    let (kind, owner_data) = (folio.kind(), folio.owner_data());
    DESTROYED.lock().unwrap().push((by, kind, owner_data, thread::current().id()));
    folio.free();
}

impl<S: Scheme> Stops<S> {
    const KINDS: &'static [KindOps<Self>] = &[
        KindOps { kind: FIRST, name: "first", destroy: |folio| destroyed(FIRST, folio) },
        KindOps { kind: SECOND, name: "second", destroy: |folio| destroyed(SECOND, folio) },
    ];
}

fn revive<S: Scheme>(zone: &'static Zone<Stops<S>>, pfn: Pfn) -> FolioRef<Stops<S>> {
    zone.try_get(pfn).expect("a frame that is Dying is revived")
}

struct NoSlots;
impl<P: Platform> Owner<P> for NoSlots {
    fn with_slot(&self, _: Pfn, _: u64, _: &mut dyn FnMut(&Slot<P>)) -> bool {
        false
    }
}

/// The fate of the metadata of the frame's block between two lives, while the block is offline.
#[derive(Clone, Copy, PartialEq)]
enum Metadata {
    Stays,
    /// To the system.
    Returned,
}

/// Plays the race. Returns `true` if T1 destroyed the second life, `false` if T3 did.
fn race<S: Scheme>(metadata: Metadata) -> bool {
    DESTROYED.lock().unwrap().clear();
    let arena: &'static _ =
        Box::leak(Box::new(Arena::<Stops<S>>::new(2 << 20, Stops::KINDS).unwrap()));
    let zone = arena.zone();
    let folio = zone.alloc(Order::ZERO, FIRST, 1).unwrap();
    let pfn = folio.pfn();
    let (wake_t3, t3_wakes) = mpsc::channel::<()>();
    let (t3_joins, t3_join) = mpsc::channel();
    at_stop(move || {
        // T1 sleeps. T2, played in the same thread, revives, drops and frees: its put wins.
        drop(revive(zone, pfn));
        if metadata == Metadata::Returned {
            let offline = arena.offline(0, &NoSlots).expect("nothing is in use");
            arena.return_metadata(&offline).expect("zero is frozen");
            arena.online(offline);
        }
        let again = zone.alloc(Order::ZERO, SECOND, 2).unwrap();
        assert_eq!(again.pfn(), pfn, "the frame is reused");
        let (at_zero, t3_at_zero) = mpsc::channel();
        let t3 = thread::spawn(move || {
            at_stop(move || {
                at_zero.send(()).unwrap();
                t3_wakes.recv().unwrap();
            });
            drop(again);
        });
        t3_at_zero.recv().unwrap();
        t3_joins.send(t3).unwrap();
    });
    drop(folio);
    wake_t3.send(()).unwrap();
    let t3 = t3_join.recv().unwrap();
    let t3_id = t3.thread().id();
    t3.join().unwrap();

    let destroyed = std::mem::take(&mut *DESTROYED.lock().unwrap());
    let lives: Vec<_> =
        destroyed.iter().map(|&(by, was, owner_data, _)| (by, was, owner_data)).collect();
    assert_eq!(
        lives,
        [(FIRST, FIRST, 1), (SECOND, SECOND, 2)],
        "{}: each life by its own destructor",
        S::NAME
    );
    assert_all_free(zone);
    destroyed[1].3 != t3_id
}

/// R7: T1 brings a count to 0 and sleeps. The frame is revived, freed, and goes offline with its
/// block. T1 wakes, and its second step touches the word of an offline frame.
fn late_put_on_an_offline_frame<S: Scheme>(metadata: Metadata) {
    DESTROYED.lock().unwrap().clear();
    let arena: &'static _ =
        Box::leak(Box::new(Arena::<Stops<S>>::new(2 << 20, Stops::KINDS).unwrap()));
    let zone = arena.zone();
    let folio = zone.alloc(Order::ZERO, FIRST, 1).unwrap();
    let pfn = folio.pfn();
    let (offline, block) = mpsc::channel();
    at_stop(move || {
        drop(revive(zone, pfn));
        let block = arena.offline(0, &NoSlots).expect("nothing is in use");
        if metadata == Metadata::Returned {
            arena.return_metadata(&block).expect("zero is frozen");
        }
        offline.send(block).unwrap();
    });
    drop(folio);
    assert_eq!(
        zone.try_get(pfn).err(),
        Some(Refusal::Offline),
        "{}: the late step unfroze it",
        S::NAME
    );
    assert_eq!(DESTROYED.lock().unwrap().len(), 1, "{}: destroyed once, by the reviver", S::NAME);
    arena.online(block.recv().unwrap());
    assert_all_free(zone);
}

/// One test, since all races share `DESTROYED`.
#[test]
fn the_destructor_is_that_of_the_present_kind() {
    use Metadata::{Returned, Stays};
    assert!(race::<FrozenBit>(Stays), "without a generation the sleeper wins");
    assert!(race::<LiveBitHigh>(Stays));
    assert!(race::<LiveBitLow>(Stays));
    assert!(!race::<Generational>(Stays), "the generation moved on: the sleeper loses");
    assert!(!race::<Tagged>(Stays));
    assert!(race::<LiveBitHigh>(Returned));
    assert!(race::<LiveBitLow>(Returned));
    assert!(
        race::<Generational>(Returned),
        "generations begin again: the sleeper wins, and its destructor is right"
    );
    late_put_on_an_offline_frame::<FrozenBit>(Stays);
    for metadata in [Stays, Returned] {
        late_put_on_an_offline_frame::<LiveBitHigh>(metadata);
        late_put_on_an_offline_frame::<LiveBitLow>(metadata);
        late_put_on_an_offline_frame::<Generational>(metadata);
        late_put_on_an_offline_frame::<Tagged>(metadata);
    }
}
