//! The memory of leaves: which leaves have some, and when it is given back.
//!
//! | leaf | memory | slots |
//! | --- | --- | --- |
//! | open | a page | in use |
//! | spare | a page of zeroes | closed |
//! | any other | none, or a page of zeroes that the system has in common for all | closed |
//!
//! To give a page back, the system must tell each processor that runs a thread of this process.
//! That takes longer than to open a leaf, and it takes longer the more processors there are. So a
//! leaf that closes is spare at first, and all spare leaves are given back at once. A spare leaf
//! that is opened before keeps its page.
//!
//! There are at most [`max_spares`] spare leaves. The unsafe code here gives memory back.

use core::mem;
use core::ops::Range;
#[cfg(not(shuttle))]
use core::ptr;
use core::ptr::NonNull;
use std::collections::BTreeMap;
use std::vec::Vec;

#[cfg(not(shuttle))]
use rustix::mm::mmap_anonymous;
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise};

use crate::base::ids::FRAME_SIZE;
use crate::base::seeded_bugs::spare_leaf_forgotten;

/// The number of slots in a leaf, which is a page of memory. Few for shuttle, which plays each
/// step; it gives no memory back.
pub(super) const LEAF: usize = if cfg!(shuttle) { 4 } else { FRAME_SIZE / size_of::<u64>() };

pub(super) const LEAF_BYTES: usize = LEAF * size_of::<u64>();

/// The number of leaves that one table of the system maps.
const GROUP: usize = 512;

pub(super) const GROUP_BYTES: usize = GROUP * LEAF_BYTES;

pub(super) const PROTECTION: ProtFlags = ProtFlags::READ.union(ProtFlags::WRITE);
pub(super) const FLAGS: MapFlags = MapFlags::PRIVATE.union(MapFlags::NORESERVE);

/// The maximum number of leaves that are given back at once. The system takes more in one call, but
/// a thread that opens another leaf waits for it.
const MAX_SPARES: usize = 64;

/// Returns the maximum number of spare leaves beside a number of open ones: an eighth of it, and at
/// most 64.
pub(super) fn max_spares(open: usize) -> usize {
    (open / 8).min(MAX_SPARES)
}

/// The first byte of a leaf, or of a range.
#[derive(Clone, Copy)]
pub(super) struct Address(pub(super) NonNull<u8>);

// SAFETY: an address. What is there are slots, which any thread may use.
unsafe impl Send for Address {}

impl Address {
    /// Returns the number of the leaf, which no other leaf of the process has.
    pub(super) fn number(self) -> usize {
        self.0.addr().get() / LEAF_BYTES
    }

    /// Returns the first leaf of its group.
    fn group(self) -> Self {
        let within = self.0.addr().get() % GROUP_BYTES;
        // SAFETY: a span begins and ends with a group, so this stays in it.
        Self(unsafe { self.0.byte_sub(within) })
    }
}

/// A leaf with memory.
enum Held {
    /// With its tag.
    Open(u64),
    Spare,
}

/// The leaves of a space that have memory.
#[derive(Default)]
pub(super) struct LeafMemory {
    /// By number.
    held: BTreeMap<usize, Held>,
    spares: Vec<Address>,
    /// The number of groups with such leaves: each has a table of the system.
    groups: usize,
}

impl LeafMemory {
    /// Returns the bytes of all open leaves, and of the tables of the system.
    pub(super) fn open_bytes(&self) -> usize {
        (self.open_leaves() + self.groups) * FRAME_SIZE
    }

    pub(super) fn spare_bytes(&self) -> usize {
        self.spares.len() * FRAME_SIZE
    }

    fn open_leaves(&self) -> usize {
        self.held.len() - self.spares.len()
    }

    /// Returns the first open leaf of these numbers, and its tag.
    pub(super) fn first_open(&self, leaves: Range<usize>) -> Option<(usize, u64)> {
        self.held.range(leaves).find_map(|(&leaf, held)| match held {
            Held::Open(tag) => Some((leaf, *tag)),
            Held::Spare => None,
        })
    }

    /// Notes a leaf that is about to be opened.
    pub(super) fn open(&mut self, leaf: Address, tag: u64) {
        if !self.has_group(leaf.group()) {
            self.groups += 1;
        }
        let before = self.held.insert(leaf.number(), Held::Open(tag));
        if matches!(before, Some(Held::Spare)) && !spare_leaf_forgotten() {
            self.spares.retain(|spare| spare.number() != leaf.number());
        }
    }

