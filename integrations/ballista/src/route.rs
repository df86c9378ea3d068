//! The routing hook of `datafusion-distributed`: tasks go to the worker that has their bytes.

use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::error::Result;
use datafusion_distributed::{
    DistributedGetterExt, DistributedLeafExec, RouteTasksEvent, RouteTasksEventResponse,
};

use crate::homes::{Key, homes};
use crate::scan::{files, largest};

/// Routes the tasks of a stage that reads files by the hashing of [`Affinity`](crate::Affinity):
/// over the URLs of the workers, which must stay the same over restarts. Other stages are left to
/// the engine. No worker has more tasks than its share.
///
/// It is for `DistributedExt::with_distributed_route_tasks_handler`. The engine cuts files into as
/// many parts as it has workers, unless `with_distributed_max_tasks_per_stage` sets a number. Set
/// it: otherwise a worker that joins changes all parts.
pub fn route_tasks(event: RouteTasksEvent<'_>) -> Option<Result<RouteTasksEventResponse>> {
    let RouteTasksEvent { task_ctx, plan, task_count } = event;
    // The length and the hash of the largest range that each task reads.
    let mut ranges = vec![None; task_count];
    let walk = plan.apply(|node| {
        if let Some(leaf) = node.downcast_ref::<DistributedLeafExec>() {
            for (range, variant) in ranges.iter_mut().zip(leaf.variants()) {
                let Some(scan) = files(variant) else { continue };
                let found = scan.file_groups.iter().filter_map(|group| largest(scan, group));
                *range = found.chain(*range).max();
            }
        }
        Ok(TreeNodeRecursion::Continue)
    });
    if let Err(error) = walk {
        return Some(Err(error));
    }
    if ranges.iter().all(Option::is_none) {
        return None;
    }
    let resolver = task_ctx.session_config().get_distributed_worker_resolver();
    let workers = match resolver.and_then(|resolver| resolver.get_urls()) {
        Ok(workers) => workers,
        Err(error) => return Some(Err(error)),
    };
    // A task without a range reads nothing: any worker serves.
    let key =
        |range: &Option<(u64, u64)>| Key { hash: range.map_or(0, |(_, hash)| hash), replicas: 1 };
    let keys: Vec<Key> = ranges.iter().map(key).collect();
    let homes = homes(&keys, &workers, 0.0);
    let urls = homes.iter().filter_map(|home| Some(workers.get(*home.first()?)?.clone()));
    Some(Ok(RouteTasksEventResponse::new(urls.collect())))
}
