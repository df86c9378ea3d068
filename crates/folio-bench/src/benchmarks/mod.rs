//! The table of benchmarks, by name: the command, `bench all` and the tests go by it.
//!
//! To add a benchmark, write its file with a function `ask`, and add an entry to [`BENCHMARKS`].

mod alloc;
mod between;
mod bringup;
mod coherence;
mod disk;
mod fragment;
mod free;
mod held;
mod hit_ratio;
mod isolation;
mod life;
mod memory;
mod migrate;
mod miss;
mod noise;
mod patch;
mod range;
mod read;
mod remote;
mod sizes;
mod tail;
mod word;
mod write;

#[cfg(test)]
mod tests;

use crate::harness::Benchmark;

/// Every benchmark, in the order of the report.
pub const BENCHMARKS: &[Benchmark] = &[
    Benchmark {
        name: "word",
        about: "take and return a reference, under each scheme",
        case_key: "placement",
        weight: 4,
        ask: word::ask,
    },
    Benchmark {
        name: "between",
        about: "work between taking and returning, before the cache line is lost",
        case_key: "case",
        weight: 2,
        ask: between::ask,
    },
    Benchmark {
        name: "noise",
        about: "stale increments of refused attempts, against the proved bound",
        case_key: "case",
        weight: 2,
        ask: noise::ask,
    },
    Benchmark {
        name: "free",
        about: "the last put of a frame, under each scheme",
        case_key: "case",
        weight: 2,
        ask: free::ask,
    },
    Benchmark {
        name: "alloc",
        about: "allocate and free a block, beside other allocators",
        case_key: "case",
        weight: 2,
        ask: alloc::ask,
    },
    Benchmark {
        name: "bringup",
        about: "time to the first frame of a terabyte, and the metadata touched",
        case_key: "case",
        weight: 1,
        ask: bringup::ask,
    },
    Benchmark {
        name: "life",
        about: "allocate, use and put a frame with a single owner",
        case_key: "case",
        weight: 1,
        ask: life::ask,
    },
    Benchmark {
        name: "migrate",
        about: "move folios under their index, beside a bare copy",
        case_key: "case",
        weight: 1,
        ask: migrate::ask,
    },
    Benchmark {
        name: "fragment",
        about: "whole 2 MiB blocks left after long use, and after compaction",
        case_key: "case",
        weight: 2,
        ask: fragment::ask,
    },
    Benchmark {
        name: "read",
        about: "read bytes again, beside a bare copy and the kernel",
        case_key: "case",
        weight: 3,
        ask: read::ask,
    },
    Benchmark {
        name: "sizes",
        about: "read bytes again by size: optimistic, and by a page handle",
        case_key: "case",
        weight: 2,
        ask: sizes::ask,
    },
    Benchmark {
        name: "range",
        about: "hold a range of a file, beside one large folio and a copy",
        case_key: "case",
        weight: 1,
        ask: range::ask,
    },
    Benchmark {
        name: "write",
        about: "write bytes, beside a bare copy and the kernel",
        case_key: "case",
        weight: 3,
        ask: write::ask,
    },
    Benchmark {
        name: "patch",
        about: "the patch's benchmark: 64 bytes of one file, or of a file per thread",
        case_key: "case",
        weight: 3,
        ask: patch::ask,
    },
    Benchmark {
        name: "disk",
        about: "read what is not in memory, beside the disk alone",
        case_key: "case",
        weight: 3,
        ask: disk::ask,
    },
    Benchmark {
        name: "remote",
        about: "read a distant store, beside the bare store and caches of ranges",
        case_key: "case",
        weight: 4,
        ask: remote::ask,
    },
    Benchmark {
        name: "coherence",
        about: "the word on more cores than this machine has: a model, and a range",
        case_key: "case",
        weight: 1,
        ask: coherence::ask,
    },
    Benchmark {
        name: "fill",
        about: "a miss into free memory, where the read is a memcpy",
        case_key: "case",
        weight: 2,
        ask: miss::ask_fill,
    },
    Benchmark {
        name: "evict",
        about: "a miss that evicts another page",
        case_key: "case",
        weight: 2,
        ask: miss::ask_evict,
    },
    Benchmark {
        name: "isolation",
        about: "a healthy file beside one that hangs, fails, or is slow",
        case_key: "case",
        weight: 3,
        ask: isolation::ask,
    },
    Benchmark {
        name: "tail",
        about: "the slowest of single operations: alone, and in a storm of all others",
        case_key: "case",
        weight: 6,
        ask: tail::ask,
    },
    Benchmark {
        name: "hit-ratio",
        about: "hit ratio by trace and policy",
        case_key: "case",
        weight: 1,
        ask: hit_ratio::ask,
    },
    Benchmark {
        name: "memory",
        about: "resident memory per byte of a cache's capacity",
        case_key: "case",
        weight: 1,
        ask: memory::ask,
    },
];
