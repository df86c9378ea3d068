//! Runs code in a forked child. It is for tests of what may be used after a fork.
//!
//! The child is a copy of the process with one thread. Memory, descriptors and locks are as they
//! were at the fork. A lock that another thread held stays locked in the child.

use std::io;
use std::panic::{self, AssertUnwindSafe};

/// The exit code of a child that panicked.
const PANICKED: u8 = 255;

/// The end of a child.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChildEnd {
    /// It returned this number.
    Returned(u8),
    /// It panicked.
    Panicked,
    /// It did not end within its time.
    Hung,
    /// It was ended by this signal.
    Killed(i32),
}

/// Runs `act` in a forked child, and waits until that ends. A child that takes longer than
/// `seconds` is ended. `act` returns a number below 255.
///
/// The child gets no `SIGINT`: one that is sent to all processes of a terminal is handled by the
/// parent alone.
///
/// `act` may take a lock only if no other thread of the parent may hold it. It may allocate: the C
/// library releases its own locks in the child.
///
/// # Errors
///
/// The error of `fork(2)`.
pub fn in_child(seconds: u32, act: impl FnOnce() -> u8) -> io::Result<ChildEnd> {
    let before = block_interrupt()?;
    // SAFETY: the child calls `act`, which takes no lock that another thread may hold, and ends
    // without a return to its caller. The C library keeps its own locks consistent.
    let child = unsafe { libc::fork() };
    if child == 0 {
        // SAFETY: sets a timer; its signal ends the child.
        unsafe { libc::alarm(seconds) };
        let code = panic::catch_unwind(AssertUnwindSafe(act)).unwrap_or(PANICKED);
        // SAFETY: ends the child, without the parent's exit handlers.
        unsafe { libc::_exit(i32::from(code)) };
    }
    let fork_error = io::Error::last_os_error();
    // SAFETY: sets the mask of this thread to what it was.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const before, std::ptr::null_mut()) };
    if child < 0 {
        return Err(fork_error);
    }
    let mut status = 0;
    // SAFETY: the child is ours, and the status is a number of this function.
    while unsafe { libc::waitpid(child, &raw mut status, 0) } < 0 {
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
    Ok(end_of(status))
}

/// Blocks `SIGINT` in this thread. Returns the signals that were blocked before.
fn block_interrupt() -> io::Result<libc::sigset_t> {
    let mut interrupt = no_signals();
    let mut before = no_signals();
    // SAFETY: writes to a set of this function.
    unsafe { libc::sigaddset(&raw mut interrupt, libc::SIGINT) };
    // SAFETY: reads one set of this function, and writes to the other.
    let error =
        unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const interrupt, &raw mut before) };
    if error == 0 { Ok(before) } else { Err(io::Error::from_raw_os_error(error)) }
}

fn no_signals() -> libc::sigset_t {
    // SAFETY: a set of signals is plain numbers.
    let mut set = unsafe { std::mem::zeroed() };
    // SAFETY: writes to the set of this function.
    unsafe { libc::sigemptyset(&raw mut set) };
    set
}

fn end_of(status: i32) -> ChildEnd {
    if libc::WIFSIGNALED(status) {
        return match libc::WTERMSIG(status) {
            libc::SIGALRM => ChildEnd::Hung,
            signal => ChildEnd::Killed(signal),
        };
    }
    match libc::WEXITSTATUS(status) as u8 {
        PANICKED => ChildEnd::Panicked,
        code => ChildEnd::Returned(code),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_end_of_a_child_is_told_apart() {
        let mut number = 1;
        assert_eq!(in_child(20, || 7).unwrap(), ChildEnd::Returned(7));
        let changes = || {
            number += 1;
            number
        };
        assert_eq!(in_child(20, changes).unwrap(), ChildEnd::Returned(2));
        assert_eq!(number, 1, "the child changed the memory of its parent");
        assert_eq!(
            in_child(20, || panic::resume_unwind(Box::new(()))).unwrap(),
            ChildEnd::Panicked
        );
        // SAFETY: waits for a signal.
        let waits = || unsafe { libc::pause() } as u8;
        assert_eq!(in_child(1, waits).unwrap(), ChildEnd::Hung);
        let kills_itself = || {
            // SAFETY: sends a signal to the calling process.
            unsafe { libc::raise(libc::SIGKILL) };
            0
        };
        assert_eq!(in_child(20, kills_itself).unwrap(), ChildEnd::Killed(libc::SIGKILL));
    }

    #[test]
    fn an_interrupt_does_not_reach_the_child() {
        let interrupts_itself = || {
            // SAFETY: sends a signal to the calling process.
            unsafe { libc::raise(libc::SIGINT) };
            3
        };
        assert_eq!(in_child(20, interrupts_itself).unwrap(), ChildEnd::Returned(3));
        // The parent has it as before.
        let before = block_interrupt().unwrap();
        // SAFETY: sets the mask of this thread to what it was.
        unsafe {
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const before, std::ptr::null_mut())
        };
        // SAFETY: reads the set.
        let was_blocked = unsafe { libc::sigismember(&raw const before, libc::SIGINT) };
        assert_eq!(was_blocked, 0);
    }
}
