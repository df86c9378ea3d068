//! An open file.

use std::fmt;
use std::io;
use std::sync::Arc;

use folio_frames::FRAME_SIZE;
use folio_ref::{DefaultScheme, Scheme};

use crate::api::open::{Open, open_mapping};
use crate::backing::Backing;
use crate::backing::remote::Priority;
use crate::coherence::{once, refresh, version};
use crate::policy::Advice;
use crate::read::copy;
use crate::read::request::How;
use crate::rt::block_on::block_on;
use crate::state::groups::GroupState;
use crate::state::handle::PageHandle;
use crate::state::shared::Shared;

/// A file, open through a [`Cache`](crate::Cache). Clones, and other opens of the same file, share
/// its pages.
///
/// A read takes `&self`, an offset and a buffer, as std's `FileExt`. [`File::cursor`] implements
/// the traits of `std::io`.
///
/// # Examples
///
/// ```
/// use folio_cache::Cache;
///
/// # fn main() -> std::io::Result<()> {
/// # let dir = tempfile::tempdir()?;
/// let cache = Cache::new(4 << 20)?;
/// let file = cache.create(dir.path().join("notes"))?;
/// file.write_all_at(b"written here", 100)?;
///
/// let mut buf = [0; 7];
/// file.read_exact_at(&mut buf, 100)?;
/// assert_eq!(&buf, b"written");
/// let page = file.page(108)?.expect("the file is longer"); // without a copy
/// assert_eq!(&*page, b"here");
///
/// file.sync_data()?; // durable
/// file.close()?; // returns errors that a drop would lose
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct File<S: Scheme = DefaultScheme> {
    pub(crate) opened: Open<S>,
    pub(crate) advice: Advice,
    pub(crate) priority: Priority,
}

impl<S: Scheme> File<S> {
    pub(crate) fn new(
        shared: &Arc<Shared<S>>,
        backing: Arc<dyn Backing>,
        appends: bool,
        group: Option<&Arc<GroupState>>,
    ) -> io::Result<Self> {
        let mapping = open_mapping(shared, Arc::clone(&backing), group)?;
        Ok(Self::of(Open::new(mapping, backing, appends)))
    }

    /// Returns the file of an open, without advice and with the priority of its group.
    pub(crate) fn of(opened: Open<S>) -> Self {
        let priority = opened.mapping.shared.groups.of(opened.mapping.id).priority;
        Self { opened, advice: Advice::Normal, priority }
    }

    /// Returns `true` if the file is an object of a store that answers late.
    #[inline]
    pub(crate) fn is_distant(&self) -> bool {
        self.opened.mapping.remote().is_some()
    }

