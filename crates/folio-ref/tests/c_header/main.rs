//! The C header beside the Rust code: the committed file is that of the generator, and every
//! operation ends in the same word with the same result.
//!
//! Blind spot: orderings. `cargo x c-header --instructions` compares them.

#![cfg(not(any(loom, shuttle, miri)))]

#[path = "../../examples/c_header/generate.rs"]
mod generate;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use folio_ref::schemes::{FrozenBit, Generational, LiveBitHigh, LiveBitLow, Tagged, layouts};
use folio_ref::{
    Frozen, MAX_AT_ONCE, PageRef, PageRefIn, Refused, SATURATED, STALE_LIMIT, Scheme, Snapshot, Tag,
};

/// Random cases for each scheme, beside all boundary words.
const MANY: usize = 1_000_000;
/// The same where a difference shows at once.
const SOME: usize = 20_000;

/// The operations, by their number in `driver.c`.
const OPERATIONS: u32 = 9;

/// A call on a word.
#[derive(Clone, Copy, Debug)]
struct Task {
    word: u64,
    n: u32,
    operation: u32,
}

/// The word after a call, and its result as a number.
type Outcome = (u64, u64);

/// A scheme with words that can be made from a number.
trait Made: Scheme {
    fn with<T>(word: u64, act: impl FnOnce(PageRefIn<'_, Self>) -> T) -> (u64, T);

    fn claim(_: PageRefIn<'_, Self>, _: Task) -> Option<u64> {
        None
    }
}

macro_rules! made {
    ($($scheme:ident: $atomic:ident, $int:ty $(, $claim:ident)?;)*) => { $(
        impl Made for $scheme {
            fn with<T>(word: u64, act: impl FnOnce(PageRefIn<'_, Self>) -> T) -> (u64, T) {
                let word = $atomic::new(word as $int);
                let result = act(PageRef::from_ref(&word));
                (u64::from(word.load(Ordering::Relaxed)), result)
            }
            $(fn claim(word: PageRefIn<'_, Self>, task: Task) -> Option<u64> {
                $claim(word, task)
            })?
        }
    )* };
}

made! {
    FrozenBit: AtomicU32, u32;
    LiveBitHigh: AtomicU32, u32;
    LiveBitLow: AtomicU32, u32;
    Generational: AtomicU64, u64;
    Tagged: AtomicU64, u64, claim_or_leave;
}

/// Runs the two operations with a tag.
fn claim_or_leave(word: PageRefIn<'_, Tagged>, task: Task) -> Option<u64> {
    let tag = Tag::new(u8::try_from(task.n).ok().filter(|&n| n <= Tag::MAX)?);
    if task.operation == 7 {
        return Some(u64::from(word.try_claim(tag).map(Frozen::leave_frozen).is_ok()));
    }
    is_owned(word.snapshot()).then(|| {
        word.take_frozen().leave_frozen_as(tag);
        0
    })
}

fn is_owned(state: Snapshot) -> bool {
    matches!(state, Snapshot::Frozen { .. })
}

fn number(result: Result<(), Refused>) -> u64 {
    match result {
        Ok(()) => 0,
        Err(Refused::Frozen) => 1,
        Err(Refused::Saturated) => 2,
    }
}

/// Runs a call on the word, or returns `None` if no correct caller makes it.
fn in_rust<S: Made>(task: Task) -> Option<Outcome> {
    let n = task.n;
    let (after, result) = S::with(task.word, |word| {
        let state = word.snapshot();
        // More stale increments than all threads together can leave are a broken state (R5).
        let is_possible = state.stale().is_none_or(|stale| stale <= STALE_LIMIT + (1 << 28));
        let is_amount = (1..=MAX_AT_ONCE).contains(&n);
        let is_count = (1..SATURATED).contains(&n);
        // A saturated count is far above what is returned.
        let is_held = |n| match state {
            Snapshot::Live(held) => held >= n,
            Snapshot::Saturated => true,
            _ => false,
        };
        Some(match task.operation {
            0 if is_amount && is_possible => number(word.try_get(n)),
            1 if is_amount && is_possible => number(word.try_get_unless_frozen(n)),
            2 if is_amount && is_held(1) => {
                word.get(n);
                0
            }
            3 if is_amount && is_held(n) => {
                u64::from(word.put_many(n).map(Frozen::leave_frozen).is_some())
            }
            4 if is_held(1) => {
                u64::from(word.put_expecting_last().map(Frozen::leave_frozen).is_some())
            }
            5 if is_count => u64::from(word.freeze(n).map(Frozen::leave_frozen).is_ok()),
            6 if is_count && is_owned(state) => {
                word.take_frozen().unfreeze(n);
                0
            }
            7 | 8 => return S::claim(word, task),
            _ => return None,
        })
    });
    Some((after, result?))
}

/// Returns numbers near each limit.
fn boundaries() -> Vec<u64> {
    let limits = [0, 1, MAX_AT_ONCE, STALE_LIMIT, SATURATED, SATURATED + SATURATED / 2, 1 << 31];
    let near =
        limits.into_iter().flat_map(|limit| (0..5).map(move |n| (limit + n).wrapping_sub(2)));
    let mut near: Vec<u64> = near.map(u64::from).collect();
    near.extend([u64::from(SATURATED - MAX_AT_ONCE), u64::from(SATURATED - MAX_AT_ONCE) - 1]);
    near.sort_unstable();
    near.dedup();
    near
}

/// Returns all boundary cases of a scheme, then random ones.
fn tasks(scheme: usize, random_tasks: usize) -> Vec<Task> {
    let (_, layout) = layouts()[scheme];
    let counts = boundaries();
    let mut words = Vec::new();
    // The highest bits: the bit, the tag and the ends of the generation.
    for top in [0, layout.bit, layout.generation, layout.bit | layout.generation] {
        for tag in 0..=layout.tag >> layout.tag.trailing_zeros().min(63) {
            let tag = if layout.tag == 0 { 0 } else { tag << layout.tag.trailing_zeros() };
            let generation = layout.bump();
            for word in [top | tag, top ^ generation | tag] {
                words.extend(counts.iter().map(|n| word | n << layout.shift & layout.count));
            }
        }
    }
    let amounts: Vec<u32> = [1, 2, 3, 6, 7, MAX_AT_ONCE - 1, MAX_AT_ONCE, SATURATED - 1].into();
    let mut tasks = Vec::new();
    for operation in 0..OPERATIONS {
        for &word in &words {
            let held = u32::try_from((word & layout.count) >> layout.shift).unwrap_or(1);
            let amounts = amounts.iter().copied().chain([held, held.wrapping_add(1), 0]);
            tasks.extend(amounts.map(|n| Task { word, n, operation }));
        }
    }
    // xorshift, from a fixed seed.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64 + scheme as u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for _ in 0..random_tasks {
        let (which, n) = (random(), random());
        let word = match which & 3 {
            0 => random(),
            _ => words[(which >> 8) as usize % words.len()] ^ random() & layout.generation,
        };
        let n =
            if n & 1 == 0 { (n >> 8) as u32 % MAX_AT_ONCE + 1 } else { amounts[n as usize % 8] };
        tasks.push(Task { word, n, operation: (which >> 40) as u32 % OPERATIONS });
    }
    let mask = if layout.width == 64 { u64::MAX } else { u64::from(u32::MAX) };
    for task in &mut tasks {
        task.word &= mask;
    }
    tasks
}

/// Compiles the driver with a header. `None` if there is no C compiler.
fn compile(name: &str, header: &str, options: &[&str]) -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("c-header-{name}"));
    fs::create_dir_all(&folder).expect("a folder for the driver");
    fs::write(folder.join("page_ref.h"), header).expect("the header");
    let driver = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/c_header/driver.c");
    let program = folder.join("driver");
    let output = Command::new("cc")
        .args(["-std=c11", "-O2", "-Wall", "-Wextra", "-Werror"])
        .args(options)
        .arg("-I")
        .arg(&folder)
        .arg(driver)
        .arg("-o")
        .arg(&program)
        .output();
    let Ok(output) = output else {
        eprintln!("SKIPPED: the C header: there is no C compiler 'cc'");
        return None;
    };
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "the driver does not compile with this header:\n{said}");
    Some(program)
}

