//! Files as a stream of bytes, whether compressed or not.

use std::io::{self, BufRead, BufReader, Chain, Cursor, ErrorKind, Read};
use std::path::Path;
use std::sync::atomic::AtomicBool;

use flate2::bufread::GzDecoder;
use lzma_rust2::XzReader;
use ruzstd::decoding::StreamingDecoder;

use super::stoppable::Stoppable;

/// The bytes that are read at once.
const BUFFER: usize = 1 << 18;

const GZIP: &[u8] = &[0x1f, 0x8b];
const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];
const XZ: &[u8] = &[0xfd, b'7', b'z', b'X', b'Z', 0];

/// The bytes of a magic number.
const WORD: usize = 4;

/// Returns `true` if bytes begin a frame of zstd that has no data, such as `pzstd` writes.
fn is_skipped(begins: &[u8]) -> bool {
    matches!(begins, [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..])
}

/// The members of a gzip file, one after the other. Zeros may follow, as on a tape.
enum Members<R: BufRead> {
    Between(R),
    Within(Box<GzDecoder<Chain<Cursor<Vec<u8>>, R>>>),
    End,
}

impl<R: BufRead> Read for Members<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            *self = match std::mem::replace(self, Self::End) {
                Self::End => return Ok(0),
                Self::Between(mut rest) => {
                    let begins = begins_of(&mut rest, GZIP.len())?;
                    match &begins[..] {
                        [] => return Ok(0),
                        GZIP => {
                            Self::Within(Box::new(GzDecoder::new(Cursor::new(begins).chain(rest))))
                        }
                        [0, ..] => return zeros(&begins, &mut rest).map(|()| 0),
                        begins => return Err(behind("gzip", begins, &[GZIP])),
                    }
                }
                Self::Within(mut member) => {
                    let read = member.read(buf)?;
                    if read > 0 || buf.is_empty() {
                        *self = Self::Within(member);
                        return Ok(read);
                    }
                    Self::Between(member.into_inner().into_inner().1)
                }
            }
        }
    }
}

/// Reads the next bytes, at most `count`: fewer at the end.
fn begins_of(from: &mut impl Read, count: usize) -> io::Result<Vec<u8>> {
    let mut begins = Vec::new();
    from.take(count as u64).read_to_end(&mut begins)?;
    Ok(begins)
}

/// Reads to the end. All must be zeros.
fn zeros(begins: &[u8], rest: &mut impl BufRead) -> io::Result<()> {
    let mut bytes = begins.to_vec();
    loop {
        if bytes.iter().any(|&byte| byte != 0) {
            return Err(behind("gzip", &bytes, &[]));
        }
        let more = rest.fill_buf()?;
        if more.is_empty() {
            return Ok(());
        }
        bytes = more.to_vec();
        let len = bytes.len();
        rest.consume(len);
    }
}

/// Returns the error for bytes behind an archive that begin none of `magics`. They may be the
/// beginning of one.
fn behind(name: &str, begins: &[u8], magics: &[&[u8]]) -> io::Error {
    if magics.iter().any(|magic| magic.starts_with(begins)) {
        return ErrorKind::UnexpectedEof.into();
    }
    let what = format!("{name}: other bytes follow behind the end of the packed data");
    io::Error::new(ErrorKind::InvalidData, what)
}

/// The frames of a zstd file, one after the other.
struct Frames<R: BufRead> {
    state: State<R>,
}

/// A frame. Its first bytes are read already.
type Frame<R> = Chain<Cursor<[u8; WORD]>, R>;

enum State<R: BufRead> {
    Between(R),
    Within(Box<StreamingDecoder<Frame<R>, ruzstd::decoding::FrameDecoder>>),
    End,
}

