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
#[derive(Debug)]
pub(super) struct Columns {
    pub(super) page: usize,
    pub(super) is_offset: bool,
    pub(super) length: Option<usize>,
    pub(super) file: Option<usize>,
    /// The line that names the columns. It may come again, where files were put together.
    pub(super) header: Option<Vec<u8>>,
}

/// Returns `true` if a line is the header of a CSV file: it names a column with pages.
pub(super) fn is_header(line: &[u8]) -> bool {
    fields(line).any(|field| is_one_of(field, &PAGES) || is_one_of(field, &[OFFSET]))
}

fn is_one_of(field: &[u8], names: &[&str]) -> bool {
    names.iter().any(|name| field.eq_ignore_ascii_case(name.as_bytes()))
}

/// Returns the fields of a line, without quotes. A field in quotes may have commas.
pub(super) fn fields(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    quoted_fields(line).map(|field| {
        let inner = field.strip_prefix(b"\"").and_then(|field| field.strip_suffix(b"\""));
        inner.unwrap_or(field)
    })
}

/// Returns the fields of a line, with their quotes.
fn quoted_fields(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(line);
    std::iter::from_fn(move || {
        let line = rest?;
        let end = end_of_field(line);
        rest = line.get(end + 1..);
        Some(line[..end].trim_ascii())
    })
}

fn end_of_field(line: &[u8]) -> usize {
    let may_be_quoted = line.trim_ascii_start().starts_with(b"\"");
    let mut is_quoted = false;
    let is_end = |&byte: &u8| {
        is_quoted ^= may_be_quoted && byte == b'"';
        byte == b',' && !is_quoted
    };
    line.iter().position(is_end).unwrap_or(line.len())
}

/// Returns `true` if the last field of a line has a quote that is not closed: a line break within a
/// field, or a line that is cut short.
pub(super) fn is_open(line: &[u8]) -> bool {
    let is_odd = |field: &[u8]| field.iter().fold(false, |odd, &byte| odd ^ (byte == b'"'));
    // Most lines have none.
    line.contains(&b'"')
        && quoted_fields(line).last().is_some_and(|last| last.starts_with(b"\"") && is_odd(last))
}

/// Returns `true` if a field is a number of any kind: no name of a column is.
fn is_number(field: &[u8]) -> bool {
    std::str::from_utf8(field).is_ok_and(|field| field.parse::<f64>().is_ok())
}

impl Columns {
    /// Returns the columns that a first line names, or those of a file without header.
    ///
    /// # Errors
    ///
    /// Says why the columns are not known.
    pub(super) fn of(line: &[u8]) -> Result<Self, String> {
        let named = |names: &[&str]| fields(line).position(|field| is_one_of(field, names));
        let count = fields(line).count();
        let header = Some(line.to_vec());
        let file = named(&FILES);
        match (named(&PAGES), named(&[OFFSET])) {
            (Some(page), _) => Ok(Self { page, is_offset: false, length: None, file, header }),
            (None, Some(page)) => {
                Ok(Self { page, is_offset: true, length: named(&LENGTHS), file, header })
            }
            (None, None) if count == 1 && is_separated_otherwise(line) => {
                let what = "the fields are separated by blanks, tabs or semicolons: \
                            separate them by commas, or put them in quotes";
                Err(what.to_owned())
            }
            (None, None) if !fields(line).any(is_number) => {
                let text = String::from_utf8_lossy(&line[..line.len().min(80)]).into_owned();
                Err(format!(
                    "the header {text:?} names no column with pages: give the column a name of \
                     {}, or the name {OFFSET} if it has bytes",
                    PAGES.join(", ")
                ))
            }
            (None, None) => {
                let page = usize::from(count > 1);
                Ok(Self { page, is_offset: false, length: None, file: None, header: None })
            }
        }
    }

    /// Returns the name of the column with the pages, or its number from 1.
    pub(super) fn name(&self) -> String {
        let header = self.header.as_deref();
        let name = header.and_then(|header| fields(header).nth(self.page));
        name.map_or_else(
            || (self.page + 1).to_string(),
            |name| String::from_utf8_lossy(name).into_owned(),
        )
    }
}

fn is_separated_otherwise(line: &[u8]) -> bool {
    !line.starts_with(b"\"") && line.iter().any(|byte| b" \t;".contains(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_in_quotes_may_have_commas() {
        let all = |line| fields(line).collect::<Vec<_>>();
        assert_eq!(all(br#""a,b", 5 ,"c""d",,6"#), [&b"a,b"[..], b"5", b"c\"\"d", b"", b"6"]);
        assert_eq!(all(br#"5" disk,7"#), [&b"5\" disk"[..], b"7"]);
        assert_eq!(all(br#""open,7"#), [&b"\"open,7"[..]]);
        assert_eq!(all(b""), [b""]);
        for (line, open) in [
            (&br#"1,"a"#[..], true),
            (br#""a,2"#, true),
            (br#"1, ""#, true),
            (br#"1,"a""""#, false),
            (br#"1,5" disk"#, false),
            (br#""a,b",2"#, false),
            (b"", false),
            (b"1,", false),
        ] {
            assert_eq!(is_open(line), open, "{:?}", String::from_utf8_lossy(line));
        }
    }

    #[test]
    fn columns_are_named_or_numbered() {
        let name = |line| Columns::of(line).unwrap().name();
        assert_eq!(name(b"time,Obj_ID,size"), "Obj_ID");
        assert_eq!(name(b"1,foo"), "2");
        assert_eq!(name(b"1.5,-7,x"), "2");
        assert_eq!(name(b"7"), "1");
        for line in [&b"time,op,address"[..], b"# a, b", b"1\t5", b"1;5", b"1 5", b"word"] {
            assert!(Columns::of(line).is_err(), "{:?}", String::from_utf8_lossy(line));
        }
    }
}
