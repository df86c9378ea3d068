//! What the boot loader and the firmware left in memory: the PVH start info with its memory map,
//! and the ACPI table of the CPUs. A room of unsafe code: reading at addresses that they gave.
//!
//! (Xen, `public/arch-x86/hvm/start_info.h`; ACPI 5.2.5, 5.2.7, 5.2.12.)

use core::ops::Range;
use core::{ptr, slice};

const PVH_MAGIC: u32 = 0x336e_c578;
const RAM: u32 = 1;

/// The start info: bytes at an address below 4 GiB.
pub struct StartInfo(&'static [u8]);

impl StartInfo {
    /// # Panics
    ///
    /// When nothing there says that it is a PVH start info.
    pub fn at(address: usize) -> Self {
        let info = bytes(address, 56);
        assert_eq!(u32_at(info, 0), PVH_MAGIC, "no PVH start info at {address:#x}");
        assert!(u32_at(info, 4) >= 1, "a start info without a memory map");
        Self(info)
    }

    /// The ranges of memory that are free to use, as the map gives them.
    pub fn memory(&self) -> impl Iterator<Item = Range<usize>> {
        let entries = u32_at(self.0, 48) as usize;
        let map = bytes(u64_at(self.0, 40) as usize, entries * 24);
        map.chunks(24).filter(|entry| u32_at(entry, 16) == RAM).map(|entry| {
            let start = u64_at(entry, 0) as usize;
            start..start + u64_at(entry, 8) as usize
        })
    }

    /// The APIC ids of the CPUs that can be started, this one among them.
    pub fn cpus(&self) -> impl Iterator<Item = u8> {
        let root = bytes(u64_at(self.0, 32) as usize, 20);
        assert_eq!(root[..8], *b"RSD PTR ", "no root of the ACPI tables");
        let tables = table(u32_at(root, 16) as usize);
        let mut addresses = tables[36..].chunks(4).map(|entry| u32_at(entry, 0) as usize);
        let cpus = addresses
            .find(|&address| bytes(address, 4) == b"APIC")
            .map(table)
            .expect("a table of the CPUs");
        let mut rest = &cpus[44..];
        core::iter::from_fn(move || {
            let entry = rest.get(..usize::from(*rest.get(1)?))?;
            rest = &rest[entry.len()..];
            Some(entry)
        })
        // Type 0: a local APIC; bit 0 of its flags: enabled.
        .filter(|entry| entry[0] == 0 && entry[4] & 1 == 1)
        .map(|entry| entry[3])
    }
}

/// An ACPI table, which says its own length.
fn table(address: usize) -> &'static [u8] {
    bytes(address, u32_at(bytes(address, 8), 4) as usize)
}

/// What lies at an address.
///
/// # Panics
///
/// Above 4 GiB, which is not mapped.
fn bytes(address: usize, len: usize) -> &'static [u8] {
    assert!(address.saturating_add(len) <= 1 << 32, "{len} bytes at {address:#x} are above 4 GiB");
    // SAFETY: mapped, by the check above; written before we were started, and not since: it lies in
    // what the map does not call free, or below the first block that goes online.
    unsafe { slice::from_raw_parts(ptr::with_exposed_provenance(address), len) }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}
