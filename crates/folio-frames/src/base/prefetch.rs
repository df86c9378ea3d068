//! Requests a cache line before it is read, so that several are waited for together. A room of
//! unsafe code: the instruction belongs to a part of the processor that must be there.

/// Requests the cache line of a value. A hint, which does nothing on processors other than x86-64
/// with SSE.
#[inline(always)]
pub(crate) fn prefetch<T>(value: &T) {
    #[cfg(all(target_arch = "x86_64", target_feature = "sse", not(miri)))]
    // SAFETY: the program is built for processors with SSE. The instruction changes nothing, and
    // never fails.
    unsafe {
        use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(core::ptr::from_ref(value).cast());
    }
    #[cfg(not(all(target_arch = "x86_64", target_feature = "sse", not(miri))))]
    let _ = value;
}
