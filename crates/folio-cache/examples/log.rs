//! A log: records are appended and synced by one thread, and read by others without a copy.
//!
//! `cargo run -p folio-cache --example log` writes one, opens it again after a crash that tore its
//! last record, and reads it.

use std::io;
use std::path::Path;

use bytes::Bytes;
use folio_cache::{Cache, File};

/// Length and checksum, before each record.
const HEADER: usize = 8;

struct Log {
    file: File,
    /// Where the next record goes: what is behind it is no record.
    end: u64,
}

impl Log {
    /// Opens a log, and cuts off what a crash left of a record that was never synced.
    fn open(cache: &Cache, path: &Path) -> io::Result<Self> {
        let mut log = Self { file: cache.create(path)?, end: 0 };
        while let Some((_, next)) = log.read(log.end)? {
            log.end = next;
        }
        log.file.set_len(log.end)?;
        Ok(log)
    }

    /// Appends a record. It is durable after the next [`File::sync_data`].
    fn append(&mut self, record: &[u8]) -> io::Result<()> {
        let header = [(record.len() as u32).to_le_bytes(), checksum(record).to_le_bytes()].concat();
        self.end = self.file.append(&[&header, record].concat())? + (HEADER + record.len()) as u64;
        Ok(())
    }

    /// The record at an offset, which keeps its pages, and where the next one is; `None`: there is
    /// none, or it is torn.
    fn read(&self, offset: u64) -> io::Result<Option<(Bytes, u64)>> {
        let header = self.file.bytes(offset, HEADER)?;
        let Ok([l0, l1, l2, l3, sum @ ..]) = <[u8; HEADER]>::try_from(&*header) else {
            return Ok(None);
        };
        let len = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
        let record = self.file.bytes(offset + HEADER as u64, len)?;
        let is_whole = record.len() == len && checksum(&record) == u32::from_le_bytes(sum);
        Ok(is_whole.then_some((record, offset + (HEADER + len) as u64)))
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
    let records = std::iter::successors(log.read(0)?, |(_, next)| log.read(*next).ok()?);
    let records: Vec<Bytes> = records.map(|(record, _)| record).collect();
    assert_eq!((records.len(), &records[501][..]), (1000, &b"record 501"[..]));
    println!("{} records in {} bytes", records.len(), log.end);
    Ok(())
}

#[test]
fn it_runs() {
    main().expect("all records");
}
