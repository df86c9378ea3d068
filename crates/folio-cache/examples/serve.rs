//! A server: many threads send ranges of a big file as `Bytes`, without a copy.
//!
//! `cargo run -p folio-cache --example serve` serves a file over HTTP to eight clients that request
//! ranges of it. With a path, it serves that file until it is stopped: try
//! `curl -r 1000-1999 http://localhost:8000`.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;

use folio_cache::{Cache, File};

/// The maximum number of bytes that one connection pins.
const STEP: u64 = 256 << 10;

/// Answers one request: the bytes of its header `Range: bytes=FIRST-LAST`, or the whole file
/// without one. Returns errors of the connection and the file, and of a range that is no number.
fn answer(file: &File, mut stream: TcpStream) -> io::Result<()> {
    let (mut first, mut last) = (0, u64::MAX);
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    while let Some(line) = lines.next().transpose()?.filter(|line| !line.is_empty()) {
        let range = line.to_ascii_lowercase().strip_prefix("range: bytes=").map(str::to_owned);
        if let Some((from, to)) = range.as_deref().and_then(|range| range.split_once('-')) {
            (first, last) =
                (from.parse().map_err(io::Error::other)?, to.parse().unwrap_or(u64::MAX));
        }
    }
    let end = file.len().min(last.saturating_add(1)).max(first);
    write!(stream, "HTTP/1.1 206 Partial Content\r\nContent-Length: {}\r\n", end - first)?;
    write!(
        stream,
        "Content-Range: bytes {first}-{}/{}\r\n\r\n",
        end.saturating_sub(1),
        file.len()
    )?;
    while first < end.min(file.len()) {
        // Each piece pins its pages: it could also wait in a queue, move to another thread, or be
        // sent many times.
        let range = file.range(first, STEP.min(end - first) as usize)?;
        first += range.len() as u64;
        range.into_each().try_for_each(|piece| stream.write_all(&piece))?;
    }
    Ok(())
}

/// Requests a range as a client. Returns the body of the answer.
fn get(server: SocketAddr, first: u64, last: u64) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server)?;
    write!(stream, "GET / HTTP/1.1\r\nRange: bytes={first}-{last}\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let header =
        answer.windows(4).position(|four| four == b"\r\n\r\n").ok_or(io::ErrorKind::InvalidData)?;
    Ok(answer.split_off(header + 4))
}

fn serve(listener: &TcpListener, file: &File) {
    for stream in listener.incoming().flatten() {
        let file = file.clone();
        thread::spawn(move || {
            answer(&file, stream).map_err(|error| eprintln!("connection closed: {error}"))
        });
    }
}

fn main() -> io::Result<()> {
    let cache = Cache::new(8 << 20)?;
    if let Some(path) = std::env::args_os().nth(1).filter(|_| !cfg!(test)) {
        serve(&TcpListener::bind("localhost:8000")?, &cache.open(path)?);
    }
    // A file of numbers, larger than the cache.
    let (dir, listener) = (tempfile::tempdir()?, TcpListener::bind("localhost:0")?);
    let (path, server) = (dir.path().join("numbers"), listener.local_addr()?);
    std::fs::write(&path, (0..3_u32 << 20).flat_map(u32::to_le_bytes).collect::<Vec<_>>())?;
    let file = cache.open(path)?;
    thread::spawn(move || serve(&listener, &file));
    let client = |n: u32| {
        let got = get(server, u64::from(n) * 4, u64::from(n) * 4 + 3999).expect("an answer");
        assert!(got == (n..n + 1000).flat_map(u32::to_le_bytes).collect::<Vec<_>>());
    };
    thread::scope(|scope| {
        (0..8).for_each(|n| {
            drop(scope.spawn(move || (n..160).step_by(8).for_each(|n| client(n * 19_000))));
        });
    });
    println!("160 ranges, {:?}", cache.stats());
    Ok(())
}

#[test]
fn it_runs() {
    main().expect("all answers");
}
