//! A log: one thread appends and syncs records, others read them without a copy.
//!
//! `cargo run -p folio-cache --example log` writes a log, opens it again after a simulated crash
//! that tore its last record, and reads it.

use std::io;
use std::path::Path;

use bytes::Bytes;
use folio_cache::{Cache, File, OpenOptions};

/// The size of the header before each record: length and checksum.
const HEADER: usize = 8;

struct Log {
    file: File,
    /// The offset of the next record: there are no records behind it.
    end: u64,
}

impl Log {
    /// Opens a log. Truncates a torn record at its end, which was never synced before a crash.
    fn open(cache: &Cache, path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().append(true).create(true).open(cache, path)?;
        let mut log = Self { file, end: 0 };
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

    /// Returns the record at an offset, which pins its pages, and the offset of the next one.
    /// Returns `None` if there is no record or it is torn.
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

/// Returns the FNV-1a hash of a record. It is not 0 for an empty one: zeroes are no valid header.
fn checksum(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |sum, &byte| (sum ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

fn main() -> io::Result<()> {
    let dir = tempfile::tempdir()?;
    let (cache, path) = (Cache::new(4 << 20)?, dir.path().join("log"));
    let mut log = Log::open(&cache, &path)?;
    (0..1000).try_for_each(|n| log.append(format!("record {n}").repeat(n % 50).as_bytes()))?;
    log.file.sync_data()?;
    log.file.append(b"\x09\0\0\0torn")?; // as after a crash
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
