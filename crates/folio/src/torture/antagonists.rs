//! The antagonists: threads that reclaim, migrate, offline and split frames under the readers.

use std::thread;
use std::time::Duration;

use folio_frames::{
    ContigError, FolioRef, FrozenFolio, Kind, MigrateError, OfflineError, Order, Peek, Pfn,
    Refusal, UserSpace, Zone,
};
use folio_ref::Scheme;

use super::tally::Tally;
use super::{Stage, forker, killer, writer};

/// The kind of the blocks that the splitter allocates.
const SPLIT: Kind = Kind::owner(1);

/// The loop of one antagonist.
pub(crate) type Antagonist<S> = fn(&Stage<'_, S>, &Tally, fastrand::Rng);

/// Returns all antagonists with their names.
pub(crate) fn all<S: Scheme>() -> [(&'static str, Antagonist<S>); 11] {
    [
        ("reclaimer", reclaim),
        ("walker", walk),
        ("migrator", migrate),
        ("offliner", offline),
        ("splitter", split),
        ("writer", writer::write),
        ("compactor", compact),
        ("contiguous", contiguous),
        ("shrinker", shrink),
        ("forker", forker::fork),
        ("killer", killer::kill),
    ]
}

/// Sleeps, so that the readers get most of the CPU time.
pub(super) fn pause(milliseconds: u64) {
    thread::sleep(Duration::from_millis(milliseconds));
}

fn random_pfn<S: Scheme>(zone: &Zone<UserSpace<S>>, random: &mut fastrand::Rng) -> Pfn {
    let all = zone.pfns();
    Pfn::new(random.u64(all.start.as_u64()..all.end.as_u64()))
}

/// Reclaims up to 64 pages at a time.
fn reclaim<S: Scheme>(stage: &Stage<'_, S>, tally: &Tally, mut random: fastrand::Rng) {
    while stage.running() {
        tally.progress.add(1);
        tally.reclaimed.add(stage.cache.reclaim(random.usize(1..=64)) as u64);
        pause(3);
    }
}

/// Number of frames that the walker peeks at before it tries to get the first of them.
const PEEKED: usize = 256;

/// Tries to get a reference to *every* frame in turn and counts the refusals by reason. Alternates
/// between two ways: through the frame's head, and through the frame's own word if the frame is
/// still what an earlier peek saw.
fn walk<S: Scheme>(stage: &Stage<'_, S>, tally: &Tally, mut random: fastrand::Rng) {
    let zone = stage.cache.frames().zone();
    let frames: Vec<Pfn> = zone.pfns().collect();
    let mut seen: Vec<Peek> = Vec::with_capacity(PEEKED);
    let mut by_head = false;
    while stage.running() {
        by_head = !by_head;
        for frames in frames.chunks(PEEKED) {
            seen.clear();
            seen.extend(frames.iter().map(|&pfn| zone.peek(pfn)));
            // Lets the peeks become outdated.
            pause(1);
            tally.progress.add(1);
            if !stage.running() {
                return;
            }
            for (&pfn, seen) in frames.iter().zip(&seen) {
                let got = if by_head { zone.try_get_head(pfn) } else { zone.try_get_as(pfn, seen) };
                walked(pfn, (!by_head).then_some(seen), got, tally, &mut random);
            }
        }
    }
}

/// Counts one attempt of the walker. Checks that the folio it got contains the requested frame, and
/// that kind, order and owner data do not change while the reference exists.
fn walked<S: Scheme>(
    pfn: Pfn,
    seen: Option<&Peek>,
    got: Result<FolioRef<UserSpace<S>>, Refusal>,
    tally: &Tally,
    random: &mut fastrand::Rng,
) {
    tally.walked.add(1);
    let folio = match got {
        Ok(folio) => folio,
        Err(Refusal::Frozen) => return tally.frozen.add(1),
        Err(Refusal::Free) => return tally.free.add(1),
        Err(Refusal::Tail) => return tally.tail.add(1),
        Err(Refusal::Moved) => return tally.moved.add(1),
        Err(Refusal::Offline) => return tally.offline_frames.add(1),
        Err(Refusal::Saturated) => return tally.broken(|| format!("R5: {pfn:?} is saturated")),
        Err(refusal) => return tally.broken(|| format!("{pfn:?}: {refusal}")),
    };
    let is = |folio: &FolioRef<_>| (folio.kind(), folio.order(), folio.owner_data());
    let before = is(&folio);
    let holds = before.0.is_allocated()
        && folio.pfn() <= pfn
        && pfn.as_u64() - folio.pfn().as_u64() < u64::from(folio.order().frames())
        && seen.is_none_or(|seen| before == (seen.kind, seen.order, seen.owner_data));
    if random.u8(..) < 8 {
        thread::yield_now();
    }
    if !holds || before != is(&folio) {
        tally.broken(|| format!("R1, R8: the walker requested {pfn:?} and got {folio:?}"));
    }
}

/// Migrates random frames.
fn migrate<S: Scheme>(stage: &Stage<'_, S>, tally: &Tally, mut random: fastrand::Rng) {
    while stage.running() {
        tally.progress.add(1);
        for _ in 0..16 {
            match stage.cache.frames().migrate(random_pfn(stage.cache.frames().zone(), &mut random))
            {
                Ok(_) => tally.migrated.add(1),
                Err(MigrateError::Busy) => tally.busy.add(1),
                Err(MigrateError::Moved | MigrateError::NotMovable | MigrateError::OutOfFrames) => {
                }
                Err(error) => tally.broken(|| format!("migrate: {error}")),
            }
        }
        pause(2);
    }
}

/// Takes a random block offline and brings it back.
fn offline<S: Scheme>(stage: &Stage<'_, S>, tally: &Tally, mut random: fastrand::Rng) {
    let (cache, zone) = (&stage.cache, stage.cache.frames().zone());
    while stage.running() {
        tally.progress.add(1);
        let block = random.usize(..zone.blocks());
        match cache.frames().offline(block) {
            Ok(offline) => {
                tally.offlined.add(1);
                for pfn in zone.block_range(block) {
                    if let Ok(folio) = zone.try_get(pfn) {
                        tally.broken(|| {
                            format!("R1: try_get succeeded on an offline frame: {folio:?}")
                        });
                    }
                }
                pause(5);
                cache.frames().online(offline);
                tally.onlined.add(1);
            }
            Err(OfflineError::OutOfFrames) => {
                // Make room for the contents of the block, and try again at once, before the
                // readers fill it; unless nothing could be reclaimed.
                let reclaimed = cache.reclaim(600) as u64;
                tally.reclaimed.add(reclaimed);
                if reclaimed > 0 {
                    continue;
                }
            }
            // Busy: a page of the block is pinned. NotOnline: the shrinker has the block, another
            // thread is emptying it, or its memory was given to the index.
            Err(OfflineError::Busy { .. } | OfflineError::NotOnline) => tally.busy.add(1),
            Err(error) => tally.broken(|| format!("offline of block {block}: {error}")),
        }
        pause(20);
    }
}

/// Allocates larger blocks, so that tails exist; frees them whole, or splits them and frees the
/// pieces in random order.
fn split<S: Scheme>(stage: &Stage<'_, S>, tally: &Tally, mut random: fastrand::Rng) {
    let zone = stage.cache.frames().zone();
    while stage.running() {
        tally.progress.add(1);
        let order = Order::new(random.u8(1..=4)).expect("a small order");
        let Ok(mut folio) = zone.alloc_frozen(order) else {
            tally.reclaimed.add(stage.cache.reclaim(64) as u64);
            pause(2);
            continue;
        };
        let fill = random.u8(1..);
        folio.as_mut_slice().fill(fill);
        let first = folio.pfn().as_u64();
        for tail in (first + 1..first + u64::from(order.frames())).map(Pfn::new) {
            if let Ok(got) = zone.try_get(tail) {
                tally.broken(|| format!("R1: try_get succeeded on a tail: {got:?}"));
            }
        }
        pause(1);
        if folio.as_slice().iter().any(|&byte| byte != fill) {
            tally.broken(|| format!("another thread wrote to {folio:?}"));
        }
        if random.bool() {
            folio.set_owner(SPLIT, 0);
            let counted = folio.init();
            pause(1);
            drop(counted);
        } else {
            let mut pieces: Vec<_> =
                folio.split(Order::new(random.u8(..order.as_u8())).expect("smaller")).collect();
            random.shuffle(&mut pieces);
            pieces.into_iter().for_each(FrozenFolio::free);
        }
        tally.split.add(1);
    }
}

/// Compacts: empties up to 4 blocks of 2 MiB at a time.
fn compact<S: Scheme>(stage: &Stage<'_, S>, tally: &Tally, mut random: fastrand::Rng) {
    while stage.running() {
        tally.progress.add(1);
        // Free frames that pages can move into.
        tally.reclaimed.add(stage.cache.reclaim(random.usize(1..=128)) as u64);
        let done = stage.cache.frames().compact(random.u32(1..=4));
        tally.compacted.add(u64::from(done.emptied));
        tally.busy.add(u64::from(done.busy));
        pause(40);
    }
}

/// Allocates contiguous ranges that may contain the readers' pages, writes to them, and frees them.
fn contiguous<S: Scheme>(stage: &Stage<'_, S>, tally: &Tally, mut random: fastrand::Rng) {
    while stage.running() {
        tally.progress.add(1);
        let (frames, align) =
            (random.u32(1..=96), Order::new(random.u8(..=5)).expect("a small order"));
        match stage.cache.frames().alloc_contig(frames, align) {
            Ok(contig) => {
                tally.contiguous.add(1);
                let range = contig.pfns();
                if range.frames() != u64::from(frames)
                    || !range.start.as_u64().is_multiple_of(align.frames().into())
                {
                    tally.broken(|| {
                        format!("requested {frames} frames aligned to {align:?}, got {contig:?}")
                    });
                }
                let mut folios: Vec<_> = contig.into_folios().collect();
                let fill = random.u8(1..);
                for folio in &mut folios {
                    folio.as_mut_slice().fill(fill);
                }
                pause(2);
                if folios.iter().any(|folio| folio.as_slice().iter().any(|&byte| byte != fill)) {
                    tally.broken(|| format!("another thread wrote to {range:?}"));
                }
                random.shuffle(&mut folios);
                folios.into_iter().for_each(FrozenFolio::free);
            }
            Err(ContigError::Busy { .. }) => tally.busy.add(1),
            Err(ContigError::NotOnline | ContigError::NoPlace) => {}
            Err(ContigError::OutOfFrames) => tally.reclaimed.add(stage.cache.reclaim(128) as u64),
            // Empty or Unknown: neither is possible here.
            Err(error) => tally.broken(|| format!("alloc_contig of {frames} frames: {error}")),
        }
        pause(10);
    }
}

/// Returns up to a quarter of the cache's memory to the system, and takes it again.
fn shrink<S: Scheme>(stage: &Stage<'_, S>, tally: &Tally, mut random: fastrand::Rng) {
    let all = stage.cache.frames().zone().blocks();
    while stage.running() {
        tally.progress.add(1);
        let fewer = (all / 4).clamp(usize::from(all > 3), 8);
        tally.reclaimed.add(stage.cache.reclaim(fewer * 512) as u64);
        match stage.cache.frames().shrink_to(all - fewer) {
            Ok(()) => tally.shrunk.add(1),
            Err(OfflineError::Busy { .. }) => tally.busy.add(1),
            Err(OfflineError::OutOfFrames | OfflineError::NotOnline) => {}
            Err(error) => tally.broken(|| format!("shrink_to: {error}")),
        }
        pause(random.u64(5..=30));
        stage.cache.frames().grow_to(all);
        pause(60);
    }
}