impl<R: BufRead> Read for Frames<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            self.state = match std::mem::replace(&mut self.state, State::End) {
                State::End => return Ok(0),
                State::Between(mut rest) => {
                    let begins = begins_of(&mut rest, WORD)?;
                    if begins.is_empty() {
                        return Ok(0);
                    }
                    let magic = begins.first_chunk::<WORD>().copied();
                    let is_frame = begins == ZSTD || is_skipped(&begins);
                    let Some(magic) = magic.filter(|_| is_frame) else {
                        let skipped = [begins[0], 0x2a, 0x4d, 0x18];
                        let magics: [&[u8]; 2] = [ZSTD, &skipped];
                        let magics = if is_skipped(&skipped) { &magics[..] } else { &magics[..1] };
                        return Err(behind("zstd", &begins, magics));
                    };
                    if is_skipped(&magic) {
                        skip(&mut rest)?;
                        State::Between(rest)
                    } else {
                        let frame = Cursor::new(magic).chain(rest);
                        State::Within(Box::new(StreamingDecoder::new(frame).map_err(broken)?))
                    }
                }
                State::Within(mut frame) => {
                    let read = frame.read(buf)?;
                    if read > 0 || buf.is_empty() {
                        self.state = State::Within(frame);
                        return Ok(read);
                    }
                    let (from, decoder) = frame.into_parts();
                    let wanted = decoder.get_checksum_from_data();
                    if wanted.is_some() && wanted != decoder.get_calculated_checksum() {
                        return Err(broken("the data does not match its checksum"));
                    }
                    State::Between(from.into_inner().1)
                }
            }
        }
    }
}

