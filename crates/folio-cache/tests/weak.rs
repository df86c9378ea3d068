//! The length of a file, truncation, fills and writes over a weak memory: each ordering and fence
//! that they name has a case here, in which its absence shows.
//!
//! `cargo x prove` runs it, as it runs the tests of `shuttle/`. The real code runs over C11's
//! memory as `folio_ref::testing::memory` models it: a load may return an older value, as far as
//! its thread may not know better. Each case is played depth first, with a bound on preemptions and
//! on old values. `cargo x orderings` weakens the orderings.
//!
//! The backing is asked by system calls, which order nothing here. A lock of the system inside the
//! cache (of a set of numbers, say) orders nothing here either, although it does in a process.

#![cfg(shuttle)]

mod common;

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicU8;
use std::sync::atomic::Ordering::Relaxed;

use common::assert_nothing_leaked;
use folio_cache::testing::Memory;
use folio_cache::{
    AsyncBacking, BoxFuture, Cache, File, FillBuffer, FillRequest, Key, RemoteVersion, Validator,
};
use folio_frames::FRAME_SIZE;
use folio_ref::testing::explore::{Search, explore, race};
use folio_ref::testing::stepped::AtomicU64;

/// The last page of a leaf of the index: a walk of all pages from there visits one page.
const LAST: u64 = 511 * FRAME_SIZE as u64;

/// The end of that page.
const END: u64 = LAST + FRAME_SIZE as u64;

/// A cache with one file.
struct World {
    cache: Cache,
    backing: Arc<Memory>,
    file: File,
}

impl World {
    /// Returns a world with a file of a hole up to [`LAST`], and `len` bytes of 1.
    fn new(len: usize) -> Self {
        let cache = Cache::new(2 << 20).expect("memory for a test");
        let backing = Arc::new(Memory::new(&[]));
        backing.scribble(LAST, &vec![1; len]);
        let file = cache.open_backing(backing.clone()).unwrap();
        Self { cache, backing, file }
    }

    /// Reads the page into the cache.
    fn cached(self) -> Self {
        self.file.read_at(&mut [0; 1], LAST).unwrap();
        self
    }
}

type Act = fn(&File, &Memory);

/// For cases with more steps: a random sample.
const RANDOM: Search = Search::WeakPct { depth: 4, executions: 10_000, seed: 1 };

fn weak(preemptions: usize, old: usize) -> Search {
    Search::Weak { preemptions, old }
}

/// Plays threads in a new world, and checks it afterwards.
fn play<const N: usize>(
    name: &str,
    search: Search,
    new: fn() -> World,
    threads: [Act; N],
    after: fn(&World),
) {
    explore(name, search, move || {
        let world = new();
        let thread = |act: Act| -> Box<dyn FnOnce() + Send> {
            let (file, backing) = (world.file.clone(), world.backing.clone());
            Box::new(move || act(&file, &backing))
        };
        race(threads.map(thread).into());
        after(&world);
        let World { cache, file, .. } = world;
        drop(file);
        assert_nothing_leaked(&cache);
    });
}

/// A word beside the file, for what a thread does before it changes the length.
static NOTED: AtomicU64 = AtomicU64::new(0);

/// Asserts that a thread that sees the length that another one made sees what that did before.
fn assert_noted_before(name: &str, new: fn() -> World, len: u64, change: Act) {
    explore(name, weak(1, 2), move || {
        NOTED.store(0, Relaxed);
        let world = new();
        let (file, backing) = (world.file.clone(), world.backing.clone());
        let reader = world.file.clone();
        assert_ne!(reader.len(), len);
        race(vec![
            Box::new(move || {
                NOTED.store(1, Relaxed);
                change(&file, &backing);
            }),
            Box::new(move || {
                if reader.len() == len {
                    assert_eq!(NOTED.load(Relaxed), 1, "a length without what came before it");
                }
            }),
        ]);
        let World { cache, file, .. } = world;
        drop(file);
        assert_nothing_leaked(&cache);
    });
}

#[test]
fn a_thread_that_sees_a_length_sees_what_came_before_it() {
    let new = || World::new(100).cached();
    let longer = LAST + 164;
    let append: Act = |file, _| assert_eq!(file.write_at(&[9; 64], LAST + 100).unwrap(), 64);
    assert_noted_before("the length of an append", new, longer, append);
    let set_len: Act = |file, _| file.set_len(LAST + 164).unwrap();
    assert_noted_before("a length that is set", new, longer, set_len);
    let by_others: Act = |file, backing| {
        backing.scribble(LAST + 100, &[9; 64]);
        file.read_at(&mut [0], END).unwrap();
    };
    assert_noted_before("the length of an append by another program", new, longer, by_others);
    let cut: Act = |file, backing| {
        backing.cut(LAST);
        file.read_at(&mut [0], END).unwrap();
    };
    assert_noted_before("the length of a truncation by another program", new, LAST, cut);
    let new = || {
        let world = World::new(100).cached();
        world.file.write_at(&[9; 64], LAST + 100).unwrap();
        world
    };
    let discard: Act = |file, _| assert_eq!(file.discard().unwrap(), 4096);
    assert_noted_before("the length of a discard", new, LAST + 100, discard);
}

