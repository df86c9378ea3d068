//! A distant store as a backing that blocks: for the paths that need a `Backing`.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, IoSliceMut};
use std::sync::Arc;

use super::remote::{AsyncBacking, FillBuffer, FillRequest, Priority};
use super::{Backing, FileId, Version};
use crate::rt::block_on::block_on;

/// A distant store, read-only and with calls that wait for it.
#[derive(Debug)]
pub(crate) struct Blocking(pub(crate) Arc<dyn AsyncBacking>);

fn hash(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

impl Backing for Blocking {
    /// Returns a file id for reports: the cache compares keys.
    fn file_id(&self) -> FileId {
        let key = self.0.key();
        key.file_id().unwrap_or_else(|| FileId {
            space: key.space(),
            volume: 0,
            object: hash(&key),
        })
    }

    fn version(&self) -> io::Result<Version> {
        let version = block_on(self.0.version())?;
        Ok(Version { len: version.len, change_token: [hash(&version.validator), 0, 0, 0] })
    }

    fn fill(&self, offset: u64, buffers: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        let mut buffer = FillBuffer::new(buffers.iter_mut().map(|buffer| &mut **buffer).collect());
        let len = buffer.remaining() as u64;
        let request = FillRequest { offset, len, expected: None, priority: Priority::Normal };
        block_on(self.0.fill(request, &mut buffer))?;
        Ok(buffer.filled())
    }
}
