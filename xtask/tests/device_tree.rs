//! Tests the reader of device trees in `examples/bare-metal`, which itself runs only on aarch64.

#[allow(unreachable_pub, reason = "this crate has no other module that could use it")]
#[path = "../../examples/bare-metal/src/arch/aarch64/device_tree.rs"]
mod device_tree;

use device_tree::{BEGINNING, DeviceTree, Node};

/// A writer of device trees.
#[derive(Default)]
struct Writer {
    structure: Vec<u8>,
    strings: Vec<u8>,
}

impl Writer {
    fn word(&mut self, word: u32) {
        self.structure.extend(word.to_be_bytes());
    }

    fn padded(&mut self, bytes: &[u8]) {
        self.structure.extend(bytes);
        self.structure.resize(self.structure.len().next_multiple_of(4), 0);
    }

    fn property(&mut self, name: &str, value: &[u8]) {
        self.word(3);
        self.word(value.len() as u32);
        self.word(self.strings.len() as u32);
        self.padded(value);
        self.strings.extend(name.as_bytes());
        self.strings.push(0);
    }

    fn cells(&mut self, name: &str, cells: &[u32]) {
        let bytes: Vec<_> = cells.iter().flat_map(|cell| cell.to_be_bytes()).collect();
        self.property(name, &bytes);
    }

    fn node(&mut self, name: &str, inside: impl FnOnce(&mut Self)) {
        self.word(1);
        self.padded(&[name.as_bytes(), &[0]].concat());
        inside(self);
        self.word(2);
    }

    /// Returns the tree: the header, the reservations, the structure and the strings.
    fn finish(mut self, reservations: &[(u64, u64)]) -> Vec<u8> {
        self.word(9);
        let list: Vec<_> = reservations
            .iter()
            .chain([&(0, 0)])
            .flat_map(|(start, len)| [start.to_be_bytes(), len.to_be_bytes()].concat())
            .collect();
        let structure = 40 + list.len();
        let strings = structure + self.structure.len();
        let len = strings + self.strings.len();
        let header = [0xd00d_feed, len, structure, strings, 40, 17, 16, 0]
            .into_iter()
            .chain([self.strings.len(), self.structure.len()])
            .flat_map(|word| (word as u32).to_be_bytes());
        [header.collect(), list, self.structure, self.strings].concat()
    }
}

/// Returns a tree as that of QEMU's machine `virt`, with all that a reader may have to skip.
fn machine() -> Vec<u8> {
    let mut tree = Writer::default();
    tree.word(4);
    tree.node("", |root| {
        root.cells("#address-cells", &[2]);
        root.word(4);
        root.cells("#size-cells", &[2]);
        root.property("empty", &[]);
        root.node("psci", |psci| {
            psci.property("compatible", b"arm,psci-1.0\0arm,psci-0.2\0arm,psci\0");
            psci.property("method", b"hvc\0");
        });
        root.node("memory@40000000", |memory| {
            memory.cells("reg", &[0, 0x4000_0000, 0, 0x1000, 1, 0, 2, 0]);
            memory.property("device_type", b"memory\0");
        });
        root.node("cpus", |cpus| {
            cpus.cells("#size-cells", &[0]);
            cpus.cells("#address-cells", &[1]);
            cpus.node("cpu-map", |map| map.node("cluster0", |_| {}));
            for id in [0_u32, 1, 0x100] {
                cpus.node(&format!("cpu@{id:x}"), |cpu| cpu.cells("reg", &[id]));
            }
        });
    });
    tree.finish(&[(0x4800_0000, 0x2000), (7, u64::MAX)])
}

fn names(node: Node<'_>) -> usize {
    node.children().map(|child| 1 + names(child)).sum()
}

#[test]
fn nodes_properties_and_reservations_are_found() {
    let bytes = machine();
    assert_eq!(DeviceTree::len(&bytes[..BEGINNING]), Some(bytes.len()));
    let tree = DeviceTree::new(&bytes).expect("a tree");
    let all: Vec<_> = tree.reservations().collect();
    assert_eq!(all, [0x4800_0000..0x4800_2000, 7..u64::MAX]);

    let root = tree.root().expect("a root");
    assert_eq!(root.children().count(), 3);
    assert_eq!(names(root), 8);
    assert_eq!(root.property("empty"), Some(&[][..]));
    assert_eq!(root.property("method"), None, "a property of a node below");
    let psci = root.child("psci").expect("a node");
    assert!(psci.lists("compatible", "arm,psci-0.2"));
    assert!(!psci.lists("compatible", "arm,psci-0"));
    let memory = root.child("memory").expect("a node with an address");
    let ranges: Vec<_> = root.ranges_of(memory).collect();
    assert_eq!(ranges, [0x4000_0000..0x4000_1000, 1 << 32..3 << 32]);

    let cpus = root.child("cpus").expect("a node");
    let ids: Vec<_> = cpus.children().filter_map(|cpu| cpus.address_of(cpu)).collect();
    assert_eq!(ids, [0, 1, 0x100]);
    assert_eq!(cpus.ranges_of(cpus.child("cpu").expect("a node")).count(), 0, "they have no size");
}

/// Reads all that a kernel would.
fn read(bytes: &[u8]) -> usize {
    let Some(tree) = DeviceTree::new(bytes) else { return 0 };
    let Some(root) = tree.root() else { return 0 };
    let ranges = |node: Node<'_>| {
        node.children()
            .map(|child| {
                let found = node.ranges_of(child).count();
                found + usize::from(node.address_of(child).is_some_and(|address| address > 0))
            })
            .sum::<usize>()
    };
    tree.reservations().count() + names(root) + ranges(root) + root.child("cpus").map_or(0, ranges)
}

#[test]
fn malformed_trees_are_read_without_a_panic() {
    let whole = machine();
    let found = read(&whole);
    assert_eq!(found, 2 + 8 + 3 + 2);
    let mut fewer = 0;
    for len in 0..whole.len() {
        assert_eq!(read(&whole[..len]), 0, "a part of a tree is none");
        // The length in the header is that of the part.
        let mut part = whole[..len].to_vec();
        if len >= BEGINNING {
            part[4..8].copy_from_slice(&(len as u32).to_be_bytes());
        }
        fewer += usize::from(read(&part) < found);
    }
    assert!(fewer > whole.len() / 2, "{fewer} of {} parts have less in them", whole.len());
    for at in 0..whole.len() {
        for value in [0, 1, 2, 3, 4, 9, 0x7f, 0x80, 0xff] {
            let mut changed = whole.clone();
            changed[at] = value;
            // Reading must end, without a panic.
            read(&changed);
        }
    }
}
