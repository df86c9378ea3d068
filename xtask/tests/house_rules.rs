//! The house rules, as an ordinary test: what STYLE.md and ARCHITECTURE.md say of the tree, held
//! against it.

mod common;

use std::collections::BTreeSet;

use common::{Manifest, code_of, crate_folders, read, rust_files, section, source_files};

/// The files that may hold unsafe code, each for a reason that ARCHITECTURE.md's map gives.
const UNSAFE_ROOMS: &[&str] = &[
    "crates/folio-frames/src/adjacent.rs",
    "crates/folio-frames/src/arena.rs",
    "crates/folio-frames/src/blocks.rs",
    "crates/folio-frames/src/folio.rs",
    "crates/folio-frames/src/hotplug.rs",
    "crates/folio-frames/src/memmap.rs",
    "crates/folio-frames/src/racy_copy.rs",
    "crates/folio-frames/src/claim.rs",
    "crates/folio-frames/src/retire.rs",
    "crates/folio-frames/src/stepped_space.rs",
    "crates/folio-frames/src/uncounted.rs",
    "crates/folio-frames/src/user_space.rs",
    "crates/folio-frames/src/zone.rs",
    // A call that no safe crate offers: by number, no memory is involved.
    "crates/folio-uring/src/begin.rs",
    // Memory that the kernel writes to after the call that lent it.
    "crates/folio-uring/src/ring.rs",
    // A zone over memory that the test brings, as a kernel would: Miri can not map any.
    "crates/folio-frames/tests/racing.rs",
    "crates/folio-frames/tests/risky_places.rs",
    // A lock of a platform's own, to force schedules: `RawMutex` is an unsafe trait.
    "crates/folio-frames/tests/common/hooked.rs",
    // A machine without an operating system: its instructions, what firmware and assembly left,
    // and the promises of who brings memory.
    "examples/bare-metal/src/boot.rs",
    "examples/bare-metal/src/firmware.rs",
    "examples/bare-metal/src/handover.rs",
    "examples/bare-metal/src/machine.rs",
    "examples/bare-metal/src/platform.rs",
    // loom's cells hand out pointers; loom checks each access.
    "crates/folio-ref/tests/loom.rs",
];

/// The crates that have such rooms.
const UNSAFE_CRATES: [&str; 2] = ["crates/folio-frames", "crates/folio-uring"];

/// From the bottom up: a crate may depend on those before it.
const LAYERS: [&str; 5] = ["folio-ref", "folio-frames", "folio-uring", "folio-cache", "folio"];

const MOST_LINES: usize = 500;

