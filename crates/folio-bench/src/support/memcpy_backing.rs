//! A backing for benchmarks: a fill copies from a few pages that stay in the processor's cache.

use std::io::{self, IoSliceMut};

use folio_cache::{Backing, FileId, Version};

const PAGE: usize = 4096;
/// The number of source pages.
const SOURCES: usize = 16;

/// A file of any length. Reading it costs a `memcpy`.
#[derive(Debug)]
pub(crate) struct MemcpyBacking {
    object: u64,
    len: u64,
    source: Vec<u8>,
}

impl MemcpyBacking {
    /// Makes a file of `len` bytes. `object` tells it from other files.
    pub(crate) fn new(object: u64, len: u64) -> Self {
        Self { object, len, source: vec![7; SOURCES * PAGE] }
    }

    /// Returns the source of the page with this number.
    #[inline]
    pub(crate) fn page(&self, page: usize) -> &[u8] {
        &self.source[page % SOURCES * PAGE..][..PAGE]
    }
}

impl Backing for MemcpyBacking {
    fn file_id(&self) -> FileId {
        FileId { space: "bench", volume: 0, object: self.object }
    }

    fn version(&self) -> io::Result<Version> {
        Ok(Version { len: self.len, change_token: [0; 4] })
    }

    fn fill(&self, offset: u64, buffers: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        let (mut page, mut done) = (offset as usize / PAGE, 0);
        for buffer in buffers {
            for chunk in buffer.chunks_mut(PAGE) {
                chunk.copy_from_slice(&self.page(page)[..chunk.len()]);
                page += 1;
                done += chunk.len();
            }
        }
        Ok(done)
    }
}
