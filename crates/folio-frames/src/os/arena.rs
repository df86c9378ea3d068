//! An arena: frames in memory from the operating system, for programs in user space.
//!
//! An arena has a zone and bytes of its own. When the arena is dropped, its zone is closed. The
//! bytes are unmapped when all frames are free (`retire.rs`). A frame that is still pinned keeps
//! the bytes. A later arena, when it is created or dropped, finds it free and unmaps them.
//!
//! The zone's metadata is never unmapped. It goes to a pool, and the zone of a later arena inherits
//! it (R7: a put that sleeps between its two steps may wake up long after). The [`Zone`] itself, 5
//! KiB beside its metadata, is not used again. It stays forever, as safe code may have kept it:
//! each arena leaves that behind.

use core::any::{Any, TypeId};
use core::fmt;
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
use crate::zone::new::assert_fits;
use crate::zone::zone::Zone;

/// The first frame number. It is not 0, so that a frame number does not pass for an index.
const FIRST: Pfn = Pfn::new(1 << 20);

/// The maximum number of blocks, 1 GiB, that are initialised at once. A larger arena defers the
/// initialisation of its blocks: its first frame must not wait for its last.
const MAX_AT_ONCE: usize = 512;

/// The maximum number of frames of an arena: a quarter of all frame numbers, in whole blocks.
const MAX_FRAMES: u32 = (1 << 30) - BLOCK_ORDER.frames();

/// Zones that have retired, for later zones to inherit their metadata, and zones that wait for
/// their last pin owners.
static POOL: Mutex<Vec<Pooled>> = Mutex::new(Vec::new());

struct Pooled {
    platform: TypeId,
    zone: &'static (dyn Any + Send + Sync),
    /// The zone's bytes, while frames of it may still be pinned.
    bytes: Option<Bytes>,
    /// Calls [`Zone::retire`]. Returns `true` if the zone has retired.
    retire: fn(&'static (dyn Any + Send + Sync)) -> bool,
}

fn pool() -> MutexGuard<'static, Vec<Pooled>> {
    POOL.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An aligned mapping of anonymous memory. Dropping it unmaps it.
#[derive(Debug)]
struct Bytes {
    mapping: NonNull<u8>,
    mapped: usize,
    first: *mut u8,
}

// SAFETY: it owns its mapping, and nothing in it belongs to a thread.
unsafe impl Send for Bytes {}
// SAFETY: shared access only reads the fields.
unsafe impl Sync for Bytes {}

impl Bytes {
    fn map(len: usize, align: usize) -> io::Result<Self> {
        let mapped = len.checked_add(align).ok_or_else(|| {
            let message = std::format!("arena size {len} exceeds the address space");
            io::Error::new(io::ErrorKind::InvalidInput, message)
        })?;
        let (protection, flags) =
            (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE | MapFlags::NORESERVE);
        // SAFETY: a new mapping at no fixed address touches nothing that exists.
        let mapping =
            unsafe { mmap_anonymous(ptr::null_mut(), mapped, protection, flags) }?.cast::<u8>();
        let first = mapping.wrapping_add(mapping.align_offset(align));
        // Requests huge pages, one for each block: they make the walk of the page tables shorter. A
        // block is then resident as a whole from its first byte on, and is returned as a whole. If
        // the system refuses, accesses are only slower.
        // SAFETY: our own fresh mapping, and the advice changes no contents.
        let _ = unsafe { madvise(first.cast(), len, Advice::LinuxHugepage) };
        Ok(Self { mapping: NonNull::new(mapping).expect("a mapping is not at 0"), mapped, first })
    }

    fn block(&self, block: usize) -> *mut u8 {
        self.first.wrapping_add(block * BLOCK_ORDER.bytes())
    }
}

impl Drop for Bytes {
    fn drop(&mut self) {
        // SAFETY: our own mapping. No frame in it is online any more, so no code has its address.
        let unmapped = unsafe { munmap(self.mapping.as_ptr().cast(), self.mapped) };
        debug_assert!(unmapped.is_ok(), "munmap of an arena: {unmapped:?}");
    }
}

/// The reason why the metadata of a block was not returned to the system.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetadataKept {
    /// Under this scheme a zeroed word is not frozen.
    ZeroIsNotFrozen,
}

impl core::fmt::Display for MetadataKept {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("under this scheme a zeroed word is not frozen")
    }
}

