//! The antagonists: what is done to the frames while they are read.

use std::thread;
use std::time::Duration;

use folio_frames::{
    ContigError, FolioRef, FrozenFolio, Kind, MigrateError, OfflineError, Order, Peek, Pfn,
    Refusal, UserSpace, Zone,
};
use folio_ref::Scheme;

use super::tally::Tally;
use super::{Stage, writer};

/// What the splitter allocates.
const SPLIT: Kind = Kind::owner(1);

/// An antagonist's loop.
pub(crate) type Antagonist<S> = fn(&Stage<'_, S>, &Tally, fastrand::Rng);

/// All of them, by name.
pub(crate) fn all<S: Scheme>() -> [(&'static str, Antagonist<S>); 9] {
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
    ]
}

/// Readers get most of the time.
pub(super) fn pause(milliseconds: u64) {
    thread::sleep(Duration::from_millis(milliseconds));
}

fn random_pfn<S: Scheme>(zone: &Zone<UserSpace<S>>, random: &mut fastrand::Rng) -> Pfn {
    let all = zone.pfns();
    Pfn::new(random.u64(all.start.as_u64()..all.end.as_u64()))
}

fn reclaim<S: Scheme>(stage: &Stage<'_, S>, tally: &Tally, mut random: fastrand::Rng) {
    while stage.running() {
        tally.progress.add(1);
        tally.reclaimed.add(stage.cache.reclaim(random.usize(1..=64)) as u64);
        pause(3);
    }
}

/// Frames that the walker looks at before it takes the first of them.
const LOOKED_AT: usize = 256;

/// Takes a reference on *every* frame in turn, and says why it was refused: by the frame's head, or
/// by its own word, if it still is what it was a moment ago.
fn walk<S: Scheme>(stage: &Stage<'_, S>, tally: &Tally, mut random: fastrand::Rng) {
    let zone = stage.cache.zone();
    let frames: Vec<Pfn> = zone.pfns().collect();
    let mut seen: Vec<Peek> = Vec::with_capacity(LOOKED_AT);
    let mut by_head = false;
    while stage.running() {
        by_head = !by_head;
        for frames in frames.chunks(LOOKED_AT) {
            seen.clear();
            seen.extend(frames.iter().map(|&pfn| zone.peek(pfn)));
            // What was seen grows old.
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

/// Checks that what the walker got is the frame it asked for, and stays what it is while it is
/// held.
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
        tally.broken(|| format!("R1, R8: a walker got {pfn:?}, and it is {folio:?}"));
    }
}

fn migrate<S: Scheme>(stage: &Stage<'_, S>, tally: &Tally, mut random: fastrand::Rng) {
    while stage.running() {
        tally.progress.add(1);
        for _ in 0..16 {
            match stage.cache.migrate(random_pfn(stage.cache.zone(), &mut random)) {
                Ok(_) => tally.migrated.add(1),
                Err(MigrateError::Busy) => tally.busy.add(1),
                Err(MigrateError::Moved | MigrateError::NotMovable | MigrateError::OutOfFrames) => {
                }
            }
        }
        pause(2);
    }
}

fn offline<S: Scheme>(stage: &Stage<'_, S>, tally: &Tally, mut random: fastrand::Rng) {
    let (cache, zone) = (&stage.cache, stage.cache.zone());
    while stage.running() {
        tally.progress.add(1);
        let block = random.usize(..zone.blocks());
        match cache.offline(block) {
            Ok(offline) => {
                tally.offlined.add(1);
                for pfn in zone.block_range(block) {
                    if let Ok(folio) = zone.try_get(pfn) {
                        tally.broken(|| format!("R1: an offline frame was acquired: {folio:?}"));
                    }
                }
                pause(5);
                cache.online(offline);
                tally.onlined.add(1);
            }
            Err(OfflineError::OutOfFrames) => {
                // Make room for its contents, and try again before the readers have filled it;
                // unless others did.
                let reclaimed = cache.reclaim(600) as u64;
                tally.reclaimed.add(reclaimed);
                if reclaimed > 0 {
                    continue;
                }
            }
            // Somebody holds a page of it; or the shrinker has it, somebody empties it, the index
            // pays with it.
            Err(OfflineError::Busy { .. } | OfflineError::NotOnline) => tally.busy.add(1),
        }
        pause(20);
    }
}

/// Allocates larger blocks, so that there are tails; cuts them up, frees the parts in any order.
fn split<S: Scheme>(stage: &Stage<'_, S>, tally: &Tally, mut random: fastrand::Rng) {
    let zone = stage.cache.zone();
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
                tally.broken(|| format!("R1: a tail was acquired: {got:?}"));
            }
        }
        pause(1);
        if folio.as_slice().iter().any(|&byte| byte != fill) {
            tally.broken(|| format!("somebody wrote to {folio:?}"));
        }
        if random.bool() {
            folio.set_owner(SPLIT, 0);
            let counted = folio.init();
            pause(1);
            drop(counted);
        } else {
            let mut parts: Vec<_> =
                folio.split(Order::new(random.u8(..order.as_u8())).expect("smaller")).collect();
            random.shuffle(&mut parts);
            parts.into_iter().for_each(FrozenFolio::free);
        }
        tally.split.add(1);
    }
}

