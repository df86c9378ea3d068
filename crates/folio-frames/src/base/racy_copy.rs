//! Copies bytes that another thread may be writing. The caller uses the copy only if it can prove
//! that no write raced with it.
//!
//! Such a copy cannot be an ordinary one: to Rust, a plain read that races with a write is a data
//! race, even if the bytes are then discarded. So on x86-64 the loads are instructions that are
//! opaque to the compiler: loads as wide as the platform allows ([`Vectors`](crate::Vectors)), or
//! one string instruction. To the program they are like a system call that reads its memory
//! (`write`, `process_vm_readv`). Each byte that arrives was there at some moment, from any one of
//! the writes that race with it. No load needs to be atomic as a whole. The only order needed is
//! that which the processor gives to all loads: on x86-64 a later load does not pass an earlier
//! one. This relies on the behaviour of hardware, and is not a theorem about Rust. All seqlocks
//! rely on it.
//!
//! A kernel for x86-64 that is built without vector registers copies 256 bytes and more by the
//! string instruction (`string_copy.rs`). Otherwise on other targets, and under Miri, the loads are
//! relaxed atomic ones of 8 bytes and 1. Those are
//! sound only against writes that are atomic too. The writes to frames are not, so Miri would
//! rightly report a race; its tests do not race here.
//!
//! The target buffer of such a copy is exclusive to the caller. A copy in the other direction
//! ([`racy_write`]) stores in the same way, to bytes that others may read and write.

use crate::base::platform::Platform;

/// Copies `to.len()` bytes from `from`.
///
/// # Safety
///
/// All these bytes are mapped and initialised. They may change during the copy.
#[inline(always)]
pub(crate) unsafe fn racy_copy<P: Platform>(from: *const u8, to: &mut [u8]) {
    // SAFETY: the caller's promise.
    unsafe { copy::racy_copy::<P>(from, to.as_mut_ptr(), to.len()) }
}

/// Copies `from.len()` bytes to `to`, by stores that may race.
///
/// # Safety
///
/// All these bytes are mapped, and no reference to them exists. Others may read and write them
/// during the copy, by accesses that may race.
#[inline(always)]
pub(crate) unsafe fn racy_write(from: &[u8], to: *mut u8) {
    // SAFETY: the caller's promise.
    unsafe { copy::racy_write(from.as_ptr(), to, from.len()) }
}

#[cfg(all(target_arch = "x86_64", target_feature = "sse2", not(miri), not(shuttle)))]
mod copy {
    use core::arch::asm;
    use core::arch::x86_64::__m128i as Wide;

    use crate::base::platform::Platform;
    use crate::base::string_copy::{is_just_ahead, string};
    use crate::base::vectors::Width;

    const WIDE: usize = size_of::<Wide>();
    /// Number of bytes that are loaded before the first store.
    const CHUNK: usize = 64;
    /// From this length on, wider loads are worth the call that asks for them. A copy of 1000 bytes
    /// by 16-byte stores fills the store queue, and the next copy waits too. From pages that are in
    /// no cache it takes 350 ns on Zen 4; with 32-byte stores 235 ns, with 64-byte stores 215 ns.
    const WIDE_FROM: usize = 256;
    /// From this length on, one string instruction is faster than chunks of 16-byte loads. (4 KiB
    /// on Zen 4: 43 ns against 68; memcpy 43.)
    const STRING_FROM: usize = 1024;
    /// From this length on, a string instruction copies, unless the registers are said to be better
    /// for pages. It pays to wait for the first bytes: see [`late_string`].
    const LATE_FROM: usize = 3072;

    macro_rules! load {
        ($name:ident, $type:ty, $class:ident, $instruction:literal) => {
            /// Loads one value, which need not be aligned.
            #[inline(always)]
            unsafe fn $name(from: *const u8) -> $type {
                let value: $type;
                // SAFETY: it only reads the bytes of one value at `from`, which the caller says can
                // be read.
                unsafe {
                    asm!($instruction, out($class) value, in(reg) from,
                         options(nostack, preserves_flags, readonly));
                }
                value
            }
        };
    }

