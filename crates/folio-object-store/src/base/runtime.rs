//! The runtime of the readers, for requests that are polled outside of it: by a thread of the
//! cache, or by a reader that blocks. The stores of `object_store` need tokio's.

use std::pin::Pin;
use std::task::{Context, Poll};

use folio_cache::BoxFuture;
use parking_lot::Mutex;
use tokio::runtime::Handle;

/// The runtime in which a reader was last.
#[derive(Debug, Default)]
pub(crate) struct Runtime(Mutex<Option<Handle>>);

/// A future that is polled in a runtime.
struct Entered<'f, T> {
    runtime: Handle,
    future: BoxFuture<'f, T>,
}

impl Runtime {
    /// Remembers the runtime of the caller, if it is in one.
    pub(crate) fn remember(&self) {
        if let Ok(current) = Handle::try_current() {
            let before = self.0.lock().replace(current);
            drop(before); // under no lock
        }
    }

    /// Returns the future. If it is polled outside of any runtime, it enters that of the last
    /// reader.
    pub(crate) fn enter<'f, T: 'f>(&self, future: BoxFuture<'f, T>) -> BoxFuture<'f, T> {
        let last = self.0.lock().clone();
        match last {
            Some(runtime) => Box::pin(Entered { runtime, future }),
            None => future,
        }
    }
}

impl<T> Future for Entered<'_, T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        let this = &mut *self;
        let _entered = Handle::try_current().is_err().then(|| this.runtime.enter());
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
    }
}
