//! Tracepoints: a platform that wants to know is told of every transition of a frame.
//!
//! [`Platform::trace`](crate::Platform::trace) is a function of the platform, so it is chosen when
//! the program is compiled. Its default does nothing and is inlined: the frame's number, which only
//! a closure would make, is never made, and nothing is left in the machine code: `cargo x
//! tracepoints` holds it against a copy without hooks. Tried instead: a pointer to a function,
//! which costs a load and a branch at each transition.
//!
//! ```text
//!   Allocated ──▶ Opened ──▶ Got, Shared, Put ... ──▶ Dying ──▶ Ended ──▶ Freed
//!       ▲           ▲                                   │
//!       │           └── Frozen, if nobody else held it  └──▶ Revived
//! ```
//!
//! It runs wherever the transition happens, now and then under the zone's lock: it must not block,
//! nor call back.

/// What happened to a frame, the head of its block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// It left the free lists, as a token.
    Allocated,
    /// A token's holder opened it: frozen → live.
    Opened,
    /// A lookup or a walk took a reference.
    Got,
    /// A lookup or a walk was refused: frozen, free, a tail, not there.
    Refused,
    /// A reference was taken, but the frame was another by then, and it goes back (R8).
    Moved,
    /// A holder took another reference.
    Shared,
    /// References went, and were not the last.
    Put,
    /// The last reference went: the second step is still to come.
    Dying,
    /// The second step lost: a lookup revived it, or another put ended it.
    Revived,
    /// The second step won: live → frozen, its destructor comes next.
    Ended,
    /// Somebody who held all references froze it.
    Frozen,
    /// Somebody who did not hold all references tried to.
    Busy,
    /// Its block was cut into parts; told of each part.
    Split,
    /// Its contents moved here.
    MigratedHere,
    /// It came to the free lists.
    Freed,
    /// Its block of 2 MiB was brought online; told of the first frame.
    Online,
    /// Its block of 2 MiB went offline; told of the first frame.
    Offline,
}
