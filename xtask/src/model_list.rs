//! The configurations in which the models are checked.

/// The outcome that a configuration must have.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Must {
    /// No assertion fails in any state.
    Hold,
    /// An assertion fails: a model that cannot fail proves nothing.
    Fail,
}

pub(crate) struct Config {
    pub(crate) rules: &'static str,
    pub(crate) what: &'static str,
    pub(crate) flags: &'static str,
    pub(crate) must: Must,
    /// Takes minutes, so it needs `--all`.
    pub(crate) long: bool,
}

const fn holds(rules: &'static str, what: &'static str, flags: &'static str) -> Config {
    Config { rules, what, flags, must: Must::Hold, long: false }
}

const fn long(rules: &'static str, what: &'static str, flags: &'static str) -> Config {
    Config { rules, what, flags, must: Must::Hold, long: true }
}

const fn broken(rules: &'static str, what: &'static str, flags: &'static str) -> Config {
    Config { rules, what, flags, must: Must::Fail, long: false }
}

/// All configurations. Each model explains its flags at its top.
pub(crate) const CONFIGS: [Config; 124] = [
    holds(
        "R1-R4 R6-R8",
        "zero-frozen",
        "SCHEME=0 WALKERS=2 ALLOCATORS=1 FREEZERS=1 OFFLINERS=1 VIEWS",
    ),
    holds("R1-R8", "frozen-bit", "SCHEME=1 WALKERS=2 ALLOCATORS=1 FREEZERS=1 OFFLINERS=1 VIEWS"),
    holds("R1-R8", "live-bit-high", "SCHEME=2 WALKERS=2 ALLOCATORS=1 FREEZERS=1 OFFLINERS=1 VIEWS"),
    holds("R1-R8", "live-bit-low", "SCHEME=3 WALKERS=2 ALLOCATORS=1 FREEZERS=1 OFFLINERS=1 VIEWS"),
    holds("R1-R8", "generational", "SCHEME=4 WALKERS=2 ALLOCATORS=1 FREEZERS=1 OFFLINERS=1 VIEWS"),
    holds("R1-R6", "tagged", "SCHEME=5 WALKERS=1 ALLOCATORS=2 FREEZERS=1 VIEWS"),
    holds(
        "R1 R2 R4",
        "reuse by two allocators, 3 lifetimes",
        "SCHEME=2 WALKERS=2 ALLOCATORS=2 LIVES=3",
    ),
    holds("R1 R2 R4", "the same, generational", "SCHEME=4 WALKERS=2 ALLOCATORS=2 LIVES=3"),
    holds(
        "R4",
        "a generation of one bit wraps: the kind read late is still right",
        "SCHEME=4 GB=1 WALKERS=2 ALLOCATORS=2 LIVES=4",
    ),
    holds(
        "R1 R2",
        "tails and split, frozen-bit",
        "SCHEME=1 FRAMES=2 WALKERS=2 ALLOCATORS=1 LIVES=3",
    ),
    holds(
        "R1 R2",
        "tails and split, generational",
        "SCHEME=4 FRAMES=2 WALKERS=2 ALLOCATORS=1 LIVES=3",
    ),
    holds(
        "R8",
        "migration under readers, live-bit-high",
        "SCHEME=2 FRAMES=2 READERS=2 MIGRATORS=1 GETS=2",
    ),
    holds(
        "R8",
        "migration under readers, generational",
        "SCHEME=4 FRAMES=2 READERS=2 MIGRATORS=1 GETS=2",
    ),
    holds(
        "R8",
        "migration while the other frame is allocated and walked",
        "SCHEME=4 FRAMES=2 READERS=1 WALKERS=1 MIGRATORS=1 ALLOCATORS=1 LIVES=3",
    ),
    holds(
        "R7",
        "zeroed metadata under a late put, zero-frozen",
        "SCHEME=0 WALKERS=2 ALLOCATORS=1 OFFLINERS=1 ZEROED",
    ),
    holds("R7", "the same, live-bit-high", "SCHEME=2 WALKERS=2 ALLOCATORS=1 OFFLINERS=1 ZEROED"),
    holds("R7", "the same, live-bit-low", "SCHEME=3 WALKERS=2 ALLOCATORS=1 OFFLINERS=1 ZEROED"),
    holds("R7", "the same, generational", "SCHEME=4 WALKERS=2 ALLOCATORS=1 OFFLINERS=1 ZEROED"),
    holds("R5", "stale increments, frozen-bit", "SCHEME=1 WALKERS=2 ALLOCATORS=1 GETS=5 LIM=2"),
    holds("R5", "stale increments, live-bit-high", "SCHEME=2 WALKERS=2 ALLOCATORS=1 GETS=5 LIM=2"),
    holds("R5", "stale increments, live-bit-low", "SCHEME=3 WALKERS=2 ALLOCATORS=1 GETS=5 LIM=2"),
    holds("R5", "stale increments, generational", "SCHEME=4 WALKERS=2 ALLOCATORS=1 GETS=5 LIM=2"),
    holds("R2 R5", "stale increments, tagged", "SCHEME=5 WALKERS=1 ALLOCATORS=2 GETS=4 LIM=2"),
    holds("R5", "saturation, zero-frozen", "SCHEME=0 HOARDERS=2 WALKERS=1 GETS=5"),
    holds("R5", "saturation, frozen-bit", "SCHEME=1 HOARDERS=2 WALKERS=1 GETS=5"),
    holds("R5", "saturation, generational", "SCHEME=4 HOARDERS=2 WALKERS=1 GETS=5"),
    holds(
        "R8",
        "an optimistic read, validated by the generation",
        "SCHEME=4 WALKERS=1 ALLOCATORS=1 FREEZERS=1 UNCOUNTED=1",
    ),
    holds(
        "R8",
        "4 readers of one index, 3 lifetimes",
        "SCHEME=4 FRAMES=2 READERS=4 MIGRATORS=1 LIVES=3",
    ),
    holds(
        "R7",
        "3 walkers and an offliner, frozen-bit",
        "SCHEME=1 WALKERS=3 ALLOCATORS=1 OFFLINERS=1 LIVES=3",
    ),
    holds("R8", "an optimistic read of a slot", "SLOT READERS=1 CHANGES=3"),
    holds("R8", "the same, by two readers", "SLOT READERS=2 CHANGES=2"),
    holds(
        "R2 R8",
        "the same, and a handle with stable bytes",
        "SLOT READERS=1 HOLDERS=1 CHANGES=3",
    ),
    holds("R8", "the length of a file, and a read of its last page", "LENGTH CHANGES=2 FILLS=2"),
    holds("R8", "the same, with writes by two", "LENGTH CHANGES=2 FILLS=1 FILLERS=2 WRITES"),
    long("R8", "the same, three changes", "LENGTH CHANGES=3 FILLS=2 WRITES"),
    holds("-", "a shared request: a waiter stays, one leaves", "FLIGHT STAYERS=1 LEAVERS=1"),
    holds("-", "a shared request: two waiters stay", "FLIGHT STAYERS=2 LEAVERS=0"),
    holds(
        "-",
        "a shared request: a driver, and a waiter that leaves the polls to it",
        "FLIGHT STAYERS=1 LEAVERS=0 DRIVERS=1 DRIVEN",
    ),
    holds(
        "-",
        "a shared request: a detached waiter joins, an invalidation",
        "FLIGHT STAYERS=1 LEAVERS=0 DETACHED=1 INVALIDATES",
    ),
    holds(
        "-",
        "a shared request: all leave, an invalidation",
        "FLIGHT STAYERS=0 LEAVERS=1 DETACHED=1 INVALIDATES",
    ),
    holds(
        "-",
        "versions: two reads, an invalidation",
        "VERSION CHANGES=1 READERS=2 INVALIDATIONS=1 FLIGHTS=3",
    ),
    holds(
        "-",
        "versions: two reads, a revalidation",
        "VERSION CHANGES=1 READERS=2 REVALIDATIONS=1 FLIGHTS=3",
    ),
    holds(
        "-",
        "versions: two changes, a request for the length",
        "VERSION CHANGES=2 READERS=1 INVALIDATIONS=1 LENGTHS=1 FLIGHTS=5",
    ),
    holds(
        "-",
        "versions: no change, three invalidations",
        "VERSION CHANGES=0 READERS=1 INVALIDATIONS=3 FLIGHTS=6",
    ),
    long("-", "a shared request: one stays, two leave", "FLIGHT STAYERS=1 LEAVERS=2"),
    long(
        "-",
        "a shared request: two that leave the polls to a driver",
        "FLIGHT STAYERS=2 LEAVERS=0 DRIVERS=1 DRIVEN",
    ),
    holds(
        "R1-R3 R8",
        "subpages: a reader, and two threads that split and join",
        "PARTS READERS=1 CHANGERS=2 CHANGES=4",
    ),
    holds("R1-R3 R8", "subpages: two readers", "PARTS READERS=2 CHANGES=4"),
    holds(
        "R1-R3 R8",
        "subpages: a frame beside the folio",
        "PARTS READERS=1 CHANGERS=2 CHANGES=3 SPARES=1",
    ),
    holds("R1-R3 R8", "subpages: frames go to another file", "PARTS READERS=1 CHANGES=5 OTHERS=1"),
    holds("R1-R3 R8", "subpages: a walker", "PARTS WALKERS=1 CHANGERS=2 CHANGES=3"),
    holds("R8", "subpages: an optimistic read", "PARTS UNCOUNTED=1 CHANGES=4 OTHERS=1"),
    holds("R1-R3 R8", "subpages: four frames", "PARTS ORDER=2 READERS=1 CHANGERS=2 CHANGES=3"),
    long(
        "R1-R3 R8",
        "subpages: four frames and one beside",
        "PARTS ORDER=2 READERS=1 CHANGERS=2 CHANGES=4 SPARES=1",
    ),
    long(
        "R1-R3 R8",
        "subpages: four frames, two readers",
        "PARTS ORDER=2 READERS=2 CHANGERS=2 CHANGES=3",
    ),
    long(
        "R1-R3 R8",
        "subpages: a walker and a reader",
        "PARTS WALKERS=1 READERS=1 CHANGERS=2 CHANGES=3 SPARES=1",
    ),
    long("R1-R5 R7 R8", "4 walkers, 3 lifetimes", "SCHEME=4 WALKERS=4 ALLOCATORS=1 LIVES=3"),
    long(
        "R1-R8",
        "3 walkers, 2 allocators, 1 freezer",
        "SCHEME=4 WALKERS=3 ALLOCATORS=2 FREEZERS=1 LIVES=3",
    ),
    broken(
        "R4",
        "destructor chosen before the compare-and-swap",
        "SCHEME=1 WALKERS=2 ALLOCATORS=1 LIVES=3 EARLY",
    ),
    broken("R2", "undo by subtraction", "SCHEME=1 WALKERS=2 ALLOCATORS=1 LIVES=3 UNDO_SUB"),
    broken(
        "R6",
        "relaxed compare-and-swap in put",
        "SCHEME=1 WALKERS=2 ALLOCATORS=1 VIEWS RELAXED_CAS",
    ),
    broken("R6", "release dropped from put", "SCHEME=1 WALKERS=2 ALLOCATORS=1 VIEWS RELAXED_PUT"),
    broken(
        "R6",
        "acquire dropped from try_get",
        "SCHEME=1 WALKERS=2 ALLOCATORS=1 VIEWS RELAXED_GET",
    ),
    broken(
        "R6",
        "acquire dropped from freeze",
        "SCHEME=1 WALKERS=2 ALLOCATORS=1 FREEZERS=1 VIEWS RELAXED_FREEZE",
    ),
    broken(
        "R6",
        "release dropped from unfreeze",
        "SCHEME=1 WALKERS=2 ALLOCATORS=1 VIEWS RELAXED_INIT",
    ),
    broken(
        "R6",
        "acquire dropped from a claim",
        "SCHEME=5 WALKERS=1 ALLOCATORS=2 VIEWS RELAXED_CLAIM",
    ),
    broken(
        "R6",
        "release dropped from leaving a frame under a tag",
        "SCHEME=5 WALKERS=1 ALLOCATORS=2 VIEWS RELAXED_LEAVE",
    ),
    broken(
        "R3",
        "a claim keeps the tag that it claims",
        "SCHEME=5 WALKERS=1 ALLOCATORS=2 CLAIM_KEEPS",
    ),
    broken(
        "R2",
        "a reset of stale increments loses the tag",
        "SCHEME=5 WALKERS=1 ALLOCATORS=2 GETS=3 LIM=2 RESET_LOSES",
    ),
    broken("R1 R3", "freed frame left Dying", "SCHEME=1 WALKERS=2 ALLOCATORS=1 FREED_DYING"),
    broken(
        "R2 R3",
        "put clears the frozen state that it won",
        "SCHEME=1 WALKERS=2 ALLOCATORS=1 PUT_CLEARS",
    ),
    broken("R1", "tail left live", "SCHEME=1 FRAMES=2 WALKERS=1 ALLOCATORS=1 TAIL_LIVE"),
    broken(
        "R8",
        "slot not checked again after try_get",
        "SCHEME=1 WALKERS=2 ALLOCATORS=1 NO_RECHECK",
    ),
    broken(
        "R2",
        "init by a read-modify-write that keeps stale increments",
        "SCHEME=1 WALKERS=2 ALLOCATORS=1 INIT_RMW",
    ),
    broken(
        "R7",
        "metadata zeroed under frozen-bit",
        "SCHEME=1 WALKERS=2 ALLOCATORS=1 OFFLINERS=1 ZEROED",
    ),
    broken(
        "R3",
        "freeze expects one reference too many",
        "SCHEME=1 WALKERS=2 ALLOCATORS=1 FREEZERS=1 FREEZE_OFF",
    ),
    broken(
        "R8",
        "generation not bumped",
        "SCHEME=4 WALKERS=1 ALLOCATORS=1 FREEZERS=1 UNCOUNTED=1 NOT_BUMPED",
    ),
    broken(
        "R8",
        "an optimistic read, validated by the count",
        "SCHEME=4 WALKERS=1 ALLOCATORS=1 FREEZERS=1 UNCOUNTED=1 BY_COUNT",
    ),
    broken("R8", "slot: version not bumped", "SLOT NOT_BUMPED"),
    broken("R8", "slot: version of one bit", "SLOT VB=1 CHANGES=4"),
    broken("R8", "slot: no second load", "SLOT NO_SECOND"),
    broken("R8", "slot: only the frame compared", "SLOT BY_FRAME"),
    broken("R8", "slot: read while locked", "SLOT READ_CLAIMED"),
    broken("R2", "slot: written in place without a freeze", "SLOT HOLDERS=1 NOT_FROZEN"),
    broken("R8", "slot: no fence before the writer's bytes", "SLOT LATE_CLAIM"),
    broken("R8", "slot: no fence after the reader's copy", "SLOT EARLY_SECOND"),
    broken("R8", "length: loaded before the slot", "LENGTH CHANGES=2 FILLS=1 LENGTH_FIRST"),
    broken("R8", "length: truncates not counted", "LENGTH CHANGES=2 FILLS=1 NO_CUTS"),
    broken(
        "R8",
        "length: truncates counted, the length loaded once",
        "LENGTH CHANGES=2 FILLS=1 COUNT_ALONE",
    ),
    broken("R8", "length: shorter after the pages went", "LENGTH CHANGES=3 FILLS=1 CUT_LATE"),
    broken(
        "R8",
        "length: longer before the old last page went",
        "LENGTH CHANGES=3 FILLS=2 GROWN_EARLY",
    ),
    broken(
        "R8",
        "length: the backing's stored before the file's",
        "LENGTH CHANGES=2 FILLS=1 BACKED_EARLY",
    ),
    broken("R8", "length: a relaxed store", "LENGTH CHANGES=2 FILLS=1 RELAXED_LENGTH"),
    broken("R8", "length: no fence in a fill", "LENGTH CHANGES=2 FILLS=1 NO_FILL_FENCE"),
    broken("R8", "length: no fence in a truncate", "LENGTH CHANGES=2 FILLS=1 NO_CUT_FENCE"),
    broken("R8", "length: no fence in a write", "LENGTH CHANGES=2 FILLS=1 WRITES NO_WRITE_FENCE"),
    broken(
        "R8",
        "length: the last page stays when it is dirty",
        "LENGTH CHANGES=3 FILLS=2 WRITES DIRTY_STAYS",
    ),
    broken(
        "R8",
        "subpages: the head opens before the slots name their frames",
        "PARTS READERS=1 CHANGES=1 HEAD_FIRST",
    ),
    broken("R8", "subpages: slot not checked again", "PARTS READERS=1 NO_RECHECK"),
    broken(
        "R8",
        "subpages: the second check leaves out the order",
        "PARTS READERS=1 CHANGES=2 RECHECK_FRAME_ONLY",
    ),
    broken(
        "R3",
        "subpages: a split expects one reference too many",
        "PARTS READERS=1 CHANGES=2 SPLIT_ONE_MORE",
    ),
    broken(
        "R3",
        "subpages: a split without one of the locks",
        "PARTS CHANGERS=2 CHANGES=2 SPLIT_SKIPS_CLAIM",
    ),
    broken(
        "R3",
        "subpages: a frame that its slot left is opened",
        "PARTS CHANGES=2 SPLIT_KEEPS_LEFT",
    ),
    broken(
        "R2",
        "subpages: slots are ended before the head opens",
        "PARTS CHANGERS=2 JOIN_SLOTS_FIRST",
    ),
    broken(
        "R3",
        "subpages: the head opens with one reference too few",
        "PARTS CHANGES=2 JOIN_ONE_LESS",
    ),
    broken("R3", "subpages: one subpage is frozen", "PARTS READERS=1 CHANGES=2 FREEZE_PART"),
    broken("R8", "subpages: version not bumped", "PARTS UNCOUNTED=1 CHANGES=2 NOT_BUMPED"),
    broken("-", "versions: a change counted twice", "VERSION READERS=2 TWO_STEPS"),
    broken("-", "versions: not compared", "VERSION INVALIDATIONS=1 MIXED"),
    broken(
        "-",
        "versions: a stale answer is kept",
        "VERSION READERS=2 INVALIDATIONS=1 FLIGHTS=3 STALE_KEPT",
    ),
    broken(
        "-",
        "versions: a late answer replaces what is known",
        "VERSION READERS=2 REVALIDATIONS=1 FLIGHTS=3 ORDER_UNKNOWN",
    ),
    broken(
        "-",
        "versions: an old request is joined",
        "VERSION READERS=2 REVALIDATIONS=1 FLIGHTS=3 OLD_JOINED",
    ),
    broken("-", "versions: a late length is kept", "VERSION REVALIDATIONS=1 LENGTHS=1 LATE_LENGTH"),
    broken(
        "-",
        "versions: stale answers are lost",
        "VERSION CHANGES=0 INVALIDATIONS=2 ANSWERS_LOST",
    ),
    broken("-", "request: one waiter is woken", "FLIGHT ONE_WOKEN"),
    broken("-", "request: a fruitless poll leaves no mark", "FLIGHT MARK_LATE"),
    broken("-", "request: the mark is ignored", "FLIGHT MISSED_IGNORED"),
    broken(
        "-",
        "request: a driver leaves silently",
        "FLIGHT LEAVERS=0 DRIVERS=1 DRIVEN DRIVER_SILENT",
    ),
    broken("-", "request: the last waiter cancels nothing", "FLIGHT STAYERS=0 LAST_STAYS"),
    broken("-", "request: a result without a waiter", "FLIGHT STAYERS=0 DRIVERS=1 RESULT_KEPT"),
    broken("-", "request: polled without its lock", "FLIGHT STAYERS=2 LEAVERS=0 UNLOCKED_EARLY"),
    broken("-", "request: a cancelled one is joined", "FLIGHT STAYERS=2 LEAVERS=0 JOINS_CANCELLED"),
    broken(
        "R5",
        "live count runs into the bit",
        "SCHEME=1 CB=3 HOARDERS=2 WALKERS=1 GETS=12 NO_SATURATION",
    ),
    broken(
        "R5",
        "one attempt to reset stale increments instead of a loop",
        "SCHEME=2 WALKERS=3 ALLOCATORS=1 GETS=5 LIM=2 RESET_ONCE",
    ),
];
