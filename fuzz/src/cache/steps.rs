//! The steps that the fuzzer combines, and the expected result of each.

use arbitrary::Arbitrary;
use folio_cache::{Cache, File, PageHandle};
use folio_frames::{Offline, Pfn, UserSpace};

use crate::files::{LARGE, MAX_LEN, Plain, folder, large_byte};
use crate::written::{Change, Written};

const CAPACITY: usize = 4 << 20;
const FRAMES: u64 = CAPACITY as u64 / 4096;

/// A step of the fuzzer. Numbers are taken modulo the number of choices.
#[derive(Arbitrary, Debug)]
pub(crate) enum Step {
    Read {
        file: bool,
        offset: u32,
        len: u16,
    },
    /// Takes a handle and keeps it.
    Page {
        file: bool,
        offset: u32,
    },
    DropHandle {
        which: u8,
    },
    /// Reads many pages, so that reclaim has to choose victims.
    Sweep {
        from: u16,
        pages: u16,
    },
    Reclaim {
        frames: u8,
    },
    Migrate {
        frame: u16,
    },
    /// Migrates the first page that can be migrated from this frame on.
    MigrateNext {
        from: u16,
    },
    Offline {
        block: bool,
    },
    Online,
    Revalidate {
        file: bool,
    },
    Invalidate {
        file: bool,
    },
    /// Appends to the file without the cache. Reads notice it by themselves.
    Grow {
        file: bool,
        by: u16,
    },
    /// Extends the file by a hole without the cache.
    Extend {
        file: bool,
        by: u16,
    },
    /// Truncates the file without the cache, then revalidates.
    Truncate {
        file: bool,
        to: u32,
    },
    /// Rewrites the file in place without the cache, then invalidates.
    Rewrite {
        file: bool,
        at: u32,
        len: u16,
    },
    Reopen {
        file: bool,
    },
    /// A change of the file that is written through the cache.
    Written(Change),
}

struct World {
    cache: Cache,
    large: File,
    plain: [Plain; 2],
    files: [File; 2],
    written: Written,
    handles: Vec<(PageHandle, Vec<u8>)>,
    offline: Option<Offline<UserSpace>>,
}

/// Runs the steps in order, compares every byte, and checks at the end that no frame leaked.
pub(crate) fn run(steps: &[Step]) {
    let cache = Cache::new(CAPACITY).expect("memory");
    let plain = [Plain::new("one"), Plain::new("two")];
    let open = |plain: &Plain| cache.open(&plain.path).expect("a file");
    let files = [open(&plain[0]), open(&plain[1])];
    let large = cache.open(folder().join("large")).expect("the large file");
    let written = Written::new(&cache);
    let mut world =
        World { cache, large, plain, files, written, handles: Vec::new(), offline: None };
    for step in steps {
        world.step(step);
        for (handle, expected) in &world.handles {
            assert!(**handle == **expected, "a handle's bytes changed");
        }
    }
    for file in 0..2 {
        world.read(file, 0, MAX_LEN + 1);
    }
    world.written.end();
    let World { cache, large, files, written, handles, offline, .. } = world;
    drop((large, files, written, handles));
    if let Some(offline) = offline {
        cache.frames().online(offline);
    }
    // The flusher may still use a file, and may be the one to close it.
    for _ in 0..5000 {
        let stats = cache.frames().zone().stats();
        if stats.free_frames == stats.online_frames {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    panic!("pages leaked: {:?}", cache.frames().zone());
}

impl World {
    fn read(&mut self, file: usize, offset: usize, len: usize) {
        let mut buf = vec![0xee; len];
        let n = self.files[file].read_at(&mut buf, offset as u64).expect("the read succeeds");
        let contents = &self.plain[file].contents;
        let expected = contents.get(offset..contents.len().min(offset + len)).unwrap_or_default();
        assert!(
            buf[..n] == *expected,
            "{n} bytes at {offset} differ from the {} bytes of the file",
            expected.len()
        );
        assert!(buf[n..].iter().all(|&byte| byte == 0xee), "written past the end");
    }

    fn step(&mut self, step: &Step) {
        let at = |offset: u32| offset as usize % (MAX_LEN + 4096);
        let first = self.cache.frames().zone().pfns().start.as_u64();
        match *step {
            Step::Read { file, offset, len } => {
                self.read(file.into(), at(offset), usize::from(len) % 9000)
            }
            Step::Page { file, offset } => {
                let (file, offset) = (usize::from(file), at(offset));
                let handle = self.files[file].page(offset as u64).expect("the read succeeds");
                let contents = &self.plain[file].contents;
                let end = contents.len().min((offset / 4096 + 1) * 4096);
                let expected = contents.get(offset..end).filter(|bytes| !bytes.is_empty());
                assert!(handle.as_deref() == expected, "the page at {offset}");
                if let (Some(handle), Some(expected)) = (handle, expected) {
                    self.handles.push((handle, expected.to_vec()));
                }
            }
            Step::DropHandle { which } => {
                if !self.handles.is_empty() {
                    self.handles.swap_remove(usize::from(which) % self.handles.len());
                }
            }
            Step::Sweep { from, pages } => {
                for page in (u64::from(from)..).take(usize::from(pages) % 1200) {
                    let page = page % LARGE;
                    let mut buf = [0; 3];
                    self.large
                        .read_at(&mut buf, page * 4096 + page % 4093)
                        .expect("the read succeeds");
                    assert_eq!(buf, [large_byte(page); 3], "page {page} of the large file");
                }
            }
            Step::Reclaim { frames } => {
                self.cache.reclaim(frames.into());
            }
            Step::Migrate { frame } => {
                // Any result is allowed. The later reads check the contents.
                let _ = self.cache.frames().migrate(Pfn::new(first + u64::from(frame) % FRAMES));
            }
            Step::MigrateNext { from } => {
                let frames =
                    (u64::from(from)..).take(FRAMES as usize).map(|n| Pfn::new(first + n % FRAMES));
                for pfn in frames {
                    if self.cache.frames().migrate(pfn).is_ok() {
                        break;
                    }
                }
            }
            Step::Offline { block } => {
                // At most one block at a time: without any frame a read would have to fail.
                if self.offline.is_none() {
                    self.offline = self.cache.frames().offline(block.into()).ok();
                }
            }
            Step::Online => {
                if let Some(offline) = self.offline.take() {
                    self.cache.frames().online(offline);
                }
            }
            Step::Revalidate { file } => {
                self.files[usize::from(file)].revalidate().expect("the revalidation succeeds");
            }
            Step::Invalidate { file } => self.files[usize::from(file)].invalidate(),
            Step::Grow { file, by } => self.plain[usize::from(file)].grow(usize::from(by) % 9000),
            Step::Extend { file, by } => {
                self.plain[usize::from(file)].extend(usize::from(by) % 9000)
            }
            Step::Truncate { file, to } => {
                let file = usize::from(file);
                let (before, to) = (self.plain[file].contents.len(), at(to));
                self.plain[file].truncate(to);
                let changed = self.files[file].revalidate().expect("the revalidation succeeds");
                assert!(changed || to >= before, "revalidate missed a truncation");
            }
            Step::Rewrite { file, at: offset, len } => {
                let file = usize::from(file);
                self.plain[file].rewrite(at(offset), usize::from(len) % 9000);
                self.files[file].invalidate();
            }
            Step::Reopen { file } => {
                let file = usize::from(file);
                self.files[file] = self.cache.open(&self.plain[file].path).expect("a file");
            }
            Step::Written(ref change) => {
                let cache = &self.cache;
                self.handles.extend(self.written.change(cache, change));
            }
        }
    }
}
