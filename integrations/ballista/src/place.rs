//! Gives the partitions that wait to executors with free threads.

/// The executors that a partition wants.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wish {
    /// The executors that it belongs to, the best first. Empty if any serves alike.
    pub(crate) homes: Vec<usize>,
    /// All executors in its order of preference.
    pub(crate) ranked: Vec<usize>,
}

/// The result of a round.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Placed {
    /// The partitions that each executor gets.
    pub(crate) to: Vec<Vec<usize>>,
    /// Those that wait.
    pub(crate) left: Vec<usize>,
    pub(crate) at_home: u64,
    pub(crate) spilled: u64,
    pub(crate) anywhere: u64,
}

/// Gives the pending partitions to executors with free threads, one thread for each. A partition
/// of which the homes are busy waits. If the stage has waited too long (`late`), it goes to its
/// next choice. `free` counts down.
pub(crate) fn place(pending: &[usize], wishes: &[Wish], free: &mut [u32], late: bool) -> Placed {
    let mut placed = Placed { to: vec![Vec::new(); free.len()], ..Placed::default() };
    let nothing = Wish::default();
    let wish = |partition: usize| wishes.get(partition).unwrap_or(&nothing);
    let (anywhere, wanted): (Vec<usize>, Vec<usize>) =
        pending.iter().partition(|&&partition| wish(partition).homes.is_empty());
    let mut rest = Vec::new();
    for partition in wanted {
        match freest(wish(partition).homes.iter().copied(), free) {
            Some(executor) => {
                placed.give(partition, executor, free);
                placed.at_home += 1;
            }
            None => rest.push(partition),
        }
    }
    for partition in anywhere {
        match freest(0..free.len(), free) {
            Some(executor) => {
                placed.give(partition, executor, free);
                placed.anywhere += 1;
            }
            None => placed.left.push(partition),
        }
    }
    for partition in rest {
        let next = wish(partition).ranked.iter().copied().find(|&executor| free[executor] > 0);
        match next.filter(|_| late) {
            Some(executor) => {
                placed.give(partition, executor, free);
                placed.spilled += 1;
            }
            None => placed.left.push(partition),
        }
    }
    placed.left.sort_unstable();
    placed
}

/// Returns the executor with the most free threads, the first of several, if one has any.
fn freest(among: impl Iterator<Item = usize>, free: &[u32]) -> Option<usize> {
    let mut best = None;
    for executor in among.filter(|&executor| free[executor] > 0) {
        if best.is_none_or(|best| free[executor] > free[best]) {
            best = Some(executor);
        }
    }
    best
}

impl Placed {
    fn give(&mut self, partition: usize, executor: usize, free: &mut [u32]) {
        free[executor] -= 1;
        self.to[executor].push(partition);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(homes: &[usize], ranked: &[usize]) -> Wish {
        Wish { homes: homes.to_vec(), ranked: ranked.to_vec() }
    }

    #[test]
    fn partitions_go_home_and_wait_while_it_is_busy() {
        let wishes = [at(&[1], &[1, 0, 2]), at(&[1], &[1, 2, 0]), at(&[0], &[0, 1, 2])];
        let mut free = [0, 1, 4];
        let placed = place(&[0, 1, 2], &wishes, &mut free, false);
        assert_eq!(placed.to, [vec![], vec![0], vec![]]);
        assert_eq!((placed.left, placed.at_home, free), (vec![1, 2], 1, [0, 0, 4]));
    }

    #[test]
    fn a_stage_that_waited_too_long_takes_the_next_choice() {
        let wishes = [at(&[1], &[1, 0, 2]), at(&[1], &[1, 2, 0]), at(&[0], &[0, 1, 2])];
        let mut free = [1, 1, 0];
        let placed = place(&[0, 1, 2], &wishes, &mut free, true);
        // Partition 0 and 2 are at home, which leaves no thread for partition 1.
        assert_eq!((placed.to, placed.left), (vec![vec![2], vec![0], vec![]], vec![1]));
        let mut free = [5, 0, 1];
        let placed = place(&[0, 1, 2], &wishes, &mut free, true);
        assert_eq!(placed.to, [vec![2, 0], vec![], vec![1]]);
        assert_eq!((placed.at_home, placed.spilled), (1, 2));
    }

    #[test]
    fn a_hot_partition_goes_to_the_freer_of_its_homes() {
        let wishes = [at(&[0, 2], &[0, 2, 1])];
        let placed = place(&[0], &wishes, &mut [1, 9, 2], false);
        assert_eq!(placed.to, [vec![], vec![], vec![0]]);
    }

    #[test]
    fn partitions_without_files_go_where_most_threads_are_free() {
        let mut free = [1, 3];
        let placed = place(&[0, 1, 2, 3, 4], &[], &mut free, false);
        assert_eq!((placed.to, placed.left), (vec![vec![2], vec![0, 1, 3]], vec![4]));
        assert_eq!(placed.anywhere, 4);
    }

    proptest! {
        #[test]
        fn each_partition_is_placed_once_or_waits(
            homes in prop::collection::vec(prop::collection::vec(0_usize..4, 0..3), 0..30),
            threads in prop::collection::vec(0_u32..8, 4), late in any::<bool>(),
        ) {
            let wishes: Vec<_> = homes.iter().map(|homes| at(homes, &[3, 1, 0, 2])).collect();
            let pending: Vec<usize> = (0..wishes.len()).collect();
            let mut free = threads.clone();
            let placed = place(&pending, &wishes, &mut free, late);
            let mut all: Vec<usize> = placed.to.iter().flatten().copied().collect();
            prop_assert_eq!(all.len() as u64, placed.at_home + placed.spilled + placed.anywhere);
            for (executor, given) in placed.to.iter().enumerate() {
                prop_assert_eq!(given.len() as u32 + free[executor], threads[executor]);
                for &partition in given {
                    let homes = &wishes[partition].homes;
                    prop_assert!(late || homes.is_empty() || homes.contains(&executor));
                }
            }
            if late && !placed.left.is_empty() {
                prop_assert!(free.iter().all(|&free| free == 0), "none waits for nothing");
            }
            all.extend(&placed.left);
            all.sort_unstable();
            prop_assert_eq!(all, pending);
        }
    }
}
