//! The files of the cache's fuzzer: small files that change, each with its expected contents, and
//! a large file that does not change.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use tempfile::TempDir;

/// Number of pages of the large file: 1.5 times the frames of the cache.
pub(crate) const LARGE: u64 = 1536;

/// Maximum length of a small file in bytes.
pub(crate) const MAX_LEN: usize = 20 * 4096;

/// Returns the folder of this process's files. It is in memory if `/dev/shm` exists.
pub(crate) fn folder() -> &'static Path {
    static FOLDER: OnceLock<TempDir> = OnceLock::new();
    FOLDER
        .get_or_init(|| {
            let memory = Path::new("/dev/shm");
            let folder = if memory.is_dir() { TempDir::new_in(memory) } else { TempDir::new() };
            let folder = folder.expect("a temporary folder");
            let large = File::create(folder.path().join("large")).expect("the large file");
            for page in 0..LARGE {
                large
                    .write_all_at(&[large_byte(page); 4096], page * 4096)
                    .expect("room for the large file");
            }
            folder
        })
        .path()
}

/// Returns the value of each byte of a page of the large file.
pub(crate) fn large_byte(page: u64) -> u8 {
    (page % 251) as u8 + 1
}

/// A small file that is changed without the cache.
pub(crate) struct Plain {
    pub(crate) path: PathBuf,
    file: File,
    pub(crate) contents: Vec<u8>,
    next: u8,
}

impl Plain {
    pub(crate) fn new(name: &str) -> Self {
        let path = folder().join(name);
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .open(&path)
            .expect("a small file");
        let mut plain = Self { path, file, contents: Vec::new(), next: 1 };
        plain.grow(3 * 4096 + 100);
        plain
    }

    fn write(&mut self, at: usize, len: usize) {
        let next = self.next;
        // No zero bytes: a zero that is read comes from a wrong end of file.
        let bytes: Vec<u8> = (0..len).map(|n| ((n + usize::from(next)) % 255) as u8 + 1).collect();
        self.next = next.wrapping_add(7);
        self.file.write_all_at(&bytes, at as u64).expect("room for a small file");
        self.contents[at..at + len].copy_from_slice(&bytes);
    }

    /// Appends bytes.
    pub(crate) fn grow(&mut self, by: usize) {
        let old = self.contents.len();
        let new = (old + by).min(MAX_LEN);
        self.contents.resize(new, 0);
        self.write(old, new - old);
    }

    /// Extends the file by a hole.
    pub(crate) fn extend(&mut self, by: usize) {
        let new = (self.contents.len() + by).min(MAX_LEN);
        self.contents.resize(new, 0);
        self.file.set_len(new as u64).expect("a length");
    }

    /// Truncates the file.
    pub(crate) fn truncate(&mut self, to: usize) {
        self.contents.truncate(to);
        self.file.set_len(self.contents.len() as u64).expect("a length");
    }

    /// Overwrites bytes in place.
    pub(crate) fn rewrite(&mut self, at: usize, len: usize) {
        let at = at.min(self.contents.len());
        self.write(at, len.min(self.contents.len() - at));
    }
}
