//! The tables of boot loader and firmware in memory: the PVH start info with its memory map, and
//! the ACPI table of the CPUs. A room of unsafe code: it reads at the addresses in those tables.
//!
//! (Xen, `public/arch-x86/hvm/start_info.h`; ACPI 5.2.5, 5.2.7, 5.2.12.)

use core::ops::Range;
use core::{ptr, slice};

use super::{boot, machine};

const PVH_MAGIC: u32 = 0x336e_c578;
const RAM: u32 = 1;

/// A CPU that can be started.
pub struct Cpu {
    /// The number of its local APIC, which interrupts use.
    pub apic_id: u8,
}

/// The PVH start info, at an address below 4 GiB.
pub struct Firmware(&'static [u8]);

impl Firmware {
    /// Returns the start info at an address.
    ///
    /// # Panics
    ///
    /// Panics if `address` has no PVH start info with a memory map.
    pub fn at(address: usize) -> Self {
        let info = bytes(address, 56);
        assert_eq!(u32_at(info, 0), PVH_MAGIC, "no PVH start info at {address:#x}");
        assert!(u32_at(info, 4) >= 1, "the start info at {address:#x} has no memory map");
        Self(info)
    }

    /// Returns the ranges of usable memory in the memory map, as the firmware lists them.
    pub fn memory(&self) -> impl Iterator<Item = Range<u64>> {
        self.map().chunks(24).filter(|entry| u32_at(entry, 16) == RAM).map(|entry| {
            let start = u64_at(entry, 0);
            start..start + u64_at(entry, 8)
        })
    }

    fn map(&self) -> &'static [u8] {
        bytes(u64_at(self.0, 40) as usize, u32_at(self.0, 48) as usize * 24)
    }

    /// Returns the ACPI root pointer, the table of tables, and the table of CPUs.
    fn acpi(&self) -> [&'static [u8]; 3] {
        let root = bytes(u64_at(self.0, 32) as usize, 20);
        assert_eq!(root[..8], *b"RSD PTR ", "no ACPI root pointer");
        let tables = table(u32_at(root, 16) as usize);
        let mut addresses = tables[36..].chunks(4).map(|entry| u32_at(entry, 0) as usize);
        let cpus = addresses
            .find(|&address| bytes(address, 4) == b"APIC")
            .map(table)
            .expect("the ACPI tables include the table of CPUs");
        [root, tables, cpus]
    }

    /// Returns the addresses of all that this type reads.
    fn tables(&self) -> [Range<usize>; 5] {
        let [root, tables, cpus] = self.acpi();
        [self.0, self.map(), root, tables, cpus].map(|bytes| {
            let range = bytes.as_ptr_range();
            range.start.addr()..range.end.addr()
        })
    }

    /// Returns the parts of usable memory that are in use: the tables, and the page at which the
    /// other CPUs start.
    pub fn reserved(&self) -> impl Iterator<Item = Range<u64>> {
        let ranges = self.tables().into_iter().chain([boot::trampoline_page()]);
        ranges.map(|range| range.start as u64..range.end as u64)
    }

    /// Returns the CPUs that can be started, without this CPU.
    pub fn other_cpus(&self) -> impl Iterator<Item = Cpu> {
        let this = machine::apic_id();
        let [_, _, cpus] = self.acpi();
        let mut rest = &cpus[44..];
        core::iter::from_fn(move || {
            let entry = rest.get(..usize::from(*rest.get(1)?))?;
            rest = &rest[entry.len()..];
            Some(entry)
        })
        // Type 0: a local APIC; bit 0 of its flags: enabled.
        .filter(|entry| entry[0] == 0 && entry[4] & 1 == 1)
        .map(|entry| Cpu { apic_id: entry[3] })
        .filter(move |cpu| cpu.apic_id != this)
    }
}

/// Returns the ACPI table at an address. The table contains its own length.
fn table(address: usize) -> &'static [u8] {
    bytes(address, u32_at(bytes(address, 8), 4) as usize)
}

/// Returns the bytes at an address.
///
/// # Panics
///
/// Panics if the range ends above 4 GiB, which is not mapped.
fn bytes(address: usize, len: usize) -> &'static [u8] {
    assert!(address.saturating_add(len) <= 1 << 32, "{len} bytes at {address:#x} are above 4 GiB");
    // SAFETY: the range is mapped, by the check above. It was written before the kernel started and
    // does not change: it is one of `Firmware::tables`, which are reserved in the memory map.
    unsafe { slice::from_raw_parts(ptr::with_exposed_provenance(address), len) }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}
