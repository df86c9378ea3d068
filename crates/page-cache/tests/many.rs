//! Many reads at once are what they are one by one.

mod common;

use std::io;
use std::sync::Arc;

use common::{assert_nothing_leaked, file_of};
use page_cache::{Backing, Cache, Call, Fault, LocalFile, Memory, Read};

#[test]
fn many_reads_are_what_they_are_one_by_one() {
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
        // One file after the other: two opens of one would share their pages.
        let file = cache.open_backing(backing).unwrap();
        for count in [0, 1, 10, 700] {
            // Among them the same page twice, ranges over the end, past it, and longer than a request.
            let mut memory: Vec<(usize, Vec<u8>)> = (0..count)
                .map(|_| {
                    let len = if random.u8(..) < 5 { 1_500_000 } else { random.usize(..9000) };
                    (random.usize(..bytes.len() + 3000), vec![0; len])
                })
                .collect();
            let mut reads: Vec<_> = memory.iter_mut().map(|(offset, buf)| Read::new(*offset as u64, buf)).collect();
            file.read_many(&mut reads);
            let results: Vec<_> = reads.into_iter().map(|read| read.result.unwrap()).collect();
            for ((offset, buf), read) in memory.iter().zip(results) {
                let rest = &bytes[(*offset).min(bytes.len())..];
                assert!(buf[..read] == rest[..buf.len().min(rest.len())], "{count}: {read} bytes at {offset}");
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
    // The request of the fourth fails, and so does the one that it makes again for itself.
    memory.inject(Call::Fill, 3, 1, Fault::Error(5));
    memory.inject(Call::Fill, 10, 1, Fault::Error(5));
    let mut buf = [[0; 64]; 10];
    let mut reads: Vec<_> = (0..).zip(&mut buf).map(|(n, buf)| Read::new(n * 3 * 4096, buf)).collect();
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
