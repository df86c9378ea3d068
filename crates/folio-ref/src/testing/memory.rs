//! For shuttle: the memory of C11, in which a load may return an older value than the last one.
//!
//! It is off unless a search over a weak memory runs the case. A
//! *location* is a list of messages, oldest first. A message has a value, and the *view* that an
//! acquiring load of it adds to the reader: the oldest message of each location that may still be
//! read. A thread has three views: what it may read now, what its relaxed loads have found (a later
//! acquire fence adds that), and what it knew at its last release fence (a relaxed store attaches
//! that). A `SeqCst` fence does both, and merges with a view that all of them share.
//!
//! The bytes of a frame are a location as well. An exclusive handle that hands them out for writing
//! begins a message. A racing copy may find any message that its thread may read. A reader with a
//! reference must know the last message, and a writer must know all reads: otherwise there is a
//! race, which ends the case.
//!
//! Locks, sleepers on a key and started threads hand views on. So do the system's locks, if they
//! say so by [`taken`] and [`released`].
//!
//! Not modelled: stores that take effect before an older store to the same location, loads that
//! return values of later stores (load buffering), `SeqCst` accesses other than fences, the bytes
//! of a frame one by one.

use core::cell::{Cell, RefCell};
use core::panic::Location;
use core::sync::atomic::Ordering;
use std::boxed::Box;
use std::collections::{HashMap, HashSet};
use std::format;
use std::string::String;
use std::sync::OnceLock;
use std::thread_local;
use std::vec::Vec;

use crate::testing::choices;

/// The bytes of a frame.
const PAGE: usize = 4096;

thread_local! {
    static ON: Cell<bool> = const { Cell::new(false) };
    static MEMORY: RefCell<Memory> = RefCell::default();
}

/// The oldest message of each location that may be read, by the location's number.
#[derive(Clone, Default)]
pub(crate) struct View(Vec<u32>);

impl View {
    fn get(&self, location: usize) -> u32 {
        self.0.get(location).copied().unwrap_or(0)
    }

    fn raise(&mut self, location: usize, to: u32) {
        if self.0.len() <= location {
            self.0.resize(location + 1, 0);
        }
        self.0[location] = self.0[location].max(to);
    }

    fn join(&mut self, other: &Self) {
        if self.0.len() < other.0.len() {
            self.0.resize(other.0.len(), 0);
        }
        for (mine, theirs) in self.0.iter_mut().zip(&other.0) {
            *mine = (*mine).max(*theirs);
        }
    }
}

#[derive(Clone, Default)]
struct Thread {
    now: View,
    acquired: View,
    released: View,
}

struct Message {
    value: u64,
    /// The bytes of a frame, before the next writer began. The last message has those in memory.
    bytes: Option<Box<[u8]>>,
    view: View,
}

impl Message {
    fn new(value: u64, view: View) -> Self {
        Self { value, bytes: None, view }
    }
}

/// The key of a location.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Key {
    Atomic(usize),
    Frame(usize),
    /// The reads of frames by a thread: no messages, only a number in views.
    Reads(usize),
}

#[derive(Default)]
struct Place {
    messages: Vec<Message>,
    /// Of a frame: each thread that read it by a reference, and the number of that read.
    readers: HashMap<usize, u32>,
}

impl Place {
    fn last(&self) -> u32 {
        self.messages.len() as u32 - 1
    }
}

#[derive(Default)]
struct Memory {
    numbers: HashMap<Key, usize>,
    locations: Vec<Place>,
    threads: HashMap<usize, Thread>,
    /// Of locks and of keys to sleep on.
    handed_on: HashMap<usize, View>,
    fences: View,
    /// The old messages that a thread has read: thread, location, message.
    known: HashSet<(usize, usize, u32)>,
}

impl Memory {
    fn number(&mut self, key: Key) -> usize {
        let Self { numbers, locations, .. } = self;
        *numbers.entry(key).or_insert_with(|| {
            locations.push(Place::default());
            locations.len() - 1
        })
    }

