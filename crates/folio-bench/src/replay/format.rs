//! The formats of traces, and how one is told from the others.

use super::csv;
use super::record::{MAGIC, RECORD};

/// The format of a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Text: one page number a line. A line `*` begins a phase and is skipped.
    Lirs,
    /// Text: the first page, the number of pages, a number that is ignored, and the number of the
    /// request.
    Arc,
    /// Text with commas: a page in each line, in the column that the header names, otherwise in the
    /// only column, or the second one.
    Csv,
    /// The binary format of libCacheSim: records of 24 bytes.
    OracleGeneral,
    /// A recording of a cache of folio.
    Folio,
}

impl Format {
    /// All formats.
    pub const ALL: [Self; 5] = [Self::Lirs, Self::Arc, Self::Csv, Self::OracleGeneral, Self::Folio];

    /// Returns the name of the format, as the command line has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Lirs => "lirs",
            Self::Arc => "arc",
            Self::Csv => "csv",
            Self::OracleGeneral => "oracle-general",
            Self::Folio => "folio",
        }
    }

    /// Returns the format of a trace that begins with these bytes, or `None` if it has none of
    /// them.
    pub(super) fn of(begins: &[u8]) -> Option<Self> {
        if begins.starts_with(MAGIC) {
            return Some(Self::Folio);
        }
        let is_text = |byte: &u8| matches!(byte, b' '..=b'~' | b'\n' | b'\r' | b'\t' | 0x80..);
        if !begins.iter().all(is_text) || std::str::from_utf8(trimmed(begins)).is_err() {
            return is_oracle_general(begins).then_some(Self::OracleGeneral);
        }
        let lines = begins.split(|&byte| byte == b'\n').map(<[u8]>::trim_ascii);
        let line = lines.into_iter().find(|line| !line.is_empty() && *line != b"*")?;
        let is_number = |field: &[u8]| !field.is_empty() && field.iter().all(u8::is_ascii_digit);
        let fields = line.split(u8::is_ascii_whitespace).filter(|field| !field.is_empty());
        match fields.clone().count() {
            _ if line.contains(&b',') => Some(Self::Csv),
            1 if is_number(line) => Some(Self::Lirs),
            4 if fields.clone().all(is_number) => Some(Self::Arc),
            1 if csv::is_header(line) => Some(Self::Csv),
            _ => None,
        }
    }
}

/// Returns the bytes without the last few, which may be part of a character.
fn trimmed(begins: &[u8]) -> &[u8] {
    let end = begins.iter().rposition(|&byte| byte < 0x80).map_or(0, |last| last + 1);
    &begins[..end]
}

/// Returns `true` if each whole record may be one: times do not go back, and a next use is never
/// or later than the record.
fn is_oracle_general(begins: &[u8]) -> bool {
    let (records, _) = begins.as_chunks::<RECORD>();
    let time = |record: &[u8; RECORD]| u32::from_le_bytes(record.first_chunk().copied().unwrap());
    let next = |record: &[u8; RECORD]| i64::from_le_bytes(record.last_chunk().copied().unwrap());
    let is_later = |(at, record): (i64, &[u8; RECORD])| match next(record) {
        -1 => true,
        next => next > at,
    };
    !records.is_empty() && records.is_sorted_by_key(time) && (0..).zip(records).all(is_later)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_told_by_their_first_bytes() {
        let known: [(&[u8], _); 9] = [
            (b"7\n8\n", Format::Lirs),
            (b"*\n\n7\n", Format::Lirs),
            (b"7 1 0 3\n", Format::Arc),
            (b"time,obj_id,size\n1,2,3\n", Format::Csv),
            (b"1,2\n", Format::Csv),
            (b"page\n9\n", Format::Csv),
            (
                &[[1, 0, 0, 0], [5, 0, 0, 0], [0; 4], [1, 0, 0, 0], [255; 4], [255; 4]].concat(),
                Format::OracleGeneral,
            ),
            (MAGIC, Format::Folio),
            ("1,größe\n".as_bytes(), Format::Csv),
        ];
        for (bytes, format) in known {
            assert_eq!(Format::of(bytes), Some(format), "{:?}", String::from_utf8_lossy(bytes));
        }
        let unknown: [&[u8]; 5] = [b"hello world\n", b"1 2\n", b"", b"\x7fELF\0\0\0\0", &[9; 100]];
        for bytes in unknown {
            assert_eq!(Format::of(bytes), None, "{:?}", String::from_utf8_lossy(bytes));
        }
    }
}