/// Passes over a frame without data, from behind its magic number.
fn skip(from: &mut impl Read) -> io::Result<()> {
    let mut len = [0; WORD];
    from.read_exact(&mut len)?;
    let len = u64::from(u32::from_le_bytes(len));
    match io::copy(&mut from.take(len), &mut io::sink())? {
        skipped if skipped == len => Ok(()),
        _ => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

fn broken(error: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("zstd: {error}"))
}

/// Opens a file as a stream of its bytes. Those of gzip, zstd and xz are unpacked: their first
/// bytes tell, not the name of the file. `-` is the standard input. Each read fails once `stop` is
/// set, also one that waits.
pub(super) fn open(path: &Path, stop: &'static AtomicBool) -> io::Result<Box<dyn BufRead>> {
    let path = if path == Path::new("-") { Path::new("/dev/stdin") } else { path };
    let mut file = BufReader::with_capacity(BUFFER, Stoppable::open(path, stop)?);
    let begins = file.fill_buf()?;
    if begins.starts_with(GZIP) {
        return Ok(buffered(Members::Between(file)));
    }
    if begins.starts_with(ZSTD) || is_skipped(begins) {
        return Ok(buffered(Frames { state: State::Between(file) }));
    }
    if begins.starts_with(XZ) {
        return Ok(buffered(XzReader::new(file, true)));
    }
    Ok(Box::new(file))
}

fn buffered(reader: impl Read + 'static) -> Box<dyn BufRead> {
    Box::new(BufReader::with_capacity(BUFFER, reader))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::write::GzEncoder;
    use ruzstd::encoding::{CompressionLevel, compress_to_vec};

    use super::*;

    static GO: AtomicBool = AtomicBool::new(false);

    const TEXT: &[u8] = b"1\n2\n3\n";

    /// [`TEXT`] as `xz` packs it.
    const TEXT_XZ: [u8; 60] = [
        253, 55, 122, 88, 90, 0, 0, 1, 105, 34, 222, 54, 2, 0, 33, 1, 22, 0, 0, 0, 116, 47, 229,
        163, 1, 0, 5, 49, 10, 50, 10, 51, 10, 0, 0, 0, 216, 84, 95, 119, 0, 1, 26, 6, 197, 234,
        200, 121, 144, 66, 153, 13, 1, 0, 0, 0, 0, 1, 89, 90,
    ];

    fn packed() -> [(&'static str, Vec<u8>); 3] {
        let mut gzip = GzEncoder::new(Vec::new(), flate2::Compression::default());
        gzip.write_all(TEXT).unwrap();
        [
            ("gzip", gzip.finish().unwrap()),
            ("zstd", compress_to_vec(TEXT, CompressionLevel::Fastest)),
            ("xz", TEXT_XZ.into()),
        ]
    }

    fn read(bytes: &[u8]) -> io::Result<Vec<u8>> {
        let mut file = tempfile::NamedTempFile::new()?;
        file.write_all(bytes)?;
        let mut all = Vec::new();
        open(file.path(), &GO)?.read_to_end(&mut all)?;
        Ok(all)
    }

    #[test]
    fn packed_files_are_unpacked_whatever_their_name() {
        assert_eq!(read(TEXT).unwrap(), TEXT);
        for (name, bytes) in packed() {
            assert_eq!(read(&bytes).unwrap(), TEXT, "{name}");
            // Two files, one behind the other, as `cat` and parallel packers make them.
            assert_eq!(read(&bytes.repeat(2)).unwrap(), TEXT.repeat(2), "{name}");
        }
    }

    #[test]
    fn frames_of_zstd_without_data_are_skipped() {
        let [_, (_, zstd), _] = packed();
        let skipped = [&[0x5e, 0x2a, 0x4d, 0x18, 3, 0, 0, 0][..], b"any"].concat();
        let both = [&skipped[..], &zstd].concat();
        assert_eq!(read(&both).unwrap(), TEXT);
        assert_eq!(read(&[&both[..], &both, &skipped].concat()).unwrap(), TEXT.repeat(2));
        for end in 4..skipped.len() {
            assert!(read(&skipped[..end]).is_err(), "{end} bytes");
        }
    }

    #[test]
    fn packed_files_that_are_cut_short_are_errors() {
        for (name, bytes) in packed() {
            for end in 7..bytes.len() {
                assert!(read(&bytes[..end]).is_err(), "{name}: {end} of {} bytes", bytes.len());
            }
        }
    }

    #[test]
    fn bytes_behind_an_archive_are_refused_but_not_zeros_of_gzip() {
        let [(_, gzip), (_, zstd), _] = packed();
        for zeros in [1, 2, 511, 1 << 19] {
            assert_eq!(read(&[&gzip[..], &vec![0; zeros]].concat()).unwrap(), TEXT, "{zeros}");
        }
        for archive in [&gzip, &zstd] {
            for rest in [&b"x"[..], b"xy", b"more than a word", b"\0\0\0x"] {
                let error = read(&[archive, rest].concat()).unwrap_err();
                assert!(error.to_string().contains("other bytes follow"), "{rest:?}: {error}");
            }
            // The beginning of a second one.
            let error = read(&[&archive[..], &archive[..1]].concat()).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "{error}");
        }
    }

    #[test]
    fn a_bit_that_changed_is_an_error() {
        for (name, archive) in packed() {
            for bit in 0..8 * archive.len() {
                let mut bytes = archive.clone();
                bytes[bit / 8] ^= 1 << (bit % 8);
                // What is no archive any more is not unpacked.
                let text = read(&bytes);
                let is_right = |text: &Vec<u8>| text == TEXT || *text == bytes;
                assert!(text.is_err() || text.is_ok_and(|text| is_right(&text)), "{name}: {bit}");
            }
        }
    }

    /// Other bytes than an archive had: an error, or other bytes, and never a panic.
    #[test]
    fn damaged_archives_do_not_end_the_program() {
        let mut random = fastrand::Rng::with_seed(5);
        for (_, archive) in packed() {
            for _ in 0..2000 {
                let mut bytes = archive.repeat(random.usize(1..3));
                for _ in 0..random.usize(1..4) {
                    let at = random.usize(4..bytes.len());
                    match random.u8(..4) {
                        0 => bytes[at] = random.u8(..),
                        1 => bytes[at] ^= 1 << random.u8(..8),
                        2 => _ = bytes.remove(at),
                        _ => bytes.insert(at, random.u8(..)),
                    }
                }
                let mut file = tempfile::NamedTempFile::new().unwrap();
                file.write_all(&bytes).unwrap();
                if let Ok(from) = open(file.path(), &GO) {
                    _ = io::copy(&mut from.take(1 << 20), &mut io::sink());
                }
            }
        }
    }
}