/// Reads one byte. Returns `None` if the file ends before it.
fn read_one(file: &File, offset: u64) -> Option<u8> {
    let mut byte = [0];
    (file.read_at(&mut byte, offset).unwrap() > 0).then_some(byte[0])
}

/// Makes the file longer again. The bytes past the truncation must be zeroes.
fn assert_truncated(world: &World) {
    if world.file.len() == LAST {
        world.file.set_len(END).unwrap();
        assert_eq!(read_one(&world.file, LAST), Some(0), "bytes from before the truncation");
    }
}

#[test]
fn a_fill_beside_a_truncation_leaves_no_page_past_the_end() {
    let read: Act = |file, _| assert!(matches!(read_one(file, LAST), None | Some(1)));
    let truncate: Act = |file, _| file.set_len(LAST).unwrap();
    let new = || World::new(FRAME_SIZE);
    play("a fill beside a truncation", weak(1, 2), new, [read, truncate], assert_truncated);
    let truncate: Act = |file, backing| {
        backing.cut(LAST);
        assert_eq!(read_one(file, END), None);
    };
    let name = "a fill beside a truncation by another program";
    play(name, weak(1, 2), new, [read, truncate], assert_truncated);
}

#[test]
fn a_write_beside_a_truncation_leaves_no_page_past_the_end() {
    let write: Act = |file, _| assert_eq!(file.write_at(&[9; FRAME_SIZE], LAST).unwrap(), 4096);
    let truncate: Act = |file, _| file.set_len(LAST).unwrap();
    let new = || World::new(FRAME_SIZE);
    play("a write beside a truncation", weak(1, 2), new, [write, truncate], assert_truncated);
    let truncate: Act = |file, backing| {
        backing.cut(LAST);
        assert!(matches!(read_one(file, END), None | Some(0)));
    };
    let name = "a write beside a truncation by another program";
    play(name, weak(1, 2), new, [write, truncate], assert_truncated);
    let cut: Act = |file, _| file.set_len(LAST).unwrap();
    let cached = || World::new(FRAME_SIZE).cached();
    let name = "a write in place beside a truncation";
    play(name, weak(1, 2), cached, [write, cut], assert_truncated);
    let filled: Act = |file, _| {
        file.read_at(&mut [0], LAST).unwrap();
        file.write_at(&[9; 64], LAST).unwrap();
    };
    let name = "a fill and a write beside a truncation";
    play(name, weak(1, 2), new, [filled, cut], assert_truncated);
}

#[test]
fn a_write_beside_a_discard_leaves_no_page_past_the_end() {
    let write: Act = |file, _| assert_eq!(file.write_at(&[9; FRAME_SIZE], LAST).unwrap(), 4096);
    let discard: Act = |file, _| assert!(file.discard().unwrap() <= 2 * 4096);
    let new = || {
        let world = World::new(0);
        world.backing.cut(0);
        world.backing.scribble(LAST - 1, &[1]);
        world.file.revalidate().unwrap();
        // A page past the hole at LAST.
        world.file.write_at(&[5; 64], END).unwrap();
        world
    };
    play("a write beside a discard", weak(1, 2), new, [write, discard], assert_truncated);
}

#[test]
fn a_fill_beside_a_hole_leaves_no_byte_of_it() {
    let read: Act = |file, _| assert!(matches!(read_one(file, LAST), Some(0 | 1)));
    let punch: Act = |file, _| file.punch_hole(LAST, 4096).unwrap();
    let new = || World::new(FRAME_SIZE);
    play("a fill beside a hole", weak(1, 2), new, [read, punch], |world| {
        assert_eq!(read_one(&world.file, LAST), Some(0), "bytes from before the hole");
    });
}

/// A handle on the page: the bytes that the file held, with its length then.
fn handle(file: &File) {
    if let Some(page) = file.page(LAST).unwrap() {
        let ones = page.iter().take_while(|&&byte| byte == 1).count();
        let rest = &page[ones..];
        assert!(
            ones >= 100 && (rest.is_empty() || rest == [9; FRAME_SIZE - 100]),
            "{ones} bytes, then {:?} of {}",
            rest.first(),
            rest.len()
        );
    }
}

#[test]
fn a_handle_beside_a_truncation_has_bytes_the_file_held() {
    let take: Act = |file, _| handle(file);
    let truncate: Act = |file, _| file.set_len(LAST + 100).unwrap();
    let new = || World::new(FRAME_SIZE);
    play("a handle beside a truncation", weak(1, 3), new, [take, truncate], |_| {});
    let truncate: Act = |file, backing| {
        backing.cut(LAST + 100);
        assert_eq!(read_one(file, END), None);
    };
    let name = "a handle beside a truncation by another program";
    // With three old values it takes half a minute. `cargo x orderings` does not need them here.
    let old = 2 + usize::from(std::env::var_os("DEEP").is_some());
    play(name, weak(1, old), new, [take, truncate], |_| {});
    let rewrite: Act = |file, _| {
        file.set_len(LAST + 100).unwrap();
        assert_eq!(file.write_at(&[9; FRAME_SIZE - 100], LAST + 100).unwrap(), FRAME_SIZE - 100);
    };
    let name = "a handle beside a truncation and an append";
    play(name, RANDOM, new, [rewrite, take], |_| {});
}

