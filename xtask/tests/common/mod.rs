//! The tree for the house rules: its files, manifests and documents.

#[path = "../../src/code.rs"]
pub(crate) mod code;

use std::fs;
use std::path::Path;

/// Returns the root of the workspace.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the root")
}

/// Returns the text of a file, by its path from the root.
pub(crate) fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Returns the folders of all crates: the members, with xtask, those of the workspace
/// `integrations`, and the fuzzers' own workspace.
pub(crate) fn crate_folders() -> Vec<String> {
    let mut folders: Vec<_> = ["crates", "integrations"].into_iter().flat_map(children).collect();
    folders.retain(|path| root().join(path).join("Cargo.toml").exists());
    folders.extend(["fuzz", "xtask"].map(str::to_owned));
    assert!(folders.len() > 5, "too few crates found: {folders:?}");
    folders
}

/// Returns every Rust file of these crates and of the examples that are no members: sources, tests,
/// examples, benches.
pub(crate) fn rust_files() -> Vec<String> {
    let mut files = Vec::new();
    for folder in crate_folders() {
        collect(&folder, &mut files);
    }
    collect("examples", &mut files);
    files
}

/// Returns the Rust files below a `src` folder.
pub(crate) fn source_files() -> Vec<String> {
    let mut files = rust_files();
    files.retain(|path| path.split('/').any(|part| part == "src"));
    files
}

fn collect(folder: &str, files: &mut Vec<String>) {
    for path in children(folder) {
        if root().join(&path).is_dir() {
            if !path.ends_with("/target") {
                collect(&path, files);
            }
        } else if Path::new(&path).extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

fn children(folder: &str) -> Vec<String> {
    let entries =
        fs::read_dir(root().join(folder)).unwrap_or_else(|error| panic!("{folder}: {error}"));
    let names = entries.map(|entry| {
        entry.expect("a readable folder").file_name().into_string().expect("a UTF-8 name")
    });
    let mut paths: Vec<_> = names.map(|name| format!("{folder}/{name}")).collect();
    paths.sort();
    paths
}

/// The part of a manifest that the rules need. It is read line by line, not as full TOML.
pub(crate) struct Manifest {
    pub(crate) name: String,
    pub(crate) dependencies: Vec<Dependency>,
}

/// One dependency and its section.
pub(crate) struct Dependency {
    pub(crate) name: String,
    pub(crate) section: String,
}

impl Manifest {
    /// Reads the manifest in a folder.
    pub(crate) fn of(folder: &str) -> Self {
        let (mut name, mut dependencies, mut section) = (String::new(), Vec::new(), String::new());
        for line in read(&format!("{folder}/Cargo.toml")).lines() {
            if let Some(header) = line.strip_prefix('[') {
                header.trim_end_matches(']').clone_into(&mut section);
                assert!(
                    !section.contains("dependencies."),
                    "{folder}: write [{section}] as one line"
                );
            } else if let Some((key, value)) =
                line.split_once('=').filter(|_| !line.starts_with('#'))
            {
                let key = key.trim();
                if section == "package" && key == "name" {
                    value.trim().trim_matches('"').clone_into(&mut name);
                } else if section.ends_with("dependencies") {
                    let used = key.split('.').next().unwrap_or(key).to_owned();
                    dependencies.push(Dependency { name: used, section: section.clone() });
                }
            }
        }
        Self { name, dependencies }
    }
}

/// Returns the part of a document under a heading of the second level.
pub(crate) fn section<'a>(text: &'a str, heading: &str) -> &'a str {
    let start = format!("\n## {heading}\n");
    let (_, after) =
        text.split_once(&start).unwrap_or_else(|| panic!("there is no heading '{heading}'"));
    after.split("\n## ").next().unwrap_or(after)
}
