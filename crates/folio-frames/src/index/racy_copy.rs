//! Copying bytes that somebody else may be writing: what comes out is only believed when it is
//! known that nobody did.
//!
//! Such a copy can not be an ordinary one: to Rust a plain read beside a write is a data race,
//! whatever is done with the bytes afterwards. So on x86-64 the loads are instructions that the
//! compiler does not look into, of as many bytes as the platform allows ([`Vectors`](crate::Vectors)), or one
//! string instruction. To the program they are what a system call is that reads its memory
//! (`write`, `process_vm_readv`): bytes arrive that were there at some moment, each from any one of
//! the writes that race with it. No load needs to be atomic as a whole, and of an order only what
//! the processor gives to all loads: on x86-64 a later load does not pass an earlier one. That this
//! is how hardware behaves, and not a theorem about Rust, is the price; seqlocks everywhere pay it.
//!
//! Elsewhere, and under Miri, the loads are relaxed atomic ones of 8 bytes and 1. Those are sound
//! against writes that are atomic too; the frames' are not, so Miri would rightly complain, and its
//! tests do not race here.
//!
//! Nobody else has the target.

use crate::base::platform::Platform;

/// Copies `to.len()` bytes.
///
/// # Safety
///
/// All of them can be read at `from`: mapped, initialised. They may change meanwhile.
#[inline(always)]
pub(crate) unsafe fn racy_copy<P: Platform>(from: *const u8, to: &mut [u8]) {
    // SAFETY: the caller's promise.
    unsafe { copy::racy_copy::<P>(from, to.as_mut_ptr(), to.len()) }
}

#[cfg(all(target_arch = "x86_64", target_feature = "sse2", not(miri), not(shuttle)))]
mod copy {
    use core::arch::asm;
    use core::arch::x86_64::__m128i as Wide;

    use crate::base::platform::Platform;
    use crate::base::vectors::Width;

    const WIDE: usize = size_of::<Wide>();
    /// Loads that are under way before the first store.
    const RUN: usize = 64;
    /// From here on wider loads are worth the question whether there are any. With stores of 16
    /// bytes a copy of 1000 fills the queue of those that wait for their bytes, and the next
    /// one waits too: of pages that are in no cache it takes 350 ns on Zen 4, with 32 bytes 235,
    /// with 64 bytes 215.
    const SEVERAL: usize = 256;
    /// From here on one string instruction is faster than runs of 16-byte loads. (4 KiB on Zen 4:
    /// 43 ns against 68; memcpy 43.)
    const LONG: usize = 1024;
    /// From here on it pays to wait for the first bytes: see [`late_string`].
    const FAR: usize = 3072;

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

    load!(load_wide, Wide, xmm_reg, "movdqu {}, [{}]");
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

    /// Copies a length of at least one value: values one after the other, the last one where it
    /// ends.
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
    pub(super) unsafe fn racy_copy<P: Platform>(from: *const u8, to: *mut u8, len: usize) {
        match len {
            // SAFETY: the caller's promise, here and below.
            ..RUN => unsafe { few(from, to, len) },
            // SAFETY: as above.
            RUN..SEVERAL => unsafe { runs(from, to, len) },
            // SAFETY: as above.
            SEVERAL..FAR => unsafe { wide::<P>(from, to, len) },
            // SAFETY: as above.
            _ if is_just_ahead(from, to) => unsafe { wide::<P>(from, to, len) },
            // SAFETY: as above.
            _ => unsafe { late_string(from, to, len) },
        }
    }

    /// Whether the target lies up to 31 bytes past the source, or seems to from the lower 12 bits,
    /// all that a processor compares before it loads what an earlier store may hold. There the
    /// string instruction goes byte by byte: 4 KiB in 1200 ns on Zen 4, or 105 where it is
    /// 16 bytes past, as memory is that the C library has mapped for a large buffer. Wide loads:
    /// 60.
    #[inline(always)]
    fn is_just_ahead(from: *const u8, to: *const u8) -> bool {
        (to.addr().wrapping_sub(from.addr()) % 4096).wrapping_sub(1) < 31
    }