    load!(load_wide, Wide, xmm_reg, "movdqu {}, [{}]");
    load!(load_8, u64, reg, "mov {}, [{}]");
    load!(load_4, u32, reg, "mov {:e}, [{}]");
    load!(load_1, u8, reg_byte, "mov {}, [{}]");

    /// Copies one value at the same offset of both.
    macro_rules! one {
        ($load:ident, $type:ty, $from:expr, $to:expr, $at:expr) => {{
            // SAFETY: the caller of the function can read there, see each use.
            let value = unsafe { $load($from.wrapping_add($at)) };
            // SAFETY: and write there. The value need not be aligned.
            unsafe { $to.wrapping_add($at).cast::<$type>().write_unaligned(value) };
        }};
    }

    /// Copies `len` bytes, at least one value: values one after the other. The last one ends at
    /// `len`, and may overlap the one before.
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
    /// `len` bytes can be read at `from`, and written at `to`, which is exclusive to the caller.
    #[inline(always)]
    pub(super) unsafe fn racy_copy<P: Platform>(from: *const u8, to: *mut u8, len: usize) {
        match len {
            // SAFETY: the caller's promise, here and below.
            ..CHUNK => unsafe { short(from, to, len) },
            // SAFETY: as above.
            CHUNK..WIDE_FROM => unsafe { chunks(from, to, len) },
            // SAFETY: as above.
            WIDE_FROM..LATE_FROM => unsafe { wide::<P>(from, to, len) },
            // SAFETY: as above.
            _ if P::vectors().copy_pages() || is_just_ahead(from, to) => unsafe {
                wide::<P>(from, to, len);
            },
            // SAFETY: as above.
            _ => unsafe { late_string(from, to, len) },
        }
    }

    /// # Safety
    ///
    /// `len` bytes can be read at `from`, and written at `to`.
    #[inline(always)]
    pub(super) unsafe fn racy_write(from: *const u8, to: *mut u8, len: usize) {
        // SAFETY: the caller's promise. The instruction is opaque to the compiler, so its stores
        // may race.
        unsafe { string(from, to, len) }
    }

    /// Copies by one string instruction, with a length that depends on the first bytes.
    ///
    /// Until the instruction starts, the loads of the next lines proceed; once it runs, nothing
    /// behind it does. That saves a fifth of the time for pages that are in no cache: 4 KiB take
    /// 395 ns on Zen 4 instead of 509, where memcpy takes 427. It costs up to 10 ns for pages in a
    /// cache.
    #[inline(always)]
    pub(super) unsafe fn late_string(from: *const u8, to: *mut u8, len: usize) {
        // SAFETY: as in `string`; any address may be prefetched.
        unsafe {
            asm!("mov {late}, [rsi]",
                 ".irp ahead, 64, 128, 192, 256, 320, 384, 448",
                 "prefetcht0 [rsi + \\ahead]",
                 ".endr",
                 "and {late}, 0", "add rcx, {late}", "rep movsb",
                 late = out(reg) _, inout("rcx") len => _, inout("rsi") from => _,
                 inout("rdi") to => _,
                 options(nostack));
        }
    }

    /// Copies by the widest registers of the platform.
    ///
    /// # Safety
    ///
    /// `len` bytes, at least [`WIDE_FROM`], can be read at `from`, and written at `to`, which is
    /// exclusive to the caller.
    #[inline(always)]
    unsafe fn wide<P: Platform>(from: *const u8, to: *mut u8, len: usize) {
        match P::vectors().width() {
            // SAFETY: the caller's promise, here and below.
            Width::Bits128 if len >= STRING_FROM && !is_just_ahead(from, to) => unsafe {
                string(from, to, len);
            },
            // SAFETY: as above.
            Width::Bits128 => unsafe { chunks(from, to, len) },
            // SAFETY: as above; the registers exist by the promise made to `Vectors`.
            Width::Bits256 => unsafe { by_256(from, to, len) },
            // SAFETY: as above.
            Width::Bits512 => unsafe { by_512(from, to, len) },
        }
    }

