//! Makes whole requests out of system calls that may do a part, or be interrupted.
//!
//! The system calls and the faulty calls of the tests go through the same two loops.

use std::io::{self, IoSlice, IoSliceMut};

/// The maximum number of buffers in one call (`IOV_MAX`).
pub(super) const MOST_BUFFERS: usize = 1024;

/// Reads until the buffers are full or the bytes end. Returns the number of bytes read.
pub(super) fn read(
    mut offset: u64,
    mut buffers: &mut [IoSliceMut<'_>],
    mut call: impl FnMut(u64, &mut [IoSliceMut<'_>]) -> io::Result<usize>,
) -> io::Result<usize> {
    let mut done = 0;
    IoSliceMut::advance_slices(&mut buffers, 0);
    while !buffers.is_empty() {
        let most = buffers.len().min(MOST_BUFFERS);
        match call(offset, &mut buffers[..most]) {
            Ok(0) => break,
            Ok(n) => {
                IoSliceMut::advance_slices(&mut buffers, n);
                done += n;
                offset += n as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

/// Writes all of the buffers.
pub(super) fn write(
    mut offset: u64,
    buffers: &[IoSlice<'_>],
    mut call: impl FnMut(u64, &[IoSlice<'_>]) -> io::Result<usize>,
) -> io::Result<()> {
    let mut buffers: Vec<IoSlice<'_>> = buffers.to_vec();
    let mut left = &mut buffers[..];
    IoSlice::advance_slices(&mut left, 0);
    while !left.is_empty() {
        match call(offset, &left[..left.len().min(MOST_BUFFERS)]) {
            Ok(0) => {
                return Err(io::Error::new(
                    io::ErrorKind::WriteZero,
                    format!("nothing was written at {offset}"),
                ));
            }
            Ok(n) => {
                IoSlice::advance_slices(&mut left, n);
                offset += n as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Returns the first `most` bytes of the buffers.
pub(super) fn first<'b>(buffers: &'b [IoSlice<'_>], most: usize) -> Vec<IoSlice<'b>> {
    let mut left = most;
    let parts = buffers.iter().map_while(|buffer| {
        let n = buffer.len().min(left);
        left -= n;
        (n > 0 || buffer.is_empty()).then(|| IoSlice::new(&buffer[..n]))
    });
    parts.collect()
}

/// Repeats a call until it is not interrupted.
pub(super) fn retry<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every length of a part, with an interruption before each.
    #[test]
    fn parts_and_interruptions_make_a_whole() {
        let bytes: Vec<u8> = (0..50).collect();
        for part in 1..60 {
            let mut interrupted = false;
            let mut interrupt = || -> io::Result<()> {
                interrupted = !interrupted;
                if interrupted { Err(io::ErrorKind::Interrupted.into()) } else { Ok(()) }
            };
            let (mut a, mut b, mut c) = ([0; 7], [0; 0], [0; 60]);
            let mut buffers = [&mut a[..], &mut b, &mut c].map(IoSliceMut::new);
            let done = read(3, &mut buffers, |offset, buffers| {
                interrupt()?;
                let rest = &bytes[offset as usize..];
                let n = rest.len().min(buffers[0].len()).min(part);
                buffers[0][..n].copy_from_slice(&rest[..n]);
                Ok(n)
            });
            assert_eq!(done.unwrap(), 47, "parts of {part}");
            assert_eq!((&a[..], &c[..40], c[40]), (&bytes[3..10], &bytes[10..], 0));
            let mut written = vec![0; 3];
            let buffers = [&bytes[3..10], &[], &bytes[10..]].map(IoSlice::new);
            write(3, &buffers, |offset, buffers| {
                interrupt()?;
                assert_eq!(offset, written.len() as u64);
                let n = buffers[0].len().min(part);
                written.extend_from_slice(&buffers[0][..n]);
                Ok(n)
            })
            .unwrap();
            assert_eq!(written[3..], bytes[3..]);
        }
        let buffers = [&bytes[..3], &[], &bytes[3..10], &bytes[10..]].map(IoSlice::new);
        for most in 0..60 {
            let first = first(&buffers, most);
            assert_eq!(
                first.iter().flat_map(|part| part.iter().copied()).collect::<Vec<_>>(),
                bytes[..most.min(50)]
            );
        }
        assert!(first(&buffers, 0).is_empty());
        assert_eq!(first(&buffers, 4).len(), 3);
        let nothing = write(9, &[IoSlice::new(&[1])], |_, _| Ok(0)).unwrap_err();
        assert_eq!(nothing.kind(), io::ErrorKind::WriteZero);
    }
}
