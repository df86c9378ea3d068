//! A page cache in user space: files read and written through reference-counted page frames.
//!
//! ```text
//!   File ──▶ Mapping (one per file) ──▶ index ──▶ Slot ──▶ folio ◀── PageHandle
//!              ▲                                     ▲
//!      Backing │ (mapping, page) in the descriptor   │ claim, freeze
//!  (a file, …) └──────── reclaim, migrate, offline ──┘
//! ```
//!
//! - A hit takes no lock and writes nothing that is shared but the page's own reference count:
//!   index, `try_get`, re-check (R8), copy, put.
//! - A frozen folio in the index means *in progress*. Whoever needs it sleeps; nobody spins. So a
//!   page that many threads miss is read once.
//! - A [`PageHandle`] is an immutable snapshot without a copy. It outlives reclaim, truncation, the
//!   last close, and the cache: a folio that leaves the index while it is held belongs to its
//!   holders alone, and the memory under it is kept until the last of them is gone.
//! - Pages of a file stay for as long as somebody has it open.
//!
//! ```
//! use folio_cache::Cache;
//!
//! # fn main() -> std::io::Result<()> {
//! # let dir = tempfile::tempdir()?;
//! # let path = dir.path().join("greeting");
//! std::fs::write(&path, "hello from a page")?;
//!
//! let cache: Cache = Cache::new(8 << 20)?;
//! let file = cache.open(&path)?;
//! let mut word = [0; 4];
//! assert_eq!(file.read_at(13, &mut word)?, 4); // a miss: the page is read
//! assert_eq!(&word, b"page");
//!
//! let handle = file.page(6)?.expect("offset 6 is inside the file"); // a hit: no copy
//! drop((file, cache));
//! assert_eq!(&*handle, b"from a page"); // it keeps its page
//! # Ok(())
//! # }
//! ```
//!
//! # Ranges, futures, streams
//!
//! [`File::range`] holds any number of pages without a copy, in one allocation, as a
//! [`Buf`](bytes::Buf); [`File::bytes`] gives [`Bytes`](bytes::Bytes). Both, and [`File::read_at`],
//! exist as futures too ([`File::read_at_async`]), and [`File::stream`] is a scan. They need
//! no runtime: a hit is there at the first poll, a miss is fetched by a thread of the cache.
//! `examples/serve.rs` serves ranges over HTTP.
//!
//! ```
//! use bytes::Buf;
//! # fn main() -> std::io::Result<()> {
//! # let file = folio_cache::Cache::<folio_ref::DefaultScheme>::new(8 << 20)?
//! #     .open_backing(std::sync::Arc::new(folio_cache::Memory::new(&[7; 10_000])))?;
//! # let mut socket = Vec::new();
//! let mut range = file.range(1000, 1 << 20)?; // to the end of the file, if it is not that long
//! while range.has_remaining() {
//!     let sent = std::io::Write::write(&mut socket, range.chunk())?; // several pages at once where they lie together
//!     range.advance(sent); // what was sent is let go
//! }
//! # assert_eq!(socket, [7; 9000]);
//! # let mut buf = [0; 100];
//! # pollster::block_on(async {
//! let read = file.read_at_async(9950, &mut buf).await?;
//! # assert_eq!(read, 50);
//! # Ok(())
//! # })
//! # }
//! ```
//!
//! # Writing
//!
//! A writer that finds a page held writes to a copy and switches the slot; else it freezes the page
//! and writes in place. Dirty pages go to the backing by writeback: see [`File`] for what is
//! promised when.
//!
//! # What of a changing file is seen
//!
//! A read that would end early looks at the file's size first, so growth and truncation are seen
//! where they matter. Bytes that another program rewrites in place are seen after
//! [`File::revalidate`] or the next [`Cache::open`], by size, mtime and ctime, so within the
//! clock's tick of the file system.
//!
//! # After a fork
//!
//! A cache belongs to the process that made it. In a child that was forked later, a call ends with
//! the right bytes or with an error of kind `Unsupported`, which names both processes. It never
//! waits for what only the parent has.
//!
//! | in the child | |
//! | --- | --- |
//! | threads | None, and none is started. |
//! | locks | None is taken: another thread may have held it at the fork, and holds it for ever in the child. |
//! | pages | A read of a page that is cached succeeds, with its bytes as of the fork. A read of any other page fails, and so does a look at the end of the file. |
//! | [`File::invalidate`] | From then on each read of the file fails. |
//! | futures | One that was in flight fails, and so does one that misses. |
//! | opens, writes, syncs, [`Cache::flush`], [`Cache::set_capacity`] | They fail, and nothing has changed. |
//! | dirty pages | They are the parent's. The child writes none of them, not even at the last close. |
//! | reclaim, migration, blocks of memory, threads, [`Cache::quiesce`] | Nothing is done. |
//! | handles | They keep their bytes. |
//! | [`Cache::zone`] | For reports only: the zone knows nothing of processes. |
//! | memory | That of the cache stays until the child ends, shared with the parent until one of them writes to it. |
//!
//! A child that needs a cache makes its own; its files are opened again. That cache reads what is in
//! the files, without what is dirty in the parent: call [`Cache::flush`] before the fork. A daemon
//! makes its cache after its forks, as a parent that exits there takes its dirty pages with it.
//!
//! POSIX allows a child of a process with threads no more than async-signal-safe calls until it
//! calls `exec`, and a cache has threads unless [`Cache::set_io_threads`] says 0. What is said
//! above holds all the same, because no lock is taken; these two are bound by the rule of POSIX,
//! and may hang if another thread of the parent was inside the allocator at the fork:
//!
//! - a new cache in the child,
//! - in the child, the last drop of a handle whose page had left the cache before the fork.
//!
//! `std::process::Command` and `posix_spawn` are not concerned: their child calls `exec` at once. A
//! child of `vfork` or of `clone` with `CLONE_VM` shares the memory of its parent, and may call
//! nothing of this crate.
//!
//! # What this crate deliberately lacks
//!
//! An index that shrinks: it costs 8 bytes per page of the file that was touched, rounded up to 2
//! MiB, until the last close.

#![forbid(unsafe_code)]

mod api;
mod backing;
mod length;
mod memory;
pub mod policy;
mod read;
mod rt;
mod state;
mod write;
mod writeback;

pub use api::cache::Cache;
pub use api::file::File;
pub use api::range::RangeHandle;
pub use api::read_many::Read;
pub use api::stream::ByteStream;
pub use api::unwritten::Unwritten;
pub use backing::{Backing, Call, Durable, Fault, FileId, Fill, LocalFile, Memory, Version};
pub use state::handle::PageHandle;
pub use state::stats::CacheStats;
pub use state::units::CACHED;

/// The README's example is a test as well.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;
