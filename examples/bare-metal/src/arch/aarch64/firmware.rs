//! The device tree that the firmware leaves in memory: usable memory, reserved memory, the CPUs and
//! the way to start them. A room of unsafe code: it reads at the address of the tree.
//!
//! (Devicetree Specification 0.4, chapter 3; Linux, `bindings/arm/psci.yaml`.)

use core::ops::Range;
use core::{ptr, slice};

use super::boot::{MAPPED, MEMORY};
use super::device_tree::{BEGINNING, DeviceTree, Node};
use super::machine;

/// A CPU that can be started.
pub struct Cpu {
    /// The affinity in its register MPIDR, which identifies it.
    pub id: u64,
    /// The way to call the firmware.
    pub conduit: Conduit,
}

/// The instruction that calls the firmware.
#[derive(Clone, Copy)]
pub enum Conduit {
    /// `hvc`
    Hypervisor,
    /// `smc`
    SecureMonitor,
}

/// The device tree of the firmware.
pub struct Firmware {
    bytes: &'static [u8],
    root: Node<'static>,
}

impl Firmware {
    /// Returns the device tree at an address, or that at the start of memory if it is 0: QEMU
    /// passes no address to a kernel that is an ELF file.
    ///
    /// # Panics
    ///
    /// Panics if there is no device tree.
    pub fn at(address: usize) -> Self {
        let address = if address == 0 { MEMORY as usize } else { address };
        let len = DeviceTree::len(bytes(address, BEGINNING));
        let bytes = bytes(address, len.unwrap_or_default());
        let root = DeviceTree::new(bytes).and_then(DeviceTree::root);
        let root = root.unwrap_or_else(|| panic!("no device tree at {address:#x}"));
        Self { bytes, root }
    }

    /// Returns the ranges of usable memory, as the firmware lists them.
    pub fn memory(&self) -> impl Iterator<Item = Range<u64>> {
        let root = self.root;
        let nodes = root.children().filter(|node| node.lists("device_type", "memory"));
        // Memory of the secure firmware is in the tree, but disabled.
        let nodes = nodes.filter(|node| node.property("status").is_none_or(|s| s == b"okay\0"));
        nodes.flat_map(move |node| root.ranges_of(node))
    }

    /// Returns the parts of usable memory that are in use: the device tree, and what it reserves.
    pub fn reserved(&self) -> impl Iterator<Item = Range<u64>> {
        let own = self.bytes.as_ptr_range();
        let own = own.start.addr() as u64..own.end.addr() as u64;
        let reserved = self.root.child("reserved-memory").into_iter();
        let nodes = reserved.flat_map(|all| all.children().flat_map(move |n| all.ranges_of(n)));
        let list = DeviceTree::new(self.bytes).into_iter().flat_map(DeviceTree::reservations);
        [own].into_iter().chain(list).chain(nodes)
    }

    /// Returns the CPUs that can be started, without this CPU.
    ///
    /// # Panics
    ///
    /// Panics if the firmware has other CPUs, but no PSCI to start them.
    pub fn other_cpus(&self) -> impl Iterator<Item = Cpu> {
        let (this, root) = (machine::cpu_id(), self.root);
        let cpus = root.child("cpus").into_iter();
        cpus.flat_map(|all| {
            let cpus = all.children().filter(|node| node.lists("device_type", "cpu"));
            cpus.filter_map(move |cpu| all.address_of(cpu))
        })
        .filter(move |&id| id != this)
        .map(move |id| Cpu { id, conduit: conduit(root).expect("a device tree with PSCI 0.2") })
    }
}

/// Returns the way to call the firmware.
fn conduit(root: Node<'_>) -> Option<Conduit> {
    let psci = root.child("psci").filter(|psci| {
        ["arm,psci-0.2", "arm,psci-1.0"].iter().any(|version| psci.lists("compatible", version))
    })?;
    if psci.lists("method", "hvc") {
        Some(Conduit::Hypervisor)
    } else {
        psci.lists("method", "smc").then_some(Conduit::SecureMonitor)
    }
}

/// Returns the bytes at an address.
///
/// # Panics
///
/// Panics if the range is not in the memory that `boot.s` maps.
fn bytes(address: usize, len: usize) -> &'static [u8] {
    let (start, end) = (address as u64, address.saturating_add(len) as u64);
    assert!(
        MEMORY <= start && end <= MAPPED,
        "{len} bytes at {address:#x} are not between {MEMORY:#x} and {MAPPED:#x}"
    );
    // SAFETY: the range is mapped, by the check above. It was written before the kernel started and
    // does not change: `Firmware::reserved` has it.
    unsafe { slice::from_raw_parts(ptr::with_exposed_provenance(address), len) }
}
