//! The version of a distant object: learned from the first answer, compared with each further one.
//!
//! `truncate_seq` counts its changes too: before the pages of the old version leave, after that,
//! and after the new length is stored. A reader of several pages that finds it unchanged at its end
//! has seen one version.

use std::io;
use std::sync::Weak;

use folio_ref::{Scheme, broken};
use rustix::io::Errno;

use crate::backing::error::numbered;
use crate::backing::remote::{OnChange, RemoteVersion};
use crate::coherence::drop_pages;
use crate::coherence::refresh;
use crate::rt::flight::Flight;
use crate::rt::shim::MutexGuard;
use crate::state::mapping::Mapping;
use crate::state::remote::{Outcome, Remote};

/// The right to change the version of a distant object, and to publish its pages.
pub(crate) struct VersionLock<'m, S: Scheme> {
    mapping: &'m Mapping<S>,
    remote: &'m Remote<S>,
    length: Option<MutexGuard<'m, ()>>,
    /// Requests for the old version.
    orphans: Vec<Weak<Flight<Outcome<S>>>>,
}

impl<S: Scheme> Drop for VersionLock<'_, S> {
    fn drop(&mut self) {
        // Without the lock: what is cancelled drops a future of the backing.
        self.length = None;
        // No caller waits for what was read ahead of the old version.
        let orphans = self.orphans.iter().filter_map(Weak::upgrade);
        orphans.for_each(|flight| flight.cancel_detached());
    }
}

/// Takes the lock. No version changes, and no page is published, while it is held. Call with no
/// page locked.
pub(crate) fn lock<'m, S: Scheme>(
    mapping: &'m Mapping<S>,
    remote: &'m Remote<S>,
) -> VersionLock<'m, S> {
    VersionLock { mapping, remote, length: Some(mapping.length.lock()), orphans: Vec::new() }
}

impl<S: Scheme> VersionLock<'_, S> {
    /// Returns the number of changes and invalidations so far. None is in progress.
    pub(crate) fn epoch(&self) -> u64 {
        self.mapping.truncate_seq()
    }

    /// Takes a version that the store reported. If another one was known, its pages leave.
    ///
    /// # Errors
    ///
    /// `StaleNetworkFileHandle` if another version was known and the backing wants that to fail.
    pub(crate) fn agree(
        &mut self,
        reported: &RemoteVersion,
        on_change: OnChange,
    ) -> io::Result<()> {
        let known = self.mapping.known_version();
        match known {
            Some(known) if known == *reported => Ok(()),
            Some(known) if on_change == OnChange::Fail => Err(stale(self.remote, &known, reported)),
            Some(_) => {
                self.replace(Some(reported));
                Ok(())
            }
            None => {
                self.mapping.set_version(self.remote, reported);
                Ok(())
            }
        }
    }

    /// Takes the version that the answer of a request tells. The request was made in an epoch, and
    /// the version was known then or not. Returns `false` if the answer may be older than what is
    /// known now: then nothing changes.
    ///
    /// # Errors
    ///
    /// `StaleNetworkFileHandle` if another version was known and the backing wants that to fail.
    pub(crate) fn agree_with(
        &mut self,
        is_versioned: bool,
        epoch: u64,
        reported: &RemoteVersion,
        on_change: OnChange,
    ) -> io::Result<bool> {
        if self.mapping.truncate_seq() != epoch && !broken!("stale-publish") {
            return Ok(false);
        }
        // The version became known while it was in flight.
        if !is_versioned
            && on_change != OnChange::Fail
            && self.mapping.known_version().is_some_and(|known| known != *reported)
            && !broken!("order-unknown")
        {
            return Ok(false);
        }
        self.agree(reported, on_change)?;
        Ok(true)
    }

    /// Has no reader join the requests that were made before the version was known: the store has
    /// told it now.
    pub(crate) fn forget_unversioned(&self) {
        self.remote.with_any_active(|active| active.table.forget_unversioned());
    }

    /// Takes a version for which the store was asked in an epoch, when none was known. If the
    /// object was invalidated since, or the store has told another version, this one may be older:
    /// then nothing changes.
    pub(crate) fn set_if_unknown(&mut self, epoch: u64, reported: &RemoteVersion) {
        let is_current = self.mapping.truncate_seq() == epoch || broken!("late-version-kept");
        if is_current && self.mapping.known_version().is_none() {
            self.mapping.set_version(self.remote, reported);
        }
    }

    /// Takes a version for which the store was asked in an epoch. If the object was invalidated or
    /// changed since, the version may be old: then none is known, unless it is the same one.
    ///
    /// # Errors
    ///
    /// `StaleNetworkFileHandle` if another version was known and the backing wants that to fail.
    pub(crate) fn agree_since(
        &mut self,
        epoch: u64,
        reported: &RemoteVersion,
        on_change: OnChange,
    ) -> io::Result<()> {
        if self.mapping.truncate_seq() == epoch {
            return self.agree(reported, on_change);
        }
        if self.mapping.known_version().is_some_and(|known| known != *reported) {
            self.replace(None);
        }
        Ok(())
    }

    /// Drops all pages, and forgets the version and the requests in flight. With a version, that
    /// one is known from then on.
    pub(crate) fn replace(&mut self, reported: Option<&RemoteVersion>) {
        refresh::bump_truncate_seq(self.mapping);
        self.mapping.forget_version(self.remote);
        let orphans = self.remote.with_any_active(|active| {
            active.learning = Weak::new();
            active.table.clear()
        });
        self.orphans.extend(orphans.into_iter().flatten());
        drop_pages::drop_pages(self.mapping, 0..u64::MAX);
        refresh::bump_truncate_seq(self.mapping);
        if let Some(reported) = reported {
            self.mapping.set_version(self.remote, reported);
        }
        refresh::bump_truncate_seq(self.mapping);
    }
}

/// Returns the error of a reader that finds another version than the one that is cached.
fn stale<S: Scheme>(
    remote: &Remote<S>,
    known: &RemoteVersion,
    reported: &RemoteVersion,
) -> io::Error {
    let message = format!(
        "{:?} changed: the cache has version {:?} of {} bytes, the store {:?} of {} bytes: \
         invalidate the key",
        remote.object.key, known.validator, known.len, reported.validator, reported.len
    );
    numbered(io::ErrorKind::StaleNetworkFileHandle, Errno::STALE, message)
}

/// Returns the error of a stream of which some bytes came before the object changed.
pub(crate) fn changed<S: Scheme>(mapping: &Mapping<S>) -> io::Error {
    let message = format!("{:?} changed after a part of the stream came", mapping.key());
    numbered(io::ErrorKind::StaleNetworkFileHandle, Errno::STALE, message)
}

/// Returns the error of a reader that met a new version each time that it began anew.
pub(crate) fn restless<S: Scheme>(mapping: &Mapping<S>) -> io::Error {
    let key = mapping.key();
    let message = format!("{key:?} changed again and again while it was read");
    numbered(io::ErrorKind::StaleNetworkFileHandle, Errno::STALE, message)
}

/// Drops the pages of a file that are not dirty. Of a distant object, forgets the version too.
pub(crate) fn invalidate<S: Scheme>(mapping: &Mapping<S>) {
    match mapping.remote() {
        Some(remote) if !mapping.shared.is_inherited() => lock(mapping, remote).replace(None),
        _ => drop_pages::invalidate(mapping),
    }
}
