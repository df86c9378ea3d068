//! Files that cannot be written: the list of them, and the calls that give them up.

use std::io;

use folio_ref::Scheme;

use crate::api::cache::Cache;
use crate::api::file::File;
use crate::backing::FileId;
use crate::state::unwritten::Unwritten;
use crate::write::discard;

impl<S: Scheme> Cache<S> {
    /// Returns the files that cannot be written: the last write failed, a request has not ended for
    /// 250 ms, or a failed sync may have lost bytes. Returns none in a child forked after the cache
    /// was built.
    ///
    /// Such a file is tried again by its own syncs and writers, and by the flusher: after a second
    /// at first, then less and less often, down to once a minute. It does not slow down the other
    /// files. [`File::discard`] and [`Cache::discard`] give its bytes up.
    pub fn unwritten(&self) -> Vec<Unwritten> {
        if self.shared.is_inherited() { Vec::new() } else { discard::unwritten(&self.shared) }
    }

    /// Drops the dirty pages of a file, also if it is closed: see [`File::discard`]. Returns the
    /// number of bytes dropped, which is 0 if the cache does not know the file.
    ///
    /// # Errors
    ///
    /// `Unsupported` in a child forked after the cache was built.
    pub fn discard(&self, file_id: FileId) -> io::Result<u64> {
        self.shared.check_process()?;
        let file = self.shared.registry.by_file_id(file_id);
        discard::discard_closed(&self.shared, file_id);
        Ok(file.map_or(0, |file| discard::discard(&file)))
    }
}

impl<S: Scheme> File<S> {
    /// Drops the dirty pages of the file: **what was written since the last [`flush`](Self::flush)
    /// or sync is lost**. Reads see what the backing has. The file ends where the backing does.
    /// Handles keep their bytes. Returns the number of bytes dropped, in whole pages.
    ///
    /// This is for a file that cannot be written: its dirty pages would stay in the cache for as
    /// long as the process lives. It does not wait for the backing, except at most a second for
    /// reads of pages past the new end. If a write is under way, its bytes may still reach the
    /// backing, and its pages leave the cache when it ends. Bytes that another thread writes
    /// meanwhile are dropped or not. If a call does not end that asks for the length of the backing
    /// or changes it, the length stays as it was: a read past the end of the backing waits for that
    /// call, and then finds the end.
    ///
    /// After it, a sync of this open file reports no error from before. Other opens still report
    /// the latest error once. The same call acknowledges a failed sync that may have lost bytes:
    /// see [`sync_data`](Self::sync_data).
    ///
    /// # Errors
    ///
    /// - `PermissionDenied` if the file was opened for reading only.
    /// - `Unsupported` in a child forked after the cache was built.
    pub fn discard(&self) -> io::Result<u64> {
        self.opened.writer()?;
        let dropped = discard::discard(&self.opened.mapping);
        self.opened.acknowledge();
        Ok(dropped)
    }
}
