//! The pages of a trial: keys in frames, each found by a hash table of frame numbers.

use std::cell::Cell;

use super::{FrameState, Frames, Uses};

/// The time advances once while this part of the frames is used.
const TICKS: u32 = 32;

/// No frame.
const NONE: u16 = u16::MAX;

/// The highest bit of a time: the key was used.
const USED: u8 = 0x80;

/// The frames of a trial. A frame takes at most 11 bytes.
#[derive(Debug)]
pub(super) struct Keys {
    /// By frame, as far as frames are in use.
    held: Vec<u32>,
    /// By frame: the time of the key's last use, with [`USED`], or 0.
    used: Vec<Cell<u8>>,
    /// The number of uses.
    uses: u32,
    /// By hash of a key: the first frame with such a key. Their number is a power of two.
    first: Vec<u16>,
    /// By frame: the next frame with a key of the same hash.
    next: Vec<u16>,
}

impl Keys {
    /// Returns `frames` empty frames, at most 2^15.
    pub(super) fn new(frames: u32) -> Self {
        let frames = frames as usize;
        assert!(frames <= 1 << 15, "{frames} frames have no numbers of 16 bits with room for none");
        Self {
            held: Vec::with_capacity(frames),
            used: vec![Cell::new(0); frames],
            uses: 0,
            first: vec![NONE; frames.next_power_of_two()],
            next: vec![NONE; frames],
        }
    }

    /// Uses a key. Returns `false` if no frame has it.
    pub(super) fn use_key(&mut self, key: u32) -> bool {
        self.uses = self.uses.wrapping_add(1);
        let mut frame = self.first[self.place(key)];
        while frame != NONE {
            if self.held[usize::from(frame)] == key {
                self.used[usize::from(frame)].set(self.now() as u8 | USED);
                return true;
            }
            frame = self.next[usize::from(frame)];
        }
        false
    }

    /// Returns a frame that was never used, if there is one left.
    pub(super) fn unused(&self) -> Option<u32> {
        (self.held.len() < self.used.len()).then_some(self.held.len() as u32)
    }

    /// Puts a key that no frame has into a frame, instead of the key that is there.
    pub(super) fn put(&mut self, frame: u32, key: u32) {
        let at = frame as usize;
        if at < self.held.len() {
            self.unlink(frame as u16);
            self.held[at] = key;
        } else {
            self.held.push(key);
        }
        let place = self.place(key);
        self.next[at] = std::mem::replace(&mut self.first[place], frame as u16);
    }

    /// Takes a frame out of the hash table.
    fn unlink(&mut self, frame: u16) {
        let after = self.next[usize::from(frame)];
        let place = self.place(self.held[usize::from(frame)]);
        if self.first[place] == frame {
            self.first[place] = after;
            return;
        }
        let mut before = usize::from(self.first[place]);
        while self.next[before] != frame {
            before = usize::from(self.next[before]);
        }
        self.next[before] = after;
    }

    /// Returns the place of a key in the hash table. Keys are hashes, but those of a sample have
    /// bits in common.
    fn place(&self, key: u32) -> usize {
        (key.wrapping_mul(0x9e37_79b1) >> 16) as usize & (self.first.len() - 1)
    }
}

impl Frames for Keys {
    fn count(&self) -> u32 {
        self.used.len() as u32
    }

    fn inspect(&self, frame: u32) -> FrameState {
        let key = self.held.get(frame as usize);
        key.map_or(FrameState::NotCached, |&key| FrameState::Evictable(u64::from(key)))
    }

    fn take_referenced(&self, frame: u32) -> bool {
        self.used[frame as usize].take() != 0
    }

    fn take_uses(&self, frame: u32) -> Option<Uses> {
        let time = self.used[frame as usize].take();
        let age = (self.now() as u8).wrapping_sub(time) & !USED;
        Some(if time == 0 { Uses::default() } else { Uses { count: 1, age } })
    }

    fn now(&self) -> u32 {
        self.uses / (self.count() / TICKS).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_found_as_in_a_list() {
        let seed = fastrand::u64(..);
        let mut random = fastrand::Rng::with_seed(seed);
        let (mut keys, mut naive) = (Keys::new(20), vec![None; 20]);
        for _ in 0..10_000 {
            // Few bits differ.
            let key = random.u32(..60) << 8;
            let place = naive.iter().position(|&other| other == Some(key));
            assert_eq!(keys.use_key(key), place.is_some(), "seed {seed}: key {key}");
            if let Some(place) = place {
                assert!(keys.take_referenced(place as u32), "seed {seed}: key {key}");
                continue;
            }
            let frame = keys.unused().unwrap_or_else(|| random.u32(..20));
            keys.put(frame, key);
            naive[frame as usize] = Some(key);
            assert_eq!(keys.inspect(frame), FrameState::Evictable(u64::from(key)));
        }
        assert!(naive.iter().all(Option::is_some));
    }
}
