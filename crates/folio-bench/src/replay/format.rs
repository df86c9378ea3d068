//! The formats of traces, and how one is told from the others.

use super::csv;
use super::record::{MAGIC, RECORD};

/// The mark that begins text in UTF-8, as some programs write it.
pub(super) const MARK: &[u8] = b"\xef\xbb\xbf";

/// The format of a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Text: one page number a line. A line `*` begins a phase and is skipped.
    Lirs,
    /// Text: the first page, the number of pages, a number that is ignored, and the number of the
    /// request.
    Arc,
    /// Text with commas: a page in each line, in the column that the header names. Without a header
    /// it is the only column, or the second one.
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
        if !is_text(begins) {
            return is_oracle_general(begins).then_some(Self::OracleGeneral);
        }
        let begins = begins.strip_prefix(MARK).unwrap_or(begins);
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

/// Returns `true` if a trace that begins with these bytes is text.
pub(super) fn is_text(begins: &[u8]) -> bool {
    let is_text = |byte: &u8| matches!(byte, b' '..=b'~' | b'\n' | b'\r' | b'\t' | 0x80..);
    begins.iter().all(is_text) && std::str::from_utf8(trimmed(begins)).is_ok()
}

/// Returns `true` if a text that begins so has no references: its lines are empty, or `*`.
pub(super) fn is_empty(begins: &[u8]) -> bool {
    let begins = begins.strip_prefix(MARK).unwrap_or(begins);
    let mut lines = begins.split(|&byte| byte == b'\n').map(<[u8]>::trim_ascii);
    lines.all(|line| line.is_empty() || line == b"*")
}

/// Returns what a file of no known format may be, and what to do with it.
pub(super) fn guess(begins: &[u8]) -> String {
    let archives: [(usize, &[u8], &str); 7] = [
        (0, b"BZh", "bzip2"),
        (0, b"PK\x03\x04", "zip"),
        (0, b"7z\xbc\xaf", "7z"),
        (0, b"\x04\x22\x4d\x18", "lz4"),
        (0, b"\x5d\0\0", "lzma"),
        (0, b"\x1f\x9d", "compress"),
        (257, b"ustar", "tar"),
    ];
    let is_it = |&&(at, magic, _): &&(usize, &[u8], &str)| {
        begins.get(at..).is_some_and(|begins| begins.starts_with(magic))
    };
    if let Some((.., name)) = archives.iter().find(is_it) {
        return format!("it may be packed by {name}: unpack it, or pack it by gzip, zstd or xz");
    }
    let is_half_empty = |at| begins.iter().skip(at).step_by(2).all(|&byte| byte == 0);
    if begins.starts_with(&[0xff, 0xfe])
        || begins.starts_with(&[0xfe, 0xff])
        || is_half_empty(0)
        || is_half_empty(1)
    {
        return "it may be text in UTF-16: convert it to UTF-8".to_owned();
    }
    if !is_text(begins) {
        return "it is not text: name its format by --format".to_owned();
    }
    let line = begins.split(|&byte| byte == b'\n').map(<[u8]>::trim_ascii);
    let line = line.into_iter().find(|line| !line.is_empty()).unwrap_or_default();
    let line = String::from_utf8_lossy(&line[..line.len().min(80)]).into_owned();
    format!("it begins with the line {line:?}: convert it, or name its format by --format")
}

/// Returns the bytes without the last few, which may be part of a character.
fn trimmed(begins: &[u8]) -> &[u8] {
    let end = begins.iter().rposition(|&byte| byte < 0x80).map_or(0, |last| last + 1);
    &begins[..end]
}

/// Returns `true` if each whole record may be one: times do not go back, and a next use is never,
/// or later than the record by no more than a trace has.
fn is_oracle_general(begins: &[u8]) -> bool {
    let (records, _) = begins.as_chunks::<RECORD>();
    let time = |record: &[u8; RECORD]| u32::from_le_bytes(record.first_chunk().copied().unwrap());
    let next = |record: &[u8; RECORD]| i64::from_le_bytes(record.last_chunk().copied().unwrap());
    let is_later = |(at, record): (i64, &[u8; RECORD])| match next(record) {
        -1 | i64::MAX => true,
        next => (at + 1..1 << 40).contains(&next),
    };
    !records.is_empty() && records.is_sorted_by_key(time) && (0..).zip(records).all(is_later)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_told_by_their_first_bytes() {
        let known: [(&[u8], _); 11] = [
            (b"7\n8\n", Format::Lirs),
            (b"*\n\n7\n", Format::Lirs),
            (b"7 1 0 3\n", Format::Arc),
            (b"time,obj_id,size\n1,2,3\n", Format::Csv),
            (b"1,2\n", Format::Csv),
            (b"page\n9\n", Format::Csv),
            (b"\xef\xbb\xbf7\n8\n", Format::Lirs),
            (b"\xef\xbb\xbfpage\n9\n", Format::Csv),
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
        let unknown: [&[u8]; 6] = [
            b"hello world\n",
            b"1 2\n",
            b"",
            b"\x7fELF\0\0\0\0",
            &[9; 100],
            b"BZh91AY&SY\x01\0\0\0\0\0\0\0\0\0\x01\x02\x03\x04\x05\x06\x07\x08",
        ];
        for bytes in unknown {
            assert_eq!(Format::of(bytes), None, "{:?}", String::from_utf8_lossy(bytes));
        }
    }
}
