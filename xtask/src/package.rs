//! `cargo x package`: packages the published crates, as `cargo publish` would, and builds each from
//! its package.

use std::fmt::Write as _;

use crate::step::{self, Failure, cargo};
use crate::tree;

/// The published crates, from the bottom up. folio needs folio-bench for `folio bench`.
const CRATES: [&str; 7] = [
    "folio-ref",
    "folio-frames",
    "folio-uring",
    "folio-cache",
    "folio-object-store",
    "folio-bench",
    "folio",
];

/// Keys that each published crate has, of its own or from the workspace.
const KEYS: [&str; 8] = [
    "description",
    "version",
    "rust-version",
    "license",
    "repository",
    "readme",
    "keywords",
    "categories",
];

pub(crate) fn run(arguments: &[String]) -> Result<(), Failure> {
    let verify = match arguments {
        [] => "",
        [option] if option == "--no-verify" => "--no-verify",
        _ => return Err(Failure::Usage("package takes nothing, or --no-verify".to_owned())),
    };
    let workspace = tree::read("Cargo.toml")?;
    let mut wrong = Vec::new();
    let mut packages = String::new();
    for krate in CRATES {
        let path = format!("crates/{krate}/Cargo.toml");
        let missing = missing(&tree::read(&path)?, &workspace);
        wrong.extend(missing.into_iter().map(|what| format!("{path}: {what}")));
        if !has_version(&workspace, krate) {
            wrong.push(format!("Cargo.toml: the dependency {krate} has a path but no version"));
        }
        let _ = write!(packages, " -p {krate}");
    }
    if !wrong.is_empty() {
        return Err(Failure::Failed(format!("not ready to publish:\n  {}", wrong.join("\n  "))));
    }
    let package = format!("package --allow-dirty {verify}{packages}");
    step::run("packages of the published crates", &mut cargo(&package))
}

/// Returns the faults of a crate's manifest.
fn missing(manifest: &str, workspace: &str) -> Vec<String> {
    let value = |key: &str| {
        let inherits = value_in(manifest, "package", &format!("{key}.workspace"));
        let own = value_in(manifest, "package", key);
        own.or(inherits.and_then(|_| value_in(workspace, "workspace.package", key)))
    };
    let mut wrong: Vec<_> = KEYS
        .into_iter()
        .filter(|key| value(key).is_none())
        .map(|key| format!("'{key}' is missing"))
        .collect();
    if value("publish") == Some("false") {
        wrong.push("'publish' is false".to_owned());
    }
    wrong
}

/// Returns `true` if a dependency of the workspace has a version beside its path, or is not there.
fn has_version(workspace: &str, krate: &str) -> bool {
    let value = value_in(workspace, "workspace.dependencies", krate);
    value.is_none_or(|value| value.contains("version"))
}

/// Returns the value of a key in a section of a manifest, read line by line.
fn value_in<'a>(manifest: &'a str, section: &str, key: &str) -> Option<&'a str> {
    let (_, lines) = manifest.split_once(&format!("[{section}]\n"))?;
    let lines = lines.lines().take_while(|line| !line.starts_with('['));
    lines
        .filter_map(|line| line.split_once('='))
        .find_map(|(name, value)| (name.trim() == key).then_some(value.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORKSPACE: &str = "[workspace.package]\nversion = \"1.0.0\"\nlicense = \"MIT\"\n\
                             publish = false\n[workspace.dependencies]\n\
                             a = { path = \"a\" }\nb = { path = \"b\", version = \"1\" }\n";

    #[test]
    fn missing_keys_are_found_in_the_crate_and_the_workspace() {
        let manifest = "[package]\nname = \"a\"\ndescription = \"A\"\nversion.workspace = true\n\
                        license.workspace = true\nrepository.workspace = true\n\
                        rust-version = \"1.95\"\npublish.workspace = true\n\
                        [features]\nreadme = []\n";
        assert_eq!(
            missing(manifest, WORKSPACE),
            [
                "'repository' is missing",
                "'readme' is missing",
                "'keywords' is missing",
                "'categories' is missing",
                "'publish' is false",
            ]
        );
    }

    #[test]
    fn a_path_dependency_without_a_version_is_found() {
        assert!(!has_version(WORKSPACE, "a"));
        assert!(has_version(WORKSPACE, "b"));
        assert!(has_version(WORKSPACE, "c"));
    }
}
