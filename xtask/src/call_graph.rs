//! The calls and panics of a program, from its LLVM IR after all optimisations.

use std::collections::{BTreeMap, BTreeSet};

/// A place in a source file that panics.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Site {
    /// The file, or the symbol of the function if the panic has no place.
    pub(crate) file: String,
    pub(crate) line: usize,
}

/// The functions of a program that is one module, by symbol.
#[derive(Default)]
pub(crate) struct CallGraph {
    functions: BTreeMap<String, Function>,
}

#[derive(Default)]
struct Function {
    calls: BTreeSet<String>,
    panics: BTreeSet<Site>,
    /// The number of calls by a pointer to an unknown target.
    indirect: usize,
}

/// The code that an operation may run.
#[derive(Default)]
pub(crate) struct Reached {
    pub(crate) functions: BTreeSet<String>,
    pub(crate) panics: BTreeSet<Site>,
    pub(crate) indirect: usize,
}

impl CallGraph {
    /// Parses the text of an LLVM module.
    pub(crate) fn parse(ir: &str) -> Self {
        let constants: BTreeMap<&str, &str> = ir
            .lines()
            .filter(|line| line.starts_with('@'))
            .filter_map(|line| line.split_once(" = "))
            .collect();
        let (mut all, mut current) = (Self::default(), None::<String>);
        for line in ir.lines() {
            if line.starts_with("define ") {
                current = symbol(line).map(str::to_owned);
                all.functions.extend(current.clone().map(|name| (name, Function::default())));
            } else if line == "}" {
                current = None;
            } else if let Some(name) = &current
                && let Some(function) = all.functions.get_mut(name)
            {
                function.read(line, name, &constants);
            }
        }
        all
    }

    /// Returns the functions outside the standard library with a symbol that begins with this
    /// crate's name, by the name that follows.
    pub(crate) fn of_crate<'a>(
        &'a self,
        name: &str,
    ) -> impl Iterator<Item = (&'a str, &'a str)> + use<'a> {
        let path = format!("{}{name}", name.len());
        self.functions.keys().filter_map(move |symbol| {
            let (before, after) = symbol.split_once(&path)?;
            let is_ours = before == "_ZN" || before.starts_with("_RNvCs");
            let digits = after.find(|c: char| !c.is_ascii_digit())?;
            let length: usize = after[..digits].parse().ok()?;
            let name = after.get(digits..digits + length).filter(|_| is_ours)?;
            Some((name, symbol.as_str()))
        })
    }

    /// Returns what a function may run, itself included, up to panics.
    pub(crate) fn reached(&self, symbol: &str) -> Reached {
        let (mut reached, mut left) = (Reached::default(), vec![symbol.to_owned()]);
        while let Some(name) = left.pop() {
            let Some(function) = self.functions.get(&name) else { continue };
            if reached.functions.insert(name) {
                reached.panics.extend(function.panics.iter().cloned());
                reached.indirect += function.indirect;
                left.extend(function.calls.iter().cloned());
            }
        }
        reached
    }

    /// Returns the largest sum of stack frames from a function down, up to panics and calls by a
    /// pointer. A function that calls itself counts once.
    pub(crate) fn stack(&self, symbol: &str, frames: &BTreeMap<String, u64>) -> u64 {
        self.stack_above(symbol, frames, &mut Vec::new())
    }

    fn stack_above<'a>(
        &'a self,
        symbol: &'a str,
        frames: &BTreeMap<String, u64>,
        callers: &mut Vec<&'a str>,
    ) -> u64 {
        let Some(function) = self.functions.get(symbol).filter(|_| !callers.contains(&symbol))
        else {
            return 0;
        };
        callers.push(symbol);
        let deepest = function.calls.iter().map(|callee| self.stack_above(callee, frames, callers));
        let deepest = deepest.max().unwrap_or(0);
        callers.pop();
        frames.get(symbol).copied().unwrap_or(0) + deepest
    }
}

impl Function {
    fn read(&mut self, line: &str, name: &str, constants: &BTreeMap<&str, &str>) {
        let before_call = |(before, _): &(&str, &str)| {
            before.trim_start().is_empty() || before.ends_with(' ') && !before.contains([';', '"'])
        };
        let Some((_, call)) = line.split_once("call ").filter(before_call) else { return };
        let callee = call
            .split('(')
            .find_map(|part| part.rsplit(' ').next().filter(|word| word.starts_with(['@', '%'])));
        match callee {
            Some(callee) if callee.starts_with('%') => self.indirect += 1,
            Some(callee) if is_panic(callee) => {
                let last = call.rsplit('@').next().unwrap_or_default();
                let end = last.find([',', ')', ' ']).unwrap_or(last.len());
                let place = constants.get(format!("@{}", &last[..end]).as_str());
                match place.and_then(|place| location(place, constants)) {
                    Some(site) => _ = self.panics.insert(site),
                    // The compiler moved the place into the function that panics.
                    None if !name.contains("4core") => {
                        self.calls.insert(callee.trim_start_matches('@').to_owned());
                    }
                    None => _ = self.panics.insert(Site { file: name.to_owned(), line: 0 }),
                }
            }
            Some(callee) if !callee.starts_with("@llvm.") => {
                self.calls.insert(callee.trim_start_matches('@').to_owned());
            }
            _ => {}
        }
    }
}

