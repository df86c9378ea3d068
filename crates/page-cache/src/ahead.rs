//! Reading ahead: the pages that readahead names are claimed and requested in the background.

use std::sync::Arc;

use page_frames::{FRAME_SIZE, FrozenFolio, Order, Slot, UserSpace};
use page_ref::Scheme;

use crate::cache::Inner;
use crate::mapping::Mapping;
use crate::readahead::Window;
use crate::run::{MOST_PAGES, Run};

/// The share of a cache's memory that one window may take. A policy may keep a small part of the memory for what is new
/// (`HotCold` 1/20), and takes what is oldest of that, used or not: two windows fit into it, with the frames that are kept free and those
/// in per-CPU lists.
const SHARE: usize = 96;

impl<S: Scheme> Mapping<S> {
    /// A reader misses `pages` pages from `page` on: looks what it may want next, and requests that.
    pub(crate) fn read_ahead_of_miss(&self, page: u32, pages: u32) {
        if let Some(window) = self.readahead.missed(page, pages, self.most_ahead()) {
            self.request(window);
        }
    }

    /// A reader came to a milestone.
    #[cold]
    pub(crate) fn read_ahead_of(&self, page: u32) {
        if let Some(window) = self.readahead.passed(page, self.most_ahead()) {
            self.request(window);
        }
    }

    fn most_ahead(&self) -> u32 {
        (self.inner.budget_bytes() / FRAME_SIZE / SHARE) as u32
    }

    fn request(&self, window: Window) {
        let Some(mapping) = self.inner.registry.by_id(self.id) else { return };
        let end = i64::try_from(self.len().div_ceil(FRAME_SIZE as u64)).unwrap_or(i64::MAX);
        for piece in 0..window.pieces {
            let first = window.first + piece * window.step;
            let range = first.max(0)..(first + window.pages).min(end);
            // From its end backwards for who reads backwards: what is needed first is requested first.
            let mut chunks: Vec<_> = range.clone().step_by(MOST_PAGES as usize).collect();
            if window.step < 0 {
                chunks.reverse();
            }
            for begins in chunks {
                let ends = range.end.min(begins + i64::from(MOST_PAGES));
                if !mapping.request_missing(begins, ends, window.milestone) {
                    return;
                }
            }
        }
    }

    /// Requests what is not in the cache of some pages. `false`: there is no memory for it, or too much under way.
    fn request_missing(self: &Arc<Self>, first: i64, end: i64, milestone: Option<i64>) -> bool {
        let is_missing = |page: i64| {
            let page = u32::try_from(page).ok()?;
            Some(self.index.get(page).is_none_or(Slot::is_empty))
        };
        let mut page = first;
        while page < end {
            if is_missing(page) != Some(true) {
                page += 1;
                continue;
            }
            let mut last = page + 1;
            while last < end && is_missing(last) == Some(true) {
                last += 1;
            }
            let wanted = (last - page) as usize;
            let folios = self.inner.allocate_some(wanted);
            let enough = folios.len() == wanted;
            let mut run = Run::claim(self, page as u32, folios);
            if run.len() > 0 {
                run.set_ahead(0, milestone);
                self.inner.counters.ahead.add(run.len() as u64);
                if !self.inner.background.push(run.suspend(Arc::clone(self))) {
                    return false;
                }
            }
            if !enough {
                return false;
            }
            page = last;
        }
        true
    }
}

impl<S: Scheme> Inner<S> {
    /// Up to `frames` frozen frames, as many as there are without waiting: for what need not be read.
    pub(crate) fn allocate_some(&self, frames: usize) -> Vec<FrozenFolio<UserSpace<S>>> {
        self.look_at_level();
        let mut folios = Vec::with_capacity(frames);
        let mut reclaimed = false;
        while folios.len() < frames {
            match self.zone().alloc_frozen(Order::ZERO) {
                Ok(folio) => folios.push(folio),
                Err(_) if !reclaimed => {
                    reclaimed = true;
                    self.free_some(frames - folios.len());
                }
                Err(_) => break,
            }
        }
        folios
    }
}
