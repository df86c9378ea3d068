//! Watermarks: they divide the number of free frames into four levels, so that reclaim starts
//! before memory runs out.
//!
//! ```text
//!        min          low           high
//!  ───────┼────────────┼─────────────┼──────────▶ free frames
//!  BelowMin  BelowLow     BelowHigh     Enough
//!  reclaim   wake the     let it run    let it
//!  yourself  background   on            sleep
//! ```
//!
//! (Linux `mm/page_alloc.c`, `zone_watermark_ok`.) They only inform: the allocator hands out the
//! last frame to any caller, because it does not know which caller needs it most.

/// Three numbers of free frames, `min <= low <= high`.
///
/// ```
/// use folio_frames::Watermarks;
///
/// // 1 GiB.
/// let watermarks = Watermarks::for_frames(1 << 18);
/// assert_eq!(watermarks, Watermarks { min: 1024, low: 1280, high: 1536 });
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watermarks {
    /// Below this an allocation should first reclaim.
    pub min: u32,
    /// Below this reclaim in the background starts.
    pub low: u32,
    /// From this on it may stop.
    pub high: u32,
}

impl Watermarks {
    /// Returns the watermarks that Linux uses for memory of this size: `min` grows with the square
    /// root, `low` and `high` are a quarter and a half above it. 1 GiB: 1024, 1280, 1536 frames.
    pub const fn for_frames(frames: u32) -> Self {
        let min = 2 * frames.isqrt();
        Self { min, low: min + min / 4, high: min + min / 2 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn watermarks_grow_with_the_square_root_and_are_ordered() {
        assert_eq!(
            Watermarks::for_frames(1 << 18),
            Watermarks { min: 1024, low: 1280, high: 1536 }
        );
        for frames in [0, 1, 511, 512, 1 << 20, u32::MAX] {
            let Watermarks { min, low, high } = Watermarks::for_frames(frames);
            assert!(min <= low && low <= high && high <= frames.max(3), "{frames} frames");
        }
    }
}
