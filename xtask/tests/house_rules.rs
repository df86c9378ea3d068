//! The house rules, as an ordinary test: compares the tree with the rules in CONTRIBUTING.md and
//! ARCHITECTURE.md.

mod common;

use std::collections::BTreeSet;

use common::code::code_of;
use common::{Manifest, crate_folders, read, rust_files, section, source_files};

/// The files that may hold unsafe code, each for a reason that its own doc gives.
const UNSAFE_ROOMS: &[&str] = &[
    "crates/folio-frames/src/zone/adjacent.rs",
    "crates/folio-frames/src/zone/adopt.rs",
    "crates/folio-frames/src/os/arena.rs",
    "crates/folio-frames/src/base/lock_api_04.rs",
    "crates/folio-frames/src/base/vectors.rs",
    "crates/folio-frames/src/memmap/blocks.rs",
    "crates/folio-frames/src/zone/folio.rs",
    "crates/folio-frames/src/moving/hotplug.rs",
    "crates/folio-frames/src/memmap/memmap.rs",
    "crates/folio-frames/src/base/prefetch.rs",
    "crates/folio-frames/src/base/racy_copy.rs",
    "crates/folio-frames/src/base/string_copy.rs",
    "crates/folio-frames/src/index/lock.rs",
    "crates/folio-frames/src/os/futex_lock.rs",
    "crates/folio-frames/src/os/lazy_range.rs",
    "crates/folio-frames/src/os/retire.rs",
    "crates/folio-frames/src/os/leaf_memory.rs",
    "crates/folio-frames/src/os/slot_space.rs",
    "crates/folio-frames/src/os/stepped_space.rs",
    "crates/folio-frames/src/index/optimistic.rs",
    "crates/folio-frames/src/os/user_space.rs",
    "crates/folio-frames/src/zone/pinned_bytes.rs",
    "crates/folio-frames/src/zone/raw.rs",
    "crates/folio-frames/src/zone/volatile.rs",
    "crates/folio-frames/src/zone/new.rs",
    "crates/folio-frames/src/zone/zone.rs",
    "crates/folio-frames/src/zone/holes.rs",
    "crates/folio-frames/src/index/zones.rs",
    // A system call that no safe crate offers. It involves no memory.
    "crates/folio-uring/src/begin.rs",
    // A forked child: `fork` has no safe interface.
    "crates/folio-uring/src/child.rs",
    // A page that the kernel clears in each child: a mapping.
    "crates/folio-uring/src/process.rs",
    // Memory that the kernel writes after the call that passed it has returned.
    "crates/folio-uring/src/ring.rs",
    // A zone over memory that the test allocates, as a kernel would: Miri cannot map memory.
    "crates/folio-frames/tests/guest_memory.rs",
    "crates/folio-frames/tests/racing.rs",
    "crates/folio-frames/tests/risky_places.rs",
    // Raw references: taking one is unsafe.
    "crates/folio-frames/tests/raw.rs",
    "crates/folio-frames/tests/page_table/mod.rs",
    // Zones over memory as a kernel has it: at chosen frame numbers, and with holes.
    "crates/folio-frames/tests/common/mod.rs",
    "crates/folio-frames/tests/memory_maps.rs",
    "crates/folio-frames/tests/edges.rs",
    // Children: `fork` has no safe interface.
    "crates/folio-cache/tests/fork.rs",
    "crates/folio-uring/tests/fork.rs",
    // Wakers of which the clone is foreign code: their table of functions is unsafe.
    "crates/folio-cache/tests/hostile_wakers.rs",
    // A lock of a platform of its own, to force schedules: `RawMutex` is an unsafe trait.
    "crates/folio-frames/tests/common/hooked.rs",
    // A machine without an operating system: its instructions, the state that firmware and
    // assembly leave, and the promises of the code that provides memory.
    "examples/bare-metal/src/arch/aarch64/boot.rs",
    "examples/bare-metal/src/arch/aarch64/firmware.rs",
    "examples/bare-metal/src/arch/aarch64/machine.rs",
    "examples/bare-metal/src/arch/aarch64/tables.rs",
    "examples/bare-metal/src/arch/x86_64/boot.rs",
    "examples/bare-metal/src/arch/x86_64/firmware.rs",
    "examples/bare-metal/src/handover.rs",
    "examples/bare-metal/src/arch/x86_64/machine.rs",
    "examples/bare-metal/src/arch/x86_64/tables.rs",
    "examples/bare-metal/src/paging.rs",
    "examples/bare-metal/src/platform.rs",
    // A program without an operating system: the name of its entry.
    "examples/panics/src/main.rs",
    // loom's cells hand out pointers; loom checks each access.
    "crates/folio-ref/tests/loom.rs",
    // A kernel's frame table: the word says which thread may access a cell.
    "crates/folio-ref/tests/frame_table/table.rs",
];

