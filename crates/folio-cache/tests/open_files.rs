//! Open files: what each costs, what the capacity bounds, and what their clones share.

mod common;

use std::io::{self, ErrorKind, IoSliceMut};
use std::sync::{Arc, mpsc};
use std::thread;

use allocation_counter::measure;
use common::assert_nothing_leaked;
use folio_cache::testing::{Call, Distant, DistantFault, Fault, Memory};
use folio_cache::{
    AsyncBacking, Backing, BoxFuture, Cache, File, FileId, FillBuffer, FillRequest, Key,
    RemoteVersion, Validator, Version,
};
use folio_frames::FRAME_SIZE;
use parking_lot::Mutex;

const MIB: usize = 1 << 20;

/// The limit for an open file, beside its page and its backing.
const MOST: usize = 256;

/// A file of some bytes that are all the same.
#[derive(Debug)]
struct Same {
    object: u64,
    len: u64,
}

impl Backing for Same {
    fn file_id(&self) -> FileId {
        FileId { space: "open files", volume: 0, object: self.object }
    }

    fn version(&self) -> io::Result<Version> {
        Ok(Version { len: self.len, change_token: [0; 4] })
    }

    fn fill(&self, _: u64, buffers: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        for buffer in buffers.iter_mut() {
            buffer.fill(self.object as u8);
        }
        Ok(buffers.iter().map(|buffer| buffer.len()).sum())
    }
}

/// A distant object of one page. It has its key and its validator already.
#[derive(Debug)]
struct DistantPage {
    key: Key,
    version: RemoteVersion,
}

impl AsyncBacking for DistantPage {
    fn key(&self) -> Key {
        self.key.clone()
    }

    fn fill<'a>(
        &'a self,
        request: FillRequest,
        buffer: &'a mut FillBuffer<'_>,
    ) -> BoxFuture<'a, io::Result<RemoteVersion>> {
        Box::pin(async move {
            buffer.put_slice(&[7; FRAME_SIZE][..request.len as usize]);
            Ok(self.version.clone())
        })
    }

    fn version(&self) -> BoxFuture<'_, io::Result<RemoteVersion>> {
        Box::pin(async { Ok(self.version.clone()) })
    }
}

fn same(count: usize, len: u64) -> Vec<Arc<dyn Backing>> {
    (0..count as u64).map(|object| Arc::new(Same { object, len }) as Arc<dyn Backing>).collect()
}

fn distant(count: usize) -> Vec<Arc<dyn AsyncBacking>> {
    let validator = Validator::new(*b"v1");
    let version = RemoteVersion { len: FRAME_SIZE as u64, validator };
    (0..count)
        .map(|n| DistantPage { key: Key::new("far", n.to_le_bytes()), version: version.clone() })
        .map(|object| Arc::new(object) as Arc<dyn AsyncBacking>)
        .collect()
}

/// Opens each backing, and reads its last byte. Returns the files and the bytes that they cost
/// each, with the file itself.
fn opened<B>(backings: Vec<B>, open: impl Fn(B) -> io::Result<File>) -> (Vec<File>, usize) {
    let count = backings.len();
    let mut files = Vec::with_capacity(count);
    let info = measure(|| {
        for backing in backings {
            let file = open(backing).unwrap();
            assert_eq!(file.read_at(&mut [0], FRAME_SIZE as u64 - 1).unwrap(), 1);
            files.push(file);
        }
    });
    let bytes = usize::try_from(info.bytes_current).unwrap_or(0);
    (files, size_of::<File>() + bytes.div_ceil(count))
}

#[test]
fn a_file_that_was_read_costs_at_most_256_bytes() {
    const FILES: usize = 20_000;
    let cache = Cache::builder().capacity(128 * MIB).io_threads(0).build().unwrap();
    let (files, bytes) =
        opened(same(FILES, FRAME_SIZE as u64), |backing| cache.open_backing(backing));
    assert!(bytes <= MOST, "{bytes} bytes for each file");
    assert_eq!(cache.stats().misses, FILES as u64);
    // What the capacity pays is at least what was allocated.
    let counted = cache.file_bytes() / FILES;
    assert!((bytes - size_of::<File>()..=MOST).contains(&counted), "{counted} bytes are counted");
    drop(files);
    cache.quiesce();
    assert_eq!((cache.file_bytes(), cache.index_bytes()), (0, 0));
    assert_nothing_leaked(&cache);
}

