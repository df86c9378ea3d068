//! The layers inside the crates: a folder uses only the folders below it in its list, and no files
//! import each other in a circle.

#[allow(dead_code, reason = "each test file uses a part")]
#[path = "../common/mod.rs"]
mod common;
mod imports;

use common::{read, source_files};
use imports::Sources;

/// The layers of a crate.
struct Layers {
    krate: &'static str,
    /// Folders from the bottom up. Those of one level do not use each other.
    levels: &'static [&'static [&'static str]],
    /// Uses within one level that are allowed, each with its reason.
    peers: &'static [(&'static str, &'static str, &'static str)],
    /// Circles of files that are allowed, each with its reason.
    circles: &'static [(&'static [&'static str], &'static str)],
}

/// Files beside the folders: they may use every layer, and no layer may use them.
const TOP: [&str; 5] = ["lib.rs", "main.rs", "testing.rs", "v013.rs", "v014.rs"];

const CRATES: [Layers; 5] = [
    Layers { krate: "folio-ref", levels: &[], peers: &[], circles: &[] },
    Layers {
        krate: "folio-cache",
        levels: &[
            &["rt", "backing", "policy"],
            &["pressure"],
            &["state"],
            &["writeback"],
            &["memory"],
            &["coherence"],
            &["read"],
            &["write"],
            &["api"],
        ],
        peers: &[("backing", "rt", "what the system refuses for now is tried again after a pause")],
        circles: &[
            (
                &[
                    "state/kept.rs",
                    "state/mapping.rs",
                    "state/registry.rs",
                    "state/remote.rs",
                    "state/shared.rs",
                ],
                "a mapping belongs to a cache, which finds its mappings by their registry",
            ),
            (
                &["api/group.rs", "api/options.rs"],
                "a group opens files by options, and options name the group of a file",
            ),
        ],
    },
    Layers {
        krate: "folio-frames",
        levels: &[&["base"], &["memmap"], &["zone"], &["index"], &["moving"], &["os"]],
        peers: &[],
        circles: &[
            (
                &["zone/folio.rs", "zone/zone.rs"],
                "a zone makes folios, and the last put of a folio frees it to its zone",
            ),
            (
                &["index/lock.rs", "index/slot.rs"],
                "a slot hands out its lock, and the lock stores into its slot",
            ),
        ],
    },
    Layers {
        krate: "folio-object-store",
        levels: &[&["base"], &["store"]],
        peers: &[],
        circles: &[(
            &[
                "store/answers.rs",
                "store/entry.rs",
                "store/error.rs",
                "store/mod.rs",
                "store/object.rs",
                "store/source.rs",
            ],
            "the parts take from the store the version of `object_store` it is compiled for",
        )],
    },
    Layers {
        krate: "folio-bench",
        levels: &[&["harness"], &["support"], &["replay"], &["benchmarks"]],
        peers: &[],
        circles: &[],
    },
];

impl Layers {
    /// Returns all findings. A crate that has no folder above the lowest level is still flat, and
    /// has none.
    fn findings(&self, sources: &Sources) -> Vec<String> {
        let level = |path: &str| {
            let (folder, _) = path.split_once('/')?;
            self.levels.iter().position(|level| level.contains(&folder))
        };
        if !self.levels.is_empty() && sources.paths().all(|path| level(path) < Some(1)) {
            return Vec::new();
        }
        let mut wrong = Vec::new();
        let folders = self.levels.concat().into_iter();
        let missing =
            folders.filter(|folder| sources.paths().all(|path| folder_of(path) != *folder));
        wrong.extend(missing.map(|folder| format!("{folder}/ is in the list, but not there")));
        for path in sources.paths().filter(|_| !self.levels.is_empty()) {
            if level(path).is_none() && !TOP.contains(&path) {
                wrong.push(format!("{path} lies in no layer"));
            }
        }
        for (from, to) in sources.edges() {
            let folders = (folder_of(&from), folder_of(&to));
            let is_peer = self.peers.iter().any(|&(a, b, _)| (a, b) == folders);
            let is_right = match (level(&from), level(&to)) {
                (None, _) => true,
                (Some(_), None) => false,
                (Some(a), Some(b)) => a > b || folders.0 == folders.1 || is_peer,
            };
            if !is_right {
                wrong.push(format!("{from} uses {to}, which is not below it"));
            }
        }
        let circles = sources.circles();
        let is_allowed = |circle: &[String]| self.circles.iter().any(|(files, _)| circle == *files);
        for circle in circles.iter().filter(|circle| !is_allowed(circle)) {
            wrong.push(format!("a circle of {} files: {}", circle.len(), circle.join(", ")));
        }
        for (files, _) in self.circles {
            if circles.iter().all(|circle| circle != files) {
                wrong.push(format!("{} are no circle: take them off the list", files.join(", ")));
            }
        }
        wrong
    }
}

