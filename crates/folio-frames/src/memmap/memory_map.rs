//! A memory map: the usable memory as the firmware lists it, without what is in use already.

use core::ops::Range;

use crate::base::ids::{BLOCK_ORDER, FRAME_SIZE, MAX_ORDER, Pfn, PfnRange};

/// The memory of a machine: ranges of usable bytes, less ranges that are reserved.
///
/// The ranges are those of the firmware, whole: in any order, of any size and alignment, with holes
/// between them. They may overlap. A frame is in the map if all its bytes are usable and none is
/// reserved. [`Zone::from_map`](crate::Zone::from_map) makes a zone of these frames.
///
/// Reserve what must not be handed out: the kernel's image, the memory taken before the zone
/// exists, and frame 0 where its bytes are at address 0, as a Rust reference cannot be null.
///
/// ```
/// use folio_frames::{MemoryMap, Pfn, PfnRange};
///
/// // The first 640 KiB less 1 KiB, then 4 MiB less 3 KiB from 1 MiB on. The kernel is at 2 MiB.
/// let mut usable = [0x10_0000..0x4f_f400, 0..0x9_fc00];
/// let mut reserved = [0x20_0000..0x23_4567, 0..1];
/// let map = MemoryMap::new(&mut usable, &mut reserved);
/// let frames = |start, end| PfnRange { start: Pfn::new(start), end: Pfn::new(end) };
/// assert!(map.ranges().eq([frames(1, 0x9f), frames(0x100, 0x200), frames(0x235, 0x4ff)]));
/// assert_eq!(map.frames(), 0x9e + 0x100 + 0x2ca);
/// assert_eq!(map.span(), frames(0, 0x600));
/// ```
#[derive(Clone, Debug)]
pub struct MemoryMap<'a> {
    /// **Invariant:** neither empty nor overlapping nor adjacent, in the order of addresses.
    usable: &'a [Range<u64>],
    /// **Invariant:** as above.
    reserved: &'a [Range<u64>],
    /// Frames outside are not in the map.
    within: Range<u64>,
}

impl<'a> MemoryMap<'a> {
    /// Makes a map of ranges of physical addresses, in bytes. Sorts and merges both lists in place.
    ///
    /// A range that does not end behind its start is empty, also where the sum of a start and a
    /// length overflowed: check that sum before.
    pub fn new(usable: &'a mut [Range<u64>], reserved: &'a mut [Range<u64>]) -> Self {
        Self { usable: merge(usable), reserved: merge(reserved), within: 0..u64::MAX }
    }

    /// Returns the part of the map within these frames: a zone below an address, or a node.
    #[must_use]
    pub fn within(&self, frames: &PfnRange) -> Self {
        let within =
            self.within.start.max(frames.start.as_u64())..self.within.end.min(frames.end.as_u64());
        Self { within, ..self.clone() }
    }

    /// Returns the whole frames of the map, as ranges in ascending order with gaps between them.
    pub fn ranges(&self) -> impl Iterator<Item = PfnRange> + Clone + use<'a> {
        let Self { usable, reserved, within } = self.clone();
        let mut usable = usable.iter().map(move |bytes| {
            let inner = bytes.start.div_ceil(SIZE)..bytes.end / SIZE;
            inner.start.max(within.start)..inner.end.min(within.end)
        });
        let mut reserved =
            reserved.iter().map(|bytes| bytes.start / SIZE..bytes.end.div_ceil(SIZE));
        let (mut rest, mut taken) = (0..0, reserved.next());
        core::iter::from_fn(move || {
            loop {
                if rest.is_empty() {
                    rest = usable.next()?;
                    continue;
                }
                while taken.as_ref().is_some_and(|taken| taken.end <= rest.start) {
                    taken = reserved.next();
                }
                let before = rest.start
                    ..taken
                        .as_ref()
                        .map_or(rest.end, |taken| taken.start.clamp(rest.start, rest.end));
                // Behind the reserved range, which may reach into the next usable one.
                rest.start = match &taken {
                    Some(taken) if taken.start < rest.end => taken.end.min(rest.end),
                    _ => rest.end,
                };
                if !before.is_empty() {
                    return Some(PfnRange {
                        start: Pfn::new(before.start),
                        end: Pfn::new(before.end),
                    });
                }
            }
        })
    }

    /// Returns the number of frames in the map.
    pub fn frames(&self) -> u64 {
        self.ranges().map(|range| range.frames()).sum()
    }

    /// Returns the frames that a zone of this map spans: from a multiple of 4 MiB to a multiple of
    /// 2 MiB, with all holes between. Empty if the map has no frame.
    pub fn span(&self) -> PfnRange {
        let start = self.ranges().next().map_or(0, |range| range.start.as_u64());
        let end = self.ranges().last().map_or(0, |range| range.end.as_u64());
        PfnRange {
            start: Pfn::new(start / u64::from(MAX_ORDER.frames()) * u64::from(MAX_ORDER.frames())),
            end: Pfn::new(end.next_multiple_of(BLOCK)),
        }
    }

    /// Returns the 2 MiB blocks of the span that have a frame in the map: ranges of their numbers,
    /// counted from the start of the span, with gaps between them. The others need no metadata.
    pub fn blocks(&self) -> impl Iterator<Item = Range<usize>> + use<'a> {
        let start = self.span().start.as_u64();
        let mut touched = self.ranges().map(move |range| {
            let frames = range.start.as_u64() - start..range.end.as_u64() - start;
            (frames.start / BLOCK) as usize..frames.end.div_ceil(BLOCK) as usize
        });
        let mut next = touched.next();
        core::iter::from_fn(move || {
            let mut blocks = next.take()?;
            next = touched.next();
            while let Some(more) = next.take_if(|more| more.start <= blocks.end) {
                blocks.end = more.end;
                next = touched.next();
            }
            Some(blocks)
        })
    }
}

const SIZE: u64 = FRAME_SIZE as u64;
const BLOCK: u64 = BLOCK_ORDER.frames() as u64;

/// Sorts the ranges and merges those that overlap or touch. Returns what is left, without empty
/// ranges.
fn merge(ranges: &mut [Range<u64>]) -> &[Range<u64>] {
    ranges.sort_unstable_by_key(|range| range.start);
    let mut merged = 0;
    for n in 0..ranges.len() {
        let range = ranges[n].clone();
        match ranges[..merged].last_mut() {
            _ if range.is_empty() => {}
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => {
                ranges[merged] = range;
                merged += 1;
            }
        }
    }
    &ranges[..merged]
}
