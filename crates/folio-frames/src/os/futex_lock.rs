//! A lock, and sleeping on an address, of which the state is in the process alone.
//!
//! Each lock is a word on which the system lets threads sleep. There is no table of sleeping
//! threads. After `fork()`, such a table names threads that the child does not have, and memory
//! that its new threads use. A lock that no thread held at the fork works in the child.
//!
//! | word | |
//! | --- | --- |
//! | 0 | free |
//! | 1 | locked |
//! | 2 | locked, and threads may sleep |
//! | 3 | locked, and a thread has slept for long: the lock is to be handed over |
//! | 4 | handed over: free for a thread that has slept, or that only tries |
//!
//! | from | by | to |
//! | --- | --- | --- |
//! | 0 | lock | 1, or 2 by a thread that may have slept beside others |
//! | 1 | a thread that is about to sleep | 2 |
//! | 2 | one that has slept for [`LONG`] | 3 |
//! | 1, 2 | unlock, which wakes a thread from 2 | 0 |
//! | 3 | unlock, which wakes a thread | 4 |
//! | 4 | lock, after a sleep | 2 |
//!
//! **Invariant:** a thread sleeps only while the word is 2, 3 or 4. So the next unlock wakes one,
//! or the thread that was woken last has not looked yet. That thread leaves the word at 2 or 3.
//!
//! The unsafe code here is the promise of `RawMutex`.

use core::hint::spin_loop;
use core::sync::atomic::{AtomicU32, Ordering};
use core::time::Duration;
use std::thread;
use std::time::Instant;

#[cfg(not(shuttle))]
use crossbeam_utils::CachePadded;
use lock_api::{GuardNoSend, RawMutex, RawMutexTimed};
#[cfg(not(miri))]
use rustix::{io::Errno, thread::Timespec, thread::futex};

use crate::base::seeded_bugs::lock_never_handed;

const FREE: u32 = 0;
const LOCKED: u32 = 1;
const SLEPT_ON: u32 = 2;
const WANTED: u32 = 3;
const HANDED: u32 = 4;

/// The sleep after which a thread wants the lock handed over.
const LONG: Duration = Duration::from_millis(1);

/// The first looks before a thread sleeps: the pauses before them double. Before the others it
/// yields.
const SHORT_LOOKS: u32 = 3;

/// A lock of one word, which a child process can use if no thread held it at the fork.
pub type FutexLock = WordLock<AtomicU32>;

/// A lock in a word of the process's memory, or of the weak one that tests play.
#[derive(Debug)]
pub struct WordLock<W>(W);

/// A word on which threads sleep.
#[doc(hidden)]
pub trait Word: Send + Sync {
    /// A word that is 0.
    const ZERO: Self;
    /// The looks before a thread sleeps.
    const LOOKS: u32;

    #[track_caller]
    fn load(&self, order: Ordering) -> u32;

    /// Returns `true` if the value was `old`, and is `new` now.
    #[track_caller]
    fn change(&self, old: u32, new: u32, order: Ordering) -> bool;

    /// Sleeps while the word has a value, until a wake-up of the word or the end of the time.
    /// Returns `true` at the end of the time. May return early.
    fn sleep(&self, value: u32, most: Option<Duration>) -> bool;

    /// Wakes up to `most` threads. By address only: the lock may be gone by now, and another word
    /// be there.
    fn wake(&self, most: u32);

    /// Returns `true` if a thread that sleeps since then has slept for long.
    fn is_long(since: Instant) -> bool;
}

impl Word for AtomicU32 {
    const ZERO: Self = Self::new(0);
    const LOOKS: u32 = 10;

    #[inline(always)]
    fn load(&self, order: Ordering) -> u32 {
        self.load(order)
    }

    #[inline(always)]
    fn change(&self, old: u32, new: u32, order: Ordering) -> bool {
        self.compare_exchange(old, new, order, Ordering::Relaxed).is_ok()
    }

    #[cfg(not(miri))]
    fn sleep(&self, value: u32, most: Option<Duration>) -> bool {
        let most = most.map(|most| Timespec {
            tv_sec: most.as_secs().try_into().unwrap_or(i64::MAX),
            tv_nsec: most.subsec_nanos().into(),
        });
        futex::wait(self, futex::Flags::PRIVATE, value, most.as_ref()) == Err(Errno::TIMEDOUT)
    }

    #[cfg(not(miri))]
    fn wake(&self, most: u32) {
        let woken = futex::wake(self, futex::Flags::PRIVATE, most);
        debug_assert!(woken.is_ok(), "a wake-up failed: {woken:?}");
    }

    /// Returns early: Miri refuses the types that rustix gives the system call.
    #[cfg(miri)]
    fn sleep(&self, _: u32, _: Option<Duration>) -> bool {
        thread::yield_now();
        false
    }

