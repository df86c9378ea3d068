//! An arena: frames whose bytes come from the operating system, for programs in user space.
//!
//! Bytes and zone are the arena's own. When the arena is dropped, its zone is closed, and the bytes
//! are unmapped when all its frames are free (`retire.rs`). A frame that is still held then keeps
//! the bytes until a later arena is made or dropped and finds it free.
//!
//! The zone's metadata is never unmapped: it goes to a pool, and the zone of a later arena inherits
//! it (R7: a put that sleeps between its two steps may wake long after). The [`Zone`] itself, 5 KiB
//! beside its metadata, is not used again and stays for ever, as safe code may have kept it: that is
//! what each arena leaves behind.

use core::any::{Any, TypeId};
use core::ptr::{self, NonNull};
use std::boxed::Box;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::vec::Vec;

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};

use folio_ref::Scheme;

use crate::base::ids::{BLOCK_ORDER, FRAME_SIZE, MAX_ORDER, Order, Pfn};
use crate::base::platform::Platform;
use crate::index::optimistic::DirectMap;
use crate::memmap::memmap::MemmapMemory;
use crate::memmap::numbers::Numbers;
use crate::moving::hotplug::{Offline, OfflineError};
use crate::moving::migrate::Owner;
use crate::zone::folio::KindOps;
use crate::zone::zone::Zone;

/// Frames do not begin at 0, so that a frame number is not taken for an index by mistake.
const FIRST: Pfn = Pfn::new(1 << 20);

/// An arena of more blocks than this, 1 GiB, hands them over as a range that is brought in as it is
/// needed: its first frame must not wait for its last.
const AT_ONCE: usize = 512;

/// A quarter of what slots can name, in whole blocks.
const MOST_FRAMES: u32 = (1 << 30) - BLOCK_ORDER.frames();

/// Zones that retired, whose metadata is to be inherited, and zones that wait for their last holders.
static POOL: Mutex<Vec<Pooled>> = Mutex::new(Vec::new());

struct Pooled {
    platform: TypeId,
    zone: &'static (dyn Any + Send + Sync),
    /// The zone's bytes, while frames of it are still held.
    bytes: Option<Bytes>,
    /// [`Zone::retire`].
    retire: fn(&'static (dyn Any + Send + Sync)) -> bool,
}

fn pool() -> MutexGuard<'static, Vec<Pooled>> {
    POOL.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A mapping of anonymous memory, aligned; unmapped when dropped.
#[derive(Debug)]
struct Bytes {
    mapping: NonNull<u8>,
    mapped: usize,
    first: *mut u8,
}

// SAFETY: it owns its mapping; nothing in it belongs to a thread.
unsafe impl Send for Bytes {}
// SAFETY: shared access only reads the fields.
unsafe impl Sync for Bytes {}

impl Bytes {
    fn map(len: usize, align: usize) -> io::Result<Self> {
        let mapped = len.checked_add(align).ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidInput, "an arena larger than the address space")
        })?;
        let (protection, flags) =
            (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE | MapFlags::NORESERVE);
        // SAFETY: a new mapping at no fixed address touches nothing that exists.
        let mapping =
            unsafe { mmap_anonymous(ptr::null_mut(), mapped, protection, flags) }?.cast::<u8>();
        let first = mapping.wrapping_add(mapping.align_offset(align));
        // Huge pages where the system gives them, one to a block: a frame is then found without a
        // walk of the page tables. A block is resident in whole from its first byte on, and
        // is given back in whole. Refused, it is only slower. SAFETY: our own fresh
        // mapping; the advice changes no contents.
        let _ = unsafe { madvise(first.cast(), len, Advice::LinuxHugepage) };
        Ok(Self { mapping: NonNull::new(mapping).expect("a mapping is not at 0"), mapped, first })
    }

    fn block(&self, block: usize) -> *mut u8 {
        self.first.wrapping_add(block * BLOCK_ORDER.bytes())
    }
}

impl Drop for Bytes {
    fn drop(&mut self) {
        // SAFETY: our own mapping; no frame in it is online any more, so nobody has its address.
        let unmapped = unsafe { munmap(self.mapping.as_ptr().cast(), self.mapped) };
        debug_assert!(unmapped.is_ok(), "munmap of an arena: {unmapped:?}");
    }
}

