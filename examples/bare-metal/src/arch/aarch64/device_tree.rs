//! A reader of device trees in memory: nodes and their properties. (Devicetree Specification 0.4,
//! chapter 5.)
//!
//! A malformed tree has fewer nodes and properties; it never makes the reader fail.

use core::ops::Range;

const MAGIC: u32 = 0xd00d_feed;
/// The version of the format.
const VERSION: u32 = 17;
/// The length of the header.
const HEADER: usize = 40;
/// The length of its beginning, which contains the length of the tree.
pub const BEGINNING: usize = 8;

/// A piece of the structure of a tree.
enum Token<'a> {
    BeginNode { name: &'a [u8] },
    EndNode,
    Property { name: usize, value: &'a [u8] },
    Nothing,
}

/// A device tree.
#[derive(Clone, Copy)]
pub struct DeviceTree<'a>(&'a [u8]);

impl<'a> DeviceTree<'a> {
    /// Returns the length of the tree that begins with these bytes, at least [`BEGINNING`].
    pub fn len(beginning: &[u8]) -> Option<usize> {
        (word(beginning, 0)? == MAGIC).then_some(word(beginning, 4)? as usize)
    }

    /// Returns the tree in these bytes.
    pub fn new(bytes: &'a [u8]) -> Option<Self> {
        let bytes = bytes.get(..Self::len(bytes)?)?;
        let compatible = word(bytes, 24)? <= VERSION;
        (bytes.len() >= HEADER && compatible).then_some(Self(bytes))
    }

    /// Returns the part of the tree that begins at the offset in a word of the header.
    fn part(self, at: usize) -> &'a [u8] {
        word(self.0, at).and_then(|offset| self.0.get(offset as usize..)).unwrap_or_default()
    }

    /// Returns the root of the tree.
    pub fn root(self) -> Option<Node<'a>> {
        let mut rest = self.part(8);
        loop {
            match token(&mut rest)? {
                Token::BeginNode { name } => return Some(Node { tree: self, name, inside: rest }),
                Token::Nothing => {}
                Token::EndNode | Token::Property { .. } => return None,
            }
        }
    }

    /// Returns the reservations: ranges of memory that are in use.
    pub fn reservations(self) -> impl Iterator<Item = Range<u64>> {
        let entries = self.part(16).chunks_exact(16);
        entries.map(|entry| range(&entry[..8], &entry[8..])).take_while(|range| *range != (0..0))
    }
}

/// A node of a tree.
#[derive(Clone, Copy)]
pub struct Node<'a> {
    tree: DeviceTree<'a>,
    name: &'a [u8],
    /// The structure from the first token of the node on.
    inside: &'a [u8],
}

impl<'a> Node<'a> {
    /// Returns the value of a property.
    pub fn property(self, name: &str) -> Option<&'a [u8]> {
        let strings = self.tree.part(12);
        let mut rest = self.inside;
        loop {
            match token(&mut rest)? {
                Token::Property { name: at, value } => {
                    if text(strings.get(at..)?)? == name.as_bytes() {
                        return Some(value);
                    }
                }
                Token::Nothing => {}
                Token::BeginNode { .. } | Token::EndNode => return None,
            }
        }
    }

    /// Returns `true` if a property is a list of strings with this one.
    pub fn lists(self, property: &str, string: &str) -> bool {
        self.property(property)
            .is_some_and(|value| value.split(|&byte| byte == 0).any(|s| s == string.as_bytes()))
    }

    /// Returns the nodes in this node.
    pub fn children(self) -> impl Iterator<Item = Self> {
        let mut rest = self.inside;
        let mut depth = 0;
        core::iter::from_fn(move || {
            loop {
                match token(&mut rest)? {
                    Token::BeginNode { name } => {
                        depth += 1;
                        if depth == 1 {
                            return Some(Self { tree: self.tree, name, inside: rest });
                        }
                    }
                    Token::EndNode if depth == 0 => {
                        rest = &[];
                        return None;
                    }
                    Token::EndNode => depth -= 1,
                    Token::Property { .. } | Token::Nothing => {}
                }
            }
        })
    }

    /// Returns the node in this node with this name, without the address that may follow it.
    pub fn child(self, name: &str) -> Option<Self> {
        let is_it = |node: &Self| node.name.split(|&byte| byte == b'@').next();
        self.children().find(|node| is_it(node) == Some(name.as_bytes()))
    }

    /// Returns the ranges of addresses of a node in this node.
    pub fn ranges_of(self, child: Self) -> impl Iterator<Item = Range<u64>> {
        let (start, len) = (self.cells("#address-cells", 2), self.cells("#size-cells", 1));
        let all = child.property("reg").filter(|_| start > 0 && len > 0).unwrap_or_default();
        all.chunks_exact((start + len).max(1)).map(move |reg| range(&reg[..start], &reg[start..]))
    }

    /// Returns the address of a node in this node.
    pub fn address_of(self, child: Self) -> Option<u64> {
        Some(number(child.property("reg")?.get(..self.cells("#address-cells", 2))?))
    }

    /// Returns the number of bytes of an address or a length in the nodes in this node.
    fn cells(self, property: &str, default: usize) -> usize {
        let cells = self.property(property).and_then(|value| word(value, 0));
        cells.map_or(default, |cells| cells.min(4) as usize) * 4
    }
}

/// Takes the next token of a structure, if there is one.
fn token<'a>(rest: &mut &'a [u8]) -> Option<Token<'a>> {
    let kind = word(rest, 0)?;
    let (token, len) = match kind {
        1 => {
            let name = text(&rest[4..])?;
            (Token::BeginNode { name }, 4 + name.len() + 1)
        }
        2 => (Token::EndNode, 4),
        3 => {
            let len = word(rest, 4)? as usize;
            let value = rest.get(12..12_usize.checked_add(len)?)?;
            (Token::Property { name: word(rest, 8)? as usize, value }, 12 + len)
        }
        4 => (Token::Nothing, 4),
        _ => return None,
    };
    *rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
    Some(token)
}

/// Returns the string that the bytes begin with, without the zero at its end.
fn text(bytes: &[u8]) -> Option<&[u8]> {
    bytes.split(|&byte| byte == 0).next().filter(|text| text.len() < bytes.len())
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let word = bytes.get(at..)?.first_chunk()?;
    Some(u32::from_be_bytes(*word))
}

/// Returns the number in some words. The upper bits are lost if there are more than 64.
fn number(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |number, &byte| number << 8 | u64::from(byte))
}

fn range(start: &[u8], len: &[u8]) -> Range<u64> {
    let start = number(start);
    start..start.saturating_add(number(len))
}