/// Returns the first symbol of a line.
fn symbol(line: &str) -> Option<&str> {
    let (_, rest) = line.split_once('@')?;
    rest.split('(').next()
}

/// Returns `true` for the functions of the standard library that panic.
fn is_panic(callee: &str) -> bool {
    let ends = ["9panicking", "_failed", "_fail", "8cell"];
    callee.contains("4core") && ends.iter().any(|part| callee.contains(part))
}

/// Returns the place that a constant `Location` names: a pointer to the file's name, its length,
/// line and column.
fn location(constant: &str, constants: &BTreeMap<&str, &str>) -> Option<Site> {
    let (_, value) = constant.split_once("<{ ptr @")?;
    let (file, rest) = value.split_once(',')?;
    let numbers = string(rest)?;
    let line = numbers.get(8..12)?.try_into().ok().map(u32::from_le_bytes)?;
    let name = string(constants.get(format!("@{file}").as_str())?)?;
    let name = String::from_utf8(name).ok()?.trim_end_matches('\0').to_owned();
    Some(Site { file: name, line: line as usize })
}

/// Returns the bytes of the first string constant in a text of LLVM: `c"..\0A.."`.
fn string(text: &str) -> Option<Vec<u8>> {
    let (_, inside) = text.split_once("c\"")?;
    let inside = inside.split('"').next()?;
    let mut parts = inside.split('\\');
    let mut bytes = parts.next()?.as_bytes().to_vec();
    for part in parts {
        bytes.push(u8::from_str_radix(part.get(..2)?, 16).ok()?);
        bytes.extend_from_slice(part.get(2..)?.as_bytes());
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MODULE: &str = concat!(
        "@alloc_a = private constant [5 x i8] c\"a.rs\\00\", align 1\n",
        "@alloc_b = private constant <{ ptr, [16 x i8] }> <{ ptr @alloc_a, [16 x i8] ",
        "c\"\\05\\00\\00\\00\\00\\00\\00\\00\\07\\01\\00\\00\\02\\00\\00\\00\" }>, align 8\n",
        "define internal void @_RNvCsX_6panics3get(ptr %a) unnamed_addr #0 {\n",
        "  tail call fastcc void @inner(ptr %a)\n",
        "  call void @llvm.assume(i1 true)\n",
        "  call void %destroy(ptr %a)\n",
        "}\n",
        "define internal fastcc void @inner(ptr %a) {\n",
        "  %b = call i32 @leaf(ptr %a)\n",
        "  call void @inner(ptr %a)\n",
        "  call fastcc void @_RNvNtCsX_4core9panicking9panic_fmt(ptr @alloc_a, ptr %x, ",
        "ptr noundef readonly align 8 dereferenceable(24) @alloc_b) #26, !noalias !3\n",
        "}\n",
        "define i32 @leaf(ptr %a) {\n",
        "}\n",
    );

    #[test]
    fn a_panic_is_found_through_calls_with_its_place() {
        let graph = CallGraph::parse(MODULE);
        let entries: Vec<_> = graph.of_crate("panics").collect();
        assert_eq!(entries, [("get", "_RNvCsX_6panics3get")]);
        let reached = graph.reached(entries[0].1);
        assert_eq!(reached.functions.len(), 3);
        assert_eq!(reached.indirect, 1);
        let site = Site { file: "a.rs".to_owned(), line: 0x107 };
        assert_eq!(reached.panics.into_iter().collect::<Vec<_>>(), [site]);
        assert!(graph.reached("leaf").panics.is_empty());
    }

    #[test]
    fn the_deepest_stack_counts_a_recursion_once() {
        let frames = [("_RNvCsX_6panics3get", 8), ("inner", 100), ("leaf", 30)];
        let frames = frames.into_iter().map(|(name, n)| (name.to_owned(), n)).collect();
        assert_eq!(CallGraph::parse(MODULE).stack("_RNvCsX_6panics3get", &frames), 138);
    }
}
