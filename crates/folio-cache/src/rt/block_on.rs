//! Waits for a future in a thread that may block.

use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

use crate::rt::shim::{Condvar, Mutex};

/// The sleep of one thread.
#[derive(Default)]
struct Sleep {
    is_woken: Mutex<bool>,
    woken: Condvar,
}

impl Wake for Sleep {
    fn wake(self: Arc<Self>) {
        *self.is_woken.lock() = true;
        self.woken.notify_one();
    }
}

/// Polls a future until it is ready, and sleeps in between. Returns its output.
pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    let sleep = Arc::<Sleep>::default();
    let waker = Waker::from(Arc::clone(&sleep));
    let mut context = Context::from_waker(&waker);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return output;
        }
        let mut is_woken = sleep.is_woken.lock();
        while !*is_woken {
            sleep.woken.wait(&mut is_woken);
        }
        *is_woken = false;
    }
}