    /// Reads into `buf` from `offset` on. Returns the number of bytes read: 0 at or past the end of
    /// the file.
    ///
    /// A short count means the end of the file, or an error part-way that the next read returns.
    ///
    /// # Errors
    ///
    /// - `InvalidInput` if the offset exceeds `i64::MAX`.
    /// - `FileTooLarge` if it is 16 TiB or more, and inside the file.
    /// - `OutOfMemory` if no page can be evicted: all are pinned, or dirty and cannot be written.
    /// - `Unsupported` on a miss in a child forked after the cache was built.
    /// - Otherwise the error of the backing.
    #[inline]
    pub fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let read = copy::read_optimistic(&self.opened.mapping, offset, buf);
        if read { Ok(buf.len()) } else { self.read_pages(offset, buf) }
    }

    /// Reads what is not one page that is cached.
    #[inline(never)]
    fn read_pages(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        if self.is_distant() {
            return block_on(self.read_at_distant(buf, offset, self.blocking()));
        }
        let read = copy::read_pages(&self.opened.mapping, offset, buf, self.advice);
        self.passed(offset, buf.len());
        read
    }

    /// Drops the pages that a reader that reads once has passed, to their end, unless they are hot.
    #[inline]
    pub(crate) fn passed(&self, offset: u64, len: usize) {
        if self.advice == Advice::Once {
            once::passed(&self.opened.mapping, offset, len);
        }
    }

    /// Returns how the reads of this file request pages.
    pub(crate) fn how(&self) -> How {
        How { priority: self.priority, advice: self.advice, ..How::default() }
    }

    /// Returns how the reads of this file that block request pages.
    pub(crate) fn blocking(&self) -> How {
        How { blocks: true, ..self.how() }
    }

    /// Reads from `offset` on until `buf` is full.
    ///
    /// # Errors
    ///
    /// Any part of `buf` may have been written then.
    ///
    /// - `UnexpectedEof` if the file ends before.
    /// - `InvalidInput` if the offset exceeds `i64::MAX`.
    /// - `FileTooLarge` if it is 16 TiB or more, and inside the file.
    /// - `OutOfMemory` if no page can be evicted: all are pinned, or dirty and cannot be written.
    /// - `Unsupported` on a miss in a child forked after the cache was built.
    /// - Otherwise the error of the backing.
    pub fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let wanted = buf.len();
        let mut done = 0;
        while done < wanted {
            match self.read_at(&mut buf[done..], offset.saturating_add(done as u64))? {
                0 => {
                    let end = self.opened.mapping.len();
                    return Err(io::Error::new(
                        io::ErrorKind::UnexpectedEof,
                        format!("the file ends at {end}, {wanted} bytes at {offset} were wanted"),
                    ));
                }
                read => done += read,
            }
        }
        Ok(())
    }

    /// Returns the bytes from `offset` to the end of its page or of the file. Returns `None` at or
    /// past the end.
    ///
    /// The handle pins its page, without a copy. Pages that one request has read may share a folio,
    /// which is pinned as a whole while others pin it too. If that were more than four times the
    /// length of the handle, and more than two pages, the handle gets a copy of the page instead,
    /// as long as a frame is free.
    ///
    /// # Errors
    ///
    /// - `InvalidInput` if the offset exceeds `i64::MAX`.
    /// - `FileTooLarge` if it is 16 TiB or more, and inside the file.
    /// - `OutOfMemory` if no page can be evicted: all are pinned, or dirty and cannot be written.
    /// - `Unsupported` on a miss in a child forked after the cache was built.
    /// - Otherwise the error of the backing.
    #[inline(always)]
    #[cfg_attr(feature = "track", track_caller)]
    pub fn page(&self, offset: u64) -> io::Result<Option<PageHandle<S>>> {
        let page = match copy::whole_page(&self.opened.mapping, offset) {
            Some(page) => page,
            None => match self.page_slowly(offset)? {
                Some(page) => page,
                None => return Ok(None),
            },
        };
        Ok(Some(page.taken_here()))
    }

    #[cold]
    #[inline(never)]
    fn page_slowly(&self, offset: u64) -> io::Result<Option<PageHandle<S>>> {
        if self.is_distant() {
            self.page_distant_blocking(offset)
        } else {
            let page = copy::page(&self.opened.mapping, offset, self.advice);
            self.passed(offset, FRAME_SIZE - offset as usize % FRAME_SIZE);
            page
        }
    }

    /// Returns the backing that this open writes to, or that of the file if it is read-only.
    pub fn backing(&self) -> &Arc<dyn Backing> {
        self.opened.backing()
    }

    /// Returns the length of the file in bytes, as it was when the cache last checked it.
    ///
    /// If the length of an object of a distant store is not known yet, asks the store and waits. If
    /// that fails, returns 0: [`len_async`](Self::len_async) returns the error, and
    /// [`known_len`](Self::known_len) does not ask.
    pub fn len(&self) -> u64 {
        if self.is_distant() { self.len_or_error().unwrap_or(0) } else { self.opened.mapping.len() }
    }

    /// Returns `true` if the length is 0.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Checks whether another program changed the backing since it was opened or last revalidated.
    /// If so, drops all pages that are not dirty, and returns `true`. Otherwise returns `false`.
    ///
    /// A change is a different version of the backing: of a local file, a different size, mtime or
    /// ctime; of an object of a distant store, a different length or validator.
    ///
    /// # Errors
    ///
    /// Nothing was dropped then.
    ///
    /// - `StaleNetworkFileHandle` if an object of a distant store has changed, and the backing
    ///   wants that to fail ([`OnChange::Fail`](crate::OnChange)).
    /// - `Unsupported` in a child forked after the cache was built.
    /// - Otherwise the error of [`Backing::version`], or of
    ///   [`AsyncBacking::version`](crate::AsyncBacking::version).
    pub fn revalidate(&self) -> io::Result<bool> {
        if self.is_distant() {
            return self.revalidate_distant();
        }
        refresh::revalidate(&self.opened.mapping)
    }

    /// Runs `change`, which changes something about the file but none of its bytes: permissions,
    /// owner, names, times. The pages stay in the cache. Without this call the next open drops
    /// them.
    ///
    /// The change shows as a new ctime, and so does a write by another program that sets the mtime
    /// back. No system call tells the two apart, so a change that is not declared here costs the
    /// pages. It is a promise: no other program writes to the file while `change` runs, or those
    /// bytes may not be seen. If the file had already changed before the call, the next open drops
    /// the pages all the same.
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
    /// - The error of `change`.
    /// - `Unsupported` in a child forked after the cache was built. `change` was not run.
    /// - The error of [`Backing::version`](crate::Backing::version). `change` was not run.
    pub fn change_metadata<T>(&self, change: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        refresh::change_metadata(&self.opened.mapping, change)
    }

    /// Waits until no page of the file is being read ahead, fetched for a future, or written by the
    /// flusher. Waits neither for other files nor for requests that do not end. Does nothing in a
    /// child forked after the cache was built.
    pub fn quiesce(&self) {
        let shared = &self.opened.mapping.shared;
        if !shared.is_inherited() {
            shared.io_pool.quiesce_mapping(self.opened.mapping.id);
            shared.flush_pool.quiesce_file(&self.opened.mapping);
        }
    }

    /// Drops all cached pages of the file that are not dirty. Handles keep theirs. Of an object of
    /// a distant store, forgets the version too: the next answer tells it anew.
    ///
    /// In a child forked after the cache was built, each read of the file fails from then on
    /// ([After a fork](crate#after-a-fork)).
    pub fn invalidate(&self) {
        version::invalidate(&self.opened.mapping);
    }
}

impl<S: Scheme> fmt::Debug for File<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("File")
            .field("backing", self.opened.mapping.backing())
            .field("len", &self.known_len())
            .finish_non_exhaustive()
    }
}