#[test]
fn a_distant_object_costs_at_most_256_bytes() {
    const FILES: usize = 20_000;
    let cache = Cache::builder().capacity(128 * MIB).io_threads(0).build().unwrap();
    let (files, bytes) = opened(distant(FILES), |backing| cache.open_async(backing));
    let given = size_of::<Key>() + size_of::<Arc<dyn AsyncBacking>>();
    assert!(bytes - given <= MOST, "{bytes} bytes for each object, {given} of them given");
    let counted = cache.file_bytes() / FILES;
    assert!(counted >= bytes - size_of::<File>(), "{counted} bytes are counted of {bytes}");
    drop(files);
    cache.reclaim(FILES);
    cache.quiesce();
    assert_eq!((cache.file_bytes(), cache.index_bytes()), (0, 0));
    assert_nothing_leaked(&cache);
}

#[test]
fn open_files_are_paid_from_the_capacity() {
    let cache = Cache::builder().capacity(16 * MIB).io_threads(0).build().unwrap();
    let large: File = cache.open_backing(Arc::new(Memory::new(&vec![1; 16 * MIB]))).unwrap();
    large.read_exact_at(&mut vec![0; 12 * MIB], 0).unwrap();
    let mut files = Vec::new();
    let error = (0..).map(|object| Same { object, len: FRAME_SIZE as u64 }).find_map(|backing| {
        match cache.open_backing(Arc::new(backing)) {
            Ok(file) => files.push(file),
            Err(error) => return Some(error),
        }
        None
    });
    // Without a page that is read meanwhile.
    let zone = cache.frames().zone().stats();
    let pages = (zone.online_frames - zone.free_frames) as usize * FRAME_SIZE;
    let all = pages + cache.file_bytes() + cache.index_bytes();
    assert!(all <= 18 * MIB, "{all} bytes, {pages} of pages");
    assert!(files.len() > 16 * MIB * 3 / 4 / MOST, "{} files", files.len());
    let error = error.unwrap();
    assert_eq!(error.kind(), ErrorKind::OutOfMemory);
    let message = format!("no memory for one more open file: {} files have", files.len() + 1);
    assert!(error.to_string().starts_with(&message), "{error}");
    let far = cache.open_async(distant(1).remove(0)).unwrap_err();
    assert_eq!(far.kind(), ErrorKind::OutOfMemory);
    // All of them can be read.
    for (n, file) in files.iter().enumerate() {
        let mut byte = [0];
        assert_eq!(file.read_at(&mut byte, 1).unwrap(), 1);
        assert_eq!(byte, [n as u8]);
    }
    files.truncate(100);
    let more = cache.open_backing(Arc::new(Same { object: u64::MAX, len: 1 })).unwrap();
    assert_eq!(more.read_at(&mut [0], 0).unwrap(), 1);
    drop((files, more, large));
    cache.quiesce();
    assert_eq!((cache.file_bytes(), cache.index_bytes()), (0, 0));
    assert_nothing_leaked(&cache);
}

/// Some opens have a state of their own, and the first reader has none: they behave alike.
#[test]
fn each_open_gets_an_error_once_and_its_clones_share_it() {
    let cache = Cache::builder().capacity(4 * MIB).io_threads(0).build().unwrap();
    let memory = Arc::new(Memory::new(b"old"));
    let read_only = |cache: &Cache| {
        // A backing that cannot be written, of the same file.
        #[derive(Debug)]
        struct ReadOnly(Arc<Memory>);
        impl Backing for ReadOnly {
            fn file_id(&self) -> FileId {
                self.0.file_id()
            }
            fn version(&self) -> io::Result<Version> {
                self.0.version()
            }
            fn fill(&self, offset: u64, buffers: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
                self.0.fill(offset, buffers)
            }
        }
        cache.open_backing(Arc::new(ReadOnly(Arc::clone(&memory)))).unwrap()
    };
    let readers = [read_only(&cache), read_only(&cache), read_only(&cache)];
    let writer = cache.open_backing(memory.clone()).unwrap();
    for reader in &readers {
        assert_eq!(reader.write_at(b"no", 0).unwrap_err().kind(), ErrorKind::PermissionDenied);
        reader.flush().unwrap();
    }
    writer.write_all_at(b"new", 0).unwrap();
    memory.inject(Call::Write, 0, 1, Fault::Error(28));
    assert_eq!(writer.flush().unwrap_err().raw_os_error(), Some(28));
    let code = |file: &File| file.flush().map_err(|error| error.raw_os_error());
    for reader in &readers {
        let clone = reader.clone();
        assert_eq!((code(&clone), code(reader)), (Err(Some(28)), Ok(())));
    }
    assert_eq!((code(&writer), memory.contents()), (Ok(()), b"new".to_vec()));
    // The first reader leaves, and the next takes its place: its errors are those after it came.
    let [first, rest @ ..] = readers;
    drop(first.clone());
    drop(first);
    let next = read_only(&cache);
    assert_eq!(code(&next), Ok(()));
    writer.write_all_at(b"more", 0).unwrap();
    memory.inject(Call::Write, 0, 1, Fault::Error(5));
    assert_eq!(code(&next), Err(Some(5)));
    assert_eq!(rest.each_ref().map(code), [Err(Some(5)); 2]);
    next.close().unwrap();
    drop((rest, writer));
    assert_nothing_leaked(&cache);
}