impl core::error::Error for MetadataKept {}

/// A zone in memory from the system. All its blocks are online at first.
///
/// ```
/// use folio_frames::{Arena, Kind, Order, UserSpace};
///
/// let arena = Arena::<UserSpace>::new(64 << 20, &[])?;
/// let zone = arena.zone();
/// assert_eq!(zone.blocks(), 32);
///
/// // Write while the folio is exclusive, then share it.
/// let mut folio = zone.alloc_frozen(Order::new(3).unwrap())?;
/// folio.set_owner(Kind::owner(0), 42);
/// folio.as_mut_slice().fill(1);
/// let folio = folio.init();
///
/// // A pinned frame keeps its bytes after the arena is gone.
/// drop(arena);
/// assert_eq!(folio.as_slice(), [1; 8 * 4096]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Arena<P: Platform> {
    zone: &'static Zone<P>,
    /// **Invariant:** `None` only during drop.
    bytes: Option<Bytes>,
    /// The blocks that [`Arena::shrink_to`] took offline.
    spare: Mutex<Vec<Offline<P>>>,
}

impl<P: Platform> Arena<P> {
    /// Returns an arena of `bytes` bytes, rounded down to whole blocks of 2 MiB, at least one. No
    /// byte is resident yet.
    ///
    /// `kinds` gives the destructor for each kind of folio, called after the last put.
    ///
    /// # Errors
    ///
    /// `InvalidInput` from 4 TiB on. `OutOfMemory` if all arenas have more than 16 TiB, including
    /// past ones with metadata that was not used again. The system's error if it does not map
    /// the bytes.
    pub fn new(bytes: usize, kinds: &'static [KindOps<P>]) -> io::Result<Self> {
        Self::map(bytes, kinds, None)
    }

    /// Returns an arena with a zone that can also allocate blocks of the order `huge`
    /// ([`Zone::with_huge_order`]). Their bytes are aligned to their size.
    ///
    /// `bytes` and `kinds` are as for [`Arena::new`].
    ///
    /// # Errors
    ///
    /// `InvalidInput` from 4 TiB on. `OutOfMemory` if all arenas have more than 16 TiB, including
    /// past ones with metadata that was not used again. The system's error if it does not map
    /// the bytes.
    ///
    /// # Panics
    ///
    /// Panics if `huge` is not above [`MAX_ORDER`].
    pub fn with_huge_order(
        bytes: usize,
        kinds: &'static [KindOps<P>],
        huge: Order,
    ) -> io::Result<Self> {
        assert!(huge > MAX_ORDER, "{huge:?} is not a huge order: it must be above {MAX_ORDER:?}");
        Self::map(bytes, kinds, Some(huge))
    }

    fn map(bytes: usize, kinds: &'static [KindOps<P>], huge: Option<Order>) -> io::Result<Self> {
        let blocks = (bytes / BLOCK_ORDER.bytes()).max(1);
        let frames = u32::try_from(blocks)
            .ok()
            .and_then(|blocks| blocks.checked_mul(BLOCK_ORDER.frames()))
            .filter(|&frames| frames <= MAX_FRAMES)
            .ok_or_else(|| {
                io::Error::new(
                    io::ErrorKind::InvalidInput,
                    std::format!("arena size {bytes} is 4 TiB or more, which an arena cannot have"),
                )
            })?;
        let bytes = Bytes::map(blocks * BLOCK_ORDER.bytes(), huge.unwrap_or(BLOCK_ORDER).bytes())?;
        let zone = match take_retired::<P>(frames) {
            // SAFETY: the bytes of every frame are mapped at their offset until the zone retires,
            // when all its blocks are offline. `retired` has retired, and only this call has taken
            // it from the pool.
            Some(retired) => unsafe { retired.inherit(frames, bytes.first, huge, kinds) },
            // SAFETY: the bytes are mapped, as above.
            None => unsafe { new_zone(frames, bytes.first, huge, kinds) }?,
        };
        if blocks > MAX_AT_ONCE {
            // SAFETY: the bytes were just mapped for the zone.
            unsafe { zone.online_range(0..blocks) };
        } else {
            for block in 0..blocks {
                // SAFETY: as above.
                unsafe { zone.online_block(block) };
            }
        }
        Ok(Self { zone, bytes: Some(bytes), spare: Mutex::new(Vec::new()) })
    }