/// The crates with such rooms.
const UNSAFE_CRATES: [&str; 2] = ["crates/folio-frames", "crates/folio-uring"];

/// The crates from the bottom up: a crate may depend on those before it.
const LAYERS: [&str; 6] =
    ["folio-ref", "folio-frames", "folio-uring", "folio-cache", "folio-object-store", "folio"];

const MOST_LINES: usize = 500;

/// Fails with all findings, if there are any.
fn assert_none(rule: &str, findings: &[String]) {
    assert!(findings.is_empty(), "{rule}:\n  {}", findings.join("\n  "));
}

#[test]
fn every_file_opens_with_its_doc() {
    let silent: Vec<_> = rust_files()
        .into_iter()
        .filter(|path| !read(path).lines().next().is_some_and(|line| line.starts_with("//! ")))
        .collect();
    assert_none("these files do not open with a `//!` line", &silent);
}

#[test]
fn no_file_is_longer_than_the_limit() {
    let lengths = rust_files().into_iter().map(|path| (read(&path).lines().count(), path));
    let long: Vec<_> = lengths
        .filter(|(n, _)| *n > MOST_LINES)
        .map(|(n, path)| format!("{path}: {n} lines"))
        .collect();
    assert_none("these files are too long: look for the second noun", &long);
}

#[test]
fn unsafe_code_stands_in_its_rooms_only() {
    let is_unsafe = |path: &String| {
        code_of(&read(path))
            .split(|c: char| !c.is_alphanumeric() && c != '_')
            .any(|word| word == "unsafe")
    };
    let found: BTreeSet<_> = rust_files().into_iter().filter(is_unsafe).collect();
    let rooms: BTreeSet<_> = UNSAFE_ROOMS.iter().map(|&path| path.to_owned()).collect();
    assert_none("unsafe outside its rooms", &found.difference(&rooms).cloned().collect::<Vec<_>>());
    assert_none(
        "rooms without unsafe: take them off the list",
        &rooms.difference(&found).cloned().collect::<Vec<_>>(),
    );
}

#[test]
fn every_other_crate_forbids_unsafe_code() {
    let mut roots = Vec::new();
    for folder in
        crate_folders().into_iter().filter(|folder| !UNSAFE_CRATES.contains(&folder.as_str()))
    {
        let all = source_files();
        roots.extend(
            ["lib.rs", "main.rs"]
                .map(|file| format!("{folder}/src/{file}"))
                .into_iter()
                .filter(|path| all.contains(path)),
        );
    }
    assert!(roots.len() >= 5, "too few crates found: {roots:?}");
    roots.retain(|path| !read(path).contains("\n#![forbid(unsafe_code)]\n"));
    assert_none("these crates do not forbid unsafe code", &roots);
}

#[test]
fn the_two_lower_crates_have_no_std() {
    let with_std: Vec<_> = LAYERS[..2]
        .iter()
        .map(|name| format!("crates/{name}/src/lib.rs"))
        .filter(|path| !read(path).contains("\n#![no_std]\n"))
        .collect();
    assert_none("these are not no_std", &with_std);
}

