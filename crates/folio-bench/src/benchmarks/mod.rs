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
mod hit_ratio;
mod life;
mod memory;
mod migrate;
mod miss;
mod noise;
mod patch;
mod range;
mod read;
mod sizes;
mod word;
mod write;

#[cfg(test)]
mod tests;

use crate::harness::Benchmark;

/// Every benchmark, in the order of the report.
pub const BENCHMARKS: &[Benchmark] = &[
    Benchmark {
        name: "word",
        about: "what taking and returning a reference costs, under each scheme",
        case_key: "placement",
        weight: 4,
        ask: word::ask,
    },
    Benchmark {
        name: "between",
        about: "what may stand between taking and returning, before the line is lost",
        case_key: "case",
        weight: 2,
        ask: between::ask,
    },
    Benchmark {
        name: "noise",
        about: "how far refused increments pile up, against the proved bound",
        case_key: "case",
        weight: 2,
        ask: noise::ask,
    },
    Benchmark {
        name: "free",
        about: "what the last put costs, under each scheme",
        case_key: "case",
        weight: 2,
        ask: free::ask,
    },
    Benchmark {
        name: "alloc",
        about: "what allocating and freeing a block costs, beside other allocators",
        case_key: "case",
        weight: 2,
        ask: alloc::ask,
    },
    Benchmark {
        name: "bringup",
        about: "how long it takes until the first frame of a terabyte can be used, and what is touched",
        case_key: "case",
        weight: 1,
        ask: bringup::ask,
    },
    Benchmark {
        name: "life",
        about: "what a frame costs that is allocated, used and put by its only holder",
        case_key: "case",
        weight: 1,
        ask: life::ask,
    },
    Benchmark {
        name: "migrate",
        about: "how fast folios move under their index, beside a bare copy",
        case_key: "case",
        weight: 1,
        ask: migrate::ask,
    },
    Benchmark {
        name: "fragment",
        about: "how many whole 2 MiB blocks are left after long use, and what compaction brings",
        case_key: "case",
        weight: 2,
        ask: fragment::ask,
    },
    Benchmark {
        name: "read",
        about: "what reading bytes again costs, beside a bare copy and the kernel",
        case_key: "case",
        weight: 3,
        ask: read::ask,
    },
    Benchmark {
        name: "sizes",
        about: "what reading so many bytes again costs, without a reference and by a handle",
        case_key: "case",
        weight: 2,
        ask: sizes::ask,
    },
    Benchmark {
        name: "range",
        about: "what holding a range of a file without a copy costs, beside one large folio and a copy",
        case_key: "case",
        weight: 1,
        ask: range::ask,
    },
    Benchmark {
        name: "write",
        about: "what writing bytes costs, beside a bare copy and the kernel",
        case_key: "case",
        weight: 3,
        ask: write::ask,
    },
    Benchmark {
        name: "patch",
        about: "the patch's own benchmark: 64 bytes of one file, or of a file each, by all threads",
        case_key: "case",
        weight: 3,
        ask: patch::ask,
    },
    Benchmark {
        name: "disk",
        about: "how fast what is not in memory is read, beside the disk alone",
        case_key: "case",
        weight: 3,
        ask: disk::ask,
    },
    Benchmark {
        name: "coherence",
        about: "how the word goes on past the cores that there are: a model, and a range",
        case_key: "case",
        weight: 1,
        ask: coherence::ask,
    },
    Benchmark {
        name: "fill",
        about: "what a miss into free memory costs, when reading the file costs a memcpy",
        case_key: "case",
        weight: 2,
        ask: miss::ask_fill,
    },
    Benchmark {
        name: "evict",
        about: "what a miss costs that evicts another page",
        case_key: "case",
        weight: 2,
        ask: miss::ask_evict,
    },
    Benchmark {
        name: "hit-ratio",
        about: "how often what is used is still there, by trace and policy",
        case_key: "case",
        weight: 1,
        ask: hit_ratio::ask,
    },
    Benchmark {
        name: "memory",
        about: "how much is resident for each byte of a cache's capacity",
        case_key: "case",
        weight: 1,
        ask: memory::ask,
    },
];
