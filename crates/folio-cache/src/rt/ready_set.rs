//! The futures of one task that are due: a task with many of them polls those that were woken, and
//! no others.

use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Wake, Waker};

use crate::rt::lock::Mutex;

#[derive(Default)]
struct Due {
    numbers: Vec<usize>,
    /// The waker of the task.
    task: Option<Waker>,
}

/// The numbers of the futures that are due.
#[derive(Default)]
pub(crate) struct ReadySet {
    due: Arc<Mutex<Due>>,
}

impl ReadySet {
    /// Returns a waker that makes the future with a number due, and wakes the task.
    pub(crate) fn waker(&self, number: usize) -> (Waker, Arc<Member>) {
        let is_due = AtomicBool::new(false);
        let member = Arc::new(Member { due: Arc::clone(&self.due), number, is_due });
        (Waker::from(Arc::clone(&member)), member)
    }

    /// Registers the waker of the task. Returns the numbers that are due since the last call.
    pub(crate) fn take(&self, task: &Waker) -> Vec<usize> {
        let task = task.clone();
        let mut due = self.due.lock();
        let before = due.task.replace(task);
        let numbers = mem::take(&mut due.numbers);
        drop(due);
        drop(before);
        numbers
    }
}

/// One future of the set.
pub(crate) struct Member {
    due: Arc<Mutex<Due>>,
    number: usize,
    is_due: AtomicBool,
}

impl Member {
    /// Notes that the future is about to be polled.
    pub(crate) fn polled(&self) {
        // Release, Acquire: with the swap in `wake`. A wake after this makes it due again.
        self.is_due.swap(false, Ordering::AcqRel);
    }
}

impl Wake for Member {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // AcqRel: with the swap in `polled`.
        if self.is_due.swap(true, Ordering::AcqRel) {
            return;
        }
        let task = {
            let mut due = self.due.lock();
            due.numbers.push(self.number);
            due.task.take()
        };
        if let Some(task) = task {
            task.wake();
        }
    }
}