#[test]
fn dependencies_point_one_way() {
    let mut wrong = Vec::new();
    let folders = crate_folders();
    let engines: BTreeSet<_> = folders
        .iter()
        .filter(|folder| folder.starts_with("integrations/"))
        .map(|folder| Manifest::of(folder).name)
        .collect();
    for folder in folders {
        let manifest = Manifest::of(&folder);
        for dependency in &manifest.dependencies {
            let (from, to) = (manifest.name.as_str(), dependency.name.as_str());
            let level = |name: &str| LAYERS.iter().position(|&layer| layer == name);
            let is_bench = |name: &str| ["folio-bench", "folio-fuzz", "xtask"].contains(&name);
            let is_member = level(to).is_some() || is_bench(to) || engines.contains(to);
            let allowed = match from {
                "folio-ref" => {
                    ["cfg(loom)", "cfg(shuttle)"].iter().any(|cfg| dependency.section.contains(cfg))
                }
                "xtask" => false,
                // Engines over folio: a workspace of its own, which no crate here knows.
                _ if folder.starts_with("integrations/") => !is_bench(to),
                _ if !is_member || from == to => true,
                "folio-bench" | "folio-fuzz" => level(to).is_some_and(|to| to < 4),
                "folio" if to == "folio-bench" => true,
                _ => level(to) < level(from) && level(to).is_some(),
            };
            if !allowed {
                wrong.push(format!("{from} uses {to} ([{}])", dependency.section));
            }
        }
    }
    assert_none("these dependencies point the wrong way", &wrong);
}

#[test]
fn each_dependency_has_one_reason_in_the_architecture() {
    let mut used = BTreeSet::new();
    let mut shared = BTreeSet::new();
    let members = crate_folders();
    let own: BTreeSet<_> = members.iter().map(|folder| Manifest::of(folder).name).collect();
    for folder in &members {
        used.extend(
            Manifest::of(folder).dependencies.into_iter().map(|dependency| dependency.name),
        );
    }
    for workspace in [".", "integrations"] {
        let manifest = Manifest::of(workspace);
        shared.extend(manifest.dependencies.into_iter().map(|dependency| dependency.name));
    }
    assert_none(
        "shared, but no crate uses it",
        &shared.difference(&used).cloned().collect::<Vec<_>>(),
    );
    let foreign: BTreeSet<_> = used.difference(&own).cloned().collect();
    let text = read("ARCHITECTURE.md");
    let rows: BTreeSet<_> = section(&text, "Dependencies")
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once("` |"))
        .map(|(name, _)| name.to_owned())
        .collect();
    assert_none(
        "no reason in ARCHITECTURE.md",
        &foreign.difference(&rows).cloned().collect::<Vec<_>>(),
    );
    assert_none(
        "a reason for an unused dependency",
        &rows.difference(&foreign).cloned().collect::<Vec<_>>(),
    );
}

/// ARCHITECTURE.md names files by the end of their paths; `cargo x map` prints the whole map.
#[test]
fn the_files_that_the_architecture_names_exist() {
    let text = read("ARCHITECTURE.md");
    let files = rust_files();
    let mut named = 0;
    let mut gone = Vec::new();
    for name in text.split('`').skip(1).step_by(2).filter(|name| is_rust_path(name)) {
        named += 1;
        let is_it = |path: &String| *path == name || path.ends_with(&format!("/{name}"));
        if !files.iter().any(is_it) {
            gone.push(name.to_owned());
        }
    }
    assert!(named > 20, "only {named} files are named in ARCHITECTURE.md");
    assert_none("named in ARCHITECTURE.md, but not there", &gone);
}

/// Returns `true` for a name such as `read/fill.rs`, in which a folder may come first.
fn is_rust_path(name: &str) -> bool {
    let is_path = |c: char| c.is_ascii_alphanumeric() || "/_.-".contains(c);
    name.strip_suffix(".rs").is_some_and(|stem| !stem.is_empty() && stem.chars().all(is_path))
}