    /// Notes a leaf that was closed: it is spare now. Gives all spare leaves back if they are too
    /// many. The caller must have closed all of its slots, and no other thread may open them
    /// without [`Self::open`].
    pub(super) fn close(&mut self, leaf: Address) {
        self.held.insert(leaf.number(), Held::Spare);
        self.spares.push(leaf);
        if self.spares.len() > max_spares(self.open_leaves()) {
            self.give_back();
        }
    }

    /// Gives the memory of all spare leaves back. No leaf is opened meanwhile: that takes `self`.
    fn give_back(&mut self) {
        give_back_pages(&self.spares);
        for spare in &self.spares {
            self.held.remove(&spare.number());
        }
        let mut spares = mem::take(&mut self.spares);
        spares.sort_unstable_by_key(|spare| spare.number());
        spares.dedup_by_key(|spare| spare.group().number());
        for group in spares.drain(..).map(Address::group) {
            if !self.has_group(group) {
                map_anew(group);
                self.groups -= 1;
            }
        }
        // Its room is kept.
        self.spares = spares;
    }

    /// Returns `true` if a group has a leaf with memory.
    fn has_group(&self, group: Address) -> bool {
        self.held.range(group.number()..group.number() + GROUP).next().is_some()
    }
}

/// Gives back the memory of leaves, which are all zeroes. If the system refuses, it stays.
#[cfg(not(shuttle))]
fn give_back_pages(leaves: &[Address]) {
    let mut pages = [libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 }; MAX_SPARES + 1];
    for (page, leaf) in pages.iter_mut().zip(leaves) {
        *page = libc::iovec { iov_base: leaf.0.as_ptr().cast(), iov_len: LEAF_BYTES };
    }
    // SAFETY: the pages are within spans. Their slots are closed and stay so meanwhile: all bytes
    // are zeroes before and after, so no thread can notice.
    let advised = unsafe { advise_unneeded(&pages[..leaves.len()]) };
    for leaf in &leaves[advised / LEAF_BYTES..] {
        // SAFETY: as above.
        let _ = unsafe { madvise(leaf.0.as_ptr().cast(), LEAF_BYTES, Advice::LinuxDontNeed) };
    }
}

/// Gives back the memory of pages by one call of the system: of Linux 6.15 and later. Returns the
/// number of bytes given back.
///
/// # Safety
///
/// No thread notices that their bytes become zeroes.
#[cfg(not(shuttle))]
unsafe fn advise_unneeded(pages: &[libc::iovec]) -> usize {
    /// `PIDFD_SELF_THREAD`: this thread, in place of a file descriptor for it.
    const THIS_THREAD: libc::c_int = -10_000;
    // SAFETY: the call reads `pages`, and the caller vouches for what they point to.
    let advised = unsafe {
        libc::syscall(
            libc::SYS_process_madvise,
            THIS_THREAD,
            pages.as_ptr(),
            pages.len(),
            libc::MADV_DONTNEED,
            0,
        )
    };
    usize::try_from(advised).unwrap_or(0)
}

/// For the seeded bugs: what was in the leaves is lost.
#[cfg(shuttle)]
fn give_back_pages(leaves: &[Address]) {
    for leaf in leaves {
        // SAFETY: within a span. Its slots are closed and stay so meanwhile.
        unsafe { leaf.0.write_bytes(0, LEAF_BYTES) };
    }
}

/// Keeps the system from making 512 leaves resident for one. If it refuses, they may be.
pub(super) fn forbid_huge_pages(first: NonNull<u8>, bytes: usize) {
    // SAFETY: the advice changes no contents.
    let _ = unsafe { madvise(first.as_ptr().cast(), bytes, Advice::LinuxNoHugepage) };
}

/// Maps a group anew, of which no leaf has memory: this frees its table. If the system refuses, the
/// table stays.
#[cfg_attr(shuttle, expect(unused_variables, reason = "its groups are smaller than a table"))]
fn map_anew(group: Address) {
    #[cfg(not(shuttle))]
    {
        let (address, fixed) = (group.0.as_ptr().cast(), FLAGS.union(MapFlags::FIXED));
        // SAFETY: within a span. All bytes are zeroes before and after, and no thread changes them.
        // The system puts the new mapping in place of the old one in one step.
        let mapped = unsafe { mmap_anonymous(address, GROUP_BYTES, PROTECTION, fixed) };
        if mapped.is_ok() {
            forbid_huge_pages(group.0, GROUP_BYTES);
        }
    }
}
