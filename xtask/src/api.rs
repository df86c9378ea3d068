//! `cargo x api`: lists the public API of each published crate from its sources, so that a review
//! sees each change of it.
//!
//! The listing has the public paths, and below them the signatures of public items, methods and
//! trait implementations. Items marked `doc(hidden)` are left out. Every `pub` item is taken to be
//! reachable, because the lint `unreachable_pub` refuses any other.
//!
//! The listing deliberately lacks items that a macro makes, items of other crates behind a
//! `pub use`, and the features that an item needs.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use crate::code::code_of;
use crate::items::{Item, items, kind_and_name, normal, visibility, words};
use crate::step::Failure;
use crate::tree;

/// The published crates with a library.
const CRATES: [&str; 5] =
    ["folio-ref", "folio-frames", "folio-uring", "folio-cache", "folio-object-store"];

pub(crate) fn run(arguments: &[String]) -> Result<(), Failure> {
    let save = match arguments {
        [] => false,
        [option] if option == "--save" => true,
        _ => return Err(Failure::Usage("api takes nothing, or --save".to_owned())),
    };
    let mut stale = Vec::new();
    for krate in CRATES {
        let path = format!("results/api/{krate}.txt");
        let fresh = listing(krate, &sources(krate)?);
        let old = tree::read(&path).unwrap_or_default();
        for line in old.lines().filter(|line| !fresh.lines().any(|other| other == *line)) {
            println!("{krate}: - {line}");
        }
        for line in fresh.lines().filter(|line| !old.lines().any(|other| other == *line)) {
            println!("{krate}: + {line}");
        }
        if save {
            tree::write(&path, &fresh)?;
        } else if fresh != old {
            stale.push(path);
        }
    }
    if stale.is_empty() {
        return Ok(());
    }
    Err(Failure::Failed(format!(
        "the public API differs from {}: if that is intended, run 'cargo x api --save'",
        stale.join(", ")
    )))
}

/// Returns the sources of a crate: module path and code.
fn sources(krate: &str) -> Result<Vec<(Vec<String>, String)>, Failure> {
    let folder = format!("crates/{krate}/src/");
    let mut sources = Vec::new();
    for path in tree::text_files()?.iter().filter(|path| tree::is_rust(path)) {
        if let Some(name) = path.strip_prefix(&folder) {
            let name = name.trim_end_matches(".rs").trim_end_matches("/mod");
            let module = name.split('/').filter(|part| *part != "lib").map(str::to_owned);
            sources.push((module.collect(), code_of(&tree::read(path)?)));
        }
    }
    Ok(sources)
}

/// Lists the public API of a crate.
fn listing(krate: &str, sources: &[(Vec<String>, String)]) -> String {
    let mut api = Api { root: krate.replace('-', "_"), ..Api::default() };
    for (_, code) in sources {
        api.find_private(code);
    }
    // Parents come first, so that a file knows whether its module is public or hidden.
    let mut sources: Vec<_> = sources.iter().collect();
    sources.sort_by_key(|(module, _)| module.len());
    for (module, code) in sources {
        let is_hidden = (1..=module.len()).any(|n| api.hidden.contains(&module[..n]));
        let is_public = (1..=module.len()).all(|n| api.public.contains(&module[..n]));
        if !is_hidden {
            api.find_foreign(code);
            api.items(code, &Place::Module { path: module, is_public });
        }
    }
    let mut text = format!("# The public API of {krate}, written by `cargo x api --save`.\n\n");
    for line in api.paths.iter().chain([&String::new()]).chain(&api.lines) {
        let _ = writeln!(text, "{line}");
    }
    text
}

#[derive(Default)]
struct Api {
    root: String,
    /// Paths that a user can name.
    paths: BTreeSet<String>,
    /// Signatures.
    lines: BTreeSet<String>,
    /// Private types and traits. Their implementations are not listed.
    private: BTreeSet<String>,
    /// Those of them that are `doc(hidden)`. Their methods are not listed.
    hidden_types: BTreeSet<String>,
    /// Names that the current file imports from other crates: they are not the private ones.
    foreign: BTreeSet<String>,
    /// Modules that are public, and modules that are left out.
    public: BTreeSet<Vec<String>>,
    hidden: BTreeSet<Vec<String>>,
}

