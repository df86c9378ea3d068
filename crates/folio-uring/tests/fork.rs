//! A ring after `fork()`: it works in the process that made it, and says so in every other.

use std::fs;
use std::io::{self, IoSliceMut};

use folio_uring::{Process, Request, Ring};

/// Runs `act` in a child, and its children. Fails if it returns `false`, panics or hangs.
fn in_child(act: impl FnOnce() -> bool + std::panic::UnwindSafe) {
    // SAFETY: the child takes no lock that another thread may hold: the C library keeps its own
    // consistent, and there is one test here.
    let child = unsafe { libc::fork() };
    assert!(child >= 0, "{}", io::Error::last_os_error());
    if child == 0 {
        // SAFETY: sets a timer; its signal ends the child.
        unsafe { libc::alarm(30) };
        let is_right = std::panic::catch_unwind(act).unwrap_or(false);
        // SAFETY: ends the child, without the parent's exit handlers.
        unsafe { libc::_exit(i32::from(!is_right)) };
    }
    let mut status = 0;
    // SAFETY: the status is ours to write to.
    let waited = unsafe { libc::waitpid(child, &raw mut status, 0) };
    assert_eq!((waited, status), (child, 0), "it failed in the child");
}

/// Reads ten bytes at each of 20 offsets, and returns the answers.
fn read(ring: &mut Ring, file: &fs::File, shift: usize) -> Vec<io::Result<bool>> {
    let mut memory = [[0_u8; 10]; 20];
    let mut buffers = memory.each_mut().map(|bytes| [IoSliceMut::new(bytes)]);
    let mut requests: Vec<_> = buffers
        .iter_mut()
        .enumerate()
        .map(|(n, buffers)| Request::new((n * 10 + shift) as u64, buffers))
        .collect();
    ring.read_all(file, &mut requests);
    let results: Vec<_> = requests.into_iter().map(|request| request.result).collect();
    let is_right = |n: usize| (0..10).all(|i| usize::from(memory[n][i]) == n * 10 + shift + i);
    results
        .into_iter()
        .enumerate()
        .map(|(n, result)| result.map(|read| read == 10 && is_right(n)))
        .collect()
}

fn all_right(results: &[io::Result<bool>]) -> bool {
    results.iter().all(|result| matches!(result, Ok(true)))
}

fn all_refused(results: &[io::Result<bool>]) -> bool {
    results.iter().all(|result| {
        let Err(error) = result else { return false };
        error.kind() == io::ErrorKind::Unsupported && error.to_string().contains("after a fork")
    })
}

#[test]
fn each_process_needs_a_ring_of_its_own() {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), (0..=255).collect::<Vec<u8>>()).unwrap();
    let file = &fs::File::open(file.path()).unwrap();
    let me = Process::current();
    assert!(me.is_current());
    in_child(move || {
        // A child that never asked which process it is, and one of its own.
        in_child(move || !me.is_current());
        let child = Process::current();
        in_child(move || !me.is_current() && !child.is_current());
        !me.is_current() && child.is_current() && child.id() != me.id()
    });
    assert!(me.is_current());
    let Ok(mut ring) = Ring::new(8) else { return };
    assert!(all_right(&read(&mut ring, file, 0)));
    let mut inherited = Some(std::panic::AssertUnwindSafe(&mut ring));
    in_child(move || {
        let ring: &mut Ring = inherited.take().unwrap().0;
        assert!(!ring.is_usable());
        assert!(all_refused(&read(ring, file, 7)));
        *ring = Ring::new(8).unwrap();
        assert!(ring.is_usable() && all_right(&read(ring, file, 7)));
        let mut inherited = std::panic::AssertUnwindSafe(&mut *ring);
        in_child(move || all_refused(&read(&mut inherited, file, 9)));
        all_right(&read(ring, file, 1))
    });
    assert!(ring.is_usable() && all_right(&read(&mut ring, file, 3)));
}
