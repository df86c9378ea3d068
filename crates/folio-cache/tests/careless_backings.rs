//! Backings that count more bytes than they wrote, look at what the buffers hold, or say another
//! length each time.

mod common;

use std::io::{self, IoSlice, IoSliceMut};
use std::slice::from_ref;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use common::hanging::ends;
use common::{assert_nothing_leaked, by_memory};
use folio_cache::testing::Memory;
use folio_cache::{Backing, Cache, File, FileId, Fill, Version};
use folio_frames::Order;

const LEN: u64 = 4 << 20;
const SECRET: u8 = 0x5E;

/// Counts every byte of a fill, and writes none. Remembers the bytes of others that it was shown.
#[derive(Debug, Default)]
struct Liar {
    secrets: AtomicU64,
    /// Answers requests together, as `fill_all` does.
    together: bool,
}

impl Backing for Liar {
    fn file_id(&self) -> FileId {
        FileId { space: "liar", volume: u64::from(self.together), object: 0 }
    }

    fn version(&self) -> io::Result<Version> {
        Ok(Version { len: LEN, change_token: [0; 4] })
    }

    fn fill(&self, _: u64, buffers: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        let shown = buffers.iter().flat_map(|buffer| buffer.iter());
        let secrets = shown.filter(|&&byte| byte == SECRET).count();
        self.secrets.fetch_add(secrets as u64, Ordering::Relaxed);
        // More than there is room for, too.
        Ok(buffers.iter().map(|buffer| buffer.len()).sum::<usize>() + 100)
    }

