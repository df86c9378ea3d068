//! Errors on their way from the store through the cache to the caller, which gets them as they
//! were.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::sync::Arc;

use super::object::Refusal;
use super::os::{Error, path::Path};

/// The reason why the cache could not return bytes.
#[derive(Debug)]
pub(super) enum Trouble {
    /// The object has another version than the one that is read.
    Changed,
    /// The store failed.
    Store(Error),
    /// The cache itself failed: it has no memory, or belongs to a parent process.
    Cache(io::Error),
}

/// An error of the store, shared by the readers that wait for one request.
#[derive(Clone, Debug)]
pub(super) struct Failure(Arc<Error>);

/// The answer to a request was of another version.
#[derive(Debug)]
pub(super) struct Changed;

/// The source of an error of the store, shared.
#[derive(Debug)]
struct SharedSource(Arc<Error>);

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self(Arc::new(error))
    }
}

impl From<Failure> for io::Error {
    fn from(failure: Failure) -> Self {
        let kind = match &*failure.0 {
            Error::NotFound { .. } => io::ErrorKind::NotFound,
            Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => {
                io::ErrorKind::PermissionDenied
            }
            _ => io::ErrorKind::Other,
        };
        Self::new(kind, failure)
    }
}

impl From<Refusal> for Trouble {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Changed => Self::Changed,
            Refusal::Store(error) => Self::Store(error),
        }
    }
}

impl From<Changed> for io::Error {
    fn from(changed: Changed) -> Self {
        Self::other(changed)
    }
}

impl From<io::Error> for Trouble {
    /// Looks for the error of the store among the sources.
    fn from(error: io::Error) -> Self {
        let mut source = error.get_ref().map(|inner| inner as &(dyn StdError + 'static));
        while let Some(inner) = source {
            if let Some(Failure(shared)) = inner.downcast_ref() {
                return Self::Store(again(shared));
            }
            if inner.is::<Changed>() {
                return Self::Changed;
            }
            source = match inner.downcast_ref::<io::Error>() {
                Some(io) => io.get_ref().map(|inner| inner as &(dyn StdError + 'static)),
                None => inner.source(),
            };
        }
        Self::Cache(error)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl StdError for Failure {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(&*self.0)
    }
}

impl fmt::Display for Changed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the object changed while it was read")
    }
}

impl StdError for Changed {}

impl fmt::Display for SharedSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.source() {
            Some(source) => fmt::Display::fmt(source, f),
            None => fmt::Display::fmt(&self.0, f),
        }
    }
}

impl StdError for SharedSource {
    /// Returns the source itself, so that it can be downcast to the store's type.
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source()
    }
}

/// Returns an error of the same variant, with the same fields and sources.
pub(super) fn again(error: &Arc<Error>) -> Error {
    let source = Box::new(SharedSource(Arc::clone(error)));
    match &**error {
        Error::Generic { store, .. } => Error::Generic { store, source },
        Error::NotFound { path, .. } => Error::NotFound { path: path.clone(), source },
        Error::NotSupported { .. } => Error::NotSupported { source },
        Error::AlreadyExists { path, .. } => Error::AlreadyExists { path: path.clone(), source },
        Error::Precondition { path, .. } => Error::Precondition { path: path.clone(), source },
        Error::NotModified { path, .. } => Error::NotModified { path: path.clone(), source },
        Error::NotImplemented { operation, implementer } => {
            Error::NotImplemented { operation: operation.clone(), implementer: implementer.clone() }
        }
        Error::PermissionDenied { path, .. } => {
            Error::PermissionDenied { path: path.clone(), source }
        }
        Error::Unauthenticated { path, .. } => {
            Error::Unauthenticated { path: path.clone(), source }
        }
        Error::UnknownConfigurationKey { store, key } => {
            Error::UnknownConfigurationKey { store, key: key.clone() }
        }
        // Those that cannot be made again: a failed task of tokio, an invalid path.
        _ => Error::Generic { store: "object_store", source },
    }
}

/// Returns `true` if the store refused a write with this error, so that nothing has changed.
pub(super) fn is_refusal(error: &Error) -> bool {
    matches!(
        error,
        Error::NotFound { .. }
            | Error::AlreadyExists { .. }
            | Error::Precondition { .. }
            | Error::NotModified { .. }
            | Error::NotSupported { .. }
            | Error::NotImplemented { .. }
            | Error::InvalidPath { .. }
            | Error::PermissionDenied { .. }
            | Error::Unauthenticated { .. }
    )
}

/// Returns the error of a reader after a change of its object.
pub(super) fn changed(path: &Path) -> Error {
    Error::Precondition { path: path.to_string(), source: Box::new(Changed) }
}

/// Returns an error that the cached store itself has found.
pub(super) fn own(message: String) -> Error {
    Error::Generic { store: "CachedStore", source: message.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passed(error: Error) -> Error {
        // Through the core, which shares an error among its waiters.
        let shared = io::Error::other(io::Error::from(Failure::from(error)));
        match Trouble::from(shared) {
            Trouble::Store(error) => error,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn variants_and_texts_pass_through_the_cache() {
        type Make = fn(String, Box<dyn StdError + Send + Sync>) -> Error;
        let (path, source) = (|| "a/b".to_owned(), || "why".into());
        let errors: [Make; 9] = [
            |_, source| Error::Generic { store: "S3", source },
            |path, source| Error::NotFound { path, source },
            |_, source| Error::NotSupported { source },
            |path, source| Error::AlreadyExists { path, source },
            |path, source| Error::Precondition { path, source },
            |path, source| Error::NotModified { path, source },
            |path, source| Error::PermissionDenied { path, source },
            |path, source| Error::Unauthenticated { path, source },
            |path, _| Error::NotImplemented { operation: path, implementer: "x".into() },
        ];
        for make in errors {
            let (before, after) = (make(path(), source()), passed(make(path(), source())));
            assert_eq!(std::mem::discriminant(&before), std::mem::discriminant(&after));
            assert_eq!(before.to_string(), after.to_string());
        }
    }

    #[test]
    fn sources_can_be_downcast_to_the_types_of_the_store() {
        let source = Box::new(io::Error::from(io::ErrorKind::TimedOut));
        let error = passed(Error::Generic { store: "S3", source });
        let mut sources = std::iter::successors(error.source(), |error| (*error).source());
        let timed_out = sources.find_map(|source| source.downcast_ref::<io::Error>());
        assert_eq!(timed_out.map(io::Error::kind), Some(io::ErrorKind::TimedOut));
    }

    #[test]
    fn errors_of_the_cache_are_told_apart() {
        let error = io::Error::from(io::ErrorKind::OutOfMemory);
        assert!(matches!(Trouble::from(error), Trouble::Cache(_)));
        assert!(matches!(Trouble::from(io::Error::from(Changed)), Trouble::Changed));
    }
}
