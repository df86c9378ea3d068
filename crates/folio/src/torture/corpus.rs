//! The files to read: every regular, readable, non-empty file under a directory.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, bail};
use walkdir::WalkDir;

/// The files found.
pub(crate) struct Corpus {
    pub(crate) files: Vec<PathBuf>,
    /// The end offset of each file in the concatenation of all files.
    ends: Vec<u64>,
    /// Number of entries that are special files, links, empty or unreadable.
    pub(crate) skipped: u64,
}

impl Corpus {
    /// Walks `dir`. Links are not followed, so a loop of links is harmless.
    ///
    /// # Errors
    ///
    /// Fails if `dir` cannot be read, is not a directory, or has no non-empty regular file.
    pub(crate) fn find(
        dir: &Path,
        stop: &AtomicBool,
        mut found: impl FnMut(usize),
    ) -> Result<Self> {
        let shown = dir.display();
        if !std::fs::metadata(dir).with_context(|| format!("{shown} cannot be read"))?.is_dir() {
            bail!("{shown} is not a directory: give a directory with files to read");
        }
        std::fs::read_dir(dir).with_context(|| format!("{shown} cannot be read"))?;
        let mut corpus = Self { files: Vec::new(), ends: Vec::new(), skipped: 0 };
        for entry in WalkDir::new(dir) {
            if stop.load(Ordering::Relaxed) {
                break;
            }
            match entry.and_then(|entry| Ok((entry.metadata()?, entry))) {
                Ok((metadata, _)) if metadata.is_dir() => {}
                Ok((metadata, entry)) if metadata.is_file() && metadata.len() > 0 => {
                    corpus.ends.push(corpus.bytes().saturating_add(metadata.len()));
                    corpus.files.push(entry.into_path());
                    found(corpus.files.len());
                }
                _ => corpus.skipped += 1,
            }
        }
        corpus.files.shrink_to_fit();
        corpus.ends.shrink_to_fit();
        if corpus.files.is_empty() {
            bail!(
                "{shown} has no file to read: {} entries are empty, special or unreadable",
                corpus.skipped
            );
        }
        Ok(corpus)
    }

    /// Returns the total length of all files.
    pub(crate) fn bytes(&self) -> u64 {
        self.ends.last().copied().unwrap_or(0)
    }

    /// Returns a random file. Half of the picks are uniform over files, so that the many small
    /// files are read. The other half are uniform over bytes, so that the few large files fill
    /// the cache.
    pub(crate) fn pick(&self, random: &mut fastrand::Rng) -> &Path {
        let n = if random.bool() {
            random.usize(..self.files.len())
        } else {
            let byte = random.u64(..self.bytes());
            self.ends.partition_point(|&end| end <= byte)
        };
        &self.files[n]
    }
}
