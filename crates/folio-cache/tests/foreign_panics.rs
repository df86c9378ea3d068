//! Panics of foreign code: of a policy, a waker, a backing, and the writer of a recording.

mod common;

use std::io::{self, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::slice::from_ref;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::Duration;

use common::{Gated, assert_nothing_leaked, eventually};
use folio_cache::policy::{Advice, Frames, HotCold, Policy};
use folio_cache::testing::{Call, Distant, Fault, Memory};
use folio_cache::{Cache, File, ReadRequest};
use folio_frames::FRAME_SIZE;
use parking_lot::Mutex;

const PAGE: u64 = FRAME_SIZE as u64;

/// The default policy. Some calls of the chosen methods, which have a bit each, panic.
#[derive(Debug)]
struct Panics {
    policy: HotCold,
    chosen: Arc<AtomicU32>,
    random: Mutex<fastrand::Rng>,
}

impl Panics {
    fn may_panic(&self, method: u32) {
        if self.chosen.load(Ordering::Relaxed) & method != 0 {
            assert!(self.random.lock().u32(..5) > 0, "a policy that panics");
        }
    }
}

const METHODS: u32 = 8;

impl Policy for Panics {
    fn name(&self) -> &'static str {
        "panics"
    }
    fn insert(&mut self, frames: &dyn Frames, frame: u32, page: u64) {
        self.may_panic(1);
        self.policy.insert(frames, frame, page);
    }
    fn pick_victims(&mut self, frames: &dyn Frames, wanted: usize, victims: &mut Vec<u32>) {
        self.may_panic(2);
        self.policy.pick_victims(frames, wanted, victims);
        self.may_panic(4);
    }
    fn is_cold(&self, frame: u32) -> bool {
        self.may_panic(8);
        self.policy.is_cold(frame)
    }
    fn evicted_with(&mut self, frame: u32, page: u64) {
        self.may_panic(16);
        self.policy.evicted_with(frame, page);
    }
    fn restore(&mut self, frame: u32) {
        self.may_panic(32);
        self.policy.restore(frame);
    }
    fn moved(&mut self, frames: &dyn Frames, from: u32, to: u32) {
        self.may_panic(64);
        self.policy.moved(frames, from, to);
    }
    fn resize(&mut self, frames: u32) {
        self.may_panic(128);
        self.policy.resize(frames);
    }
}

/// Makes any call that asks a policy. A panic ends the call alone.
fn any_call(cache: &Cache, files: &[File], contents: &[u8], random: &mut fastrand::Rng) {
    let file = &files[random.usize(..files.len())];
    let len = random.usize(1..300_000);
    let offset = random.usize(..contents.len() - len);
    let (at, expected) = (offset as u64, &contents[offset..offset + len]);
    let call = || match random.u32(..12) {
        0 => assert!(file.bytes(at, len).is_ok_and(|bytes| bytes == expected)),
        1 => assert!(file.page(at).unwrap().is_some_and(|page| expected.starts_with(&page[..1]))),
        2 => _ = file.write_at(expected, at),
        3 => _ = file.range(at, 5000),
        4 => _ = cache.set_capacity([2 << 20, 8 << 20, 4 << 20][random.usize(..3)]),
        5 => _ = cache.frames().compact(1),
        6 => _ = cache.reclaim(100),
        7 => _ = file.with_advice(Advice::Once).read_at(&mut [0; 9000], at),
        8..11 => _ = file.read_at(&mut vec![0; len], at),
        _ => {
            let mut bufs = vec![[0; 100]; 50];
            let mut reads: Vec<_> = (0..)
                .step_by(100_000)
                .zip(&mut bufs)
                .map(|(at, buf)| ReadRequest::new(buf, at))
                .collect();
            file.read_many(&mut reads);
        }
    };
    let _ = catch_unwind(AssertUnwindSafe(call));
}

#[test]
fn a_policy_that_panics_loses_no_frame() {
    for method in (0..METHODS).map(|n| 1 << n).chain([u32::MAX]) {
        let panics = Arc::new(AtomicU32::new(0));
        let of_policy = Arc::clone(&panics);
        let make = move |frames| -> Box<dyn Policy> {
            let random = Mutex::new(fastrand::Rng::with_seed(9));
            Box::new(Panics { policy: HotCold::new(frames), chosen: of_policy, random })
        };
        let builder = Cache::builder().capacity(4 << 20).max_capacity(8 << 20);
        let cache = builder.policy(make).build().unwrap();
        let contents: Vec<u8> = (0..5 << 20).map(|n: u32| (n / 7) as u8).collect();
        let files = [
            cache.open_backing(Arc::new(Memory::new(&contents))).unwrap(),
            cache.open_async(Arc::new(Distant::new(&contents))).unwrap(),
        ];
        panics.store(method, Ordering::Relaxed);
        let mut random = fastrand::Rng::with_seed(u64::from(method));
        for _ in 0..300 {
            any_call(&cache, &files, &contents, &mut random);
        }
        panics.store(0, Ordering::Relaxed);
        let [near, distant] = files;
        near.close().unwrap();
        drop(distant);
        cache.reclaim(usize::MAX);
        assert_nothing_leaked(&cache);
        for capacity in [8 << 20, 2 << 20] {
            cache.set_capacity(capacity).unwrap();
        }
    }
}

/// Counts its calls, and panics then.
struct Bomb(AtomicUsize);

impl Wake for Bomb {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
        panic!("a waker that panics");
    }
}

/// Counts its calls.
#[derive(Default)]
struct Bell(AtomicUsize);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

fn bomb() -> (Arc<Bomb>, Waker) {
    let bomb = Arc::new(Bomb(AtomicUsize::new(0)));
    (Arc::clone(&bomb), Waker::from(bomb))
}