fn folder_of(path: &str) -> &str {
    path.split_once('/').map_or("", |(folder, _)| folder)
}

fn sources_of(krate: &str) -> Sources {
    let folder = format!("crates/{krate}/src/");
    let files = source_files();
    let files = files.iter().filter_map(|path| Some((path.strip_prefix(&folder)?, path)));
    Sources::new(files.map(|(short, path)| (short.to_owned(), read(path))))
}

#[test]
fn a_folder_uses_only_the_folders_below_it() {
    let mut wrong = Vec::new();
    for layers in CRATES {
        let findings = layers.findings(&sources_of(layers.krate));
        wrong.extend(findings.into_iter().map(|finding| format!("{}: {finding}", layers.krate)));
    }
    assert!(wrong.is_empty(), "these imports break the layers:\n  {}", wrong.join("\n  "));
}

/// A crate of three folders for the rule's own tests.
const SAMPLE: Layers =
    Layers { krate: "sample", levels: &[&["low", "beside"], &["high"]], peers: &[], circles: &[] };

fn sample(files: &[(&str, &str)]) -> Vec<String> {
    let files = files.iter().map(|&(path, text)| (path.to_owned(), text.to_owned()));
    SAMPLE.findings(&Sources::new(files))
}

#[test]
fn a_wrong_import_is_reported() {
    let low = "use std::io;\nuse crate::{high::thing::{self, Thing}, low::other};\n";
    let wrong = sample(&[
        ("lib.rs", "mod low; mod high; pub use high::thing::Thing;"),
        ("low/mod.rs", "pub mod a; pub mod other;"),
        ("low/a.rs", low),
        ("low/other.rs", "fn f() { crate::beside::g() }"),
        ("beside/mod.rs", "// use crate::high;\nuse crate::Thing;"),
        ("high/mod.rs", "mod thing; use thing::Thing; use crate::low::a::A;"),
        ("high/thing.rs", "pub(in crate::high) struct Thing;"),
    ]);
    assert_eq!(
        wrong,
        [
            "beside/mod.rs uses high/thing.rs, which is not below it",
            "low/a.rs uses high/thing.rs, which is not below it",
            "low/other.rs uses beside/mod.rs, which is not below it",
        ]
    );
}

#[test]
fn a_circle_of_files_is_reported() {
    let wrong = sample(&[
        ("lib.rs", "mod low;"),
        ("beside/mod.rs", ""),
        ("high/mod.rs", ""),
        ("low/mod.rs", "mod a; mod b; mod c; pub(crate) use a::A; pub(crate) use c::C;"),
        ("low/a.rs", "use super::b::B;"),
        ("low/b.rs", "use super::C;"),
        ("low/c.rs", "fn f(a: &crate::low::A) {}"),
        ("low/d.rs", "use super::a::A;\n#[cfg(test)]\nmod tests { use crate::high; }"),
        ("low/d/tests.rs", "use super::*; use crate::high;"),
    ]);
    assert_eq!(wrong, ["a circle of 3 files: low/a.rs, low/b.rs, low/c.rs"]);
}

#[test]
fn a_file_outside_the_layers_and_a_missing_folder_are_reported() {
    let wrong = sample(&[
        ("lib.rs", ""),
        ("low/mod.rs", "use crate::loose::f;"),
        ("high/mod.rs", ""),
        ("loose.rs", ""),
    ]);
    assert_eq!(
        wrong,
        [
            "beside/ is in the list, but not there",
            "loose.rs lies in no layer",
            "low/mod.rs uses loose.rs, which is not below it"
        ]
    );
}

#[test]
fn a_crate_without_the_folders_passes() {
    let (a, b) = (("a.rs", "use crate::b::B;"), ("low/b.rs", "use crate::a::A;"));
    assert!(sample(&[("lib.rs", ""), a, b]).is_empty());
}
