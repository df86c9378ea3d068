//! Temporary files and folders that are removed at the end, also of a process that exits early.
//!
//! Each is removed when it is dropped. [`remove_all`] removes those that are left: a process that
//! exits drops nothing, and without a free descriptor a folder cannot be emptied.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, ErrorKind};
use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use parking_lot::Mutex;
use tempfile::NamedTempFile;

/// The longest wait for a file that is being made.
const PATIENCE: Duration = Duration::from_secs(1);

/// The attempts to remove a folder: another thread may put a file into it at this moment.
const ATTEMPTS: u32 = 20;

static REGISTRY: Registry = Registry::new();

/// The paths that are left.
#[derive(Debug)]
struct Registry(Mutex<Left>);

#[derive(Debug)]
struct Left {
    paths: BTreeSet<PathBuf>,
    /// No others are made.
    is_closed: bool,
}

impl Registry {
    const fn new() -> Self {
        Self(Mutex::new(Left { paths: BTreeSet::new(), is_closed: false }))
    }

    /// Makes a file or folder, and keeps its path.
    fn add<T>(&self, make: impl FnOnce() -> io::Result<(T, PathBuf)>) -> io::Result<T> {
        // Locked meanwhile: what is made later is not removed.
        let mut left = self.0.lock();
        if left.is_closed {
            return Err(io::Error::other("no temporary file is made, as the process ends"));
        }
        let (scratch, path) = make()?;
        left.paths.insert(path);
        Ok(scratch)
    }

    /// Removes a file or folder. If that fails, its path is kept.
    fn remove(&self, path: &Path) -> io::Result<()> {
        remove(path)?;
        if let Some(mut left) = self.0.try_lock_for(PATIENCE) {
            left.paths.remove(path);
        }
        Ok(())
    }

    fn remove_all(&self) -> io::Result<()> {
        let Some(mut left) = self.0.try_lock_for(PATIENCE) else {
            return Err(io::Error::other("a temporary file is still being made"));
        };
        left.is_closed = true;
        let paths = left.paths.clone();
        drop(left);
        // All are tried, whichever fails.
        let mut failed = None;
        for path in &paths {
            let mut removed = self.remove(path);
            for _ in 1..ATTEMPTS {
                if removed.is_err() {
                    thread::sleep(Duration::from_millis(10));
                    removed = self.remove(path);
                }
            }
            if let Err(error) = removed {
                let text = format!("{} is left: {error}", path.display());
                failed.get_or_insert_with(|| io::Error::new(error.kind(), text));
            }
        }
        failed.map_or(Ok(()), Err)
    }
}

/// Removes a file or folder, which may be gone already.
fn remove(path: &Path) -> io::Result<()> {
    let removed = match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

/// Removes all temporary files and folders that are left. No others can be made from then on.
///
/// # Errors
///
/// The first error of the system, with the path that is left.
pub fn remove_all() -> io::Result<()> {
    REGISTRY.remove_all()
}

/// A temporary folder. Removed when dropped, with all that is in it.
#[derive(Debug)]
pub struct ScratchFolder(PathBuf);

impl ScratchFolder {
    /// Makes a folder in the folder for temporary files.
    ///
    /// # Errors
    ///
    /// The system's error.
    pub fn new() -> io::Result<Self> {
        REGISTRY.add(|| {
            let path = tempfile::tempdir()?.keep();
            Ok((Self(path.clone()), path))
        })
    }

    /// Returns the path of the folder.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for ScratchFolder {
    fn drop(&mut self) {
        // If it fails, it is tried again at the end.
        let _ = REGISTRY.remove(&self.0);
    }
}

/// A temporary file with a name. Removed when dropped.
#[derive(Debug)]
pub(crate) struct ScratchFile(NamedTempFile);

impl ScratchFile {
    /// Makes a file in the folder for temporary files.
    ///
    /// # Errors
    ///
    /// The system's error.
    pub(crate) fn new() -> io::Result<Self> {
        Self::new_in(&std::env::temp_dir())
    }

    /// Makes a file in a folder.
    ///
    /// # Errors
    ///
    /// The system's error.
    pub(crate) fn new_in(folder: &Path) -> io::Result<Self> {
        REGISTRY.add(|| {
            let file = NamedTempFile::new_in(folder)?;
            let path = file.path().to_owned();
            Ok((Self(file), path))
        })
    }
}

impl Deref for ScratchFile {
    type Target = NamedTempFile;

    fn deref(&self) -> &NamedTempFile {
        &self.0
    }
}

impl DerefMut for ScratchFile {
    fn deref_mut(&mut self) -> &mut NamedTempFile {
        &mut self.0
    }
}

impl Drop for ScratchFile {
    fn drop(&mut self) {
        let _ = REGISTRY.remove(self.0.path());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_is_left_is_removed_and_nothing_is_made_later() {
        let registry = Registry::new();
        let make = || {
            let folder = tempfile::tempdir()?.keep();
            fs::write(folder.join("file"), "x")?;
            Ok((folder.clone(), folder))
        };
        let [first, second] = [(); 2].map(|()| registry.add(make).unwrap());
        registry.remove(&first).unwrap();
        assert!(!first.exists() && second.exists());
        registry.remove_all().unwrap();
        assert!(!second.exists() && registry.add(make).is_err());
        registry.remove_all().unwrap();
    }

    #[test]
    fn a_scratch_file_is_removed_when_it_is_dropped() {
        let file = ScratchFile::new().unwrap();
        let path = file.path().to_owned();
        assert!(path.exists());
        drop(file);
        assert!(!path.exists());
        let folder = ScratchFolder::new().unwrap();
        let path = folder.path().to_owned();
        fs::write(path.join("file"), "x").unwrap();
        drop(folder);
        assert!(!path.exists());
    }
}
