//! The optimum: the hits of a policy that knows the future.

use std::collections::BTreeSet;
use std::io;
use std::sync::atomic::AtomicBool;

use super::play::go_on;
use super::spool::{CHUNK, NEVER, Spool};

/// Returns the hits of a policy that evicts the page that is used last of all (Belady, 1966), or
/// does not keep the new page at all.
///
/// # Errors
///
/// - `Interrupted` soon after `stop` is set.
/// - Otherwise the error of the trace's temporary file.
pub fn optimal(trace: &mut Spool, frames: u64, stop: &AtomicBool) -> io::Result<u64> {
    let (mut by_next, mut hits) = (BTreeSet::new(), 0);
    for (at, next) in (0_u64..).zip(trace.next_uses()?) {
        let next = next?;
        if at.is_multiple_of(CHUNK as u64) {
            go_on(stop)?;
        }
        // The page used now has the nearest next use.
        if by_next.first() == Some(&at) {
            by_next.pop_first();
            hits += 1;
        } else if by_next.len() as u64 == frames {
            if by_next.last().is_none_or(|&last| last <= next) {
                continue;
            }
            by_next.pop_last();
        }
        if next != NEVER {
            by_next.insert(next);
        }
    }
    Ok(hits)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hits(pages: impl IntoIterator<Item = u64>, frames: u64) -> u64 {
        let (pages, go_on) = (pages.into_iter().map(Ok), AtomicBool::new(false));
        optimal(&mut Spool::of(pages, &go_on).unwrap(), frames, &go_on).unwrap()
    }

    #[test]
    fn the_optimum_of_known_traces() {
        assert_eq!(hits((0..10).cycle().take(100), 10), 90);
        // Of 3 pages in a loop, 2 stay for ever.
        assert_eq!(hits([1, 2, 3, 1, 2, 3, 1, 2, 3], 2), 4);
        assert_eq!(hits([1, 2, 3, 4, 1], 1), 1);
        assert_eq!(hits([], 1), 0);
        // More references than are read at once.
        let many = (0..3 * (1 << 18)).map(|n| n % 1000);
        assert_eq!(hits(many, 1000), 3 * (1 << 18) - 1000);
    }
}
