//! Small cases of the real code in every interleaving, under loom's C11 memory model.
//!
//! `cargo x prove` runs them. Payloads are cells that loom watches: if the code lacks an edge that
//! R6 promises, loom reports a race. Bound: two or three threads in every interleaving, four with
//! at most three preemptions; one or two lives of a frame.
//!
//! Blind spots: loom treats `SeqCst` as `AcqRel` (nothing here is `SeqCst`). The store of
//! `unfreeze` is a swap here (see `sync.rs`), so a store that loses to a concurrent add is modelled
//! as atomic, which it is on hardware too. loom remembers the last access to a word alone: a load
//! is forgotten at the next one, and orders that differ by it are not tried. So a thread that may
//! only load is the second one. More than three threads: `models/frame.pml` has them.

#![cfg(loom)]

use folio_ref::schemes::{
    FrozenBit, Generational, GuessOne, LiveBitHigh, LiveBitLow, Tagged, ZeroFrozen,
};
use folio_ref::{PageRef, SATURATED, STALE_LIMIT, Scheme, Snapshot, Tag};
use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::thread;

/// A frame: its word, its bytes, and the number of times it was destroyed.
struct Frame<S: Scheme> {
    word: PageRef<S>,
    bytes: UnsafeCell<u32>,
    destroyed: AtomicUsize,
}

impl<S: Scheme> Frame<S> {
    /// Returns a frame in its first life, with `n` references.
    fn live(n: u32) -> Arc<Self> {
        let frame = Self {
            word: PageRef::frozen(),
            bytes: UnsafeCell::new(7),
            destroyed: AtomicUsize::new(0),
        };
        frame.word.take_frozen().unfreeze(n);
        Arc::new(frame)
    }

    fn read(&self) -> u32 {
        // SAFETY: loom checks it: a write beside this read fails the test.
        self.bytes.with(|bytes| unsafe { *bytes })
    }

    fn write(&self, value: u32) {
        // SAFETY: loom checks it: any access beside this write fails the test.
        self.bytes.with_mut(|bytes| unsafe { *bytes = value });
    }

    /// Returns a reference by `put_expecting_last`. The winner poisons the bytes, which no thread
    /// may read any more.
    fn put_expecting_last(&self) {
        if let Some(handle) = self.word.put_expecting_last() {
            self.write(0);
            self.destroyed.fetch_add(1, Ordering::Relaxed);
            handle.leave_frozen();
        }
    }

    /// Returns a reference by `put`. The winner poisons the bytes, which no thread may read any
    /// more.
    fn put(&self) {
        if let Some(handle) = self.word.put() {
            self.write(0);
            self.destroyed.fetch_add(1, Ordering::Relaxed);
            handle.leave_frozen();
        }
    }

    /// Looks the frame up, and reads the bytes of a live frame if it gets a reference.
    fn look(&self) {
        if self.word.try_get(1).is_ok() {
            assert_ne!(self.read(), 0, "a destroyed frame was read (R1)");
            self.put();
        }
    }

    fn destroyed(&self) -> usize {
        self.destroyed.load(Ordering::Relaxed)
    }
}

/// A lookup that looks first, beside the last put and a new life: it takes or is refused as the
/// other does, and what it takes it may read (R1, R6).
fn look_first<S: Scheme>() {
    loom::model(|| {
        let frame = Frame::<S>::live(1);
        let other = {
            let frame = frame.clone();
            thread::spawn(move || {
                if frame.word.try_get_unless_frozen(1).is_ok() {
                    assert_ne!(frame.read(), 0, "a destroyed frame was read (R1)");
                    frame.put();
                }
            })
        };
        if let Some(handle) = frame.word.put() {
            frame.write(8);
            handle.init();
            frame.put();
        }
        other.join().unwrap();
        assert!(frame.word.snapshot().is_frozen());
    });
}

