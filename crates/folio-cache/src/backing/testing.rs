//! Bytes in memory that fail, fall short or take their time when they are told to.
//!
//! A fault is met inside the same loops that drive the system calls of a file.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, IoSlice, IoSliceMut};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use crate::rt::lock::Mutex;

use super::{Backing, Durable, FileId, Version, whole};

/// A kind of call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Call {
    /// A [`Backing::version`].
    Version,
    /// One read inside a [`Backing::fill`].
    Fill,
    /// One write inside a [`Backing::write`].
    Write,
    /// A [`Backing::set_len`].
    SetLen,
    /// A [`Backing::punch`].
    Punch,
    /// A [`Backing::sync`].
    Sync,
}

impl Call {
    /// All kinds.
    pub const ALL: [Self; 6] =
        [Self::Version, Self::Fill, Self::Write, Self::SetLen, Self::Punch, Self::Sync];
}

/// A fault of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// It fails with this error number, and does nothing.
    Error(i32),
    /// A read or write handles at most this many bytes. Other calls are not affected.
    Short(usize),
    /// It takes this much longer.
    Delay(Duration),
    /// It panics, as a user's backing may.
    Panic,
}

#[derive(Debug)]
struct Injected {
    call: Call,
    /// The number of calls of this kind that pass first.
    after: u64,
    /// The number of calls that it still hits after that.
    times: u64,
    fault: Fault,
}

const BLOCK: u64 = 4096;

/// Blocks that are not all zero, and a length.
#[derive(Clone, Default)]
struct Bytes {
    len: u64,
    blocks: BTreeMap<u64, Box<[u8; BLOCK as usize]>>,
}

/// Bytes in memory, as a [`Backing`] with faults on demand.
///
/// # Examples
///
/// ```
/// use std::sync::Arc;
/// use folio_cache::Cache;
/// use folio_cache::testing::{Call, Fault, Memory};
///
/// # fn main() -> std::io::Result<()> {
/// let memory = Arc::new(Memory::new(b"hello"));
/// let cache = Cache::new(4 << 20)?;
/// let file = cache.open_backing(memory.clone())?;
/// memory.inject(Call::Fill, 0, 1, Fault::Error(5)); // EIO, once
/// assert_eq!(file.read_at(&mut [0; 5], 0).unwrap_err().raw_os_error(), Some(5));
/// assert_eq!(file.read_at(&mut [0; 5], 0)?, 5);
/// # Ok(())
/// # }
/// ```
pub struct Memory {
    bytes: Mutex<Bytes>,
    /// The bytes as of the last sync: those that survive a power failure.
    durable: Mutex<Bytes>,
    changes: AtomicU64,
    unlinked: AtomicBool,
    injected: Mutex<Vec<Injected>>,
    calls: [AtomicU64; Call::ALL.len()],
    object: u64,
}

impl Memory {
    /// Returns a backing with these bytes, which are durable.
    pub fn new(contents: &[u8]) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let mut bytes = Bytes::default();
        bytes.write(0, contents);
        Self {
            durable: Mutex::new(bytes.clone()),
            bytes: Mutex::new(bytes),
            changes: AtomicU64::new(0),
            unlinked: AtomicBool::new(false),
            injected: Mutex::default(),
            calls: [const { AtomicU64::new(0) }; Call::ALL.len()],
            // Relaxed: they only have to differ.
            object: NEXT.fetch_add(1, Ordering::Relaxed),
        }
    }

    /// Injects a fault into `times` calls of a kind, after `after` more of them. If several match a
    /// call, the first one injected hits it, and each delay does.
    pub fn inject(&self, call: Call, after: u64, times: u64, fault: Fault) {
        self.injected.lock().push(Injected { call, after, times, fault });
    }

    /// Removes all faults.
    pub fn heal(&self) {
        self.injected.lock().clear();
    }

    /// Returns the number of calls of a kind so far.
    pub fn calls(&self, call: Call) -> u64 {
        // Relaxed: a count.
        self.calls[call as usize].load(Ordering::Relaxed)
    }

    /// Returns the bytes.
    ///
    /// # Panics
    ///
    /// Panics if they are too long for an allocation.
    pub fn contents(&self) -> Vec<u8> {
        self.bytes.lock().contents()
    }

    /// Returns the bytes that would survive a power failure: those as of the last sync that
    /// succeeded.
    ///
    /// # Panics
    ///
    /// Panics if they are too long for an allocation.
    pub fn durable(&self) -> Vec<u8> {
        self.durable.lock().contents()
    }

    /// Writes as another program does: the bytes change, and the version with them.
    pub fn scribble(&self, offset: u64, bytes: &[u8]) {
        self.bytes.lock().write(offset, bytes);
        self.changed();
    }

    /// Takes the last name away, or gives one back, as another program does.
    pub fn set_unlinked(&self, unlinked: bool) {
        // Relaxed: a flag of its own.
        self.unlinked.store(unlinked, Ordering::Relaxed);
    }

    /// Truncates the bytes or appends zeroes, as another program does.
    pub fn cut(&self, len: u64) {
        self.bytes.lock().set_len(len);
        self.changed();
    }

    fn changed(&self) {
        // Relaxed: code that compares versions has its own order.
        self.changes.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a call, and applies the faults that hit it. Returns the maximum number of bytes that
    /// it may handle.
    fn enter(&self, call: Call) -> io::Result<usize> {
        // Relaxed: a count.
        self.calls[call as usize].fetch_add(1, Ordering::Relaxed);
        let (mut delay, mut outcome) = (Duration::ZERO, None);
        self.injected.lock().retain_mut(|injected| {
            if injected.call != call {
                return true;
            }
            if injected.after > 0 {
                injected.after -= 1;
                return true;
            }
            match injected.fault {
                Fault::Delay(more) => delay += more,
                other if outcome.is_none() => outcome = Some(other),
                _ => return true,
            }
            injected.times -= 1;
            injected.times > 0
        });
        if !delay.is_zero() {
            thread::sleep(delay);
        }
        match outcome {
            Some(Fault::Error(code)) => Err(io::Error::from_raw_os_error(code)),
            Some(Fault::Short(most)) => Ok(most),
            Some(Fault::Panic) => panic!("{call:?} panics, on purpose"),
            _ => Ok(usize::MAX),
        }
    }
}

