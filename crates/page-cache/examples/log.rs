//! A log: records are appended and synced by one thread, and read by others without a copy.
//!
//! `cargo run -p page-cache --example log` writes one, opens it again after a crash that tore its last record, and reads it.

use std::io;
use std::path::Path;

use bytes::Bytes;
use page_cache::{Cache, File};

/// Length and checksum, before each record.
const HEADER: u64 = 8;

struct Log {
    file: File,
    /// Where the next record goes: what is behind it is no record.
    end: u64,
}

impl Log {
    /// Opens a log, and cuts off what a crash left of a record that was never synced.
    fn open(cache: &Cache, path: &Path) -> io::Result<Self> {
        let mut log = Self { file: cache.create(path)?, end: 0 };
        while let Some(record) = log.read(log.end)? {
            log.end += HEADER + record.len() as u64;
        }
        log.file.set_len(log.end)?;
        Ok(log)
    }

    /// Appends a record. It is durable after the next [`File::sync_data`].
    fn append(&mut self, record: &[u8]) -> io::Result<()> {
        let header = [(record.len() as u32).to_le_bytes(), checksum(record).to_le_bytes()].concat();
        self.file.append(&[&header, record].concat())?;
        self.end += HEADER + record.len() as u64;
        Ok(())
    }

    /// The record at an offset; `None`: there is none, or it is torn.
    fn read(&self, offset: u64) -> io::Result<Option<Bytes>> {
        let header = self.bytes(offset, HEADER as usize)?;
        let Ok([l0, l1, l2, l3, sum @ ..]) = <[u8; HEADER as usize]>::try_from(&*header) else { return Ok(None) };
        let record = self.bytes(offset + HEADER, u32::from_le_bytes([l0, l1, l2, l3]) as usize)?;
        Ok((checksum(&record) == u32::from_le_bytes(sum)).then_some(record))
    }

    /// Bytes of the file: those of one page by a handle on it, those of several by a copy. Fewer at the end of the file.
    fn bytes(&self, offset: u64, len: usize) -> io::Result<Bytes> {
        let len = len.min(self.file.len().saturating_sub(offset) as usize);
        match self.file.page(offset)? {
            Some(page) if page.len() >= len => Ok(Bytes::from(page).slice(..len)),
            _ => {
                let mut bytes = vec![0; len];
                let n = self.file.read_at(offset, &mut bytes)?;
                bytes.truncate(n);
                Ok(bytes.into())
            }
        }
    }
}

/// FNV-1a: zeroes are no empty record.
fn checksum(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |sum, &byte| (sum ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

fn main() -> io::Result<()> {
    let dir = tempfile::tempdir()?;
    let (cache, path) = (Cache::new(4 << 20)?, dir.path().join("log"));
    let mut log = Log::open(&cache, &path)?;
    (0..1000).try_for_each(|n| log.append(format!("record {n}").repeat(n % 50).as_bytes()))?;
    log.file.sync_data()?;
    log.file.append(b"\x09\0\0\0torn")?; // as a crash would leave it
    log = Log::open(&cache, &path)?;
    let records = std::iter::successors(log.read(0)?.map(|r| (0, r)), |(at, record)| {
        log.read(at + HEADER + record.len() as u64).ok()?.map(|next| (at + HEADER + record.len() as u64, next))
    });
    println!("{} records in {} bytes", records.count(), log.file.len());
    Ok(())
}
