//! `read_many`: many reads at once return the same as single reads.

mod common;

use std::fmt;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem;
use std::sync::{Arc, Mutex};
use std::thread;

use common::{assert_nothing_leaked, file_of};
use folio_cache::testing::{Call, Fault, Memory};
use folio_cache::{Backing, Cache, FileId, LocalFile, ReadRequest, Version};

#[test]
fn read_many_equals_single_reads() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let (_dir, path, bytes) = file_of((3 << 20) + 777);
    let cache: Cache = Cache::new(2 << 20).unwrap();
    let files: [Arc<dyn Backing>; 3] = [
        Arc::new(LocalFile::open(&path).unwrap()),
        Arc::new(LocalFile::open(&path).unwrap().direct()),
        Arc::new(Memory::new(&bytes)),
    ];
    for backing in files {
        // One backing after the other: two opens of one file would share their pages.
        let file = cache.open_backing(backing).unwrap();
        for count in [0, 1, 10, 700] {
            // Some of them read the same page, cross the end of the file, begin past it, or are
            // longer than a request.
            let mut memory: Vec<(usize, Vec<u8>)> = (0..count)
                .map(|_| {
                    let len = if random.u8(..) < 5 { 1_500_000 } else { random.usize(..9000) };
                    (random.usize(..bytes.len() + 3000), vec![0; len])
                })
                .collect();
            let mut reads: Vec<_> = memory
                .iter_mut()
                .map(|(offset, buf)| ReadRequest::new(buf, *offset as u64))
                .collect();
            file.read_many(&mut reads);
            let results: Vec<_> = reads.into_iter().map(|read| read.result.unwrap()).collect();
            for ((offset, buf), read) in memory.iter().zip(results) {
                let rest = &bytes[(*offset).min(bytes.len())..];
                assert!(
                    buf[..read] == rest[..buf.len().min(rest.len())],
                    "{count}: {read} bytes at {offset}"
                );
            }
        }
    }
    assert_nothing_leaked(&cache);
}

#[test]
fn each_of_many_reads_gets_its_own_error() {
    let memory = Arc::new(Memory::new(&vec![7; 100 * 4096]));
    let cache: Cache = Cache::new(2 << 20).unwrap();
    let file = cache.open_backing(memory.clone()).unwrap();
    // The request of the fourth read fails, and so does its own second try.
    memory.inject(Call::Fill, 3, 1, Fault::Error(5));
    memory.inject(Call::Fill, 10, 1, Fault::Error(5));
    let mut buf = [[0; 64]; 10];
    let mut reads: Vec<_> =
        (0..).zip(&mut buf).map(|(n, buf)| ReadRequest::new(buf, n * 3 * 4096)).collect();
    let before: io::Error = io::Error::from_raw_os_error(5);
    file.read_many(&mut reads);
    for (n, read) in reads.into_iter().enumerate() {
        match read.result {
            Ok(read) => assert!(read == 64 && n != 3),
            Err(error) => assert!(n == 3 && error.raw_os_error() == before.raw_os_error()),
        }
    }
    assert_eq!((memory.calls(Call::Fill), cache.stats().misses), (11, 11));
    drop(file);
    assert_nothing_leaked(&cache);
}

type Action = Box<dyn FnOnce() + Send>;

/// Memory with actions: each runs once, after the fill at its offset.
struct Eventful(Arc<Memory>, Mutex<Vec<(u64, Action)>>);

impl Backing for Eventful {
    fn file_id(&self) -> FileId {
        self.0.file_id()
    }

    fn version(&self) -> io::Result<Version> {
        self.0.version()
    }

    fn fill(&self, offset: u64, buffers: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        let read = self.0.fill(offset, buffers)?;
        let actions = mem::take(&mut *self.1.lock().unwrap());
        let (now, later) = actions.into_iter().partition(|action| action.0 == offset);
        *self.1.lock().unwrap() = later;
        // In another thread: this one holds the page lock.
        let run = |action: Action| thread::spawn(action).join().expect("the action of a fill");
        Vec::into_iter(now).for_each(|(_, action)| run(action));
        Ok(read)
    }

    fn is_writable(&self) -> bool {
        true
    }

    fn write(&self, offset: u64, buffers: &[IoSlice<'_>]) -> io::Result<()> {
        self.0.write(offset, buffers)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }
}

impl fmt::Debug for Eventful {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Eventful").field(&self.0).finish_non_exhaustive()
    }
}

/// A file is truncated in its last page, the page is read, and a write makes the file as long
/// again. All of it happens between two loads of the length by one reader. Only `truncate_seq`
/// shows that the page ends in zeroes that no file of that length held (`NO_CUTS` of
/// models/length.pml). No search of schedules reaches this case. So two other reads of the same
/// reader run the truncate and the write: one is too long for a shared request, one fails at first.
#[test]
fn a_page_read_after_a_truncate_is_not_valid_after_regrowth() {
    const PAGE: u64 = 4096;
    const LAST: u64 = 200 * PAGE;
    let memory = Arc::new(Memory::new(&vec![7; (LAST + PAGE) as usize]));
    let backing = Arc::new(Eventful(memory.clone(), Mutex::default()));
    let cache: Cache = Cache::new(2 << 20).unwrap();
    let file = cache.open_backing(backing.clone()).unwrap();
    memory.inject(Call::Fill, 1, 1, Fault::Error(5));
    let (truncated, written) = (file.clone(), file.clone());
    let truncate: Action = Box::new(move || truncated.set_len(LAST + 100).unwrap());
    let write: Action =
        Box::new(move || assert_eq!(written.write_at(&[9; 3996], LAST + 100).unwrap(), 3996));
    *backing.1.lock().unwrap() = vec![(100 * PAGE, truncate), (0, write)];

    let (mut first, mut last, mut wide) = ([0; 64], [0; 4096], vec![0; 65 * PAGE as usize]);
    let mut reads = [
        ReadRequest::new(&mut first, 0),
        ReadRequest::new(&mut last, LAST),
        ReadRequest::new(&mut wide, 100 * PAGE),
    ];
    file.read_many(&mut reads);
    assert!(
        reads.iter().all(|read| read.result.as_ref().is_ok_and(|&n| n == read.buf.len())),
        "{:?}",
        reads[1].result
    );
    assert!(backing.1.lock().unwrap().is_empty(), "the truncate or the write did not run");
    assert!(first == [7; 64] && wide.iter().all(|&byte| byte == 7));
    assert!(
        last == *[[7; 100].as_slice(), &[9; 3996]].concat(),
        "zeroes that no file ever held: {:?}",
        &last[96..104]
    );
    drop(file);
    assert_nothing_leaked(&cache);
}
