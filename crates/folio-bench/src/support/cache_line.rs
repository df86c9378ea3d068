//! Simulates one cache line among many cores: its owner, its queue, the accesses of each core.
//!
//! The events are discrete: the line moves from one core to the next, and each core does as much on
//! it as it can before it has to release it. All times are in nanoseconds. The
//! `coherence` benchmark lists what the model leaves out.

/// The accesses that each core repeats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Program {
    /// One fetch-add.
    Add,
    /// A load and a compare-and-swap loop.
    LoadCas,
    /// A fetch-add and a fetch-sub: every scheme with a bit.
    Bit,
    /// A load, a compare-and-swap loop and a fetch-sub.
    ZeroFrozen,
    /// A compare-and-swap loop that guesses 1, and a fetch-sub.
    GuessOne,
}

/// One access to the line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Load,
    Cas,
    Add,
    Sub,
}

impl Program {
    fn steps(self) -> &'static [Step] {
        match self {
            Self::Add => &[Step::Add],
            Self::LoadCas => &[Step::Load, Step::Cas],
            Self::Bit => &[Step::Add, Step::Sub],
            Self::ZeroFrozen => &[Step::Load, Step::Cas, Step::Sub],
            Self::GuessOne => &[Step::Cas, Step::Sub],
        }
    }
}

/// The times of a machine.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Costs {
    /// A locked instruction on a line that this core owns.
    pub(crate) locked: f64,
    /// A load of a line that this core owns.
    pub(crate) load: f64,
    /// The way of the line from one core to the next.
    pub(crate) flight: f64,
    /// The least time that a core keeps the line once others wait for it: the way of the request.
    pub(crate) window: f64,
    /// The factor by which both take longer between sockets.
    pub(crate) cross: f64,
    /// The time between taking and returning, without the line.
    pub(crate) held: f64,
    /// The time between one operation and the next, without the line.
    pub(crate) pause: f64,
}

/// The properties of a machine that its makers do not publish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Variant {
    /// A load of a line that another core wrote leaves it shared, so that a write has to ask again.
    pub(crate) shares: bool,
    /// Cores of the same socket are served first.
    pub(crate) near_first: bool,
}

/// The result of a simulation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outcome {
    /// Time of one operation of one core.
    pub(crate) ns: f64,
    /// Failed compare-and-swaps per operation.
    pub(crate) retries: f64,
    /// Operations that one core ends before the line moves on.
    pub(crate) in_a_row: f64,
}

/// The other socket is served after this many cores of the same socket.
const NEAR_AT_MOST: u32 = 16;

#[derive(Clone, Debug)]
struct Core {
    step: usize,
    /// The time of its next access.
    ready: f64,
    /// The value that its compare-and-swap expects.
    seen: i64,
    /// Has a copy, while the line is shared.
    has_copy: bool,
}

struct Line<'a> {
    steps: &'a [Step],
    costs: Costs,
    variant: Variant,
    cores: Vec<Core>,
    per_socket: usize,
    value: i64,
    done: u64,
    retries: u64,
    moves: u64,
    now: f64,
}

/// Simulates until `operations` are done. The cores from `per_socket` on are in another socket.
pub(crate) fn simulate(
    program: Program,
    costs: Costs,
    variant: Variant,
    cores: usize,
    per_socket: usize,
    operations: u64,
) -> Outcome {
    let core = |n: usize| Core { step: 0, ready: n as f64 * 0.37, seen: 1, has_copy: false };
    let cores: Vec<Core> = (0..cores).map(core).collect();
    let mut line = Line {
        steps: program.steps(),
        costs,
        variant,
        cores,
        per_socket,
        value: 1,
        done: 0,
        retries: 0,
        moves: 0,
        now: 0.0,
    };
    line.run(operations);
    let done = line.done as f64;
    Outcome {
        ns: line.now * line.cores.len() as f64 / done,
        retries: line.retries as f64 / done,
        in_a_row: done / line.moves.max(1) as f64,
    }
}

