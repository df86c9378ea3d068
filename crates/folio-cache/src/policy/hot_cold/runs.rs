//! Runs: pages of a distant store that one request brought, one behind the other, are judged alike.
//!
//! Their next reader will want them together. If each page were judged alone, a part of a run would
//! leave and the rest would stay. That reader would send a request for each gap, and the pages of
//! the gaps would be younger than the others from then on. So the pieces would become ever more.
//! Three decisions are made for a run, not for a page:
//!
//! - the gate's: a page that comes behind another one of its file becomes hot, or waits in the
//!   queue, like that one;
//! - the hot clock's: the pages that follow one that becomes cold become cold with it, up to one
//!   that was used;
//! - the choice of victims: the pages that follow the last victim are named too, up to one that
//!   was used.

/// The run that came last, and the pages that became cold with their run.
#[derive(Debug, Default)]
pub(super) struct Runs {
    /// The page behind the one that came last, and the answer for that.
    next: u64,
    is_hot: bool,
    /// The number of pages that may still have that answer.
    left: u32,
    /// The number of pages that became cold with another one, less those that became hot since.
    beyond: u32,
}

impl Runs {
    /// Returns the answer for a page, if it follows the one that came last.
    pub(super) fn answer(&self, page: u64) -> Option<bool> {
        (self.left > 0 && self.next == page).then_some(self.is_hot)
    }

    /// Notes the answer for a page of a run, that of the page before if `is_like_last`. At most
    /// `most` pages have it.
    pub(super) fn note(&mut self, page: u64, is_hot: bool, is_like_last: bool, most: u32) {
        let left = if is_like_last { self.left - 1 } else { most };
        (self.next, self.is_hot, self.left) = (page.wrapping_add(1), is_hot, left);
    }

    /// Returns the number of pages that became cold before they had to. Their frames are for pages
    /// that are found used, not for those that come.
    pub(super) fn beyond(&self) -> u32 {
        self.beyond
    }

    /// Notes that a page became cold with the one before it.
    pub(super) fn note_cold(&mut self) {
        self.beyond += 1;
    }

    /// Notes that a page became hot.
    pub(super) fn note_hot(&mut self) {
        self.beyond = self.beyond.saturating_sub(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_behind_the_last_has_its_answer() {
        let mut runs = Runs::default();
        assert_eq!(runs.answer(0), None, "nothing came");
        runs.note(7, true, false, 2);
        assert_eq!((runs.answer(8), runs.answer(9)), (Some(true), None));
        runs.note(8, true, true, 2);
        runs.note(9, true, true, 2);
        assert_eq!(runs.answer(10), None, "two pages had the answer");
        runs.note(10, false, false, 2);
        assert_eq!(runs.answer(11), Some(false));
    }
}