/// Runs tasks in C.
fn in_c(program: &Path, scheme: usize, tasks: &[Task]) -> Vec<Outcome> {
    let (input, output) = (program.with_extension("in"), program.with_extension("out"));
    let records = tasks.iter().flat_map(|task| {
        let mut record = task.word.to_ne_bytes().to_vec();
        record.extend(task.n.to_ne_bytes());
        record.extend(task.operation.to_ne_bytes());
        record
    });
    fs::write(&input, records.collect::<Vec<u8>>()).expect("the cases");
    let status = Command::new(program).arg(scheme.to_string()).args([&input, &output]).status();
    assert!(status.as_ref().is_ok_and(std::process::ExitStatus::success), "{status:?}");
    let bytes = fs::read(&output).expect("the outcomes");
    let numbers: Vec<u64> = bytes
        .chunks_exact(8)
        .map(|bytes| u64::from_ne_bytes(bytes.try_into().expect("8 bytes")))
        .collect();
    numbers.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect()
}

/// Compares C with Rust on all cases. Returns their number, or the first difference.
fn compare(program: &Path, random_tasks: usize) -> Result<usize, String> {
    let mut compared = 0;
    let schemes = [
        in_rust::<FrozenBit>,
        in_rust::<LiveBitHigh>,
        in_rust::<LiveBitLow>,
        in_rust::<Generational>,
        in_rust::<Tagged>,
    ];
    for (scheme, in_rust) in schemes.into_iter().enumerate() {
        let expected =
            tasks(scheme, random_tasks).into_iter().filter_map(|task| Some((task, in_rust(task)?)));
        let (tasks, expected): (Vec<Task>, Vec<Outcome>) = expected.unzip();
        let got = in_c(program, scheme, &tasks);
        assert_eq!(got.len(), expected.len(), "outcomes of {}", layouts()[scheme].0);
        compared += got.len();
        for ((task, got), expected) in tasks.iter().zip(got).zip(expected) {
            if got != expected {
                let name = layouts()[scheme].0;
                return Err(format!("{name}, {task:x?}: C {got:x?}, Rust {expected:x?}"));
            }
        }
    }
    Ok(compared)
}