    /// Advises the system whether to back memory that is not resident yet with huge pages. A new
    /// arena advises it to.
    pub fn advise_huge_pages(&self, wanted: bool) {
        let advice = if wanted { Advice::LinuxHugepage } else { Advice::LinuxNoHugepage };
        let len = self.zone.blocks() * BLOCK_ORDER.bytes();
        if let Some(bytes) = &self.bytes {
            // A refusal only makes access slower.
            // SAFETY: our own mapping, which spans all blocks from its first byte on; the advice
            // changes no contents.
            let _ = unsafe { madvise(bytes.first.cast(), len, advice) };
        }
    }

    /// Returns the zone of its frames.
    pub fn zone(&self) -> &'static Zone<P> {
        self.zone
    }

    /// Returns the promise, for optimistic reads, that the bytes stay mapped while the arena
    /// exists. The memory of an offline block is returned to the system, but its addresses stay
    /// mapped.
    #[inline(always)]
    pub fn direct_map(&self) -> DirectMap<'_, P> {
        // SAFETY: the bytes are never unmapped before the arena is dropped, which the borrow
        // excludes.
        unsafe { DirectMap::new(self.zone) }
    }

    /// Takes a block offline and returns its memory to the system. Folios in it move elsewhere,
    /// found through `owner`. Returns the right to bring the block back.
    ///
    /// # Errors
    ///
    /// [`OfflineError::NotOnline`] if there is no such block or it is not online,
    /// [`OfflineError::Busy`] or [`OfflineError::OutOfFrames`] if it cannot be emptied.
    pub fn offline(&self, block: usize, owner: &dyn Owner<P>) -> Result<Offline<P>, OfflineError> {
        let offline = self.zone.offline(block, owner)?;
        if let Some(bytes) = &self.bytes {
            // SAFETY: the block is offline: no reference, exclusive handle or list leads to its
            // bytes, and only the result of this call can bring it back.
            let advised = unsafe {
                madvise(bytes.block(block).cast(), BLOCK_ORDER.bytes(), Advice::LinuxDontNeed)
            };
            debug_assert!(advised.is_ok(), "madvise of an offline block: {advised:?}");
        }
        Ok(offline)
    }

    /// Returns whole blocks to the system until only `blocks` are online, the emptiest first.
    /// Folios in them move to the others, found through `owner`.
    ///
    /// # Errors
    ///
    /// Returns the last error of a block if too few could be emptied. Those that could are offline.
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

    /// Brings back blocks that [`Arena::shrink_to`] took offline, until `blocks` are online.
    /// Returns the number of online blocks, which is smaller if there are no more such blocks.
    pub fn grow_to(&self, blocks: usize) -> usize {
        let mut spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        while self.online_blocks() < blocks {
            let Some(offline) = spare.pop() else { break };
            self.online(offline);
        }
        self.online_blocks()
    }

    /// Returns the number of 2 MiB blocks that are online.
    pub fn online_blocks(&self) -> usize {
        (self.zone.online_frames() / BLOCK_ORDER.frames()) as usize
    }

    /// Returns the descriptors of an offline block to the system, in whole system pages. Returns
    /// the number of bytes.
    ///
    /// The descriptors read as zeroes when they are accessed again, which a walk or the late step
    /// of a put may do at any time. Zero means frozen, no block, not online (R1, R2).
    ///
    /// R7 allows this if it makes the late step of a put from before fail. By scheme, that step:
    ///
    /// | scheme | expects | finds |
    /// | --- | --- | --- |
    /// | `zero-frozen`, `guess-one` | there is no late step | |
    /// | `live-bit-high` | 2^31 | 0: it fails |
    /// | `live-bit-low` | 1 | 0: it fails |
    /// | `generational` | live, generation g | 0: it fails |
    /// | `frozen-bit` | 0 | 0: it would **win** an offline frame, so this is refused |
    ///
    /// Generations begin again at 0. A put may sleep until its frame is online again, has reached
    /// the same generation in a later life, and is Dying again. Then it wins the frame, as under
    /// the schemes without a generation. The destructor is chosen by the kind at that time (R4).
    ///
    /// # Errors
    ///
    /// [`MetadataKept::ZeroIsNotFrozen`] if the scheme needs the content of the descriptors. Then
    /// nothing was done.
    ///
    /// # Panics
    ///
    /// Panics if the block was taken from another arena.
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
            // SAFETY: private anonymous memory, of offline blocks only. Their descriptors have no
            // owner. For code that still reads them, zero is a valid value, by the check above.
            let advised =
                unsafe { madvise(start.wrapping_add(skip).cast(), len, Advice::LinuxDontNeed) };
            debug_assert!(advised.is_ok(), "madvise of metadata: {advised:?}");
        }
        Ok(len)
    }

    /// Brings a block back. Its bytes are zeroes.
    ///
    /// # Panics
    ///
    /// Panics if the block was taken from another arena.
    pub fn online(&self, offline: Offline<P>) {
        // SAFETY: the bytes of all blocks are mapped while the arena exists. A block of another
        // arena belongs to another zone, and is refused.
        unsafe { self.zone.online(offline) };
    }
}

