//! Asks a distant store for the version of an object: one request for all that ask at once.

use std::future;
use std::io;
use std::sync::{Arc, Weak};
use std::task::Context;

use folio_ref::Scheme;

use crate::backing::error;
use crate::backing::remote::RemoteVersion;
use crate::coherence::version;
use crate::read::permit::{Wish, permit, target};
use crate::rt::flight::{Flight, Task};
use crate::rt::rank::Rank;
use crate::state::mapping::Mapping;
use crate::state::remote::{Learned, Remote};

/// Returns the length of a distant object.
///
/// # Errors
///
/// `Unsupported` in a child process, otherwise what the backing returns.
pub(crate) async fn len<S: Scheme>(mapping: &Arc<Mapping<S>>, blocks: bool) -> io::Result<u64> {
    mapping.shared.check_process()?;
    let Some(remote) = mapping.remote() else { return Ok(mapping.len()) };
    // Joined by those that come before the answer. The state of the object may be older than their
    // call: it is the one that a request in flight would tell.
    let (reported, epoch) = ask(mapping, remote, blocks, true).await?;
    version::lock(mapping, remote).set_if_unknown(epoch, &reported);
    Ok(reported.len)
}

/// Asks for the version. Drops the pages if it is another one, and returns `true` then. Reads from
/// then on find the object as it was at this call, or newer.
///
/// # Errors
///
/// `Unsupported` in a child process, `StaleNetworkFileHandle` if another version is known and the
/// backing wants that to fail, otherwise what the backing returns.
pub(crate) async fn revalidate<S: Scheme>(mapping: &Arc<Mapping<S>>) -> io::Result<bool> {
    mapping.shared.check_process()?;
    let Some(remote) = mapping.remote() else { return Ok(false) };
    // What others have asked for may be answered already.
    let (reported, epoch) = ask(mapping, remote, true, false).await?;
    let on_change = remote.backing().on_change();
    let mut version = version::lock(mapping, remote);
    let known = mapping.known_version();
    version.agree_since(epoch, &reported, on_change)?;
    version.forget_unversioned();
    Ok(known.is_some_and(|known| known != reported))
}

/// Asks the store for the version, or joins others that ask. Returns it with the epoch in which the
/// store was asked.
async fn ask<S: Scheme>(
    mapping: &Arc<Mapping<S>>,
    remote: &Remote<S>,
    blocks: bool,
    joins: bool,
) -> io::Result<(RemoteVersion, u64)> {
    let backing = remote.backing();
    // A blocking caller leaves the polls to the spawner, if there is one.
    let is_driven = blocks && mapping.shared.spawner.is_some();
    let in_flight = backing.preferences().in_flight;
    let (flight, permits) = remote.with_active(in_flight, |active| {
        let flight = if joins { active.learning.upgrade() } else { None };
        (flight, Arc::clone(&active.permits))
    });
    let joined = flight.as_ref().and_then(Flight::join);
    let mut waiter = if let Some(waiter) = joined {
        // Otherwise the table could not be freed below.
        drop(permits);
        waiter
    } else {
        let (shared, epoch) = (Arc::clone(&mapping.shared), mapping.truncate_seq());
        let wish =
            Wish { target: target(mapping, remote, &*backing), rank: Rank::new(0), weight: 0 };
        let ask = |flight: Weak<Flight<Learned>>| -> Task<_> {
            Box::pin(async move {
                let _of_backing =
                    permit(&shared, &permits, wish.clone(), Weak::clone(&flight) as _).await;
                let _of_cache = permit(&shared, &shared.remote_permits, wish, flight).await;
                let told = backing.version().await;
                told.map(|version| (version, epoch)).map_err(|error| Arc::new(error::share(error)))
            })
        };
        let panicked = || -> Learned { Err(Arc::new(io::Error::other("the backing panicked"))) };
        let waiter = Flight::begin_with(ask, panicked);
        remote.with_active(in_flight, |active| active.learning = Arc::downgrade(waiter.flight()));
        if is_driven {
            mapping.shared.spawn(Box::pin(waiter.driver()));
        }
        waiter
    };
    drop(flight);
    let poll = |context: &mut Context<'_>| {
        if is_driven { waiter.poll_driven(context.waker()) } else { waiter.poll(context.waker()) }
    };
    future::poll_fn(poll).await;
    let learned =
        waiter.result(|learned| learned.as_ref().cloned().map_err(|error| error::copy(error)));
    let learned = learned.expect("the flight ended");
    drop(waiter);
    remote.with_any_active(|_| ());
    learned
}