impl Backing for Memory {
    fn file_id(&self) -> FileId {
        FileId { space: "memory", volume: 0, object: self.object }
    }

    fn version(&self) -> io::Result<Version> {
        whole::retry(|| self.enter(Call::Version))?;
        let bytes = self.bytes.lock();
        // Relaxed: read under the lock. A writer counts after it, and an older count means
        // "changed" later.
        Ok(Version {
            len: bytes.len,
            change_token: [self.changes.load(Ordering::Relaxed), 0, 0, 0],
        })
    }

    fn fill(&self, offset: u64, buffers: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        whole::read(offset, buffers, |mut offset, buffers| {
            let mut most = self.enter(Call::Fill)?;
            let bytes = self.bytes.lock();
            let mut done = 0;
            for buffer in buffers {
                let rest = usize::try_from(bytes.len.saturating_sub(offset)).unwrap_or(usize::MAX);
                let n = buffer.len().min(rest).min(most);
                bytes.read(offset, &mut buffer[..n]);
                (offset, most, done) = (offset + n as u64, most - n, done + n);
            }
            Ok(done)
        })
    }

    fn is_writable(&self) -> bool {
        true
    }

    fn write(&self, offset: u64, buffers: &[IoSlice<'_>]) -> io::Result<()> {
        whole::write(offset, buffers, |mut offset, buffers| {
            let mut most = self.enter(Call::Write)?;
            let mut bytes = self.bytes.lock();
            let mut done = 0;
            for buffer in buffers {
                let n = buffer.len().min(most);
                bytes.write(offset, &buffer[..n]);
                (offset, most, done) = (offset + n as u64, most - n, done + n);
            }
            self.changed();
            Ok(done)
        })
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        whole::retry(|| self.enter(Call::SetLen))?;
        self.cut(len);
        Ok(())
    }

    fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        whole::retry(|| self.enter(Call::Punch))?;
        self.bytes.lock().punch(offset, len);
        self.changed();
        Ok(())
    }

    fn is_unlinked(&self) -> bool {
        self.unlinked.load(Ordering::Relaxed)
    }

    fn sync(&self, _: Durable) -> io::Result<()> {
        whole::retry(|| self.enter(Call::Sync))?;
        let bytes = self.bytes.lock();
        self.durable.lock().clone_from(&bytes);
        Ok(())
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let len = self.bytes.lock().len;
        f.debug_struct("Memory")
            .field("len", &len)
            .field("injected", &self.injected.lock())
            .finish_non_exhaustive()
    }
}

impl Bytes {
    /// Splits a range by block. Yields the number of the block, the range in it, and the range in
    /// the buffer.
    fn parts(
        offset: u64,
        len: usize,
    ) -> impl Iterator<Item = (u64, std::ops::Range<usize>, std::ops::Range<usize>)> {
        let mut done = 0;
        std::iter::from_fn(move || {
            let at = offset + done as u64;
            let within = (at % BLOCK) as usize;
            let n = (len - done).min(BLOCK as usize - within);
            done += n;
            (n > 0).then(|| (at / BLOCK, within..within + n, done - n..done))
        })
    }

    fn read(&self, offset: u64, buf: &mut [u8]) {
        for (block, within, range) in Self::parts(offset, buf.len()) {
            match self.blocks.get(&block) {
                Some(bytes) => buf[range].copy_from_slice(&bytes[within]),
                None => buf[range].fill(0),
            }
        }
    }

