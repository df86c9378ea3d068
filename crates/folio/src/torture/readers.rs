//! The readers: every byte that the cache returns is compared with what `pread` returns.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use folio_cache::{Cache, File, PageHandle};
use folio_frames::FRAME_SIZE;
use folio_ref::Scheme;
use rustix::fs::OFlags;

use super::Stage;
use super::environment;
use super::tally::Tally;

/// Length in bytes of one sequential read through a file.
const WINDOW: u64 = 1 << 20;

/// Number of files that are open at a time. All readers share them, since pages stay cached only
/// while their file is open.
const OPEN: usize = 64;

/// The length of the part of a file that can be cached.
const CACHED: u64 = 1 << 44;

/// A file, opened both through the cache and directly.
struct Opened<S: Scheme> {
    path: PathBuf,
    cached: File<S>,
    plain: fs::File,
    /// Size and times of the file when it was opened.
    version: [i64; 5],
}

impl<S: Scheme> Opened<S> {
    fn open(cache: &Cache<S>, path: &Path) -> Result<Self, Unopened> {
        let (plain, version) = plainly(path)?;
        let cached = cache.open(path);
        let cached = cached.or_else(|error| again(path, &error, || cache.open(path)))?;
        // Another file may have been put at the path between the two opens. This check finds it:
        // the inode number of the first file cannot be reused while the file is open.
        let (ours, now) = (plain.metadata()?, fs::metadata(path)?);
        if (ours.dev(), ours.ino()) != (now.dev(), now.ino()) {
            return Err(io::Error::from(ErrorKind::NotFound).into());
        }
        Ok(Self { path: path.to_owned(), cached, plain, version })
    }

    /// Returns `true` if the file was changed since it was opened. A difference is then not the
    /// cache's fault.
    fn has_changed(&self) -> bool {
        version(&self.plain).map_or(true, |now| now != self.version)
    }

    /// Compares the bytes from the cache with those that `pread` returns now.
    fn check(&self, tally: &Tally, offset: u64, got: &[u8], asked: usize) {
        let mut expected = vec![0; asked];
        let Ok(n) = read_fully(&self.plain, offset, &mut expected) else {
            // The kernel refuses a range that ends past 2^63; the cache returns 0 bytes for it.
            return tally.changed.add(u64::from(!got.is_empty()));
        };
        tally.reads.add(1);
        tally.bytes.add(got.len() as u64);
        if got == &expected[..n] {
            return;
        }
        if self.has_changed() {
            return tally.changed.add(1);
        }
        let differ = got.iter().zip(&expected).filter(|(got, expected)| got != expected).count();
        let wrong = differ + got.len().abs_diff(n);
        tally.wrong_bytes.add(wrong as u64);
        tally.note(|| {
            let mut pairs = got.iter().zip(&expected);
            let at = pairs.position(|(got, expected)| got != expected).unwrap_or(n.min(got.len()));
            format!(
                "{}: {wrong} of {asked} bytes from offset {offset} are wrong, the first at {}: \
                 got {:?} of {} bytes, expected {:?} of {n}",
                self.path.display(),
                offset + at as u64,
                got.get(at),
                got.len(),
                expected[..n].get(at),
            )
        });
    }
}

/// The reason why a file is not read.
#[derive(Debug)]
enum Unopened {
    /// It vanished, or the system or the rules of the cache refuse it.
    Skipped(io::Error),
    /// The cache refuses a file that can be opened.
    ByCacheAlone(io::Error),
}

impl From<io::Error> for Unopened {
    fn from(error: io::Error) -> Self {
        Self::Skipped(error)
    }
}

/// Opens a file without the cache. Returns it with its version.
fn plainly(path: &Path) -> io::Result<(fs::File, [i64; 5])> {
    let plain = open_at_once(path)?;
    let version = version(&plain)?;
    Ok((plain, version))
}

/// Opens a file again that the cache refused with `error`. It may have vanished, or have lost a
/// permission, since it was opened without the cache.
fn again<T>(
    path: &Path,
    error: &io::Error,
    cached: impl Fn() -> io::Result<T>,
) -> Result<T, Unopened> {
    // So a cache refuses a file without a stable size, and any file if all memory is pinned.
    let is_allowed = |error: &io::Error| {
        matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::OutOfMemory)
    };
    if is_allowed(error) {
        return Err(Unopened::Skipped(io::Error::new(error.kind(), error.to_string())));
    }
    let (_before, version) = plainly(path)?;
    let error = match cached() {
        Ok(file) => return Ok(file),
        Err(error) if is_allowed(&error) => return Err(Unopened::Skipped(error)),
        Err(error) => error,
    };
    let (_after, now) = plainly(path)?;
    Err(if now == version { Unopened::ByCacheAlone(error) } else { Unopened::Skipped(error) })
}

