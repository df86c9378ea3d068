//! The platform of a process: its lock, a number per thread, and sleeping on an address.

use core::marker::PhantomData;
#[cfg(feature = "track")]
use core::panic::Location;
#[cfg(target_arch = "x86_64")]
use core::sync::atomic::AtomicU8;
use core::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use folio_ref::{CHECKS, DefaultScheme, Scheme};

#[cfg(feature = "track")]
use crate::base::ids::Pfn;
use crate::base::platform::Platform;
#[cfg(target_arch = "x86_64")]
use crate::base::vectors::Vectors;

/// The platform of a process, with the reference-count scheme `S`.
///
/// ```
/// use folio_frames::{Arena, Order, Platform, UserSpace};
/// use folio_ref::Scheme;
/// use folio_ref::schemes::LiveBitHigh;
///
/// // The default scheme, and another one.
/// let arena = Arena::<UserSpace>::new(2 << 20, &[])?;
/// let other = Arena::<UserSpace<LiveBitHigh>>::new(2 << 20, &[])?;
/// other.zone().alloc_frozen(Order::ZERO)?.free();
/// assert_eq!(<UserSpace<LiveBitHigh> as Platform>::Scheme::NAME, LiveBitHigh::NAME);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct UserSpace<S: Scheme = DefaultScheme>(PhantomData<S>);

std::thread_local! {
    static THREAD: usize = {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        NEXT.fetch_add(1, Ordering::Relaxed)
    };
}

/// Returns `true` if Intel made this processor. Asks it once: under a hypervisor that takes
/// microseconds.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn is_by_intel() -> bool {
    static KNOWN: AtomicU8 = AtomicU8::new(UNKNOWN);
    const UNKNOWN: u8 = 0;
    const NO: u8 = 1;
    const YES: u8 = 2;
    #[cold]
    fn ask() -> u8 {
        let answer = std::arch::x86_64::__cpuid(0);
        let name = [answer.ebx, answer.edx, answer.ecx].map(u32::to_le_bytes);
        let known = if name.as_flattened() == b"GenuineIntel" { YES } else { NO };
        // Relaxed: the number is all that is told.
        KNOWN.store(known, Ordering::Relaxed);
        known
    }
    match KNOWN.load(Ordering::Relaxed) {
        UNKNOWN => ask() == YES,
        known => known == YES,
    }
}

impl<S: Scheme> Platform for UserSpace<S> {
    type Scheme = S;
    #[cfg(not(shuttle))]
    type Lock = crate::os::futex_lock::FutexLock;
    #[cfg(shuttle)]
    type Lock = crate::SteppedLock;

    const POISON: Option<u8> = if CHECKS { Some(0xA5) } else { None };

    fn cpu() -> usize {
        // A thread keeps its list on any CPU: cheaper than a system call, and as good a hint.
        THREAD.try_with(|&n| n).unwrap_or(0)
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    fn vectors() -> Vectors {
        // The first processors with AVX-512 run slower for a while after its use. Those with VBMI2
        // do not.
        if std::is_x86_feature_detected!("avx512f") && std::is_x86_feature_detected!("avx512vbmi2")
        {
            // SAFETY: they exist, and are detected only if the system saves them.
            let vectors = unsafe { Vectors::bits_512() };
            if is_by_intel() { vectors.for_pages() } else { vectors }
        } else if std::is_x86_feature_detected!("avx") {
            // SAFETY: as above.
            unsafe { Vectors::bits_256() }
        } else {
            Vectors::BITS_128
        }
    }

    #[cfg(shuttle)]
    fn wait(key: usize, still: &dyn Fn() -> bool) {
        folio_ref::testing::stepped::wait(key, still);
    }

    #[cfg(shuttle)]
    fn wake_all(key: usize) {
        folio_ref::testing::stepped::wake_all(key);
    }

    #[cfg(not(shuttle))]
    fn wait(key: usize, still: &dyn Fn() -> bool) {
        crate::os::futex_lock::wait(key, still);
    }

    #[cfg(not(shuttle))]
    fn wake_all(key: usize) {
        crate::os::futex_lock::wake_all(key);
    }

    fn unwinding() -> bool {
        thread::panicking()
    }

    #[cfg(feature = "track")]
    fn reference_began(zone: usize, head: Pfn, site: &'static Location<'static>, references: u32) {
        *table::shard(head).lock().entry((zone, head, site)).or_default() += references;
    }

    #[cfg(feature = "track")]
    fn reference_ended(zone: usize, head: Pfn, site: &'static Location<'static>, references: u32) {
        let mut shard = table::shard(head).lock();
        let left = shard
            .get_mut(&(zone, head, site))
            .expect("each reference ends at the site where it began");
        *left -= references;
        if *left == 0 {
            shard.remove(&(zone, head, site));
        }
    }

    #[cfg(feature = "track")]
    fn pin_owners(zone: usize, head: Pfn, visit: &mut dyn FnMut(&'static Location<'static>, u32)) {
        // A copy: `visit` must not run under the lock.
        let all: std::vec::Vec<_> =
            table::shard(head).lock().iter().map(|(&key, &count)| (key, count)).collect();
        let of_it = all.into_iter().filter(|((of, pfn, _), _)| (*of, *pfn) == (zone, head));
        of_it.for_each(|((_, _, site), references)| visit(site, references));
    }
}

/// The pin owners of each folio: many small tables, so that threads seldom contend.
#[cfg(feature = "track")]
mod table {
    use core::panic::Location;
    use std::collections::BTreeMap;

    use crate::base::ids::Pfn;
    use crate::os::futex_lock::FutexLock;

    type Mutex<T> = lock_api::Mutex<FutexLock, T>;
    type Shard = Mutex<BTreeMap<(usize, Pfn, &'static Location<'static>), u32>>;

    const SHARDS: usize = 256;
    static TABLE: [Shard; SHARDS] = [const { Mutex::new(BTreeMap::new()) }; SHARDS];

    pub(super) fn shard(head: Pfn) -> &'static Shard {
        &TABLE[head.as_u64() as usize % SHARDS]
    }
}
