//! Errors that the cache makes itself: a kind, a message, and the number of the system's error.

use std::error::Error;
use std::fmt;
use std::io::{self, ErrorKind};
use std::sync::Arc;

use rustix::io::Errno;

/// An error of the cache, as the source of an [`io::Error`].
#[derive(Clone, Debug)]
struct CacheError {
    number: i32,
    message: String,
}

impl fmt::Display for CacheError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Error for CacheError {}

/// Makes an error of `kind`. Its number is the one that the system has for the kind, if any.
#[cold]
pub(crate) fn error(kind: ErrorKind, message: impl Into<String>) -> io::Error {
    let number = match kind {
        ErrorKind::FileTooLarge => Errno::FBIG,
        ErrorKind::InvalidInput => Errno::INVAL,
        ErrorKind::OutOfMemory => Errno::NOMEM,
        ErrorKind::ResourceBusy => Errno::BUSY,
        ErrorKind::Unsupported => Errno::OPNOTSUPP,
        _ => return io::Error::new(kind, message.into()),
    };
    numbered(kind, number, message)
}

/// Makes an error of `kind` with this number.
#[cold]
pub(crate) fn numbered(kind: ErrorKind, number: Errno, message: impl Into<String>) -> io::Error {
    io::Error::new(kind, CacheError { number: number.raw_os_error(), message: message.into() })
}

/// Makes the same error again, by its number if it has one.
pub(crate) fn copy(error: &io::Error) -> io::Error {
    let own = || error.get_ref()?.downcast_ref::<CacheError>();
    match (error.raw_os_error(), own()) {
        (Some(number), _) => io::Error::from_raw_os_error(number),
        (None, Some(own)) => {
            let CacheError { number, message } = own.clone();
            io::Error::new(error.kind(), CacheError { number, message })
        }
        (None, None) => io::Error::new(error.kind(), error.to_string()),
    }
}

/// An error that several readers get. Its source is that of the backing.
#[derive(Debug)]
struct SharedError(Arc<io::Error>);

impl fmt::Display for SharedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Error for SharedError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.0.get_ref().map(|own| own as &(dyn Error + 'static))
    }
}

/// Makes an error for one of several readers: of the same kind, with the same number if it has one.
/// Its source is the error that the backing made.
pub(crate) fn share(error: &Arc<io::Error>) -> io::Error {
    let own: Option<&(dyn Error + 'static)> = error.get_ref().map(|own| own as _);
    if own.is_none_or(<dyn Error>::is::<CacheError>) {
        copy(error)
    } else {
        io::Error::new(error.kind(), SharedError(Arc::clone(error)))
    }
}

/// Returns the error number of the system for an error, if there is one.
///
/// [`io::Error::raw_os_error`] has a number for errors of system calls only. This function also
/// knows the errors that a cache makes itself, such as `EFBIG` for an offset past 16 TiB or `EBADF`
/// for a write to a file opened for reading. A file system can pass it on.
///
/// # Examples
///
/// ```
/// use folio_cache::Cache;
///
/// # fn main() -> std::io::Result<()> {
/// # let path = tempfile::NamedTempFile::new()?.into_temp_path();
/// let cache = Cache::new(4 << 20)?;
/// let error = cache.open(&path)?.write_at(b"x", 0).unwrap_err();
/// assert_eq!(error.raw_os_error(), None);
/// assert_eq!(folio_cache::raw_os_error(&error), Some(9)); // EBADF
/// # Ok(())
/// # }
/// ```
pub fn raw_os_error(error: &io::Error) -> Option<i32> {
    let own = || Some(error.get_ref()?.downcast_ref::<CacheError>()?.number);
    error.raw_os_error().or_else(own)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_has_the_kind_the_number_and_the_message() {
        for (original, number) in [
            (io::Error::from_raw_os_error(28), Some(28)),
            (error(ErrorKind::FileTooLarge, "an offset"), Some(27)),
            (numbered(ErrorKind::PermissionDenied, Errno::BADF, "a file"), Some(9)),
            (io::Error::other("lost"), None),
        ] {
            let copy = copy(&original);
            assert_eq!((copy.kind(), raw_os_error(&copy)), (original.kind(), number));
            assert_eq!(copy.to_string(), original.to_string());
        }
    }
}
