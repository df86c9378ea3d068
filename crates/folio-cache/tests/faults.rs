//! Every call of a backing fails in every way at every step; the table of what came of it is
//! docs/faults.md.
//!
//! For each cell: a fresh cache over memory, one step with the fault injected, then the fault is
//! healed. Whatever the step was answered with, afterwards the cache is usable, nothing that was
//! written is lost, the error was told to somebody exactly once, and nothing has leaked.
//! `FOLIO_BLESS=1 cargo test -p folio-cache --test faults` writes the table anew.

mod common;

use std::fmt::Write;
use std::fs;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::{assert_nothing_leaked, file_of};
use folio_cache::{Cache, Call, Fault, File, Memory};

const FAULTS: [(&str, Fault); 8] = [
    ("EIO", Fault::Error(5)),
    ("ENOSPC", Fault::Error(28)),
    ("EFBIG", Fault::Error(27)),
    ("EDQUOT", Fault::Error(122)),
    ("ESTALE", Fault::Error(116)),
    ("EINTR", Fault::Error(4)),
    ("short", Fault::Short(13)),
    ("slow", Fault::Delay(Duration::from_millis(1))),
];

const CALLS: [(&str, Call); 6] = [
    ("version", Call::Version),
    ("fill", Call::Fill),
    ("write", Call::Write),
    ("set_len", Call::SetLen),
    ("punch", Call::Punch),
    ("sync", Call::Sync),
];

/// What a step works on. Two pages and a bit; the second page is cached, the third dirty.
struct Stage {
    memory: Arc<Memory>,
    cache: Cache,
    file: File,
    model: Vec<u8>,
}

impl Stage {
    fn new() -> Self {
        let (_dir, _, mut model) = file_of(9000);
        let memory = Arc::new(Memory::new(&model));
        let cache = Cache::new(2 << 20).unwrap();
        let file = cache.open_backing(memory.clone()).unwrap();
        file.read_at(4096, &mut [0; 10]).unwrap();
        file.write_at(8192, b"dirty").unwrap();
        model[8192..8197].copy_from_slice(b"dirty");
        Self { memory, cache, file, model }
    }
}

/// A step, and what it does to the bytes when it succeeds.
struct Step {
    name: &'static str,
    run: fn(&mut Stage) -> io::Result<()>,
    then: fn(&mut Vec<u8>),
    /// Whether after an error a part may be done.
    in_parts: bool,
}

const fn step(
    name: &'static str,
    run: fn(&mut Stage) -> io::Result<()>,
    then: fn(&mut Vec<u8>),
) -> Step {
    Step { name, run, then, in_parts: false }
}

fn nothing(_: &mut Vec<u8>) {}

const STEPS: [Step; 15] = [
    step("open again", |s| s.cache.open_backing(s.memory.clone()).map(drop), nothing),
    step("read a page", |s| s.file.read_at(0, &mut [0; 100]).map(drop), nothing),
    step("take a handle", |s| s.file.page(5).map(drop), nothing),
    step("read past the end", |s| s.file.read_at(9000, &mut [0; 100]).map(drop), nothing),
    step(
        "write to a page that is not cached",
        |s| s.file.write_at(7, b"new").map(drop),
        |model| {
            model[7..10].copy_from_slice(b"new");
        },
    ),
    step(
        "write to a cached page",
        |s| s.file.write_at(4100, b"new").map(drop),
        |model| {
            model[4100..4103].copy_from_slice(b"new");
        },
    ),
    step(
        "overwrite a whole page",
        |s| s.file.write_at(0, &[7; 4096]).map(drop),
        |model| model[..4096].fill(7),
    ),
    step("append", |s| s.file.append(b"new").map(drop), |model| model.extend(b"new")),
    step("truncate", |s| s.file.set_len(5000), |model| model.truncate(5000)),
    step("extend", |s| s.file.set_len(20_000), |model| model.resize(20_000, 0)),
    Step {
        name: "punch",
        run: |s| s.file.punch_hole(10, 8990),
        then: |model| model[10..].fill(0),
        in_parts: true,
    },
    step("flush", |s| s.file.flush(), nothing),
    step("sync_data", |s| s.file.sync_data(), nothing),
    step("revalidate", |s| s.file.revalidate().map(drop), nothing),
    step(
        "last close, open again",
        |s| {
            let (memory, cache) = (s.memory.clone(), s.cache.clone());
            // The only file is put away, which is the last close.
            let placeholder = cache.open_backing(Arc::new(Memory::new(b"")))?;
            drop(std::mem::replace(&mut s.file, placeholder));
            s.file = cache.open_backing(memory.clone()).or_else(|_| cache.open_backing(memory))?;
            Ok(())
        },
        nothing,
    ),
];

