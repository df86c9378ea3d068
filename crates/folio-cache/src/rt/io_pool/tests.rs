//! The tests of the threads that fill pages.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use super::*;
use crate::rt::io_request::Alone;

/// An extent of one page that counts how often it is filled.
struct Counted(u64, Arc<AtomicUsize>);

impl Extent for Counted {
    fn pages(&self) -> Pages {
        Pages { mapping: 7, pages: self.0..self.0 + 1 }
    }
    fn fill(self: Box<Self>) {
        self.1.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn an_extent_for_a_reader_that_never_comes_is_filled_soon() {
    let (pool, filled) = (IoPool::new("test"), Arc::new(AtomicUsize::new(0)));
    let mut waits = Vec::new();
    for page in 0..5 {
        let begun = Instant::now();
        pool.push(Box::new(Counted(page, Arc::clone(&filled))), FilledBy::Reader);
        while filled.load(Ordering::SeqCst) as u64 <= page && begun.elapsed() < IDLE / 2 {
            back_off(Duration::from_millis(1));
        }
        waits.push(begun.elapsed());
    }
    assert_eq!(filled.load(Ordering::SeqCst), 5, "after {waits:?}");
}

#[test]
fn the_last_thread_fills_an_extent_before_it_ends() {
    for _ in 0..20 {
        let (pool, filled) = (IoPool::new("test"), Arc::new(AtomicUsize::new(0)));
        let seen = Arc::clone(&filled);
        let ends_after_the_extent = move || {
            let begun = Instant::now();
            while seen.load(Ordering::SeqCst) == 0 && begun.elapsed() < IDLE {
                back_off(Duration::from_millis(1));
            }
            seen.fetch_add(10, Ordering::SeqCst);
        };
        let pages = Pages { mapping: 7, pages: 9..10 };
        let fetch = Arc::new(Alone(pages, ends_after_the_extent));
        pool.fetch(fetch.clone(), Waker::noop());
        while pool.shared.queue.lock().fetching == 0 {
            thread::yield_now();
        }
        assert!(pool.push(Box::new(Counted(0, Arc::clone(&filled))), FilledBy::Reader));
        pool.set_io_threads(0);
        while filled.load(Ordering::SeqCst) < 10 {
            back_off(Duration::from_millis(1));
        }
        assert_eq!(filled.load(Ordering::SeqCst), 11, "the extent was not filled in time");
        drop(fetch);
    }
}

#[test]
fn extents_for_readers_can_be_taken_dropped_and_waited_for() {
    let (pool, filled) = (IoPool::new("test"), Arc::new(AtomicUsize::new(0)));
    let mut dropped = 0;
    for page in 0..3 * MAX_PATIENT as u64 {
        pool.push(Box::new(Counted(page, Arc::clone(&filled))), FilledBy::Reader);
        match pool.take(7, page as u32) {
            Some(extent) if page % 3 == 0 => extent.fill(),
            Some(_) if page % 3 == 1 => dropped += 1,
            Some(extent) => assert!(pool.push(extent, FilledBy::Reader)),
            None => {}
        }
    }
    pool.quiesce();
    assert_eq!(filled.load(Ordering::SeqCst) + dropped, 3 * MAX_PATIENT);
    assert_eq!(pool.shared.queue.lock().waiting(), 0);
}
