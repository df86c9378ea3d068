//! An open file: the methods that write.

use std::io;

use folio_ref::Scheme;

use crate::api::file::File;
use crate::backing::Durable;
use crate::write::resize;
use crate::write::write_pages;

/// # Writing
///
/// Written bytes are visible at once to all readers of the file through this cache. They reach the
/// backing after about a second, or when the file is synced, flushed, closed, or dropped for the
/// last time. They are durable after [`sync_data`](File::sync_data).
///
/// An error of writeback is reported once to each open, as `fsync(2)` does: by its next sync,
/// `flush` or `close`. The pages stay dirty, and the next sync tries them again, even after the
/// file was closed, for as long as the process lives. So errors that a file system returns from
/// `write(2)`, such as `ENOSPC` or `EFBIG`, come later here.
///
/// A page is written atomically for readers. A call that spans several pages may be seen half done.
/// Handles keep their bytes.
///
/// A write that would leave too much dirty waits for writeback of its own file. A file may have
/// more dirty bytes while one of these holds, and all files have less than three quarters of the
/// capacity dirty:
///
/// | limit | compared with the dirty bytes of |
/// | --- | --- |
/// | a quarter of the capacity | all files, without those that cannot be written |
/// | a sixteenth of the capacity | this file, whatever the others have |
///
/// A file that cannot be written has the first limit alone, and there all files count.
///
/// # Files that cannot be written
///
/// A file harms no other file if its writes fail or do not end. It is tried again by its own syncs
/// and writers, and by the cache less and less often. [`Cache::unwritten`](crate::Cache::unwritten)
/// lists such files. [`discard`](File::discard) gives up what is dirty.
///
/// # Order
///
/// If the process is killed, the bytes that were appended since the last sync are in the file from
/// the first one up to some point: there is no hole before newer bytes. Whatever lies past the end
/// of the backing is written in the order of the file. There are two exceptions:
///
/// - The backing refuses bytes with another error than a lack of room. That error is reported.
/// - Another program changes the length meanwhile.
///
/// Bytes that replace older ones reach the file in any order, also relative to appended ones: only
/// a sync orders them. If the machine fails, only a sync promises anything.
///
/// # Files without a name
///
/// A file that has no name any more when its last open is dropped loses its dirty pages: nothing
/// can open it again ([`Backing::is_unlinked`](crate::Backing::is_unlinked)). So a temporary file
/// that lives briefly is never written. Deleting a file that could not be written for want of room
/// gives its memory and its space back: at the last close, or within about a second after it in a
/// cache with threads.
///
/// Call [`flush`](File::flush) before the last close if the bytes are needed all the same. They are
/// if another descriptor of the file is open outside of this cache. They are too if a file of
/// `O_TMPFILE` gets its name (`linkat(2)`) after the close.
impl<S: Scheme> File<S> {
    /// Writes `buf` at `offset`, and extends the file if necessary: a gap reads as zeroes. Returns
    /// the number of bytes written. A short count means an error part-way that the next write
    /// returns.
    ///
    /// # Errors
    ///
    /// - `PermissionDenied` if the file was opened for reading only.
    /// - `InvalidInput` if the range ends past `i64::MAX`, `FileTooLarge` if it ends past 16 TiB.
    /// - `OutOfMemory` if no page can be evicted.
    /// - `Unsupported` in a child forked after the cache was built.
    /// - The error of a fill if only a part of a page is overwritten, and that of writeback if too
    ///   much is dirty.
    pub fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize> {
        self.opened.writer()?;
        write_pages::write(&self.opened.mapping, offset, buf)
    }

