//! An open file: the methods that write.

use std::io;
use std::sync::Arc;

use folio_ref::Scheme;

use crate::api::file::File;
use crate::backing::Durable;
use crate::write::resize;
use crate::write::write_pages;

/// # Writing
///
/// What is written is seen at once by everybody who reads the file through this cache; it goes to
/// the backing after about a second, when it is synced, or when the last open is dropped, and is
/// durable after [`sync_data`](File::sync_data). An error of such a writeback is told once to every
/// open (as `fsync(2)` does): by its next sync, `flush` or `close`. The pages stay dirty then, and
/// the next sync tries them again; so they do when the file is closed, for as long as the
/// process lives. So errors that a file system would give to `write(2)`, such as `ENOSPC` or
/// `EFBIG`, come later here.
///
/// # Files without a name
///
/// A file that has no name any more when its last open is dropped loses its dirty pages: nothing
/// can open it again ([`Backing::is_unlinked`](crate::Backing::is_unlinked)). So a temporary file
/// that is short-lived is never written, and `rm` of a file that could not be written for want of
/// room gives its memory and its space back. Call [`flush`](File::flush) before the last close
/// where the bytes are needed all the same: another descriptor of the file is open, outside of
/// this cache, or a file of `O_TMPFILE` is to get its name (`linkat(2)`) after the close.
///
/// # Atomicity
///
/// A page is written atomically for readers; a call that spans several may be seen half done.
/// Handles keep what they showed. Past a quarter of the budget in dirty pages, who writes has to
/// wait for writeback.
impl<S: Scheme> File<S> {
    /// Writes `bytes` at `offset`, and makes the file longer if need be; a gap reads as zeroes. How
    /// many bytes: fewer only where the rest could not be written, as the next write will say.
    ///
    /// # Errors
    ///
    /// `PermissionDenied` when the file was opened for reading only, `InvalidInput` where no file
    /// can reach, `FileTooLarge` past 16 TiB, `OutOfMemory` when no page can be freed; what a
    /// fill says when only a part of a page is overwritten, and what writeback says when too
    /// much is dirty.
    pub fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<usize> {
        self.opened.writer()?;
        write_pages::write(&self.mapping, offset, bytes)
    }

    /// Writes `bytes` at the end of the file, whoever else appends through this cache. Where that
    /// was.
    ///
    /// # Errors
    ///
    /// As [`write_at`](Self::write_at). Some of the bytes may be there then: the length says how
    /// many.
    pub fn append(&self, bytes: &[u8]) -> io::Result<u64> {
        self.opened.writer()?;
        write_pages::append(&self.mapping, bytes)
    }

    /// Makes the file `len` bytes long: cuts it, or appends zeroes. The backing is changed at once.
    ///
    /// # Errors
    ///
    /// `FileTooLarge` (`EFBIG`) for more than 16 TiB, up to which a file can be cached. As
    /// [`write_at`](Self::write_at), and what the backing says; nothing has changed then.
    pub fn set_len(&self, len: u64) -> io::Result<()> {
        resize::resize(&self.mapping, self.opened.writer()?, len)
    }

    /// Makes `len` bytes from `offset` on zeroes, as far as the file goes, and gives the space of
    /// whole pages back. Where the backing has no holes (`EOPNOTSUPP` of `fallocate(2)`),
    /// zeroes are written: the bytes are the same, but they take space, and a large range takes
    /// as long as any write.
    ///
    /// # Errors
    ///
    /// `FileTooLarge` where the range reaches past 16 TiB of a longer file: nothing has changed then.
    /// As [`write_at`](Self::write_at), where a part may be zeroes then; and what the backing says
    /// of the hole, where nothing has changed then.
    pub fn punch_hole(&self, offset: u64, len: u64) -> io::Result<()> {
        resize::punch(&self.mapping, self.opened.writer()?, offset, len)
    }

    /// Returns when all bytes that were written to the file before this call, by anybody through
    /// this cache, are durable: they survive the end of this process and of the machine.
    ///
    /// # Errors
    ///
    /// An error of this or an earlier writeback or sync of which this open was not told. What a
    /// sync of the backing itself failed on may be lost, as `fsync(2)` has it: write it again.
    pub fn sync_data(&self) -> io::Result<()> {
        self.opened.sync(Durable::Data)
    }

    /// As [`sync_data`](Self::sync_data), and the same for the times and everything else about the
    /// file.
    ///
    /// # Errors
    ///
    /// As [`sync_data`](Self::sync_data).
    pub fn sync_all(&self) -> io::Result<()> {
        self.opened.sync(Durable::All)
    }

    /// Writes what is dirty to the backing, which may keep it in memory for a while: it survives
    /// the end of this process.
    ///
    /// # Errors
    ///
    /// An error of this or an earlier writeback or sync of which this open was not told.
    pub fn flush(&self) -> io::Result<()> {
        self.opened.flush()
    }

    /// Drops the file after a [`flush`](Self::flush): the way to learn of its errors.
    ///
    /// # Errors
    ///
    /// As [`flush`](Self::flush).
    pub fn close(self) -> io::Result<()> {
        if Arc::strong_count(&self.opened) == 1 {
            self.opened.flush_to_close()
        } else {
            self.flush()
        }
    }
}