/// The outcome of a run so short that the flusher, which comes after a second, was not part of it.
fn undisturbed(run: impl Fn() -> &'static str) -> &'static str {
    loop {
        let started = Instant::now();
        let outcome = run();
        if started.elapsed() < Duration::from_millis(500) {
            return outcome;
        }
    }
}

/// Runs one cell, checks it, and says what came of it.
fn cell(step: &Step, call: Call, name: &str, fault: Fault) -> &'static str {
    let at = format!("{}, {call:?}, {name}", step.name);
    let mut stage = Stage::new();
    let before = stage.memory.calls(call);
    stage.memory.inject(call, 0, 1, fault);
    let result = (step.run)(&mut stage);
    let called = stage.memory.calls(call) > before;
    stage.memory.heal();
    let was = stage.model.clone();
    if result.is_ok() {
        (step.then)(&mut stage.model);
    }
    // What was not told yet, is now.
    let told = stage.file.sync_data();
    stage.file.sync_data().unwrap_or_else(|error| panic!("{at}: reported twice: {error}"));
    let fatal = match fault {
        Fault::Error(code) if code != 4 => Some(code),
        _ => None,
    };
    for error in [&result, &told].into_iter().filter_map(|result| result.as_ref().err()) {
        assert_eq!(error.raw_os_error(), fatal, "{at}: another error");
    }
    // The truth, by the backing, by a read, and by a read of what is not cached.
    let mut buf = vec![0; stage.model.len() + 10];
    for _ in 0..2 {
        let n = stage.file.read_at(0, &mut buf).unwrap();
        if result.is_err() && step.in_parts {
            (step.then)(&mut stage.model);
            let part = buf[..n].iter().zip(&was).zip(&stage.model);
            assert!(
                n == was.len() && part.into_iter().all(|((got, was), is)| got == was || got == is),
                "{at}"
            );
        } else {
            assert!(buf[..n] == stage.model, "{at}: {n} bytes are not what they should be");
        }
        assert!(stage.memory.durable() == buf[..n], "{at}: what was synced is not durable");
        stage.file.invalidate();
    }
    let (cache, file) = (stage.cache.clone(), stage.file);
    drop(file);
    assert_nothing_leaked(&cache);
    match (called, fatal, result, told) {
        (false, ..) => "·",
        (true, None, Ok(()), Ok(())) => "whole",
        (true, Some(_), Err(_), Ok(())) => "reported",
        (true, Some(_), Ok(()), Err(_)) => "next sync",
        // A look at the version before or after a change of ours: the next revalidation drops clean
        // pages for nothing.
        (true, Some(_), Ok(()), Ok(())) if call == Call::Version => "harmless",
        other => panic!("{at}: {other:?}"),
    }
}

#[test]
fn every_call_fails_in_every_way_at_every_step() {
    let mut table = String::from(
        "# Faults\n\n\
         Generated by `FOLIO_BLESS=1 cargo test -p folio-cache --test faults`. The test runs every cell.\n\
         After each cell it checks that the cache is usable, that no written data is lost, that the error\n\
         was reported exactly once, and that no frame leaked. Without the variable it compares this page.\n\n\
         - **reported**: the step fails with this error, and nothing has changed.\n\
         - **next sync**: the step succeeds and the next sync or flush fails. The data stays dirty, and the\n  \
           sync after that writes it.\n\
         - **whole**: the call was repeated or continued until it was complete.\n\
         - **harmless**: the call checks the version before or after our own change. Clean pages may be read\n  \
           again.\n\
         - **·**: the step does not make this call.\n",
    );
    let mut cells = 0;
    for (call_name, call) in CALLS {
        let _ = write!(table, "\n## {call_name}\n\n| step |");
        for (name, _) in FAULTS {
            let _ = write!(table, " {name} |");
        }
        let _ = writeln!(table, "\n| --- |{}", " --- |".repeat(FAULTS.len()));
        for step in &STEPS {
            let outcomes =
                FAULTS.map(|(name, fault)| undisturbed(|| cell(step, call, name, fault)));
            cells += outcomes.len();
            if outcomes.iter().any(|&outcome| outcome != "·") {
                let _ = writeln!(table, "| {} | {} |", step.name, outcomes.join(" | "));
            }
        }
    }
    let _ = writeln!(table, "\n{cells} cells; steps that do not make the call are left out.");
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/faults.md");
    if std::env::var_os("FOLIO_BLESS").is_some() {
        fs::write(path, &table).unwrap();
    }
    assert_eq!(
        fs::read_to_string(path).unwrap_or_default(),
        table,
        "docs/faults.md differs from the results: run this test with FOLIO_BLESS=1"
    );
}

/// Offsets and lengths around every border of page and file, against a `Vec`.
#[test]
fn every_border_of_page_and_file() {
    let (_dir, _, bytes) = file_of(8192 + 100);
    let offsets =
        [0, 1, 4095, 4096, 4097, 8191, 8192, 8193, 8291, 8292, 8293, 12_287, 12_288, 12_289];
    let lengths = [0, 1, 4095, 4096, 4097, 8192, 8193];
    let cache: Cache = Cache::new(2 << 20).unwrap();
    for offset in offsets {
        for len in lengths {
            for what in 0..4 {
                let mut model = bytes.clone();
                let memory = Arc::new(Memory::new(&bytes));
                let file = cache.open_backing(memory.clone()).unwrap();
                let end = model.len().min(offset + len);
                match what {
                    0 => {
                        assert_eq!(file.write_at(offset as u64, &vec![3; len]).unwrap(), len);
                        if len > 0 {
                            model.resize(model.len().max(offset + len), 0);
                            model[offset..offset + len].fill(3);
                        }
                    }
                    1 => {
                        file.punch_hole(offset as u64, len as u64).unwrap();
                        model.get_mut(offset..end).into_iter().flatten().for_each(|byte| *byte = 0);
                    }
                    2 => {
                        file.set_len((offset + len) as u64).unwrap();
                        model.resize(offset + len, 0);
                    }
                    _ => {
                        let mut buf = vec![0; len];
                        let n = file.read_at(offset as u64, &mut buf).unwrap();
                        assert_eq!(&buf[..n], bytes.get(offset..end).unwrap_or_default());
                    }
                }
                let mut buf = vec![0; model.len() + 1];
                assert_eq!(
                    file.read_at(0, &mut buf).unwrap(),
                    model.len(),
                    "{what} at {offset}, {len}"
                );
                assert!(buf[..model.len()] == model, "{what} at {offset}, {len}");
                file.close().unwrap();
                assert!(memory.contents() == model, "{what} at {offset}, {len}");
            }
        }
    }
    assert_nothing_leaked(&cache);
}
