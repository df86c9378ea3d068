//! The writer: a file of its own is written, cut, punched and synced through the cache, beside a
//! plain copy in memory.
//!
//! It never touches the files that are read: it works on a copy of one of them, in a new directory
//! for temporary files, which goes with it.

use std::fs;
use std::io::{self, ErrorKind, Read as _};
use std::path::Path;

use folio_cache::File;
use folio_ref::Scheme;

use super::Stage;
use super::antagonists::pause;
use super::tally::Tally;

/// The file is up to so long.
const LONGEST: usize = 6 << 20;

pub(crate) fn write<S: Scheme>(stage: &Stage<'_, S>, tally: &Tally, mut random: fastrand::Rng) {
    let scratch = match tempfile::tempdir() {
        Ok(scratch) => scratch,
        Err(error) => {
            return tally.broken(|| format!("no directory for the writer's file: {error}"));
        }
    };
    let path = scratch.path().join("scratch");
    let mut model = beginning(stage.corpus.pick(&mut random)).unwrap_or_default();
    let opened = fs::write(&path, &model).and_then(|()| stage.cache.create(&path));
    let mut file = match opened {
        Ok(file) => file,
        Err(error) => {
            return tally.broken(|| format!("{} can not be opened: {error}", path.display()));
        }
    };
    while stage.running() {
        tally.progress.add(1);
        for _ in 0..16 {
            step(&file, &path, &mut model, tally, &mut random);
        }
        if random.u8(..) < 16 {
            // The last close writes what is dirty.
            drop(file);
            compare(&path, &model, tally);
            file = match stage.cache.create(&path) {
                Ok(file) => file,
                Err(error) => {
                    return tally
                        .broken(|| format!("{} can not be opened again: {error}", path.display()));
                }
            };
        }
        pause(2);
    }
    if let Err(error) = file.close() {
        tally.broken(|| format!("closing the writer's file: {error}"));
    }
    compare(&path, &model, tally);
}

/// No more of a file than the writer's may have: of the rest there may be more than there is
/// memory.
fn beginning(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(LONGEST as u64).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn step<S: Scheme>(
    file: &File<S>,
    path: &Path,
    model: &mut Vec<u8>,
    tally: &Tally,
    random: &mut fastrand::Rng,
) {
    let offset = random.usize(..LONGEST);
    let offset = if random.bool() { offset } else { offset % (model.len() + 1) };
    let len = random.usize(..20_000).min(LONGEST - offset);
    let done = match random.u8(..32) {
        0 => file.set_len(offset as u64).map(|()| model.resize(offset, 0)),
        1 => match file.punch_hole(offset as u64, len as u64) {
            Ok(()) => {
                let end = model.len().min(offset + len);
                model.get_mut(offset..end).into_iter().flatten().for_each(|byte| *byte = 0);
                Ok(())
            }
            // Half of it may be done: the file says what is.
            Err(error) => file.flush().and_then(|()| fs::read(path)).and_then(|now| {
                *model = now;
                Err(error)
            }),
        },
        2 => file.sync_data().map(|()| tally.synced.add(1)),
        3 => {
            file.invalidate();
            file.revalidate().map(|changed| {
                if changed {
                    tally.broken(|| "the writer's own writes look like somebody else's".to_owned());
                }
            })
        }
        4..=17 => {
            let bytes: Vec<u8> = (0..len).map(|_| random.u8(..)).collect();
            file.write_at(offset as u64, &bytes).map(|n| {
                tally.written.add(n as u64);
                if n > 0 {
                    model.resize(model.len().max(offset + n), 0);
                    model[offset..offset + n].copy_from_slice(&bytes[..n]);
                }
            })
        }
        _ => {
            let mut buf = vec![0; len];
            file.read_at(offset as u64, &mut buf).map(|n| {
                let expected = model.get(offset..model.len().min(offset + len)).unwrap_or_default();
                // Fewer where handles pin the rest of the cache.
                if buf[..n] != expected[..n.min(expected.len())] {
                    tally.wrong_bytes.add(1);
                    tally.note(|| format!("the writer reads at {offset} what it did not write"));
                }
            })
        }
    };
    failed(done, tally);
}

/// An error is fine where everything is pinned.
fn failed(done: io::Result<()>, tally: &Tally) {
    match done {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::OutOfMemory => tally.busy.add(1),
        Err(error) => tally.broken(|| format!("the writer: {error}")),
    }
}

/// The file, as the system has it, is what was written.
fn compare(path: &Path, model: &[u8], tally: &Tally) {
    if fs::read(path).ok().as_deref() != Some(model) {
        tally.wrong_bytes.add(1);
        tally.note(|| "the writer's file is not what was written".to_owned());
    }
}