/// The place of an item.
enum Place<'a> {
    Module {
        path: &'a [String],
        is_public: bool,
    },
    /// Its methods are public where they say so.
    Impl(&'a str),
    /// A trait or an enum: all that it has is public.
    Open(&'a str),
    /// A struct: its fields are public where they say so.
    Fields(&'a str),
}

impl Api {
    fn find_private(&mut self, code: &str) {
        for item in items(code, false) {
            let (is_public, rest) = visibility(&item.head);
            let (kind, name) = kind_and_name(rest);
            let is_hidden = item.attributes.iter().any(|text| text.contains("doc(hidden)"));
            if (is_hidden || !is_public) && ["struct", "enum", "trait", "union"].contains(&kind) {
                self.private.insert(name.to_owned());
                if is_hidden {
                    self.hidden_types.insert(name.to_owned());
                }
            }
            if kind == "mod" {
                self.find_private(item.body.unwrap_or_default());
            }
        }
    }

    fn find_foreign(&mut self, code: &str) {
        self.foreign.clear();
        for item in items(code, false) {
            let path = item.head.strip_prefix("use ").unwrap_or_default();
            if !["crate", "super", "self"].iter().any(|start| path.starts_with(start)) {
                self.foreign.extend(words(path));
            }
        }
    }

    fn items(&mut self, code: &str, place: &Place<'_>) {
        let has_commas = matches!(place, Place::Open(head) if head.starts_with("pub enum"))
            || matches!(place, Place::Fields(_));
        for item in items(code, has_commas) {
            self.item(&item, place);
        }
    }

    fn item(&mut self, item: &Item<'_>, place: &Place<'_>) {
        let (is_public, rest) = visibility(&item.head);
        let (kind, name) = kind_and_name(rest);
        let body = item.body.unwrap_or_default();
        let is_hidden = item.attributes.iter().any(|attribute| {
            ["doc(hidden)", "cfg(test)", "cfg(loom)", "cfg(shuttle)"]
                .iter()
                .any(|hidden| attribute.contains(hidden))
        });
        if let Place::Module { path, .. } = place
            && kind == "mod"
        {
            let module = [path, &[name.to_owned()][..]].concat();
            if is_hidden {
                self.hidden.insert(module.clone());
            } else if is_public {
                self.public.insert(module.clone());
            }
        }
        if is_hidden {
            return;
        }
        if kind == "macro" && item.attributes.iter().any(|text| text.contains("macro_export")) {
            self.lines.insert(rest.to_owned());
        }
        if kind == "impl" {
            self.implementation(&item.head, body);
            return;
        }
        match place {
            Place::Open(_) => {}
            _ if is_public => {}
            _ => return,
        }
        let head = public_fields(&item.head);
        match place {
            Place::Module { path, is_public } => {
                if *is_public {
                    self.export(path, kind, name, rest);
                }
                if kind == "use" {
                    return;
                }
                if kind == "mod" {
                    let module = [path, &[name.to_owned()][..]].concat();
                    self.items(body, &Place::Module { path: &module, is_public: *is_public });
                    return;
                }
                let notes = item.attributes.iter().filter(|attribute| {
                    attribute.starts_with("#[derive") || attribute.starts_with("#[non_exhaustive")
                });
                let notes: String = notes.flat_map(|note| [" ", note.as_str()]).collect();
                self.lines.insert(format!("{head}{notes}"));
                match kind {
                    "struct" | "union" => self.items(body, &Place::Fields(name)),
                    "enum" | "trait" => self.items(body, &Place::Open(&head)),
                    _ => {}
                }
            }
            Place::Impl(owner) | Place::Fields(owner) => {
                self.lines.insert(format!("{owner}: {head}"));
            }
            Place::Open(owner) => {
                let (_, name) = kind_and_name(visibility(owner).1);
                let body = match item.body {
                    Some(body) if owner.starts_with("pub enum") => {
                        format!(" {{ {} }}", normal(body))
                    }
                    // A method that an implementation may leave out.
                    Some(_) => " { .. }".to_owned(),
                    None => String::new(),
                };
                self.lines.insert(format!("{name}: {head}{body}"));
            }
        }
    }

    fn implementation(&mut self, head: &str, body: &str) {
        let main = head.split(" where ").next().unwrap_or(head);
        match main.split_once(" for ") {
            // A bound of higher rank is no implementation of a trait.
            Some((start, of)) if !of.starts_with('<') => {
                let is_private =
                    |word: &String| self.private.contains(word) && !self.foreign.contains(word);
                let names = words(start).into_iter().chain(words(of).into_iter().take(1));
                if !names.into_iter().any(|word| is_private(&word)) {
                    self.lines.insert(head.to_owned());
                }
            }
            _ if words(of_impl(main)).first().is_some_and(|it| self.hidden_types.contains(it)) => {}
            _ => self.items(body, &Place::Impl(head)),
        }
    }

    /// Adds the paths of an item in a public module.
    fn export(&mut self, module: &[String], kind: &str, name: &str, rest: &str) {
        let base = [std::slice::from_ref(&self.root), module].concat().join("::");
        if kind != "use" {
            self.paths.insert(format!("{base}::{name}"));
            return;
        }
        let tree = rest.trim_start_matches("use ").replace(['{', '}'], ",");
        for name in tree.split(',').map(str::trim) {
            let name = name.rsplit(" as ").next().unwrap_or(name);
            if name == "*" || name.ends_with("::*") {
                self.paths.insert(format!("{base}::{}", rest.trim_start_matches("use ")));
            } else if !name.is_empty() && !name.ends_with("::") {
                let name = name.rsplit("::").next().unwrap_or(name);
                self.paths.insert(format!("{base}::{name}"));
            }
        }
    }
}

/// Replaces the private fields of a tuple struct by `_`.
fn public_fields(head: &str) -> String {
    let Some((start, fields)) = head.split_once('(').filter(|_| head.starts_with("pub struct"))
    else {
        return head.to_owned();
    };
    let (fields, end) = fields.rsplit_once(')').unwrap_or((fields, ""));
    let fields: Vec<_> = items(fields, true).into_iter().map(|field| field.head).collect();
    let shown = fields.iter().map(|field| if field.starts_with("pub ") { field } else { "_" });
    format!("{start}({}){end}", shown.collect::<Vec<_>>().join(", "))
}

/// Returns what follows the parameters of an `impl`.
fn of_impl(head: &str) -> &str {
    let rest = head.trim_start_matches("unsafe ").trim_start_matches("impl");
    let mut open = 0;
    for (at, character) in rest.char_indices() {
        match character {
            '<' => open += 1,
            '>' if !rest[..at].ends_with('-') => open -= 1,
            _ => {}
        }
        if open == 0 {
            return if character == '>' { &rest[at + 1..] } else { rest };
        }
    }
    rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_listings_are_current() {
        if let Err(Failure::Usage(message) | Failure::Failed(message)) = run(&[]) {
            panic!("{message}");
        }
    }

    #[test]
    fn public_items_are_listed_and_private_ones_are_not() {
        let lib = "
            mod a;
            pub mod b;
            #[doc(hidden)]
            pub mod c;
            pub use a::{Word, one as two};
            pub const MOST: usize = { 3 };";
        let a = "
            #[derive(Clone)]
            #[non_exhaustive]
            pub struct Word<T: Copy> { pub left: [T; 2], right: Vec<(T, T)>, pub f: fn(T) -> T }
            pub struct Pair(pub u32, Vec<(u8, u8)>);
            struct Own;
            trait Sealed {}
            impl Sealed for Word<u8> {}
            impl Clone for Own {}
            impl<T: Copy> Word<T>
            where
                T: Send,
            {
                pub const fn get(&self) -> T { if true { loop {} } }
                pub(crate) fn set(&self) {}
                #[doc(hidden)]
                pub fn secret(&self) {}
            }
            impl<T: Copy> Drop for Word<T> { fn drop(&mut self) {} }
            pub unsafe fn one(
                a: &str,
                b: u8,
            ) {}";
        let b = "
            pub enum State { Open, Shut { since: u64 }, At(u8, u8), }
            pub trait Policy: Send { const N: u8 = 1; fn pick(&self) -> u8; fn end(&self) {} }";
        let sources = [("", lib), ("a", a), ("b", b), ("c", "pub fn hidden() {}")];
        let sources = sources.map(|(module, code)| {
            let module = module.split('/').filter(|part| !part.is_empty()).map(str::to_owned);
            (module.collect::<Vec<_>>(), code.to_owned())
        });
        let text = listing("the-crate", &sources);
        let lines: Vec<_> = text.lines().skip(2).collect();
        assert_eq!(
            lines,
            [
                "the_crate::MOST",
                "the_crate::Word",
                "the_crate::b",
                "the_crate::b::Policy",
                "the_crate::b::State",
                "the_crate::two",
                "",
                "Policy: const N: u8",
                "Policy: fn end(&self) { .. }",
                "Policy: fn pick(&self) -> u8",
                "State: At(u8, u8)",
                "State: Open",
                "State: Shut { since: u64 }",
                "Word: pub f: fn(T) -> T",
                "Word: pub left: [T; 2]",
                "impl<T: Copy> Drop for Word<T>",
                "impl<T: Copy> Word<T> where T: Send: pub const fn get(&self) -> T",
                "pub const MOST: usize",
                "pub enum State",
                "pub struct Pair(pub u32, _)",
                "pub struct Word<T: Copy> #[derive(Clone)] #[non_exhaustive]",
                "pub trait Policy: Send",
                "pub unsafe fn one(a: &str, b: u8)",
            ]
        );
    }
}
