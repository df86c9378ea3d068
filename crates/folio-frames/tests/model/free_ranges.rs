//! The model: the free frames, as a map of ranges.

use std::collections::BTreeMap;

/// Free frames: length by start of ranges that neither overlap nor touch.
#[derive(Debug, Default)]
pub(crate) struct FreeRanges {
    ranges: BTreeMap<u64, u64>,
    frames: u64,
}

impl FreeRanges {
    /// Returns the number of free frames.
    pub(crate) fn frames(&self) -> u64 {
        self.frames
    }

    /// Returns the start and the length of the free range that contains `frame`.
    fn around(&self, frame: u64) -> Option<(u64, u64)> {
        let (&start, &len) = self.ranges.range(..=frame).next_back()?;
        (frame < start + len).then_some((start, len))
    }

    pub(crate) fn is_free(&self, frame: u64) -> bool {
        self.around(frame).is_some()
    }

    /// Adds these frames to the free ones.
    pub(crate) fn insert(&mut self, start: u64, len: u64) {
        let next = self.ranges.range(start..).next();
        assert!(
            next.is_none_or(|(&next, _)| start + len <= next),
            "frames {start:#x} + {len} are partly free already"
        );
        assert!(!self.is_free(start), "frame {start:#x} is free already");
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

    /// Removes these frames from the free ones.
    pub(crate) fn remove(&mut self, start: u64, len: u64) {
        let (first, whole) = self
            .around(start)
            .unwrap_or_else(|| panic!("frame {start:#x} was allocated, but is not free"));
        assert!(start + len <= first + whole, "frames {start:#x} + {len} are not all free");
        self.ranges.remove(&first);
        self.frames -= len;
        if first < start {
            self.ranges.insert(first, start - first);
        }
        if start + len < first + whole {
            self.ranges.insert(start + len, first + whole - start - len);
        }
    }

    /// Returns `true` if an aligned block of `frames` frames is free.
    pub(crate) fn has_aligned(&self, frames: u64) -> bool {
        self.ranges
            .iter()
            .any(|(&start, &len)| start.next_multiple_of(frames) + frames <= start + len)
    }

    /// Returns the number of free frames within `start..end`.
    pub(crate) fn within(&self, start: u64, end: u64) -> u64 {
        let overlap =
            |(&first, &len): (&u64, &u64)| (first + len).min(end).saturating_sub(first.max(start));
        self.ranges.iter().map(overlap).sum()
    }
}