    /// In pieces as large as the processor likes.
    #[inline(always)]
    unsafe fn string(from: *const u8, to: *mut u8, len: usize) {
        // SAFETY: it reads so many bytes at `from` and writes them at `to`, as the caller says it
        // can, and nothing else.
        unsafe {
            asm!("rep movsb", inout("rcx") len => _, inout("rsi") from => _, inout("rdi") to => _,
                 options(nostack, preserves_flags));
        }
    }

    /// The same, but the length is known only when the first bytes have come. As long as the
    /// instruction is not under way, the loads of the next lines are; once it is, nothing
    /// behind it gets on. Of pages that are in no cache it takes off a fifth of the time (4 KiB
    /// read on Zen 4: 395 ns instead of 509, where memcpy takes 427), to those that are in one it
    /// adds up to 10 ns.
    #[inline(always)]
    unsafe fn late_string(from: *const u8, to: *mut u8, len: usize) {
        // SAFETY: as in `string`; what is prefetched may be anything.
        unsafe {
            asm!("mov {late}, [rsi]",
                 ".irp ahead, 64, 128, 192, 256, 320, 384, 448",
                 "prefetcht0 [rsi + \\ahead]",
                 ".endr",
                 "and {late}, 0", "add rcx, {late}", "rep movsb",
                 late = out(reg) _, inout("rcx") len => _, inout("rsi") from => _, inout("rdi") to => _,
                 options(nostack));
        }
    }

    /// # Safety
    ///
    /// As in [`racy_copy`]; at least [`SEVERAL`] bytes.
    #[inline(always)]
    unsafe fn wide<P: Platform>(from: *const u8, to: *mut u8, len: usize) {
        match P::vectors().width() {
            // SAFETY: the caller's promise, here and below.
            Width::Bits128 if len >= LONG && !is_just_ahead(from, to) => unsafe {
                string(from, to, len)
            },
            // SAFETY: as above.
            Width::Bits128 => unsafe { runs(from, to, len) },
            // SAFETY: as above; that there are such registers was promised to `Vectors`.
            Width::Bits256 => unsafe { by_256(from, to, len) },
            // SAFETY: as above.
            Width::Bits512 => unsafe { by_512(from, to, len) },
        }
    }

    macro_rules! by_registers {
        ($name:ident, $four:literal, $move:literal, $a:literal, $b:literal, $c:literal, $d:literal, $end:literal) => {
            /// Four registers at a time, the last four where it ends. At least as many bytes.
            #[inline(never)]
            pub(super) unsafe fn $name(from: *const u8, to: *mut u8, len: usize) {
                // SAFETY: `rax` is at most `last`, and from there on four registers' bytes are left.
                unsafe {
                    asm!(".macro four",
                         concat!($move, " ", $a, ", [{from} + rax]"), concat!($move, " ", $b, ", [{from} + rax + ", $four, " / 4]"),
                         concat!($move, " ", $c, ", [{from} + rax + ", $four, " / 2]"), concat!($move, " ", $d, ", [{from} + rax + ", $four, " / 4 * 3]"),
                         concat!($move, " [{to} + rax], ", $a), concat!($move, " [{to} + rax + ", $four, " / 4], ", $b),
                         concat!($move, " [{to} + rax + ", $four, " / 2], ", $c), concat!($move, " [{to} + rax + ", $four, " / 4 * 3], ", $d),
                         ".endm",
                         "jmp 3f", "2:", "four", concat!("add rax, ", $four), "3:", "cmp rax, {last}", "jb 2b",
                         "mov rax, {last}", "four", ".purgem four",
                         $end,
                         from = in(reg) from, to = in(reg) to, last = in(reg) len - $four, inout("rax") 0_usize => _,
                         clobber_abi("sysv64"), options(nostack));
                }
            }
        };
    }

    // Whoever uses the old registers after wide ones pays for it, unless their upper halves are
    // said to be of no use. Those from 16 on have none.
    by_registers!(by_256, 128, "vmovdqu", "ymm0", "ymm1", "ymm2", "ymm3", "vzeroupper");
    by_registers!(by_512, 256, "vmovdqu64", "zmm16", "zmm17", "zmm18", "zmm19", "");

