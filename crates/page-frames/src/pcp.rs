//! Per-CPU lists of single frames in front of the buddy.
//!
//! (Linux `struct per_cpu_pages`.) A list is an array, so taking a frame touches no descriptor but its own.

/// How many frames a list holds at the most; half of it moves to or from the buddy at once.
pub(crate) const CAPACITY: usize = 64;

/// Lists a zone has; a CPU uses the one of its number modulo this.
pub(crate) const LISTS: usize = 16;

/// Free frames of one CPU, by index.
pub(crate) struct Pcp {
    len: usize,
    frames: [u32; CAPACITY],
}

impl Default for Pcp {
    fn default() -> Self {
        Self { len: 0, frames: [0; CAPACITY] }
    }
}

impl Pcp {
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    #[inline]
    pub(crate) fn pop(&mut self) -> Option<u32> {
        self.len = self.len.checked_sub(1)?;
        Some(self.frames[self.len])
    }

    /// `false`: the list is full and the frame was not taken.
    #[inline]
    pub(crate) fn push(&mut self, index: u32) -> bool {
        match self.frames.get_mut(self.len) {
            Some(place) => {
                *place = index;
                self.len += 1;
                true
            }
            None => false,
        }
    }
}