#[test]
fn the_committed_header_is_that_of_the_layouts() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/include/page_ref.h");
    let committed = fs::read_to_string(path).unwrap_or_default();
    assert!(committed == generate::header(), "{path} is stale: run 'cargo x c-header'");
}

#[test]
fn c_and_rust_agree_on_every_case() {
    let Some(program) = compile("as-it-is", &generate::header(), &[]) else { return };
    let compared = compare(&program, MANY).expect("no difference");
    println!("{compared} cases, no difference");
    assert!(compared > 1_000_000, "only {compared} cases");
}

/// Linux's atomics, of which the folder `linux` has a stand-in.
#[test]
fn the_header_works_over_the_atomics_of_linux() {
    let stand_in = concat!("-I", env!("CARGO_MANIFEST_DIR"), "/tests/c_header");
    let options = ["-DPAGE_REF_LINUX", stand_in];
    let Some(program) = compile("linux", &generate::header(), &options) else { return };
    compare(&program, SOME).expect("no difference");
}

/// A seeded bug: a constant that is wrong by one bit.
#[test]
fn a_wrong_constant_is_noticed() {
    let header = generate::header();
    let right = "#define TAGGED_GENERATION 0xfffffff00000000ull";
    for (name, right, wrong) in [
        ("generation", right, "#define TAGGED_GENERATION 0x7ffffff00000000ull"),
        ("limit", "PAGE_REF_SATURATED 0x40000000u", "PAGE_REF_SATURATED 0x40000001u"),
        ("count", "LIVE_BIT_LOW_SHIFT 1", "LIVE_BIT_LOW_SHIFT 0"),
    ] {
        assert!(header.contains(right), "{right} is not in the header");
        let Some(program) = compile(name, &header.replace(right, wrong), &[]) else { return };
        compare(&program, SOME).expect_err(wrong);
    }
}