    /// # Safety
    ///
    /// As in [`racy_copy`]; at least one run.
    #[inline(always)]
    pub(super) unsafe fn runs(from: *const u8, to: *mut u8, len: usize) {
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

    /// With the offsets in the instructions.
    #[inline(always)]
    unsafe fn run(from: *const u8, to: *mut u8) {
        let (a, b, c, d): (Wide, Wide, Wide, Wide);
        // SAFETY: it reads a run's 64 bytes at `from`, which the caller says can be read, and
        // nothing else.
        unsafe {
            asm!("movdqu {a}, [{from}]", "movdqu {b}, [{from} + 16]",
                 "movdqu {c}, [{from} + 32]", "movdqu {d}, [{from} + 48]",
                 a = out(xmm_reg) a, b = out(xmm_reg) b, c = out(xmm_reg) c, d = lateout(xmm_reg) d, from = in(reg) from,
                 options(nostack, preserves_flags, readonly));
        }
        // SAFETY: and writes them at `to`; in no need of alignment.
        unsafe { to.cast::<[Wide; 4]>().write_unaligned([a, b, c, d]) };
    }

    /// Less than a run: the largest size that fits, the last load overlapping.
    #[inline(always)]
    unsafe fn few(from: *const u8, to: *mut u8, len: usize) {
        match len {
            WIDE.. => all!(load_wide, Wide, from, to, len),
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
    use crate::base::platform::Platform;

    /// # Safety
    ///
    /// `len` bytes can be read at `from` and written at `to`, which nobody else has.
    pub(super) unsafe fn racy_copy<P: Platform>(from: *const u8, to: *mut u8, len: usize) {
        let half = len / 2;
        folio_ref::testing::stepped::step();
        // SAFETY: the caller's promise; nobody writes before the next step.
        unsafe { to.copy_from_nonoverlapping(from, half) };
        folio_ref::testing::stepped::step();
        // SAFETY: as above.
        unsafe {
            to.wrapping_add(half).copy_from_nonoverlapping(from.wrapping_add(half), len - half)
        };
    }
}

#[cfg(not(any(all(target_arch = "x86_64", target_feature = "sse2", not(miri)), shuttle)))]
mod copy {
    use core::sync::atomic::{AtomicU8, AtomicU64, Ordering};

    use crate::base::platform::Platform;

    /// # Safety
    ///
    /// `len` bytes can be read at `from` and written at `to`, which nobody else has.
    pub(super) unsafe fn racy_copy<P: Platform>(from: *const u8, to: *mut u8, len: usize) {
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

#[cfg(all(test, feature = "std"))]
mod tests {
    use std::vec::Vec;

    use super::*;
    use crate::UserSpace;

    /// By what copies: every length at every alignment, and nothing beside it.
    fn copies(mut copy: impl FnMut(*const u8, &mut [u8]), lengths: &[usize]) {
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
    fn every_length_at_every_alignment_is_copied_and_nothing_beside_it() {
        let lengths: Vec<usize> =
            (0..300).chain([512, 700, 1023, 1024, 1100, 3000, 3071, 3072, 4096]).collect();
        // SAFETY: the bytes are there.
        copies(|from, to| unsafe { racy_copy::<UserSpace>(from, to) }, &lengths);
    }

    #[cfg(all(target_arch = "x86_64", target_feature = "sse2", not(miri), not(shuttle)))]
    #[test]
    fn each_width_copies_what_a_processor_may_be_asked_for() {
        let lengths = [256, 257, 300, 511, 512, 513, 700, 1024, 4096];
        let mut tried = 0;
        if std::is_x86_feature_detected!("avx") {
            // SAFETY: the bytes are there, and so are the registers.
            copies(|from, to| unsafe { copy::by_256(from, to.as_mut_ptr(), to.len()) }, &lengths);
            tried += 1;
        }
        if std::is_x86_feature_detected!("avx512f") {
            // SAFETY: as above.
            copies(|from, to| unsafe { copy::by_512(from, to.as_mut_ptr(), to.len()) }, &lengths);
            tried += 1;
        }
        std::println!("{tried} of 2 widths are here");
        // SAFETY: as above.
        copies(|from, to| unsafe { copy::runs(from, to.as_mut_ptr(), to.len()) }, &lengths);
    }
}
