//! Decides the capacity under memory pressure: a pure function of the state and of what was read.
//!
//! ```text
//!   free under the tightest limit, less its reserve, and what others will have taken soon: spare
//!   below 0          ── shrink by what is missing, and the reserve once more
//!   0 to the reserve ── nothing: so a cache does not swing around its reserve
//!   above that       ── after the pause, grow at the rate, and keep twice the reserve
//! ```

use std::time::Duration;

use crate::pressure::source::Headroom;

/// The unit of a capacity: a block of 2 MiB.
pub(crate) const BLOCK: u64 = 2 << 20;

/// The bytes that one step gives back at most. After it the sources are read again.
const STEP: u64 = 128 << 20;

/// The time within which signals count as one.
const ONE_SIGNAL: Duration = Duration::from_millis(100);

/// The reserve is this share of a limit.
const RESERVE_SHARE: u64 = 8;

/// The bounds of a reserve, in bytes.
const RESERVE: (u64, u64) = (8 << 20, 256 << 20);

/// The rate at which memory may go, in bytes per second. It is four times what a program allocates,
/// as the thread that reads may have to wait for a processor. It decides how often the sources are
/// read.
const FASTEST: u64 = 16 << 30;

/// The shortest and the longest time between two readings.
const PAUSES: (Duration, Duration) = (Duration::from_millis(2), Duration::from_secs(1));

/// The time for which a decision looks ahead: what other programs will have taken then, at the rate
/// of the last readings, counts as taken. So long may it take to read again and to give back.
const AHEAD: Duration = Duration::from_millis(50);

/// The pause after a step that gave back nothing, because all is pinned.
const STUCK: Duration = Duration::from_millis(50);

/// The time after which a signal is over if its memory cannot be given back.
const SIGNAL_ENDS: Duration = Duration::from_secs(1);

/// The pause while the capacity may grow.
const GROWING: Duration = Duration::from_millis(100);

/// The rules that stay while a cache lives. Sizes in bytes, rates in bytes per second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rules {
    pub(crate) floor: Option<u64>,
    pub(crate) reserve: Option<u64>,
    pub(crate) shrink_rate: u64,
    pub(crate) grow_rate: Option<u64>,
    pub(crate) hold: Duration,
}

/// The traces of the decisions so far. Times are since the cache was built.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct State {
    /// The capacity that the last signal asked for, until it is reached.
    goal: Option<u64>,
    /// When the last signal came that counted.
    signalled: Option<Duration>,
    /// When the capacity last shrank, or was to.
    short: Option<Duration>,
    /// When the last step gave memory back.
    shrunk: Option<Duration>,
    /// From here on it grows at the rate.
    grown: Option<Duration>,
    /// When the last reading was, and what it was that others leave: free, and used by pages.
    left: Option<(Duration, i128)>,
    /// The limit of the headroom of that reading.
    limit: u64,
    /// The bytes per second that others take.
    taken: u64,
}

/// The facts of one reading.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct View {
    pub(crate) now: Duration,
    /// The capacity now.
    pub(crate) capacity: u64,
    /// The capacity that the user set: the maximum.
    pub(crate) wanted: u64,
    /// The bytes that pages use.
    pub(crate) used: u64,
    /// A source signalled.
    pub(crate) signal: bool,
    /// The tightest headroom. `None`: no headroom is known.
    pub(crate) spare: Option<Spare>,
}

/// The bytes that are free in a headroom beyond its reserve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Spare {
    /// In bytes; less than 0 if the reserve is not whole.
    pub(crate) bytes: i64,
    pub(crate) reserve: u64,
    /// The limit of the headroom.
    pub(crate) limit: u64,
}

/// A decision: the new state, the capacity, and when to read again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Decision {
    pub(crate) state: State,
    pub(crate) capacity: u64,
    /// More steps are needed.
    pub(crate) is_partial: bool,
    pub(crate) pause: Duration,
}

/// Returns what is spare in the tightest of these headrooms.
pub(crate) fn tightest(rules: &Rules, headrooms: &[Headroom]) -> Option<Spare> {
    let spare = |headroom: &Headroom| {
        let share = (headroom.limit / RESERVE_SHARE).clamp(RESERVE.0, RESERVE.1);
        let reserve = rules.reserve.unwrap_or(share);
        let free = i128::from(headroom.limit) - i128::from(headroom.used);
        let bytes = free - i128::from(reserve);
        let bytes = bytes.clamp(i64::MIN.into(), i64::MAX.into()) as i64;
        Spare { bytes, reserve, limit: headroom.limit }
    };
    headrooms.iter().map(spare).min_by_key(|spare| spare.bytes)
}

/// Decides the capacity. It is a number of whole blocks within the floor and what the user set.
pub(crate) fn decide(rules: &Rules, state: State, view: &View) -> Decision {
    let mut state = state;
    let view = &look_ahead(&mut state, view);
    let floor = floor(rules, view);
    note_signal(&mut state, view, floor);
    let least = match missing(view) {
        0 => state.goal.unwrap_or(view.capacity),
        missing => view.used.saturating_sub(missing).min(state.goal.unwrap_or(view.capacity)),
    };
    let target = down(least).max(floor).min(view.capacity);
    if target < view.capacity {
        state.short = Some(view.now);
        state.grown = None;
    }
    let capacity = if target < view.capacity {
        let given = shrinkable(rules, &state, view).min(view.capacity - target);
        if given > 0 {
            state.shrunk = Some(view.now);
        }
        view.capacity - given
    } else {
        grown(rules, &mut state, view)
    };
    if state.goal.is_some_and(|goal| capacity <= goal.max(floor)) {
        state.goal = None;
    }
    let capacity = if capacity <= view.wanted { capacity } else { down(view.wanted).max(BLOCK) };
    let is_partial = capacity > target && target < view.capacity;
    let pause = pause(view, floor, capacity, is_partial);
    Decision { state, capacity, is_partial, pause }
}