    macro_rules! by_registers {
        ($name:ident, $four:literal, $move:literal,
         $a:literal, $b:literal, $c:literal, $d:literal, $end:literal) => {
            /// Copies at least four registers, four at a time. The last four end at `len`.
            #[inline(never)]
            pub(super) unsafe fn $name(from: *const u8, to: *mut u8, len: usize) {
                // SAFETY: `rax` is at most `last`, and four registers' bytes lie from there on.
                unsafe {
                    asm!(".macro four",
                         concat!($move, " ", $a, ", [{from} + rax]"),
                         concat!($move, " ", $b, ", [{from} + rax + ", $four, " / 4]"),
                         concat!($move, " ", $c, ", [{from} + rax + ", $four, " / 2]"),
                         concat!($move, " ", $d, ", [{from} + rax + ", $four, " / 4 * 3]"),
                         concat!($move, " [{to} + rax], ", $a),
                         concat!($move, " [{to} + rax + ", $four, " / 4], ", $b),
                         concat!($move, " [{to} + rax + ", $four, " / 2], ", $c),
                         concat!($move, " [{to} + rax + ", $four, " / 4 * 3], ", $d),
                         ".endm",
                         "jmp 3f", "2:", "four", concat!("add rax, ", $four),
                         "3:", "cmp rax, {last}", "jb 2b",
                         "mov rax, {last}", "four", ".purgem four",
                         $end,
                         from = in(reg) from, to = in(reg) to, last = in(reg) len - $four,
                         inout("rax") 0_usize => _,
                         clobber_abi("sysv64"), options(nostack));
                }
            }
        };
    }

    // SSE instructions after AVX ones are slow until vzeroupper clears the upper halves of the
    // registers. SSE does not have the registers from 16 on, so they need no vzeroupper.
    by_registers!(by_256, 128, "vmovdqu", "ymm0", "ymm1", "ymm2", "ymm3", "vzeroupper");
    by_registers!(by_512, 256, "vmovdqu64", "zmm16", "zmm17", "zmm18", "zmm19", "");

    /// Copies by 64-byte chunks. The last one ends at `len`, and may overlap the one before.
    ///
    /// # Safety
    ///
    /// `len` bytes, at least [`CHUNK`], can be read at `from`, and written at `to`, which is
    /// exclusive to the caller.
    #[inline(always)]
    pub(super) unsafe fn chunks(from: *const u8, to: *mut u8, len: usize) {
        let last = len - CHUNK;
        let mut at = 0;
        while at < last {
            // SAFETY: `at + CHUNK` is below `len`.
            unsafe { chunk(from.wrapping_add(at), to.wrapping_add(at)) };
            at += CHUNK;
        }
        // SAFETY: the last bytes, some of them again.
        unsafe { chunk(from.wrapping_add(last), to.wrapping_add(last)) };
    }

    /// Copies one chunk, with the offsets in the instructions.
    #[inline(always)]
    unsafe fn chunk(from: *const u8, to: *mut u8) {
        let (a, b, c, d): (Wide, Wide, Wide, Wide);
        // SAFETY: it only reads the 64 bytes of a chunk at `from`, which the caller says can be
        // read.
        unsafe {
            asm!("movdqu {a}, [{from}]", "movdqu {b}, [{from} + 16]",
                 "movdqu {c}, [{from} + 32]", "movdqu {d}, [{from} + 48]",
                 a = out(xmm_reg) a, b = out(xmm_reg) b, c = out(xmm_reg) c,
                 d = lateout(xmm_reg) d, from = in(reg) from,
                 options(nostack, preserves_flags, readonly));
        }
        // SAFETY: and writes them at `to`, which need not be aligned.
        unsafe { to.cast::<[Wide; 4]>().write_unaligned([a, b, c, d]) };
    }

    /// Copies less than a chunk: by loads of the largest size that fits, the last one overlapping.
    #[inline(always)]
    unsafe fn short(from: *const u8, to: *mut u8, len: usize) {
        match len {
            WIDE.. => all!(load_wide, Wide, from, to, len),
            8.. => all!(load_8, u64, from, to, len),
            4.. => all!(load_4, u32, from, to, len),
            1.. => all!(load_1, u8, from, to, len),
            0 => {}
        }
    }
}

