//! Shares: how much of the memory the files of a group may have, and keep.
//!
//! | rule | kept by |
//! | --- | --- |
//! | a group has at most its share | a miss or a write evicts pages of the group before new ones come |
//! | it loses none of it to files without a share | reclaim asks their policy first |
//! | it loses none of it to other shares | those have at most theirs, and all shares are at most the whole |
//!
//! A group with a share has a policy of its own, which compares its pages with each other only. A
//! page of it that is pinned or dirty cannot make room. Then reads go on without the cache, and
//! writes exceed the share.

use folio_ref::Scheme;

use crate::memory::evict;
use crate::memory::frames_view::BATCH;
use crate::state::groups::{GroupState, group_of};
use crate::state::mapping::Mapping;
use crate::state::shared::Shared;
use crate::state::stats::Count;

/// A group evicts one in this many of its pages at once, and at most a batch.
const BATCH_SHARE: usize = 16;

/// Makes room in the share of a file's group. Returns how many of `pages` new pages fit into it,
/// or all if the group has no share. Call with no page locked.
#[inline]
pub(crate) fn make_room<S: Scheme>(mapping: &Mapping<S>, pages: usize) -> usize {
    if group_of(mapping.id) == 0 { pages } else { make_room_in_group(mapping, pages) }
}

#[inline(never)]
fn make_room_in_group<S: Scheme>(mapping: &Mapping<S>, pages: usize) -> usize {
    let shared = &mapping.shared;
    let group = shared.groups.of(mapping.id);
    let Some(limit) = shared.groups.limit(group) else { return pages };
    let limit = limit as usize;
    let pages = pages.min(limit);
    let over = (used(group) + pages).saturating_sub(limit);
    if over == 0 {
        return pages;
    }
    let more = (limit / BATCH_SHARE).min(BATCH);
    evict::reclaim_by_policy(shared, group.number, over.max(more));
    limit.saturating_sub(used(group)).min(pages)
}

/// Returns the pages of a group, with those in flight. Racy.
fn used(group: &GroupState) -> usize {
    (group.counters.now(Count::Cached) + group.counters.now(Count::InFlight)) as usize
}

/// Returns the numbers of the policies of all groups with a share, the fullest first.
pub(super) fn fullest_first<S: Scheme>(shared: &Shared<S>) -> Vec<usize> {
    let full = |group: &GroupState| {
        let limit = u64::from(shared.groups.limit(group)?);
        Some((used(group) as u64 * 1000 / limit, group.number))
    };
    let mut numbers: Vec<_> = shared.groups.all().filter_map(|group| full(group)).collect();
    numbers.sort_unstable_by_key(|&(full, _)| std::cmp::Reverse(full));
    numbers.into_iter().map(|(_, number)| number).collect()
}