/// The last put against a lookup that may revive (R1, R3, R6).
fn last_put_and_lookups<S: Scheme>() {
    loom::model(|| {
        let frame = Frame::<S>::live(1);
        let other = {
            let frame = frame.clone();
            thread::spawn(move || frame.look())
        };
        frame.put();
        other.join().unwrap();
        assert_eq!(frame.destroyed(), 1);
        assert!(frame.word.snapshot().is_frozen());
    });
}

/// Two holders read, then put: the destructor's write comes after both reads (R6), once (R3).
fn two_holders_put<S: Scheme>() {
    loom::model(|| {
        let frame = Frame::<S>::live(2);
        let other = {
            let frame = frame.clone();
            thread::spawn(move || {
                assert_eq!(frame.read(), 7);
                frame.put_expecting_last();
            })
        };
        assert_eq!(frame.read(), 7);
        frame.put();
        other.join().unwrap();
        assert_eq!(frame.destroyed(), 1);
    });
}

/// Two holders and a lookup: any of the three may win, also the one that began without a reference.
fn two_puts_and_a_lookup<S: Scheme>() {
    loom::model(|| {
        let frame = Frame::<S>::live(2);
        let threads = [0, 1].map(|which| {
            let frame = frame.clone();
            thread::spawn(move || if which == 0 { frame.put() } else { frame.look() })
        });
        frame.put();
        for thread in threads {
            thread.join().unwrap();
        }
        assert_eq!(frame.destroyed(), 1);
        assert!(frame.word.snapshot().is_frozen());
    });
}

/// A freeze, a write under it, an unfreeze, against a lookup (R1, R2, R6).
fn freeze_writes_alone<S: Scheme>() {
    loom::model(|| {
        let frame = Frame::<S>::live(1);
        let other = {
            let frame = frame.clone();
            thread::spawn(move || frame.look())
        };
        if let Ok(handle) = frame.word.freeze(1) {
            frame.write(8);
            handle.unfreeze(1);
        }
        other.join().unwrap();
        assert_eq!(
            frame.word.snapshot(),
            Snapshot::Live(1),
            "a refused get was counted, or a counted one was lost"
        );
        assert!(frame.word.freeze(1).map(folio_ref::Frozen::leave_frozen).is_ok());
    });
}

/// The reuse race (R3, R4): a last put, a lookup that revives and frees, a new life, its end. Each
/// life is destroyed once, by either thread.
fn a_new_life<S: Scheme>() {
    loom::model(|| {
        let frame = Frame::<S>::live(1);
        let other = {
            let frame = frame.clone();
            thread::spawn(move || {
                // Revives the frame if it runs between the two steps. Frees and reuses it if it
                // wins.
                if frame.word.try_get(1).is_ok() {
                    assert_eq!(frame.read(), 7);
                    if let Some(handle) = frame.word.put() {
                        frame.destroyed.fetch_add(1, Ordering::Relaxed);
                        frame.write(9);
                        handle.init();
                        frame.put();
                        return 2;
                    }
                }
                1
            })
        };
        frame.put();
        let lives = other.join().unwrap();
        assert_eq!(frame.destroyed(), lives, "each life ends once");
        assert!(frame.word.snapshot().is_frozen());
    });
}

/// Refused gets against the owner that opens the frame (R2, R5): stale increments are reset only
/// while the frame is frozen, and never counted. The limit is 2 here, so every second get runs the
/// loop.
fn stale_increments_and_unfreeze<S: Scheme>() {
    loom::model(|| {
        let frame = Frame::<S>::live(1);
        let handle = frame.word.freeze(1).expect("no other holder");
        let threads = [(); 2].map(|()| {
            let frame = frame.clone();
            thread::spawn(move || {
                let got = frame.word.try_get(1).is_ok();
                if let Snapshot::Frozen { stale } = frame.word.snapshot() {
                    // R5: below the limit, plus one add in flight of the other thread.
                    assert!(stale < STALE_LIMIT + 1, "{stale} stale increments");
                }
                u32::from(got)
            })
        });
        handle.unfreeze(1);
        let got: u32 = threads.into_iter().map(|thread| thread.join().unwrap()).sum();
        assert_eq!(frame.word.snapshot(), Snapshot::Live(1 + got));
    });
}

