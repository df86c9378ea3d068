//! Projects the word past the cores of this machine: a model of one cache line, calibrated here.
//!
//! The model (`cache_line.rs`) has what matters when many cores want one line. The line takes time
//! to move, a core keeps it for a while, and waiting cores form a queue. A failed compare-and-swap
//! was still a move. A load may leave the line shared, so that a write has to ask again. The
//! variants are the model's unknowns. Each is fitted to the times of two cores here, and compared
//! with published numbers. No variant is right, so the answer is a range.
//!
//! **Do not rely on:** the time between sockets, which is assumed; two threads on one core;
//! directories that differ between sockets; more than one line; a queue that starves a core; and
//! any variant with a large misfit.

use std::io;
use std::sync::atomic::Ordering;

use folio_ref::schemes::{GuessOne, ZeroFrozen};

use super::{between, word};
use crate::harness::{Ask, Matrix, Ratio, Report, Row, Scenario, Shape, Table, Unit, cpus, median};
use crate::support::cache_line::{Costs, Program, Variant, simulate};

/// Cores of one socket.
const PER_SOCKET: usize = 96;
/// The numbers of cores that are projected.
const CORES: [usize; 10] = [1, 2, 4, 8, 16, 32, 64, 96, 128, 192];
/// The factors of the time between sockets: assumed, from common tables of core-to-core latencies.
const CROSS: [f64; 2] = [2.0, 6.0];

/// The word alone, the loop of `bench word`.
const WORD: &str = "the word alone";
/// The word with a lookup and a copy of 64 bytes around it.
const READ: &str = "a read of 64 bytes";
/// Nanoseconds that a read holds the reference, and that it takes on its way to the word: `bench
/// read` on our machine.
const HELD: f64 = 3.2;
const PAUSE: f64 = 1.0;

const PROGRAMS: [(Program, &str); 3] =
    [(Program::Bit, BIT), (Program::ZeroFrozen, "zero-frozen"), (Program::GuessOne, "guess-one")];
/// The schemes frozen-bit, live-bit-high, live-bit-low and generational: the same accesses.
const BIT: &str = "schemes with a bit";
const NO_REFERENCE: &str = "no reference";

/// The index of zero-frozen among them.
const ZERO: usize = 1;

/// Operations of a simulation that is fitted.
const FITTED: u64 = 4000;