/// Opens a file without waiting for a writer, if it has become a FIFO.
pub(super) fn open_at_once(path: &Path) -> io::Result<fs::File> {
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    fs::OpenOptions::new().read(true).custom_flags(flags).open(path)
}

fn version(file: &fs::File) -> io::Result<[i64; 5]> {
    let m = file.metadata()?;
    Ok([m.len().cast_signed(), m.mtime(), m.mtime_nsec(), m.ctime(), m.ctime_nsec()])
}

fn read_fully(file: &fs::File, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
    let mut done = 0;
    while done < buf.len() {
        match file.read_at(&mut buf[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

/// A handle that is kept for a while, and the bytes that it showed at first.
struct Pinned<S: Scheme> {
    handle: PageHandle<S>,
    initial: Vec<u8>,
}

/// The files that are currently open.
pub(crate) struct OpenFiles<S: Scheme>(Vec<Mutex<Option<Arc<Opened<S>>>>>);

impl<S: Scheme> OpenFiles<S> {
    pub(crate) fn new() -> Self {
        Self((0..OPEN).map(|_| Mutex::new(None)).collect())
    }

    /// Returns one of the open files, low numbers more often. Sometimes opens another file in its
    /// place first. Returns `None` if that file cannot be opened.
    fn pick(
        &self,
        stage: &Stage<'_, S>,
        tally: &Tally,
        random: &mut fastrand::Rng,
    ) -> Option<Arc<Opened<S>>> {
        let place = random.usize(..OPEN).min(random.usize(..OPEN));
        let slot = &self.0[place];
        let open = slot.lock().expect("no panic while a file is picked").clone();
        if let Some(open) = open.filter(|open| random.u8(..) > 15 && !open.has_changed()) {
            return Some(open);
        }
        let path = stage.corpus.pick(random);
        let open = match Opened::open(&stage.cache, path) {
            Ok(open) => open,
            Err(error) => {
                unopened(stage, tally, path, error);
                return None;
            }
        };
        tally.opened.add(1);
        let open = Arc::new(open);
        *slot.lock().expect("no panic while a file is picked") = Some(open.clone());
        Some(open)
    }
}

/// Counts a file that is not read.
fn unopened<S: Scheme>(stage: &Stage<'_, S>, tally: &Tally, path: &Path, why: Unopened) {
    let (Unopened::Skipped(error) | Unopened::ByCacheAlone(error)) = &why;
    if let Some(problem) = environment::problem(error) {
        return stage.give_up(problem);
    }
    match why {
        Unopened::Skipped(error) => {
            stage.first_skip.get_or_init(|| format!("{}: {error}", path.display()));
            tally.skipped.add(1);
        }
        Unopened::ByCacheAlone(error) => tally.broken(|| {
            format!("{}: the cache cannot open it, but a plain open can: {error}", path.display())
        }),
    }
}

/// Runs one reader.
pub(crate) fn read<S: Scheme>(stage: &Stage<'_, S>, tally: &Tally, mut random: fastrand::Rng) {
    let mut pinned: Vec<Pinned<S>> = Vec::new();
    let mut buf = vec![0; 64 << 10];
    while stage.running() {
        tally.progress.add(1);
        let Some(open) = stage.open.pick(stage, tally, &mut random) else { continue };
        let len = open.cached.len().max(1);
        match random.u8(..16) {
            0 | 1 => {
                let begin = random.u64(..len) / WINDOW * WINDOW;
                for offset in (begin..len.min(begin + WINDOW)).step_by(buf.len()) {
                    read_once(&open, tally, offset, &mut buf);
                }
            }
            2 => {
                for past in [len, len + 1, len + (1 << 30), i64::MAX as u64, u64::MAX] {
                    read_once(&open, tally, past, &mut buf[..64]);
                }
            }
            3..=5 => {
                pin(&open, tally, random.u64(..len), &mut pinned);
                if pinned.len() > stage.pinned_per_reader {
                    let one = pinned.swap_remove(random.usize(..pinned.len()));
                    if *one.handle != *one.initial {
                        tally.wrong_bytes.add(1);
                        tally
                            .note(|| format!("the bytes under a handle changed: {:?}", one.handle));
                    }
                }
            }
            6..=9 => (0..32)
                .for_each(|_| read_once(&open, tally, random.u64(..len), &mut buf[..FRAME_SIZE])),
            _ => (0..128).for_each(|_| read_once(&open, tally, random.u64(..len), &mut buf[..64])),
        }
    }
}

fn read_once<S: Scheme>(open: &Opened<S>, tally: &Tally, offset: u64, buf: &mut [u8]) {
    let pages = (offset.saturating_add(buf.len() as u64 - 1)) / FRAME_SIZE as u64
        - offset / FRAME_SIZE as u64
        + 1;
    match open.cached.read_at(buf, offset) {
        Ok(n) => {
            tally.lookups.add(if n == 0 { 0 } else { pages });
            if i64::try_from(offset).is_ok() {
                open.check(tally, offset, &buf[..n], buf.len());
            }
        }
        Err(error) => failed(open, tally, offset, &error),
    }
}

fn pin<S: Scheme>(open: &Opened<S>, tally: &Tally, offset: u64, pinned: &mut Vec<Pinned<S>>) {
    tally.lookups.add(1);
    match open.cached.page(offset) {
        Ok(Some(handle)) => {
            open.check(tally, offset, &handle, handle.len());
            pinned.push(Pinned { initial: handle.to_vec(), handle });
        }
        // Past the end for pread as well: the file was truncated, or was empty when opened.
        Ok(None) if read_fully(&open.plain, offset, &mut [0]).is_ok_and(|n| n == 0) => {}
        Ok(None) if open.has_changed() => tally.changed.add(1),
        Ok(None) => tally.broken(|| {
            format!(
                "{}: the cache returned no page for offset {offset}, which is inside the file",
                open.path.display()
            )
        }),
        Err(error) => failed(open, tally, offset, &error),
    }
}

/// Counts an error of the cache. It is accepted if `pread` fails too or if everything is pinned;
/// otherwise it is a broken rule.
fn failed<S: Scheme>(open: &Opened<S>, tally: &Tally, offset: u64, error: &io::Error) {
    if error.kind() == ErrorKind::OutOfMemory {
        tally.busy.add(1);
    } else if i64::try_from(offset).is_err() && error.kind() == ErrorKind::InvalidInput
        || offset >= CACHED && error.kind() == ErrorKind::FileTooLarge
    {
        // The documented errors for such offsets.
    } else if read_fully(&open.plain, offset, &mut [0]).is_err() || open.has_changed() {
        tally.changed.add(1);
    } else {
        tally.broken(|| {
            format!(
                "{}: a read at {offset} failed, but pread does not: {error}",
                open.path.display()
            )
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(kind: ErrorKind) -> io::Error {
        io::Error::new(kind, "the cache refuses it")
    }

    /// Opens a file again of which the cache says that it is not there, as a broken cache would.
    #[test]
    fn a_file_that_only_the_cache_refuses_breaks_a_rule() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let refused = || Err::<(), _>(refusal(ErrorKind::NotFound));
        let opened = again(file.path(), &refusal(ErrorKind::NotFound), refused);
        assert!(matches!(opened, Err(Unopened::ByCacheAlone(_))), "{opened:?}");
        // By chance it was not there when the cache looked.
        assert!(again(file.path(), &refusal(ErrorKind::NotFound), || Ok(())).is_ok());
        let pseudo = again(file.path(), &refusal(ErrorKind::InvalidInput), refused);
        assert!(matches!(pseudo, Err(Unopened::Skipped(_))), "{pseudo:?}");
    }

    #[test]
    fn a_file_that_vanishes_or_changes_meanwhile_is_skipped() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().to_owned();
        let change = || {
            fs::write(&path, "more")?;
            Err::<(), _>(refusal(ErrorKind::NotFound))
        };
        let changed = again(&path, &refusal(ErrorKind::NotFound), change);
        assert!(matches!(changed, Err(Unopened::Skipped(_))), "{changed:?}");
        drop(file);
        let gone = again(&path, &refusal(ErrorKind::NotFound), || Ok(()));
        assert!(matches!(gone, Err(Unopened::Skipped(_))), "{gone:?}");
    }
}
