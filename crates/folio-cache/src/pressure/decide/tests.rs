//! The decisions: examples, and properties of all.

use proptest::prelude::*;

use super::*;

const RULES: Rules = Rules {
    floor: None,
    reserve: None,
    shrink_rate: u64::MAX,
    grow_rate: None,
    hold: Duration::from_secs(10),
};
const MIB: u64 = 1 << 20;

fn view(seconds: u64, capacity: u64, used: u64) -> View {
    View {
        now: Duration::from_secs(seconds),
        capacity: capacity * MIB,
        wanted: 256 * MIB,
        used: used * MIB,
        signal: false,
        spare: None,
    }
}

/// Decides again and again, with a cache that always uses its whole capacity.
fn settle(rules: &Rules, mut state: State, mut view: View) -> Decision {
    for _ in 0..100 {
        let decision = decide(rules, state, &view);
        if decision.capacity == view.capacity {
            return decision;
        }
        view.spare = view.spare.map(|spare| Spare {
            bytes: spare.bytes + view.used.saturating_sub(decision.capacity).cast_signed(),
            ..spare
        });
        (state, view.signal) = (decision.state, false);
        view.now += Duration::from_millis(100);
        (view.capacity, view.used) = (decision.capacity, view.used.min(decision.capacity));
    }
    panic!("100 decisions, and the capacity still changes");
}

#[test]
fn a_signal_halves_what_is_used() {
    let signalled = View { signal: true, ..view(1, 256, 200) };
    let decision = decide(&RULES, State::default(), &signalled);
    assert_eq!(decision.capacity, 128 * MIB, "one step");
    assert_eq!(settle(&RULES, State::default(), signalled).capacity, 100 * MIB);
}

#[test]
fn a_pause_without_an_end_keeps_the_capacity_low() {
    let rules = Rules { hold: Duration::MAX, ..RULES };
    let Decision { state, capacity, .. } =
        settle(&rules, State::default(), View { signal: true, ..view(1, 256, 256) });
    let later = View { capacity, used: capacity, ..view(1 << 40, 256, 256) };
    assert_eq!(settle(&rules, state, later).capacity, capacity);
}

#[test]
fn a_storm_of_signals_counts_as_one() {
    let (mut state, mut capacity) = (State::default(), 256 * MIB);
    for micros in 0..1000 {
        let now = Duration::from_secs(1) + Duration::from_micros(micros * 90);
        let view = View { now, signal: true, capacity, used: capacity, ..view(1, 256, 256) };
        let decision = decide(&RULES, state, &view);
        (state, capacity) = (decision.state, decision.capacity);
    }
    assert_eq!(capacity, 128 * MIB);
}

/// 64 MiB are free beyond a reserve of 64: a neighbour that takes 1 GiB in a second does not
/// wait for more than that.
#[test]
fn a_fast_neighbour_is_met_before_it_needs_the_reserve() {
    let at = |state, millis: u64, spare: u64| {
        let spare = Some(Spare { bytes: (spare * MIB).cast_signed(), reserve: 64 * MIB, limit: 0 });
        let now = Duration::from_millis(millis);
        decide(&RULES, state, &View { now, spare, ..view(0, 256, 256) })
    };
    let first = at(State::default(), 0, 64);
    assert_eq!(at(first.state, 1000, 60).capacity, 256 * MIB, "4 MiB in a second");
    let fast = at(at(first.state, 10, 54).state, 20, 34);
    assert!(fast.capacity < 180 * MIB, "{} left", fast.capacity / MIB);
    let calm = (1..20).fold(first.state, |state, n| at(state, 1000 * n, 34).state);
    assert_eq!(at(calm, 20_000, 34).capacity, 256 * MIB);
    let lower = Some(Spare { bytes: 0, reserve: 64 * MIB, limit: MIB });
    let lowered = View { now: Duration::from_millis(10), spare: lower, ..view(0, 256, 256) };
    assert_eq!(decide(&RULES, first.state, &lowered).capacity, 256 * MIB, "nothing was taken");
}

#[test]
fn a_limit_of_zero_leaves_the_floor() {
    let spare = tightest(&RULES, &[Headroom { limit: 0, used: 300 * MIB }]);
    let settled = settle(&RULES, State::default(), View { spare, ..view(1, 256, 256) });
    assert_eq!(settled.capacity, 16 * MIB);
    let rules = Rules { floor: Some(500 * MIB), ..RULES };
    let view = View { spare, ..view(1, 256, 256) };
    assert_eq!(settle(&rules, State::default(), view).capacity, 256 * MIB);
}

