//! The sizes in a program: sections, functions, and stack frames, of an ELF file of 64 bits, least
//! byte first.

use std::collections::BTreeMap;

const SYMBOLS: u32 = 2;
const FUNCTION: u8 = 2;

/// The sizes of a program.
#[derive(Debug, Default)]
pub(crate) struct Sizes {
    /// By section.
    pub(crate) sections: BTreeMap<String, u64>,
    /// The bytes of code by function.
    pub(crate) text: BTreeMap<String, u64>,
    /// The bytes of stack by function, without its callees.
    pub(crate) stack: BTreeMap<String, u64>,
}

struct Section {
    name: u32,
    kind: u32,
    link: u32,
    bytes: std::ops::Range<usize>,
}

/// Reads the sizes from the bytes of a file. Returns `None` if it is no such file.
pub(crate) fn sizes(file: &[u8]) -> Option<Sizes> {
    if file.get(..6)? != b"\x7fELF\x02\x01" {
        return None;
    }
    let first = number(file, 0x28, 8)? as usize;
    let (size, count) = (number(file, 0x3a, 2)? as usize, number(file, 0x3c, 2)? as usize);
    let section = |n: usize| {
        let at = first + n * size;
        let (offset, length) =
            (number(file, at + 24, 8)? as usize, number(file, at + 32, 8)? as usize);
        Some(Section {
            name: number(file, at, 4)? as u32,
            kind: number(file, at + 4, 4)? as u32,
            link: number(file, at + 40, 4)? as u32,
            bytes: offset..offset + length,
        })
    };
    let all = (0..count).map(section).collect::<Option<Vec<_>>>()?;
    let names = all.get(number(file, 0x3e, 2)? as usize)?.bytes.start;
    let mut sizes = Sizes::default();
    let mut starts = BTreeMap::new();
    for section in &all {
        let name = text(file, names + section.name as usize)?;
        sizes.sections.insert(name, section.bytes.len() as u64);
        if section.kind == SYMBOLS {
            let strings = all.get(section.link as usize)?.bytes.start;
            for at in section.bytes.clone().step_by(24) {
                if number(file, at + 4, 1)? as u8 & 15 == FUNCTION {
                    let name = text(file, strings + number(file, at, 4)? as usize)?;
                    starts.insert(number(file, at + 8, 8)?, name.clone());
                    sizes.text.insert(name, number(file, at + 16, 8)?);
                }
            }
        }
    }
    for section in &all {
        if text(file, names + section.name as usize)? == ".stack_sizes" {
            let mut at = section.bytes.start;
            while at < section.bytes.end {
                let start = number(file, at, 8)?;
                let (stack, length) = leb128(file.get(at + 8..section.bytes.end)?)?;
                sizes.stack.extend(starts.get(&start).map(|name| (name.clone(), stack)));
                at += 8 + length;
            }
        }
    }
    Some(sizes)
}

fn number(file: &[u8], at: usize, bytes: usize) -> Option<u64> {
    let bytes = file.get(at..at + bytes)?;
    Some(bytes.iter().rev().fold(0, |sum, &byte| sum << 8 | u64::from(byte)))
}

fn text(file: &[u8], at: usize) -> Option<String> {
    let bytes = file.get(at..)?.split(|&byte| byte == 0).next()?;
    Some(String::from_utf8_lossy(bytes).into_owned())
}

/// Returns a number that has 7 bits in each byte, and its length.
fn leb128(bytes: &[u8]) -> Option<(u64, usize)> {
    let length = bytes.iter().position(|byte| byte & 0x80 == 0)? + 1;
    let value =
        bytes[..length].iter().rev().fold(0, |sum, &byte| sum << 7 | u64::from(byte & 0x7f));
    Some((value, length))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_of_several_bytes_is_read() {
        assert_eq!(leb128(&[0x18, 9]), Some((24, 1)));
        assert_eq!(leb128(&[0xa0, 0x1c]), Some((3616, 2)));
        assert_eq!(leb128(&[0x80]), None);
    }

    #[test]
    fn this_test_has_code_and_sections() {
        let file = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let sizes = sizes(&file).expect("a program of 64 bits");
        assert!(sizes.sections[".text"] > 10_000, "{:?}", sizes.sections);
        assert!(sizes.text.values().all(|&size| size <= sizes.sections[".text"]));
        assert!(sizes.text.len() > 100);
    }
}