/// Why the metadata of a block was not given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetadataKept {
    /// Under this scheme zeroed metadata does not say frozen.
    ZeroIsNotFrozen,
}

impl core::fmt::Display for MetadataKept {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("under this scheme zeroed metadata is not frozen")
    }
}

impl core::error::Error for MetadataKept {}

/// A zone with bytes from the system, all online.
#[derive(Debug)]
pub struct Arena<P: Platform> {
    zone: &'static Zone<P>,
    /// `None` only inside drop.
    bytes: Option<Bytes>,
    /// Blocks that [`Arena::shrink_to`] took offline.
    spare: Mutex<Vec<Offline<P>>>,
}

impl<P: Platform> Arena<P> {
    /// An arena of `bytes` bytes, rounded down to whole blocks of 2 MiB, at least one. Nothing is
    /// resident yet.
    ///
    /// `kinds` says what is done when a folio of each kind is put for the last time.
    ///
    /// # Errors
    ///
    /// `InvalidInput` above 4 TiB, `OutOfMemory` beyond 16 TiB of arenas, those of the past among
    /// them whose metadata was not used again, and what the system says of the addresses.
    pub fn new(bytes: usize, kinds: &'static [KindOps<P>]) -> io::Result<Self> {
        Self::map(bytes, kinds, None)
    }

    /// As [`Arena::new`], and its zone also hands out blocks of one order above
    /// [`MAX_ORDER`](crate::MAX_ORDER): see [`Zone::with_huge_order`]. Their bytes are aligned to
    /// their size.
    ///
    /// # Panics
    ///
    /// When the order is not above [`MAX_ORDER`](crate::MAX_ORDER).
    pub fn with_huge_order(
        bytes: usize,
        kinds: &'static [KindOps<P>],
        huge: Order,
    ) -> io::Result<Self> {
        assert!(
            huge > MAX_ORDER,
            "{huge:?} is no huge order: allowed is what is above {MAX_ORDER:?}"
        );
        Self::map(bytes, kinds, Some(huge))
    }

    fn map(bytes: usize, kinds: &'static [KindOps<P>], huge: Option<Order>) -> io::Result<Self> {
        let blocks = (bytes / BLOCK_ORDER.bytes()).max(1);
        let frames = u32::try_from(blocks)
            .ok()
            .and_then(|blocks| blocks.checked_mul(BLOCK_ORDER.frames()))
            .filter(|&frames| frames <= MOST_FRAMES)
            .ok_or_else(|| {
                io::Error::new(
                    io::ErrorKind::InvalidInput,
                    std::format!("an arena of {bytes} bytes: 4 TiB is the most"),
                )
            })?;
        let bytes = Bytes::map(blocks * BLOCK_ORDER.bytes(), huge.unwrap_or(BLOCK_ORDER).bytes())?;
        // SAFETY, of both: the bytes of every frame are mapped at their offset until the zone
        // retires, when all its blocks are offline.
        let zone = match take_retired::<P>(frames) {
            // SAFETY: as above; it retired, and nothing else has taken it.
            Some(retired) => unsafe { retired.inherit(frames, bytes.first, huge, kinds) },
            // SAFETY: as above.
            None => unsafe { new_zone(frames, bytes.first, huge, kinds) }?,
        };
        if blocks > AT_ONCE {
            // SAFETY: the bytes were just given to the zone.
            unsafe { zone.online_range(0..blocks) };
        } else {
            for block in 0..blocks {
                // SAFETY: as above.
                unsafe { zone.online_block(block) };
            }
        }
        Ok(Self { zone, bytes: Some(bytes), spare: Mutex::new(Vec::new()) })
    }

