//! Backings that count more bytes than they wrote, or look at what the buffers hold.

mod common;

use std::io::{self, IoSlice, IoSliceMut};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use common::assert_nothing_leaked;
use folio_cache::testing::Memory;
use folio_cache::{Backing, Cache, FileId, Fill, Version};
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
