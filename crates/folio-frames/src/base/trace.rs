//! Tracepoints: a platform can receive every transition of a frame.
//!
//! [`Platform::trace`](crate::Platform::trace) is a function of the platform, so it is chosen when
//! the program is compiled. Its default does nothing and is inlined. The frame number, which only a
//! closure would compute, is never computed, and nothing is left in the machine code: `cargo x
//! tracepoints` compares it with a copy without hooks. A pointer to a function would cost a load
//! and a branch at each transition.
//!
//! ```text
//!   Allocated ──▶ Opened ──▶ Got, Shared, Put ... ──▶ Dying ──▶ Ended ──▶ Freed
//!       ▲           ▲                                   │
//!       │           └── Frozen, if no other reference   └──▶ Revived
//! ```
//!
//! The hook runs where the transition happens, sometimes under the zone's lock: it must not block,
//! and it must not call back.

/// A transition of a frame, the head of its block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Event {
    /// It left the free lists, as an exclusive handle.
    Allocated,
    /// Its exclusive handle opened it: frozen → live.
    Opened,
    /// A lookup or a walk took a reference.
    Got,
    /// A lookup or a walk was refused: it is frozen, free, a tail, or offline.
    Refused,
    /// A reference was taken, but the frame had changed by then: the reference goes back (R8).
    Moved,
    /// A pin owner took another reference.
    Shared,
    /// References ended, and were not the last.
    Put,
    /// The last reference ended. The second step is still to come.
    Dying,
    /// The second step lost: a lookup revived it, or another put ended it.
    Revived,
    /// The second step won: live → frozen. Its destructor comes next.
    Ended,
    /// The owner of all references froze it.
    Frozen,
    /// A freeze failed: other references exist.
    Busy,
    /// Its block was split. Reported for each piece.
    Split,
    /// The contents of another frame moved here.
    MigratedHere,
    /// It returned to the free lists.
    Freed,
    /// Its 2 MiB block came online. Reported for the first frame.
    Online,
    /// Its 2 MiB block went offline. Reported for the first frame.
    Offline,
}