    #[cfg(miri)]
    fn wake(&self, _: u32) {}

    fn is_long(since: Instant) -> bool {
        since.elapsed() > LONG
    }
}

/// A word of the weak memory. A wake-up reaches all threads. A time never ends.
#[cfg(shuttle)]
impl Word for folio_ref::testing::stepped::AtomicU32 {
    const ZERO: Self = Self::new(0);
    const LOOKS: u32 = 0;

    #[track_caller]
    fn load(&self, order: Ordering) -> u32 {
        self.load(order)
    }

    #[track_caller]
    fn change(&self, old: u32, new: u32, order: Ordering) -> bool {
        self.compare_exchange(old, new, order, Ordering::Relaxed).is_ok()
    }

    fn sleep(&self, value: u32, _: Option<Duration>) -> bool {
        let still = || self.load(Ordering::Relaxed) == value;
        folio_ref::testing::stepped::wait(core::ptr::from_ref(self).addr(), &still);
        false
    }

    fn wake(&self, _: u32) {
        folio_ref::testing::stepped::wake_all(core::ptr::from_ref(self).addr());
    }

    fn is_long(_: Instant) -> bool {
        true
    }
}

/// A lock over the weak memory, for tests.
#[cfg(shuttle)]
pub type WeakLock = WordLock<folio_ref::testing::stepped::AtomicU32>;

impl<W: Word> WordLock<W> {
    #[inline(always)]
    fn take(&self, from: u32, to: u32) -> bool {
        // Acquire: pairs with Release in unlock.
        self.0.change(from, to, Ordering::Acquire)
    }

    /// Looks at the lock for a moment. Returns `true` if it was taken.
    fn spin(&self) -> bool {
        for look in 0..W::LOOKS {
            // Relaxed, here and below: take decides.
            match self.0.load(Ordering::Relaxed) {
                FREE if self.take(FREE, LOCKED) => return true,
                FREE | LOCKED => {}
                // Others sleep already.
                _ => return false,
            }
            if look < SHORT_LOOKS {
                (0..2 << look).for_each(|_| spin_loop());
            } else {
                thread::yield_now();
            }
        }
        false
    }

    /// Takes the lock after a sleep. Returns `false` at the end of the time.
    #[cold]
    fn take_slowly(&self, end: Option<Instant>) -> bool {
        if self.spin() {
            return true;
        }
        let mut begun = None;
        loop {
            let word = self.0.load(Ordering::Relaxed);
            match word {
                FREE if self.take(FREE, SLEPT_ON) => return true,
                HANDED if begun.is_some() && self.take(HANDED, SLEPT_ON) => return true,
                FREE => continue,
                _ => {}
            }
            let sleeps_on = match word {
                LOCKED => SLEPT_ON,
                SLEPT_ON if begun.is_some_and(W::is_long) => WANTED,
                other => other,
            };
            if sleeps_on != word && !self.0.change(word, sleeps_on, Ordering::Relaxed) {
                continue;
            }
            // After the word: an unlock that woke this thread relies on it to leave a mark.
            let now = Instant::now();
            begun.get_or_insert(now);
            let left = end.map(|end| end.saturating_duration_since(now));
            if left.is_some_and(|left| left.is_zero()) {
                return false;
            }
            // A thread that was not there before leaves the lock to those that were, for a moment.
            let most = (sleeps_on == HANDED).then_some(LONG);
            let left = left.into_iter().chain(most).min();
            let _ = self.0.sleep(sleeps_on, left);
        }
    }

    #[cold]
    fn unlock_slowly(&self) {
        // The owner alone leaves these words; others only change 1 to 2 and 2 to 3.
        loop {
            let word = self.0.load(Ordering::Relaxed);
            let is_handed = word == WANTED && !lock_never_handed();
            let to = if is_handed { HANDED } else { FREE };
            // Release: pairs with Acquire in take.
            if self.0.change(word, to, Ordering::Release) {
                break;
            }
        }
        self.0.wake(1);
    }
}

// SAFETY: the lock is taken by a change to 1 or 2, which is only possible from 0 and 4, and only
// the unlock of its owner leads there.
unsafe impl<W: Word> RawMutex for WordLock<W> {
    const INIT: Self = Self(W::ZERO);
    type Guard = GuardNoSend;

    #[inline]
    fn lock(&self) -> GuardNoSend {
        if !self.take(FREE, LOCKED) {
            self.take_slowly(None);
        }
        GuardNoSend::new()
    }

    #[inline]
    fn try_lock(&self) -> Option<GuardNoSend> {
        // Relaxed: take decides. A load leaves the line of a lock that is held to its owner.
        let is_taken = match self.0.load(Ordering::Relaxed) {
            FREE => self.take(FREE, LOCKED),
            HANDED => self.take(HANDED, SLEPT_ON),
            _ => false,
        };
        is_taken.then_some(GuardNoSend::new())
    }

