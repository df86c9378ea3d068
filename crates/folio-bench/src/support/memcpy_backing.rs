//! A backing for measurements: a fill is a copy of one page out of a few that stay in the
//! processor's cache.

use std::io::{self, IoSliceMut};

use folio_cache::{Backing, FileId, Version};

const PAGE: usize = 4096;
/// Pages that are copied from.
const SOURCES: usize = 16;

/// A file of any length whose reads cost a `memcpy`.
#[derive(Debug)]
pub(crate) struct Copied {
    object: u64,
    len: u64,
    source: Vec<u8>,
}

impl Copied {
    /// `object` tells it from the others.
    pub(crate) fn new(object: u64, len: u64) -> Self {
        Self { object, len, source: vec![7; SOURCES * PAGE] }
    }

    /// What the page at this number is copied from.
    #[inline]
    pub(crate) fn page(&self, page: usize) -> &[u8] {
        &self.source[page % SOURCES * PAGE..][..PAGE]
    }
}

impl Backing for Copied {
    fn file_id(&self) -> FileId {
        FileId { space: "bench", volume: 0, object: self.object }
    }

    fn version(&self) -> io::Result<Version> {
        Ok(Version { len: self.len, change_token: [0; 4] })
    }

    fn fill(&self, offset: u64, buffers: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        let (mut page, mut done) = (offset as usize / PAGE, 0);
        for buffer in buffers {
            for part in buffer.chunks_mut(PAGE) {
                part.copy_from_slice(&self.page(page)[..part.len()]);
                page += 1;
                done += part.len();
            }
        }
        Ok(done)
    }
}