/// Fails with all findings at once.
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
    for folder in crate_folders() {
        let manifest = Manifest::of(&folder);
        for dependency in &manifest.dependencies {
            let (from, to) = (manifest.name.as_str(), dependency.name.as_str());
            let level = |name: &str| LAYERS.iter().position(|&layer| layer == name);
            let is_member =
                level(to).is_some() || ["folio-bench", "folio-fuzz", "xtask"].contains(&to);
            let allowed = match from {
                "folio-ref" => {
                    ["cfg(loom)", "cfg(shuttle)"].iter().any(|cfg| dependency.section.contains(cfg))
                }
                "xtask" => false,
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
fn every_dependency_has_its_reason_and_every_reason_its_dependency() {
    let mut used = BTreeSet::new();
    let mut shared = BTreeSet::new();
    let members = crate_folders();
    let own: BTreeSet<_> = members.iter().map(|folder| Manifest::of(folder).name).collect();
    for folder in &members {
        used.extend(
            Manifest::of(folder).dependencies.into_iter().map(|dependency| dependency.name),
        );
    }
    shared.extend(Manifest::of(".").dependencies.into_iter().map(|dependency| dependency.name));
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
        "a reason for what is not used",
        &rows.difference(&foreign).cloned().collect::<Vec<_>>(),
    );
}

#[test]
fn the_map_shows_what_is_there() {
    let text = read("ARCHITECTURE.md");
    let mapped: Vec<_> = section(&text, "Code map")
        .lines()
        .filter_map(|line| line.trim_start().strip_prefix("- `")?.split_once("` — "))
        .map(|(path, _)| path.trim_end_matches('/').to_owned())
        .collect();
    let set: BTreeSet<_> = mapped.iter().cloned().collect();
    assert_eq!(set.len(), mapped.len(), "a path stands twice in the map");
    let examples = ["examples/bare-metal".to_owned()];
    let there: BTreeSet<_> =
        crate_folders().into_iter().chain(examples).chain(source_files()).collect();
    assert_none("not in the map", &there.difference(&set).cloned().collect::<Vec<_>>());
    let gone: Vec<_> = set.into_iter().filter(|path| !common::root().join(path).exists()).collect();
    assert_none("in the map, but not there", &gone);
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
        // The script may make a run shorter, nothing else.
        let same = run
            .strip_prefix(shown.as_str())
            .is_some_and(|rest| rest.is_empty() || rest.starts_with(" --seconds "));
        assert!(same, "the README says '{shown}', .ci/run runs '{run}'");
    }
}

#[test]
fn code_is_told_from_comments_and_strings() {
    let code = code_of("a // b \"\n'\"' c \"d \\\" // e\" f /* g */ r#\"h \" i\"# 'j k");
    assert_eq!(code.split_whitespace().collect::<Vec<_>>(), ["a", "c", "f", "'j", "k"]);
}

/// docs/proof.md says what shows each rule; what it names must be there. That each passes is what
/// `cargo x prove --table` says.
#[test]
fn the_proof_names_what_there_is() {
    let text = read("docs/proof.md");
    let sources = |folder: &str| {
        let files = rust_files().into_iter().filter(|path| path.starts_with(folder));
        files.map(|path| read(&path)).collect::<String>()
    };
    let (models, canaries, menu) =
        (read("xtask/src/models.rs"), read("xtask/src/canaries.rs"), read("xtask/src/main.rs"));
    let (crates, loom) = (sources("crates"), read("crates/folio-ref/tests/loom.rs"));
    let is_test = |name: &str| crates.contains(&format!("fn {name}("));
    let mut cells = 0;
    let mut missing = Vec::new();
    for row in text.lines().filter(|line| line.starts_with("| **R")) {
        for cell in row.trim_matches('|').split(" | ").skip(1).map(str::trim) {
            cells += 1;
            let mut quoted = cell.split('`').skip(1).step_by(2);
            let name = quoted.next().unwrap_or_default();
            let is_there = match cell.split_whitespace().next().unwrap_or_default() {
                "model" => models.contains(&format!("\"{name}\"")),
                "loom" => loom.contains(&format!("fn {name}()")),
                "test" | "shuttle" => is_test(name),
                // What it says, and the test that makes it say so.
                "check" => crates.contains(name) && quoted.next().is_some_and(is_test),
                "Miri" => common::root().join("crates/folio-frames/tests").join(name).exists(),
                "command" => menu.contains(&format!("name: \"{name}\"")),
                "canary" => canaries.contains(&format!("name: \"{name}\"")),
                _ => false,
            };
            if !is_there {
                missing.push(cell.to_owned());
            }
        }
    }
    assert_eq!(cells, 32, "eight rules, four columns");
    assert_none("named in docs/proof.md, but not there", &missing);
}

/// A canary breaks something, and is described.
#[test]
fn every_canary_is_in_the_code_and_in_its_list() {
    let list = read("xtask/src/canaries.rs");
    let (_, list) = list.split_once("const CANARIES").expect("the list");
    let (list, _) = list.split_once("];").expect("its end");
    let names: Vec<_> =
        list.split("name: \"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
    assert!(names.len() >= 12, "{names:?}");
    let files = rust_files().into_iter().filter(|path| path.starts_with("crates/"));
    let code: String = files.map(|path| read(&path)).collect();
    let described = read("docs/canaries.md");
    let loose = |name: &&&str| {
        !code.contains(&format!("broken = \"{name}\""))
            || !described.contains(&format!("| `{name}` |"))
    };
    assert_none(
        "canaries that break nothing, or are not described",
        &names.iter().filter(loose).map(|name| (*name).to_owned()).collect::<Vec<_>>(),
    );
}