    #[inline]
    unsafe fn unlock(&self, _: GuardNoSend) {
        // Release: pairs with Acquire in take.
        if !self.0.change(LOCKED, FREE, Ordering::Release) {
            self.unlock_slowly();
        }
    }

    #[inline]
    fn is_locked(&self) -> bool {
        !matches!(self.0.load(Ordering::Relaxed), FREE | HANDED)
    }
}

// SAFETY: as above.
unsafe impl<W: Word> RawMutexTimed for WordLock<W> {
    type Duration = Duration;
    type Instant = Instant;

    fn try_lock_for(&self, time: Duration) -> Option<GuardNoSend> {
        if self.take(FREE, LOCKED) {
            return Some(GuardNoSend::new());
        }
        // A time without an end waits for ever.
        self.take_slowly(Instant::now().checked_add(time)).then_some(GuardNoSend::new())
    }

    fn try_lock_until(&self, end: Instant) -> Option<GuardNoSend> {
        (self.take(FREE, LOCKED) || self.take_slowly(Some(end))).then_some(GuardNoSend::new())
    }
}

/// Where threads sleep that wait for the end of something: a condition variable.
///
/// ```
/// use folio_frames::{FutexLock, Sleepers};
///
/// let (done, sleepers) = (lock_api::Mutex::<FutexLock, _>::new(false), Sleepers::new());
/// std::thread::scope(|scope| {
///     scope.spawn(|| {
///         *done.lock() = true;
///         sleepers.wake(1);
///     });
///     let mut guard = done.lock();
///     while !*guard {
///         sleepers.sleep(&mut guard, None);
///     }
/// });
/// ```
#[derive(Debug, Default)]
pub struct Sleepers {
    /// The number of wake-ups.
    wakes: AtomicU32,
    /// The threads that sleep, or are about to.
    threads: AtomicU32,
}

impl Sleepers {
    /// Returns a place without threads.
    pub const fn new() -> Self {
        Self { wakes: AtomicU32::new(0), threads: AtomicU32::new(0) }
    }

    /// Unlocks, sleeps until a wake-up or the end of the time, and locks again. Returns `true` at
    /// the end of the time. May return early.
    pub fn sleep<T: ?Sized>(
        &self,
        guard: &mut lock_api::MutexGuard<'_, FutexLock, T>,
        most: Option<Duration>,
    ) -> bool {
        // Relaxed, in both: under the lock, which orders them with what a thread that wakes did
        // under it.
        self.threads.fetch_add(1, Ordering::Relaxed);
        let wakes = self.wakes.load(Ordering::Relaxed);
        lock_api::MutexGuard::unlocked(guard, || {
            let is_over = self.wakes.sleep(wakes, most);
            self.threads.fetch_sub(1, Ordering::Relaxed);
            is_over
        })
    }

    /// Wakes up to `most` threads. Those that sleep because of a state are sure to be found if the
    /// state was changed under their lock before.
    pub fn wake(&self, most: u32) {
        // Relaxed: ordered by the lock.
        if self.threads.load(Ordering::Relaxed) > 0 {
            // Before the wake-up: a thread that is about to sleep finds another number.
            self.wakes.fetch_add(1, Ordering::Relaxed);
            self.wakes.wake(most);
        }
    }
}

/// Words on which threads sleep that wait for an address.
#[cfg(not(shuttle))]
const WORDS: usize = 64;

#[cfg(not(shuttle))]
static SLEEP_ON: [CachePadded<AtomicU32>; WORDS] =
    [const { CachePadded::new(AtomicU32::new(0)) }; WORDS];

#[cfg(not(shuttle))]
fn word_of(key: usize) -> &'static AtomicU32 {
    // The bits of slots in a page, and of pages.
    &SLEEP_ON[((key >> 3) ^ (key >> 12)) % WORDS]
}

/// Sleeps on an address until [`wake_all`], while `still` holds.
#[cfg(not(shuttle))]
pub(super) fn wait(key: usize, still: &dyn Fn() -> bool) {
    let word = word_of(key);
    // Acquire: pairs with Release in wake_all: a thread that sees the wake-up sees what came before
    // it.
    let wakes = word.load(Ordering::Acquire);
    if still() {
        let _ = word.sleep(wakes, None);
    }
}

/// Wakes the threads that sleep on an address, and perhaps others.
#[cfg(not(shuttle))]
pub(super) fn wake_all(key: usize) {
    let word = word_of(key);
    // Release: pairs with Acquire in wait.
    word.fetch_add(1, Ordering::Release);
    word.wake(i32::MAX.cast_unsigned());
}

#[cfg(all(test, not(shuttle)))]
mod tests;
