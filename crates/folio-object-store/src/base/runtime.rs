//! The runtime of the readers, for requests that are polled outside of it: by a thread of the
//! cache, or by a reader that blocks. The stores of `object_store` need tokio's.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::task::{Context, Poll};

use folio_cache::BoxFuture;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::task::AbortHandle;

/// The runtime in which a reader was last.
#[derive(Debug, Default)]
pub(crate) struct Runtime(Mutex<Option<Arc<Last>>>);

/// A runtime, and whether it has ended: what enters it then gets errors.
#[derive(Debug)]
struct Last {
    handle: Handle,
    has_ended: Arc<AtomicBool>,
    /// A task that never ends. The runtime drops it at its own end.
    task: AbortHandle,
}

/// Says that the runtime has ended when it drops the task that owns this.
struct Mark(Arc<AtomicBool>);

/// A future that is polled in a runtime.
struct Entered<'f, T> {
    runtime: Arc<Last>,
    future: BoxFuture<'f, T>,
}

impl Runtime {
    /// Remembers the runtime of the caller, if it is in one.
    pub(crate) fn remember(&self) {
        let Ok(current) = Handle::try_current() else { return };
        let mut last = self.0.lock();
        if last.as_ref().is_some_and(|last| last.handle.id() == current.id()) {
            return;
        }
        let before = last.replace(Arc::new(Last::new(current)));
        drop(last);
        drop(before); // under no lock
    }

    /// Returns the future. If it is polled outside of any runtime, it enters that of the last
    /// reader, unless that has ended.
    pub(crate) fn enter<'f, T: 'f>(&self, future: BoxFuture<'f, T>) -> BoxFuture<'f, T> {
        let last = self.0.lock().clone();
        match last {
            Some(runtime) if !runtime.has_ended() => Box::pin(Entered { runtime, future }),
            _ => future,
        }
    }
}

impl Last {
    fn new(handle: Handle) -> Self {
        let has_ended = Arc::new(AtomicBool::new(false));
        let mark = Mark(Arc::clone(&has_ended));
        let task = handle.spawn(async move {
            let _mark = mark;
            std::future::pending::<()>().await;
        });
        Self { task: task.abort_handle(), handle, has_ended }
    }

    fn has_ended(&self) -> bool {
        self.has_ended.load(SeqCst)
    }
}

impl Drop for Last {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Drop for Mark {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}

impl<T> Future for Entered<'_, T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        let this = &mut *self;
        let is_outside = Handle::try_current().is_err() && !this.runtime.has_ended();
        let _entered = is_outside.then(|| this.runtime.handle.enter());
        this.future.as_mut().poll(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_future_is_polled_in_the_runtime_of_the_last_reader() {
        let runtime = Runtime::default();
        let is_in_one = || Box::pin(async { Handle::try_current().is_ok() });
        let poll = |mut future: BoxFuture<'static, bool>| {
            future.as_mut().poll(&mut Context::from_waker(std::task::Waker::noop()))
        };
        assert_eq!(poll(runtime.enter(is_in_one())), Poll::Ready(false));
        let readers = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        readers.block_on(async { runtime.remember() });
        assert_eq!(poll(runtime.enter(is_in_one())), Poll::Ready(true));
        let begun = runtime.enter(is_in_one());
        drop(readers);
        assert_eq!(poll(begun), Poll::Ready(false), "the runtime has ended");
        assert_eq!(poll(runtime.enter(is_in_one())), Poll::Ready(false));
    }
}