/// A `try_get` that is refused because it would saturate, beside a put that takes the count below
/// the limit again (R5). The refused increment must pin the count all the same: otherwise it stays,
/// a leak that no snapshot shows.
fn refused_by_saturation<S: Scheme>() {
    loom::model(|| {
        let frame = Frame::<S>::live(SATURATED - 1);
        let other = {
            let frame = frame.clone();
            thread::spawn(move || assert!(frame.word.put().is_none()))
        };
        let got = frame.word.try_get(1);
        other.join().unwrap();
        let left = if got.is_ok() { Snapshot::Live(SATURATED - 1) } else { Snapshot::Saturated };
        assert_eq!(frame.word.snapshot(), left, "{got:?}");
    });
}

/// A reader by way of an index, while the page moves to another frame and its old frame is reused
/// (R8): a reader that re-checks reads the page, in either frame.
fn reader_rechecks<S: Scheme>() {
    loom::model(|| {
        let frames = [Frame::<S>::live(1), Frame::<S>::live(1)];
        frames[1].word.freeze(1).expect("no other holder").leave_frozen();
        let index = Arc::new(AtomicUsize::new(0));
        let reader = {
            let (frames, index) = (frames.clone(), index.clone());
            thread::spawn(move || {
                let seen = index.load(Ordering::Acquire);
                let frame = &frames[seen];
                if frame.word.try_get(1).is_ok() {
                    if index.load(Ordering::Relaxed) == seen {
                        assert_eq!(frame.read(), 7, "another page's bytes");
                    }
                    frame.put();
                }
            })
        };
        if let Ok(handle) = frames[0].word.freeze(1) {
            frames[1].write(7);
            frames[1].word.take_frozen().unfreeze(1);
            index.store(1, Ordering::Release);
            // The old frame is freed and reused at once.
            frames[0].write(9);
            handle.init();
            frames[0].put();
        }
        reader.join().unwrap();
    });
}

/// Four threads with at most three preemptions: two lookups, a holder, and a thread that freezes.
fn four_threads<S: Scheme>() {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(|| {
        let frame = Frame::<S>::live(1);
        let threads = [0, 1, 2].map(|which| {
            let frame = frame.clone();
            thread::spawn(move || {
                if which < 2 {
                    return frame.look();
                }
                if frame.word.try_get(1).is_ok() {
                    match frame.word.freeze(1) {
                        Ok(handle) => {
                            frame.write(8);
                            handle.unfreeze(1);
                        }
                        Err(_) => assert_ne!(frame.read(), 0, "a destroyed frame was read (R1)"),
                    }
                    frame.put();
                }
            })
        });
        frame.put();
        for thread in threads {
            thread.join().unwrap();
        }
        assert_eq!(frame.destroyed(), 1);
        assert!(frame.word.snapshot().is_frozen());
    });
}

macro_rules! cases {
    ($($name:ident: $scheme:ty),* $(,)?) => {
        $(
            mod $name {
                use super::*;

                #[test]
                fn the_last_put_and_a_lookup_destroy_once() {
                    last_put_and_lookups::<$scheme>();
                }
                #[test]
                fn a_lookup_that_looks_first_reads_live_bytes() {
                    look_first::<$scheme>();
                }
                #[test]
                fn the_destructor_sees_what_both_holders_did() {
                    two_holders_put::<$scheme>();
                }
                #[test]
                fn one_winner_destroys_once() {
                    two_puts_and_a_lookup::<$scheme>();
                }
                #[test]
                fn a_freeze_has_one_writer() {
                    freeze_writes_alone::<$scheme>();
                }
                #[test]
                fn each_life_ends_once() {
                    a_new_life::<$scheme>();
                }
                #[test]
                fn stale_increments_are_bounded_and_never_counted() {
                    stale_increments_and_unfreeze::<$scheme>();
                }
                #[test]
                fn a_refusal_by_saturation_is_final() {
                    refused_by_saturation::<$scheme>();
                }
                #[test]
                fn a_reader_that_rechecks_reads_its_own_page() {
                    reader_rechecks::<$scheme>();
                }
                #[test]
                fn four_threads_destroy_once() {
                    four_threads::<$scheme>();
                }
            }
        )*
    };
}

