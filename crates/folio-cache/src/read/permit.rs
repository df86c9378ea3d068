//! Waiting for a permit of a distant store, while what has the permits goes on.
//!
//! A task may hold a future and wait for something else, for another read of the same store
//! perhaps. The future is not polled then, and its permit never comes back. So while a request
//! waits for a permit, the flights that have one are looked at now and then. One that is due for a
//! poll, and was due at the look before, gets a driver: it runs in the spawner, or in a thread of
//! the cache.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::{Arc, Weak};
use std::task::Poll;
use std::time::Duration;

use folio_ref::Scheme;

use crate::backing::remote::{AsyncBacking, Priority};
use crate::rt::flight::{MaybeStuck, Task, When};
use crate::rt::permits::{Permit, Permits, Target, Watch};
use crate::rt::rank::Rank;
use crate::state::mapping::Mapping;
use crate::state::remote::Remote;
use crate::state::shared::Shared;

/// The time between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// The permit that a request wants.
#[derive(Clone)]
pub(super) struct Wish {
    pub(super) target: Target,
    pub(super) rank: Arc<Rank>,
    pub(super) weight: usize,
}

/// Returns the target of the requests of a mapping.
pub(super) fn target<S: Scheme>(
    mapping: &Mapping<S>,
    remote: &Remote<S>,
    backing: &dyn AsyncBacking,
) -> Target {
    ((remote.object.key.space(), backing.store()), mapping.id)
}

/// Returns the rank of requests with a priority.
pub(super) fn rank_of(priority: Priority) -> u8 {
    Priority::High as u8 - priority as u8
}

/// Returns the priority of requests with a rank.
pub(super) fn priority_of(rank: &Rank) -> Priority {
    let all = [Priority::Low, Priority::Normal, Priority::High];
    all.into_iter().find(|&priority| rank_of(priority) == rank.get()).unwrap_or_default()
}

/// Moves requests of a mapping that wait to the places of their raised ranks. `permits` are those
/// of its object.
pub(super) fn raise<S: Scheme>(
    mapping: &Mapping<S>,
    remote: &Remote<S>,
    permits: Arc<Permits>,
    raised: &[Arc<Rank>],
) {
    let target = target(mapping, remote, &*remote.backing());
    for rank in raised {
        // In the order in which a request waits for them.
        permits.raise(target, rank);
        mapping.shared.remote_permits.raise(target, rank);
    }
    drop(permits);
    // The requests may have ended meanwhile: their table is freed then.
    remote.with_any_active(|_| ());
}

/// Returns a permit for a flight, of the weight that it wants or less.
pub(super) async fn permit<S: Scheme>(
    shared: &Arc<Shared<S>>,
    permits: &Arc<Permits>,
    Wish { target, rank, weight }: Wish,
    flight: Weak<dyn MaybeStuck>,
) -> Permit {
    let mut acquire = pin!(permits.acquire(target, rank, weight, Weak::clone(&flight)));
    let first = poll_fn(|context| Poll::Ready(acquire.as_mut().poll(context))).await;
    if let Poll::Ready(permit) = first {
        return permit;
    }
    if shared.drive.may_sleep() {
        if let Some(watch) = permits.watch() {
            shared.spawn(Box::pin(look(Arc::downgrade(shared), watch)));
        }
    } else if shared.spawner.is_some() {
        // No time passes without a thread. What has a permit now is driven at once, and so is this
        // flight, which will have one.
        let own = flight.upgrade().and_then(|flight| flight.driver(When::Always));
        spawn_all(shared, permits.drivers(When::Always).into_iter().chain(own));
    }
    acquire.await
}

fn spawn_all<S: Scheme>(shared: &Shared<S>, drivers: impl Iterator<Item = Task<()>>) {
    for driver in drivers {
        shared.spawn(driver);
    }
}

/// Looks until no request waits, or the thread that has it sleep is forbidden.
async fn look<S: Scheme>(shared: Weak<Shared<S>>, mut watch: Watch) {
    loop {
        let Some(sleep) = shared.upgrade().map(|shared| shared.drive.sleep(LOOK_EVERY)) else {
            return;
        };
        if !sleep.await {
            return;
        }
        let (Some(shared), Some(drivers)) = (shared.upgrade(), watch.drivers()) else { return };
        spawn_all(&shared, drivers.into_iter());
    }
}
