//! The files to read: every regular, readable, non-empty file under a directory.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, bail};
use walkdir::WalkDir;

/// What was found.
pub(crate) struct Corpus {
    pub(crate) files: Vec<PathBuf>,
    pub(crate) bytes: u64,
    /// Special files, links, empty ones, and what could not be looked at.
    pub(crate) skipped: u64,
}

impl Corpus {
    /// Walks `dir`. Links are not followed, so a loop of them is harmless.
    pub(crate) fn find(dir: &Path, stop: &AtomicBool, mut found: impl FnMut(usize)) -> Result<Self> {
        let shown = dir.display();
        if !std::fs::metadata(dir).with_context(|| format!("{shown} can not be read"))?.is_dir() {
            bail!("{shown} is not a directory: give one whose files are to be read");
        }
        std::fs::read_dir(dir).with_context(|| format!("{shown} can not be read"))?;
        let mut corpus = Self { files: Vec::new(), bytes: 0, skipped: 0 };
        for entry in WalkDir::new(dir) {
            if stop.load(Ordering::Relaxed) {
                break;
            }
            match entry.and_then(|entry| Ok((entry.metadata()?, entry))) {
                Ok((metadata, _)) if metadata.is_dir() => {}
                Ok((metadata, entry)) if metadata.is_file() && metadata.len() > 0 => {
                    corpus.bytes += metadata.len();
                    corpus.files.push(entry.into_path());
                    found(corpus.files.len());
                }
                _ => corpus.skipped += 1,
            }
        }
        corpus.files.shrink_to_fit();
        if corpus.files.is_empty() {
            bail!("{shown} has no file to read: {} entries are empty, special or unreadable", corpus.skipped);
        }
        Ok(corpus)
    }
}
