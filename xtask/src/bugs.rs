//! The seeded bugs, and the checks that may catch each.

/// A check that may catch a seeded bug.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Check {
    /// The tests of the word.
    Word,
    /// A kernel's frame table over the word, under loom.
    Loom,
    /// The tests of the frames.
    Frames,
    /// A test program of the cache, or its unit tests: `lib`.
    Cache(&'static str),
    /// The frames under shuttle's schedules.
    FramesShuttle,
    /// The cache under shuttle's schedules.
    CacheShuttle,
    /// The torture run on this checkout.
    Torture,
}

impl Check {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Word => "word",
            Self::Loom => "loom",
            Self::Frames => "frames",
            Self::Cache(test) => test,
            Self::FramesShuttle => "frames-shuttle",
            Self::CacheShuttle => "cache-shuttle",
            Self::Torture => "torture",
        }
    }

    /// Returns cargo's arguments that run the check. A build is optimized where the check needs
    /// many operations.
    pub(crate) fn command(self) -> String {
        match self {
            // Without c_header, in which every change of the word differs from the one in C.
            Self::Word => {
                "test --release -p folio-ref --lib --test limits --test tags --test transitions"
                    .to_owned()
            }
            Self::Loom => "test --release -p folio-ref --test frame_table".to_owned(),
            Self::Frames => "test --release -p folio-frames --lib --tests".to_owned(),
            Self::Cache("lib") => "test -p folio-cache --lib".to_owned(),
            Self::Cache(test) => format!("test -p folio-cache --test {test}"),
            Self::FramesShuttle => "test --release -p folio-frames --test shuttle".to_owned(),
            Self::CacheShuttle => "test --release -p folio-cache --test shuttle".to_owned(),
            Self::Torture => "run --release -p folio -- torture . --seconds 20".to_owned(),
        }
    }

    /// Returns cargo's arguments that build the check.
    pub(crate) fn build(self) -> String {
        match self {
            Self::Torture => "build --quiet --release -p folio".to_owned(),
            _ => format!("{} --no-run --quiet", self.command()),
        }
    }
}

pub(crate) struct Bug {
    pub(crate) name: &'static str,
    pub(crate) breaks: &'static str,
    /// Run in this order until one fails. The fastest comes first.
    pub(crate) caught_by: &'static [Check],
}