/// For shuttle: copies in two halves, between which other threads run. Each half may be older than
/// what is in memory, as far as the reader may not know better.
#[cfg(shuttle)]
mod copy {
    use folio_ref::testing::{memory, stepped};

    use crate::base::platform::Platform;

    /// # Safety
    ///
    /// `len` bytes can be read at `from`, and written at `to`.
    pub(super) unsafe fn racy_write(from: *const u8, to: *mut u8, len: usize) {
        stepped::step();
        // SAFETY: the caller's promise; no other thread runs before the next step.
        unsafe { to.copy_from_nonoverlapping(from, len) };
    }

    /// # Safety
    ///
    /// `len` bytes can be read at `from`, and written at `to`, which is exclusive to the caller.
    pub(super) unsafe fn racy_copy<P: Platform>(from: *const u8, to: *mut u8, len: usize) {
        let parts = [0..len / 2, len / 2..len];
        for part in parts.into_iter().filter(|part| !part.is_empty()) {
            stepped::step();
            let from = from.wrapping_add(part.start);
            // SAFETY: the caller's promise; no other thread runs before the next step.
            let live = unsafe { core::slice::from_raw_parts(from, part.len()) };
            let older = memory::copied(from.addr(), live);
            let bytes = older.as_deref().unwrap_or(live);
            // SAFETY: as above.
            unsafe {
                to.wrapping_add(part.start).copy_from_nonoverlapping(bytes.as_ptr(), bytes.len());
            }
        }
    }
}

#[cfg(not(any(all(target_arch = "x86_64", target_feature = "sse2", not(miri)), shuttle)))]
mod copy {
    use core::sync::atomic::{AtomicU8, AtomicU64, Ordering};

    use crate::base::platform::Platform;
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    use crate::base::string_copy::{STRING_FROM_WORDS, is_just_ahead, string};

    /// # Safety
    ///
    /// `len` bytes can be read at `from`, and written at `to`.
    pub(super) unsafe fn racy_write(from: *const u8, to: *mut u8, len: usize) {
        #[cfg(all(target_arch = "x86_64", not(miri)))]
        if len >= STRING_FROM_WORDS && !is_just_ahead(from, to) {
            // SAFETY: the caller's promise. The compiler does not know the instruction's stores, so
            // they may race.
            return unsafe { string(from, to, len) };
        }
        let head = to.align_offset(size_of::<u64>()).min(len);
        let words = (len - head) / size_of::<u64>();
        let tail = head + words * size_of::<u64>();
        for at in (0..head).chain(tail..len) {
            // SAFETY: within the bytes.
            let value = unsafe { from.wrapping_add(at).read() };
            // SAFETY: within the bytes; a byte is aligned.
            let byte = unsafe { &*to.wrapping_add(at).cast::<AtomicU8>() };
            // Relaxed: what orders the bytes is the caller's.
            byte.store(value, Ordering::Relaxed);
        }
        for at in (head..tail).step_by(size_of::<u64>()) {
            // SAFETY: within the bytes, and need not be aligned.
            let value = unsafe { from.wrapping_add(at).cast::<u64>().read_unaligned() };
            // SAFETY: within the bytes; aligned, since the head ends where words begin.
            let word = unsafe { &*to.wrapping_add(at).cast::<AtomicU64>() };
            // Relaxed: as above.
            word.store(value, Ordering::Relaxed);
        }
    }

    /// # Safety
    ///
    /// `len` bytes can be read at `from`, and written at `to`, which is exclusive to the caller.
    #[expect(clippy::extra_unused_type_parameters, reason = "other copies ask the platform")]
    pub(super) unsafe fn racy_copy<P: Platform>(from: *const u8, to: *mut u8, len: usize) {
        #[cfg(all(target_arch = "x86_64", not(miri)))]
        if len >= STRING_FROM_WORDS && !is_just_ahead(from, to) {
            // SAFETY: the caller's promise. The compiler does not know the instruction's loads, so
            // they may race.
            return unsafe { string(from, to, len) };
        }
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
            #[expect(clippy::cast_ptr_alignment, reason = "the head ends where words begin")]
            // SAFETY: within the bytes, and aligned.
            let word = unsafe { &*from.wrapping_add(at).cast::<AtomicU64>() };
            // Relaxed: as above.
            let value = word.load(Ordering::Relaxed);
            // SAFETY: within the bytes, and need not be aligned.
            unsafe { to.wrapping_add(at).cast::<u64>().write_unaligned(value) };
        }
    }
}

