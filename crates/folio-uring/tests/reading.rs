//! Reads through a ring. Where the system refuses to create one, only its error is checked.

use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, IoSliceMut};

use folio_uring::{Request, Ring};

fn ring(depth: u32) -> Option<Ring> {
    match Ring::new(depth) {
        Ok(ring) => Some(ring),
        Err(error) => {
            assert!(
                matches!(error.kind(), ErrorKind::PermissionDenied | ErrorKind::Unsupported),
                "{error}"
            );
            None
        }
    }
}

#[test]
fn every_request_gets_its_bytes_at_any_depth_and_count() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    let bytes: Vec<u8> = std::iter::repeat_with(|| random.u8(..)).take(300_000).collect();
    fs::write(&path, &bytes).unwrap();
    let file = fs::File::open(&path).unwrap();
    for depth in [1, 3, 64] {
        let Some(mut ring) = ring(depth) else { return };
        for count in [0, 1, 2, 63, 64, 65, 500] {
            let offsets: Vec<usize> = (0..count).map(|_| random.usize(..bytes.len())).collect();
            let mut memory: Vec<[[u8; 700]; 2]> = vec![[[0; 700]; 2]; count];
            let mut buffers: Vec<Vec<IoSliceMut<'_>>> = memory
                .iter_mut()
                .map(|buffers| {
                    buffers
                        .iter_mut()
                        .take(random.usize(1..3))
                        .map(|one| IoSliceMut::new(one))
                        .collect()
                })
                .collect();
            let mut requests: Vec<_> = offsets
                .iter()
                .zip(&mut buffers)
                .map(|(&offset, buffers)| Request::new(offset as u64, buffers))
                .collect();
            ring.read_all(&file, &mut requests);
            let read: Vec<usize> =
                requests.into_iter().map(|request| request.result.unwrap()).collect();
            let room: Vec<usize> = buffers.iter().map(|buffers| buffers.len() * 700).collect();
            for (n, &offset) in offsets.iter().enumerate() {
                let expected = &bytes[offset..bytes.len().min(offset + room[n])];
                assert!(
                    memory[n].as_flattened()[..read[n]] == *expected,
                    "{depth}, {count}: {n} at {offset}"
                );
            }
        }
        assert!(ring.is_usable());
    }
}

#[test]
fn a_failed_request_leaves_the_ring_usable() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    fs::write(&path, b"some bytes").unwrap();
    let Some(mut ring) = ring(4) else { return };
    let unreadable = OpenOptions::new().write(true).open(&path).unwrap();
    let readable = fs::File::open(&path).unwrap();
    for _ in 0..3 {
        let mut memory = [[0; 4]; 9];
        let mut buffers = memory.each_mut().map(|one| [IoSliceMut::new(one)]);
        let mut requests: Vec<_> =
            buffers.iter_mut().map(|buffers| Request::new(5, buffers)).collect();
        ring.read_all(&unreadable, &mut requests);
        assert!(
            requests
                .iter()
                .all(|request| request.result.as_ref().unwrap_err().raw_os_error() == Some(9))
        );
        ring.read_all(&readable, &mut requests);
        assert!(requests.iter().all(|request| matches!(request.result, Ok(4))));
        assert_eq!(memory, [*b"byte"; 9]);
    }
}

/// The kernel takes `u64::MAX` for the current position of the file, and would read from there.
#[test]
fn an_offset_past_the_maximum_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    fs::write(&path, b"some bytes").unwrap();
    let file = fs::File::open(&path).unwrap();
    let Some(mut ring) = ring(4) else { return };
    for offset in [u64::MAX, u64::MAX - 1, 1 << 63] {
        let (mut one, mut other) = ([0; 4], [0; 4]);
        let mut single = [IoSliceMut::new(&mut one)];
        let (first, second) = other.split_at_mut(2);
        let mut several = [IoSliceMut::new(first), IoSliceMut::new(second)];
        let mut requests = [Request::new(offset, &mut single), Request::new(offset, &mut several)];
        ring.read_all(&file, &mut requests);
        for request in requests {
            assert_eq!(
                request.result.map_err(|error| error.kind()),
                Err(ErrorKind::InvalidInput),
                "{offset}"
            );
        }
        assert_eq!((one, other), ([0; 4], [0; 4]));
    }
}
