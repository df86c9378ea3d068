//! Pages that are being filled are in flight under each scheme: neither cached nor pinned.

use std::fmt;
use std::io::{self, IoSliceMut};
use std::sync::{Arc, Mutex, OnceLock};

use folio_cache::{Backing, Cache, CacheBuilder, FileId, MemoryUse, Version};
use folio_frames::FRAME_SIZE;
use folio_ref::{Scheme, schemes};

/// Looks at the memory of the cache during each fill.
#[derive(Debug)]
struct Looks<S: Scheme> {
    inner: folio_cache::testing::Memory,
    cache: OnceLock<Cache<S>>,
    seen: Mutex<Vec<MemoryUse>>,
}

impl<S: Scheme + fmt::Debug> Backing for Looks<S> {
    fn file_id(&self) -> FileId {
        self.inner.file_id()
    }
    fn version(&self) -> io::Result<Version> {
        self.inner.version()
    }
    fn fill(&self, offset: u64, buffers: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        let cache = self.cache.get().expect("the cache of this backing");
        self.seen.lock().unwrap().push(cache.memory_use());
        self.inner.fill(offset, buffers)
    }
}

fn run<S: Scheme + fmt::Debug>() {
    let cache = CacheBuilder::<S>::with_scheme().capacity(2 << 20).build().unwrap();
    let inner = folio_cache::testing::Memory::new(&vec![7; 8 * FRAME_SIZE]);
    let backing = Arc::new(Looks { inner, cache: OnceLock::new(), seen: Mutex::default() });
    backing.cache.set(cache.clone()).unwrap();
    let file = cache.open_backing(backing.clone()).unwrap();
    // In the first life of these frames, and in a later one.
    for _ in 0..2 {
        file.read_exact_at(&mut vec![0; 8 * FRAME_SIZE], 0).unwrap();
        for used in backing.seen.lock().unwrap().drain(..) {
            let parts = (used.in_flight_bytes > 0, used.pinned_bytes);
            assert_eq!(parts, (true, 0), "{}: {used:?}", S::NAME);
        }
        file.invalidate();
    }
    assert_eq!(cache.memory_use().in_flight_bytes, 0);
}

#[test]
fn a_page_that_is_being_filled_is_in_flight_under_each_scheme() {
    run::<schemes::ZeroFrozen>();
    run::<schemes::GuessOne>();
    run::<schemes::FrozenBit>();
    run::<schemes::LiveBitHigh>();
    run::<schemes::LiveBitLow>();
    run::<schemes::Generational>();
    run::<schemes::Tagged>();
}
