//! The executors that a key belongs to, by rendezvous hashing with a bound on the load of each.
//!
//! Each pair of a key and an executor has a score, and a key belongs to the executor with the
//! highest. An executor that comes takes only the keys of which it has the highest score; one that
//! goes leaves only its own. The scores depend on nothing but the names, so a restart of the
//! scheduler or of all executors changes nothing.

use twox_hash::XxHash64;

/// Something that a task reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    /// Names it. Equal for equal bytes, in all sessions and at all times.
    pub hash: u64,
    /// The number of executors that it may belong to: 1, and more for what is hot.
    pub replicas: usize,
}

/// Returns a hash that is the same in all processes and versions.
pub(crate) fn hash(seed: u64, bytes: &[u8]) -> u64 {
    XxHash64::oneshot(seed, bytes)
}

/// Returns the executors by their score for a key, the highest first.
pub(crate) fn ranked(key: u64, executors: &[impl AsRef<str>]) -> Vec<usize> {
    let name = |executor: usize| executors[executor].as_ref();
    let scores: Vec<u64> =
        executors.iter().map(|name| hash(key, name.as_ref().as_bytes())).collect();
    let mut ranked: Vec<usize> = (0..executors.len()).collect();
    ranked.sort_unstable_by(|&a, &b| scores[b].cmp(&scores[a]).then_with(|| name(a).cmp(name(b))));
    ranked
}

