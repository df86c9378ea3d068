//! A minimal executor: polls many futures in one thread, so that no runtime is measured.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

use parking_lot::{Condvar, Mutex};

/// The numbers of the places with a woken future.
#[derive(Default)]
struct Woken {
    places: Mutex<Vec<usize>>,
    not_empty: Condvar,
}

struct Place {
    number: usize,
    woken: Arc<Woken>,
}

impl Wake for Place {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.woken.places.lock().push(self.number);
        self.woken.not_empty.notify_one();
    }
}

/// Drives futures to their end, up to `most` at once. Calls `each` with their outputs, in any
/// order.
pub(crate) fn drive<F: Future>(
    most: usize,
    futures: impl IntoIterator<Item = F>,
    mut each: impl FnMut(F::Output),
) {
    let mut futures = futures.into_iter();
    let woken =
        Arc::new(Woken { places: Mutex::new((0..most).collect()), not_empty: Condvar::new() });
    let place = |number| Waker::from(Arc::new(Place { number, woken: Arc::clone(&woken) }));
    let mut places: Vec<(Waker, Option<Pin<Box<F>>>)> =
        (0..most).map(|number| (place(number), None)).collect();
    let mut under_way = 0;
    let mut these = Vec::new();
    loop {
        {
            let mut places = woken.places.lock();
            woken.not_empty.wait_while(&mut places, |places| places.is_empty() && under_way > 0);
            std::mem::swap(&mut *places, &mut these);
        }
        if these.is_empty() {
            return;
        }
        for number in these.drain(..) {
            let (waker, future) = &mut places[number];
            loop {
                if future.is_none() {
                    let Some(next) = futures.next() else { break };
                    *future = Some(Box::pin(next));
                    under_way += 1;
                }
                let Some(running) = future else { break };
                let Poll::Ready(value) = running.as_mut().poll(&mut Context::from_waker(waker))
                else {
                    break;
                };
                each(value);
                *future = None;
                under_way -= 1;
            }
        }
    }
}

/// Drives one future to its end. Returns its output.
pub(crate) fn wait<F: Future>(future: F) -> F::Output {
    let mut result = None;
    drive(1, [future], |got| result = Some(got));
    result.expect("the future was driven to its end")
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::thread;

    use super::*;

    /// Returns `Pending` `n` times; woken by another thread, or at once.
    async fn woken_often(n: usize) -> usize {
        let mut left = n;
        poll_fn(move |context| {
            if left == 0 {
                return Poll::Ready(n);
            }
            left -= 1;
            let waker = context.waker().clone();
            if left.is_multiple_of(2) {
                waker.wake();
            } else {
                thread::spawn(|| waker.wake());
            }
            Poll::Pending
        })
        .await
    }

    #[test]
    fn all_futures_end_for_any_number_at_once() {
        for (most, futures) in [(1, 0), (1, 20), (7, 5), (7, 50)] {
            let mut got = Vec::new();
            drive(most, (0..futures).map(woken_often), |n| got.push(n));
            got.sort_unstable();
            assert_eq!(got, (0..futures).collect::<Vec<_>>(), "{most} at once");
        }
    }
}