/// A shared arena with its zone beside it, which saves an optimistic read one load.
pub struct Mapped<P: Platform> {
    /// **Invariant:** the zone of `arena`.
    zone: &'static Zone<P>,
    arena: Arc<Arena<P>>,
}

impl<P: Platform> Mapped<P> {
    /// Returns a new owner of the arena.
    pub fn new(arena: &Arc<Arena<P>>) -> Self {
        Self { zone: arena.zone, arena: Arc::clone(arena) }
    }

    /// Returns the arena.
    pub fn arena(&self) -> &Arc<Arena<P>> {
        &self.arena
    }

    /// Returns the zone of the arena.
    #[inline(always)]
    pub fn zone(&self) -> &'static Zone<P> {
        self.zone
    }

    /// Returns the promise, for optimistic reads, that the bytes stay mapped while the arena
    /// exists.
    #[inline(always)]
    pub fn direct_map(&self) -> DirectMap<'_, P> {
        // SAFETY: as in Arena::direct_map: the arena exists for as long as the borrow.
        unsafe { DirectMap::new(self.zone) }
    }
}

impl<P: Platform> fmt::Debug for Arena<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Arena").field(&self.zone).finish()
    }
}

impl<P: Platform> fmt::Debug for Mapped<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Mapped").field(&self.zone).finish()
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

/// Retires each zone in the pool that has no pinned frame any more, and unmaps its bytes.
fn collect(pool: &mut [Pooled]) {
    for entry in pool {
        if entry.bytes.is_some() && (entry.retire)(entry.zone) {
            entry.bytes = None;
        }
    }
}

/// Takes the smallest retired zone with enough metadata out of the pool. Of several it takes the
/// last that came, as its metadata is warm.
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

/// Creates a zone with a memmap of its own. The size is rounded up, so that later zones can inherit
/// it.
///
/// # Safety
///
/// `direct_map` meets the conditions of [`Zone::new`].
unsafe fn new_zone<P: Platform>(
    frames: u32,
    direct_map: *mut u8,
    huge: Option<Order>,
    kinds: &'static [KindOps<P>],
) -> io::Result<&'static Zone<P>> {
    let max_frames = frames.next_power_of_two().min(MAX_FRAMES);
    assert_fits(FIRST, max_frames, direct_map);
    let numbers = Numbers::reserve(max_frames).ok_or_else(|| {
        io::Error::new(
            io::ErrorKind::OutOfMemory,
            "all arenas exceed 16 TiB, including past ones with metadata that was not used again",
        )
    })?;
    let size = Zone::<P>::layout(max_frames).size().next_multiple_of(FRAME_SIZE);
    let (protection, flags) =
        (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE | MapFlags::NORESERVE);
    // SAFETY: a new mapping at no fixed address touches nothing that exists.
    let metadata = unsafe { mmap_anonymous(ptr::null_mut(), size, protection, flags) }?;
    let metadata = NonNull::new(metadata.cast::<u8>()).expect("a mapping is not at 0");
    let holds = MemmapMemory::Zeroed;
    // SAFETY: a fresh mapping of the layout's size, page aligned, zeroed, never unmapped. The
    // caller promises the bytes.
    let zone =
        unsafe { Zone::with_numbers(metadata, holds, FIRST, numbers, frames, direct_map, kinds) };
    let zone = match huge {
        Some(order) => zone.with_huge_order(order),
        None => zone,
    };
    Ok(Box::leak(Box::new(zone)))
}
