//! A cursor: an open file with a position, for `std::io`'s traits.

use std::fmt;
use std::io::{self, BufRead, ErrorKind, IoSliceMut, Read, Seek, SeekFrom, Write};

use folio_ref::{DefaultScheme, Scheme};

use crate::api::file::File;
use crate::backing::error::error;
use crate::state::handle::PageHandle;
use crate::write::write_pages;

/// A position in a [`File`]: it implements [`Read`], [`BufRead`], [`Seek`] and [`Write`].
/// [`File::cursor`] returns one.
///
/// It needs no buffer. [`BufRead::fill_buf`] returns the bytes of the page itself, and pins the
/// page until they are consumed, or the cursor reads, writes or seeks. These bytes are a snapshot.
///
/// [`Write::flush`] writes the file's dirty pages to its backing, as [`File::flush`]. If the file
/// was opened with [`OpenOptions::append`](crate::OpenOptions::append), each write appends, and the
/// position moves behind its bytes.
///
/// # Examples
///
/// ```
/// use std::io::{BufRead, Seek, SeekFrom, Write};
/// use folio_cache::Cache;
///
/// # fn main() -> std::io::Result<()> {
/// # let dir = tempfile::tempdir()?;
/// # let path = dir.path().join("lines");
/// let cache = Cache::new(4 << 20)?;
/// let mut cursor = cache.create(&path)?.cursor();
/// writeln!(cursor, "first line")?;
/// writeln!(cursor, "second line")?;
/// cursor.seek(SeekFrom::Start(6))?;
/// let lines: Vec<String> = cursor.lines().collect::<Result<_, _>>()?;
/// assert_eq!(lines, ["line", "second line"]);
/// # Ok(())
/// # }
/// ```
pub struct FileCursor<S: Scheme = DefaultScheme> {
    file: File<S>,
    position: u64,
    /// The page that `fill_buf` returned bytes of.
    page: Option<PageHandle<S>>,
    /// The bytes of `page` that were consumed: fewer than it has, or 0 without a page.
    consumed: usize,
}

impl<S: Scheme> File<S> {
    /// Returns a cursor at the start of the file. It keeps the file open.
    pub fn cursor(&self) -> FileCursor<S> {
        FileCursor { file: self.clone(), position: 0, page: None, consumed: 0 }
    }
}

impl<S: Scheme> FileCursor<S> {
    /// Returns the file.
    pub fn file(&self) -> &File<S> {
        &self.file
    }

    /// Drops the position. Returns the file.
    pub fn into_inner(self) -> File<S> {
        self.file
    }

    /// Returns the position, in bytes from the start of the file.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Sets the position, in bytes from the start of the file. It may lie past the end.
    pub fn set_position(&mut self, position: u64) {
        (self.page, self.consumed) = (None, 0);
        self.position = position;
    }

    fn skip(&mut self, bytes: usize) {
        self.set_position(self.position + bytes as u64);
    }
}

impl<S: Scheme> Read for FileCursor<S> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(buf, self.position)?;
        self.skip(read);
        Ok(read)
    }

    fn read_vectored(&mut self, bufs: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        let read = self.file.read_vectored_at(bufs, self.position)?;
        self.skip(read);
        Ok(read)
    }
}

impl<S: Scheme> BufRead for FileCursor<S> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.page.is_none() {
            self.page = self.file.page(self.position)?;
        }
        Ok(self.page.as_deref().map_or(&[], |page| &page[self.consumed..]))
    }

    /// # Panics
    ///
    /// Panics if `fill_buf` returned fewer than `amount` bytes.
    fn consume(&mut self, amount: usize) {
        let buffered = self.page.as_deref().map_or(0, <[u8]>::len) - self.consumed;
        assert!(amount <= buffered, "{amount} bytes are consumed of {buffered} buffered bytes");
        self.position += amount as u64;
        self.consumed += amount;
        if amount == buffered {
            (self.page, self.consumed) = (None, 0);
        }
    }
}

impl<S: Scheme> Seek for FileCursor<S> {
    /// Moves the position. Returns the new one. The end is [`File::len`]: the length as the cache
    /// knows it.
    ///
    /// # Errors
    ///
    /// Returns `InvalidInput` if the position would be negative or overflow, and the error of the
    /// store if it is asked for the length of a distant object. It stays then.
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let position = match to {
            SeekFrom::Start(offset) => Some(offset),
            SeekFrom::End(offset) => self.file.len_or_error()?.checked_add_signed(offset),
            SeekFrom::Current(offset) => self.position.checked_add_signed(offset),
        };
        let invalid = || error(ErrorKind::InvalidInput, format!("seek to {to:?} is out of range"));
        self.set_position(position.ok_or_else(invalid)?);
        Ok(self.position)
    }

    fn stream_position(&mut self) -> io::Result<u64> {
        Ok(self.position)
    }
}

impl<S: Scheme> Write for FileCursor<S> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        if !self.file.opened.appends() {
            let written = self.file.write_at(buf, self.position)?;
            self.skip(written);
            return Ok(written);
        }
        self.file.opened.writer()?;
        let (offset, written) = write_pages::append_some(&self.file.opened.mapping, buf)?;
        self.set_position(offset + written as u64);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl<S: Scheme> Clone for FileCursor<S> {
    /// Returns another cursor at the same position.
    fn clone(&self) -> Self {
        let mut other = self.file.cursor();
        other.position = self.position;
        other
    }
}

impl<S: Scheme> fmt::Debug for FileCursor<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileCursor")
            .field("file", &self.file)
            .field("position", &self.position)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::api::cache::Cache;
    use crate::backing::testing::{Call, Fault, Memory};

    /// An error means that nothing was written, as `Write` promises: otherwise a caller that tries
    /// again writes some bytes twice.
    #[test]
    fn an_append_that_fails_part_way_is_a_short_one() {
        let bytes: Vec<_> = (0..4_u32 << 20).map(|n| (n % 251) as u8).collect();
        let cache: Cache = Cache::builder().capacity(2 << 20).io_threads(0).build().unwrap();
        let memory = Arc::new(Memory::new(b""));
        let file = File::new(&cache.shared, memory.clone(), true, None).unwrap();
        let mut cursor = file.cursor();
        memory.inject(Call::Write, 2, u64::MAX, Fault::Error(28));
        let written = cursor.write(&bytes).unwrap();
        assert!(0 < written && written < bytes.len(), "{written}");
        assert_eq!((cursor.position(), file.len()), (written as u64, written as u64));
        assert_eq!(cursor.write(&bytes[written..]).unwrap_err().raw_os_error(), Some(28));
        assert_eq!(file.len(), written as u64);
        memory.heal();
        cursor.write_all(&bytes[written..]).unwrap();
        file.sync_data().ok();
        file.sync_data().unwrap();
        assert!(memory.contents() == bytes);
    }
}
