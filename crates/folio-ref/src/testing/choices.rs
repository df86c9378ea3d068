//! The choices of a case besides its schedule: how old the value is that a load returns.
//!
//! A depth-first search plays all choices up to a number of old values in one execution. A random
//! search returns an old value in one of four loads that may.

use core::cell::RefCell;
use std::thread_local;
use std::vec::Vec;

use shuttle::scheduler::TaskId;

thread_local! {
    static CHOICES: RefCell<Choices> = RefCell::default();
}

/// The alternatives of a choice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Among {
    /// Threads that can run.
    Threads(Vec<TaskId>),
    /// This number of values, the newest first.
    Values(usize),
}

impl Among {
    fn len(&self) -> usize {
        match self {
            Self::Threads(threads) => threads.len(),
            Self::Values(values) => *values,
        }
    }
}

/// The choices of a search.
#[derive(Default)]
pub(crate) struct Choices {
    /// The maximum number of old values in one execution.
    old: usize,
    /// The old values that this execution has returned.
    returned: usize,
    /// Of a depth-first search: each choice, and the index of what was taken. Of a random one:
    /// empty.
    path: Vec<(Among, usize)>,
    at: usize,
    /// The state of the random numbers. 0: the search is depth first.
    random: u64,
}

/// Begins a search with at most `old` old values in each execution: depth first, or by random
/// numbers with a seed.
pub(crate) fn begin(old: usize, seed: Option<u64>) {
    let random = seed.map_or(0, |seed| seed.wrapping_mul(2).wrapping_add(1));
    CHOICES.set(Choices { old, random, ..Choices::default() });
}

/// Begins an execution.
pub(crate) fn restart() {
    CHOICES.with_borrow_mut(|choices| (choices.at, choices.returned) = (0, 0));
}

/// Changes the last choice of a depth-first search that can be changed. Returns `false` if all were
/// tried.
pub(crate) fn advance() -> bool {
    CHOICES.with_borrow_mut(|choices| {
        while choices.path.last().is_some_and(|(among, taken)| taken + 1 == among.len()) {
            choices.path.pop();
        }
        let Some((_, taken)) = choices.path.last_mut() else { return false };
        *taken += 1;
        true
    })
}

/// Returns the index of what a depth-first search takes: as before, or the first if the choice is
/// new.
pub(crate) fn take(among: Among) -> usize {
    CHOICES.with_borrow_mut(|choices| choices.take(among))
}

/// Returns one of the values from 0, the newest, to `oldest`. A value that is `known`, as its
/// reader got it before, does not count as one more old value.
pub(crate) fn choose(oldest: usize, known: impl Fn(usize) -> bool) -> usize {
    CHOICES.with_borrow_mut(|choices| {
        let may_be_old = choices.returned < choices.old;
        let is_possible = |&age: &usize| age == 0 || may_be_old || known(age);
        let possible: Vec<usize> = (0..=oldest).filter(is_possible).collect();
        if possible.len() == 1 {
            return 0;
        }
        let index = if choices.random == 0 {
            choices.take(Among::Values(possible.len()))
        } else if choices.next().is_multiple_of(4) {
            1 + choices.next() as usize % (possible.len() - 1)
        } else {
            0
        };
        let age = possible[index];
        choices.returned += usize::from(age > 0 && !known(age));
        age
    })
}

impl Choices {
    fn take(&mut self, among: Among) -> usize {
        if self.at == self.path.len() {
            self.path.push((among, 0));
        } else {
            let before = &self.path[self.at].0;
            assert!(
                *before == among,
                "an execution diverged from the replayed one: {before:?}, then {among:?}"
            );
        }
        self.at += 1;
        self.path[self.at - 1].1
    }

    /// Returns the next random number: xorshift.
    fn next(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random >> 16
    }
}