/// A known value, published or measured on our machine: the program, its cores, and nanoseconds or
/// retries.
struct Known {
    what: &'static str,
    on: Machine,
    program: Program,
    cores: usize,
    value: f64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Machine {
    /// This machine.
    Here,
    /// A laptop with a Zen 4 of eight cores, two threads each.
    Laptop,
    /// Two sockets of 56 CPUs: retries, not nanoseconds.
    Server,
}

/// Published values. Fetch-add at 1 and 4 threads and load + compare-and-swap at 1 calibrate the
/// laptop; the rest are checks.
const LAPTOP_LOCKED: f64 = 2.76;
const LAPTOP_LOAD: f64 = 3.12 - 2.76;
const LAPTOP_ADD_4: f64 = 42.1;

/// The times of two cores here.
#[derive(Clone, Copy, Debug)]
struct Measured {
    /// A pair of fetch-add and fetch-sub on one core, and a pair of zero-frozen.
    pair_1: f64,
    zero_1: f64,
    /// The pair on two cores, and the number of pairs that one core does in a row.
    pair_2: f64,
    in_a_row: f64,
    zero_2: f64,
    guess_2: f64,
}

/// A variant with its costs here and on the laptop.
struct Fitted {
    name: String,
    variant: Variant,
    here: Costs,
    laptop: Costs,
}

/// Runs the benchmark: measures the calibration, then runs the model.
///
/// # Errors
///
/// An error if there are fewer than two CPUs, or if two threads never ran at once; `Interrupted` if
/// it is stopped early.
pub(super) fn ask(ask: &mut Ask<'_>) -> io::Result<Report> {
    let measured = measure(ask)?;
    let variants = variants(&measured);
    let mut report = Report {
        shape: Shape::Lines,
        compared_with: &["zero-frozen"],
        ..Report::new(
            "A model of one cache line: try_get and put on one word",
            Unit::Ns,
            "operation",
            BIT,
        )
    };
    // The speed of a fetch-add relative to the loop on the largest number of cores: by scenario, by
    // variant.
    let mut ratios: Vec<Vec<f64>> = Vec::new();
    for (name, held, pause) in [(WORD, 0.0, 0.0), (READ, HELD, PAUSE)] {
        for threads in CORES {
            if ask.stop.load(Ordering::Relaxed) {
                return Err(io::Error::new(
                    io::ErrorKind::Interrupted,
                    "stopped before the model was done",
                ));
            }
            let scenario = Scenario { name, threads };
            let times: Vec<[f64; 3]> =
                variants.iter().map(|variant| variant.times(held, pause, threads)).collect();
            for (place, (_, name)) in PROGRAMS.iter().enumerate() {
                let values: Vec<f64> = times.iter().map(|times| times[place]).collect();
                report.rows.extend(Row::of(*name, scenario, &values));
                let speeds: Vec<f64> =
                    times.iter().map(|times| times[ZERO] / times[place]).collect();
                if place != ZERO {
                    report.ratios.push(Ratio {
                        of: (*name).to_owned(),
                        to: "zero-frozen",
                        scenario,
                        value: median(&speeds),
                    });
                }
            }
            // Two loads of a line without a writer: each core has its copy.
            report.rows.extend(Row::of(
                NO_REFERENCE,
                scenario,
                &[2.0 * variants[0].here.load + held + pause],
            ));
            if CORES.last() == Some(&threads) {
                ratios.push(times.iter().map(|times| times[ZERO] / times[0]).collect());
            }
        }
    }
    report.notes = notes(&ratios);
    report.tables =
        vec![calibration(&measured, &variants), against(&known(&measured), &variants, &ratios)];
    Ok(report)
}

/// Measures the times of two cores here.
fn measure(ask: &mut Ask<'_>) -> io::Result<Measured> {
    let no = |why: &str| io::Error::other(format!("the model cannot be calibrated: {why}"));
    if cpus().len() < 2 {
        return Err(no("it takes two CPUs, and there is one"));
    }
    let matrix = Matrix {
        title: "calibration",
        unit: Unit::Ns,
        per: "pair",
        scenarios: [1, 2].map(|threads| Scenario { name: word::ONE, threads }).into(),
        contenders: vec![
            between::nothing(2),
            word::words::<ZeroFrozen>(2),
            word::words::<GuessOne>(2),
        ],
        compared_with: &[],
        ours: between::NOTHING.to_owned(),
        shape: Shape::Bars,
    };
    let report = matrix.measure(ask)?;
    let find = |name: &str, threads| {
        let row =
            report.rows.iter().find(|row| row.name == name && row.scenario.threads == threads);
        row.ok_or_else(|| no("two threads never ran at once"))
    };
    let pair = find(between::NOTHING, 2)?;
    let in_a_row =
        pair.more.iter().find(|more| more.0 == between::IN_A_ROW).map_or(1.0, |more| more.1);
    Ok(Measured {
        pair_1: find(between::NOTHING, 1)?.median,
        zero_1: find("zero-frozen", 1)?.median,
        pair_2: pair.median,
        in_a_row,
        zero_2: find("zero-frozen", 2)?.median,
        guess_2: find("guess-one", 2)?.median,
    })
}

/// Returns every combination of the unknowns, fitted.
fn variants(measured: &Measured) -> Vec<Fitted> {
    let locked = measured.pair_1 / 2.0;
    let load = (measured.zero_1 - measured.pair_1).max(0.1);
    let plain = Costs { locked, load, flight: 0.0, window: 0.0, cross: 1.0, held: 0.0, pause: 0.0 };
    let alone = Variant { shares: false, near_first: false };
    let pairs = |costs: Costs| simulate(Program::Bit, costs, alone, 2, PER_SOCKET, FITTED);
    // The window follows from the pairs in a row, the flight from the time.
    let fit = |window: f64| Costs {
        window,
        ..flight(plain, window, measured.pair_2, &|costs| pairs(costs).ns)
    };
    let window = bisect(0.0, 200.0, measured.in_a_row, &|window| pairs(fit(window)).in_a_row);
    let laptop = Costs { locked: LAPTOP_LOCKED, load: LAPTOP_LOAD, ..plain };
    let adds = |costs: Costs| simulate(Program::Add, costs, alone, 4, PER_SOCKET, FITTED).ns;
    let mut variants = Vec::new();
    for (window, keeps) in [(window, "keeps the line for a while"), (0.0, "lets go at once")] {
        // On the laptop the window has room for as many instructions as here.
        let there = window * LAPTOP_LOCKED / locked;
        let (here, laptop) = (fit(window), flight(laptop, there, LAPTOP_ADD_4, &adds));
        for (shares, loads) in [(false, "loads take it alone"), (true, "loads share it")] {
            for (near_first, order) in [(false, "in turn"), (true, "near first")] {
                for cross in CROSS {
                    variants.push(Fitted {
                        name: format!("{keeps}, {loads}, {order}, sockets {cross} times as far"),
                        variant: Variant { shares, near_first },
                        here: Costs { cross, ..here },
                        laptop: Costs { cross, ..laptop },
                    });
                }
            }
        }
    }
    variants
}

/// Returns the costs with the flight at which a simulation takes `target`.
fn flight(costs: Costs, window: f64, target: f64, ns: &dyn Fn(Costs) -> f64) -> Costs {
    let costs = Costs { window, ..costs };
    Costs { flight: bisect(0.0, 500.0, target, &|flight| ns(Costs { flight, ..costs })), ..costs }
}

/// Returns the argument at which an increasing function reaches the target.
fn bisect(mut low: f64, mut high: f64, target: f64, f: &dyn Fn(f64) -> f64) -> f64 {
    for _ in 0..24 {
        let mid = f64::midpoint(low, high);
        if f(mid) < target { low = mid } else { high = mid }
    }
    f64::midpoint(low, high)
}

impl Fitted {
    /// Returns the time of one operation of each program.
    fn times(&self, held: f64, pause: f64, cores: usize) -> [f64; 3] {
        let costs = Costs { held, pause, ..self.here };
        PROGRAMS.map(|(program, _)| {
            simulate(program, costs, self.variant, cores, PER_SOCKET, operations(cores)).ns
        })
    }

