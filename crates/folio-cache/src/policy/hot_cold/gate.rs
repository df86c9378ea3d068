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
    /// Asks the gate for a page with the time of its last use. Returns `false` for a page behind
    /// those refused last that was used at about the time of their first one, otherwise what
    /// `opens` returns.
    pub(super) fn ask(&mut self, page: u64, time: u16, opens: impl FnOnce() -> bool) -> bool {
        let is_near = |other: u16| time.wrapping_sub(other).min(other.wrapping_sub(time)) <= 1;
        let run = self.refused.filter(|&(next, first)| next == page && is_near(first));
        let passes = run.is_none() && opens();
        let first = run.map_or(time, |(_, first)| first);
        self.refused = (!passes).then_some((page.wrapping_add(1), first));
        passes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_behind_a_refused_page_is_refused() {
        let mut gate = Gate::default();
        assert!(!gate.ask(7, 100, || false));
        assert!(!gate.ask(8, 101, || true) && !gate.ask(9, 99, || true), "they follow page 7");
        assert!(gate.ask(10, 102, || true), "it was used at another time");
        assert!(gate.ask(11, 102, || true), "nothing is refused before it");
        assert!(!gate.ask(20, u16::MAX, || false));
        assert!(gate.ask(22, u16::MAX, || true), "page 21 did not return");
        assert!(!gate.ask(30, u16::MAX, || false) && !gate.ask(31, 0, || true), "the clock wraps");
    }
}
