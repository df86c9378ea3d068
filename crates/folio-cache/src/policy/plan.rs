//! The plans of the default policy: how it chooses its victims. The trials find out which is best.

/// How victims are chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Plan {
    /// By the queue, which has this share of the frames, and the gate.
    Share(f64),
    /// In the order of the last uses (`hot_cold/last_use.rs`).
    LastUse,
}
