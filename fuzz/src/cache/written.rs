//! A file that is written through the cache, over bytes in memory: what it reads, and what would
//! survive.

use std::sync::Arc;

use arbitrary::Arbitrary;
use folio_cache::{Cache, Call, Fault, File, Memory, PageHandle};

use crate::files::MOST;

/// What may be done to it. Numbers are taken modulo what there is.
#[derive(Arbitrary, Debug)]
pub(crate) enum Change {
    Read {
        offset: u32,
        len: u16,
    },
    /// A handle, which is kept.
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
    /// The next reads or writes of the backing fall short, which nobody may notice.
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

    /// Bytes that were not there before.
    fn bytes(&mut self, len: usize) -> Vec<u8> {
        self.next = self.next.wrapping_add(11);
        (0..len).map(|n| ((n + usize::from(self.next)) % 255) as u8 + 1).collect()
    }

    fn read(&self, offset: usize, len: usize) {
        let mut buf = vec![0xee; len];
        let n = self.file.read_at(offset as u64, &mut buf).expect("it can be read");
        let end = self.contents.len().min(offset + len);
        let expected = self.contents.get(offset..end).unwrap_or_default();
        assert!(
            buf[..n] == *expected,
            "{n} bytes at {offset} that were not written, of {}",
            self.contents.len()
        );
    }

    /// Does it; a handle that comes of it, with what it must show.
    pub(crate) fn change(
        &mut self,
        cache: &Cache,
        change: &Change,
    ) -> Option<(PageHandle, Vec<u8>)> {
        let at = |offset: u32| offset as usize % MOST;
        let size = |len: u16| usize::from(len) % 9000;
        match *change {
            Change::Read { offset, len } => self.read(at(offset), size(len)),
            Change::Page { offset } => {
                let offset = at(offset);
                let handle = self.file.page(offset as u64).expect("it can be read");
                let end = self.contents.len().min((offset / 4096 + 1) * 4096);
                let expected = self.contents.get(offset..end).filter(|bytes| !bytes.is_empty());
                assert!(handle.as_deref() == expected, "the page at {offset}");
                return handle.zip(expected.map(<[u8]>::to_vec));
            }
            Change::Write { offset, len } => {
                let (offset, bytes) = (at(offset), self.bytes(size(len)));
                assert_eq!(
                    self.file.write_at(offset as u64, &bytes).expect("it can be written"),
                    bytes.len()
                );
                self.write(offset, &bytes);
            }
            Change::Append { len } => {
                let (end, bytes) = (self.contents.len(), self.bytes(size(len)));
                if end + bytes.len() <= MOST {
                    assert_eq!(self.file.append(&bytes).expect("it can be written"), end as u64);
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
                self.file.flush().expect("nothing fails");
                assert!(self.memory.contents() == self.contents, "flushed, but not in the backing");
            }
            Change::Sync { all } => {
                let done = if all { self.file.sync_all() } else { self.file.sync_data() };
                done.expect("nothing fails");
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
        assert_eq!(self.file.len(), self.contents.len() as u64, "its length after {change:?}");
        None
    }

    fn write(&mut self, offset: usize, bytes: &[u8]) {
        // Nothing written makes nothing longer.
        if !bytes.is_empty() {
            let end = offset + bytes.len();
            self.contents.resize(self.contents.len().max(end), 0);
            self.contents[offset..end].copy_from_slice(bytes);
        }
    }

    /// All of it once more, and durable.
    pub(crate) fn end(&mut self) {
        self.memory.heal();
        self.read(0, MOST + 9001);
        self.file.sync_all().expect("nothing fails");
        assert!(self.memory.durable() == self.contents, "synced, but not durable");
    }
}
