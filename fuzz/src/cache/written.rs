//! A file that is written through the cache to a backing in memory. Checks what it reads, and what
//! would survive a crash.

use std::sync::Arc;

use arbitrary::Arbitrary;
use folio_cache::testing::{Call, Fault, Memory};
use folio_cache::{Cache, File, PageHandle};

use crate::files::MAX_LEN;

/// A change of the file. Numbers are taken modulo the number of choices.
#[derive(Arbitrary, Debug)]
pub(crate) enum Change {
    Read {
        offset: u32,
        len: u16,
    },
    /// Takes a handle and keeps it.
    Page {
        offset: u32,
    },
    Write {
        offset: u32,
        len: u16,
    },
    Append {
        len: u16,
    },
    SetLen {
        len: u32,
    },
    Punch {
        offset: u32,
        len: u16,
    },
    Flush,
    Sync {
        all: bool,
    },
    /// Makes the next two reads or writes of the backing short. The results must not change.
    Short {
        writes: bool,
        bytes: u16,
    },
    Reopen,
}

pub(crate) struct Written {
    memory: Arc<Memory>,
    file: File,
    contents: Vec<u8>,
    next: u8,
}

impl Written {
    pub(crate) fn new(cache: &Cache) -> Self {
        let contents = vec![9; 5000];
        let memory = Arc::new(Memory::new(&contents));
        let file = cache.open_backing(memory.clone()).expect("bytes in memory");
        Self { memory, file, contents, next: 0 }
    }

    /// Returns bytes that differ from those before.
    fn bytes(&mut self, len: usize) -> Vec<u8> {
        self.next = self.next.wrapping_add(11);
        (0..len).map(|n| ((n + usize::from(self.next)) % 255) as u8 + 1).collect()
    }

    fn read(&self, offset: usize, len: usize) {
        let mut buf = vec![0xee; len];
        let n = self.file.read_at(&mut buf, offset as u64).expect("the read succeeds");
        let end = self.contents.len().min(offset + len);
        let expected = self.contents.get(offset..end).unwrap_or_default();
        assert!(
            buf[..n] == *expected,
            "{n} bytes at {offset} differ from what was written, file length {}",
            self.contents.len()
        );
    }

    /// Applies a change. Returns the handle that it takes, if any, with the expected bytes.
    pub(crate) fn change(
        &mut self,
        cache: &Cache,
        change: &Change,
    ) -> Option<(PageHandle, Vec<u8>)> {
        let at = |offset: u32| offset as usize % MAX_LEN;
        let size = |len: u16| usize::from(len) % 9000;
        match *change {
            Change::Read { offset, len } => self.read(at(offset), size(len)),
            Change::Page { offset } => {
                let offset = at(offset);
                let handle = self.file.page(offset as u64).expect("the read succeeds");
                let end = self.contents.len().min((offset / 4096 + 1) * 4096);
                let expected = self.contents.get(offset..end).filter(|bytes| !bytes.is_empty());
                assert!(handle.as_deref() == expected, "the page at {offset}");
                return handle.zip(expected.map(<[u8]>::to_vec));
            }
            Change::Write { offset, len } => {
                let (offset, bytes) = (at(offset), self.bytes(size(len)));
                assert_eq!(
                    self.file.write_at(&bytes, offset as u64).expect("the write succeeds"),
                    bytes.len()
                );
                self.write(offset, &bytes);
            }
            Change::Append { len } => {
                let (end, bytes) = (self.contents.len(), self.bytes(size(len)));
                if end + bytes.len() <= MAX_LEN {
                    assert_eq!(self.file.append(&bytes).expect("the write succeeds"), end as u64);
                    self.write(end, &bytes);
                }
            }
            Change::SetLen { len } => {
                self.file.set_len(at(len) as u64).expect("a length");
                self.contents.resize(at(len), 0);
            }
            Change::Punch { offset, len } => {
                let (offset, len) = (at(offset), size(len));
                self.file.punch_hole(offset as u64, len as u64).expect("a hole");
                let end = self.contents.len().min(offset + len);
                if let Some(hole) = self.contents.get_mut(offset..end) {
                    hole.fill(0);
                }
            }
            Change::Flush => {
                self.file.flush().expect("no fault is injected");
                assert!(self.memory.contents() == self.contents, "flushed, but not in the backing");
            }
            Change::Sync { all } => {
                let done = if all { self.file.sync_all() } else { self.file.sync_data() };
                done.expect("no fault is injected");
                assert!(self.memory.durable() == self.contents, "synced, but not durable");
            }
            Change::Short { writes, bytes } => {
                let call = if writes { Call::Write } else { Call::Fill };
                self.memory.inject(call, 0, 2, Fault::Short(usize::from(bytes) + 1));
            }
            Change::Reopen => {
                self.file = cache.open_backing(self.memory.clone()).expect("bytes in memory");
            }
        }
        assert_eq!(self.file.len(), self.contents.len() as u64, "file length after {change:?}");
        None
    }

    fn write(&mut self, offset: usize, bytes: &[u8]) {
        // A write of no bytes does not extend the file.
        if !bytes.is_empty() {
            let end = offset + bytes.len();
            self.contents.resize(self.contents.len().max(end), 0);
            self.contents[offset..end].copy_from_slice(bytes);
        }
    }

    /// Reads the whole file once more, syncs it, and checks that it is durable.
    pub(crate) fn end(&mut self) {
        self.memory.heal();
        self.read(0, MAX_LEN + 9001);
        self.file.sync_all().expect("no fault is injected");
        assert!(self.memory.durable() == self.contents, "synced, but not durable");
    }
}
