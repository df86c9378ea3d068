//! Page frames: their descriptors, the allocator, folios, and everything that moves them.
//!
//! ```text
//!   Slot (an index entry)            walk by frame number
//!        │ get: try_get + re-check        │ try_get_head
//!        ▼                                ▼
//!   FolioRef ── last put ──▶ FrozenFolio (the token) ──▶ free ──▶ per-CPU list ──▶ buddy
//!        ▲                        │    ▲                              (Zone)
//!        └──────── init ──────────┘    └── alloc_frozen ◀──────────────┘
//! ```
//!
//! - A [`Zone`] lives for ever (`&'static`), as in a kernel: metadata is never unmapped, so the
//!   late step of a put always finds a word (R7), and handles need no lifetime.
//! - A tail has no state of its own. Only the head of a block carries a kind and an order; every
//!   other frame stays frozen, untouched since it was brought up. Making and unmaking tails writes
//!   nothing.
//! - What a frame *is* stands in its descriptor and is read after the last put won (R4), never
//!   before.
//!
//! Memory comes from the caller ([`Zone::new`]) or, with the feature `arena`, from the operating
//! system (`Arena`). The lock, the CPU number and sleeping come from the caller's [`Platform`].
//!
//! What this crate deliberately lacks: files, any policy of reclaim, NUMA, and a global instance.

#![no_std]

#[cfg(any(test, feature = "std"))]
extern crate std;

mod base;
mod index;
mod memmap;
mod moving;
#[cfg(feature = "std")]
mod os;
mod zone;

pub use base::ids::{BLOCK_ORDER, FRAME_SIZE, LARGEST_HUGE_ORDER, MAX_ORDER, Order, Pfn, PfnRange};
pub use base::migrate_type::MigrateType;
pub use base::platform::Platform;
pub use base::trace::Event;
pub use base::vectors::Vectors;
pub use index::lock::{FrozenSlot, LockedSlot};
pub use index::optimistic::DirectMap;
pub use index::slot::{Lookup, Slot};
pub use memmap::memmap::{Kind, MemmapMemory};
pub use moving::compact::Compacted;
pub use moving::contig::{Contig, ContigError};
pub use moving::hotplug::{Offline, OfflineError};
pub use moving::migrate::{MigrateError, Owner, migrate};
#[cfg(feature = "std")]
pub use os::arena::{Arena, Mapped, MetadataKept};
#[cfg(all(shuttle, feature = "std"))]
pub use os::stepped_space::SteppedLock;
#[cfg(feature = "std")]
pub use os::user_space::UserSpace;
pub use zone::adjacent::{Adjacent, joined, joined_mut};
pub use zone::alloc_error::AllocError;
pub use zone::folio::{FolioRef, FrozenFolio, KindOps};
pub use zone::level::Level;
#[cfg(feature = "track")]
pub use zone::pin_owners::PinOwners;
pub use zone::refs::{FolioRefs, put_all};
pub use zone::stats::{ZoneCounters, ZoneStats};
pub use zone::walk::{Peek, Refusal};
pub use zone::watermarks::Watermarks;
pub use zone::zone::Zone;
