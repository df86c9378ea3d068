//! The questions, each with its name: the one table that the command, `bench all` and the tests go
//! by.
//!
//! To add a question, write its module with a function `ask`, and add a line to [`QUESTIONS`].

use std::fmt;
use std::io;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use crate::benchmarks::{
    alloc, between, bringup, coherence, disk, fragment, free, hit_ratio, life, memory, migrate,
    miss, noise, patch, range, read, sizes, word, write,
};
use crate::harness::report::Report;

/// How a question is asked.
pub struct Ask<'a> {
    /// For about how long it may be measured.
    pub time: Duration,
    /// Set when somebody wants an end of it.
    pub stop: &'a AtomicBool,
    /// Is told the share that is done, up to 1.
    pub progress: &'a mut dyn FnMut(f64),
}

impl fmt::Debug for Ask<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ask").field("time", &self.time).finish_non_exhaustive()
    }
}

/// A question about page frames.
#[derive(Clone, Copy, Debug)]
pub struct Benchmark {
    /// Its name on the command line and in results.
    pub name: &'static str,
    /// What it asks.
    pub about: &'static str,
    /// What a case is called in its rows, besides `case`.
    pub case_key: &'static str,
    /// Its share of the time when all are asked.
    pub weight: u32,
    /// Measures it. The error says why it can not be measured here.
    pub ask: fn(&mut Ask<'_>) -> io::Result<Report>,
}

/// All questions, in the order of the report.
pub const QUESTIONS: &[Benchmark] = &[
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Every question gives numbers within its own bounds, or notes that say why not.
    #[test]
    fn every_question_is_answered() {
        for benchmark in QUESTIONS {
            let stop = AtomicBool::new(true);
            let mut ask = Ask { time: Duration::ZERO, stop: &stop, progress: &mut |_| () };
            // Stopped before it began: it ends soon, and says that it has too few samples.
            let said = (benchmark.ask)(&mut ask)
                .map_or_else(|error| vec![error.to_string()], |report| report.notes);
            assert!(!said.is_empty(), "{}", benchmark.name);
        }
    }

    #[test]
    fn names_are_different_and_plain() {
        let names: BTreeSet<_> = QUESTIONS.iter().map(|benchmark| benchmark.name).collect();
        assert_eq!(names.len(), QUESTIONS.len());
        assert!(
            names
                .iter()
                .all(|name| name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-')),
            "{names:?}"
        );
        assert!(QUESTIONS.iter().all(|benchmark| benchmark.weight > 0 && benchmark.name != "all"));
    }
}
