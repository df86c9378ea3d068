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

/// An error of a backing that several callers get. Its source is the backing's own error.
#[derive(Clone, Debug)]
struct SharedError(Arc<dyn Error + Send + Sync>);

impl fmt::Display for SharedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Error for SharedError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&*self.0)
    }
}

/// Returns an error of which [`copy`] makes copies that keep the backing's own error as their
/// source.
#[cold]
pub(crate) fn share(error: io::Error) -> io::Error {
    let is_shared = |error: &(dyn Error + Send + Sync + 'static)| {
        error.is::<SharedError>() || error.is::<CacheError>()
    };
    if error.get_ref().is_none_or(is_shared) {
        return error;
    }
    let kind = error.kind();
    match error.into_inner() {
        Some(own) => io::Error::new(kind, SharedError(Arc::from(own))),
        None => kind.into(),
    }
}

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

/// Makes the same error again, by its number if it has one. The copy of an error that was not
/// [shared](share) has its message only.
pub(crate) fn copy(error: &io::Error) -> io::Error {
    let own = || error.get_ref()?.downcast_ref::<CacheError>();
    let shared = || error.get_ref()?.downcast_ref::<SharedError>();
    if let Some(shared) = shared() {
        return io::Error::new(error.kind(), shared.clone());
    }
    match (error.raw_os_error(), own()) {
        (Some(number), _) => io::Error::from_raw_os_error(number),
        (None, Some(own)) => {
            let CacheError { number, message } = own.clone();
            io::Error::new(error.kind(), CacheError { number, message })
        }
        (None, None) => io::Error::new(error.kind(), error.to_string()),
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
            (error(ErrorKind::ResourceBusy, "pages"), Some(16)),
            (error(ErrorKind::Unsupported, "a child"), Some(95)),
            (numbered(ErrorKind::PermissionDenied, Errno::BADF, "a file"), Some(9)),
            (io::Error::other("lost"), None),
        ] {
            let copy = copy(&original);
            assert_eq!((copy.kind(), raw_os_error(&copy)), (original.kind(), number));
            assert_eq!(copy.to_string(), original.to_string());
        }
    }

    #[test]
    fn copies_of_a_shared_error_have_the_same_source() {
        #[derive(Debug)]
        struct Status(u16);
        impl fmt::Display for Status {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "status {}", self.0)
            }
        }
        impl Error for Status {}
        let shared = share(io::Error::new(ErrorKind::TimedOut, Status(503)));
        for error in [copy(&copy(&shared)), share(copy(&shared)), shared] {
            let status = Error::source(&error).and_then(|source| source.downcast_ref::<Status>());
            assert_eq!(
                (error.kind(), status.map(|status| status.0)),
                (ErrorKind::TimedOut, Some(503))
            );
            assert_eq!(error.to_string(), "status 503");
        }
        for (error, number) in [
            (io::Error::from_raw_os_error(5), Some(5)),
            (ErrorKind::NotFound.into(), None),
            (numbered(ErrorKind::PermissionDenied, Errno::BADF, "a file"), Some(9)),
        ] {
            let text = error.to_string();
            let shared = share(error);
            assert_eq!((raw_os_error(&shared), shared.to_string()), (number, text));
        }
    }
}