#[test]
fn the_tightest_room_counts() {
    let headrooms = [(1 << 40, 1 << 30), (512, 400), (1024, 500)];
    let headrooms =
        headrooms.map(|(limit, used)| Headroom { limit: limit * MIB, used: used * MIB });
    let spare = tightest(&RULES, &headrooms).unwrap();
    assert_eq!((spare.bytes, spare.reserve), (48 << 20, 64 * MIB));
    assert_eq!(tightest(&RULES, &[]), None);
    let all = Headroom { limit: u64::MAX, used: 0 };
    assert_eq!(tightest(&RULES, &[all]).unwrap().bytes, i64::MAX);
}

#[test]
fn it_grows_back_after_the_pause_at_the_rate() {
    let mut state =
        settle(&RULES, State::default(), View { signal: true, ..view(1, 256, 256) }).state;
    let mut capacity = 128 * MIB;
    for now in 2..=19 {
        let view = View { capacity, used: capacity, ..view(now, 0, 0) };
        let decision = decide(&RULES, state, &view);
        let grown = (decision.capacity - capacity) / MIB;
        assert_eq!(grown, if now <= 11 { 0 } else { 16 }, "second {now}");
        (state, capacity) = (decision.state, decision.capacity);
    }
    assert_eq!(capacity, 256 * MIB);
}

#[test]
fn it_reads_the_more_often_the_less_is_free() {
    let pause = |free: i64| {
        let spare = Some(Spare { bytes: free << 20, reserve: 0, limit: 0 });
        decide(&RULES, State::default(), &View { spare, ..view(1, 256, 8) }).pause
    };
    assert_eq!(pause(0), PAUSES.0);
    assert!(pause(128) > pause(64) && pause(128) < Duration::from_millis(10));
    assert_eq!(pause(1 << 20), PAUSES.1, "a terabyte");
}

fn any_view() -> impl Strategy<Value = View> {
    let spare = proptest::option::of((any::<i64>(), 0..1_u64 << 40));
    let small = proptest::option::of((-(1_i64 << 34)..1 << 34, 0..1_u64 << 30));
    (0..1_u64 << 20, 1..1_u64 << 20, 1..1_u64 << 20, 0..1_u64 << 41, any::<bool>(), spare, small)
        .prop_map(|(millis, capacity, wanted, used, signal, spare, small)| View {
            now: Duration::from_millis(millis),
            capacity: capacity.min(wanted) * BLOCK,
            wanted: wanted * BLOCK,
            used,
            signal,
            spare: small.or(spare).map(|(bytes, reserve)| Spare { bytes, reserve, limit: 0 }),
        })
}

fn any_rules() -> impl Strategy<Value = Rules> {
    let size = || proptest::option::of(0..1_u64 << 41);
    (size(), size(), 1..u64::MAX, proptest::option::of(any::<u64>()), 0..100_u64).prop_map(
        |(floor, reserve, shrink_rate, grow_rate, hold)| Rules {
            floor,
            reserve,
            shrink_rate,
            grow_rate,
            hold: Duration::from_secs(hold),
        },
    )
}

