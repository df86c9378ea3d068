//! The steps of a writer: they follow from a seed, so the parent of a killed child knows them.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use folio_cache::{Backing, Cache, File, OpenOptions};

/// The unit of each offset, length and content, in bytes.
pub(crate) const WORD: usize = 8;

/// The number of words in a cell, which is a little more than two pages.
const CELL: usize = 1025;

/// The number of files that steps write to, beside those that replace each other.
pub(crate) const FILES: usize = 3;

/// The number of words of a file that is put in the place of the one before.
pub(crate) const REPLACEMENT: usize = 1500;

/// A step. Its bytes are the number of the step, in each word. Offsets and lengths are in words.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Step {
    Write {
        file: usize,
        at: usize,
        len: usize,
    },
    Append {
        file: usize,
        len: usize,
    },
    SetLen {
        file: usize,
        len: usize,
    },
    Punch {
        file: usize,
        at: usize,
        len: usize,
    },
    Flush {
        file: usize,
    },
    SyncData {
        file: usize,
    },
    SyncAll {
        file: usize,
    },
    /// Appends through a cursor, and flushes it.
    Cursor {
        file: usize,
        len: usize,
    },
    /// Closes the file, and opens it again.
    Close {
        file: usize,
    },
    /// Drops the only open of the file, and opens it again.
    Drop {
        file: usize,
    },
    /// Flushes the file, writes within it, and discards.
    Discard {
        file: usize,
        at: usize,
        len: usize,
    },
    /// Flushes all files.
    FlushAll,
    /// Writes a new file, closes it, and renames it to the name that the one before had.
    Replace,
}

/// The share of the kinds of steps.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mix {
    /// One in this number of steps makes a promise.
    pub(crate) promises: u32,
    /// The cells of the first file.
    pub(crate) cells: usize,
    /// Files without a directory cannot replace each other.
    pub(crate) replaces: bool,
}

/// The steps of a seed. It keeps the lengths of the files, which steps depend on.
pub(crate) struct Steps {
    random: fastrand::Rng,
    mix: Mix,
    lens: [usize; FILES],
}

impl Steps {
    pub(crate) fn new(seed: u64, mix: Mix) -> Self {
        Self { random: fastrand::Rng::with_seed(seed), mix, lens: [0; FILES] }
    }

    /// Returns a range of up to `longest` words, which begins in the file.
    fn range(&mut self, file: usize, longest: usize) -> (usize, usize) {
        (self.random.usize(..=self.lens[file]), self.random.usize(1..longest))
    }
}

impl Iterator for Steps {
    type Item = Step;

    /// The first file has cells, the second is a log, and the third has holes and any length.
    fn next(&mut self) -> Option<Step> {
        let file = self.random.usize(..FILES);
        if self.random.u32(..self.mix.promises) == 0 {
            return Some(match self.random.u8(..8) {
                0 => Step::SyncData { file },
                1 => Step::SyncAll { file },
                2 => Step::Close { file },
                3 => Step::Drop { file },
                4 => Step::FlushAll,
                5 if self.mix.replaces => Step::Replace,
                6 if self.lens[0] > CELL => {
                    let at = self.random.usize(..self.lens[0] - CELL);
                    Step::Discard { file: 0, at, len: CELL }
                }
                _ => Step::Flush { file },
            });
        }
        let step = match (file, self.random.u8(..64)) {
            (0, _) => {
                Step::Write { file, at: self.random.usize(..self.mix.cells) * CELL, len: CELL }
            }
            (1, 0) => Step::SetLen { file, len: self.lens[1] / 2 },
            (1, 1) => Step::Cursor { file, len: self.random.usize(1..100) },
            (1, 2) => Step::Write { file, at: 0, len: self.lens[1].clamp(1, 8) },
            (1, _) => Step::Append { file, len: self.random.usize(1..100) },
            (_, 0..4) => Step::SetLen { file, len: self.random.usize(..40_000) },
            (_, 4..12) => {
                let (at, len) = self.range(file, 4000);
                Step::Punch { file, at, len }
            }
            (_, 12..30) => {
                // It may begin past the end: the gap reads as zeroes.
                let (at, len) = self.range(file, 2000);
                Step::Write { file, at: at + at % 700, len }
            }
            _ => Step::Append { file, len: self.random.usize(1..600) },
        };
        match step {
            Step::Write { file, at, len } => self.lens[file] = self.lens[file].max(at + len),
            Step::Append { file, len } | Step::Cursor { file, len } => self.lens[file] += len,
            Step::SetLen { file, len } => self.lens[file] = len,
            _ => {}
        }
        Some(step)
    }
}

