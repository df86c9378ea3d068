//! The writer: writes, truncates, punches and syncs its own file through the cache, and compares it
//! with a plain copy in memory.
//!
//! It never touches the files of the readers. It works on a copy of one of them in a new temporary
//! directory, which is removed at the end.

use std::fs;
use std::io::{self, ErrorKind, Read as _};
use std::path::Path;

use folio_bench::scratch::ScratchFolder;
use folio_cache::{Cache, File, OpenOptions};
use folio_ref::Scheme;

use super::Stage;
use super::antagonists::pause;
use super::readers::open_at_once;
use super::tally::Tally;

/// Maximum length of the writer's file in bytes.
const LONGEST: usize = 6 << 20;

fn open<S: Scheme>(cache: &Cache<S>, path: &Path) -> io::Result<File<S>> {
    OpenOptions::new().read(true).write(true).open(cache, path)
}

pub(crate) fn write<S: Scheme>(stage: &Stage<'_, S>, tally: &Tally, mut random: fastrand::Rng) {
    let scratch = match ScratchFolder::new() {
        Ok(scratch) => scratch,
        Err(error) => {
            return stage.broken(tally, &error, || {
                "cannot create a directory for the writer's file".to_owned()
            });
        }
    };
    let path = scratch.path().join("scratch");
    let mut model = beginning(stage.corpus.pick(&mut random)).unwrap_or_default();
    let opened = fs::write(&path, &model).and_then(|()| open(&stage.cache, &path));
    let mut file = match opened {
        Ok(file) => file,
        Err(error) => {
            let what = || format!("{} cannot be opened", path.display());
            return stage.broken(tally, &error, what);
        }
    };
    while stage.running() {
        tally.progress.add(1);
        for _ in 0..16 {
            if let Err(error) = step(&file, &path, &mut model, tally, &mut random) {
                failed(stage, Err(error), tally);
            }
            // The model may not know how much of the last step was done.
            if stage.problem.get().is_some() {
                return;
            }
        }
        if random.u8(..) < 16 {
            // The last close writes the dirty pages.
            if !close_and_compare(stage, file, &path, &model, tally) {
                return;
            }
            file = match open(&stage.cache, &path) {
                Ok(file) => file,
                Err(error) => {
                    let what = || format!("{} cannot be opened again", path.display());
                    return stage.broken(tally, &error, what);
                }
            };
        }
        pause(2);
    }
    close_and_compare(stage, file, &path, &model, tally);
}

/// Closes the file and compares it. Returns `false` if it cannot be written: then that is a broken
/// rule, and no byte is wrong.
pub(super) fn close_and_compare<S: Scheme>(
    stage: &Stage<'_, S>,
    file: File<S>,
    path: &Path,
    model: &[u8],
    tally: &Tally,
) -> bool {
    let closed = file.close();
    match &closed {
        Ok(()) => compare(stage, path, model, tally),
        Err(error) => {
            stage.broken(tally, error, || format!("closing {} failed", path.display()));
        }
    }
    closed.is_ok()
}

/// Returns the first [`LONGEST`] bytes of a file. The whole file may exceed the memory.
fn beginning(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open_at_once(path)?.take(LONGEST as u64).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn step<S: Scheme>(
    file: &File<S>,
    path: &Path,
    model: &mut Vec<u8>,
    tally: &Tally,
    random: &mut fastrand::Rng,
) -> io::Result<()> {
    let offset = random.usize(..LONGEST);
    let offset = if random.bool() { offset } else { offset % (model.len() + 1) };
    let len = random.usize(..20_000).min(LONGEST - offset);
    match random.u8(..32) {
        0 => file.set_len(offset as u64).map(|()| model.resize(offset, 0)),
        1 => match file.punch_hole(offset as u64, len as u64) {
            Ok(()) => {
                let end = model.len().min(offset + len);
                model.get_mut(offset..end).into_iter().flatten().for_each(|byte| *byte = 0);
                Ok(())
            }
            // A part of the hole may be done: the file shows how much.
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
                    tally.broken(|| {
                        "revalidate reports the writer's own writes as a foreign change".to_owned()
                    });
                }
            })
        }
        4..=17 => {
            let bytes: Vec<u8> = (0..len).map(|_| random.u8(..)).collect();
            file.write_at(&bytes, offset as u64).map(|n| {
                tally.written.add(n as u64);
                if n > 0 {
                    model.resize(model.len().max(offset + n), 0);
                    model[offset..offset + n].copy_from_slice(&bytes[..n]);
                }
            })
        }
        _ => {
            let mut buf = vec![0; len];
            file.read_at(&mut buf, offset as u64).map(|n| {
                let expected = model.get(offset..model.len().min(offset + len)).unwrap_or_default();
                // Fewer bytes are allowed while handles pin the rest of the cache.
                if buf[..n] != expected[..n.min(expected.len())] {
                    tally.wrong_bytes.add(1);
                    tally.note(|| {
                        format!("the writer read bytes at {offset} that it did not write")
                    });
                }
            })
        }
    }
}

/// Counts an error. It is accepted if everything is pinned; otherwise it is a broken rule.
pub(super) fn failed<S: Scheme>(stage: &Stage<'_, S>, done: io::Result<()>, tally: &Tally) {
    match done {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::OutOfMemory => tally.busy.add(1),
        Err(error) => {
            stage.broken(tally, &error, || "an operation on an own file failed".to_owned());
        }
    }
}

/// Checks that the file on disk has the contents that were written.
pub(super) fn compare<S: Scheme>(stage: &Stage<'_, S>, path: &Path, model: &[u8], tally: &Tally) {
    // How much of the last write was done is not known then.
    if stage.problem.get().is_some() {
        return;
    }
    match fs::read(path) {
        Ok(bytes) if bytes == model => {}
        Ok(_) => {
            tally.wrong_bytes.add(1);
            tally.note(|| "a file on disk differs from what was written".to_owned());
        }
        // Not compared, and so not wrong.
        Err(error) => {
            stage.broken(tally, &error, || format!("{} cannot be compared", path.display()));
        }
    }
}