    /// Returns the location of an atomic that holds `value`. Its first message is known to all.
    fn atomic(&mut self, at: usize, value: u64) -> usize {
        let number = self.number(Key::Atomic(at));
        let messages = &mut self.locations[number].messages;
        // Another value: the memory was used for something else meanwhile.
        if messages.last().is_none_or(|last| last.value != value) {
            messages.clear();
            messages.push(Message::new(value, View::default()));
            self.known.retain(|&(_, location, _)| location != number);
            self.forget(number);
        }
        number
    }

    /// Lets each thread read a location from its first message on.
    fn forget(&mut self, number: usize) {
        let threads = self.threads.values_mut();
        let views = threads
            .flat_map(|thread| [&mut thread.now, &mut thread.acquired, &mut thread.released]);
        let views = views.chain(self.handed_on.values_mut()).chain([&mut self.fences]);
        let messages = self.locations.iter_mut().flat_map(|location| &mut location.messages);
        for view in views.chain(messages.map(|message| &mut message.view)) {
            if let Some(from) = view.0.get_mut(number) {
                *from = 0;
            }
        }
    }

    fn me(&mut self) -> &mut Thread {
        self.threads.entry(this_thread()).or_default()
    }

    /// Chooses a message by its age, of those that may be read. Old values that the thread has read
    /// before do not count again.
    fn choose(&mut self, location: usize, ages: &[u32]) -> u32 {
        let (me, newest) = (this_thread(), self.locations[location].last());
        let known = |index: usize| self.known.contains(&(me, location, newest - ages[index]));
        let message = newest - ages[choices::choose(ages.len() - 1, known)];
        if message < newest {
            self.known.insert((me, location, message));
        }
        message
    }

    /// Reads a message: adds what it hands on.
    fn read(&mut self, location: usize, message: u32, order: Ordering) -> u64 {
        let Message { value, view, .. } = &self.locations[location].messages[message as usize];
        let thread = self.threads.entry(this_thread()).or_default();
        thread.now.raise(location, message);
        thread.acquired.join(view);
        thread.acquired.raise(location, message);
        if acquires(order) {
            thread.now.join(view);
        }
        *value
    }

    /// Appends a message. `before`: the view of the message that it replaces in one step.
    fn write(&mut self, location: usize, value: u64, order: Ordering, before: Option<View>) {
        let message = self.locations[location].messages.len() as u32;
        let thread = self.me();
        thread.now.raise(location, message);
        thread.acquired.raise(location, message);
        let mut view = if releases(order) { thread.now.clone() } else { thread.released.clone() };
        view.raise(location, message);
        // A release sequence goes on through read-modify-writes, of any thread.
        if let Some(before) = before {
            view.join(&before);
        }
        self.locations[location].messages.push(Message::new(value, view));
    }

    /// Returns the location of a frame.
    fn frame(&mut self, page: usize) -> usize {
        let number = self.number(Key::Frame(page));
        let messages = &mut self.locations[number].messages;
        if messages.is_empty() {
            messages.push(Message::new(0, View::default()));
        }
        number
    }
}

fn this_thread() -> usize {
    shuttle::current::me().into()
}

fn acquires(order: Ordering) -> bool {
    assert!(order != Ordering::SeqCst, "a SeqCst access is not modelled: use a fence");
    matches!(order, Ordering::Acquire | Ordering::AcqRel)
}

fn releases(order: Ordering) -> bool {
    assert!(order != Ordering::SeqCst, "a SeqCst access is not modelled: use a fence");
    matches!(order, Ordering::Release | Ordering::AcqRel)
}

/// Switches the model on or off. It forgets all that was before.
pub(crate) fn switch(on: bool) {
    ON.set(on);
    MEMORY.take();
}

/// Returns `true` if the model is on for this thread.
pub(crate) fn is_on() -> bool {
    ON.get() && !std::thread::panicking()
}

/// Runs `act` with the model if it is on.
fn with(act: impl FnOnce(&mut Memory)) {
    if is_on() {
        MEMORY.with_borrow_mut(act);
    }
}

