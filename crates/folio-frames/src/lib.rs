//! Page frames for kernels, hypervisors and page caches: descriptors, an allocator, folios, and
//! migration.
//!
//! ```text
//!   Slot (an index entry)            walk by frame number
//!        │ get: try_get + check           │ try_get_head
//!        ▼                                ▼
//!   FolioRef ── last put ──▶ FrozenFolio (exclusive) ──▶ free ──▶ per-CPU list ──▶ buddy
//!        ▲                        │    ▲                              (Zone)
//!        └──────── init ──────────┘    └── alloc_frozen ◀──────────────┘
//! ```
//!
//! - A [`Zone`] lives forever (`&'static`), as in a kernel. Its metadata is never unmapped, so the
//!   late step of a put always finds a word (R7), and handles need no lifetime.
//! - A tail has no state of its own. Only the head of a block has a kind and an order. Every other
//!   frame stays frozen, untouched since it came online. Making and unmaking tails writes nothing.
//! - The kind of a frame stands in its descriptor. It is read after the last put has won (R4),
//!   never before.
//!
//! Memory comes from the caller ([`Zone::new`]) or, with the feature `std`, from the operating
//! system (`Arena`). The lock, the CPU number and sleeping come from the caller's [`Platform`].
//!
//! # Examples
//!
//! ```
//! use folio_frames::{Arena, Kind, Lookup, Order, Slot, UserSpace};
//!
//! let arena = Arena::<UserSpace>::new(8 << 20, &[])?;
//! let zone = arena.zone();
//!
//! // Write a folio while it is exclusive, then publish it in a slot of an index.
//! let mut frozen = zone.alloc_frozen(Order::ZERO)?;
//! frozen.set_owner(Kind::owner(0), 42);
//! frozen.as_mut_slice().fill(7);
//! let slot = Slot::new();
//! slot.install(frozen).expect("an empty slot").publish();
//!
//! // A lookup is one fetch-add.
//! let Lookup::Hit(folio) = slot.get(zone) else { panic!("no folio") };
//! assert_eq!(folio.as_slice(), [7; 4096]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What is here
//!
//! - [`Zone`] owns frames: it allocates and frees them, and finds them by frame number ([`Pfn`]).
//!   [`MemoryMap`] says which frames there are; [`Zones`] is a table of several zones.
//! - [`FolioRef`] is a counted reference to a folio, [`FrozenFolio`] its exclusive handle.
//!   [`FolioRefs`] and [`Adjacent`] are several references in one value. [`FolioRef::into_raw`]
//!   makes one a frame number, for an entry of a page table.
//! - [`VolatileRef`] is a counted reference to a folio with bytes that others may change.
//! - [`Slot`] is an entry of a lockless index. [`Slot::try_lock`] takes its page lock.
//! - [`migrate`] moves a folio. [`Zone::offline`], [`Zone::compact`] and [`Zone::alloc_contig`]
//!   empty ranges of frames.
//! - [`Watermarks`] and [`Level`] report when to reclaim.
//! - [`Platform`] and [`Owner`] are open traits: implement them for your kernel and your index.
//!
//! It has no files, no reclaim policy, no NUMA, and no global instance.
//!
//! # Rules
//!
//! The code cites the rules R1 to R8 by number. [`folio_ref`] lists them; ARCHITECTURE.md states
//! them in full.
//!
//! # Features
//!
//! None is on by default; the crate is `no_std` and allocates nothing.
//!
//! - `std`: memory from the operating system (`Arena`), and the platform of a process
//!   (`UserSpace`).
//! - `lock_api_04`: locks of `lock_api` 0.4, such as those of the crate spin, for a [`Platform`].
//! - `stable_deref_trait`: [`PinnedBytes`] implements `StableDeref`.
//! - `track`: each reference remembers the line of code that took it (`Zone::pin_owners`).
//! - `checks`: checks callers and invariants in release builds too. Debug builds always do.

#![no_std]

#[cfg(any(test, feature = "std"))]
extern crate std;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

#[cfg(doctest)]
#[doc = include_str!("../../../docs/kernel.md")]
struct KernelGuide;

mod base;
mod index;
mod memmap;
mod moving;
#[cfg(feature = "std")]
mod os;
mod zone;

pub use base::ids::{BLOCK_ORDER, FRAME_SIZE, LARGEST_HUGE_ORDER, MAX_ORDER, Order, Pfn, PfnRange};
#[cfg(feature = "lock_api_04")]
pub use base::lock_api_04::{AsTheyAre, Interrupts, LockApi04};
pub use base::migrate_type::MigrateType;
pub use base::platform::Platform;
pub use base::trace::Event;
pub use base::vectors::Vectors;
pub use index::lock::{FrozenSlot, LockedSlot};
pub use index::optimistic::DirectMap;
pub use index::slot::{Lookup, Slot};
pub use index::zones::{ZoneRefused, Zones};
pub use memmap::memmap::{Kind, MemmapMemory};
pub use memmap::memory_map::MemoryMap;
pub use memmap::uses::Uses;
pub use moving::compact::Compacted;
pub use moving::contig::{Contig, ContigError};
pub use moving::hotplug::{Offline, OfflineError};
pub use moving::migrate::{MigrateError, Owner, migrate, migrate_to};
#[cfg(feature = "std")]
pub use os::arena::{Arena, Mapped, MetadataKept};
#[cfg(all(shuttle, feature = "std"))]
pub use os::futex_lock::WeakLock;
#[cfg(feature = "std")]
pub use os::futex_lock::{FutexLock, Sleepers};
#[cfg(feature = "std")]
pub use os::lazy_range::LazyRange;
#[cfg(all(shuttle, feature = "std"))]
pub use os::lazy_range::WeakRange;
#[cfg(feature = "std")]
pub use os::slot_space::{LockedLeaves, SlotRange, SlotSpace};
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
pub use zone::pinned_bytes::PinnedBytes;
pub use zone::refs::{FolioRefs, free_for_reuse, put_all};
pub use zone::stats::{ZoneCounters, ZoneStats};
pub use zone::volatile::VolatileRef;
pub use zone::walk::{Peek, Refusal};
pub use zone::watermarks::Watermarks;
pub use zone::zone::Zone;
