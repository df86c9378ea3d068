//! A ring: requests go to the kernel by one system call, and answers come back.

use std::fmt;
use std::io::{self, IoSliceMut};
use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd};
use std::thread;
use std::time::Duration;

use io_uring::{IoUring, opcode, squeue, types::Fd};

use crate::process::Process;

/// One read.
#[derive(Debug)]
pub struct Request<'r, 'b> {
    /// The offset in the file, in bytes.
    pub offset: u64,
    /// The buffers to fill, in order.
    pub buffers: &'r mut [IoSliceMut<'b>],
    /// The answer: the number of bytes read, which may be fewer than the buffers hold. Before the
    /// answer, an error of kind `NotConnected`.
    pub result: io::Result<usize>,
}

impl<'r, 'b> Request<'r, 'b> {
    /// Returns a read that was not made yet.
    pub fn new(offset: u64, buffers: &'r mut [IoSliceMut<'b>]) -> Self {
        Self { offset, buffers, result: Err(io::ErrorKind::NotConnected.into()) }
    }
}

/// An `io_uring` for reads. It belongs to the thread that made it.
///
/// The kernel takes requests from that thread only, so a ring cannot be sent to another one:
///
/// ```compile_fail,E0277
/// fn send<T: Send>() {}
/// send::<folio_uring::Ring>();
/// ```
///
/// # After a fork
///
/// Parent and child share one ring of the kernel, with its queues. What the child queues there is
/// read into the memory of the parent, at the same addresses. So a ring works only in the process
/// that made it. In a child it is not [usable](Self::is_usable): [`read_all`](Self::read_all)
/// touches neither queue, and each request ends with an error. Make a new ring there. Dropping the
/// inherited ring closes the child's descriptor and unmaps the child's view of the queues; the
/// parent does not notice.
///
/// A fork by a signal handler that interrupts `read_all` is not noticed if the handler returns in
/// the child. A child may not do that: POSIX allows no `fork` in a handler.
pub struct Ring {
    /// **Invariant:** between two calls of `read_all` nothing is in flight. Something is queued
    /// only after `failed`.
    uring: IoUring,
    depth: usize,
    /// The system refused the ring once: queued requests must not be submitted any more.
    failed: bool,
    /// The process that made it: the only one that may touch the queues.
    process: Process,
    /// The kernel accepts requests from the thread that made the ring, and from no other.
    _not_send: PhantomData<*const ()>,
}

impl Ring {
    /// Makes a ring for up to `depth` requests in flight.
    ///
    /// # Errors
    ///
    /// Those of the system: `PermissionDenied` in most containers, `Unsupported` from old kernels.
    pub fn new(depth: u32) -> io::Result<Self> {
        let uring = IoUring::builder().setup_coop_taskrun().setup_single_issuer().build(depth);
        // Older kernels do not know these two, which only save interrupts.
        let uring = match uring {
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => IoUring::new(depth)?,
            other => other?,
        };
        Ok(Self {
            uring,
            depth: depth as usize,
            failed: false,
            process: Process::current(),
            _not_send: PhantomData,
        })
    }

    /// Returns `false` once the system has refused it, and in a child that was forked since it was
    /// made. Make another ring then.
    pub fn is_usable(&self) -> bool {
        !self.failed && self.process.is_current()
    }