/// Returns what a load of an atomic returns. `last` is its last value.
pub(crate) fn load(at: usize, last: u64, order: Ordering) -> u64 {
    let mut value = last;
    with(|memory| {
        let location = memory.atomic(at, last);
        let newest = memory.locations[location].last();
        let oldest = memory.me().now.get(location);
        let ages: Vec<u32> = (0..=newest - oldest).collect();
        let message = memory.choose(location, &ages);
        value = memory.read(location, message, order);
    });
    value
}

/// Records a store to an atomic. `last` was its last value.
pub(crate) fn store(at: usize, last: u64, value: u64, order: Ordering) {
    with(|memory| {
        let location = memory.atomic(at, last);
        memory.write(location, value, order, None);
    });
}

/// Records a read-modify-write of an atomic. `last` was its last value.
pub(crate) fn update(at: usize, last: u64, value: u64, order: Ordering) {
    with(|memory| {
        let location = memory.atomic(at, last);
        let newest = memory.locations[location].last();
        memory.read(location, newest, order);
        let before = memory.locations[location].messages[newest as usize].view.clone();
        memory.write(location, value, order, Some(before));
    });
}

/// Returns the value that lets a compare-and-swap fail, or `None` if it succeeds. Records it.
pub(crate) fn compare(
    at: usize,
    last: u64,
    (old, new): (u64, u64),
    (won, lost): (Ordering, Ordering),
) -> Option<u64> {
    let mut found = (last != old).then_some(last);
    let mut wins = last == old;
    with(|memory| {
        let location = memory.atomic(at, last);
        let newest = memory.locations[location].last();
        let oldest = memory.me().now.get(location);
        // An older message with the expected value cannot be replaced, so it is not what is read.
        let messages = &memory.locations[location].messages;
        let other = |&age: &u32| age == 0 || messages[(newest - age) as usize].value != old;
        let ages: Vec<u32> = (0..=newest - oldest).filter(other).collect();
        let message = memory.choose(location, &ages);
        wins = message == newest && last == old;
        if !wins {
            found = Some(memory.read(location, message, lost));
        }
    });
    if wins {
        update(at, last, new, won);
    }
    found.filter(|_| !wins)
}

/// An ordering that is weaker in this process than the code says (`cargo x orderings`).
struct Weaker {
    /// `FILE:LINE` of the operation.
    place: String,
    was: String,
    /// `None`: a fence that is left out.
    is: Option<Ordering>,
}

/// Returns the ordering with which an operation runs: as the code says, or weaker if the
/// environment variable `WEAKEN` is `FILE:LINE WAS IS`. Returns `None` for a fence that is left
/// out.
#[track_caller]
pub(crate) fn weakened(order: Ordering) -> Option<Ordering> {
    static WEAKER: OnceLock<Option<Weaker>> = OnceLock::new();
    let weaker = WEAKER.get_or_init(|| {
        let text = std::env::var("WEAKEN").ok()?;
        let mut words = text.split(' ').map(String::from);
        let (place, was, is) = (words.next()?, words.next()?, words.next()?);
        let orders = [Ordering::Acquire, Ordering::Release, Ordering::AcqRel];
        let is = orders.into_iter().find(|order| format!("{order:?}") == is);
        Some(Weaker { place, was, is })
    });
    let Some(Weaker { place, was, is }) = weaker else { return Some(order) };
    let caller = Location::caller();
    let is_it =
        format!("{order:?}") == *was && format!("{}:{}", caller.file(), caller.line()) == *place;
    if is_it { *is } else { Some(order) }
}

/// Returns the ordering of an access: as the code says, or weaker in a test of the tests.
#[track_caller]
pub(crate) fn order(order: Ordering) -> Ordering {
    weakened(order).unwrap_or(Ordering::Relaxed)
}

/// Records a fence.
pub(crate) fn fence(order: Ordering) {
    with(|memory| {
        let mut shared = std::mem::take(&mut memory.fences);
        let thread = memory.me();
        if order != Ordering::Release {
            thread.now.join(&thread.acquired);
        }
        if order == Ordering::SeqCst {
            thread.now.join(&shared);
            thread.acquired.join(&shared);
            shared.join(&thread.now);
        }
        if order != Ordering::Acquire {
            thread.released = thread.now.clone();
        }
        memory.fences = shared;
    });
}

