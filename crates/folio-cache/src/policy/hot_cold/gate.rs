//! The memory of the gate: one answer for a run of pages.
//!
//! The gate compares a page that returns with the hot page at the hand, and a run of pages meets
//! many of those. If each page had its own answer, a part of a run would become hot, in pieces. Its
//! next reader would miss the rest, in as many requests as there are pieces.

/// The run of pages that the gate refused last.
#[derive(Debug, Default)]
pub(super) struct Gate {
    /// The page behind it, and the time at which its first page was last used.
    refused: Option<(u64, u16)>,
}

impl Gate {
    /// Returns the time of the first page refused, if a page with the time of its last use follows
    /// those refused last, and was used at about that time: it is refused as well.
    pub(super) fn run_before(&self, page: u64, time: u16) -> Option<u16> {
        let is_near = |other: u16| time.wrapping_sub(other).min(other.wrapping_sub(time)) <= 1;
        self.refused.filter(|&(next, first)| next == page && is_near(first)).map(|(_, first)| first)
    }

    /// Notes the answer for a page, with the time of the first page of its run.
    pub(super) fn note(&mut self, page: u64, first: u16, passes: bool) {
        self.refused = (!passes).then_some((page.wrapping_add(1), first));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Asks the gate for a page, as the policy does.
    fn ask(gate: &mut Gate, page: u64, time: u16, opens: bool) -> bool {
        let run = gate.run_before(page, time);
        let passes = run.is_none() && opens;
        gate.note(page, run.unwrap_or(time), passes);
        passes
    }

    #[test]
    fn a_run_behind_a_refused_page_is_refused() {
        let mut gate = Gate::default();
        let mut ask = |page, time, opens| ask(&mut gate, page, time, opens);
        assert!(!ask(7, 100, false));
        assert!(!ask(8, 101, true) && !ask(9, 99, true), "they follow page 7");
        assert!(ask(10, 102, true), "it was used at another time");
        assert!(ask(11, 102, true), "nothing is refused before it");
        assert!(!ask(20, u16::MAX, false));
        assert!(ask(22, u16::MAX, true), "page 21 did not return");
        assert!(!ask(30, u16::MAX, false) && !ask(31, 0, true), "the clock wraps");
    }
}
