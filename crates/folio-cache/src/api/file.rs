//! An open file.

use std::fmt;
use std::io;
use std::sync::Arc;

use folio_ref::{DefaultScheme, Scheme};

use crate::api::open::Opened;
use crate::api::open::open_mapping;
use crate::backing::Backing;
use crate::length::refresh;
use crate::read::copy;
use crate::state::handle::PageHandle;
use crate::state::mapping::Mapping;
use crate::state::shared::Shared;

/// A file, open through the cache. Clones, and other opens of the same file, share its pages.
#[derive(Clone)]
pub struct File<S: Scheme = DefaultScheme> {
    pub(crate) mapping: Arc<Mapping<S>>,
    pub(crate) opened: Arc<Opened<S>>,
}

impl<S: Scheme> File<S> {
    pub(crate) fn new(shared: &Arc<Shared<S>>, backing: Arc<dyn Backing>) -> io::Result<Self> {
        let mapping = open_mapping(shared, Arc::clone(&backing))?;
        Ok(Self { opened: Arc::new(Opened::new(&mapping, backing)), mapping })
    }

    /// Reads into `buf` from `offset` on. How many bytes: fewer than asked only at the end of the
    /// file, or where the rest can not be read, as the next read will say; 0 at or past the
    /// end.
    ///
    /// # Errors
    ///
    /// `InvalidInput` for an offset past `i64::MAX`, `FileTooLarge` for one from 16 TiB on that is
    /// inside the file, `OutOfMemory` when handles pin the whole cache, else what the system
    /// says.
    #[inline]
    pub fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let read = copy::read_optimistic(&self.mapping, offset, buf);
        if read { Ok(buf.len()) } else { copy::read_pages(&self.mapping, offset, buf) }
    }

    /// The bytes from `offset` to the end of its page, or of the file, without a copy. `None` at or
    /// past the end.
    ///
    /// # Errors
    ///
    /// As [`read_at`](Self::read_at).
    #[inline(always)]
    #[cfg_attr(feature = "track", track_caller)]
    pub fn page(&self, offset: u64) -> io::Result<Option<PageHandle<S>>> {
        let page = match copy::whole_page(&self.mapping, offset) {
            Some(page) => page,
            None => match copy::page(&self.mapping, offset)? {
                Some(page) => page,
                None => return Ok(None),
            },
        };
        Ok(Some(page.taken_here()))
    }

    /// The file's length in bytes, as it was when last looked at.
    pub fn len(&self) -> u64 {
        self.mapping.len()
    }

    /// Whether the length is 0.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Looks whether the version of the backing (of a file size, mtime and ctime) changed since it
    /// was opened or last revalidated by anybody but this cache, and drops all its pages if so,
    /// but for those that are dirty.
    ///
    /// # Errors
    ///
    /// What the system says; nothing was dropped then.
    pub fn revalidate(&self) -> io::Result<bool> {
        refresh::revalidate(&self.mapping)
    }

    /// Runs `change`, which changes something about the file but none of its bytes: permissions,
    /// owner, names, times. The pages stay in the cache, where the next open would drop them.
    ///
    /// The change shows as a new ctime, and so does a write by another program that sets the mtime
    /// back. No system call tells the two apart, so a change that is not declared here costs the
    /// pages. It is a promise: no other program writes to the file while `change` runs, or
    /// those bytes may not be seen. A version that was not the known one before stays unknown.
    ///
    /// `change` may use the file. Its result is returned, and the pages stay if it fails as well.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// # let dir = tempfile::tempdir()?;
    /// # let (old, new) = (dir.path().join("old"), dir.path().join("new"));
    /// # std::fs::write(&old, "text")?;
    /// # let cache: folio_cache::Cache = folio_cache::Cache::new(2 << 20)?;
    /// let file = cache.open(&old)?;
    /// file.change_metadata(|| std::fs::rename(&old, &new))?;
    /// let again = cache.open(&new)?; // the same pages
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// Those of `change`. An error of [`Backing::version`](crate::Backing::version), where `change`
    /// was not run.
    pub fn change_metadata<T>(&self, change: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        refresh::change_metadata(&self.mapping, change)
    }

    /// Drops all cached pages of the file that are not dirty. Handles keep theirs.
    ///
    /// In a child that was forked since the cache was made, each read of the file fails from then
    /// on ([After a fork](crate#after-a-fork)).
    pub fn invalidate(&self) {
        refresh::invalidate(&self.mapping);
    }
}

impl<S: Scheme> fmt::Debug for File<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("File")
            .field("backing", &self.mapping.backing)
            .field("len", &self.len())
            .finish_non_exhaustive()
    }
}