#[cfg(all(test, feature = "std"))]
mod tests {
    use std::vec::Vec;

    use super::*;
    use crate::UserSpace;

    /// Checks a copy function for each length at each alignment: it writes no other byte.
    fn check_copies(mut copy: impl FnMut(*const u8, &mut [u8]), lengths: &[usize]) {
        let bytes: Vec<u8> = (0..5000_u32).map(|n| (n * 7 % 251) as u8 + 1).collect();
        for &len in lengths {
            for start in [0, 1, 3, 8, 15, 31, 63] {
                for past in [0, 1, 16, 31, 32, 100] {
                    let mut to = std::vec![0; start + past + len + 100];
                    let (from, at) = (bytes.as_ptr().wrapping_add(start), start + past);
                    copy(from, &mut to[at..at + len]);
                    assert_eq!(
                        to[at..at + len],
                        bytes[start..start + len],
                        "{len} bytes from {start} to {at}"
                    );
                    assert!(
                        to[..at].iter().chain(&to[at + len..]).all(|&byte| byte == 0),
                        "{len} from {start} to {at}"
                    );
                }
            }
        }
    }

    #[test]
    fn each_length_at_each_alignment_is_copied_exactly() {
        let lengths: Vec<usize> =
            (0..300).chain([512, 700, 1023, 1024, 1100, 3000, 3071, 3072, 4096]).collect();
        // SAFETY: the bytes are there.
        check_copies(|from, to| unsafe { racy_copy::<UserSpace>(from, to) }, &lengths);
        let write = |from: *const u8, to: &mut [u8]| {
            // SAFETY: the bytes are there.
            let from = unsafe { core::slice::from_raw_parts(from, to.len()) };
            // SAFETY: nothing else accesses them.
            unsafe { racy_write(from, to.as_mut_ptr()) }
        };
        check_copies(write, &lengths);
    }

    #[cfg(all(target_arch = "x86_64", target_feature = "sse2", not(miri), not(shuttle)))]
    #[test]
    fn each_register_width_copies_all_its_lengths() {
        let lengths = [256, 257, 300, 511, 512, 513, 700, 1024, 4096];
        let mut tried = 0;
        if std::is_x86_feature_detected!("avx") {
            // SAFETY: the bytes are there, and so are the registers.
            check_copies(
                |from, to| unsafe { copy::by_256(from, to.as_mut_ptr(), to.len()) },
                &lengths,
            );
            tried += 1;
        }
        if std::is_x86_feature_detected!("avx512f") {
            // SAFETY: as above.
            check_copies(
                |from, to| unsafe { copy::by_512(from, to.as_mut_ptr(), to.len()) },
                &lengths,
            );
            tried += 1;
        }
        std::println!("{tried} of 2 widths exist on this processor");
        // SAFETY: as above.
        check_copies(|from, to| unsafe { copy::chunks(from, to.as_mut_ptr(), to.len()) }, &lengths);
        // The processor at hand may have better than the instruction for pages.
        let late = |from: *const u8, to: &mut [u8]| {
            // SAFETY: as above.
            unsafe { copy::late_string(from, to.as_mut_ptr(), to.len()) }
        };
        check_copies(late, &[3072, 3073, 4096]);
    }

    #[cfg(all(target_arch = "x86_64", not(miri)))]
    #[test]
    fn the_string_instruction_copies_exactly() {
        use crate::base::string_copy::{STRING_FROM_WORDS, string};

        let lengths: Vec<usize> = [0, 1, 7, 64, 4095, 4096]
            .into_iter()
            .chain(STRING_FROM_WORDS - 1..STRING_FROM_WORDS + 9)
            .collect();
        // SAFETY: the bytes are there.
        check_copies(|from, to| unsafe { string(from, to.as_mut_ptr(), to.len()) }, &lengths);
    }
}
