//! The model: which frames are free, as a map of ranges.

use std::collections::BTreeMap;

/// Free frames: start and length, apart from each other.
#[derive(Debug, Default)]
pub(crate) struct FreeRanges {
    ranges: BTreeMap<u64, u64>,
    frames: u64,
}

impl FreeRanges {
    /// How many.
    pub(crate) fn frames(&self) -> u64 {
        self.frames
    }

    /// The range that a frame lies in.
    fn around(&self, frame: u64) -> Option<(u64, u64)> {
        let (&start, &len) = self.ranges.range(..=frame).next_back()?;
        (frame < start + len).then_some((start, len))
    }

    pub(crate) fn is_free(&self, frame: u64) -> bool {
        self.around(frame).is_some()
    }

    /// These frames are free now.
    pub(crate) fn give(&mut self, start: u64, len: u64) {
        let next = self.ranges.range(start..).next();
        assert!(
            next.is_none_or(|(&next, _)| start + len <= next),
            "{start:#x} + {len} was free in part"
        );
        assert!(!self.is_free(start), "{start:#x} was free");
        let (mut start, mut len) = (start, len);
        self.frames += len;
        if let Some(after) = self.ranges.remove(&(start + len)) {
            len += after;
        }
        if let Some((&before, &before_len)) = self.ranges.range(..start).next_back()
            && before + before_len == start
        {
            (start, len) = (before, before_len + len);
        }
        self.ranges.insert(start, len);
    }

    /// These frames are not free any more.
    pub(crate) fn take(&mut self, start: u64, len: u64) {
        let (first, whole) =
            self.around(start).unwrap_or_else(|| panic!("{start:#x} was handed out, but not free"));
        assert!(start + len <= first + whole, "{start:#x} + {len} was not all free");
        self.ranges.remove(&first);
        self.frames -= len;
        if first < start {
            self.ranges.insert(first, start - first);
        }
        if start + len < first + whole {
            self.ranges.insert(start + len, first + whole - start - len);
        }
    }

    /// Whether an aligned block of this many frames is free somewhere.
    pub(crate) fn has_aligned(&self, frames: u64) -> bool {
        self.ranges
            .iter()
            .any(|(&start, &len)| start.next_multiple_of(frames) + frames <= start + len)
    }

    /// Free frames within a range.
    pub(crate) fn within(&self, start: u64, end: u64) -> u64 {
        let overlap =
            |(&first, &len): (&u64, &u64)| (first + len).min(end).saturating_sub(first.max(start));
        self.ranges.iter().map(overlap).sum()
    }
}
