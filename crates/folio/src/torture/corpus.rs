//! The files to read: every regular, readable, non-empty file under a directory.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, bail};
use walkdir::WalkDir;

/// What was found.
pub(crate) struct Corpus {
    pub(crate) files: Vec<PathBuf>,
    /// Where each file would end if all of them lay one after the other.
    ends: Vec<u64>,
    /// Special files, links, empty ones, and what could not be looked at.
    pub(crate) skipped: u64,
}

impl Corpus {
    /// Walks `dir`. Links are not followed, so a loop of them is harmless.
    pub(crate) fn find(
        dir: &Path,
        stop: &AtomicBool,
        mut found: impl FnMut(usize),
    ) -> Result<Self> {
        let shown = dir.display();
        if !std::fs::metadata(dir).with_context(|| format!("{shown} can not be read"))?.is_dir() {
            bail!("{shown} is not a directory: give one whose files are to be read");
        }
        std::fs::read_dir(dir).with_context(|| format!("{shown} can not be read"))?;
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
    /// The length of all files together.
    pub(crate) fn bytes(&self) -> u64 {
        self.ends.last().copied().unwrap_or(0)
    }

    /// One of the files: half the time each is as likely as any, half the time each *byte*. So the
    /// many small files are read, and the few large ones fill the cache.
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
