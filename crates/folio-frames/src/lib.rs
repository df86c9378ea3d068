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

mod adjacent;
mod alloc;
#[cfg(feature = "std")]
mod arena;
mod blocks;
mod buddy;
mod compact;
mod contig;
mod evacuate;
mod folio;
mod handover;
mod hotplug;
mod ids;
mod lock;
mod memmap;
mod migrate;
mod migrate_type;
mod numbers;
mod optimistic;
mod parts;
mod pcp;
mod platform;
mod racy_copy;
mod refs;
#[cfg(feature = "std")]
mod retire;
mod slot;
mod stats;
#[cfg(all(shuttle, feature = "std"))]
mod stepped_space;
mod sync;
mod trace;
mod track;
#[cfg(feature = "std")]
mod user_space;
mod walk;
mod watermarks;
mod zone;

pub use adjacent::{Adjacent, joined, joined_mut};
#[cfg(feature = "std")]
pub use arena::{Arena, Mapped, MetadataKept};
pub use buddy::AllocError;
pub use compact::Compacted;
pub use contig::{Contig, ContigError};
pub use folio::{FolioRef, FrozenFolio};
pub use hotplug::{Offline, OfflineError};
pub use ids::{BLOCK_ORDER, FRAME_SIZE, LARGEST_HUGE_ORDER, MAX_ORDER, Order, Pfn, PfnRange};
pub use lock::{FrozenSlot, LockedSlot};
pub use memmap::{Kind, MemmapMemory};
pub use migrate::{MigrateError, Owner, migrate};
pub use migrate_type::MigrateType;
pub use optimistic::DirectMap;
pub use platform::{KindOps, Platform};
pub use racy_copy::Vectors;
pub use refs::{FolioRefs, put_all};
pub use slot::{Lookup, Slot};
pub use stats::{ZoneCounters, ZoneStats};
#[cfg(all(shuttle, feature = "std"))]
pub use stepped_space::SteppedLock;
pub use trace::Event;
#[cfg(feature = "track")]
pub use track::PinOwners;
#[cfg(feature = "std")]
pub use user_space::UserSpace;
pub use walk::{Peek, Refusal};
pub use watermarks::{Level, Watermarks};
pub use zone::Zone;