/// Opens a file by its number.
type Opener = Box<dyn Fn(&Cache, usize) -> io::Result<File>>;

/// The writer: a cache with the files of the steps.
pub(crate) struct Writer {
    cache: Cache,
    files: [Option<File>; FILES],
    open: Opener,
    dir: PathBuf,
}

pub(crate) fn name(file: usize) -> &'static str {
    ["cells", "log", "holes"][file]
}

impl Writer {
    /// Returns a writer to files in a directory. `direct` bypasses the kernel's page cache.
    pub(crate) fn in_dir(cache: Cache, dir: &Path, direct: bool) -> io::Result<Self> {
        let path = dir.to_owned();
        let open = move |cache: &Cache, file| {
            let mut options = OpenOptions::new();
            options.read(true).append(true).create(true).direct(direct);
            options.open(cache, path.join(name(file)))
        };
        Self::new(cache, dir, Box::new(open))
    }

    /// Returns a writer to these backings.
    pub(crate) fn to<B: Backing>(cache: Cache, backings: [Arc<B>; FILES]) -> io::Result<Self> {
        let open = move |cache: &Cache, file: usize| cache.open_backing(backings[file].clone());
        Self::new(cache, Path::new(""), Box::new(open))
    }

    fn new(cache: Cache, dir: &Path, open: Opener) -> io::Result<Self> {
        let files = [Some(open(&cache, 0)?), Some(open(&cache, 1)?), Some(open(&cache, 2)?)];
        Ok(Self { cache, files, open, dir: dir.to_owned() })
    }

    fn file(&self, file: usize) -> &File {
        self.files[file].as_ref().expect("it is open between the steps")
    }

    /// Performs step `n`.
    pub(crate) fn perform(&mut self, n: u64, step: Step) -> io::Result<()> {
        let bytes = |len: usize| n.to_le_bytes().repeat(len);
        let offset = |at: usize| (at * WORD) as u64;
        match step {
            Step::Write { file, at, len } => self.file(file).write_all_at(&bytes(len), offset(at)),
            Step::Append { file, len } => self.file(file).append(&bytes(len)).map(drop),
            Step::SetLen { file, len } => self.file(file).set_len(offset(len)),
            Step::Punch { file, at, len } => self.file(file).punch_hole(offset(at), offset(len)),
            Step::Flush { file } => self.file(file).flush(),
            Step::SyncData { file } => self.file(file).sync_data(),
            Step::SyncAll { file } => self.file(file).sync_all(),
            Step::Cursor { file, len } => {
                let mut cursor = self.file(file).cursor();
                cursor.set_position(self.file(file).len());
                cursor.write_all(&bytes(len))?;
                cursor.flush()
            }
            Step::Close { file } => {
                let closed = self.files[file].take().map_or(Ok(()), File::close);
                self.files[file] = Some((self.open)(&self.cache, file)?);
                closed
            }
            Step::Drop { file } => {
                drop(self.files[file].take());
                self.files[file] = Some((self.open)(&self.cache, file)?);
                Ok(())
            }
            Step::Discard { file, at, len } => {
                let file = self.file(file);
                let flushed = file.flush();
                file.write_all_at(&bytes(len), offset(at))?;
                file.discard()?;
                flushed
            }
            Step::FlushAll => self.cache.flush(),
            Step::Replace => {
                let (new, name) = (self.dir.join("new"), self.dir.join("replaced"));
                let file = self.cache.create(&new)?;
                file.write_all_at(&bytes(REPLACEMENT), 0)?;
                file.close()?;
                fs::rename(new, name)
            }
        }
    }
}
