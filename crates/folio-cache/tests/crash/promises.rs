//! The bytes that the files of a killed writer may hold.
//!
//! Each word of a file has the values that the documents allow: that of the last promise, and each
//! later one. A word that was appended has no other value before it: if it is in the file, it is
//! not zero. The length has a least and a most.

use std::ops::Range;

use crate::steps::{FILES, Step, WORD};

const PAGE: usize = 4096 / WORD;

/// A word of a file.
#[derive(Clone, Debug, Default)]
struct Word {
    /// The values that it may have, the newest last.
    values: Vec<u64>,
    /// It may be zero, because the file was made longer before its bytes were written. The file
    /// has no bytes from this word on then: they are newer.
    unwritten_before: Option<usize>,
    /// Bytes were discarded that may have reached the file.
    is_uncertain: bool,
}

/// A file, after some steps.
#[derive(Clone, Debug)]
pub(crate) struct Possible {
    words: Vec<Word>,
    /// The words that were written since the last promise.
    changed: Vec<usize>,
    /// The lengths that it may have.
    lens: Range<usize>,
    /// A hole is in the file when the call returns.
    has_holes: bool,
}

impl Possible {
    pub(crate) fn new(has_holes: bool) -> Self {
        Self { words: Vec::new(), changed: Vec::new(), lens: 0..1, has_holes }
    }

    fn len(&self) -> usize {
        self.words.len()
    }

    fn set_lens(&mut self, least: usize, most: usize) {
        self.lens = least..most + 1;
    }

    /// Bytes that reach the file later.
    fn write(&mut self, at: usize, len: usize, value: u64) {
        let end = at + len;
        self.changed.extend(at.min(self.len())..end);
        let zero = Word { values: vec![0], ..Word::default() };
        self.words.resize(self.len().max(at), zero);
        self.words.resize(self.len().max(end), Word::default());
        for word in &mut self.words[at..end] {
            word.values.push(value);
            word.is_uncertain = false;
        }
        self.lens.end = self.lens.end.max(self.len() + 1);
    }

    /// The file has this length at once.
    fn lengthen_at_once(&mut self, len: usize) {
        for word in self.words.iter_mut().take(len).skip(self.lens.start) {
            word.unwritten_before.get_or_insert(len);
        }
        self.words.resize(self.len().max(len), Word { values: vec![0], ..Word::default() });
        self.set_lens(len, len);
    }

    /// All that was written is in the file.
    pub(crate) fn promise(&mut self) {
        let changed = std::mem::take(&mut self.changed);
        for at in changed {
            // It may have been truncated since.
            let Some(word) = self.words.get_mut(at) else { continue };
            word.unwritten_before = None;
            if !word.is_uncertain {
                word.values.drain(..word.values.len() - 1);
            }
        }
        self.set_lens(self.len(), self.len());
    }

    /// A step returned.
    pub(crate) fn done(&mut self, this: usize, n: u64, step: Step) {
        match step {
            Step::Write { file, at, len } if file == this => self.write(at, len, n),
            Step::Append { file, len } if file == this => self.write(self.len(), len, n),
            Step::Cursor { file, len } if file == this => {
                self.write(self.len(), len, n);
                self.promise();
            }
            Step::SetLen { file, len } if file == this => {
                self.words.truncate(len);
                self.lengthen_at_once(len);
            }
            Step::Punch { file, at, len } if file == this => {
                let range = at..(at + len).min(self.len());
                if range.is_empty() {
                    return;
                }
                self.write(range.start, range.len(), 0);
                let pages = range.start.next_multiple_of(PAGE)..range.end / PAGE * PAGE;
                if pages.is_empty() {
                    return;
                }
                self.lengthen_at_once(self.len());
                if self.has_holes {
                    for word in &mut self.words[pages] {
                        *word = Word { values: vec![0], ..Word::default() };
                    }
                }
            }
            Step::Discard { file, at, len } if file == this => {
                self.promise();
                self.write(at, len, n);
                self.words[at..at + len].iter_mut().for_each(|word| word.is_uncertain = true);
            }
            Step::Flush { file }
            | Step::SyncData { file }
            | Step::SyncAll { file }
            | Step::Close { file }
            | Step::Drop { file }
                if file == this =>
            {
                self.promise();
            }
            Step::FlushAll => self.promise(),
            _ => {}
        }
    }

    /// A step may have begun, and may be done in part.
    pub(crate) fn begun(&mut self, this: usize, n: u64, step: Step) {
        let least = self.lens.start;
        match step {
            Step::SetLen { file, len } if file == this && len < self.len() => {
                for word in self.words.iter_mut().take(len).skip(least) {
                    word.unwritten_before.get_or_insert(len);
                }
                self.lens.start = least.min(len);
            }
            Step::SetLen { file, .. } if file == this => {
                self.done(this, n, step);
                self.lens.start = least;
            }
            Step::Punch { file, at, len } if file == this => {
                let range = at..(at + len).min(self.len());
                if !range.is_empty() {
                    let len = self.len();
                    for word in self.words.iter_mut().skip(least) {
                        word.unwritten_before.get_or_insert(len);
                    }
                    self.write(range.start, range.len(), 0);
                }
            }
            Step::Write { file, at, len } | Step::Discard { file, at, len } if file == this => {
                self.write(at, len, n);
            }
            Step::Append { file, len } | Step::Cursor { file, len } if file == this => {
                self.write(self.len(), len, n);
            }
            _ => {}
        }
    }

    /// Checks the words of a file. Returns the first violation.
    pub(crate) fn check(&self, found: &[u64]) -> Result<(), String> {
        if !self.lens.contains(&found.len()) {
            return Err(format!("it has {} words, allowed is {:?}", found.len(), self.lens));
        }
        let newest = found.iter().rposition(|&value| value != 0).map_or(0, |last| last + 1);
        for (at, (word, value)) in self.words.iter().zip(found).enumerate() {
            let is_unwritten =
                *value == 0 && word.unwritten_before.is_some_and(|before| newest <= before);
            if !word.values.contains(value) && !is_unwritten {
                return Err(format!("word {at} of {} is {value}, allowed: {word:?}", found.len()));
            }
        }
        Ok(())
    }

    /// Returns the number of pages of which the file lacks something.
    pub(crate) fn stale_pages(&self, found: &[u64], begun: u64) -> usize {
        let is_stale = |(at, word): (usize, &Word)| {
            // A word past the end is a zero that need not be written.
            let value = found.get(at).copied().unwrap_or(0);
            !word.is_uncertain && word.values.last() != Some(&value) && value != begun
        };
        let stale = |page: &[(usize, &Word)]| page.iter().any(|&(at, word)| is_stale((at, word)));
        let words: Vec<_> = self.words.iter().enumerate().collect();
        words.chunks(PAGE).filter(|page| stale(page)).count()
    }
}

/// All files of a writer, and the newest file that took the place of another.
pub(crate) struct Files {
    pub(crate) files: [Possible; FILES],
    pub(crate) replaced: u64,
}

impl Files {
    pub(crate) fn new(has_holes: bool) -> Self {
        Self { files: [(); FILES].map(|()| Possible::new(has_holes)), replaced: 0 }
    }

    pub(crate) fn done(&mut self, n: u64, step: Step) {
        self.files.iter_mut().enumerate().for_each(|(file, possible)| possible.done(file, n, step));
        if matches!(step, Step::Replace) {
            self.replaced = n;
        }
    }

    pub(crate) fn promise(&mut self) {
        self.files.iter_mut().for_each(Possible::promise);
    }
}
