//! Every call of a backing fails in every way at every step; docs/faults.md is the table of the
//! outcomes.
//!
//! Each cell runs one step on a fresh cache over memory with the fault injected, then the fault is
//! healed. For any result of the step, afterwards the cache is usable, no write is lost, the error
//! was reported exactly once, and nothing has leaked. `FOLIO_BLESS=1 cargo test -p folio-cache
//! --test faults` rewrites the table.

mod common;

use std::fmt::Write;
use std::fs;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::{assert_nothing_leaked, file_of};
use folio_cache::testing::{Call, Fault, Memory};
use folio_cache::{Cache, File};

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

/// The state for a step: a file of 9000 bytes. Its second page is cached, its third page is dirty.
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
        file.read_at(&mut [0; 10], 4096).unwrap();
        file.write_at(b"dirty", 8192).unwrap();
        model[8192..8197].copy_from_slice(b"dirty");
        Self { memory, cache, file, model }
    }
}

/// A step, and its effect on the bytes if it succeeds.
struct Step {
    name: &'static str,
    run: fn(&mut Stage) -> io::Result<()>,
    then: fn(&mut Vec<u8>),
    /// `true` if the step may be partly done after an error.
    may_be_partial: bool,
}

const fn step(
    name: &'static str,
    run: fn(&mut Stage) -> io::Result<()>,
    then: fn(&mut Vec<u8>),
) -> Step {
    Step { name, run, then, may_be_partial: false }
}

fn nothing(_: &mut Vec<u8>) {}

const STEPS: [Step; 15] = [
    step("open again", |s| s.cache.open_backing(s.memory.clone()).map(drop), nothing),
    step("read a page", |s| s.file.read_at(&mut [0; 100], 0).map(drop), nothing),
    step("take a handle", |s| s.file.page(5).map(drop), nothing),
    step("read past the end", |s| s.file.read_at(&mut [0; 100], 9000).map(drop), nothing),
    step(
        "write to a missing page",
        |s| s.file.write_at(b"new", 7).map(drop),
        |model| {
            model[7..10].copy_from_slice(b"new");
        },
    ),
    step(
        "write to a cached page",
        |s| s.file.write_at(b"new", 4100).map(drop),
        |model| {
            model[4100..4103].copy_from_slice(b"new");
        },
    ),
    step(
        "overwrite a whole page",
        |s| s.file.write_at(&[7; 4096], 0).map(drop),
        |model| model[..4096].fill(7),
    ),
    step("append", |s| s.file.append(b"new").map(drop), |model| model.extend(b"new")),
    step("truncate", |s| s.file.set_len(5000), |model| model.truncate(5000)),
    step("lengthen", |s| s.file.set_len(20_000), |model| model.resize(20_000, 0)),
    Step {
        name: "punch",
        run: |s| s.file.punch_hole(10, 8990),
        then: |model| model[10..].fill(0),
        may_be_partial: true,
    },
    step("flush", |s| s.file.flush(), nothing),
    step("sync_data", |s| s.file.sync_data(), nothing),
    step("revalidate", |s| s.file.revalidate().map(drop), nothing),
    step(
        "last close, open again",
        |s| {
            let (memory, cache) = (s.memory.clone(), s.cache.clone());
            // Replaces the only open file, which is its last close.
            let placeholder = cache.open_backing(Arc::new(Memory::new(b"")))?;
            drop(std::mem::replace(&mut s.file, placeholder));
            s.file = cache.open_backing(memory.clone()).or_else(|_| cache.open_backing(memory))?;
            Ok(())
        },
        nothing,
    ),
];

