//! A trace in a temporary file, with its pages numbered from 0 in the order of their first use.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};

use super::references::References;

/// The references that are read at once.
pub(super) const CHUNK: usize = 1 << 18;

/// The next use of a page that is never used again.
pub(super) const NEVER: u64 = u64::MAX;

/// The references of a trace, in a temporary file.
#[derive(Debug)]
pub struct Spool {
    pages: File,
    /// By reference: the number of the next reference to the page. Made when it is first needed.
    next: Option<File>,
    len: u64,
    distinct: u32,
    one_in: u32,
    is_whole: bool,
    is_cut: bool,
    is_doubtful: bool,
    column: Option<String>,
    empty: u64,
}

fn too_many() -> io::Error {
    io::Error::new(io::ErrorKind::FileTooLarge, "the trace has 2^32 pages or more")
}

impl Spool {
    /// Reads a whole trace. Stops early, with what was read, once `stop` is set.
    ///
    /// # Errors
    ///
    /// - The first error of the trace.
    /// - `InvalidData` if it has no reference.
    /// - The error of the temporary file, with its folder and the room that it needs.
    pub fn read(references: References, stop: &AtomicBool) -> io::Result<Self> {
        let one_in = references.one_in();
        let mut references = references;
        let mut spool = Self::of(&mut references, stop)?;
        if spool.len == 0 {
            let path = references.path().display();
            let message = format!("{path}: the trace has no references");
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        }
        spool.one_in = one_in;
        (spool.column, spool.empty) = (references.column(), references.empty_requests());
        (spool.is_cut, spool.is_doubtful) = (references.is_cut(), references.is_doubtful());
        Ok(spool)
    }

    /// Numbers the pages of some references, and keeps them.
    pub(crate) fn of(
        references: impl Iterator<Item = io::Result<u64>>,
        stop: &AtomicBool,
    ) -> io::Result<Self> {
        let mut numbers = HashMap::new();
        let mut out = BufWriter::with_capacity(4 * CHUNK, temporary()?);
        let (mut len, mut is_whole) = (0, true);
        for page in references {
            if page.is_err() && stop.load(Ordering::Relaxed) {
                is_whole = false;
                break;
            }
            let new = u32::try_from(numbers.len()).map_err(|_| too_many())?;
            let number = *numbers.entry(page?).or_insert(new);
            out.write_all(&number.to_le_bytes()).map_err(in_folder)?;
            len += 1;
            if len % CHUNK as u64 == 0 && stop.load(Ordering::Relaxed) {
                is_whole = false;
                break;
            }
        }
        let pages = out.into_inner().map_err(|error| in_folder(error.into_error()))?;
        let distinct = u32::try_from(numbers.len()).map_err(|_| too_many())?;
        let (one_in, column, empty, is_cut, is_doubtful) = (1, None, 0, false, false);
        Ok(Self {
            pages,
            next: None,
            len,
            distinct,
            one_in,
            is_whole,
            is_cut,
            is_doubtful,
            column,
            empty,
        })
    }

    /// Returns the number of references.
    pub fn references(&self) -> u64 {
        self.len
    }

    /// Returns the number of different pages.
    pub fn pages(&self) -> u32 {
        self.distinct
    }

    /// Returns the share of the pages that were recorded: one in so many.
    pub fn one_in(&self) -> u32 {
        self.one_in
    }

    /// Returns `false` if it was stopped before the trace ended.
    pub fn is_whole(&self) -> bool {
        self.is_whole
    }

    /// Returns `true` if the trace is a recording that ended within its last record, as on a full
    /// disk. That record is left out.
    pub fn is_cut(&self) -> bool {
        self.is_cut
    }

    /// Returns the column of a CSV file that the pages are from: its name, or its number from 1.
    pub fn column(&self) -> Option<&str> {
        self.column.as_deref()
    }

    /// Returns `true` if the column was chosen without a header, and no page of it is a number.
    pub fn is_doubtful(&self) -> bool {
        self.is_doubtful
    }

    /// Returns the number of requests for no page. They are not among the references.
    pub fn empty_requests(&self) -> u64 {
        self.empty
    }

    /// Calls `visit` with the references, many at a time.
    ///
    /// # Errors
    ///
    /// The first error of `visit`, or that of the temporary file.
    pub fn for_each_chunk(
        &self,
        mut visit: impl FnMut(&[u32]) -> io::Result<()>,
    ) -> io::Result<()> {
        let (mut bytes, mut pages) = (vec![0; 4 * CHUNK], Vec::with_capacity(CHUNK));
        for from in (0..self.len).step_by(CHUNK) {
            let count = (self.len - from).min(CHUNK as u64) as usize;
            let bytes = &mut bytes[..4 * count];
            self.pages.read_exact_at(bytes, 4 * from).map_err(in_folder)?;
            pages.clear();
            pages.extend(bytes.as_chunks().0.iter().map(|&page| u32::from_le_bytes(page)));
            visit(&pages)?;
        }
        Ok(())
    }

    /// Returns the next use of each reference, by a stream.
    pub(super) fn next_uses(&mut self) -> io::Result<impl Iterator<Item = io::Result<u64>>> {
        if self.next.is_none() {
            self.next = Some(self.find_next_uses()?);
        }
        let mut file = self.next.as_ref().expect("just made").try_clone()?;
        file.seek(SeekFrom::Start(0))?;
        let mut from = BufReader::with_capacity(8 * CHUNK, file);
        Ok((0..self.len).map(move |_| {
            let mut next = [0; 8];
            from.read_exact(&mut next).map(|()| u64::from_le_bytes(next)).map_err(in_folder)
        }))
    }

    /// Reads the references from the last to the first, and writes the next use of each.
    fn find_next_uses(&self) -> io::Result<File> {
        let file = temporary()?;
        let mut later = vec![NEVER; self.distinct as usize];
        let (mut pages, mut next) = (vec![0; 4 * CHUNK], vec![0; 8 * CHUNK]);
        for from in (0..self.len).step_by(CHUNK).collect::<Vec<_>>().into_iter().rev() {
            let count = (self.len - from).min(CHUNK as u64) as usize;
            let (pages, next) = (&mut pages[..4 * count], &mut next[..8 * count]);
            self.pages.read_exact_at(pages, 4 * from).map_err(in_folder)?;
            for (at, page) in pages.as_chunks().0.iter().enumerate().rev() {
                let later = &mut later[u32::from_le_bytes(*page) as usize];
                let next_use = std::mem::replace(later, from + at as u64);
                next[8 * at..8 * at + 8].copy_from_slice(&next_use.to_le_bytes());
            }
            file.write_all_at(next, 8 * from).map_err(in_folder)?;
        }
        Ok(file)
    }
}

/// Returns a temporary file without a name.
fn temporary() -> io::Result<File> {
    tempfile::tempfile().map_err(in_folder)
}

/// Returns an error of a temporary file with its folder, and what to do.
#[expect(clippy::needless_pass_by_value, reason = "for `map_err`")]
fn in_folder(error: io::Error) -> io::Error {
    let folder = std::env::temp_dir();
    let message = format!(
        "a temporary file in {}: {error}; set TMPDIR to a writable folder with 12 bytes of room \
         for each reference",
        folder.display()
    );
    io::Error::new(error.kind(), message)
}