/// Returns the pause after a step that was to give memory back and could not.
pub(crate) fn pause_if_stuck() -> Duration {
    STUCK
}

/// Returns the state after a step that was to give memory back and could not. A signal is not kept
/// for memory that is pinned for long: it was about the memory of that moment.
pub(crate) fn stuck(state: State, now: Duration) -> State {
    let is_over = state.signalled.is_none_or(|at| now.saturating_sub(at) >= SIGNAL_ENDS);
    State { goal: state.goal.filter(|_| !is_over), ..state }
}

/// Returns the floor in whole blocks: by default a sixteenth of what the user set.
fn floor(rules: &Rules, view: &View) -> u64 {
    let floor = rules.floor.unwrap_or(view.wanted / 16).max(BLOCK);
    floor.next_multiple_of(BLOCK).min(down(view.wanted).max(BLOCK))
}

/// Rounds down to whole blocks.
fn down(bytes: u64) -> u64 {
    bytes - bytes % BLOCK
}

/// Turns a signal into a goal: half of the memory in use.
fn note_signal(state: &mut State, view: &View, floor: u64) {
    let is_new = state.signalled.is_none_or(|last| view.now.saturating_sub(last) >= ONE_SIGNAL);
    if view.signal && is_new {
        let from = state.goal.unwrap_or(view.used.min(view.capacity));
        state.goal = Some(down(from / 2).max(floor));
        state.signalled = Some(view.now);
    }
}

/// Returns a view in which others have taken what they will take soon, up to a whole reserve.
fn look_ahead(state: &mut State, view: &View) -> View {
    let Some(spare) = view.spare else { return *view };
    let left = i128::from(spare.bytes) + i128::from(view.used);
    let before = state.left.replace((view.now, left));
    if std::mem::replace(&mut state.limit, spare.limit) != spare.limit {
        // A limit that changes takes nothing.
        state.taken = 0;
    } else if let Some((last, before)) = before {
        let time = view.now.saturating_sub(last).max(PAUSES.0);
        let taken =
            (before - left).max(0).saturating_mul(1_000_000_000) / time.as_nanos().cast_signed();
        // Half of it: one large allocation is no rate.
        state.taken = u64::try_from(taken).unwrap_or(u64::MAX) / 2 + state.taken / 2;
    }
    let soon = at_rate(state.taken, AHEAD).min(spare.reserve);
    let bytes = spare.bytes.saturating_sub(i64::try_from(soon).unwrap_or(i64::MAX));
    View { spare: Some(Spare { bytes, ..spare }), ..*view }
}

/// Returns the bytes to give back for the tightest headroom: 0 while its reserve is whole.
fn missing(view: &View) -> u64 {
    match view.spare {
        Some(spare) if spare.bytes < 0 => spare.bytes.unsigned_abs().saturating_add(spare.reserve),
        _ => 0,
    }
}

/// Returns the bytes that this step may give back. The first step is one of a second, or a block.
fn shrinkable(rules: &Rules, state: &State, view: &View) -> u64 {
    let rate = rules.shrink_rate.max(1);
    let block = Duration::from_nanos((BLOCK * 1_000_000_000).div_ceil(rate));
    let most = block.max(Duration::from_secs(1));
    let time = state.shrunk.map_or(most, |last| view.now.saturating_sub(last).min(most));
    down(at_rate(rate, time)).min(STEP)
}

/// Returns the bytes of a rate over a time.
fn at_rate(rate: u64, time: Duration) -> u64 {
    let bytes = u128::from(rate) * time.as_nanos() / 1_000_000_000;
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

/// Returns the capacity if nothing asks for less: it grows after the pause.
fn grown(rules: &Rules, state: &mut State, view: &View) -> u64 {
    let held = state.short.map_or(Duration::ZERO, |short| short.saturating_add(rules.hold));
    if view.capacity >= view.wanted || state.goal.is_some() || view.now < held {
        return view.capacity;
    }
    let since = *state.grown.get_or_insert(if state.short.is_some() { held } else { view.now });
    let rate = rules.grow_rate.unwrap_or(view.wanted / 16);
    let by_rate = view.capacity.saturating_add(down(at_rate(rate, view.now.saturating_sub(since))));
    // A cache that fills all of its capacity leaves twice the reserve.
    let by_room = match view.spare {
        None => u64::MAX,
        Some(Spare { bytes, reserve, .. }) => match u64::try_from(bytes) {
            Ok(spare) => view.used.saturating_add(spare).saturating_sub(reserve),
            Err(_) => 0,
        },
    };
    let capacity = down(by_rate.min(by_room)).min(view.wanted).max(view.capacity);
    if capacity > view.capacity || by_room <= view.capacity {
        state.grown = Some(view.now);
    }
    capacity
}

/// Returns the time to the next reading.
fn pause(view: &View, floor: u64, capacity: u64, is_partial: bool) -> Duration {
    let by_room = match view.spare {
        // There is nothing more to give, however little is free.
        _ if capacity <= floor => PAUSES.1,
        Some(Spare { bytes, reserve, .. }) => {
            let free = u64::try_from(i128::from(bytes) + i128::from(reserve)).unwrap_or(0);
            Duration::from_micros(free / (FASTEST / 1_000_000))
        }
        None => PAUSES.1,
    };
    let longest = if is_partial {
        PAUSES.0
    } else if capacity < view.wanted {
        GROWING
    } else {
        PAUSES.1
    };
    by_room.clamp(PAUSES.0, PAUSES.1).min(longest)
}

#[cfg(test)]
mod tests;
