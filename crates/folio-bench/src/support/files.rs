//! Files in memory that benchmarks read and write, and caches that hold such a file.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use folio_cache::{CacheBuilder, File};
use folio_frames::{Arena, BLOCK_ORDER, FRAME_SIZE, FolioRef, MAX_ORDER, Order, UserSpace};
use folio_ref::Scheme;
use vmap::Map;

use crate::support::scratch::ScratchFile;

/// The mount point of the kernel's in-memory file system.
const TMPFS: &str = "/dev/shm";

/// Length of the file that is read: larger than any processor's cache.
const READ_BYTES: usize = 256 << 20;

/// Returns a folder in memory where the system has one, and the folder for temporary files
/// otherwise.
pub(crate) fn memory_folder() -> PathBuf {
    let tmpfs = Path::new(TMPFS);
    if tmpfs.is_dir() { tmpfs.to_owned() } else { std::env::temp_dir() }
}

/// Opens a file in a cache that holds all of it, and reads it once.
///
/// # Errors
///
/// The system's error if the cache's memory or the file is not to be had.
pub(crate) fn cached<S: Scheme>(path: &Path, len: usize) -> io::Result<File<S>> {
    // 4 MiB more: the per-CPU lists hold some frames.
    let file = CacheBuilder::<S>::with_scheme().capacity(len + (4 << 20)).build()?.open(path)?;
    let mut buf = vec![0; 1 << 20];
    for offset in (0..len).step_by(buf.len()) {
        file.read_at(&mut buf, offset as u64)?;
    }
    Ok(file)
}

/// The same bytes three times: in small pages, in huge pages, and in a file.
#[derive(Debug)]
pub(crate) struct Bytes {
    /// Ordinary memory, in pages of 4 KiB unless the system decides otherwise.
    small: Vec<u8>,
    /// Memory like the cache's, of huge pages where the system gives them.
    huge: FolioRef<UserSpace>,
    file: ScratchFile,
    mapped: Map,
}

impl Bytes {
    /// Makes so many bytes that a processor's cache holds at most an eighth of them.
    ///
    /// # Errors
    ///
    /// The system's error if the memory or the file is not to be had.
    pub(crate) fn for_reading() -> io::Result<Self> {
        Self::new(READ_BYTES)
    }

    /// Makes `len` bytes, and a file of them in memory where the system has such a file system.
    ///
    /// # Errors
    ///
    /// The system's error if the memory or the file is not to be had; `InvalidInput` for more than
    /// 1 GiB.
    pub(crate) fn new(len: usize) -> io::Result<Self> {
        let mut small = vec![0; len];
        let mut pattern = vec![0; len.min(1 << 20)];
        fastrand::Rng::with_seed(1).fill(&mut pattern);
        small
            .chunks_mut(pattern.len().max(1))
            .for_each(|chunk| chunk.copy_from_slice(&pattern[..chunk.len()]));
        let mut file = ScratchFile::new_in(&memory_folder())?;
        file.write_all(&small)?;
        let (mapped, _) = Map::with_options().open(file.path()).map_err(io::Error::other)?;
        Ok(Self { huge: huge(&small)?, small, file, mapped })
    }

    /// Returns the file's path.
    pub(crate) fn path(&self) -> &Path {
        self.file.path()
    }

    /// Returns the number of bytes.
    pub(crate) fn len(&self) -> usize {
        self.small.len()
    }

    /// Returns the bytes in ordinary memory.
    pub(crate) fn small_pages(&self) -> &[u8] {
        &self.small
    }

    /// Returns the bytes in huge pages.
    pub(crate) fn huge_pages(&self) -> &[u8] {
        &self.huge.as_slice()[..self.len()]
    }

    /// Returns the bytes in a mapping of the file.
    pub(crate) fn mapped(&self) -> &[u8] {
        &self.mapped
    }
}

/// Copies the bytes into one block of an arena of its own.
fn huge(bytes: &[u8]) -> io::Result<FolioRef<UserSpace>> {
    let n = (bytes.len() / FRAME_SIZE).next_power_of_two().ilog2() as u8;
    let order = Order::new(n)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "more than 1 GiB to read"))?;
    let room = order.bytes().max(BLOCK_ORDER.bytes());
    let arena = if order > MAX_ORDER {
        Arena::with_huge_order(room, &[], order)
    } else {
        Arena::new(room, &[])
    }?;
    let mut block = arena.zone().alloc_frozen(order).map_err(io::Error::other)?;
    block.as_mut_slice()[..bytes.len()].copy_from_slice(bytes);
    // The block keeps the arena's memory.
    Ok(block.init())
}
