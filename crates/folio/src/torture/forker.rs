//! The forker: forks while all other threads work. The child reads pages of its parent, tries each
//! call that it must not make, and ends. Then the parent's file must be as if there had been none.

use std::io::{self, ErrorKind};
use std::path::Path;

use folio_bench::scratch::ScratchFolder;
use folio_cache::{Cache, File, OpenOptions};
use folio_ref::Scheme;
use folio_uring::{ChildEnd, in_child};

use super::Stage;
use super::antagonists::pause;
use super::tally::Tally;
use super::writer::{close_and_compare, compare, failed};

/// Length of the forker's file in bytes.
const LENGTH: usize = 1 << 20;

/// Time in seconds after which a child counts as hung.
const LIMIT: u32 = 20;

/// The broken rules that a child can find. It returns the number of one.
const FOUND: [&str; 5] = [
    "",
    "a read in a child returned wrong bytes",
    "a call in a child failed with another error than Unsupported",
    "a child wrote to its parent's file",
    "a child opened a file through its parent's cache",
];

pub(crate) fn fork<S: Scheme>(stage: &Stage<'_, S>, tally: &Tally, mut random: fastrand::Rng) {
    let scratch = match ScratchFolder::new() {
        Ok(scratch) => scratch,
        Err(error) => {
            return stage.broken(tally, &error, || {
                "cannot create a directory for the forker's file".to_owned()
            });
        }
    };
    let path = scratch.path().join("scratch");
    let mut options = OpenOptions::new();
    let file = match options.read(true).write(true).create_new(true).open(&stage.cache, &path) {
        Ok(file) => file,
        Err(error) => {
            let what = || format!("{} cannot be created", path.display());
            return stage.broken(tally, &error, what);
        }
    };
    let mut model = vec![0; LENGTH];
    failed(stage, file.set_len(LENGTH as u64), tally);
    while stage.running() {
        tally.progress.add(1);
        // Dirty pages, some of them cached only here, and pages that antagonists take away.
        for _ in 0..8 {
            let offset = random.usize(..LENGTH - 5000);
            let bytes = vec![random.u8(1..); random.usize(1..5000)];
            failed(
                stage,
                file.write_at(&bytes, offset as u64)
                    .map(|n| model[offset..offset + n].copy_from_slice(&bytes[..n])),
                tally,
            );
        }
        // The model may not know how much was written.
        if stage.problem.get().is_some() {
            return;
        }
        let seed = random.u64(..);
        match in_child(LIMIT, || child(&stage.cache, &file, &path, &model, seed)) {
            Ok(ChildEnd::Returned(0)) => tally.forked.add(1),
            Ok(ChildEnd::Returned(found)) => tally.broken(|| {
                FOUND.get(usize::from(found)).copied().unwrap_or("an unknown rule").to_owned()
            }),
            Ok(end) => tally.broken(|| format!("a forked child ended so: {end:?}")),
            // The system gives no process or no memory for one.
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::OutOfMemory) =>
            {
                tally.busy.add(1);
            }
            Err(error) => stage.broken(tally, &error, || "fork failed".to_owned()),
        }
        if random.u8(..) < 64 {
            match file.flush() {
                Ok(()) => compare(stage, &path, &model, tally),
                error => failed(stage, error, tally),
            }
        }
        pause(40);
    }
    close_and_compare(stage, file, &path, &model, tally);
}

/// Uses a cache in a child process. Returns the number of a broken rule in [`FOUND`], or 0.
fn child<S: Scheme>(cache: &Cache<S>, file: &File<S>, path: &Path, model: &[u8], seed: u64) -> u8 {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut buf = [0; 9000];
    for _ in 0..64 {
        let offset = random.usize(..LENGTH);
        match file.read_at(&mut buf, offset as u64) {
            Ok(n) if model[offset..].starts_with(&buf[..n]) => {}
            Ok(_) => return 1,
            Err(error) if error.kind() == ErrorKind::Unsupported => {}
            Err(_) => return 2,
        }
    }
    let offset = random.u64(..LENGTH as u64);
    let writes: [io::Result<()>; 6] = [
        file.write_at(&[0xEE; 4096], offset).map(drop),
        file.append(&[0xEE]).map(drop),
        file.set_len(offset),
        file.sync_data(),
        cache.flush(),
        // The last close of this process.
        file.clone().close(),
    ];
    for write in writes {
        match write {
            Ok(()) => return 3,
            Err(error) if error.kind() == ErrorKind::Unsupported => {}
            Err(_) => return 2,
        }
    }
    match cache.open(path) {
        Ok(_) => 4,
        Err(error) if error.kind() == ErrorKind::Unsupported => 0,
        Err(_) => 2,
    }
}