    /// Returns the value that this variant predicts for a known one.
    fn predict(&self, known: &Known) -> f64 {
        let (costs, per_socket) = match known.on {
            Machine::Here => (self.here, PER_SOCKET),
            Machine::Laptop => (self.laptop, PER_SOCKET),
            Machine::Server => (self.here, known.cores / 2),
        };
        let outcome = simulate(
            known.program,
            costs,
            self.variant,
            known.cores,
            per_socket,
            operations(known.cores),
        );
        if known.on == Machine::Server { outcome.retries } else { outcome.ns }
    }
}

/// Returns a number of operations that gives each core many turns.
fn operations(cores: usize) -> u64 {
    FITTED.max(cores as u64 * 40)
}

fn known(measured: &Measured) -> Vec<Known> {
    let here = |what, program, value| Known { what, on: Machine::Here, program, cores: 2, value };
    let laptop =
        |what, program, cores, value| Known { what, on: Machine::Laptop, program, cores, value };
    vec![
        here("here, zero-frozen, 2", Program::ZeroFrozen, measured.zero_2),
        here("here, guess-one, 2", Program::GuessOne, measured.guess_2),
        laptop("laptop, fetch-add, 8", Program::Add, 8, 84.8),
        laptop("laptop, fetch-add, 16", Program::Add, 16, 226.0),
        laptop("laptop, load + CAS, 4", Program::LoadCas, 4, 51.1),
        Known {
            what: "rcuref, retries, 112",
            on: Machine::Server,
            program: Program::ZeroFrozen,
            cores: 112,
            value: 8.0,
        },
    ]
}

fn calibration(measured: &Measured, variants: &[Fitted]) -> Table {
    let row = |what: &str, value: f64| vec![what.to_owned(), format!("{value:.2}")];
    let mut rows = vec![
        row("pair of fetch-add and fetch-sub, 1 thread, ns", measured.pair_1),
        row("the same, 2 threads on one word, ns", measured.pair_2),
        row("pairs in a row", measured.in_a_row),
        row("zero-frozen, 1 thread, ns", measured.zero_1),
        row("zero-frozen, 2 threads on one word, ns", measured.zero_2),
        row("guess-one, 2 threads on one word, ns", measured.guess_2),
    ];
    let fitted = [("keeps the line", variants.first()), ("lets go at once", variants.last())];
    for (name, variant) in fitted.into_iter().filter_map(|(name, variant)| Some((name, variant?))) {
        rows.push(row(&format!("fitted, {name}: window, ns"), variant.here.window));
        rows.push(row(&format!("fitted, {name}: flight, ns"), variant.here.flight));
    }
    Table {
        title: "Measured here, and the fit",
        header: ["", "value"].map(str::to_owned).into(),
        rows,
    }
}

/// Returns the table of the variants beside the known values, with their errors and predictions for
/// the most cores.
fn against(known: &[Known], variants: &[Fitted], ratios: &[Vec<f64>]) -> Table {
    let mut header = vec!["variant".to_owned()];
    header.extend(known.iter().map(|known| known.what.to_owned()));
    header.extend(["misfit", "192, word", "192, read"].map(str::to_owned));
    let mut first = vec!["known".to_owned()];
    first.extend(known.iter().map(|known| format!("{:.1}", known.value)));
    first.extend(["-", "-", "-"].map(str::to_owned));
    let mut rows = vec![first];
    for (place, variant) in variants.iter().enumerate() {
        let mut row = vec![variant.name.clone()];
        let mut off = 0.0;
        for known in known {
            let says = variant.predict(known);
            // Less than one retry in a hundred counts as none.
            off += (says.max(0.01) / known.value).ln().abs();
            row.push(format!("{says:.1} ({:+.0} %)", (says / known.value - 1.0) * 100.0));
        }
        row.push(format!("{:.2}", (off / known.len() as f64).exp()));
        row.extend(ratios.iter().map(|ratios| format!("{:.2}", ratios[place])));
        rows.push(row);
    }
    Table { title: "Each variant beside the known values", header, rows }
}

fn notes(ratios: &[Vec<f64>]) -> Vec<String> {
    let range = |values: &[f64]| {
        let (least, most) = (
            values.iter().copied().fold(f64::INFINITY, f64::min),
            values.iter().copied().fold(0.0, f64::max),
        );
        format!("{least:.1} to {most:.1}")
    };
    let mut notes = vec![
        "a line is the median of all variants, and its band reaches from the least to the most; \
         'speed to' is the median of the variants' ratios"
            .to_owned(),
        "misfit: the geometric mean of the factors by which a variant misses the known values; \
         1 is perfect. 192, word and 192, read: the speed of the schemes with a bit relative to \
         zero-frozen there"
            .to_owned(),
    ];
    for (name, ratios) in [WORD, READ].iter().zip(ratios) {
        notes.push(format!(
            "at 192 cores the schemes with a bit are {} times as fast as zero-frozen: {name}",
            range(ratios)
        ));
    }
    notes.push(
        "do not rely on it past one socket (the distance is assumed, 2 and 6 times), where two \
         threads share a core (the laptop's 16), where a variant's misfit is large, or for \
         anything except one hot line"
            .to_owned(),
    );
    notes
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEASURED: Measured = Measured {
        pair_1: 4.1,
        zero_1: 4.9,
        pair_2: 18.0,
        in_a_row: 3.9,
        zero_2: 27.0,
        guess_2: 35.0,
    };

    #[test]
    fn every_variant_reproduces_its_calibration() {
        for variant in variants(&MEASURED).iter().step_by(5) {
            let [bit, ..] = variant.times(0.0, 0.0, 2);
            assert!((bit / MEASURED.pair_2 - 1.0).abs() < 0.1, "{}: {bit}", variant.name);
            let [alone, zero, _] = variant.times(0.0, 0.0, 1);
            assert!(
                (alone - MEASURED.pair_1).abs() < 0.1 && (zero - MEASURED.zero_1).abs() < 0.1,
                "{}",
                variant.name
            );
            let four = Known {
                what: "",
                on: Machine::Laptop,
                program: Program::Add,
                cores: 4,
                value: LAPTOP_ADD_4,
            };
            assert!((variant.predict(&four) / four.value - 1.0).abs() < 0.1, "{}", variant.name);
        }
    }

    #[test]
    fn an_increasing_function_is_inverted() {
        assert!((bisect(0.0, 10.0, 9.0, &|x| x * x) - 3.0).abs() < 1e-4);
    }
}