/// Whatever is opened, resident are the capacity and a constant.
#[test]
fn long_keys_and_validators_are_paid_from_the_capacity() {
    const LONG: usize = 4000;
    let cache = Cache::new(16 * MIB).unwrap();
    let limit = cache.capacity() / 16 * 13;
    let object = |n: u32, name: usize| {
        let key = Key::new("long", [vec![7; name], n.to_le_bytes().to_vec()].concat());
        let distant = Distant::new(&[7; 10]).with_key(key);
        let validator = Validator::new(vec![9; LONG]);
        distant.inject(0, usize::MAX, DistantFault::Validator(validator));
        Arc::new(distant)
    };
    let mut files = Vec::new();
    let error = loop {
        match cache.open_async(object(files.len() as u32, 0)) {
            Ok(file) => files.push(file),
            Err(error) => break error,
        }
        assert_eq!(files[files.len() - 1].read_at(&mut [0; 10], 0).unwrap(), 10);
        assert!(files.len() * LONG <= limit + LONG, "{} files", files.len());
    };
    assert_eq!(error.kind(), ErrorKind::OutOfMemory);
    assert!(files.len() > limit / (LONG + 1000), "{} files", files.len());
    let held = cache.file_bytes();
    files.iter().for_each(File::invalidate);
    assert!(cache.file_bytes() <= held - files.len() * LONG, "the validators are forgotten");
    drop(files);
    // Closed objects leave for those that are opened.
    for n in 0..300 {
        let file = cache.open_async(object(n, 100_000)).unwrap();
        assert_eq!(file.read_at(&mut [0; 10], 0).unwrap(), 10);
        assert!(cache.file_bytes() <= limit + 2 * LONG, "{} bytes", cache.file_bytes());
    }
    let error = cache.open_async(object(0, 14 * MIB)).unwrap_err();
    assert!(error.to_string().contains("it needs 14"), "{error}");
    cache.reclaim(usize::MAX);
    assert_nothing_leaked(&cache);
    assert_eq!(cache.file_bytes(), 0);
}

/// Memory of which each answer for the version waits, once it is known.
#[derive(Debug)]
struct Late {
    memory: Arc<Memory>,
    /// Arrivals, and the gate.
    asked: Mutex<mpsc::Sender<()>>,
    gate: Mutex<()>,
}

impl Backing for Late {
    fn file_id(&self) -> FileId {
        self.memory.file_id()
    }

    fn version(&self) -> io::Result<Version> {
        let version = self.memory.version();
        self.asked.lock().send(()).unwrap();
        drop(self.gate.lock());
        version
    }

    fn fill(&self, offset: u64, buffers: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        self.memory.fill(offset, buffers)
    }
}

/// The version that the second open asks for is older than what the last close of the first writes.
#[test]
fn an_open_beside_the_last_close_sees_what_that_writes() {
    let cache: Cache = Cache::new(8 * MIB).unwrap();
    let memory = Arc::new(Memory::new(b""));
    let first = cache.open_backing(memory.clone()).unwrap();
    first.write_all_at(b"old bytes", 0).unwrap();
    let (sender, asked) = mpsc::channel();
    let late = Late { memory, asked: Mutex::new(sender), gate: Mutex::default() };
    let late = Arc::new(late);
    thread::scope(|scope| {
        let gate = late.gate.lock();
        let second = scope.spawn(|| cache.open_backing(late.clone()).unwrap());
        asked.recv().unwrap();
        drop(first);
        drop(gate);
        let second = second.join().unwrap();
        assert_eq!(second.len(), 9);
        assert_eq!(second.bytes(0, 9).unwrap()[..], *b"old bytes");
    });
}

/// The counters of files are paid from the capacity, and there are none without room.
#[test]
fn the_counters_of_files_have_a_part_of_the_capacity() {
    let cache: Cache = Cache::new(2 * MIB).unwrap();
    let before = cache.file_bytes();
    let open = |object| cache.open_backing(Arc::new(Same { object, len: 1 })).unwrap();
    let files: Vec<_> = (0..1000).map(open).collect();
    for file in &files {
        _ = file.stats();
    }
    let counted = cache.file_bytes() - before;
    assert!((MIB..2 * MIB / 16 * 13).contains(&counted), "{counted} bytes");
    files[0].read_at(&mut [0], 0).unwrap();
    files[999].read_at(&mut [0], 0).unwrap();
    assert_eq!([files[0].stats().misses, files[999].stats().misses], [1, 0]);
    drop(files);
    assert_eq!(cache.file_bytes(), before);
}
