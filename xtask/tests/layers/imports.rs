//! The imports of a crate: which of its files names which, read from `use` and from paths.
//!
//! What it deliberately lacks: method calls. A method that is called through a value needs no
//! import, so a type with methods in several files is seen only where its name is imported.

use std::collections::{BTreeMap, BTreeSet};

use crate::common::code::code_of;

/// From one file to another, both as paths below `src`.
pub(crate) type Edge = (String, String);

/// A crate's files, by path below `src`: the tokens of their code.
pub(crate) struct Sources {
    files: BTreeMap<String, Vec<String>>,
    /// Names that a `mod.rs` or `lib.rs` re-exports: module path and name, to the path they have.
    exports: BTreeMap<Vec<String>, Vec<String>>,
}

impl Sources {
    /// Reads the files of a crate. Unit tests are left out: those at the end of a file, and files
    /// `tests.rs`.
    pub(crate) fn new(texts: impl IntoIterator<Item = (String, String)>) -> Self {
        let code =
            |text: &str| tokens(&code_of(text.split("\nmod tests {").next().unwrap_or_default()));
        let texts = texts.into_iter().filter(|(path, _)| !path.ends_with("/tests.rs"));
        let files = texts.map(|(path, text)| (path, code(&text))).collect();
        let mut sources = Self { files, exports: BTreeMap::new() };
        for (path, tokens) in sources.files.iter().filter(|(path, _)| is_folder(path)) {
            let module = module_of(path);
            for import in imports(tokens).into_iter().filter(|import| import.is_export) {
                let Some(target) = sources.absolute(&module, &import.path) else { continue };
                let name = [module.clone(), vec![import.name]].concat();
                sources.exports.insert(name, target);
            }
        }
        sources
    }

    /// Returns the paths of all files.
    pub(crate) fn paths(&self) -> impl Iterator<Item = &str> {
        self.files.keys().map(String::as_str)
    }

    /// Returns all imports of one file by another, except those of the root and the re-exports
    /// of a folder's own files.
    pub(crate) fn edges(&self) -> BTreeSet<Edge> {
        let mut edges = BTreeSet::new();
        for (path, tokens) in self.files.iter().filter(|(path, _)| !is_root(path)) {
            let module = module_of(path);
            for import in imports(tokens) {
                let Some(target) = self.absolute(&module, &import.path) else { continue };
                let Some(file) = self.file_of(&target, 8) else { continue };
                let is_listing = import.is_export && is_folder(path) && target.starts_with(&module);
                if file != *path && !is_listing && !is_root(&file) {
                    edges.insert((path.clone(), file));
                }
            }
        }
        edges
    }

    /// Returns the files that import each other in a circle, a group for each circle.
    pub(crate) fn circles(&self) -> Vec<Vec<String>> {
        let edges = self.edges();
        let reached = |from: &String| {
            let (mut seen, mut open) = (BTreeSet::new(), vec![from]);
            while let Some(at) = open.pop() {
                for (_, to) in edges.iter().filter(|(file, _)| file == at) {
                    if seen.insert(to) {
                        open.push(to);
                    }
                }
            }
            seen
        };
        let reach: BTreeMap<_, _> = self.files.keys().map(|path| (path, reached(path))).collect();
        let mut circles = Vec::new();
        let mut done = BTreeSet::new();
        for (path, there) in &reach {
            if there.contains(path) && !done.contains(path) {
                let circle: Vec<_> =
                    there.iter().filter(|other| reach[*other].contains(path)).copied().collect();
                done.extend(circle.iter().copied());
                circles.push(circle.into_iter().cloned().collect());
            }
        }
        circles
    }

    /// Returns the path from the root of the crate; `None` for a path into another crate.
    fn absolute(&self, module: &[String], path: &[String]) -> Option<Vec<String>> {
        let (first, rest) = path.split_first()?;
        let mut base = module.to_vec();
        match first.as_str() {
            "crate" => return Some(rest.to_vec()),
            "self" => {}
            "super" => {
                base.pop();
                let mut rest = rest;
                while let Some((_, after)) = rest.split_first().filter(|(word, _)| *word == "super")
                {
                    base.pop();
                    rest = after;
                }
                return Some([base, rest.to_vec()].concat());
            }
            _ => {
                base.push(first.clone());
                self.file_of_module(&base)?;
            }
        }
        Some([base, rest.to_vec()].concat())
    }

