//! Groups of files: their names, shares and counters.
//!
//! The group of a file stands in the upper bits of its number, and so in the owner data of each
//! frame. Nothing is looked up to find it.
//!
//! ```text
//!   0nnn nnnn nnnn nnnn ...    file n of the first group: files that were opened without one
//!   1ggg gggg nnnn nnnn ...    file n of group g, from 1 on
//! ```

use std::io;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};

use crate::backing::error::error;
use crate::backing::remote::Priority;
use crate::rt::lock::Mutex;
use crate::state::stats::{CacheStats, Counters};

/// The maximum number of groups, with the first.
pub(crate) const MAX_GROUPS: usize = 128;

/// The bits of a number that tell a file of a group, but of the first one.
const FILE_BITS: u32 = 24;

/// The first number of a file in a group other than the first.
const GROUPED: u32 = 1 << 31;

/// Returns the number of the group of a file.
#[inline(always)]
pub(crate) fn group_of(id: u32) -> usize {
    if id < GROUPED { 0 } else { (id >> FILE_BITS) as usize % MAX_GROUPS }
}

/// Returns the number of a file in its group.
pub(crate) fn file_of(id: u32) -> usize {
    (if id < GROUPED { id } else { id & ((1 << FILE_BITS) - 1) }) as usize
}

/// A group of files.
#[derive(Debug)]
pub(crate) struct GroupState {
    pub(crate) number: usize,
    pub(crate) name: Box<str>,
    /// The priority of requests for its files.
    pub(crate) priority: Priority,
    /// The share of the frames for pages, above 0 and at most 1.
    pub(crate) share: Option<f64>,
    pub(crate) counters: Counters,
}

impl GroupState {
    fn new(number: usize, name: &str, priority: Priority, share: Option<f64>) -> Self {
        let counters = Counters::default();
        Self { number, name: name.into(), priority, share, counters }
    }

    /// Returns the number of the `file`-th file of the group.
    ///
    /// # Errors
    ///
    /// `OutOfMemory` if the group cannot have so many.
    pub(crate) fn id_of(&self, file: usize) -> io::Result<u32> {
        let (first, bits) = match self.number as u32 {
            0 => (0, 31),
            number => (GROUPED | number << FILE_BITS, FILE_BITS),
        };
        if file < 1 << bits {
            return Ok(first | file as u32);
        }
        let message = format!(
            "group {:?} has {} files in memory, the maximum: use another group",
            self.name,
            1_u32 << bits
        );
        Err(error(io::ErrorKind::OutOfMemory, message))
    }
}

/// The groups of a cache.
#[derive(Debug)]
pub(crate) struct Groups {
    /// The groups. One that was created stays.
    by_number: [OnceLock<Arc<GroupState>>; MAX_GROUPS],
    /// The number of groups.
    count: Mutex<usize>,
    /// The number of frames that can hold pages: shares are parts of it.
    frames: AtomicU32,
}

impl Groups {
    /// Returns the groups of a cache with this number of frames for pages.
    pub(crate) fn new(frames: u32) -> Self {
        let by_number = [const { OnceLock::new() }; MAX_GROUPS];
        let _ = by_number[0].set(Arc::new(GroupState::new(0, "", Priority::Normal, None)));
        Self { by_number, count: Mutex::new(1), frames: AtomicU32::new(frames) }
    }

    /// Returns the group of files without one.
    #[inline]
    pub(crate) fn first(&self) -> &Arc<GroupState> {
        self.get(0)
    }

    /// Returns the group of a file.
    #[inline]
    pub(crate) fn of(&self, id: u32) -> &Arc<GroupState> {
        self.get(group_of(id))
    }

    #[inline]
    fn get(&self, number: usize) -> &Arc<GroupState> {
        self.by_number[number].get().expect("a file has a number of a group that exists")
    }

