//! The files of the repository that people write and read.

use std::fs;
use std::path::Path;

use crate::step::{Failure, root};

/// Extensions of text that people write. Measured results have others (`json`, `svg`, `txt`).
const TEXT: [&str; 9] = ["rs", "md", "pml", "py", "toml", "s", "ld", "sh", "yml"];

/// Folders that hold no text of ours: builds, inputs of fuzzers, what lies beside a checkout.
const SKIPPED: [&str; 5] = ["target", "fuzz/corpus", "fuzz/target", "shared", ".git"];

/// Returns the paths of all text files from the root, sorted.
pub(crate) fn text_files() -> Result<Vec<String>, Failure> {
    let mut files = Vec::new();
    collect("", &mut files)?;
    files.sort();
    if files.len() < 50 {
        return Err(Failure::Failed(format!("only {} text files were found", files.len())));
    }
    Ok(files)
}

/// Returns the text of a file, by its path from the root.
pub(crate) fn read(path: &str) -> Result<String, Failure> {
    fs::read_to_string(root().join(path)).map_err(|error| failed(path, &error))
}

/// Writes a file, by its path from the root. Makes its folder if needed.
pub(crate) fn write(path: &str, text: &str) -> Result<(), Failure> {
    let path = root().join(path);
    let folder = path.parent().unwrap_or(root());
    fs::create_dir_all(folder)
        .and_then(|()| fs::write(&path, text))
        .map_err(|error| failed(&path.display().to_string(), &error))
}

fn failed(path: &str, error: &std::io::Error) -> Failure {
    Failure::Failed(format!("{path}: {error}"))
}

fn collect(folder: &str, files: &mut Vec<String>) -> Result<(), Failure> {
    let entries = fs::read_dir(root().join(folder)).map_err(|error| failed(folder, &error))?;
    for entry in entries {
        let entry = entry.map_err(|error| failed(folder, &error))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = if folder.is_empty() { name.clone() } else { format!("{folder}/{name}") };
        if entry.path().is_dir() {
            if name != "target" && !SKIPPED.contains(&path.as_str()) {
                collect(&path, files)?;
            }
        } else if is_text(&path) {
            files.push(path);
        }
    }
    Ok(())
}

fn is_text(path: &str) -> bool {
    extension(path).is_some_and(|extension| TEXT.contains(&extension)) || path == ".ci/run"
}

/// Returns `true` for Rust sources.
pub(crate) fn is_rust(path: &str) -> bool {
    extension(path) == Some("rs")
}

/// Returns `true` for Markdown.
pub(crate) fn is_markdown(path: &str) -> bool {
    extension(path) == Some("md")
}

fn extension(path: &str) -> Option<&str> {
    Path::new(path).extension()?.to_str()
}
