//! The columns of CSV files, as their headers name them.

/// The names of the column with the page, by which a header is known.
const PAGES: [&str; 10] =
    ["page", "block", "obj_id", "id", "object", "object_id", "key", "lbn", "lba", "addr"];
/// The column with the first byte of a request.
const OFFSET: &str = "offset";
/// The columns with the number of bytes of a request.
const LENGTHS: [&str; 4] = ["length", "len", "size", "bytes"];
/// The columns with a file.
const FILES: [&str; 3] = ["file", "path", "inode"];

/// The columns of a CSV file.
#[derive(Debug, Default)]
pub(super) struct Columns {
    pub(super) page: usize,
    pub(super) is_offset: bool,
    pub(super) length: Option<usize>,
    pub(super) file: Option<usize>,
}

/// Returns `true` if a line is the header of a CSV file: it names a column with pages.
pub(super) fn is_header(line: &[u8]) -> bool {
    fields(line).any(|field| is_one_of(&field, &PAGES) || is_one_of(&field, &[OFFSET]))
}

fn is_one_of(field: &[u8], names: &[&str]) -> bool {
    names.iter().any(|name| field.eq_ignore_ascii_case(name.as_bytes()))
}

/// Returns the fields of a line, without quotes.
pub(super) fn fields(line: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    let unquoted = |field: &[u8]| {
        let field = field.trim_ascii();
        let inner = field.strip_prefix(b"\"").and_then(|field| field.strip_suffix(b"\""));
        inner.unwrap_or(field).to_vec()
    };
    line.split(|&byte| byte == b',').map(unquoted)
}

impl Columns {
    /// Returns the columns that a first line names, or those of a file without header.
    pub(super) fn of(line: &[u8]) -> Self {
        let named = |names: &[&str]| fields(line).position(|field| is_one_of(&field, names));
        let count = fields(line).count();
        match (named(&PAGES), named(&[OFFSET])) {
            (Some(page), _) => Self { page, file: named(&FILES), ..Self::default() },
            (None, Some(page)) => {
                Self { page, is_offset: true, length: named(&LENGTHS), file: named(&FILES) }
            }
            (None, None) => Self { page: usize::from(count > 1), ..Self::default() },
        }
    }
}
