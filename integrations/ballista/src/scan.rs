//! Finds what the tasks of a stage read of files, by the plan of the stage.

use std::any::Any;
use std::sync::Arc;

use ballista_core::execution_plans::{RangeShuffleReaderExec, ShuffleReaderExec};
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfig};
use datafusion::datasource::source::DataSourceExec;
use datafusion::physical_expr::Distribution;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use datafusion::physical_plan::sorts::sort_preserving_merge::SortPreservingMergeExec;
use datafusion::physical_plan::union::UnionExec;

use crate::homes::hash;

type Plan = Arc<dyn ExecutionPlan>;

/// Returns the hash of what each partition of a stage reads of files, or `None` for a partition
/// that reads none. The list is empty if no partition reads a part of a file of its own.
///
/// `DataFusion` cuts files into ranges of bytes, and a range reads the row groups that begin in it.
/// The hash is that of the store, the file and the start of the range. So it stays the same from
/// query to query, as long as the file and the number of partitions do.
pub(crate) fn parts(plan: &Plan) -> Vec<Option<u64>> {
    if let Some(scan) = files(plan) {
        return scan.file_groups.iter().map(|group| part(scan, group)).collect();
    }
    let children = plan.children();
    if plan.is::<UnionExec>() {
        // A partition of a union is a partition of one of its children.
        let all: Vec<_> = children.iter().flat_map(|child| parts_or_none(child)).collect();
        return if all.iter().any(Option::is_some) { all } else { Vec::new() };
    }
    if plan.is::<CoalescePartitionsExec>() || plan.is::<SortPreservingMergeExec>() {
        return Vec::new();
    }
    let required = plan.input_distribution_requirements();
    children
        .iter()
        .zip(required.per_child_distributions())
        .filter(|(_, distribution)| !matches!(distribution, Distribution::SinglePartition))
        .map(|(child, _)| parts(child))
        .find(|parts| !parts.is_empty())
        .unwrap_or_default()
}

fn parts_or_none(plan: &Plan) -> Vec<Option<u64>> {
    let parts = parts(plan);
    if parts.is_empty() { vec![None; partitions(plan)] } else { parts }
}

/// Returns the hash of something that the plan reads of files, for a task that reads all of it.
pub(crate) fn any(plan: &Plan) -> Option<u64> {
    if let Some(scan) = files(plan) {
        return scan.file_groups.iter().find_map(|group| part(scan, group));
    }
    plan.children().into_iter().find_map(any)
}

/// Returns `true` if one task must have all partitions of a stage: an operator below the root
/// merges them, and nothing above it would merge the results of several tasks.
///
/// It is the rule that Ballista's own policies follow (`stage_has_input_collapse`).
pub(crate) fn is_one_task(root: &Plan) -> bool {
    let mut plan = root;
    while let [child] = plan.children()[..] {
        if child.is::<ShuffleReaderExec>() || child.is::<RangeShuffleReaderExec>() {
            return false;
        }
        if partitions(child) == 1 {
            return true;
        }
        plan = child;
    }
    false
}

fn partitions(plan: &Plan) -> usize {
    plan.properties().output_partitioning().partition_count()
}

/// Returns what a plan scans, if it is a scan of files.
pub(crate) fn files(plan: &Plan) -> Option<&FileScanConfig> {
    let source: &dyn Any = plan.downcast_ref::<DataSourceExec>()?.data_source().as_ref();
    source.downcast_ref::<FileScanConfig>()
}

/// Returns the hash of the largest range of a group.
fn part(scan: &FileScanConfig, group: &FileGroup) -> Option<u64> {
    largest(scan, group).map(|(_, hash)| hash)
}

/// Returns the length and the hash of the largest range of a group.
pub(crate) fn largest(scan: &FileScanConfig, group: &FileGroup) -> Option<(u64, u64)> {
    let sized = group.iter().map(|file| {
        let size = file.object_meta.size;
        let (start, end) =
            file.range.as_ref().map_or((0, size), |range| (range.start as u64, range.end as u64));
        (end.saturating_sub(start), start, file)
    });
    let (length, start, file) = sized.max_by_key(|(length, ..)| *length)?;
    let store = hash(start, scan.object_store_url.as_str().as_bytes());
    Some((length, hash(store, file.object_meta.location.as_ref().as_bytes())))
}
