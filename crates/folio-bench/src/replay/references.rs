//! The references of a trace: the pages that a program used, one after the other.

use std::io::{self, BufRead, Cursor, ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use super::compressed;
use super::csv::{Columns, fields, is_open};
use super::format::{self, Format, MARK};
use super::record::{self, RECORD};

/// The bytes of a page.
const PAGE: u64 = 4096;

/// The bytes by which the format is told.
const BEGINS: u64 = 1 << 16;

/// The most bytes of a line.
const MAX_LINE: usize = 1 << 16;

/// The most pages of one request: 4 GiB.
const MAX_PAGES: u64 = 1 << 20;

/// Reads the references of a trace, as a stream.
pub struct References {
    path: PathBuf,
    format: Format,
    from: Box<dyn BufRead>,
    /// The number of the line or record that was read last.
    at: u64,
    line: Vec<u8>,
    /// Of a CSV file, from its first line on.
    columns: Option<Columns>,
    /// The requests of no page.
    empty: u64,
    /// The references of the last line that are left: the next page, and their number.
    left: (u64, u64),
    one_in: u32,
    /// A recording ended within a record.
    is_cut: bool,
    /// A page of the column was a number.
    has_number: bool,
}

impl std::fmt::Debug for References {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("References")
            .field("path", &self.path)
            .field("format", &self.format)
            .finish_non_exhaustive()
    }
}

/// Mixes the bits of a number: the pages of two files, or two names, are not the same by chance.
fn mix(number: u64) -> u64 {
    let number = (number ^ number >> 32).wrapping_mul(0xd6e8_feb8_6659_fd93);
    (number ^ number >> 32).wrapping_mul(0xd6e8_feb8_6659_fd93)
}

/// Returns a number for the text of a field: its own if it is one, or a hash.
fn number_or_hash(field: &[u8]) -> u64 {
    let hash = || {
        field.iter().fold(field.len() as u64 + 1, |hash, &byte| {
            mix(hash << 8 ^ u64::from(byte) ^ hash >> 56)
        })
    };
    number(field).unwrap_or_else(hash)
}

fn number(field: &[u8]) -> Option<u64> {
    std::str::from_utf8(field).ok()?.parse().ok()
}

impl References {
    /// Opens a trace. Its format is that of its first bytes, unless `format` says another one.
    ///
    /// Once `stop` is set, the references end with an error, also while a pipe gives nothing.
    ///
    /// # Errors
    ///
    /// - `InvalidData` if the trace is empty, or its format is unknown.
    /// - Otherwise the error of the system.
    pub fn open(
        path: &Path,
        format: Option<Format>,
        stop: &'static AtomicBool,
    ) -> io::Result<Self> {
        let place = |error: io::Error| named(path, None, &error);
        let mut from = compressed::open(path, stop).map_err(place)?;
        // A pipe gives less at once, and less than a line says nothing.
        let mut begins = Vec::new();
        match from.by_ref().take(BEGINS).read_to_end(&mut begins) {
            // What is there can be played. Relaxed: a flag of its own.
            Err(_) if stop.load(Ordering::Relaxed) && !begins.is_empty() => {}
            read => _ = read.map_err(place)?,
        }
        let wrong = |what: &str| {
            io::Error::new(ErrorKind::InvalidData, format!("{}: {what}", path.display()))
        };
        if begins.is_empty() {
            return Err(wrong("the trace is empty"));
        }
        if format == Some(Format::OracleGeneral) && format::is_text(&begins) {
            return Err(wrong("the trace is text, and no records of oracle-general"));
        }
        let format = format.or_else(|| Format::of(&begins)).ok_or_else(|| {
            if format::is_empty(&begins) {
                return wrong("the trace has no references");
            }
            let names = Format::ALL.map(Format::name).join(", ");
            let guess = format::guess(&begins);
            wrong(&format!("the format is unknown: it is none of {names}; {guess}"))
        })?;
        let mut from = Box::new(Cursor::new(begins).chain(from));
        let mut one_in = 1;
        if format == Format::Folio {
            one_in = record::read_header(&mut from).map_err(place)?;
        }
        Ok(Self {
            path: path.to_owned(),
            format,
            from,
            at: 0,
            line: Vec::new(),
            columns: None,
            empty: 0,
            left: (0, 0),
            one_in,
            is_cut: false,
            has_number: false,
        })
    }