/// All seeded bugs. A new one also needs its `broken!("...")` in the code.
pub(crate) const BUGS: &[Bug] = &[
    Bug {
        name: "put-clears-frozen",
        breaks: "R2, R3: a put clears the frozen state it has won",
        caught_by: &[Check::Word, Check::Frames, Check::Torture],
    },
    Bug {
        name: "freed-left-dying",
        breaks: "R1, R3: a freed frame is left Dying",
        caught_by: &[Check::Word, Check::Frames],
    },
    Bug {
        name: "tail-left-live",
        breaks: "R1: a tail is left live",
        caught_by: &[Check::Frames, Check::Torture],
    },
    Bug {
        name: "no-recheck",
        breaks: "R8: a reader does not check the slot again after try_get",
        caught_by: &[Check::FramesShuttle, Check::Frames, Check::Torture],
    },
    Bug {
        name: "early-destructor",
        breaks: "R4: the destructor is chosen before the compare-and-swap",
        caught_by: &[Check::FramesShuttle, Check::Frames, Check::Torture],
    },
    Bug {
        name: "undo-by-subtraction",
        breaks: "R2: a refused try_get takes its increment back",
        caught_by: &[Check::Word, Check::Frames],
    },
    Bug {
        name: "stale-unbounded",
        breaks: "R5: stale increments are never reset",
        caught_by: &[Check::Word],
    },
    Bug {
        name: "count-into-the-bit",
        breaks: "R5: a count does not saturate",
        caught_by: &[Check::Word],
    },
    Bug {
        name: "init-keeps-stale",
        breaks: "R2: stale increments are counted as references",
        caught_by: &[Check::Word, Check::Frames],
    },
    Bug {
        name: "freeze-one-more",
        breaks: "R3: freeze succeeds with one reference more than expected",
        caught_by: &[Check::Word, Check::Frames],
    },
    Bug {
        name: "generation-not-bumped",
        breaks: "R4: a freeze keeps the generation, so a late put wins the next life",
        caught_by: &[Check::Word, Check::Frames],
    },
    Bug {
        name: "claim-keeps-tag",
        breaks: "R3: a claim leaves the tag that it claims, so it excludes no other claim",
        caught_by: &[Check::Word, Check::Loom],
    },
    Bug {
        name: "reset-loses-tag",
        breaks: "R2: a reset of stale increments loses the tag: an owned frame looks unused",
        caught_by: &[Check::Word, Check::Loom],
    },
    Bug {
        name: "table-ends-early",
        breaks: "R4: the frame table takes a frame apart before its last put",
        caught_by: &[Check::Loom],
    },
    Bug {
        name: "table-unique-by-look",
        breaks: "R3, R6: the frame table makes a frame unique by a plain load",
        caught_by: &[Check::Loom],
    },
    Bug {
        name: "table-claims-by-look",
        breaks: "R3: the frame table claims what looks unused",
        caught_by: &[Check::Loom],
    },
    Bug {
        name: "table-opens-early",
        breaks: "R6: the frame table opens a frame before its metadata is built",
        caught_by: &[Check::Loom],
    },
    Bug {
        name: "table-kind-not-checked",
        breaks: "R8: a lookup in the frame table does not check the kind after its try_get",
        caught_by: &[Check::Loom],
    },
    Bug {
        name: "slot-version-not-bumped",
        breaks: "R8: unlocking a slot leaves its version",
        caught_by: &[Check::Frames],
    },
    Bug {
        name: "no-second-load",
        breaks: "R8: an optimistic read returns its copy without checking the slot again",
        caught_by: &[Check::Frames, Check::FramesShuttle],
    },
    Bug {
        name: "head-opened-first",
        breaks: "R8: a split of a multi-slot folio opens its head before its slots change",
        caught_by: &[Check::FramesShuttle],
    },
    Bug {
        name: "read-by-count",
        breaks: "R8: an optimistic read is validated by the count instead of the slot's version",
        caught_by: &[Check::CacheShuttle, Check::Frames],
    },
    Bug {
        name: "leaf-version-forgotten",
        breaks: "R8: slots that are opened again have versions that they had before",
        caught_by: &[Check::Frames, Check::FramesShuttle],
    },
    Bug {
        name: "leaf-closed-in-use",
        breaks: "a leaf is closed though a slot has a page, or a thread that sleeps on it",
        caught_by: &[Check::FramesShuttle, Check::Frames],
    },
    Bug {
        name: "spare-leaf-forgotten",
        breaks: "the memory of a leaf is given back after it was opened again",
        caught_by: &[Check::Frames],
    },
    Bug {
        name: "closed-slot-filled",
        breaks: "a slot without memory takes a page, which is lost",
        caught_by: &[Check::Frames, Check::FramesShuttle],
    },
    Bug {
        name: "absent-slot-filled",
        breaks: "a slot that is absent on purpose takes a page",
        caught_by: &[Check::Frames, Check::FramesShuttle],
    },
    Bug {
        name: "absent-while-pinned",
        breaks: "R3: a slot is made absent although other references to its page exist",
        caught_by: &[Check::Frames],
    },
    Bug {
        name: "write-without-freeze",
        breaks: "R2: a page is written in place without a freeze, although handles may share it",
        caught_by: &[Check::CacheShuttle],
    },
    Bug {
        name: "one-waiter-woken",
        breaks: "a store that wakes a request wakes one of its waiters only",
        caught_by: &[Check::CacheShuttle],
    },
    Bug {
        name: "missed-poll-ignored",
        breaks: "a poll that met another one is not made up for",
        caught_by: &[Check::CacheShuttle],
    },
    Bug {
        name: "last-waiter-leaves",
        breaks: "a request goes on without a waiter, if a driver has it",
        caught_by: &[Check::Cache("distant_background")],
    },
    Bug {
        name: "driver-leaves-silently",
        breaks: "a driver that is dropped does not wake the waiters",
        caught_by: &[Check::CacheShuttle],
    },
    Bug {
        name: "stuck-flight-left",
        breaks: "a request that its task does not poll keeps its permit from others for ever",
        caught_by: &[Check::Cache("held_futures")],
    },
    Bug {
        name: "joined-not-raised",
        breaks: "a reader of high priority that joins a waiting request does not move it forward",
        caught_by: &[Check::Cache("priorities")],
    },
    Bug {
        name: "look-absorbs-flush",
        breaks: "a look at a file that may be deleted absorbs a flush of it",
        caught_by: &[Check::Cache("lib")],
    },
    Bug {
        name: "sleepers-forgotten",
        breaks: "the end of the thread for distant stores leaves requests asleep",
        caught_by: &[Check::Cache("lib")],
    },
    Bug {
        name: "joined-waker-panics",
        breaks: "a waker that panics keeps the others from being woken",
        caught_by: &[Check::Cache("foreign_panics")],
    },
    Bug {
        name: "permit-not-passed-on",
        breaks: "a permit that comes back is not granted to the next in the queue",
        caught_by: &[Check::CacheShuttle],
    },
    Bug {
        name: "threads-unshared",
        breaks: "one file may have all threads, so a sick one takes them from the others",
        caught_by: &[Check::Cache("lib")],
    },
    Bug {
        name: "failed-fill-untold",
        breaks: "the readers that wait for a fill are not told its error, and ask again in turn",
        caught_by: &[Check::Cache("shared_requests")],
    },
    Bug {
        name: "store-takes-all",
        breaks: "a store may have all that may be in flight: one that hangs stops all others",
        caught_by: &[Check::Cache("sick_stores")],
    },
    Bug {
        name: "table-freed-in-use",
        breaks: "the table of an object's requests is freed while one that has left it runs",
        caught_by: &[Check::Cache("distant")],
    },
    Bug {
        name: "stale-publish",
        breaks: "an answer is published though its object was invalidated meanwhile",
        caught_by: &[Check::CacheShuttle],
    },
    Bug {
        name: "versions-mixed",
        breaks: "a read takes an answer of another version than what it has read so far",
        caught_by: &[Check::Cache("invalidated_reads"), Check::CacheShuttle],
    },
    Bug {
        name: "late-version-kept",
        breaks: "the answer to a request for the version is kept though an invalidation came later",
        caught_by: &[Check::Cache("invalidated_reads")],
    },
    Bug {
        name: "order-unknown",
        breaks: "an answer replaces a version that the store told after the request was made",
        caught_by: &[Check::Cache("invalidated_reads")],
    },
    Bug {
        name: "length-before-pages",
        breaks: "writeback loads the length before it pins the pages: appended bytes are lost",
        caught_by: &[Check::Cache("append_order"), Check::CacheShuttle],
    },
    Bug {
        name: "appends-out-of-order",
        breaks: "appended pages are written in any order, so a kill leaves a hole",
        caught_by: &[Check::Cache("crash"), Check::CacheShuttle],
    },
    Bug {
        name: "failed-sync-forgets",
        breaks: "what a failed sync covers is not written again, and the next sync succeeds",
        caught_by: &[Check::Cache("crash"), Check::CacheShuttle],
    },
    Bug {
        name: "close-forgets-unsynced",
        breaks: "a close forgets what is not durable, and a sync after the next open says ok",
        caught_by: &[Check::Cache("failed_syncs")],
    },
    Bug {
        name: "close-unseen-by-open",
        breaks: "an open beside a last close keeps the length from before that",
        caught_by: &[Check::Cache("open_files")],
    },
    Bug {
        name: "length-before-appends",
        breaks: "a file is made longer before what was appended is written",
        caught_by: &[Check::Cache("append_order")],
    },
    Bug {
        name: "gaps-written-again",
        breaks: "after a failed sync, what lies between the bytes that were written is written too",
        caught_by: &[Check::Cache("unsynced_bytes")],
    },
    Bug {
        name: "batch-freed-before-read",
        breaks: "a batch of new pages counts as taken before it is read",
        caught_by: &[Check::CacheShuttle],
    },
    Bug {
        name: "extent-left-to-its-reader",
        breaks: "pages that wait for their reader are never filled if it does not come",
        caught_by: &[Check::Cache("lib")],
    },
    Bug {
        name: "extent-left-by-the-last-thread",
        breaks: "pages that wait for their reader lose the thread that would fill them otherwise",
        caught_by: &[Check::Cache("lib")],
    },
    Bug {
        name: "freed-before-report",
        breaks: "a large folio is freed before the policy is informed that its pages went",
        caught_by: &[Check::CacheShuttle],
    },
    Bug {
        name: "clean-before-written",
        breaks: "pages count as clean before they are written: a sync beside that returns early",
        caught_by: &[Check::Cache("crash")],
    },
    Bug {
        name: "older-sync-shared",
        breaks: "a sync shares one that began before its bytes were written",
        caught_by: &[Check::Cache("crash")],
    },
    Bug {
        name: "older-search-shared",
        breaks: "a call fails because of a search for memory that began before the call",
        caught_by: &[Check::Cache("lib")],
    },
    Bug {
        name: "last-page-whole",
        breaks: "the last page is written whole, so the file is longer than its bytes",
        caught_by: &[Check::Cache("crash")],
    },
    Bug {
        name: "truncated-tail-kept",
        breaks: "bytes past the end of a truncated page stay, and return with a longer file",
        caught_by: &[Check::Cache("crash")],
    },
    Bug {
        name: "drop-without-write",
        breaks: "the last drop of a file writes nothing",
        caught_by: &[Check::Cache("crash")],
    },
    Bug {
        name: "flusher-idle",
        breaks: "the flusher writes nothing",
        caught_by: &[Check::Cache("crash")],
    },
    Bug {
        name: "lists-published-late",
        breaks: "frames that move to the lists of a CPU are counted nowhere for a moment",
        caught_by: &[Check::FramesShuttle],
    },
    Bug {
        name: "holes-freed",
        breaks: "R1: the holes of a memory map come online",
        caught_by: &[Check::Frames],
    },
    Bug {
        name: "table-not-asked",
        breaks: "a walker reads the metadata of a block that has none",
        caught_by: &[Check::Frames],
    },
    Bug {
        name: "lock-never-handed",
        breaks: "a lock is not handed over to a thread that has slept for long",
        caught_by: &[Check::Frames],
    },
    Bug {
        name: "zone-of-another-load",
        breaks: "R8: zone and folio of a lookup come from two loads of the slot",
        caught_by: &[Check::FramesShuttle],
    },
    Bug {
        name: "metadata-zeroed",
        breaks: "R7: metadata is zeroed when a block goes offline",
        caught_by: &[Check::Frames],
    },
    Bug {
        name: "many-counted-once",
        breaks: "a drop of many references puts as many as one atomic operation takes",
        caught_by: &[Check::Frames],
    },
    Bug {
        name: "volatile-walked",
        breaks: "a walk shows bytes as a slice that others change",
        caught_by: &[Check::Frames],
    },
    Bug {
        name: "fork-looks-first",
        breaks: "a fork looks for pins before it makes the entry read-only",
        caught_by: &[Check::FramesShuttle],
    },
    Bug {
        name: "lent-twice",
        breaks: "two threads that move one page share its references, and mix them up",
        caught_by: &[Check::FramesShuttle],
    },
    Bug {
        name: "pin-not-rechecked",
        breaks: "R8: a pin keeps the page that it got without checking the entry again",
        caught_by: &[Check::FramesShuttle],
    },
    Bug {
        name: "pressure-outgrows-the-user",
        breaks: "memory pressure looks at the user's capacity before it has the lock",
        caught_by: &[Check::CacheShuttle],
    },
];