proptest! {
    /// A long sequence of decisions keeps the bounds, whatever is read.
    #[test]
    fn each_decision_keeps_the_bounds(
        rules in any_rules(),
        views in proptest::collection::vec(any_view(), 1..20),
    ) {
        let (mut state, mut now, mut last) = (State::default(), Duration::ZERO, None);
        for read in views {
            now += read.now / 100;
            let capacity = last.unwrap_or(read.capacity).min(read.wanted);
            let view = View { now, capacity, ..read };
            let decision = decide(&rules, state, &view);
            let (new, floor) = (decision.capacity, floor(&rules, &view));
            prop_assert!(new % BLOCK == 0 && new >= BLOCK && new <= view.wanted);
            prop_assert!(new >= floor.min(view.capacity), "below the floor");
            prop_assert!(view.capacity.saturating_sub(new) <= STEP, "more than one step");
            if missing(&view) > 0 || decision.state.goal.is_some() {
                prop_assert!(new <= view.capacity, "it grew under pressure");
            }
            if let Some(spare) = view.spare && new > view.capacity {
                let reserve = i128::from(spare.reserve);
                let full = i128::from(new) - i128::from(view.used) + reserve;
                prop_assert!(full <= i128::from(spare.bytes), "it grew into the reserve");
            }
            prop_assert!(decision.pause >= PAUSES.0 && decision.pause <= PAUSES.1);
            (state, last) = (decision.state, Some(new));
        }
    }

    /// Less room never leaves more capacity.
    #[test]
    fn less_room_leaves_no_more(
        view in any_view(),
        rules in any_rules(),
        less in 0..1_i64 << 40,
    ) {
        prop_assume!(view.spare.is_some());
        let spare = view.spare.map(|spare| Spare {
            bytes: spare.bytes.saturating_sub(less),
            ..spare
        });
        let (roomy, tight) = (
            decide(&rules, State::default(), &view).capacity,
            decide(&rules, State::default(), &View { spare, ..view }).capacity,
        );
        prop_assert!(tight <= roomy, "{tight} > {roomy}");
    }

    /// In a headroom that does not change, it comes to rest: its reserve is whole, or it is at the
    /// floor.
    #[test]
    fn it_comes_to_rest_with_the_reserve_whole(
        wanted in 8..512_u64,
        others in 0..600_u64,
        limit in 64..600_u64,
    ) {
        let (mut state, mut capacity) = (State::default(), wanted / 2 * BLOCK);
        let read = |seconds, capacity: u64| {
            let headrooms = [Headroom { limit: limit * MIB, used: capacity + others * MIB }];
            View {
                now: Duration::from_secs(seconds),
                capacity,
                wanted: wanted / 2 * BLOCK,
                used: capacity,
                signal: false,
                spare: tightest(&RULES, &headrooms),
            }
        };
        for seconds in 0..200 {
            let decision = decide(&RULES, state, &read(seconds, capacity));
            (state, capacity) = (decision.state, decision.capacity);
        }
        let view = read(200, capacity);
        prop_assert_eq!(decide(&RULES, state, &view).capacity, capacity, "no rest");
        prop_assert!(missing(&view) == 0 || capacity == floor(&RULES, &view));
    }
}

#[test]
fn a_slow_rate_shrinks_by_a_block_now_and_then() {
    let rules = Rules { shrink_rate: MIB, ..RULES };
    let short = |seconds, capacity| View {
        spare: Some(Spare { bytes: -(100 << 20), reserve: 0, limit: 0 }),
        ..view(seconds, capacity, capacity)
    };
    let first = decide(&rules, State::default(), &short(1, 256));
    assert_eq!(first.capacity, 254 * MIB, "at least a block");
    let second = decide(&rules, first.state, &short(2, 254));
    assert_eq!(second.capacity, 254 * MIB, "a block takes two seconds");
    let third = decide(&rules, second.state, &short(3, 254));
    assert_eq!(third.capacity, 252 * MIB);
    let later = decide(&rules, third.state, &short(3600, 252));
    assert_eq!(later.capacity, 250 * MIB, "an hour does not save up");
}

#[test]
fn a_signal_that_meets_pins_is_over_soon() {
    let rules = Rules { hold: Duration::ZERO, grow_rate: Some(u64::MAX), ..RULES };
    let wanted = 1024 * MIB;
    let pinned = |seconds, signal| View { wanted, signal, ..view(seconds, 1000, 1000) };
    let mut state = decide(&rules, State::default(), &pinned(1, true)).state;
    state = stuck(state, Duration::from_secs(1));
    let soon = View { now: Duration::from_millis(1500), ..pinned(1, false) };
    let again = decide(&rules, state, &soon);
    assert!(again.capacity < 1000 * MIB, "pins may last for a moment");
    state = stuck(again.state, Duration::from_secs(2));
    let after = decide(&rules, state, &pinned(3, false));
    assert_eq!(after.capacity, wanted, "the signal is forgotten, and the capacity grows");
}

#[test]
fn a_cache_at_its_floor_reads_seldom() {
    let short =
        View { spare: Some(Spare { bytes: i64::MIN, reserve: 0, limit: 0 }), ..view(1, 16, 16) };
    assert_eq!(decide(&RULES, State::default(), &short).pause, GROWING);
}