    fn write(&mut self, offset: u64, buf: &[u8]) {
        for (block, within, range) in Self::parts(offset, buf.len()) {
            self.blocks.entry(block).or_insert_with(|| Box::new([0; BLOCK as usize]))[within]
                .copy_from_slice(&buf[range]);
        }
        if !buf.is_empty() {
            self.len = self.len.max(offset + buf.len() as u64);
        }
    }

    fn set_len(&mut self, len: u64) {
        if len < self.len {
            self.punch(len, self.len - len);
        }
        self.len = len;
    }

    fn punch(&mut self, offset: u64, len: u64) {
        let end = offset.saturating_add(len).min(self.len);
        if offset >= end {
            return;
        }
        let whole = offset.div_ceil(BLOCK)..end / BLOCK;
        let inside: Vec<u64> =
            self.blocks.range(offset / BLOCK..=end / BLOCK).map(|(&block, _)| block).collect();
        for block in inside {
            if whole.contains(&block) {
                self.blocks.remove(&block);
                continue;
            }
            let begins = block * BLOCK;
            let (from, to) =
                (offset.saturating_sub(begins).min(BLOCK), end.saturating_sub(begins).min(BLOCK));
            if let Some(bytes) = self.blocks.get_mut(&block)
                && from < to
            {
                bytes[from as usize..to as usize].fill(0);
            }
        }
    }

    fn contents(&self) -> Vec<u8> {
        let mut contents = vec![0; usize::try_from(self.len).expect("the bytes fit into memory")];
        self.read(0, &mut contents);
        contents
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_a_vec_of_bytes() {
        let mut random = fastrand::Rng::with_seed(7);
        let memory = Memory::new(b"");
        let mut model: Vec<u8> = Vec::new();
        for step in 0..3000 {
            let (offset, len) = (random.usize(..20_000), random.usize(1..9000));
            match random.u8(..4) {
                0 => {
                    let bytes: Vec<u8> = (0..len).map(|_| random.u8(1..)).collect();
                    memory.write(offset as u64, &[IoSlice::new(&bytes)]).unwrap();
                    model.resize(model.len().max(offset + len), 0);
                    model[offset..offset + len].copy_from_slice(&bytes);
                }
                1 => {
                    memory.set_len(offset as u64).unwrap();
                    model.resize(offset, 0);
                }
                2 => {
                    memory.punch(offset as u64, len as u64).unwrap();
                    let end = model.len().min(offset + len);
                    model.get_mut(offset..end).into_iter().flatten().for_each(|byte| *byte = 0);
                }
                _ => {
                    let (mut first, mut second) = (vec![1; len], vec![1; 100]);
                    let mut buffers = [&mut first[..], &mut second].map(IoSliceMut::new);
                    let n = memory.fill(offset as u64, &mut buffers).unwrap();
                    let read = [first, second].concat();
                    let expected =
                        model.get(offset..model.len().min(offset + read.len())).unwrap_or_default();
                    assert_eq!(&read[..n], expected, "step {step}");
                }
            }
        }
        assert_eq!(memory.contents(), model);
        assert_eq!(memory.durable(), b"");
        memory.sync(Durable::Data).unwrap();
        assert_eq!(memory.durable(), model);
    }

    #[test]
    fn faults_hit_the_calls_they_were_meant_for() {
        let memory = Memory::new(&[1; 10]);
        memory.inject(Call::Fill, 1, 2, Fault::Error(5));
        memory.inject(Call::Fill, 3, 1, Fault::Short(4));
        let fill = || {
            memory
                .fill(0, &mut [IoSliceMut::new(&mut [0; 10])])
                .map_err(|error| error.raw_os_error())
        };
        assert_eq!(
            [fill(), fill(), fill(), fill(), fill()],
            [Ok(10), Err(Some(5)), Err(Some(5)), Ok(10), Ok(10)]
        );
        // The fourth was answered in two parts.
        assert_eq!(memory.calls(Call::Fill), 6);
        assert_eq!(memory.version().unwrap().len, 10);
        // The first that was injected is met first.
        memory.inject(Call::Punch, 0, 1, Fault::Error(5));
        memory.inject(Call::Punch, 0, 1, Fault::Error(28));
        let punch = || memory.punch(9, 1).map_err(|error| error.raw_os_error());
        assert_eq!([punch(), punch(), punch()], [Err(Some(5)), Err(Some(28)), Ok(())]);
        assert!(format!("{memory:?}").contains("len: 10"), "{memory:?}");
        memory.inject(Call::Sync, 0, 1, Fault::Error(4));
        memory.sync(Durable::All).unwrap();
        assert_eq!(memory.calls(Call::Sync), 2, "interrupted, and begun again");
        memory.inject(Call::SetLen, 0, u64::MAX, Fault::Error(28));
        assert_eq!(memory.set_len(3).unwrap_err().raw_os_error(), Some(28));
        memory.heal();
        memory.set_len(3).unwrap();
        assert_eq!(memory.contents(), [1; 3]);
    }
}
