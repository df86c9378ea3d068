//! The atomic instructions of a function, read from its assembly: what each does to the word, in
//! the order of the text, with its ordering where the processor has one.

use std::collections::BTreeMap;

/// The instructions of each function, by its symbol.
pub(crate) struct Assembly {
    functions: BTreeMap<String, Vec<String>>,
    /// Functions with the same code, of which the compiler keeps one.
    same: BTreeMap<String, String>,
}

impl Assembly {
    /// Reads assembly: of x86-64 in Intel's syntax, or of aarch64.
    pub(crate) fn of(text: &str) -> Self {
        let (mut functions, mut same) = (BTreeMap::new(), BTreeMap::new());
        let mut current: Option<(String, Vec<String>)> = None;
        for line in text.lines() {
            let code = line.split(['#', ';']).next().unwrap_or_default();
            let code = code.split("//").next().unwrap_or_default().trim_end();
            let label = code.strip_suffix(':').filter(|label| !label.starts_with(['.', '\t', ' ']));
            if let Some(label) = label {
                functions.extend(current.replace((label.to_owned(), Vec::new())));
            } else if let Some((alias, first)) = alias(code) {
                same.insert(alias, first);
            } else if let Some((_, lines)) = &mut current {
                let code = code.trim();
                if !code.is_empty() && !code.starts_with('.') {
                    lines.push(code.split_whitespace().collect::<Vec<_>>().join(" "));
                }
            }
        }
        functions.extend(current);
        Self { functions, same }
    }

    /// Returns all symbols.
    pub(crate) fn symbols(&self) -> impl Iterator<Item = &str> {
        self.functions.keys().chain(self.same.keys()).map(String::as_str)
    }

    /// Returns the atomic instructions of a function in the order of its text, and then those of
    /// each function that it calls. Those calls are rare branches, which a compiler may place
    /// anywhere in the text.
    pub(crate) fn atomics(&self, symbol: &str) -> Vec<String> {
        let symbol = self.same.get(symbol).map_or(symbol, String::as_str);
        let (mut found, mut calls) = (Vec::new(), Vec::new());
        for line in self.functions.get(symbol).into_iter().flatten() {
            if let Some(called) = self.called(line).filter(|&called| called != symbol) {
                calls.push(format!("[{}]", self.atomics(called).join(" ")));
            } else {
                found.extend(atomic(line));
            }
        }
        calls.sort();
        found.extend(calls);
        found
    }

    /// Returns the function of this assembly that a line calls or jumps to.
    fn called<'a>(&'a self, line: &'a str) -> Option<&'a str> {
        let (verb, rest) = line.split_once(' ')?;
        let is_call = verb == "call" || verb == "bl" || verb == "b" || verb.starts_with('j');
        let is_symbol = |c: char| c.is_alphanumeric() || "_$.".contains(c);
        rest.split(|c: char| !is_symbol(c)).find(|word| {
            is_call && (self.functions.contains_key(*word) || self.same.contains_key(*word))
        })
    }
}

/// Returns the two symbols of a line `A = B` or `.set A, B`.
fn alias(code: &str) -> Option<(String, String)> {
    let code = code.trim();
    let pair = code.strip_prefix(".set").and_then(|pair| pair.split_once(','));
    let (alias, first) = pair.or_else(|| code.split_once(" = "))?;
    Some((alias.trim().to_owned(), first.trim().to_owned()))
}

/// Returns what an instruction does to the word, or `None` if it does not access it. The stack and
/// constants are no words.
fn atomic(line: &str) -> Option<String> {
    let (verb, rest) = line.split_once(' ')?;
    if verb == "lock" {
        return rest.split(' ').next().map(|verb| format!("lock {verb}"));
    }
    if verb == "dmb" {
        return Some(line.to_owned());
    }
    let (before, address) = rest.split_once('[')?;
    if ["sp", "rsp", "rip"].iter().any(|register| address.starts_with(register)) || verb == "lea" {
        return None;
    }
    // aarch64 names what it does; x86-64 has one verb for loads and stores.
    let is_store = before.is_empty() || before.ends_with("ptr ") || before.ends_with("PTR ");
    Some(match verb {
        "mov" if is_store && !before.contains(',') => "store".to_owned(),
        "str" | "stur" => "store".to_owned(),
        "mov" | "and" | "test" | "cmp" | "or" | "add" | "ldr" | "ldur" => "load".to_owned(),
        _ => verb.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_processors_are_read() {
        let x86 = "put:\n\tmov\trax, QWORD PTR [rdi]\n\tlock xadd\tQWORD PTR [rdi], rax\n\
                   \tmov\tDWORD PTR [rsp+4], eax\n\tjmp\tpin\n\
                   pin:\n.LBB1:\n\tlock\t\tcmpxchg\tdword ptr [rdi], ecx\n\tjne\t.LBB1\n\
                   \tmov\tqword ptr [rdi], rax\n\tret\nsame = put\n";
        let x86 = Assembly::of(x86);
        let put = ["load", "lock xadd", "[lock cmpxchg store]"];
        assert_eq!(
            (x86.atomics("put"), x86.atomics("same")),
            (put.map(str::to_owned).into(), put.map(str::to_owned).into())
        );
        let arm = "get:\n\tldr x9, [x0] // a load\n\tldaxr\tx10, [x0]\n\tstxr\tw11, x9, [x0]\n\
                   \tstlr\tx9, [x0]\n\tstr\tx30, [sp, #-16]!\n\tbl\trefuse\n\tret\n\
                   refuse:\n\tcasal\tx1, x2, [x0]\n\tb\trefuse\n\t.set again, get\n";
        let arm = Assembly::of(arm);
        let get = ["load", "ldaxr", "stxr", "stlr", "[casal]"];
        assert_eq!(arm.atomics("again"), get);
        assert_eq!(arm.symbols().count(), 3);
    }
}