/// Rebuilds whole blocks.
fn compact<S: Scheme>(stage: &Stage<'_, S>, tally: &Tally, mut random: fastrand::Rng) {
    while stage.running() {
        tally.progress.add(1);
        // Room to move into.
        tally.reclaimed.add(stage.cache.reclaim(random.usize(1..=128)) as u64);
        let done = stage.cache.compact(random.u32(1..=4));
        tally.compacted.add(u64::from(done.emptied));
        tally.busy.add(u64::from(done.busy));
        pause(40);
    }
}

/// Takes frames that lie together from under the readers, writes to them, and gives them back.
fn contiguous<S: Scheme>(stage: &Stage<'_, S>, tally: &Tally, mut random: fastrand::Rng) {
    while stage.running() {
        tally.progress.add(1);
        let (frames, align) =
            (random.u32(1..=96), Order::new(random.u8(..=5)).expect("a small order"));
        match stage.cache.alloc_contig(frames, align) {
            Ok(contig) => {
                tally.contiguous.add(1);
                let range = contig.pfns();
                if range.frames() != u64::from(frames)
                    || !range.start.as_u64().is_multiple_of(align.frames().into())
                {
                    tally.broken(|| {
                        format!(
                            "{frames} frames aligned to {align:?} were asked for, got {contig:?}"
                        )
                    });
                }
                let mut folios: Vec<_> = contig.into_folios().collect();
                let fill = random.u8(1..);
                for folio in &mut folios {
                    folio.as_mut_slice().fill(fill);
                }
                pause(2);
                if folios.iter().any(|folio| folio.as_slice().iter().any(|&byte| byte != fill)) {
                    tally.broken(|| format!("somebody wrote to {range:?}"));
                }
                random.shuffle(&mut folios);
                folios.into_iter().for_each(FrozenFolio::free);
            }
            Err(ContigError::Busy { .. }) => tally.busy.add(1),
            Err(ContigError::NotOnline | ContigError::NoPlace) => {}
            Err(ContigError::OutOfFrames) => tally.reclaimed.add(stage.cache.reclaim(128) as u64),
            Err(error @ (ContigError::Empty | ContigError::Unknown)) => {
                tally.broken(|| format!("{frames}: {error}"))
            }
        }
        pause(10);
    }
}

/// Gives a quarter of the cache's memory back to the system, and takes it again.
fn shrink<S: Scheme>(stage: &Stage<'_, S>, tally: &Tally, mut random: fastrand::Rng) {
    let all = stage.cache.zone().blocks();
    while stage.running() {
        tally.progress.add(1);
        let fewer = (all / 4).clamp(usize::from(all > 3), 8);
        tally.reclaimed.add(stage.cache.reclaim(fewer * 512) as u64);
        match stage.cache.shrink_to(all - fewer) {
            Ok(()) => tally.shrunk.add(1),
            Err(OfflineError::Busy { .. }) => tally.busy.add(1),
            Err(OfflineError::OutOfFrames | OfflineError::NotOnline) => {}
        }
        pause(random.u64(5..=30));
        stage.cache.grow_to(all);
        pause(60);
    }
}
