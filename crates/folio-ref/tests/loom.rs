//! Small cases of the real code, every interleaving of them, under the C11 memory model as loom has
//! it.
//!
//! `cargo x prove` runs it. Payloads are cells that loom watches: an edge that R6 promises and the
//! code does not make is reported as a race. Bound: two or three threads in every interleaving,
//! four with three preemptions at the most; one or two lives of a frame.
//!
//! What this can not see: loom treats `SeqCst` as `AcqRel` (nothing here is `SeqCst`); the store of
//! `unfreeze` is a swap here (see `sync.rs`), so a store that loses to a concurrent add is modelled
//! as atomic, which on hardware it is too; more threads than three, for which there is the model.

#![cfg(loom)]

use folio_ref::schemes::{FrozenBit, Generational, GuessOne, LiveBitHigh, LiveBitLow, ZeroFrozen};
use folio_ref::{PageRef, SATURATED, STALE_LIMIT, Scheme, Snapshot};
use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::thread;

/// A frame: its word, its bytes, and how often it was destroyed.
struct Frame<S: Scheme> {
    word: PageRef<S>,
    bytes: UnsafeCell<u32>,
    destroyed: AtomicUsize,
}

impl<S: Scheme> Frame<S> {
    /// A frame in its first life, with `n` references.
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

    /// As `put`, by the other way.
    fn put_expecting_last(&self) {
        if let Some(token) = self.word.put_expecting_last() {
            self.write(0);
            self.destroyed.fetch_add(1, Ordering::Relaxed);
            token.leave_frozen();
        }
    }

    /// Returns a reference; the winner poisons the bytes, which nobody may read any more.
    fn put(&self) {
        if let Some(token) = self.word.put() {
            self.write(0);
            self.destroyed.fetch_add(1, Ordering::Relaxed);
            token.leave_frozen();
        }
    }

    /// Looks the frame up: whoever got a reference reads a live frame's bytes.
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

/// Two holders and a lookup: any of the three may be the one that wins, also one that never held a
/// reference of its own at first.
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
        if let Ok(token) = frame.word.freeze(1) {
            frame.write(8);
            token.unfreeze(1);
        }
        other.join().unwrap();
        assert_eq!(
            frame.word.snapshot(),
            Snapshot::Live(1),
            "a refused get was counted, or a counted one lost"
        );
        assert!(frame.word.freeze(1).map(folio_ref::Frozen::leave_frozen).is_ok());
    });
}

/// The reuse race (R3, R4): a last put, a lookup that revives and frees, a new life, its end. Each
/// life is destroyed once, whoever does it.
fn a_new_life<S: Scheme>() {
    loom::model(|| {
        let frame = Frame::<S>::live(1);
        let other = {
            let frame = frame.clone();
            thread::spawn(move || {
                // Revives the frame if it comes between the two steps; frees and reuses it if it
                // wins.
                if frame.word.try_get(1).is_ok() {
                    assert_eq!(frame.read(), 7);
                    if let Some(token) = frame.word.put() {
                        frame.destroyed.fetch_add(1, Ordering::Relaxed);
                        frame.write(9);
                        token.init();
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

/// Refused gets against the owner that opens the frame (R2, R5): noise is reset only while frozen,
/// and never counted. The limit is 2 here, so every second get runs the loop.
fn noise_and_unfreeze<S: Scheme>() {
    loom::model(|| {
        let frame = Frame::<S>::live(1);
        let token = frame.word.freeze(1).expect("nobody else");
        let threads = [(); 2].map(|()| {
            let frame = frame.clone();
            thread::spawn(move || {
                let got = frame.word.try_get(1).is_ok();
                if let Snapshot::Frozen { stale } = frame.word.snapshot() {
                    // R5: one add in flight per other thread, plus what is below the limit.
                    assert!(stale < STALE_LIMIT + 1, "{stale} stale increments");
                }
                u32::from(got)
            })
        });
        token.unfreeze(1);
        let got: u32 = threads.into_iter().map(|thread| thread.join().unwrap()).sum();
        assert_eq!(frame.word.snapshot(), Snapshot::Live(1 + got));
    });
}

/// A `try_get` that is refused because it would saturate, beside a put that takes the count below
/// the limit again (R5). Found by the model: the pin looked at the count only then, found nothing
/// to pin, and the refused increment stayed, a leak that no snapshot showed.
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

/// A reader by way of an index, while the page moves to another frame and its old frame becomes
/// something else (R8): who looks again reads the page, wherever it is.
fn reader_looks_again<S: Scheme>() {
    loom::model(|| {
        let frames = [Frame::<S>::live(1), Frame::<S>::live(1)];
        frames[1].word.freeze(1).expect("nobody else").leave_frozen();
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
        if let Ok(token) = frames[0].word.freeze(1) {
            frames[1].write(7);
            frames[1].word.take_frozen().unfreeze(1);
            index.store(1, Ordering::Release);
            // The old frame is freed, and is something else at once.
            frames[0].write(9);
            token.init();
            frames[0].put();
        }
        reader.join().unwrap();
    });
}

/// Four threads, with three preemptions at the most: two lookups, a holder, and one who wants to be
/// alone.
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
                        Ok(token) => {
                            frame.write(8);
                            token.unfreeze(1);
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
                fn the_destructor_sees_what_both_holders_did() {
                    two_holders_put::<$scheme>();
                }
                #[test]
                fn whoever_wins_destroys_once() {
                    two_puts_and_a_lookup::<$scheme>();
                }
                #[test]
                fn who_freezes_writes_alone() {
                    freeze_writes_alone::<$scheme>();
                }
                #[test]
                fn each_life_ends_once() {
                    a_new_life::<$scheme>();
                }
                #[test]
                fn noise_is_bounded_and_never_counted() {
                    noise_and_unfreeze::<$scheme>();
                }
                #[test]
                fn a_refusal_by_saturation_is_for_good() {
                    refused_by_saturation::<$scheme>();
                }
                #[test]
                fn who_looks_again_reads_its_own_page() {
                    reader_looks_again::<$scheme>();
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
}
