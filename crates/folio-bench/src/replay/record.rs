//! Binary records: the sizes of libCacheSim's, and the header of a trace that folio recorded.

use std::io::{self, ErrorKind, Read};

use folio_cache::{USES_MAGIC, USES_ONE_IN};

/// The bytes of a record of oracleGeneral: time (4), object (8), size (4), next use (8).
pub(super) const RECORD: usize = 24;

/// The first bytes of a trace that a cache of folio recorded.
pub(super) const MAGIC: &[u8] = USES_MAGIC;

/// Reads the header of a recorded trace. Returns the share of the pages in it: one in so many.
pub(super) fn read_header(from: &mut impl Read) -> io::Result<u32> {
    let mut header = [0; MAGIC.len() + 4];
    from.read_exact(&mut header)?;
    let one_in = u32::from_le_bytes(*header.last_chunk().expect("the header ends with 4 bytes"));
    if !header.starts_with(MAGIC) || !one_in.is_power_of_two() || one_in > USES_ONE_IN {
        return Err(io::Error::new(ErrorKind::InvalidData, "this is no trace that folio recorded"));
    }
    Ok(one_in)
}
