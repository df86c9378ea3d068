//! Tells a process from the children that it forks.
//!
//! A process number does not do that alone: it costs a system call, numbers are used again, and
//! each namespace has its own. So there is a page that the kernel clears in each child
//! (`MADV_WIPEONFORK`, Linux 4.14). It holds the generation of the process, a number that none of
//! its ancestors had, and 0 in a child until that has chosen its own. A check is two loads.
//!
//! Where the kernel does not clear pages, the process numbers are compared. `io_uring` is younger
//! than that, so a [`Ring`](crate::Ring) is never checked by numbers except in a sandbox that has
//! the one and not the other.
//!
//! A child that shares the memory of its parent (`vfork`, `clone` with `CLONE_VM`) is the same
//! process here, as a thread is: nothing is there twice.
//!
//! No lock is taken: another thread might hold it at the fork.

use std::process;
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

/// The generation of every process where no page is cleared.
const UNKNOWN: u64 = u64::MAX;

/// The page that is cleared in a child. Null: this process, and those that it came from, did not
/// ask for it yet. It is never unmapped.
static PAGE: AtomicPtr<AtomicU64> = AtomicPtr::new(ptr::null_mut());

/// Stands for the page where none is cleared.
static NO_PAGE: AtomicU64 = AtomicU64::new(UNKNOWN);

/// A process. Remembered by what must not be used in a child that was forked later.
#[derive(Clone, Copy, Debug)]
pub struct Process {
    generation: u64,
    id: u32,
}

impl Process {
    /// Returns the calling process.
    pub fn current() -> Self {
        Self { generation: generation(), id: process::id() }
    }

    /// Returns `true` in the process itself, and `false` in each process that was forked from it.
    #[inline]
    pub fn is_current(self) -> bool {
        self.is_of(generation())
    }

    #[inline]
    fn is_of(self, generation: u64) -> bool {
        self.generation == generation && (generation != UNKNOWN || self.id == process::id())
    }

    /// Returns the process number, as the process saw it.
    pub fn id(self) -> u32 {
        self.id
    }
}

#[inline]
fn generation() -> u64 {
    // Relaxed, here and below: each is a value of its own, which this process wrote. A fork copies
    // what came before it.
    let page = PAGE.load(Ordering::Relaxed);
    if page.is_null() {
        return generation_of(map());
    }
    // SAFETY: what `PAGE` points to is an atomic that stays for ever.
    generation_of(unsafe { &*page })
}

#[inline]
fn generation_of(page: &AtomicU64) -> u64 {
    match page.load(Ordering::Relaxed) {
        0 => begin(page),
        generation => generation,
    }
}

/// Gives this process its generation. Returns it.
#[cold]
fn begin(page: &AtomicU64) -> u64 {
    /// The newest generation of this process and its ancestors. A child gets a copy.
    static NEWEST: AtomicU64 = AtomicU64::new(0);
    // Relaxed: as above. The number is taken before it is shown, so a child never takes it again.
    let new = NEWEST.fetch_add(1, Ordering::Relaxed) + 1;
    match page.compare_exchange(0, new, Ordering::Relaxed, Ordering::Relaxed) {
        Ok(_) => new,
        Err(other) => other,
    }
}

/// Maps the page, once for all threads and all children.
#[cold]
fn map() -> &'static AtomicU64 {
    let mapped = cleared_page();
    let new = mapped.unwrap_or(&NO_PAGE);
    // AcqRel: as for any pointer; the page is all zeroes, though. If two threads map one, the
    // second page stays unused.
    let old = PAGE.compare_exchange(
        ptr::null_mut(),
        ptr::from_ref(new).cast_mut(),
        Ordering::AcqRel,
        Ordering::Acquire,
    );
    match old {
        Ok(_) => new,
        // SAFETY: what `PAGE` points to is an atomic that stays for ever.
        Err(other) => unsafe { &*other },
    }
}

/// Returns a page that is zeroes in each child. `None`: the system has none.
fn cleared_page() -> Option<&'static AtomicU64> {
    let size = 4096;
    let (protection, flags) =
        (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    // SAFETY: a new mapping at no fixed address touches nothing that exists.
    let page = unsafe { libc::mmap(ptr::null_mut(), size, protection, flags, -1, 0) };
    if page == libc::MAP_FAILED {
        return None;
    }
    // SAFETY: our own fresh mapping; nothing depends on its contents yet.
    if unsafe { libc::madvise(page, size, libc::MADV_WIPEONFORK) } != 0 {
        // SAFETY: our own fresh mapping, of which there is no reference.
        unsafe { libc::munmap(page, size) };
        return None;
    }
    // SAFETY: zeroes are an atomic 0; the mapping is aligned, and is never unmapped.
    Some(unsafe { &*page.cast::<AtomicU64>() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn process_numbers_decide_where_no_page_is_cleared() {
        let me = Process { generation: generation_of(&NO_PAGE), id: process::id() };
        let parent = Process { id: me.id + 1, ..me };
        assert!(me.is_of(UNKNOWN) && !parent.is_of(UNKNOWN));
        // With a page, numbers say nothing.
        assert!(Process { generation: 3, ..parent }.is_of(3));
        assert!(!Process { generation: 3, ..me }.is_of(4));
    }
}
