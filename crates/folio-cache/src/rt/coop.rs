//! Cooperation: a task of which all reads hit lets other tasks run now and then.

use std::cell::Cell;
use std::future;
use std::task::Poll;

/// The number of reads in a row, in one thread, after which one of them is pending once.
const READS: u32 = 512;

/// Counts a read that did not wait. Once in many, gives the thread to other tasks. Does nothing
/// under shuttle, where all executions must be alike.
pub(crate) async fn passed() {
    thread_local! {
        static READS_LEFT: Cell<u32> = const { Cell::new(READS) };
    }
    let left = READS_LEFT.get().checked_sub(1);
    READS_LEFT.set(left.unwrap_or(READS));
    if left.is_some() || cfg!(shuttle) {
        return;
    }
    let mut is_first = true;
    future::poll_fn(|context| {
        if std::mem::replace(&mut is_first, false) {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(())
    })
    .await;
}