    /// The zone of its frames.
    pub fn zone(&self) -> &'static Zone<P> {
        self.zone
    }

    /// Where the bytes lie, for reads without a reference: mapped as long as the arena exists. An
    /// offline block's memory goes back to the system, its addresses stay.
    #[inline(always)]
    pub fn direct_map(&self) -> DirectMap<'_, P> {
        // SAFETY: the bytes are unmapped after the arena is dropped, which the borrow excludes;
        // never before.
        unsafe { DirectMap::new(self.zone) }
    }

    /// Takes a block offline and gives its memory back to the system.
    pub fn offline(&self, block: usize, owner: &dyn Owner<P>) -> Result<Offline<P>, OfflineError> {
        let offline = self.zone.offline(block, owner)?;
        if let Some(bytes) = &self.bytes {
            // SAFETY: the block is offline: no reference, token or list leads to its bytes, and the
            // one who could bring it back is this call's result.
            let given_back = unsafe {
                madvise(bytes.block(block).cast(), BLOCK_ORDER.bytes(), Advice::LinuxDontNeed)
            };
            debug_assert!(given_back.is_ok(), "madvise of an offline block: {given_back:?}");
        }
        Ok(offline)
    }

    /// Gives memory back to the system, whole blocks, until only this many are online: the emptiest
    /// go first. What is in them moves to those that stay.
    ///
    /// # Errors
    ///
    /// When that many can not be emptied; those that could are gone.
    pub fn shrink_to(&self, blocks: usize, owner: &dyn Owner<P>) -> Result<(), OfflineError> {
        let mut spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        let mut result = Ok(());
        self.zone.init_deferred_through(&(0..self.zone.blocks()));
        self.zone.drain();
        self.zone.by_emptiness(|block, _| {
            if self.online_blocks() <= blocks {
                return false;
            }
            match self.offline(block, owner) {
                Ok(offline) => spare.push(offline),
                Err(error) => result = Err(error),
            }
            true
        });
        if self.online_blocks() <= blocks { Ok(()) } else { result }
    }

    /// Brings blocks back that [`Arena::shrink_to`] took, until this many are online. How many are.
    pub fn grow_to(&self, blocks: usize) -> usize {
        let mut spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        while self.online_blocks() < blocks {
            let Some(offline) = spare.pop() else { break };
            self.online(offline);
        }
        self.online_blocks()
    }

    /// Blocks of 2 MiB that are online.
    pub fn online_blocks(&self) -> usize {
        (self.zone.online_frames() / BLOCK_ORDER.frames()) as usize
    }

    /// Gives the descriptors of an offline block back to the system, whole system pages of them;
    /// says how many bytes. They read as zeroes when they are touched again, and they may be at
    /// any time, by a walk or by the late step of a put. Zero says frozen, no block, not there
    /// (R1, R2).
    ///
    /// R7 allows this for what the late step of a put, from before, expects of the word:
    ///
    /// | scheme | expects | finds |
    /// | --- | --- | --- |
    /// | `zero-frozen`, `guess-one` | there is no late step | |
    /// | `live-bit-high` | 2^31 | 0: it fails |
    /// | `live-bit-low` | 1 | 0: it fails |
    /// | `generational` | live, generation g | 0: it fails |
    /// | `frozen-bit` | 0 | 0: it would **win** a frame that is not there, so this is refused |
    ///
    /// Generations begin again at 0. So a put that sleeps on, until its frame was brought back,
    /// reached the same generation in a later life and is Dying again, wins it, as under the
    /// schemes without a generation; the destructor is chosen by what the frame is then (R4).
    ///
    /// # Errors
    ///
    /// When the scheme needs what stands in the descriptors; nothing was done.
    ///
    /// # Panics
    ///
    /// When the block was taken from another arena.
    pub fn return_metadata(&self, offline: &Offline<P>) -> Result<usize, MetadataKept> {
        offline.assert_of(self.zone);
        if !P::Scheme::ZERO_IS_FROZEN {
            return Err(MetadataKept::ZeroIsNotFrozen);
        }
        let frames = BLOCK_ORDER.frames();
        let (start, len) = self.zone.memmap.bytes_of(offline.block() as u32 * frames, frames);
        let page = rustix::param::page_size();
        let skip = start.align_offset(page);
        let len = len.saturating_sub(skip) / page * page;
        if len > 0 {
            // SAFETY: private anonymous memory, of offline blocks only, whose descriptors nobody
            // owns; to whoever still looks at them zeroes are a value like any other,
            // by the check above.
            let returned =
                unsafe { madvise(start.wrapping_add(skip).cast(), len, Advice::LinuxDontNeed) };
            debug_assert!(returned.is_ok(), "madvise of metadata: {returned:?}");
        }
        Ok(len)
    }

    /// Brings a block back; its bytes are zeroes.
    ///
    /// # Panics
    ///
    /// When the block was taken from another arena.
    pub fn online(&self, offline: Offline<P>) {
        // SAFETY: the bytes of all blocks are mapped while the arena exists; a block of another
        // arena is of another zone, which is refused.
        unsafe { self.zone.online(offline) };
    }
}