    /// Writes all of `buf` at `offset`, and extends the file if necessary: a gap reads as zeroes.
    ///
    /// # Errors
    ///
    /// A part may have been written then.
    ///
    /// - `PermissionDenied` if the file was opened for reading only.
    /// - `InvalidInput` if the range ends past `i64::MAX`, `FileTooLarge` if it ends past 16 TiB.
    /// - `OutOfMemory` if no page can be evicted.
    /// - `Unsupported` in a child forked after the cache was built.
    /// - The error of a fill if only a part of a page is overwritten, and that of writeback if too
    ///   much is dirty.
    pub fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        let mut done = self.write_at(buf, offset)?;
        while done < buf.len() {
            // At least one byte, or an error.
            done += self.write_at(&buf[done..], offset.saturating_add(done as u64))?;
        }
        Ok(())
    }

    /// Writes all of `bytes` at the end of the file. Returns their offset. Concurrent appends
    /// through this cache neither overlap nor leave gaps.
    ///
    /// # Errors
    ///
    /// A part may have been written then: the length shows how much.
    ///
    /// - `PermissionDenied` if the file was opened for reading only.
    /// - `InvalidInput` if the range ends past `i64::MAX`, `FileTooLarge` if it ends past 16 TiB.
    /// - `OutOfMemory` if no page can be evicted.
    /// - `Unsupported` in a child forked after the cache was built.
    /// - The error of a fill if only a part of a page is overwritten, and that of writeback if too
    ///   much is dirty.
    pub fn append(&self, bytes: &[u8]) -> io::Result<u64> {
        self.opened.writer()?;
        write_pages::append(&self.opened.mapping, bytes)
    }

    /// Sets the length of the file: truncates it, or appends zeroes. The backing is changed at
    /// once.
    ///
    /// # Errors
    ///
    /// Nothing has changed then, but for `OutOfMemory`.
    ///
    /// - `PermissionDenied` if the file was opened for reading only.
    /// - `InvalidInput` if `len` exceeds `i64::MAX`.
    /// - `FileTooLarge` if `len` exceeds 16 TiB, the maximum that can be cached of a file.
    /// - `OutOfMemory` if no page can be evicted. A file that becomes shorter may end with the page
    ///   of its new end then.
    /// - `Unsupported` in a child forked after the cache was built.
    /// - Otherwise the error of the backing.
    pub fn set_len(&self, len: u64) -> io::Result<()> {
        resize::resize(&self.opened.mapping, self.opened.writer()?, len)
    }

    /// Sets `len` bytes from `offset` on to zero, up to the end of the file, and frees the space of
    /// whole pages.
    ///
    /// Zeroes are written if the backing has no holes (`EOPNOTSUPP` of `fallocate(2)`): the bytes
    /// are the same, but they take space, and a large range takes as long as any write.
    ///
    /// # Errors
    ///
    /// - `PermissionDenied` if the file was opened for reading only.
    /// - `FileTooLarge` if the range reaches past 16 TiB of a longer file. Nothing has changed.
    /// - `OutOfMemory` if no page can be evicted. A part may be zeroes then.
    /// - `Unsupported` in a child forked after the cache was built.
    /// - The error of a fill or of writeback. A part may be zeroes then.
    /// - The error of the backing for the hole. Nothing has changed then.
    pub fn punch_hole(&self, offset: u64, len: u64) -> io::Result<()> {
        resize::punch(&self.opened.mapping, self.opened.writer()?, offset, len)
    }

    /// Makes all bytes durable that were written to the file through this cache before the call:
    /// they survive the end of this process and of the machine.
    ///
    /// If the sync of the backing fails, what was written since the last good one is dirty again,
    /// and the next call writes it again: so no call succeeds before all bytes are durable. Bytes
    /// that have left the cache by then cannot be written again, and may be lost. From then on each
    /// sync of the file fails, until these bytes are written again, truncated, or given up by
    /// [`discard`](Self::discard). [`Unwritten::lost_bytes`](crate::Unwritten::lost_bytes) is their
    /// number.
    ///
    /// This also covers bytes that were written before the last close of the file. Of at most 4096
    /// closed files the cache remembers that some of their bytes are not durable: sync before the
    /// close.
    ///
    /// Concurrent calls share their writes and their sync.
    ///
    /// # Errors
    ///
    /// - The latest error of this or an earlier writeback or sync, unless this open has already
    ///   seen it.
    /// - An error of kind `Other` as long as bytes may be lost, as above.
    /// - `Unsupported` in a child forked after the cache was built.
    pub fn sync_data(&self) -> io::Result<()> {
        self.opened.sync(Durable::Data)
    }

    /// Makes all bytes durable that were written to the file through this cache before the call,
    /// and the times and other metadata of the file. See [`sync_data`](Self::sync_data) for what
    /// follows if the sync of the backing fails.
    ///
    /// # Errors
    ///
    /// - The latest error of this or an earlier writeback or sync, unless this open has already
    ///   seen it.
    /// - An error of kind `Other` as long as bytes may be lost.
    /// - `Unsupported` in a child forked after the cache was built.
    pub fn sync_all(&self) -> io::Result<()> {
        self.opened.sync(Durable::All)
    }

    /// Writes the dirty pages of the file to its backing, which may keep them in memory for a
    /// while: they survive the end of this process.
    ///
    /// # Errors
    ///
    /// - The latest error of this or an earlier writeback or sync, unless this open has already
    ///   seen it.
    /// - `Unsupported` in a child forked after the cache was built.
    pub fn flush(&self) -> io::Result<()> {
        self.opened.flush()
    }

    /// Writes the dirty pages of the file to its backing, and drops the file. A plain drop writes
    /// them too, and loses the error.
    ///
    /// # Errors
    ///
    /// - The latest error of this or an earlier writeback or sync, unless this open has already
    ///   seen it.
    /// - `Unsupported` in a child forked after the cache was built.
    pub fn close(self) -> io::Result<()> {
        self.opened.flush_to_close()
    }
}