#[test]
fn a_reader_that_saw_a_truncation_reads_nothing_from_before() {
    let read: Act = |file, _| {
        if file.len() == LAST + 100 {
            let seen = read_one(file, LAST + 200);
            assert!(matches!(seen, None | Some(0)), "{seen:?} from before the truncation");
        }
    };
    let lengths: Act = |file, _| {
        file.set_len(LAST + 100).unwrap();
        file.set_len(END).unwrap();
    };
    let new = || World::new(FRAME_SIZE).cached();
    let name = "a reader of a file that is truncated and grows";
    play(name, weak(1, 2), new, [lengths, read], |_| {});
}

#[test]
fn a_reader_that_sees_an_append_sees_its_bytes() {
    let read: Act = |file, _| {
        let seen = read_one(file, LAST + 100);
        assert!(matches!(seen, None | Some(9)), "{seen:?} in place of the append");
    };
    let append: Act = |file, _| assert_eq!(file.write_at(&[9; 64], LAST + 100).unwrap(), 64);
    let new = || World::new(100).cached();
    play("a reader beside an append", weak(1, 2), new, [append, read], |_| {});
    let new = || {
        let world = World::new(100).cached();
        world.backing.scribble(LAST + 100, &[9; 64]);
        world
    };
    let name = "two readers beside an append by another program";
    play(name, weak(1, 2), new, [read, read], |_| {});
}

#[test]
fn a_fill_beside_an_append_by_another_program_hides_none_of_it() {
    let fill: Act = |file, _| assert_eq!(read_one(file, LAST), Some(1));
    let append: Act = |file, backing| {
        backing.scribble(LAST + 100, &[9; 64]);
        // The cache asks for the length.
        assert_eq!(read_one(file, END), None);
    };
    // The page before keeps the leaf of both open: a walk that closes a leaf sees each of its slots
    // as it is, whatever the fences are.
    let new = || {
        let world = World::new(100);
        world.file.read_at(&mut [0; 1], LAST - FRAME_SIZE as u64).unwrap();
        world
    };
    let name = "a fill beside an append by another program";
    play(name, weak(1, 2), new, [fill, append], |world| {
        assert_eq!(read_one(&world.file, LAST + 100), Some(9), "an append is hidden");
    });
}

/// A store that answers at once. All bytes of its object are the version.
#[derive(Debug)]
struct Versions(AtomicU8);

impl Versions {
    fn told(&self) -> RemoteVersion {
        let validator = Validator::new([self.0.load(Relaxed)]);
        RemoteVersion { len: END, validator }
    }
}

impl AsyncBacking for Versions {
    fn key(&self) -> Key {
        Key::new("versions", *b"object")
    }

    fn fill<'a>(
        &'a self,
        request: FillRequest,
        buffer: &'a mut FillBuffer<'_>,
    ) -> BoxFuture<'a, io::Result<RemoteVersion>> {
        Box::pin(async move {
            buffer.put_slice(&vec![self.0.load(Relaxed); request.len as usize]);
            Ok(self.told())
        })
    }

    fn version(&self) -> BoxFuture<'_, io::Result<RemoteVersion>> {
        Box::pin(async { Ok(self.told()) })
    }
}

#[test]
fn a_read_of_two_pages_has_one_version() {
    const PAIR: u64 = LAST - FRAME_SIZE as u64;
    const BOTH: usize = 2 * FRAME_SIZE;
    explore("a read of two pages beside a new version", weak(0, 3), || {
        let cache = Cache::builder().capacity(2 << 20).build().unwrap();
        let store = Arc::new(Versions(AtomicU8::new(1)));
        let file = cache.open_async_with(store.clone(), &store.told()).unwrap();
        assert_eq!(file.read_at(&mut [0; BOTH], PAIR).unwrap(), BOTH);
        let (writer, reader) = (file.clone(), file.clone());
        race(vec![
            Box::new(move || {
                store.0.store(2, Relaxed);
                writer.invalidate();
                assert_eq!(writer.read_at(&mut [0; BOTH], PAIR).unwrap(), BOTH);
            }),
            Box::new(move || {
                let mut bytes = vec![0; BOTH];
                if let Some(n) = reader.try_read(&mut bytes, PAIR) {
                    assert_eq!(n, BOTH);
                    let (first, second) = (bytes[0], bytes[FRAME_SIZE]);
                    assert_eq!(first, second, "a page of each version");
                }
            }),
        ]);
        file.invalidate();
        drop(file);
        assert_nothing_leaked(&cache);
    });
}