/// Records that the lock at this address was taken, or its list of sleepers visited.
pub fn taken(lock: usize) {
    with(|memory| {
        let view = memory.handed_on.get(&lock).cloned().unwrap_or_default();
        let thread = memory.me();
        thread.now.join(&view);
        thread.acquired.join(&view);
    });
}

/// Records that the lock at this address is about to be released.
pub fn released(lock: usize) {
    with(|memory| {
        let now = memory.me().now.clone();
        memory.handed_on.entry(lock).or_default().join(&now);
    });
}

/// Returns the view of the calling thread, for a thread that it starts.
pub(crate) fn mine() -> View {
    let mut view = View::default();
    with(|memory| view = memory.me().now.clone());
    view
}

/// Adds the view of the thread that started this one.
pub(crate) fn inherit(view: &View) {
    with(|memory| {
        let thread = memory.me();
        thread.now.join(view);
        thread.acquired.join(view);
    });
}

/// Records that the bytes of these frames, at `at`, are handed out for writing.
///
/// # Panics
///
/// Panics if the thread may not know the last write, or a read by a reference: a race.
pub fn written(at: usize, bytes: &[u8]) {
    with(|memory| {
        for (n, bytes) in bytes.chunks(PAGE).enumerate() {
            let frame = memory.frame(at / PAGE + n);
            let newest = memory.locations[frame].last();
            let readers: Vec<_> = memory.locations[frame].readers.drain().collect();
            let me = this_thread();
            for (thread, read) in readers {
                let reads = memory.number(Key::Reads(thread));
                assert!(
                    thread == me || memory.me().now.get(reads) >= read,
                    "thread {me} writes to a frame beside a read by thread {thread} (R6)"
                );
            }
            let thread = memory.me();
            assert!(
                thread.now.get(frame) == newest,
                "thread {me} writes to a frame beside another write (R6)"
            );
            let view = thread.released.clone();
            thread.now.raise(frame, newest + 1);
            let messages = &mut memory.locations[frame].messages;
            messages[newest as usize].bytes = Some(bytes.into());
            messages.push(Message::new(0, view));
        }
    });
}

/// Records that a reference ends by which this thread may have read the frame until now.
pub fn ended(at: usize) {
    with(|memory| {
        let (me, frame) = (this_thread(), memory.frame(at / PAGE));
        let reads = memory.number(Key::Reads(me));
        let number = memory.me().now.get(reads) + 1;
        if let Some(read) = memory.locations[frame].readers.get_mut(&me) {
            *read = number;
            memory.me().now.raise(reads, number);
        }
    });
}

/// Records a read of these frames by a reference.
///
/// # Panics
///
/// Panics if the thread may not know the last write: a race.
pub fn read(at: usize, len: usize) {
    with(|memory| {
        let me = this_thread();
        let reads = memory.number(Key::Reads(me));
        let number = memory.me().now.get(reads) + 1;
        memory.me().now.raise(reads, number);
        for page in at / PAGE..(at + len).div_ceil(PAGE) {
            let frame = memory.frame(page);
            let newest = memory.locations[frame].last();
            assert!(
                memory.me().now.get(frame) == newest,
                "thread {me} reads a frame beside a write (R6)"
            );
            memory.locations[frame].readers.insert(me, number);
        }
    });
}

/// Returns what a racing copy of some bytes of one frame finds, if it is older than `live`, the
/// bytes in memory.
pub fn copied(at: usize, live: &[u8]) -> Option<Vec<u8>> {
    let mut older = None;
    with(|memory| {
        let frame = memory.frame(at / PAGE);
        let newest = memory.locations[frame].last();
        let oldest = memory.me().now.get(frame);
        let ages: Vec<u32> = (0..=newest - oldest).collect();
        let chosen = memory.choose(frame, &ages);
        let message = &memory.locations[frame].messages[chosen as usize];
        let bytes = message.bytes.as_ref().filter(|_| chosen < newest);
        older = bytes.map(|bytes| bytes[at % PAGE..at % PAGE + live.len()].to_vec());
        let view = message.view.clone();
        let thread = memory.me();
        thread.acquired.join(&view);
        thread.acquired.raise(frame, chosen);
    });
    older
}