#[test]
fn the_readme_and_ci_run_the_same_commands() {
    let readme = read("README.md");
    let shown: Vec<_> = readme
        .split("```sh\n")
        .skip(1)
        .flat_map(|block| block.split("```").next().unwrap_or_default().lines())
        .map(|line| line.split(" #").next().unwrap_or_default().trim().to_owned())
        .collect();
    let script = read(".ci/run");
    let run: Vec<_> =
        script.lines().filter_map(|line| line.strip_suffix("# README")).map(str::trim).collect();
    assert_eq!((shown.len(), run.len()), (2, 2), "two commands: {shown:?}, {run:?}");
    for (shown, run) in shown.iter().zip(run) {
        // The script may only make a run shorter.
        let same = run
            .strip_prefix(shown.as_str())
            .is_some_and(|rest| rest.is_empty() || rest.starts_with(" --seconds "));
        assert!(same, "the README says '{shown}', .ci/run runs '{run}'");
    }
}

#[test]
fn comments_and_strings_are_not_code() {
    let code = code_of("a // b \"\n'\"' c \"d \\\" // e\" f /* g */ r#\"h \" i\"# 'j k");
    assert_eq!(code.split_whitespace().collect::<Vec<_>>(), ["a", "c", "f", "'j", "k"]);
}

/// docs/proof.md names the model, test or bug that shows each rule. `cargo x prove --table` runs
/// them.
#[test]
fn everything_that_the_proof_names_exists() {
    let text = read("docs/proof.md");
    let sources = |folder: &str| {
        let files = rust_files().into_iter().filter(|path| path.starts_with(folder));
        files.map(|path| read(&path)).collect::<String>()
    };
    let (models, bugs, menu) =
        (read("xtask/src/model_list.rs"), read("xtask/src/bugs.rs"), read("xtask/src/main.rs"));
    let (crates, loom) = (sources("crates"), read("crates/folio-ref/tests/loom.rs"));
    let is_test = |name: &str| crates.contains(&format!("fn {name}("));
    let mut cells = 0;
    let mut missing = Vec::new();
    for row in text.lines().filter(|line| line.starts_with("| **")) {
        for cell in row.trim_matches('|').split(" | ").skip(1).map(str::trim) {
            cells += 1;
            let mut quoted = cell.split('`').skip(1).step_by(2);
            let name = quoted.next().unwrap_or_default();
            let is_there = match cell.split_whitespace().next().unwrap_or_default() {
                "model" => models.contains(&format!("\"{name}\"")),
                "loom" => loom.contains(&format!("fn {name}()")),
                "test" | "forced" | "shuttle" | "weak" => is_test(name),
                // The message, and the test that triggers it.
                "check" => crates.contains(name) && quoted.next().is_some_and(is_test),
                "Miri" => common::root().join("crates/folio-frames/tests").join(name).exists(),
                "command" => {
                    let command = name.split(' ').next().unwrap_or_default();
                    menu.contains(&format!("name: \"{command}\""))
                }
                "seeded" => {
                    let mut names = cell.split('`').skip(1).step_by(2);
                    !name.is_empty()
                        && names.all(|name| bugs.contains(&format!("name: \"{name}\"")))
                }
                _ => false,
            };
            if !is_there {
                missing.push(cell.to_owned());
            }
        }
    }
    assert_eq!(cells, 62, "eleven rows in four columns, six in three");
    assert_none("named in docs/proof.md, but not there", &missing);
}

/// A seeded bug breaks something, and is described.
#[test]
fn every_seeded_bug_is_in_the_code_and_in_its_list() {
    let list = read("xtask/src/bugs.rs");
    let (_, list) = list.split_once("const BUGS").expect("the list");
    let (list, _) = list.split_once("];").expect("its end");
    let names: Vec<_> =
        list.split("name: \"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
    assert!(names.len() >= 12, "{names:?}");
    let files = rust_files().into_iter().filter(|path| path.starts_with("crates/"));
    let code: String = files.map(|path| read(&path)).collect();
    let described = read("docs/seeded-bugs.md");
    let loose = |name: &&&str| {
        !code.contains(&format!("broken!(\"{name}\")"))
            || !described.contains(&format!("| `{name}` |"))
    };
    assert_none(
        "seeded bugs that break nothing, or are not described",
        &names.iter().filter(loose).map(|name| (*name).to_owned()).collect::<Vec<_>>(),
    );
}
