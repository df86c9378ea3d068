//! The lock of the process: one thread at a time, handed over, and never lost.

use std::sync::atomic::AtomicU64;

use super::*;

type Mutex<T> = lock_api::Mutex<FutexLock, T>;

#[test]
fn one_thread_at_a_time_has_the_lock() {
    let (count, taken) = (Mutex::new(0_u64), AtomicU64::new(0));
    thread::scope(|scope| {
        for thread in 0..8 {
            let (count, taken) = (&count, &taken);
            scope.spawn(move || {
                for n in 0..1000 {
                    let guard = match thread % 4 {
                        0 => count.try_lock(),
                        1 => count.try_lock_for(Duration::from_micros(n % 100)),
                        _ => Some(count.lock()),
                    };
                    let Some(mut guard) = guard else { continue };
                    let before = *guard;
                    if n % 32 == 0 {
                        thread::sleep(Duration::from_micros(50));
                    }
                    *guard = before + 1;
                    assert!(count.is_locked());
                    taken.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    assert_eq!(*count.lock(), taken.into_inner());
    assert!(count.try_lock().is_some() && !count.is_locked());
}

#[test]
fn a_thread_that_comes_again_and_again_hands_the_lock_over() {
    const TIMES: u64 = 10;
    let (lock, got) = (Mutex::new(()), AtomicU64::new(0));
    let mut rounds = 0;
    thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..TIMES {
                let _guard = lock.lock();
                got.fetch_add(1, Ordering::Relaxed);
            }
        });
        while got.load(Ordering::Relaxed) < TIMES && rounds < 4000 {
            let _guard = lock.lock();
            thread::sleep(Duration::from_millis(1));
            rounds += 1;
        }
    });
    assert!(rounds < 1000, "{rounds} rounds until another thread had it {TIMES} times");
}

/// Whatever the processor does: the thread before hangs on to its time, or loses it.
#[test]
fn a_lock_that_is_wanted_is_not_for_a_thread_that_comes() {
    let lock = FutexLock::INIT;
    for (word, then) in [(SLEPT_ON, FREE), (WANTED, HANDED)] {
        assert!(lock.take(FREE, LOCKED));
        lock.0.store(word, Ordering::Relaxed);
        lock.unlock_slowly();
        assert_eq!(lock.0.load(Ordering::Relaxed), then, "left when the word was {word}");
        assert!(lock.take(then, LOCKED), "no thread has it");
        lock.0.store(FREE, Ordering::Relaxed);
    }
}

#[test]
fn a_lock_that_was_handed_to_no_thread_is_free() {
    let lock = Mutex::new(());
    let guard = lock.lock();
    thread::scope(|scope| {
        // It sleeps for longer than a thread that wants the lock handed over, and leaves.
        let leave = || assert!(lock.try_lock_for(Duration::from_millis(20)).is_none());
        scope.spawn(leave);
        scope.spawn(leave);
        thread::sleep(Duration::from_millis(100));
    });
    drop(guard);
    assert!(!lock.is_locked() && lock.try_lock().is_some());
    assert!(lock.try_lock_until(Instant::now() + LONG).is_some());
    drop(lock.lock());
}

#[test]
fn sleepers_are_woken_or_their_time_ends() {
    let (turn, sleepers) = (Mutex::new(0), Sleepers::new());
    thread::scope(|scope| {
        for thread in 0..4 {
            let (turn, sleepers) = (&turn, &sleepers);
            scope.spawn(move || {
                for _ in 0..500 {
                    let mut guard = turn.lock();
                    while *guard % 4 != thread {
                        sleepers.sleep(&mut guard, None);
                    }
                    *guard += 1;
                    drop(guard);
                    sleepers.wake(u32::MAX >> 1);
                }
            });
        }
    });
    let mut guard = turn.lock();
    assert_eq!(*guard, 2000);
    while !sleepers.sleep(&mut guard, Some(Duration::from_millis(1))) {}
}
