//! Tests of permits: the order of those that wait, and random steps.

use std::task::Context;

use super::*;

const HERE: Target = (("store", 0), 7);

fn nothing() -> Holder {
    Weak::<crate::rt::flight::Flight<()>>::new()
}

fn poll(acquire: &mut Pin<Box<Acquire>>) -> Option<Permit> {
    match acquire.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(permit) => Some(permit),
        Poll::Pending => None,
    }
}

#[test]
fn the_queue_goes_by_rank_then_by_arrival() {
    let permits = Permits::new(1, 10, false);
    let acquire = |rank| Box::pin(permits.acquire(HERE, Rank::new(rank), 1, nothing()));
    let held = poll(&mut acquire(1)).unwrap();
    let mut waiting = [acquire(2), acquire(1), acquire(0), acquire(1)];
    assert!(waiting.iter_mut().all(|waiter| poll(waiter).is_none()));
    drop(held);
    for expected in [2, 1, 3, 0] {
        let granted: Vec<_> = (0..4)
            .filter_map(|n| {
                let is_waiting = waiting[n].waits;
                is_waiting.then(|| poll(&mut waiting[n])).flatten().map(|permit| (n, permit))
            })
            .collect();
        assert_eq!(granted.iter().map(|(n, _)| *n).collect::<Vec<_>>(), [expected]);
    }
    assert_eq!(permits.counts(), (1, 0));
}

#[test]
fn a_request_that_is_raised_comes_before_others() {
    let permits = Permits::new(1, 10, false);
    let acquire = |rank| Box::pin(permits.acquire(HERE, Rank::new(rank), 1, nothing()));
    let held = poll(&mut acquire(1)).unwrap();
    let mut waiting = [acquire(1), acquire(1), acquire(2)];
    assert!(waiting.iter_mut().all(|waiter| poll(waiter).is_none()));
    let last = Arc::clone(&waiting[2].rank);
    assert!(!last.raise(2) && last.raise(0) && !last.raise(1));
    permits.raise(HERE, &last);
    drop(held);
    let permit = poll(&mut waiting[2]).expect("it comes first");
    permits.raise(HERE, &last);
    drop(permit);
    assert!(poll(&mut waiting[1]).is_none() && poll(&mut waiting[0]).is_some());
}

/// Numbers are those of a queue: another queue has the same ones.
#[test]
fn a_request_is_raised_in_its_own_queue_only() {
    let [permits, other] = [(); 2].map(|()| Permits::new(1, 10, false));
    let acquire =
        |of: &Arc<Permits>, rank| Box::pin(of.acquire(HERE, Rank::new(rank), 1, nothing()));
    let held = [&permits, &other].map(|of| poll(&mut acquire(of, 0)).unwrap());
    let [mut here, mut there] = [&permits, &other].map(|of| [acquire(of, 1), acquire(of, 2)]);
    assert!(here.iter_mut().chain(&mut there).all(|waiter| poll(waiter).is_none()));
    let last = &here[1].rank;
    assert!(last.raise(0));
    other.raise(HERE, last);
    drop(held);
    assert!(poll(&mut there[1]).is_none() && poll(&mut there[0]).is_some());
}

#[test]
fn a_dropped_waiter_leaves_the_queue_and_its_grant() {
    let permits = Permits::new(1, 10, false);
    let acquire = |weight| Box::pin(permits.acquire(HERE, Rank::new(0), weight, nothing()));
    let held = poll(&mut acquire(1)).unwrap();
    let (mut first, mut second, mut third) = (acquire(1), acquire(1), acquire(1));
    assert!([&mut first, &mut second, &mut third].into_iter().all(|it| poll(it).is_none()));
    drop(first);
    drop(held); // granted to the second, which is never polled again
    drop(second);
    let permit = poll(&mut third).expect("the grant went on");
    drop((permit, third));
    assert_eq!(permits.counts(), (1, 0));
}

#[test]
fn weights_are_bounded_and_the_largest_passes_alone() {
    let permits = Permits::new(10, 8, false);
    let acquire = |weight| Box::pin(permits.acquire(HERE, Rank::new(0), weight, nothing()));
    let mut small = poll(&mut acquire(6)).unwrap();
    let mut large = acquire(100);
    assert!(poll(&mut large).is_none());
    small.shrink(2);
    assert!(poll(&mut large).is_none());
    drop(small);
    let large = poll(&mut large).unwrap();
    assert!(poll(&mut acquire(1)).is_none());
    drop(large);
    assert_eq!(permits.counts(), (10, 0));
}

/// One random waiter or holder.
enum Step {
    Waits(Pin<Box<Acquire>>),
    Has(Permit),
}

/// After each step, what is held and what is free are all there is, and none waits that fits.
#[test]
fn random_steps_keep_the_books_and_leave_none_waiting_that_fits() {
    for seed in 0..300 {
        let mut random = fastrand::Rng::with_seed(seed);
        let permits = Permits::shared(random.usize(1..40), random.usize(1..200));
        let mut steps: Vec<Step> = Vec::new();
        for _ in 0..200 {
            match random.u8(..8) {
                0..3 => {
                    let target = (("store", random.u64(..3)), random.u32(..4));
                    let weight = random.usize(..60);
                    let rank = Rank::new(random.u8(..3));
                    let acquire = permits.acquire(target, rank, weight, nothing());
                    steps.push(Step::Waits(Box::pin(acquire)));
                }
                3 if !steps.is_empty() => drop(steps.swap_remove(random.usize(..steps.len()))),
                5 => {
                    if let Some(Step::Waits(acquire)) = random.choice(steps.iter())
                        && acquire.rank.raise(random.u8(..3))
                    {
                        permits.raise(acquire.target, &acquire.rank);
                    }
                }
                4 => {
                    if let Some(Step::Has(permit)) = random.choice(steps.iter_mut()) {
                        permit.shrink(random.usize(..=permit.weight().max(1)));
                    }
                }
                _ => {
                    for step in &mut steps {
                        if let Step::Waits(acquire) = step
                            && let Some(permit) = poll(acquire)
                        {
                            *step = Step::Has(permit);
                        }
                    }
                }
            }
            permits.assert_consistent();
        }
        drop(steps);
        assert_eq!(permits.counts(), (permits.most.all.requests, 0));
        let state = permits.state.lock();
        assert_eq!(state.free, permits.most.all);
        assert!(state.stores.is_empty() && state.holders.is_empty() && state.granted.is_empty());
    }
}

impl Permits {
    fn assert_consistent(&self) {
        let mut state = self.state.lock();
        let (mut sum, mut waiting, mut first) = (state.free, 0, Vec::new());
        for (&store, of_store) in &state.stores {
            let mut of_objects = Amount::default();
            for (&object, of_object) in &of_store.objects {
                of_objects.requests += of_object.held.requests;
                of_objects.weight += of_object.held.weight;
                waiting += of_object.queue.len();
                if let Some((&place, queued)) = of_object.queue.first_key_value() {
                    assert_eq!(of_store.first.get(&place), Some(&object));
                    first.push(((store, object), queued.weight));
                }
            }
            assert_eq!(of_objects, of_store.held);
            assert!(of_store.first.len() <= of_store.objects.len());
            sum.requests += of_objects.requests;
            sum.weight += of_objects.weight;
        }
        assert_eq!((sum, waiting), (self.most.all, state.waiting));
        for (target, weight) in first {
            let fits = state.take(target, weight, &self.most);
            assert_eq!(fits, None, "{target:?} waits for {weight} of {:?}", state.free);
        }
    }
}