/// Returns the executors that each key belongs to, the best first: as many as its replicas, and
/// one at least. The list is empty if there are no executors.
///
/// No executor is the first of more than `1 + slack` times its share. A key for which the best
/// executor is full goes to its second choice. The result depends on the set of keys and the names
/// alone, not on their order.
pub fn homes(keys: &[Key], executors: &[impl AsRef<str>], slack: f64) -> Vec<Vec<usize>> {
    if executors.is_empty() {
        return vec![Vec::new(); keys.len()];
    }
    let share = keys.len() as f64 / executors.len() as f64;
    let most = (share * (1.0 + slack.max(0.0))).ceil() as usize;
    let mut loads = vec![0_usize; executors.len()];
    let mut homes = vec![Vec::new(); keys.len()];
    // The order decides which keys spill: it must not change with the executors.
    let mut order: Vec<usize> = (0..keys.len()).collect();
    order.sort_by_key(|&at| (keys[at].hash, at));
    for at in order {
        let ranked = ranked(keys[at].hash, executors);
        let replicas = keys[at].replicas.clamp(1, executors.len());
        let free = ranked.iter().copied().filter(|&executor| loads[executor] < most);
        let mut chosen: Vec<usize> = free.take(replicas).collect();
        // The least loaded of several goes first, and bears the load.
        chosen.sort_by_key(|&executor| loads[executor]);
        if let Some(&first) = chosen.first() {
            loads[first] += 1;
        }
        homes[at] = chosen;
    }
    homes
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn names(from: usize, count: usize) -> Vec<String> {
        (from..from + count).map(|number| format!("executor-{number}")).collect()
    }

    fn keys(seed: u64, count: u64) -> Vec<Key> {
        (0..count).map(|n| Key { hash: hash(seed, &n.to_le_bytes()), replicas: 1 }).collect()
    }

    fn names_of(homes: &[Vec<usize>], executors: &[String]) -> Vec<Vec<String>> {
        let of = |home: &Vec<usize>| home.iter().map(|&at| executors[at].clone()).collect();
        homes.iter().map(of).collect()
    }

    fn loads(homes: &[Vec<usize>], executors: usize) -> Vec<usize> {
        let mut loads = vec![0; executors];
        for home in homes {
            loads[home[0]] += 1;
        }
        loads
    }

    #[test]
    fn scores_are_those_of_the_specified_hash() {
        // The values of XXH64 for these inputs. A change would move all cached bytes.
        assert_eq!(hash(0, b""), 0xef46_db37_51d8_e999);
        assert_eq!(hash(0, b"abc"), 0x44bc_2cf5_ad77_0999);
        let executors = ["a", "b", "c"];
        let again: Vec<_> = (0..8).map(|key| ranked(key, &executors)[0]).collect();
        let sorted = ["c", "a", "b"];
        for (key, first) in (0..8).zip(again) {
            let name = sorted[ranked(key, &sorted)[0]];
            assert_eq!(name, executors[first], "key {key}: the order of names has no effect");
        }
    }

    #[test]
    fn no_executor_and_no_key_are_no_error() {
        assert_eq!(homes(&keys(1, 2), &names(0, 0), 0.25), vec![Vec::<usize>::new(); 2]);
        assert!(homes(&[], &names(0, 2), 0.25).is_empty());
    }

    #[test]
    fn a_full_executor_spills_to_the_second_choice() {
        let executors = names(0, 4);
        // All of these keys score highest for one executor.
        let wanted = |key: &Key| ranked(key.hash, &executors)[0] == 2;
        let hot: Vec<Key> = keys(7, 1000).into_iter().filter(wanted).take(40).collect();
        let homes = homes(&hot, &executors, 0.25);
        assert_eq!(loads(&homes, 4)[2], 13, "40 / 4 * 1.25, rounded up");
        for (key, home) in hot.iter().zip(&homes).filter(|(_, home)| home[0] != 2) {
            let ranked = ranked(key.hash, &executors);
            let place = ranked.iter().position(|&executor| executor == home[0]);
            assert!(place >= Some(1), "it is no other's first choice");
        }
        let second = hot
            .iter()
            .zip(&homes)
            .filter(|(key, home)| home[0] != 2 && home[0] == ranked(key.hash, &executors)[1]);
        assert_eq!(second.count(), 27, "each other is at its second choice: none of those is full");
    }

    #[test]
    fn replicas_are_distinct_and_the_best_choices() {
        let executors = names(0, 5);
        let hot: Vec<_> = keys(3, 50).iter().map(|key| Key { replicas: 3, ..*key }).collect();
        for (key, home) in hot.iter().zip(homes(&hot, &executors, 100.0)) {
            let mut best = ranked(key.hash, &executors)[..3].to_vec();
            let mut found = home.clone();
            best.sort_unstable();
            found.sort_unstable();
            assert_eq!(found, best);
        }
        let more = [Key { hash: 1, replicas: 9 }];
        assert_eq!(homes(&more, &executors, 0.0)[0].len(), 5, "no more than there are executors");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn a_join_moves_only_its_share(
            seed in any::<u64>(), first in 0_usize..1000, count in 1_usize..16,
        ) {
            let keys = keys(seed, 2000);
            let (before, after) = (names(first, count), names(first, count + 1));
            let old = names_of(&homes(&keys, &before, 0.25), &before);
            let new = names_of(&homes(&keys, &after, 0.25), &after);
            let moved = old.iter().zip(&new).filter(|(old, new)| old != new).count();
            let most = 1.0 / (count as f64 + 1.0) + 0.05;
            prop_assert!(moved as f64 / 2000.0 <= most, "{moved} of 2000, {count} executors");
            // A leave is the way back: the keys that moved are the same.
            let back = names_of(&homes(&keys, &before, 0.25), &before);
            prop_assert_eq!(old, back);
        }

        #[test]
        fn loads_stay_below_the_bound(
            seed in any::<u64>(), n in 1_u64..300, count in 1_usize..20, slack in 0.0_f64..1.0,
        ) {
            let keys = keys(seed, n);
            let homes = homes(&keys, &names(0, count), slack);
            let most = (n as f64 / count as f64 * (1.0 + slack)).ceil() as usize;
            let loads = loads(&homes, count);
            prop_assert!(loads.iter().all(|&load| load <= most), "{loads:?}, at most {most}");
            prop_assert_eq!(loads.iter().sum::<usize>() as u64, n, "each key has a home");
        }

        #[test]
        fn the_order_of_keys_and_names_has_no_effect(
            seed in any::<u64>(), n in 1_u64..100, count in 1_usize..8,
        ) {
            let (keys, executors) = (keys(seed, n), names(0, count));
            let mut turned = (keys.clone(), executors.clone());
            turned.0.reverse();
            turned.1.reverse();
            let mut found = names_of(&homes(&turned.0, &turned.1, 0.25), &turned.1);
            found.reverse();
            prop_assert_eq!(names_of(&homes(&keys, &executors, 0.25), &executors), found);
        }
    }
}
