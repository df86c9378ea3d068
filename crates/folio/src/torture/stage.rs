//! The state that all threads of a run share.

use std::io;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use folio_cache::Cache;
use folio_ref::Scheme;

use super::corpus::Corpus;
use super::environment;
use super::readers::OpenFiles;
use super::tally::Tally;

/// The state that all threads share.
pub(super) struct Stage<'a, S: Scheme> {
    pub(super) cache: Cache<S>,
    pub(super) corpus: &'a Corpus,
    pub(super) open: OpenFiles<S>,
    pub(super) pinned_per_reader: usize,
    pub(super) over: AtomicBool,
    /// The first file that was not read, with the reason.
    pub(super) first_skip: OnceLock<String>,
    /// The first error of the environment. It ends the run.
    pub(super) problem: OnceLock<String>,
}

impl<'a, S: Scheme> Stage<'a, S> {
    pub(super) fn new(cache: Cache<S>, corpus: &'a Corpus, pinned_per_reader: usize) -> Self {
        Self {
            cache,
            corpus,
            open: OpenFiles::new(),
            pinned_per_reader,
            over: AtomicBool::new(false),
            first_skip: OnceLock::new(),
            problem: OnceLock::new(),
        }
    }

    pub(super) fn running(&self) -> bool {
        !self.over.load(Ordering::Relaxed)
    }

    /// Ends the run because of its environment.
    pub(super) fn give_up(&self, problem: String) {
        self.problem.get_or_init(|| problem);
        self.over.store(true, Ordering::Relaxed);
    }

    /// Counts a broken rule with its error, unless the environment is at fault: that ends the run.
    pub(super) fn broken(&self, tally: &Tally, error: &io::Error, what: impl FnOnce() -> String) {
        match environment::problem(error) {
            Some(problem) => self.give_up(problem),
            None => tally.broken(|| format!("{}: {error}", what())),
        }
    }
}
