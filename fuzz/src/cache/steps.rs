//! The steps that a fuzzer combines, and what each must come to.

use arbitrary::Arbitrary;
use folio_cache::{Cache, File, PageHandle};
use folio_frames::{Offline, Pfn, UserSpace};

use crate::files::{LARGE, MOST, Plain, folder, large_byte};
use crate::written::{Change, Written};

const CAPACITY: usize = 4 << 20;
const FRAMES: u64 = CAPACITY as u64 / 4096;

/// What a fuzzer may do next. Numbers are taken modulo what there is.
#[derive(Arbitrary, Debug)]
pub(crate) enum Step {
    Read {
        file: bool,
        offset: u32,
        len: u16,
    },
    /// A handle, which is kept.
    Page {
        file: bool,
        offset: u32,
    },
    DropHandle {
        which: u8,
    },
    /// Many pages, so that reclaim has to choose.
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
    /// Moves the first page of a kind that is cached from this frame on.
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
    /// The file becomes longer behind the cache's back: reads find out by themselves.
    Grow {
        file: bool,
        by: u16,
    },
    Stretch {
        file: bool,
        by: u16,
    },
    /// It becomes shorter, and somebody says so.
    Cut {
        file: bool,
        to: u32,
    },
    /// It is rewritten in place, and somebody says so.
    Rewrite {
        file: bool,
        at: u32,
        len: u16,
    },
    Reopen {
        file: bool,
    },
    /// What is done to the file that is written through the cache.
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

/// Does the steps one after the other, compares every byte, and looks for what leaked at the end.
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
        world.read(file, 0, MOST + 1);
    }
    world.written.end();
    let World { cache, large, files, written, handles, offline, .. } = world;
    drop((large, files, written, handles));
    if let Some(offline) = offline {
        cache.online(offline);
    }
    // The flusher may have a file in its hands, and be the one who closes it.
    for _ in 0..5000 {
        let stats = cache.zone().stats();
        if stats.free_frames == stats.online_frames {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    panic!("pages leaked: {:?}", cache.zone());
}

impl World {
    fn read(&mut self, file: usize, offset: usize, len: usize) {
        let mut buf = vec![0xee; len];
        let n = self.files[file].read_at(offset as u64, &mut buf).expect("it can be read");
        let contents = &self.plain[file].contents;
        let expected = contents.get(offset..contents.len().min(offset + len)).unwrap_or_default();
        assert!(
            buf[..n] == *expected,
            "{n} bytes at {offset} of {} that are not the file's",
            expected.len()
        );
        assert!(buf[n..].iter().all(|&byte| byte == 0xee), "written past the end");
    }

    fn step(&mut self, step: &Step) {
        let at = |offset: u32| offset as usize % (MOST + 4096);
        let first = self.cache.zone().pfns().start.as_u64();
        match *step {
            Step::Read { file, offset, len } => {
                self.read(file.into(), at(offset), usize::from(len) % 9000)
            }
            Step::Page { file, offset } => {
                let (file, offset) = (usize::from(file), at(offset));
                let handle = self.files[file].page(offset as u64).expect("it can be read");
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
                        .read_at(page * 4096 + page % 4093, &mut buf)
                        .expect("it can be read");
                    assert_eq!(buf, [large_byte(page); 3], "page {page} of the large file");
                }
            }
            Step::Reclaim { frames } => {
                self.cache.reclaim(frames.into());
            }
            Step::Migrate { frame } => {
                // What there is to move, and whether it can, is not for us to say; what is read
                // afterwards is.
                let _ = self.cache.migrate(Pfn::new(first + u64::from(frame) % FRAMES));
            }
            Step::MigrateNext { from } => {
                let frames =
                    (u64::from(from)..).take(FRAMES as usize).map(|n| Pfn::new(first + n % FRAMES));
                for pfn in frames {
                    if self.cache.migrate(pfn).is_ok() {
                        break;
                    }
                }
            }
            Step::Offline { block } => {
                // One at a time: without any frame a read has to fail.
                if self.offline.is_none() {
                    self.offline = self.cache.offline(block.into()).ok();
                }
            }
            Step::Online => {
                if let Some(offline) = self.offline.take() {
                    self.cache.online(offline);
                }
            }
            Step::Revalidate { file } => {
                self.files[usize::from(file)].revalidate().expect("it can be looked at");
            }
            Step::Invalidate { file } => self.files[usize::from(file)].invalidate(),
            Step::Grow { file, by } => self.plain[usize::from(file)].grow(usize::from(by) % 9000),
            Step::Stretch { file, by } => {
                self.plain[usize::from(file)].stretch(usize::from(by) % 9000)
            }
            Step::Cut { file, to } => {
                let file = usize::from(file);
                let (before, to) = (self.plain[file].contents.len(), at(to));
                self.plain[file].cut(to);
                let changed = self.files[file].revalidate().expect("it can be looked at");
                assert!(changed || to >= before, "a cut that nobody noticed");
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
