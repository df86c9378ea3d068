//! Wakers of which the clone or the drop is foreign code that panics, or that uses the cache.

mod common;

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, RawWaker, RawWakerVTable, Waker};

use common::hanging::{Hanging, HealOnDrop, ends, within};
use folio_cache::testing::{Call, Memory};
use folio_cache::{Cache, File};
use parking_lot::Mutex;

/// The act of a clone or a drop of a waker, once.
type Act = Mutex<Option<Box<dyn FnOnce() + Send>>>;

/// A task that notes that it was woken.
#[derive(Default)]
struct Task {
    is_woken: AtomicBool,
    at_clone: Act,
    at_drop: Act,
}

/// Takes the act and runs it. It may panic, or lock.
fn run(act: &Act) {
    let act = act.lock().take();
    if let Some(act) = act {
        act();
    }
}

static TABLE: RawWakerVTable = RawWakerVTable::new(clone, wake, wake_by_ref, drop_waker);

/// Returns the task of a waker.
fn task<'t>(data: *const ()) -> &'t Task {
    // SAFETY: `data` comes from `Arc::into_raw`, and the waker counts as one reference.
    unsafe { &*data.cast::<Task>() }
}

fn clone(data: *const ()) -> RawWaker {
    run(&task(data).at_clone);
    // SAFETY: as in `task`.
    unsafe { Arc::increment_strong_count(data.cast::<Task>()) };
    RawWaker::new(data, &TABLE)
}

fn wake(data: *const ()) {
    wake_by_ref(data);
    drop_waker(data);
}

fn wake_by_ref(data: *const ()) {
    task(data).is_woken.store(true, Ordering::SeqCst);
}

fn drop_waker(data: *const ()) {
    run(&task(data).at_drop);
    // SAFETY: as in `task`. The waker is not used any more.
    unsafe { Arc::decrement_strong_count(data.cast::<Task>()) };
}

fn waker(task: &Arc<Task>) -> Waker {
    let data = Arc::into_raw(Arc::clone(task)).cast::<()>();
    // SAFETY: the functions of the table keep the contract: they count references to the task.
    unsafe { Waker::from_raw(RawWaker::new(data, &TABLE)) }
}

type Read<'f> = Pin<Box<dyn Future<Output = std::io::Result<usize>> + Send + 'f>>;

fn poll(read: &mut Read<'_>, waker: &Waker) -> Poll<std::io::Result<usize>> {
    read.as_mut().poll(&mut Context::from_waker(waker))
}

/// Returns a file with a fetch of its first page that hangs, and its backing.
fn hung_fetch(cache: &Cache, buf: &mut [u8]) -> (File, Arc<Hanging>) {
    let sick = Hanging::new(&[5; 4096]);
    let file = cache.open_backing(sick.clone()).unwrap();
    sick.hang(Call::Fill);
    let mut first: Read<'_> = Box::pin(file.read_at_async(buf, 0));
    assert!(poll(&mut first, Waker::noop()).is_pending());
    sick.wait_until_it_hangs();
    drop(first);
    (file, sick)
}

#[test]
fn a_future_is_woken_after_a_clone_of_its_waker_panicked() {
    // The clone for the future's own state is the first one. That for the request is a later one.
    for skipped in 0..4 {
        let cache: Cache = Cache::new(8 << 20).unwrap();
        let mut bufs = [[0; 8]; 3];
        let [one, two, three] = &mut bufs;
        let (file, sick) = hung_fetch(&cache, one);
        let heal = HealOnDrop(vec![sick]);
        let second = Arc::new(Task::default());
        let waker = waker(&second);
        panic_at_clone(&second, skipped);
        let mut read: Read<'_> = Box::pin(file.read_at_async(two, 0));
        let _ = catch_unwind(AssertUnwindSafe(|| poll(&mut read, &waker).is_pending()));
        drop(read);
        second.at_clone.lock().take();
        let mut read: Read<'_> = Box::pin(file.read_at_async(three, 0));
        assert!(poll(&mut read, &waker).is_pending());
        drop(heal);
        within("it is not woken", || second.is_woken.load(Ordering::SeqCst));
        drop(read);
        assert_eq!(pollster::block_on(file.read_at_async(&mut [0; 8], 0)).unwrap(), 8);
    }
}

/// Has the clone of the task's waker panic, after some that do not.
fn panic_at_clone(task: &Arc<Task>, skipped: u32) {
    let again = Arc::downgrade(task);
    *task.at_clone.lock() = Some(Box::new(move || {
        assert!(skipped > 0, "a clone panics");
        if let Some(task) = again.upgrade() {
            panic_at_clone(&task, skipped - 1);
        }
    }));
}

/// Has each clone and drop of the task's waker use the cache.
fn use_at_each(task: &Arc<Task>, file: &File) {
    for is_clone in [true, false] {
        let (again, file) = (Arc::downgrade(task), file.clone());
        let act: Box<dyn FnOnce() + Send> = Box::new(move || {
            file.invalidate();
            assert_eq!(file.read_at(&mut [0; 8], 9 * 4096).unwrap(), 8);
            if let Some(task) = again.upgrade() {
                use_at_each(&task, &file);
            }
        });
        *if is_clone { task.at_clone.lock() } else { task.at_drop.lock() } = Some(act);
    }
}

#[test]
fn clones_and_drops_of_wakers_may_use_the_cache() {
    let cache: Cache = Cache::new(8 << 20).unwrap();
    let other = cache.open_backing(Arc::new(Memory::new(&vec![6; 100_000]))).unwrap();
    let (file, sick) = hung_fetch(&cache, &mut [0; 8]);
    let heal = HealOnDrop(vec![sick]);
    let task = Arc::new(Task::default());
    let (reading, polled, used) = (file.clone(), Arc::clone(&task), other.clone());
    ends("a poll", move || {
        let waker = waker(&polled);
        use_at_each(&polled, &used);
        for _ in 0..3 {
            let mut buf = [0; 8];
            let mut read: Read<'_> = Box::pin(reading.read_at_async(&mut buf, 0));
            assert!((0..3).all(|_| poll(&mut read, &waker).is_pending()));
        }
        polled.at_clone.lock().take();
        polled.at_drop.lock().take();
    });
    drop(heal);
    within("it is not woken", || task.is_woken.load(Ordering::SeqCst));
    drop((file, other));
    common::assert_nothing_leaked(&cache);
}