    /// Returns the group for a file that is opened: `wanted`, or the first.
    ///
    /// # Errors
    ///
    /// `InvalidInput` if it is a group of another cache.
    pub(crate) fn to_open<'g>(
        &'g self,
        wanted: Option<&'g Arc<GroupState>>,
    ) -> io::Result<&'g Arc<GroupState>> {
        let Some(group) = wanted else { return Ok(self.first()) };
        let own = self.by_number[group.number].get();
        if own.is_some_and(|own| Arc::ptr_eq(own, group)) {
            return Ok(group);
        }
        let message = format!("group {:?} belongs to another cache", group.name);
        Err(error(io::ErrorKind::InvalidInput, message))
    }

    /// Checks that a file is in the group that its open wants, if it wants one.
    ///
    /// # Errors
    ///
    /// `InvalidInput` if it is in another one.
    pub(crate) fn check_file(&self, id: u32, wanted: Option<&Arc<GroupState>>) -> io::Result<()> {
        let Some(wanted) = wanted.filter(|group| group.number != group_of(id)) else {
            return Ok(());
        };
        let message = format!(
            "the file is in memory, in group {:?}: close it and invalidate its key before an open \
             in group {:?}",
            self.of(id).name,
            wanted.name
        );
        Err(error(io::ErrorKind::InvalidInput, message))
    }

    /// Returns all groups.
    pub(crate) fn all(&self) -> impl DoubleEndedIterator<Item = &Arc<GroupState>> {
        self.by_number.iter().filter_map(OnceLock::get)
    }

    /// Returns the number of the policy that has the pages of a file: that of its group if the
    /// group has a share, 0 otherwise.
    #[inline]
    pub(crate) fn policy_of(&self, id: u32) -> usize {
        match group_of(id) {
            0 => 0,
            number => self.policy_of_group(number),
        }
    }

    #[inline(never)]
    fn policy_of_group(&self, number: usize) -> usize {
        let group = self.by_number[number].get();
        if group.is_some_and(|group| group.share.is_some()) { number } else { 0 }
    }

    /// Sets the number of frames that can hold pages.
    pub(crate) fn set_frames(&self, frames: u32) {
        // Relaxed, here and below: a limit, which may be stale.
        self.frames.store(frames, Ordering::Relaxed);
    }

    /// Returns the maximum number of pages of a group with a share.
    pub(crate) fn limit(&self, group: &GroupState) -> Option<u32> {
        let frames = f64::from(self.frames.load(Ordering::Relaxed));
        group.share.map(|share| ((frames * share) as u32).max(1))
    }

    /// Returns the number of frames that no group has as its share.
    pub(crate) fn unshared_frames(&self) -> u32 {
        let shared: u32 = self.all().filter_map(|group| self.limit(group)).sum();
        self.frames.load(Ordering::Relaxed).saturating_sub(shared).max(1)
    }

    /// Creates a group. Calls `created` with it before its first file is opened.
    ///
    /// # Errors
    ///
    /// - `AlreadyExists` if there is one of this name.
    /// - `InvalidInput` if the share is not above 0 and at most 1, or if all shares are more than
    ///   the whole cache.
    /// - `OutOfMemory` if there are as many groups as there can be.
    pub(crate) fn create(
        &self,
        name: &str,
        priority: Priority,
        share: Option<f64>,
        created: impl FnOnce(&Arc<GroupState>),
    ) -> io::Result<Arc<GroupState>> {
        let mut count = self.count.lock();
        if self.all().any(|group| *group.name == *name) {
            let message = format!("a group {name:?} exists: Cache::find_group returns it");
            return Err(error(io::ErrorKind::AlreadyExists, message));
        }
        let others = self.all().filter_map(|group| group.share).fold(0.0, |sum, share| sum + share);
        if let Some(share) = share {
            // Rounded: ten shares of 0.1 are the whole.
            if !(share > 0.0 && others + share <= 1.0 + 1e-9) {
                let message = format!(
                    "a share of {share:?} for group {name:?}: allowed is more than 0 and at most \
                     {:?}, as other groups have {others:?}",
                    f64::max(1.0 - others, 0.0)
                );
                return Err(error(io::ErrorKind::InvalidInput, message));
            }
        }
        if *count == MAX_GROUPS {
            let message = format!("a cache has at most {} groups", MAX_GROUPS - 1);
            return Err(error(io::ErrorKind::OutOfMemory, message));
        }
        let group = Arc::new(GroupState::new(*count, name, priority, share));
        let _ = self.by_number[*count].set(Arc::clone(&group));
        *count += 1;
        created(&group);
        Ok(group)
    }

    /// Returns the counts of all groups together.
    pub(crate) fn stats(&self) -> CacheStats {
        self.all().map(|group| group.counters.read()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_group_of_a_file_is_in_its_number() {
        let groups = Groups::new(1000);
        let make = |name: &str| groups.create(name, Priority::Normal, None, |_| ()).unwrap();
        let all: Vec<_> = (1..MAX_GROUPS).map(|n| make(&n.to_string())).collect();
        for group in all.iter().chain([groups.first()]) {
            for file in [0, 1, (1 << FILE_BITS) - 1] {
                let id = group.id_of(file).unwrap();
                assert_eq!((group_of(id), file_of(id)), (group.number, file));
                assert!(Arc::ptr_eq(groups.of(id), group));
            }
        }
        let error = groups.create("one more", Priority::Normal, None, |_| ()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::OutOfMemory);
    }

    #[test]
    fn the_numbers_of_a_group_run_out() {
        let groups = Groups::new(1000);
        let group = groups.create("one", Priority::Normal, None, |_| ()).unwrap();
        assert!(group.id_of((1 << FILE_BITS) - 1).is_ok() && groups.first().id_of(1 << 30).is_ok());
        let error = group.id_of(1 << FILE_BITS).unwrap_err();
        assert!(error.to_string().contains("16777216 files"), "{error}");
    }

    #[test]
    fn shares_are_at_most_the_whole() {
        let groups = Groups::new(1000);
        let make = |name: &str, share| groups.create(name, Priority::Normal, share, |_| ());
        for n in 0..10 {
            make(&n.to_string(), Some(0.1)).unwrap();
        }
        for share in [0.1, 0.0, -1.0, f64::NAN] {
            let error = make("wrong", Some(share)).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{share}");
        }
        let error = Groups::new(1).create("a", Priority::Normal, Some(-1e300), |_| ()).unwrap_err();
        let expected = "a share of -1e300 for group \"a\": allowed is more than 0 and at most 1.0, \
                        as other groups have 0.0";
        assert_eq!(error.to_string(), expected);
        assert_eq!(make("0", None).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        let group = make("rest", None).unwrap();
        assert_eq!((groups.limit(&group), groups.unshared_frames()), (None, 1));
    }
}