/// An arena that stays, with its zone beside it: who reads without a reference, and finds the zone
/// here, has one load less under way.
#[derive(Debug)]
pub struct Mapped<P: Platform> {
    /// **Invariant:** that of `arena`.
    zone: &'static Zone<P>,
    arena: Arc<Arena<P>>,
}

impl<P: Platform> Mapped<P> {
    /// Keeps the arena.
    pub fn new(arena: &Arc<Arena<P>>) -> Self {
        Self { zone: arena.zone, arena: Arc::clone(arena) }
    }

    /// The arena.
    pub fn arena(&self) -> &Arc<Arena<P>> {
        &self.arena
    }

    /// As [`Arena::direct_map`].
    #[inline(always)]
    pub fn direct_map(&self) -> DirectMap<'_, P> {
        // SAFETY: as there: the arena is here as long as the borrow.
        unsafe { DirectMap::new(self.zone) }
    }
}

impl<P: Platform> Drop for Arena<P> {
    fn drop(&mut self) {
        self.zone.close();
        let mut pool = pool();
        pool.push(Pooled {
            platform: TypeId::of::<P>(),
            zone: self.zone,
            bytes: self.bytes.take(),
            retire: |zone| zone.downcast_ref::<Zone<P>>().is_some_and(Zone::retire),
        });
        collect(&mut pool);
    }
}

/// Unmaps what every zone in the pool no longer needs.
fn collect(pool: &mut [Pooled]) {
    for entry in pool {
        if entry.bytes.is_some() && (entry.retire)(entry.zone) {
            entry.bytes = None;
        }
    }
}

/// Takes the smallest retired zone out of the pool whose metadata is enough, of several the last that
/// came: its metadata is warm.
fn take_retired<P: Platform>(frames: u32) -> Option<&'static Zone<P>> {
    let mut pool = pool();
    collect(&mut pool);
    let fits = |entry: &Pooled| {
        let zone = entry.zone.downcast_ref::<Zone<P>>()?;
        let is_free = entry.platform == TypeId::of::<P>() && entry.bytes.is_none();
        (is_free && zone.memmap.frames() >= frames).then(|| zone.memmap.frames())
    };
    let (place, _) = pool
        .iter()
        .enumerate()
        .rev()
        .filter_map(|(n, entry)| Some((n, fits(entry)?)))
        .min_by_key(|e| e.1)?;
    pool.swap_remove(place).zone.downcast_ref()
}

/// Makes a zone with a memmap of its own, of a round size so that it can serve others later.
///
/// # Safety
///
/// As [`Zone::new`] says of `direct_map`.
unsafe fn new_zone<P: Platform>(
    frames: u32,
    direct_map: *mut u8,
    huge: Option<Order>,
    kinds: &'static [KindOps<P>],
) -> io::Result<&'static Zone<P>> {
    let most = frames.next_power_of_two().min(MOST_FRAMES);
    let numbers = Numbers::reserve(most).ok_or_else(|| {
        io::Error::new(
            io::ErrorKind::OutOfMemory,
            "arenas of more than 16 TiB together, with those of the past that were not used again",
        )
    })?;
    let size = Zone::<P>::layout(most).size().next_multiple_of(FRAME_SIZE);
    let (protection, flags) =
        (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE | MapFlags::NORESERVE);
    // SAFETY: a new mapping at no fixed address touches nothing that exists.
    let metadata = unsafe { mmap_anonymous(ptr::null_mut(), size, protection, flags) }?;
    let metadata = NonNull::new(metadata.cast::<u8>()).expect("a mapping is not at 0");
    let holds = MemmapMemory::Zeroed;
    // SAFETY: a fresh mapping of the layout's size, page aligned, zeroed, never unmapped; the bytes
    // are the caller's promise.
    let zone =
        unsafe { Zone::with_numbers(metadata, holds, FIRST, numbers, frames, direct_map, kinds) };
    let zone = match huge {
        Some(order) => zone.with_huge_order(order),
        None => zone,
    };
    Ok(Box::leak(Box::new(zone)))
}
