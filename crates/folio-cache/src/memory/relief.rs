//! Follows memory pressure: reads the sources, and sets the capacity that they ask for.

use std::time::Duration;

use folio_frames::FRAME_SIZE;
use folio_ref::Scheme;

use crate::memory::capacity;
use crate::pressure::decide::{View, pause_if_stuck};
use crate::rt::watcher::Rest;
use crate::state::shared::Shared;
use crate::state::stats::Count;

/// The work of the thread that watches the sources. `events` are the numbers of those that had one.
pub(crate) fn watch<S: Scheme>(shared: &Shared<S>, events: &[usize]) -> Rest {
    let Some(step) = step(shared, Some(events)) else {
        return Rest { most: Duration::MAX, ..Rest::default() };
    };
    // The event of a source that panicked may not end.
    let least = if step.has_panicked { pause_if_stuck() } else { Duration::ZERO };
    Rest { least, most: step.pause }
}

/// Follows the sources until they ask for no less. Returns the bytes given back.
pub(crate) fn relieve<S: Scheme>(shared: &Shared<S>) -> usize {
    let mut given = 0;
    while let Some(step) = step(shared, None) {
        given += step.given;
        if step.given == 0 || !step.is_partial {
            break;
        }
    }
    given
}

/// The result of one step.
struct Step {
    /// Bytes given back.
    given: usize,
    /// The sources ask for less than this step could give.
    is_partial: bool,
    /// A source panicked, now or a moment ago.
    has_panicked: bool,
    pause: Duration,
}

/// Reads the sources, decides, and sets the capacity. Returns `None` without sources.
fn step<S: Scheme>(shared: &Shared<S>, events: Option<&[usize]>) -> Option<Step> {
    let watched = shared.pressure.as_ref()?;
    let mut sensors = watched.sensors.lock();
    let facts = sensors.read(events);
    let before = shared.capacity();
    let stats = shared.zone().stats();
    let used = stats.online_frames.saturating_sub(stats.free_frames) as usize * FRAME_SIZE;
    let decision = sensors.decide(View {
        now: Duration::ZERO,
        capacity: before as u64,
        wanted: shared.capacity.wanted() as u64,
        used: used as u64,
        signal: facts.signal,
        spare: facts.spare,
    });
    let wanted = decision.capacity as usize;
    // As direct reclaims: of no file.
    let counters = &shared.groups.first().counters;
    counters.add(Count::PressureSignals, u64::from(facts.signal));
    if wanted == before {
        let pause = decision.pause;
        return Some(Step { given: 0, is_partial: false, has_panicked: facts.has_panicked, pause });
    }
    let now = capacity::adapt(shared, wanted);
    let given = before.saturating_sub(now);
    counters.add(Count::GivenBackBytes, given as u64);
    counters.add(Count::TakenAgainBytes, now.saturating_sub(before) as u64);
    tracing::debug!(before, wanted, now, used, ?facts, "the capacity follows memory pressure");
    let is_stuck = wanted < before && given == 0;
    if is_stuck {
        sensors.stuck();
    }
    let pause = if is_stuck { pause_if_stuck() } else { decision.pause };
    let is_partial = decision.is_partial;
    Some(Step { given, is_partial, has_panicked: facts.has_panicked, pause })
}
