//! Copying bytes that somebody else may be writing: what comes out is only believed when it is known that nobody did.
//!
//! Such a copy can not be an ordinary one: to Rust a plain read beside a write is a data race, whatever is done with
//! the bytes afterwards. So on x86-64 the loads are instructions that the compiler does not look into, 16, 32 or 64
//! bytes each, as the build's target has them. To the program they are what a system call is that reads its memory
//! (`write`, `process_vm_readv`): bytes arrive that were there at some moment, each from any one of the writes that
//! race with it. No load needs to be atomic as a whole, and of an order only what the processor gives to all loads:
//! on x86-64 a later load does not pass an earlier one. That this is how hardware behaves, and not a theorem about
//! Rust, is the price; seqlocks everywhere pay it.
//!
//! Elsewhere, and under Miri, the loads are relaxed atomic ones of 8 bytes and 1. Those are sound against writes that
//! are atomic too; the frames' are not, so Miri would rightly complain, and its tests do not race here.
//!
//! The stores are ordinary ones: nobody else has the target.

/// Copies `to.len()` bytes.
///
/// # Safety
///
/// All of them can be read at `from`: mapped, initialised. They may change meanwhile.
#[inline(always)]
pub(crate) unsafe fn racy_copy(from: *const u8, to: &mut [u8]) {
    // SAFETY: the caller's promise.
    unsafe { copy::racy_copy(from, to.as_mut_ptr(), to.len()) }
}

#[cfg(all(target_arch = "x86_64", target_feature = "sse2", not(miri), not(shuttle)))]
mod copy {
    use core::arch::asm;
    #[cfg(not(target_feature = "avx"))]
    use core::arch::x86_64::__m128i as Wide;
    #[cfg(all(target_feature = "avx", not(target_feature = "avx512f")))]
    use core::arch::x86_64::__m256i as Wide;
    #[cfg(target_feature = "avx512f")]
    use core::arch::x86_64::__m512i as Wide;

    const WIDE: usize = size_of::<Wide>();
    /// Loads that are under way before the first store.
    const RUN: usize = 64;
    /// From here on one string instruction is faster than runs of 16-byte loads. (4 KiB on Zen 4: 43 ns against 68; memcpy 43.)
    #[cfg(not(target_feature = "avx"))]
    const LONG: usize = 1024;

    macro_rules! load {
        ($name:ident, $type:ty, $class:ident, $instruction:literal) => {
            /// One load of its type's size, in no need of alignment.
            #[inline(always)]
            unsafe fn $name(from: *const u8) -> $type {
                let value: $type;
                // SAFETY: it reads so many bytes at `from`, which the caller says can be read, and nothing else.
                unsafe {
                    asm!($instruction, out($class) value, in(reg) from,
                         options(nostack, preserves_flags, readonly));
                }
                value
            }
        };
    }

    #[cfg(not(target_feature = "avx"))]
    load!(load_wide, Wide, xmm_reg, "movdqu {}, [{}]");
    #[cfg(all(target_feature = "avx", not(target_feature = "avx512f")))]
    load!(load_wide, Wide, ymm_reg, "vmovdqu {}, [{}]");
    #[cfg(target_feature = "avx512f")]
    load!(load_wide, Wide, zmm_reg, "vmovdqu64 {}, [{}]");
    load!(load_8, u64, reg, "mov {}, [{}]");
    load!(load_4, u32, reg, "mov {:e}, [{}]");
    load!(load_1, u8, reg_byte, "mov {}, [{}]");

    /// Copies one value from an offset to the same offset.
    macro_rules! one {
        ($load:ident, $type:ty, $from:expr, $to:expr, $at:expr) => {{
            // SAFETY: the caller of this file's functions can read there, see each use.
            let value = unsafe { $load($from.wrapping_add($at)) };
            // SAFETY: and write there; in no need of alignment.
            unsafe { $to.wrapping_add($at).cast::<$type>().write_unaligned(value) };
        }};
    }

    /// Copies a length of at least one value: values one after the other, the last one where it ends.
    macro_rules! all {
        ($load:ident, $type:ty, $from:expr, $to:expr, $len:expr) => {{
            let last = $len - size_of::<$type>();
            let mut at = 0;
            while at < last {
                one!($load, $type, $from, $to, at);
                at += size_of::<$type>();
            }
            one!($load, $type, $from, $to, last);
        }};
    }

    /// # Safety
    ///
    /// `len` bytes can be read at `from` and written at `to`, which nobody else has.
    #[inline(always)]
    pub(super) unsafe fn racy_copy(from: *const u8, to: *mut u8, len: usize) {
        if len < RUN {
            // SAFETY: the caller's promise.
            return unsafe { few(from, to, len) };
        }
        #[cfg(not(target_feature = "avx"))]
        if len >= LONG {
            // SAFETY: the caller's promise.
            return unsafe { string(from, to, len) };
        }
        let last = len - RUN;
        let mut at = 0;
        while at < last {
            // SAFETY: `at + RUN` is below `len`.
            unsafe { run(from.wrapping_add(at), to.wrapping_add(at)) };
            at += RUN;
        }
        // SAFETY: the last bytes, some of them again.
        unsafe { run(from.wrapping_add(last), to.wrapping_add(last)) };
    }

