//! A page cache in user space: files are read and written through reference-counted page frames.
//!
//! A [`Cache`] holds pages of files in a bounded amount of memory. A hit takes no lock. A
//! [`PageHandle`] pins a page, normally without a copy, and outlives eviction, truncation and the
//! cache. Bytes come from local files, or from any [`Backing`].
//!
//! ```
//! use folio_cache::Cache;
//!
//! # fn main() -> std::io::Result<()> {
//! # let dir = tempfile::tempdir()?;
//! # let path = dir.path().join("greeting");
//! std::fs::write(&path, "hello from a page")?;
//!
//! let cache = Cache::new(8 << 20)?; // 8 MiB
//! let file = cache.open(&path)?;
//! let mut word = [0; 4];
//! file.read_exact_at(&mut word, 13)?; // a miss: the page is read
//! assert_eq!(&word, b"page");
//!
//! let handle = file.page(6)?.expect("offset 6 is inside the file"); // a hit: no copy
//! drop((file, cache));
//! assert_eq!(&*handle, b"from a page"); // it keeps its page
//! # Ok(())
//! # }
//! ```
//!
//! Written bytes reach the file after about a second, or when it is synced, flushed, closed or
//! dropped for the last time. A dirty `File` in a `static` is never dropped: call [`Cache::flush`]
//! (or [`File::close`]) before `main` returns.
//!
//! # How it works
//!
//! ```text
//!   File ──▶ Mapping (one per file) ──▶ index ──▶ Slot ──▶ folio ◀── PageHandle
//!              ▲                                     ▲
//!      Backing │ (mapping, page) in the descriptor   │ page lock, freeze
//!  (a file, …) └──────── reclaim, migrate, offline ──┘
//! ```
//!
//! A *slot* is the entry of a page in the index. A *folio* is the memory of one page, or of several
//! that one request has read. It is *frozen* while one thread has it alone: no other can take a
//! reference.
//!
//! - A hit that copies bytes takes no reference: it loads the slot, copies, and loads the slot
//!   again. It writes nothing shared, except a referenced bit that is not set.
//! - A hit that returns a handle writes nothing shared but the page's own reference count. It finds
//!   the slot, takes a reference, and checks that the slot still has the page.
//! - A frozen folio in the index means that its page is being read or written. Threads that need
//!   it sleep, and none spins. So a page that many threads miss is read once.
//! - A handle is an immutable snapshot. A folio that leaves the index while it is pinned belongs to
//!   its handles alone. Their memory is unmapped after the last of them is dropped.
//! - Pages of a file stay cached for as long as the file is open somewhere; those of a distant
//!   store also after that.
//! - A writer that finds a page pinned writes to a copy and switches the slot. Otherwise it freezes
//!   the page and writes in place.
//!
//! # What is here
//!
//! | | |
//! | --- | --- |
//! | [`Cache`], [`CacheBuilder`] | the memory, and its configuration |
//! | [`File`], [`OpenOptions`] | an open file: positioned reads and writes, syncs |
//! | [`FileCursor`] | a position, with `Read`, `BufRead`, `Seek` and `Write` |
//! | [`PageHandle`], [`RangeHandle`] | pinned bytes of one page, and of many |
//! | [`File::read_at_async`] and others, [`ByteStream`] | futures and a stream, for any executor |
//! | [`File::read_many`] | many reads by one call |
//! | [`Backing`], [`LocalFile`], [`testing::Memory`] | sources of bytes |
//! | [`AsyncBacking`], [`Cache::open_async`], [`testing::Distant`] | stores that answer late |
//! | [`policy`] | the eviction policies |
//! | [`pressure`] | gives memory back when it is short |
//! | [`Group`] | files with a share of the memory, a priority, and counters |
//! | [`CacheStats`], [`MemoryUse`] | what was done, and what is in memory now |
//! | [`Cache::frames`] | migration, offline memory, compaction |
//! | [`frames`], [`word`] | the crates below this one |
//!
//! # Ranges, futures, streams
//!
//! [`File::range`] pins any number of pages, in one allocation, as a [`Buf`]. It copies them only
//! if the handle would pin more than four times its length, and more than two pages: a short range
//! in larger folios. [`File::bytes`] returns [`Bytes`]. Both, and [`File::read_at`], exist as
//! futures too, and [`File::stream`] is a scan. They need no runtime: a hit waits for nothing, and
//! a thread of the cache reads a miss. `examples/serve.rs` serves ranges over HTTP.
//!
//! ```
//! use folio_cache::Buf;
//! # fn main() -> std::io::Result<()> {
//! # let file = folio_cache::Cache::new(8 << 20)?
//! #     .open_backing(std::sync::Arc::new(folio_cache::testing::Memory::new(&[7; 10_000])))?;
//! # let mut socket = Vec::new();
//! let mut range = file.range(1000, 1 << 20)?; // to the end of the file, if that comes first
//! while range.has_remaining() {
//!     // Several pages at once, where they are adjacent in memory.
//!     let sent = std::io::Write::write(&mut socket, range.chunk())?;
//!     range.advance(sent); // unpins the pages that were sent
//! }
//! # assert_eq!(socket, [7; 9000]);
//! # let mut buf = [0; 100];
//! # pollster::block_on(async {
//! let read = file.read_at_async(&mut buf, 9950).await?;
//! # assert_eq!(read, 50);
//! # Ok(())
//! # })
//! # }
//! ```
//!
//! # Open traits
//!
//! [`Backing`] and [`policy::Policy`] are open: implement them for other sources of bytes and other
//! eviction policies. Methods that are added later have a default. [`policy::Frames`] is
//! implemented by the cache, and by tests of a policy.
//!
//! # Changes by other programs
//!
//! A read that goes past the known end queries the file's size first, and so does a fill that gets
//! fewer bytes than it should: growth and truncation are seen where they matter. Bytes that another
//! program rewrites in place are seen after [`File::revalidate`] or the next open. These compare
//! size, mtime and ctime: a change within one clock tick of the file system can be missed, and so
//! can one that another program makes while this cache writes to the file.
//!
//! | a change of the file | at the next open its pages |
//! | --- | --- |
//! | a write, a truncation, a sync through this cache | stay |
//! | `chmod`, `mv`, `ln`, `touch` inside [`File::change_metadata`] | stay |
//! | `chmod`, `mv`, `ln`, `touch` outside of `change_metadata` | are read again |
//! | a write by another program | are read again |
//! | any, if the file can never be written again: `fs-verity`, a sealed memory file | stay |
//!
//! Outside of [`File::change_metadata`], a new ctime may also mean a write after which the mtime
//! was set back.
//!
//! # The maximum length of a file
//!
//! Up to 16 TiB (2<sup>44</sup> bytes) of a file can be cached. No call makes a file longer:
//! writes, appends and [`File::set_len`] past that fail with `FileTooLarge` (`EFBIG`). Another
//! program can make a longer file. It can be opened, truncated, and used up to 16 TiB as any other
//! file. A call that needs a byte beyond fails with `FileTooLarge`. A read that begins before 16
//! TiB ends there.
//!
//! # After a fork
//!
//! A cache belongs to the process that built it. In a child forked later, a call returns the right
//! bytes, or an error of kind `Unsupported` that names both processes. It never waits for something
//! that only the parent has.
//!
//! In the child:
//!
//! - **Threads:** none exists, and none is started.
//! - **Locks:** none is taken: a lock that another thread held at the fork stays locked in the
//!   child.
//! - **Pages:** a read of a cached page succeeds, with its bytes as of the fork. A read of any
//!   other page fails, and so does a read past the end of the file.
//! - [`File::invalidate`]: from then on each read of the file fails.
//! - **Futures:** a future in flight fails, and so does one that misses.
//! - **Opens, writes, syncs, [`Cache::flush`], [`Cache::set_capacity`]:** they fail and change
//!   nothing.
//! - **Dirty pages:** they belong to the parent. The child writes none of them, not even at the
//!   last close.
//! - **Reclaim, migration, offline memory, threads, [`Cache::quiesce`]:** they do nothing.
//! - **Handles:** they keep their bytes.
//! - [`CacheFrames::zone`]: for reports only: the zone does not know of processes.
//! - **Memory:** the memory of the cache stays until the child ends, shared with the parent until
//!   one of them writes to it.
//!
//! A child that needs a cache builds its own, and opens its files again. That cache reads the bytes
//! in the files, without those that are dirty in the parent: call [`Cache::flush`] before the fork.
//! A daemon builds its cache after its forks, because a parent that exits takes its dirty pages
//! with it.
//!
//! POSIX allows a child of a process with threads only async-signal-safe calls until it calls
//! `exec`. A cache has threads unless it is built with 0 of them. The list above still holds,
//! because no lock is taken. Two actions are bound by the rule of POSIX, and may hang if another
//! thread of the parent was inside the allocator at the fork:
//!
//! - building a cache in the child,
//! - dropping, in the child, the last handle of a page that had left the cache before the fork.
//!
//! `std::process::Command` and `posix_spawn` are not affected: their child calls `exec` at once. A
//! child of `vfork`, or of `clone` with `CLONE_VM`, shares the memory of its parent and must not
//! call this crate.
//!
//! # Features
//!
//! None is on by default.
//!
//! - `metrics`: [`Cache::record_metrics`](Cache) hands the counters to the crate `metrics`.
//! - `hits`: [`CacheStats::hits`] counts hits, for about 1 ns each.
//! - `stable_deref_trait`: pinned bytes in one piece implement `StableDeref`
//!   ([`RangeHandle::into_one_piece`]).
//! - `tokio`: a `tokio::runtime::Handle` is a spawner ([`CacheBuilder::spawner`]).
//! - `track`: an error for lack of memory names the lines of code that pin pages.
//! - `checks`: checks every rule in release builds too. Debug builds always do.
//!
//! # Limits
//!
//! - Linux; tested on x86-64. A file is cached up to 16 TiB.
//! - The index costs 4 KiB for each 2 MiB of a file that have a cached page. A file of at most 32
//!   KiB needs no such piece: 8 bytes for its first page lie in its own state, and 56 more are made
//!   for the others. All indexes have at most half of the
//!   capacity; pages beyond that are read without the cache ([`CacheStats::uncached`]).