impl Line<'_> {
    fn run(&mut self, operations: u64) {
        let (mut owner, mut near) = (0, 0);
        let mut arrived = 0.0;
        while self.done < operations {
            let leave = self.turn(owner, arrived, operations);
            let Some(next) = self.next(owner, leave, &mut near) else { continue };
            self.moves += 1;
            let factor = self.factor(owner, next);
            let came = leave.max(self.cores[next].ready) + self.costs.flight * factor;
            self.cores[next].ready = came;
            if self.wants(next) == Step::Load && self.variant.shares {
                owner = self.share(owner, next, came);
                arrived = self.cores[owner].ready;
            } else {
                (owner, arrived) = (next, came);
            }
        }
    }

    /// Runs the owner's accesses until it has to release the line. Returns that time.
    fn turn(&mut self, owner: usize, arrived: f64, operations: u64) -> f64 {
        let others = (0..self.cores.len()).filter(|&core| core != owner);
        let first = others.min_by(|&a, &b| self.cores[a].ready.total_cmp(&self.cores[b].ready));
        let probe = first.map_or(f64::INFINITY, |first| {
            arrived.max(self.cores[first].ready) + self.costs.window * self.factor(owner, first)
        });
        // The access that brought the line here always runs.
        let mut until = self.access(owner);
        while self.cores[owner].ready <= probe && self.done < operations {
            until = self.access(owner);
        }
        if probe.is_finite() { until.max(probe) } else { until }
    }

    /// Runs one access of a core that may run it. Returns its end.
    fn access(&mut self, core: usize) -> f64 {
        let Costs { locked, load, held, pause, .. } = self.costs;
        let last = self.steps.len() - 1;
        let step = self.wants(core);
        let it = &mut self.cores[core];
        let end = it.ready + if step == Step::Load { load } else { locked };
        it.ready = end;
        match step {
            Step::Load => it.seen = self.value,
            Step::Cas if it.seen != self.value => {
                it.seen = self.value;
                self.retries += 1;
                self.now = self.now.max(end);
                return end;
            }
            Step::Cas | Step::Add => {
                self.value += 1;
                it.ready += held;
            }
            Step::Sub => self.value -= 1,
        }
        if it.step == last {
            it.step = 0;
            it.seen = 1;
            it.ready += pause;
            self.done += 1;
        } else {
            it.step += 1;
        }
        self.now = self.now.max(end);
        end
    }

    /// Returns the core that gets the line next: the one that waits longest, or the first to come.
    fn next(&self, owner: usize, leave: f64, near: &mut u32) -> Option<usize> {
        let oldest = |only_near: bool| {
            (0..self.cores.len())
                .filter(|&core| core != owner && (!only_near || self.factor(owner, core) <= 1.0))
                .min_by(|&a, &b| self.cores[a].ready.total_cmp(&self.cores[b].ready))
        };
        let is_near = self.variant.near_first && *near < NEAR_AT_MOST;
        let core =
            is_near.then(|| oldest(true)).flatten().filter(|&core| self.cores[core].ready <= leave);
        if core.is_some() {
            *near += 1;
            return core;
        }
        *near = 0;
        oldest(false)
    }

    /// Shares the line until a core gains the right to write. Returns that core.
    fn share(&mut self, owner: usize, reader: usize, since: f64) -> usize {
        self.cores.iter_mut().for_each(|core| core.has_copy = false);
        self.cores[owner].has_copy = true;
        self.cores[reader].has_copy = true;
        self.access(reader);
        loop {
            let Some(first) = (0..self.cores.len())
                .min_by(|&a, &b| self.cores[a].ready.total_cmp(&self.cores[b].ready))
            else {
                return owner;
            };
            if self.wants(first) != Step::Load {
                let spread = self.cores.iter().skip(self.per_socket).any(|core| core.has_copy);
                let far = spread || first >= self.per_socket;
                let factor = if far { self.costs.cross } else { 1.0 };
                let start = self.cores[first].ready.max(since);
                let granted = start + (self.costs.window + self.costs.flight) * factor;
                // Cores with a copy read it until it is taken from them.
                for core in 0..self.cores.len() {
                    if self.cores[core].has_copy
                        && self.wants(core) == Step::Load
                        && self.cores[core].ready < granted
                    {
                        self.access(core);
                    }
                }
                self.moves += 1;
                self.cores[first].ready = granted;
                return first;
            }
            let it = &mut self.cores[first];
            if !it.has_copy {
                it.ready = it.ready.max(since) + self.costs.flight;
                it.has_copy = true;
            }
            self.access(first);
        }
    }

    fn wants(&self, core: usize) -> Step {
        self.steps[self.cores[core].step]
    }

    fn factor(&self, a: usize, b: usize) -> f64 {
        if (a < self.per_socket) == (b < self.per_socket) { 1.0 } else { self.costs.cross }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COSTS: Costs = Costs {
        locked: 2.0,
        load: 0.5,
        flight: 20.0,
        window: 0.0,
        cross: 3.0,
        held: 0.0,
        pause: 0.0,
    };
    const PLAIN: Variant = Variant { shares: false, near_first: false };

    fn run(program: Program, costs: Costs, variant: Variant, cores: usize) -> Outcome {
        simulate(program, costs, variant, cores, 4, 2000)
    }

    fn near(value: f64, expected: f64) -> bool {
        (value / expected - 1.0).abs() < 0.02
    }

    #[test]
    fn one_core_pays_for_its_instructions_only() {
        for variant in [PLAIN, Variant { shares: true, near_first: true }] {
            assert!(near(run(Program::Bit, COSTS, variant, 1).ns, 4.0));
            assert!(near(run(Program::ZeroFrozen, COSTS, variant, 1).ns, 4.5));
            assert!(near(run(Program::GuessOne, COSTS, variant, 1).ns, 4.0));
        }
    }

    /// Without a window each operation moves the line: each core waits for all the others.
    #[test]
    fn without_a_window_each_fetch_add_moves_the_line() {
        for cores in [2, 3, 4] {
            let outcome = run(Program::Add, COSTS, PLAIN, cores);
            assert!(near(outcome.ns, 22.0 * cores as f64), "{outcome:?}");
            assert!(near(outcome.in_a_row, 1.0), "{outcome:?}");
        }
    }

    /// With a window several operations share a move.
    #[test]
    fn a_window_of_three_operations_serves_four_per_move() {
        let outcome = run(Program::Add, Costs { window: 6.5, ..COSTS }, PLAIN, 2);
        assert!(near(outcome.in_a_row, 4.0) && near(outcome.ns, 2.0 * 28.0 / 4.0), "{outcome:?}");
    }

    /// A compare-and-swap fails if the value changes between its load and its use.
    #[test]
    fn compare_and_swap_fails_only_under_contention() {
        assert!(run(Program::LoadCas, COSTS, PLAIN, 1).retries == 0.0);
        for variant in [PLAIN, Variant { shares: true, ..PLAIN }] {
            let outcome = run(Program::LoadCas, COSTS, variant, 4);
            assert!(outcome.retries > 0.5, "{variant:?}: {outcome:?}");
            assert!(outcome.ns > run(Program::Add, COSTS, variant, 4).ns, "{variant:?}");
        }
    }

    #[test]
    fn another_socket_is_farther() {
        let [one, two] =
            [4, 8].map(|cores| run(Program::Add, COSTS, PLAIN, cores).ns / cores as f64);
        assert!(two > one * 1.2, "{one} {two}");
        let polite = run(Program::Add, COSTS, Variant { near_first: true, ..PLAIN }, 8).ns / 8.0;
        assert!(polite < two, "{polite} {two}");
    }
}