    /// Returns the format of the trace.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Returns the share of the pages that the trace has: one in so many.
    pub fn one_in(&self) -> u32 {
        self.one_in
    }

    /// Returns the name of the column with the pages, or its number from 1: that of a CSV file of
    /// which something was read.
    pub fn column(&self) -> Option<String> {
        self.columns.as_ref().map(Columns::name)
    }

    /// Returns `true` if the column was chosen without a header, and no page of it so far was a
    /// number.
    pub fn is_doubtful(&self) -> bool {
        self.columns.as_ref().is_some_and(|columns| columns.header.is_none()) && !self.has_number
    }

    /// Returns the number of requests so far that were for no page, and gave no reference.
    pub fn empty_requests(&self) -> u64 {
        self.empty
    }

    /// Returns `true` if the trace is a recording that ended within its last record, as on a full
    /// disk. That record is left out.
    pub fn is_cut(&self) -> bool {
        self.is_cut
    }

    /// Returns the path of the trace.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns an error with the place in the trace.
    fn error(&self, what: impl std::fmt::Display) -> io::Error {
        let error = io::Error::new(ErrorKind::InvalidData, what.to_string());
        named(&self.path, Some((self.unit(), self.at)), &error)
    }

    fn unit(&self) -> &'static str {
        match self.format {
            Format::OracleGeneral | Format::Folio => "record",
            Format::Lirs | Format::Arc | Format::Csv => "line",
        }
    }

    /// Reads the next line or record. Returns `false` at the end.
    fn read_more(&mut self) -> io::Result<bool> {
        self.at += 1;
        match self.format {
            Format::OracleGeneral => self.read_record::<RECORD>(|record| {
                u64::from_le_bytes(*record[4..].first_chunk().expect("20 bytes follow"))
            }),
            Format::Folio => self.read_record(|record| u64::from_le_bytes(*record)),
            Format::Lirs | Format::Arc | Format::Csv => self.read_line(),
        }
    }

    fn read_record<const BYTES: usize>(
        &mut self,
        page: impl Fn(&[u8; BYTES]) -> u64,
    ) -> io::Result<bool> {
        let (mut record, mut done) = ([0; BYTES], 0);
        while done < BYTES {
            match self.from.read(&mut record[done..]) {
                Ok(0) if done == 0 => return Ok(false),
                Ok(0) if self.format == Format::Folio => {
                    self.is_cut = true;
                    return Ok(false);
                }
                Ok(0) => {
                    return Err(self.error(format!(
                        "the trace is cut short: {done} bytes are left of a record of {BYTES}"
                    )));
                }
                Ok(read) => done += read,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(self.cut_or(&error)),
            }
        }
        self.left = (page(&record), 1);
        Ok(true)
    }

    /// Returns an error of the stream. One that ends too early says so.
    fn cut_or(&self, error: &io::Error) -> io::Error {
        named(&self.path, Some((self.unit(), self.at)), error)
    }

    fn read_line(&mut self) -> io::Result<bool> {
        let mut line = std::mem::take(&mut self.line);
        line.clear();
        let read = self.from.by_ref().take(MAX_LINE as u64).read_until(b'\n', &mut line);
        let read = read.map_err(|error| self.cut_or(&error))?;
        let parsed = match read {
            0 => Ok(None),
            MAX_LINE if line.last() != Some(&b'\n') => {
                Err(self.error(format!("the line is longer than {MAX_LINE} bytes")))
            }
            _ => self.parse(line.strip_prefix(MARK).unwrap_or(&line).trim_ascii()).map(Some),
        };
        self.line = line;
        self.left = match parsed? {
            None => return Ok(false),
            Some(references) => references,
        };
        Ok(true)
    }

    /// Returns the first page of a line, and the number of pages.
    fn parse(&mut self, line: &[u8]) -> io::Result<(u64, u64)> {
        if line.is_empty() {
            return Ok((0, 0));
        }
        if line.contains(&b'\r') {
            return Err(self.error("the lines end with CR alone: convert the ends to LF"));
        }
        match self.format {
            Format::Lirs if line == b"*" => Ok((0, 0)),
            Format::Lirs => Ok((self.number(line, "a page number")?, 1)),
            Format::Arc => self.parse_arc(line),
            _ => self.parse_csv(line),
        }
    }

    fn number(&self, field: &[u8], what: &str) -> io::Result<u64> {
        number(field).ok_or_else(|| {
            let text = String::from_utf8_lossy(&field[..field.len().min(40)]).into_owned();
            self.error(format!("{text:?} is not {what}: a number of at most 64 bits is wanted"))
        })
    }

    fn parse_arc(&mut self, line: &[u8]) -> io::Result<(u64, u64)> {
        let mut fields = line.split(u8::is_ascii_whitespace).filter(|field| !field.is_empty());
        let (Some(first), Some(count), Some(_), Some(_), None) =
            (fields.next(), fields.next(), fields.next(), fields.next(), fields.next())
        else {
            let found = line.split(u8::is_ascii_whitespace).filter(|field| !field.is_empty());
            let found = found.count();
            return Err(
                self.error(format!("4 numbers are wanted, {found} found: perhaps cut short"))
            );
        };
        let first = self.number(first, "a page number")?;
        let count = self.number(count, "a number of pages")?;
        self.pages(first, count)
    }

    /// Checks the number of pages of a request.
    fn pages(&mut self, first: u64, count: u64) -> io::Result<(u64, u64)> {
        self.empty += u64::from(count == 0);
        if count > MAX_PAGES {
            return Err(
                self.error(format!("a request of {count} pages: at most {MAX_PAGES} are accepted"))
            );
        }
        if first.checked_add(count).is_none() {
            return Err(self.error(format!(
                "{count} pages from {first} on end past the addresses of 64 bits"
            )));
        }
        Ok((first, count))
    }

    fn parse_csv(&mut self, line: &[u8]) -> io::Result<(u64, u64)> {
        if is_open(line) {
            let what = "a quote is not closed: a line break within a field is not read";
            return Err(self.error(what));
        }
        if self.columns.is_none() {
            self.columns = Some(Columns::of(line).map_err(|what| self.error(what))?);
        }
        let columns = self.columns.as_ref().expect("just set");
        if columns.header.as_deref() == Some(line) {
            return Ok((0, 0));
        }
        let Columns { page, is_offset, length, file, .. } = *columns;
        let field = |at: usize| {
            fields(line).nth(at).filter(|field| !field.is_empty()).ok_or_else(|| {
                self.error(format!("column {} is missing: perhaps cut short", at + 1))
            })
        };
        let start = file.map_or(Ok(0), |at| field(at).map(start_of_file))?;
        let page = field(page)?;
        let has_number = number(page).is_some();
        let (mut first, mut count) = (number_or_hash(page), 1);
        if is_offset {
            let offset = self.number(page, "an offset")?;
            let bytes = length.map_or(Ok(1), |at| self.number(field(at)?, "a length"))?;
            first = offset / PAGE;
            count =
                if bytes == 0 { 0 } else { (offset % PAGE).saturating_add(bytes).div_ceil(PAGE) };
        }
        self.has_number |= has_number;
        let (first, count) = self.pages(first, count)?;
        match file {
            None => Ok((first, count)),
            Some(_) => Ok((start.wrapping_add(first).min(u64::MAX - count), count)),
        }
    }
}

/// Returns the first page of a file. Each file has its own pages: they begin at a place that its
/// name decides.
fn start_of_file(name: &[u8]) -> u64 {
    mix(number_or_hash(name)) & !(u64::from(u32::MAX) >> 4)
}

/// Returns an error that names the trace, and the place in it.
fn named(path: &Path, place: Option<(&str, u64)>, error: &io::Error) -> io::Error {
    let cut =
        if error.kind() == ErrorKind::UnexpectedEof { "the trace is cut short: " } else { "" };
    let message = match place {
        Some((unit, at)) => format!("{}: {unit} {at}: {cut}{error}", path.display()),
        None => format!("{}: {cut}{error}", path.display()),
    };
    io::Error::new(error.kind(), message)
}

impl Iterator for References {
    type Item = io::Result<u64>;

    fn next(&mut self) -> Option<Self::Item> {
        while self.left.1 == 0 {
            match self.read_more() {
                Ok(true) => {}
                Ok(false) => return None,
                Err(error) => return Some(Err(error)),
            }
        }
        let page = self.left.0;
        self.left = (page.wrapping_add(1), self.left.1 - 1);
        Some(Ok(page))
    }
}
