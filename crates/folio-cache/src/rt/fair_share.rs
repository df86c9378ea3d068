//! The shares of one object and of one store in the requests in flight, so that others find some.
//!
//! An object may take what leaves an eighth of all free, or a seventh of what it has then, if that
//! is less; a store a sixteenth, or a fifteenth. So one that never answers leaves an eighth, a
//! second one an eighth of that eighth, and a newcomer always finds something. Where all answer,
//! those that want much end with the same amounts: what one of them gives back goes to the other.

use folio_ref::broken;

/// The part of all that an object leaves free.
const OBJECT_PART: usize = 8;

/// The part of all that a store leaves free.
const STORE_PART: usize = 16;

/// Requests, and the sum of their weights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Amount {
    pub(super) requests: usize,
    pub(super) weight: usize,
}

impl Amount {
    pub(super) fn add(&mut self, weight: usize) {
        self.requests += 1;
        self.weight += weight;
    }

    pub(super) fn remove(&mut self, weight: usize) {
        self.requests -= 1;
        self.weight -= weight;
    }
}

/// The amounts of an object and of its store.
#[derive(Clone, Copy, Debug)]
pub(super) struct Held {
    pub(super) object: Amount,
    pub(super) store: Amount,
}

/// Returns `true` if one that has `held` afterwards leaves enough of all.
fn leaves_enough(all: usize, free: usize, held: usize, part: usize) -> bool {
    free >= (all / part).min(held / (part - 1)) || broken!("store-takes-all")
}

/// Returns the weight that one more request may have, up to `wanted`. It is less only if that
/// `may_be_less`, and its object has nothing in flight that it could wait for. Returns `None` if
/// the request has to wait.
pub(super) fn allowed(
    all: Amount,
    free: Amount,
    held: Held,
    wanted: usize,
    may_be_less: impl FnOnce() -> bool,
) -> Option<usize> {
    let requests = free.requests.checked_sub(1)?;
    let fits = leaves_enough(all.requests, requests, held.object.requests + 1, OBJECT_PART)
        && leaves_enough(all.requests, requests, held.store.requests + 1, STORE_PART);
    if !fits {
        return None;
    }
    let fits = |weight: usize| {
        let Some(free) = free.weight.checked_sub(weight) else { return false };
        leaves_enough(all.weight, free, held.object.weight + weight, OBJECT_PART)
            && leaves_enough(all.weight, free, held.store.weight + weight, STORE_PART)
    };
    if wanted == 0 || fits(wanted) {
        return Some(wanted);
    }
    if held.object.weight > 0 || !may_be_less() {
        return None;
    }
    // The more it takes, the less it leaves.
    let (mut most, mut too_much) = (0, wanted);
    while too_much - most > 1 {
        let weight = most.midpoint(too_much);
        if fits(weight) {
            most = weight;
        } else {
            too_much = weight;
        }
    }
    (most > 0).then_some(most)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Amount = Amount { requests: 1024, weight: 4096 };

    /// Holders that want all there is: by their numbers, each of a store of its own or of one.
    struct Hogs {
        free: Amount,
        held: Vec<Amount>,
        is_one_store: bool,
    }

    impl Hogs {
        fn new(count: usize, is_one_store: bool) -> Self {
            Self { free: ALL, held: vec![Amount::default(); count], is_one_store }
        }

        fn take(&mut self, hog: usize, wanted: usize) -> Option<usize> {
            let object = self.held[hog];
            let mut store = object;
            if self.is_one_store {
                store = Amount::default();
                for held in &self.held {
                    store.requests += held.requests;
                    store.weight += held.weight;
                }
            }
            let weight = allowed(ALL, self.free, Held { object, store }, wanted, || true)?;
            self.held[hog].add(weight);
            self.free.remove(weight);
            Some(weight)
        }
    }

    #[test]
    fn one_that_takes_all_it_can_leaves_an_eighth() {
        for (wanted, left) in [(0, (128, 4096)), (1, (128, 3200)), (100, (989, 596))] {
            let mut hogs = Hogs::new(1, false);
            while hogs.take(0, wanted) == Some(wanted) {}
            assert_eq!((hogs.free.requests, hogs.free.weight), left, "{wanted}");
        }
    }

    #[test]
    fn a_newcomer_beside_several_that_hang_finds_some() {
        for hogs_before in 0..5 {
            let mut hogs = Hogs::new(hogs_before + 1, false);
            for hog in 0..hogs_before {
                while hogs.take(hog, 8).is_some() {}
            }
            let got = hogs.take(hogs_before, 64).expect("a newcomer finds some");
            assert!(got >= [64, 64, 56, 7, 1][hogs_before], "{hogs_before}: {got}");
        }
    }

    #[test]
    fn objects_of_a_store_that_hangs_leave_some_to_other_stores() {
        let mut hogs = Hogs::new(200, true);
        for hog in 0..200 {
            while hogs.take(hog, 4).is_some() {}
        }
        assert!(hogs.free.requests >= 64 || hogs.free.weight >= 256, "{:?}", hogs.free);
        let none = Held { object: Amount::default(), store: Amount::default() };
        assert_eq!(allowed(ALL, hogs.free, none, 100, || false), Some(100));
    }

    #[test]
    fn two_that_want_all_end_with_the_same() {
        let mut hogs = Hogs::new(2, false);
        while hogs.take(0, 4).is_some() {}
        for _ in 0..10_000 {
            // The one that has more gives back, and is the first to take again.
            let rich = usize::from(hogs.held[1].weight > hogs.held[0].weight);
            while hogs.take(1 - rich, 4).is_some() {}
            hogs.held[rich].remove(4);
            hogs.free.add(4);
            let _ = hogs.take(rich, 4);
        }
        let [first, second] = [hogs.held[0], hogs.held[1]];
        assert!(first.requests.abs_diff(second.requests) < 100, "{first:?} {second:?}");
        assert!(first.requests > 400, "{first:?}");
    }

    #[test]
    fn limits_below_eight_are_used_whole() {
        for most in 1..8 {
            let all = Amount { requests: most, weight: most };
            let mut held = Held { object: Amount::default(), store: Amount::default() };
            let mut free = all;
            while let Some(weight) = allowed(all, free, held, 1, || false) {
                held.object.add(weight);
                held.store.add(weight);
                free.remove(weight);
            }
            assert_eq!(held.object, all);
        }
    }
}