    /// Returns the file of the item at a path, through re-exports.
    fn file_of(&self, path: &[String], depth: usize) -> Option<String> {
        let is_module = |n: &usize| self.file_of_module(&path[..*n]).is_some();
        let modules = (0..=path.len()).rev().find(is_module)?;
        let export = path.get(..=modules).and_then(|name| self.exports.get(name));
        if let Some(target) = export.filter(|_| depth > 0) {
            return self.file_of(&[target, &path[modules + 1..]].concat(), depth - 1);
        }
        self.file_of_module(&path[..modules])
    }

    fn file_of_module(&self, module: &[String]) -> Option<String> {
        let path = module.join("/");
        let names = match module {
            [] => ["lib.rs".to_owned(), "main.rs".to_owned()],
            _ => [format!("{path}.rs"), format!("{path}/mod.rs")],
        };
        names.into_iter().find(|name| self.files.contains_key(name))
    }
}

fn is_root(path: &str) -> bool {
    ["lib.rs", "main.rs"].contains(&path)
}

/// Returns `true` for a file that lists the modules of a folder.
fn is_folder(path: &str) -> bool {
    is_root(path) || path.ends_with("/mod.rs")
}

fn module_of(path: &str) -> Vec<String> {
    if is_root(path) {
        return Vec::new();
    }
    let path = path.trim_end_matches(".rs").trim_end_matches("/mod");
    path.split('/').map(str::to_owned).collect()
}

/// One name that a file imports, or a path that its code contains.
struct Import {
    path: Vec<String>,
    name: String,
    is_export: bool,
}

fn tokens(code: &str) -> Vec<String> {
    let (mut all, mut word) = (Vec::new(), String::new());
    for c in code.chars() {
        if c.is_alphanumeric() || c == '_' {
            word.push(c);
            continue;
        }
        if !word.is_empty() {
            all.push(std::mem::take(&mut word));
        }
        if !c.is_whitespace() {
            all.push(c.to_string());
        }
    }
    all
}

fn imports(tokens: &[String]) -> Vec<Import> {
    let (mut all, mut at) = (Vec::new(), 0);
    while at < tokens.len() {
        let next = |n: usize| tokens.get(at + n).map_or("", String::as_str);
        let before = at.checked_sub(1).map_or("", |at| tokens[at].as_str());
        if tokens[at] == "use" && next(1) != "<" {
            // `pub use` or `pub(crate) use`: a re-export.
            let is_export = [")", "pub"].contains(&before);
            at += 1;
            tree(tokens, &mut at, &[], is_export, &mut all);
        } else if next(1) == ":" && next(2) == ":" && before != ":" && before != "in" {
            let mut path = vec![tokens[at].clone()];
            while let [a, b, word, ..] = &tokens[(at + 1).min(tokens.len())..]
                && a == ":"
                && b == ":"
                && word.starts_with(|c: char| c.is_alphanumeric() || c == '_')
            {
                path.push(word.clone());
                at += 3;
            }
            at += 1;
            all.push(Import { path, name: String::new(), is_export: false });
        } else {
            at += 1;
        }
    }
    all
}

/// Reads one branch of a `use` tree, to the `,`, `}` or `;` after it.
fn tree(
    tokens: &[String],
    at: &mut usize,
    base: &[String],
    is_export: bool,
    all: &mut Vec<Import>,
) {
    let (mut path, mut name) = (base.to_vec(), None);
    while let Some(token) = tokens.get(*at) {
        match token.as_str() {
            "," | "}" | ";" => break,
            ":" => {}
            "{" => {
                while tokens.get(*at).is_some_and(|token| token != "}") {
                    *at += 1;
                    tree(tokens, at, &path, is_export, all);
                }
                *at += 1;
                return;
            }
            "as" => {
                name = tokens.get(*at + 1).cloned();
                *at += 1;
            }
            word => path.push(word.to_owned()),
        }
        *at += 1;
    }
    if path.len() > 1 && path.last().is_some_and(|word| word == "self" || word == "*") {
        path.pop();
    }
    let name = name.or_else(|| path.last().cloned()).unwrap_or_default();
    if !path.is_empty() {
        all.push(Import { path, name, is_export });
    }
}