cases! {
    zero_frozen: ZeroFrozen,
    guess_one: GuessOne,
    frozen_bit: FrozenBit,
    live_bit_high: LiveBitHigh,
    live_bit_low: LiveBitLow,
    generational: Generational,
    tagged: Tagged,
}

const UNUSED: Tag = Tag::new(0);
const OTHER: Tag = Tag::new(1);

/// A frame that was left frozen under a tag.
fn left_as(tag: Tag) -> Arc<Frame<Tagged>> {
    let frame = Frame::live(1);
    frame.word.freeze(1).expect("no other holder").leave_frozen_as(tag);
    frame
}

/// Claims a frame, writes its bytes, and leaves it under another tag. Returns `true` if it won.
fn claim_and_leave(frame: &Frame<Tagged>, from: Tag, to: Tag) -> bool {
    let Ok(handle) = frame.word.try_claim(from) else { return false };
    frame.write(frame.read() + 1);
    handle.leave_frozen_as(to);
    true
}

/// Two claims of one tag: one wins, and its bytes have one writer (R3).
#[test]
fn a_claim_excludes_another_claim() {
    loom::model(|| {
        let frame = left_as(UNUSED);
        let other = {
            let frame = frame.clone();
            thread::spawn(move || claim_and_leave(&frame, UNUSED, OTHER))
        };
        let mine = claim_and_leave(&frame, UNUSED, OTHER);
        assert_ne!(mine, other.join().unwrap(), "one claim wins");
        assert_eq!(frame.word.snapshot(), Snapshot::Tagged { tag: OTHER, stale: 0 });
    });
}

/// A claim of what another thread leaves sees what that thread wrote (R6).
#[test]
fn a_claim_sees_what_the_last_owner_wrote() {
    loom::model(|| {
        let frame = left_as(UNUSED);
        let other = {
            let frame = frame.clone();
            thread::spawn(move || {
                if frame.word.try_claim(OTHER).map(folio_ref::Frozen::leave_frozen).is_ok() {
                    assert_eq!(frame.read(), 8);
                    frame.write(0);
                }
            })
        };
        assert!(claim_and_leave(&frame, UNUSED, OTHER));
        other.join().unwrap();
    });
}

/// Refused lookups beside a claim. Their stale increments, and the reset at the limit of 2, lose
/// neither the tag nor the claim (R2, R5).
#[test]
fn stale_increments_and_their_reset_keep_the_tag() {
    loom::model(|| {
        let frame = left_as(UNUSED);
        let other = {
            let frame = frame.clone();
            thread::spawn(move || {
                assert!(frame.word.try_get(1).is_err() && frame.word.try_get(1).is_err());
            })
        };
        let claim = || frame.word.try_claim(UNUSED).map(folio_ref::Frozen::leave_frozen).is_ok();
        assert!(claim(), "no other claims it");
        other.join().unwrap();
        assert!(!claim(), "claimed twice");
        assert!(matches!(frame.word.snapshot(), Snapshot::Frozen { .. }), "{:?}", frame.word);
    });
}

/// The same beside the owner that leaves the frame under a tag: the tag stays.
#[test]
fn a_reset_beside_the_owner_keeps_the_tag() {
    loom::model(|| {
        let frame = left_as(UNUSED);
        let handle = frame.word.try_claim(UNUSED).expect("unused");
        let other = {
            let frame = frame.clone();
            thread::spawn(move || {
                assert!(frame.word.try_get(1).is_err() && frame.word.try_get(1).is_err());
            })
        };
        handle.leave_frozen_as(OTHER);
        other.join().unwrap();
        assert!(matches!(frame.word.snapshot(), Snapshot::Tagged { tag: OTHER, .. }));
    });
}