    /// In pieces as large as the processor likes.
    #[cfg(not(target_feature = "avx"))]
    #[inline(always)]
    unsafe fn string(from: *const u8, to: *mut u8, len: usize) {
        // SAFETY: it reads so many bytes at `from` and writes them at `to`, as the caller says it can, and nothing else.
        unsafe {
            asm!("rep movsb", inout("rcx") len => _, inout("rsi") from => _, inout("rdi") to => _,
                 options(nostack, preserves_flags));
        }
    }

    /// As below, with the offsets in the instructions.
    #[cfg(not(target_feature = "avx"))]
    #[inline(always)]
    unsafe fn run(from: *const u8, to: *mut u8) {
        let (a, b, c, d): (Wide, Wide, Wide, Wide);
        // SAFETY: it reads a run's 64 bytes at `from`, which the caller says can be read, and nothing else.
        unsafe {
            asm!("movdqu {a}, [{from}]", "movdqu {b}, [{from} + 16]",
                 "movdqu {c}, [{from} + 32]", "movdqu {d}, [{from} + 48]",
                 a = out(xmm_reg) a, b = out(xmm_reg) b, c = out(xmm_reg) c, d = lateout(xmm_reg) d, from = in(reg) from,
                 options(nostack, preserves_flags, readonly));
        }
        // SAFETY: and writes them at `to`; in no need of alignment.
        unsafe { to.cast::<[Wide; 4]>().write_unaligned([a, b, c, d]) };
    }

    #[cfg(target_feature = "avx")]
    #[inline(always)]
    unsafe fn run(from: *const u8, to: *mut u8) {
        // SAFETY: within the run.
        let loaded: [Wide; RUN / WIDE] = core::array::from_fn(|n| unsafe { load_wide(from.wrapping_add(n * WIDE)) });
        // SAFETY: as above; in no need of alignment.
        unsafe { to.cast::<[Wide; RUN / WIDE]>().write_unaligned(loaded) };
    }

    /// Less than a run: the largest size that fits, the last load overlapping.
    #[inline(always)]
    unsafe fn few(from: *const u8, to: *mut u8, len: usize) {
        match len {
            _ if WIDE < RUN && len >= WIDE => all!(load_wide, Wide, from, to, len),
            8.. => all!(load_8, u64, from, to, len),
            4.. => all!(load_4, u32, from, to, len),
            1.. => all!(load_1, u8, from, to, len),
            0 => {}
        }
    }
}

/// For shuttle: in two halves, between which others go on.
#[cfg(shuttle)]
mod copy {
    /// # Safety
    ///
    /// `len` bytes can be read at `from` and written at `to`, which nobody else has.
    pub(super) unsafe fn racy_copy(from: *const u8, to: *mut u8, len: usize) {
        let half = len / 2;
        page_ref::stepped::step();
        // SAFETY: the caller's promise; nobody writes before the next step.
        unsafe { to.copy_from_nonoverlapping(from, half) };
        page_ref::stepped::step();
        // SAFETY: as above.
        unsafe { to.wrapping_add(half).copy_from_nonoverlapping(from.wrapping_add(half), len - half) };
    }
}

#[cfg(not(any(all(target_arch = "x86_64", target_feature = "sse2", not(miri)), shuttle)))]
mod copy {
    use core::sync::atomic::{AtomicU8, AtomicU64, Ordering};

    /// # Safety
    ///
    /// `len` bytes can be read at `from` and written at `to`, which nobody else has.
    pub(super) unsafe fn racy_copy(from: *const u8, to: *mut u8, len: usize) {
        let head = from.align_offset(size_of::<u64>()).min(len);
        let words = (len - head) / size_of::<u64>();
        let tail = head + words * size_of::<u64>();
        for at in (0..head).chain(tail..len) {
            // SAFETY: within the bytes; a byte is aligned.
            let byte = unsafe { &*from.wrapping_add(at).cast::<AtomicU8>() };
            // Relaxed: the fence after the copy orders it.
            let value = byte.load(Ordering::Relaxed);
            // SAFETY: within the bytes.
            unsafe { to.wrapping_add(at).write(value) };
        }
        for at in (head..tail).step_by(size_of::<u64>()) {
            // SAFETY: within the bytes; aligned, since the head ends where words begin.
            let word = unsafe { &*from.wrapping_add(at).cast::<AtomicU64>() };
            // Relaxed: as above.
            let value = word.load(Ordering::Relaxed);
            // SAFETY: within the bytes; in no need of alignment.
            unsafe { to.wrapping_add(at).cast::<u64>().write_unaligned(value) };
        }
    }
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use super::*;

    #[test]
    fn every_length_at_every_alignment_is_copied_and_nothing_beside_it() {
        let bytes: Vec<u8> = (0..4000_u32).map(|n| (n * 7 % 251) as u8 + 1).collect();
        for len in (0..300).chain([512, 700, 1023, 1024, 1100, 3000]) {
            for start in [0, 1, 3, 8, 15, 31, 63] {
                let mut to = std::vec![0; len + 100];
                // SAFETY: `start + len` is below 4000.
                unsafe { racy_copy(bytes.as_ptr().wrapping_add(start), &mut to[start..start + len]) };
                assert_eq!(to[start..start + len], bytes[start..start + len], "{len} bytes from {start} on");
                assert!(to[..start].iter().chain(&to[start + len..]).all(|&byte| byte == 0), "{len} from {start}");
            }
        }
    }
}
