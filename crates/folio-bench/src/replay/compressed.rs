//! Files as a stream of bytes, whether compressed or not.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use flate2::bufread::MultiGzDecoder;
use lzma_rust2::XzReader;
use ruzstd::decoding::StreamingDecoder;

/// The bytes that are read at once.
const BUFFER: usize = 1 << 18;

const GZIP: &[u8] = &[0x1f, 0x8b];
const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];
const XZ: &[u8] = &[0xfd, b'7', b'z', b'X', b'Z', 0];

/// The frames of a zstd file, one after the other.
struct Frames<R: BufRead> {
    state: State<R>,
}

enum State<R: BufRead> {
    Between(R),
    Within(Box<StreamingDecoder<R, ruzstd::decoding::FrameDecoder>>),
    End,
}

impl<R: BufRead> Read for Frames<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            self.state = match std::mem::replace(&mut self.state, State::End) {
                State::End => return Ok(0),
                State::Between(mut rest) => {
                    if rest.fill_buf()?.is_empty() {
                        return Ok(0);
                    }
                    let frame = StreamingDecoder::new(rest).map_err(broken)?;
                    State::Within(Box::new(frame))
                }
                State::Within(mut frame) => {
                    let read = frame.read(buf)?;
                    if read > 0 || buf.is_empty() {
                        self.state = State::Within(frame);
                        return Ok(read);
                    }
                    State::Between(frame.into_inner())
                }
            }
        }
    }
}

fn broken(error: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("zstd: {error}"))
}

/// Opens a file as a stream of its bytes. Those of gzip, zstd and xz are unpacked: their first
/// bytes tell, not the name of the file.
pub(super) fn open(path: &Path) -> io::Result<Box<dyn BufRead>> {
    let mut file = BufReader::with_capacity(BUFFER, File::open(path)?);
    let begins = file.fill_buf()?;
    if begins.starts_with(GZIP) {
        return Ok(buffered(MultiGzDecoder::new(file)));
    }
    if begins.starts_with(ZSTD) {
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
        open(file.path())?.read_to_end(&mut all)?;
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
    fn packed_files_that_are_cut_short_are_errors() {
        for (name, bytes) in packed() {
            for end in 7..bytes.len() {
                assert!(read(&bytes[..end]).is_err(), "{name}: {end} of {} bytes", bytes.len());
            }
        }
    }
}