    fn fill_all(&self, requests: &mut [Fill<'_>]) {
        for request in requests {
            request.result = self.fill(request.offset, &mut request.buffers);
        }
    }

    fn fills_together(&self) -> bool {
        self.together
    }

    fn is_writable(&self) -> bool {
        true
    }

    fn write(&self, _: u64, _: &[IoSlice<'_>]) -> io::Result<()> {
        Ok(())
    }
}

/// Uses all of the cache for a file of secrets, in each way that a frame can be freed, and closes
/// it.
fn use_and_close(cache: &Cache) {
    let secrets = Arc::new(Memory::new(&vec![SECRET; LEN as usize]));
    let file = cache.open_backing(secrets).unwrap();
    let mut buf = vec![0; 1 << 20];
    for offset in (0..LEN).step_by(buf.len()) {
        // Evicts what was read before; large folios and pages.
        assert_eq!(file.read_at(&mut buf, offset).unwrap(), buf.len());
    }
    let handles: Vec<_> = (0..50).map(|page| file.page(page * 4096).unwrap().unwrap()).collect();
    let range = file.range(2 << 20, 200_000).unwrap();
    // Copies of pinned pages, and new ones.
    file.write_at(&vec![SECRET; 40 * 4096], 0).unwrap();
    file.append(&[SECRET; 10_000]).unwrap();
    file.set_len(LEN / 2).unwrap();
    file.punch_hole(4096, 8192).unwrap();
    cache.reclaim(20);
    drop(file);
    // The last of them, after the close.
    drop((handles, range));
    assert_nothing_leaked(cache);
}

/// Returns a count of each byte that readers of a liar see.
fn seen(cache: &Cache, liar: &Arc<Liar>) -> [u64; 256] {
    let file = cache.open_backing(liar.clone()).unwrap();
    let mut counts = [0; 256];
    let mut buf = vec![0; 300_000];
    let mut count = |bytes: &[u8]| bytes.iter().for_each(|&byte| counts[byte as usize] += 1);
    let mut offset = 0;
    while offset < LEN {
        let n = file.read_at(&mut buf, offset).unwrap();
        count(&buf[..n]);
        offset += n as u64;
    }
    file.invalidate();
    let read = pollster::block_on(file.read_at_async(&mut buf, 0)).unwrap();
    count(&buf[..read]);
    file.write_at(&[1; 10], LEN / 2 + 100).unwrap();
    count(&file.page(LEN / 2).unwrap().unwrap());
    drop(file);
    assert_nothing_leaked(cache);
    counts
}

#[test]
fn a_scrubbed_cache_shows_a_backing_and_its_readers_zeroes() {
    for together in [false, true] {
        let cache = Cache::builder().capacity(2 << 20).scrub(true).build().unwrap();
        let liar = Arc::new(Liar { together, ..Liar::default() });
        for _ in 0..3 {
            use_and_close(&cache);
            let seen = seen(&cache, &liar);
            assert_eq!(liar.secrets.load(Ordering::Relaxed), 0, "the backing saw another file");
            assert_eq!(seen[2..].iter().sum::<u64>(), 0, "readers saw more than zeroes");
        }
        // And so does what takes frames out of the cache.
        use_and_close(&cache);
        let contig = cache.frames().alloc_contig(256, Order::ZERO).unwrap();
        for folio in contig.into_folios() {
            assert!(folio.as_slice().iter().all(|&byte| byte == 0));
            folio.free();
        }
    }
}

/// In a debug build a forgotten write shows itself. Frames that were never used hold zeroes.
#[test]
#[cfg_attr(not(debug_assertions), ignore = "a check of debug builds")]
fn a_debug_build_poisons_freed_frames() {
    let cache = Cache::new(2 << 20).unwrap();
    let liar = Arc::new(Liar::default());
    use_and_close(&cache);
    let seen = seen(&cache, &liar);
    assert_eq!(liar.secrets.load(Ordering::Relaxed), 0);
    assert_eq!(seen[SECRET as usize], 0);
    assert!(seen[0xA5] > 1 << 20, "{} poisoned bytes", seen[0xA5]);
}

/// The bytes that a backing does not count are zeroed.
#[test]
fn bytes_past_the_count_are_zeroed() {
    let cache = Cache::new(2 << 20).unwrap();
    use_and_close(&cache);
    let memory = Arc::new(Memory::new(&[7; 4096 + 100]));
    let file = cache.open_backing(memory).unwrap();
    file.read_at(&mut [0; 5000], 0).unwrap();
    // Written past the old end, so its page ends in what the fill left.
    file.write_at(&[8], 4096 + 200).unwrap();
    let mut buf = [1; 4096];
    assert_eq!(file.read_at(&mut buf, 4096).unwrap(), 201);
    assert!(buf[..100] == [7; 100] && buf[100..200] == [0; 100] && buf[200] == 8);
    drop(file);
    assert_nothing_leaked(&cache);
}

/// A backing that counts more bytes than anything has.
#[derive(Debug)]
struct Boasts {
    memory: Memory,
}

impl Backing for Boasts {
    by_memory!(file_id, version, is_writable, write, set_len, sync);

    fn fill(&self, offset: u64, buffers: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        self.memory.fill(offset, buffers)?;
        Ok(usize::MAX - 1)
    }
}

#[test]
fn a_count_of_any_size_is_cut() {
    let bytes: Vec<u8> = (0..100_000_u32).map(|n| (n / 9) as u8).collect();
    for threads in [0, 4] {
        let cache = Cache::builder().capacity(2 << 20).io_threads(threads).build().unwrap();
        let file = cache.open_backing(Arc::new(Boasts { memory: Memory::new(&bytes) })).unwrap();
        for offset in [8192, 90_000, 50_001, 0] {
            let mut buf = vec![0; 20_000];
            let expected = &bytes[offset as usize..bytes.len().min(offset as usize + buf.len())];
            let read = file.read_at(&mut buf, offset).unwrap();
            assert!(buf[..read] == *expected, "{read} bytes at {offset}");
            file.invalidate();
            let read = pollster::block_on(file.read_at_async(&mut buf, offset)).unwrap();
            assert!(buf[..read] == *expected, "{read} bytes at {offset}");
            file.invalidate();
            file.prefetch(from_ref(&(offset..offset + 9000)));
            assert!(file.bytes(offset, 9000).unwrap() == bytes[offset as usize..][..9000]);
            file.write_at(&bytes[7..9], 7).unwrap();
        }
        file.close().unwrap();
        assert_nothing_leaked(&cache);
    }
}

/// The length that a [`Strange`] backing says, by the number of the call.
type Length = fn(u64) -> u64;

/// A backing that says another length each time, of which the bytes are always the same.
#[derive(Debug)]
struct Strange {
    memory: Memory,
    length: Length,
    calls: AtomicU64,
}

impl Backing for Strange {
    fn file_id(&self) -> FileId {
        self.memory.file_id()
    }

    fn version(&self) -> io::Result<Version> {
        let call = self.calls.fetch_add(1, Ordering::Relaxed);
        Ok(Version { len: (self.length)(call), change_token: [call, 0, 0, 0] })
    }

    fn fill(&self, offset: u64, buffers: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        self.memory.fill(offset, buffers)
    }

    fn is_writable(&self) -> bool {
        true
    }

    fn write(&self, offset: u64, buffers: &[IoSlice<'_>]) -> io::Result<()> {
        self.memory.write(offset, buffers)
    }

    fn set_len(&self, _: u64) -> io::Result<()> {
        Ok(())
    }
}

/// Calls of a file, with any result.
const CALLS: &[fn(&Cache, &File, &Arc<Strange>)] = &[
    |_, file, _| _ = file.read_at(&mut [0; 100], 4990),
    |_, file, _| _ = file.read_at(&mut [0; 9000], 0),
    |_, file, _| _ = file.read_at(&mut [0; 10], u64::MAX >> 1),
    |_, file, _| _ = file.read_exact_at(&mut [0; 10], file.len().saturating_sub(5)),
    |_, file, _| _ = file.page(4096),
    |_, file, _| _ = file.range(0, usize::MAX),
    |_, file, _| _ = file.bytes(4000, 5000),
    |_, file, _| _ = pollster::block_on(file.bytes_async(4000, 5000)),
    |_, file, _| _ = pollster::block_on(file.range_async(100, usize::MAX)),
    |_, file, _| _ = file.append(b"more"),
    |_, file, _| _ = file.write_at(&[1; 5000], 4000),
    |_, file, _| _ = file.punch_hole(0, u64::MAX),
    |_, file, _| _ = file.set_len(4500),
    |_, file, _| _ = file.sync_data(),
    |_, file, _| _ = file.revalidate(),
    |cache, _, strange| drop(cache.open_backing(strange.clone())),
    |_, file, _| _ = file.discard(),
];

/// Each call ends, with any result, and without a panic.
#[test]
fn each_call_ends_over_a_backing_of_any_length() {
    let lengths: [(&str, Length); 7] = [
        ("longer and shorter", |call| 5000 + call % 2 * 1000),
        ("a byte longer each time", |call| 5000 + call),
        ("a page shorter each time", |call| 1_000_000_u64.saturating_sub(call * 4096)),
        ("nothing, and something", |call| call % 3 * 4999),
        ("the maximum of a file", |_| i64::MAX as u64),
        ("more than a file can have", |_| u64::MAX),
        ("anything", |call| call.wrapping_mul(0x9E37_79B9_7F4A_7C15)),
    ];
    for (name, length) in lengths {
        let cache: Cache = Cache::new(4 << 20).unwrap();
        let memory = Memory::new(&[3; 5500]);
        let strange = Arc::new(Strange { memory, length, calls: AtomicU64::new(0) });
        let Ok(file) = cache.open_backing(strange.clone()) else { continue };
        for (n, act) in CALLS.iter().enumerate() {
            let (cache, file, strange) = (cache.clone(), file.clone(), strange.clone());
            ends(&format!("call {n} over {name}"), move || act(&cache, &file, &strange));
        }
        drop(file);
        assert_nothing_leaked(&cache);
    }
}