/// Returns the outcome of a run that is too short for the flusher, which runs after a second.
fn undisturbed(run: impl Fn() -> &'static str) -> &'static str {
    loop {
        let started = Instant::now();
        let outcome = run();
        if started.elapsed() < Duration::from_millis(500) {
            return outcome;
        }
    }
}

/// Runs one cell and checks it. Returns its outcome.
fn cell(step: &Step, call: Call, name: &str, fault: Fault) -> &'static str {
    let at = format!("{}, {call:?}, {name}", step.name);
    let mut stage = Stage::new();
    let calls = stage.memory.calls(call);
    stage.memory.inject(call, 0, 1, fault);
    let result = (step.run)(&mut stage);
    let called = stage.memory.calls(call) > calls;
    stage.memory.heal();
    let before = stage.model.clone();
    if result.is_ok() {
        (step.then)(&mut stage.model);
    }
    // An error that was not reported yet is reported now.
    let synced = stage.file.sync_data();
    stage.file.sync_data().unwrap_or_else(|error| panic!("{at}: reported twice: {error}"));
    let fatal = match fault {
        Fault::Error(code) if code != 4 => Some(code),
        _ => None,
    };
    for error in [&result, &synced].into_iter().filter_map(|result| result.as_ref().err()) {
        assert_eq!(error.raw_os_error(), fatal, "{at}: another error");
    }
    // The bytes as the backing has them, as a read returns them, and as a read of an empty cache
    // returns them.
    let mut buf = vec![0; stage.model.len() + 10];
    for _ in 0..2 {
        let n = stage.file.read_at(&mut buf, 0).unwrap();
        if result.is_err() && step.may_be_partial {
            (step.then)(&mut stage.model);
            let mut bytes = buf[..n].iter().zip(&before).zip(&stage.model);
            assert!(
                n == before.len() && bytes.all(|((got, old), new)| got == old || got == new),
                "{at}"
            );
        } else {
            assert!(buf[..n] == stage.model, "{at}: {n} bytes differ from the model");
        }
        assert!(stage.memory.durable() == buf[..n], "{at}: synced bytes are not durable");
        stage.file.invalidate();
    }
    let (cache, file) = (stage.cache.clone(), stage.file);
    drop(file);
    assert_nothing_leaked(&cache);
    match (called, fatal, result, synced) {
        (false, ..) => "·",
        (true, None, Ok(()), Ok(())) => "whole",
        (true, Some(_), Err(_), Ok(())) => "reported",
        (true, Some(_), Ok(()), Err(_)) => "next sync",
        // A query of the version before or after a change by the cache: the next revalidation drops
        // clean pages needlessly.
        (true, Some(_), Ok(()), Ok(())) if call == Call::Version => "harmless",
        other => panic!("{at}: {other:?}"),
    }
}

#[test]
fn every_call_fails_in_every_way_at_every_step() {
    let mut table = String::from(
        "# Faults\n\n\
         Generated by `FOLIO_BLESS=1 cargo test -p folio-cache --test faults`. The test runs\n\
         every cell, and then checks that the cache is usable, that no write was lost, that the\n\
         error was reported exactly once, and that no frame leaked. Without the variable it\n\
         compares.\n\n\
         **reported**: the step fails with this error, and nothing has changed. **next sync**:\n\
         the step succeeds, the next sync or flush fails, the data stays and is written by the\n\
         one after. **whole**: the call is repeated or continued until it is complete.\n\
         **harmless**: a query of the version before or after a change by the cache; clean\n\
         pages may be read again. **·**: the step makes no such call.\n",
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
        "docs/faults.md is out of date: run this test with FOLIO_BLESS=1"
    );
}

/// Checks offsets and lengths around every border of page and file against a `Vec`.
#[test]
fn every_border_of_page_and_file() {
    let (_dir, _, bytes) = file_of(8192 + 100);
    let offsets =
        [0, 1, 4095, 4096, 4097, 8191, 8192, 8193, 8291, 8292, 8293, 12_287, 12_288, 12_289];
    let lengths = [0, 1, 4095, 4096, 4097, 8192, 8193];
    let cache: Cache = Cache::new(2 << 20).unwrap();
    for offset in offsets {
        for len in lengths {
            for operation in 0..4 {
                let mut model = bytes.clone();
                let memory = Arc::new(Memory::new(&bytes));
                let file = cache.open_backing(memory.clone()).unwrap();
                let end = model.len().min(offset + len);
                match operation {
                    0 => {
                        assert_eq!(file.write_at(&vec![3; len], offset as u64).unwrap(), len);
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
                        let n = file.read_at(&mut buf, offset as u64).unwrap();
                        assert_eq!(&buf[..n], bytes.get(offset..end).unwrap_or_default());
                    }
                }
                let mut buf = vec![0; model.len() + 1];
                assert_eq!(
                    file.read_at(&mut buf, 0).unwrap(),
                    model.len(),
                    "{operation} at {offset}, {len}"
                );
                assert!(buf[..model.len()] == model, "{operation} at {offset}, {len}");
                file.close().unwrap();
                assert!(memory.contents() == model, "{operation} at {offset}, {len}");
            }
        }
    }
    assert_nothing_leaked(&cache);
}