#[test]
fn a_waker_that_panics_leaves_no_other_asleep() {
    for threads in [1, 4] {
        let (gated, arrivals) = Gated::new(&[7; 8192], |call, _| call == Call::Fill);
        let cache = Cache::builder().capacity(4 << 20).io_threads(threads).build().unwrap();
        let file = cache.open_backing(gated.clone()).unwrap();
        let mut bufs = [[0; 10]; 4];
        let mut futures: Vec<Pin<Box<_>>> =
            bufs.iter_mut().map(|buf| Box::pin(file.read_at_async(buf, 100))).collect();
        let (bombs, waker) = bomb();
        let bells: Vec<_> = (0..4).map(|_| Arc::new(Bell::default())).collect();
        for (n, future) in futures.iter_mut().enumerate() {
            let waker = if n < 2 { waker.clone() } else { Waker::from(Arc::clone(&bells[n])) };
            assert!(future.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        }
        arrivals.recv_timeout(Duration::from_secs(20)).expect("a fill");
        gated.open();
        let woken = |n: usize| bells[n].0.load(Ordering::Relaxed) > 0;
        eventually("a waiter is left asleep", || woken(2) && woken(3));
        assert_eq!(bombs.0.load(Ordering::Relaxed), 2, "each waker is called");
        for future in futures {
            assert_eq!(pollster::block_on(future).unwrap(), 10);
        }
        assert_eq!(bufs, [[7; 10]; 4]);
        drop(file);
        assert_nothing_leaked(&cache);
    }
}

/// A second panic, in the destructor that tells the waiters, would end the process.
#[test]
fn a_backing_and_a_waker_that_panic_are_an_error() {
    for threads in [0, 1, 4] {
        let cache = Cache::builder().capacity(4 << 20).io_threads(threads).build().unwrap();
        let memory = Arc::new(Memory::new(&vec![7; 100_000]));
        memory.inject(Call::Fill, 0, u64::MAX, Fault::Delay(Duration::from_millis(5)));
        memory.inject(Call::Fill, 0, u64::MAX, Fault::Panic);
        let file = cache.open_backing(memory).unwrap();
        for page in 0..5 {
            let (_, waker) = bomb();
            let mut bufs = [[0; 10]; 3];
            let mut futures: Vec<Pin<Box<_>>> =
                bufs.iter_mut().map(|buf| Box::pin(file.read_at_async(buf, page * PAGE))).collect();
            for future in &mut futures {
                match future.as_mut().poll(&mut Context::from_waker(&waker)) {
                    Poll::Ready(result) => assert!(threads == 0 && result.is_err()),
                    Poll::Pending => assert!(pollster::block_on(future).is_err()),
                }
            }
        }
        drop(file);
        assert_nothing_leaked(&cache);
    }
}

#[test]
fn a_thread_that_unwinds_closes_a_file_of_a_backing_that_panics() {
    for call in [Call::Version, Call::Write] {
        let cache = Cache::new(4 << 20).unwrap();
        let memory = Arc::new(Memory::new(b"old"));
        let file = cache.open_backing(memory.clone()).unwrap();
        file.write_all_at(b"new", 0).unwrap();
        memory.inject(call, 0, u64::MAX, Fault::Panic);
        let unwinds = thread::spawn(move || {
            let _file = file;
            panic!("a panic of the user");
        });
        let panic = unwinds.join().expect_err("it panics");
        assert_eq!(panic.downcast_ref(), Some(&"a panic of the user"));
        memory.heal();
        cache.flush().unwrap();
        assert_eq!(memory.contents(), b"new");
        assert_nothing_leaked(&cache);
    }
}

#[test]
fn without_threads_a_panic_of_a_page_ahead_reaches_no_reader() {
    let cache = Cache::builder().capacity(4 << 20).io_threads(0).build().unwrap();
    let memory = Arc::new(Memory::new(&vec![7; 1 << 20]));
    let file = cache.open_backing(memory.clone()).unwrap();
    memory.inject(Call::Fill, 0, 1, Fault::Panic);
    file.prefetch(from_ref(&(0..1 << 20)));
    let mut buf = [0; FRAME_SIZE];
    for page in 0..40 {
        // The first of each pair is that of a window ahead, if one is due.
        let fills = memory.calls(Call::Fill);
        file.read_exact_at(&mut buf, page * PAGE).unwrap();
        if memory.calls(Call::Fill) > fills {
            memory.inject(Call::Fill, 0, 1, Fault::Panic);
            file.prefetch(from_ref(&(page * PAGE + PAGE..1 << 20)));
            memory.heal();
        }
    }
    drop(file);
    assert_nothing_leaked(&cache);
}

/// Takes some writes, and panics at each one after them.
struct PanicsAfter(usize, Arc<AtomicUsize>);

impl Write for PanicsAfter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let calls = self.1.fetch_add(1, Ordering::Relaxed);
        assert!(calls < self.0, "a writer that panics");
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        panic!("a writer that panics");
    }
}

#[test]
fn a_recording_ends_if_its_writer_panics() {
    let calls = Arc::new(AtomicUsize::new(0));
    let writer = PanicsAfter(4, Arc::clone(&calls));
    let cache = Cache::builder().capacity(4 << 20).record_uses(writer, 1).build().unwrap();
    let file = cache.open_backing(Arc::new(Memory::new(&vec![7; 1 << 20]))).unwrap();
    for n in 0..3000 {
        assert_eq!(file.read_at(&mut [0; 10], n % 256 * PAGE).unwrap(), 10);
    }
    // Two of the header, two buffers, and the one that panicked.
    assert_eq!(calls.load(Ordering::Relaxed), 5);
    drop(file);
    assert_nothing_leaked(&cache);
    drop(cache);
}