#![forbid(unsafe_code)]

mod api;
mod backing;
mod coherence;
mod memory;
pub mod policy;
pub mod pressure;
mod read;
mod rt;
mod state;
pub mod testing;
mod write;
mod writeback;

/// For folio-object-store alone: a future that several waiters share. It may change at any time.
#[doc(hidden)]
pub mod internal {
    pub use crate::rt::flight::{Flight, Waiter};
}

pub use api::builder::CacheBuilder;
pub use api::cache::Cache;
pub use api::cursor::FileCursor;
pub use api::file::File;
pub use api::frames::CacheFrames;
pub use api::group::{Group, GroupBuilder};
pub use api::options::OpenOptions;
pub use api::range::RangeHandle;
pub use api::read_many::ReadRequest;
pub use api::stream::ByteStream;
pub use backing::error::raw_os_error;
pub use backing::remote::{
    AsyncBacking, BoxFuture, FillBuffer, FillRequest, Key, OnChange, Preferences, Priority,
    RemoteVersion, Spawn, Validator,
};
pub use backing::{Backing, Durable, FileId, Fill, LocalFile, Version};
pub use bytes::{Buf, Bytes};
pub use folio_frames as frames;
pub use folio_ref as word;
pub use folio_ref::{DefaultScheme, Scheme, schemes};
pub use policy::Advice;
pub use rt::recorder::{USES_MAGIC, USES_ONE_IN};
pub use state::handle::PageHandle;
pub use state::memory_use::MemoryUse;
pub use state::stats::CacheStats;
pub use state::units::CACHED;
pub use state::unwritten::Unwritten;

/// The example of the README is a test as well.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

/// The snippets of the guide are tests as well.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/guide.md")]
struct Guide;