    /// Makes all requests, as many at once as the ring is deep, and returns when each has its
    /// answer.
    ///
    /// In a child that was forked since the ring was made, each answer is an error of kind
    /// `Unsupported`, and nothing was read.
    pub fn read_all(&mut self, file: &impl AsFd, requests: &mut [Request<'_, '_>]) {
        if !self.process.is_current() {
            // The queues are the parent's.
            for request in requests {
                request.result = Err(of_another_process(self.process));
            }
            return;
        }
        let fd = Fd(file.as_fd().as_raw_fd());
        let (mut queued, mut answered) = (0, 0);
        while answered < requests.len() {
            while queued < requests.len() && queued - answered < self.depth && !self.failed {
                let entry = entry(fd, &mut requests[queued]).user_data(queued as u64);
                // SAFETY: the buffers are borrowed by the caller of this function, which does not
                // return before the request is answered: by the kernel, or by us when the kernel
                // did not take it and never will (`failed`). The file is borrowed as long. There
                // is room: the queue is as deep as the ring.
                let pushed = unsafe { self.uring.submission().push(&entry) };
                if pushed.is_err() {
                    break;
                }
                queued += 1;
            }
            let in_flight = queued - answered;
            // Waiting for one answer at a time would make each answer a system call. The last
            // requests are waited for together.
            let wanted = if queued < requests.len() { in_flight.div_ceil(4) } else { in_flight };
            answered += if self.failed {
                self.give_up(requests, queued - answered)
            } else {
                self.enter(requests, wanted)
            };
            if self.failed {
                // Those that were never queued.
                requests[queued..].iter_mut().for_each(|request| request.result = Err(refused()));
                answered += requests.len() - queued;
                queued = requests.len();
            }
        }
    }

    /// Submits the queue, waits for some answers, and stores all that have come. Returns their
    /// number.
    fn enter(&mut self, requests: &mut [Request<'_, '_>], wanted: usize) -> usize {
        match self.uring.submit_and_wait(wanted) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // Short of memory, or answers must be taken first: again.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::ResourceBusy
                ) =>
            {
                thread::yield_now();
            }
            Err(_) => self.failed = true,
        }
        self.take_answers(requests)
    }

    fn take_answers(&mut self, requests: &mut [Request<'_, '_>]) -> usize {
        let mut taken = 0;
        for answer in self.uring.completion() {
            let Ok(code) = usize::try_from(answer.result()) else {
                requests[answer.user_data() as usize].result =
                    Err(io::Error::from_raw_os_error(-answer.result()));
                taken += 1;
                continue;
            };
            requests[answer.user_data() as usize].result = Ok(code);
            taken += 1;
        }
        taken
    }

    /// Ends all requests after the system refused the ring. The requests that it has taken are
    /// waited for; the others it never sees, since this ring is not entered again. Returns the
    /// number of requests.
    fn give_up(&mut self, requests: &mut [Request<'_, '_>], unanswered: usize) -> usize {
        let left = self.uring.submission().len();
        let mut taken = 0;
        while taken + left < unanswered {
            taken += self.take_answers(requests);
            thread::sleep(Duration::from_micros(50));
        }
        // They keep the error that they began with.
        unanswered
    }
}

impl fmt::Debug for Ring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ring")
            .field("depth", &self.depth)
            .field("failed", &self.failed)
            .finish_non_exhaustive()
    }
}

fn of_another_process(process: Process) -> io::Error {
    let (made, used) = (process.id(), Process::current().id());
    let message = format!(
        "this ring was made by process {made} and is used in process {used} after a fork: \
         make a new ring there"
    );
    io::Error::new(io::ErrorKind::Unsupported, message)
}

fn refused() -> io::Error {
    io::Error::other("the ring failed before and cannot be used again: make a new one")
}

/// Returns the queue entry of a request. The kernel reads the list of buffers when it takes the
/// request; neither moves during the borrow.
fn entry(fd: Fd, request: &mut Request<'_, '_>) -> squeue::Entry {
    // The largest offset would mean the file's own position. It is replaced by one that the kernel
    // refuses like all offsets beyond the maximum.
    let offset = if request.offset == u64::MAX { 1 << 63 } else { request.offset };
    match &mut *request.buffers {
        [one] => {
            opcode::Read::new(fd, one.as_mut_ptr(), u32::try_from(one.len()).unwrap_or(u32::MAX))
                .offset(offset)
                .build()
        }
        // An `IoSliceMut` has the layout of an `iovec`: std promises it.
        many => opcode::Readv::new(
            fd,
            many.as_mut_ptr().cast_const().cast(),
            u32::try_from(many.len()).unwrap_or(u32::MAX),
        )
        .offset(offset)
        .build(),
    }
}
