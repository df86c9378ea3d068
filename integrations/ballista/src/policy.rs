//! The scheduler's policy: tasks go to the executors that have their bytes.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use ballista_core::JobId;
use ballista_core::extension::SessionConfigExt;
use ballista_core::serde::protobuf::{AvailableVcores, job_status};
use ballista_core::serde::scheduler::TaskKey;
use ballista_scheduler::cluster::{BoundTask, ClusterState, DistributionPolicy};
use ballista_scheduler::state::execution_graph::{TaskDescription, create_task_info};
use ballista_scheduler::state::execution_stage::RunningStage;
use ballista_scheduler::state::task_manager::JobInfoCache;

use crate::heat::Heat;
use crate::homes::{Key, homes, ranked};
use crate::place::{Placed, Wish, place};
use crate::scan;

/// The settings of an [`Affinity`].
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Settings {
    /// The part of its share that an executor may have above it: 0.25 is a fourth more.
    pub slack: f64,
    /// The time that a stage waits for the executors that have its bytes, while others are free.
    pub patience: Duration,
    /// The number of executors that have the bytes of what is read much more often than the rest.
    pub replicas: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self { slack: 0.25, patience: Duration::from_secs(3), replicas: 2 }
    }
}

/// The counters of a policy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Calls of the scheduler.
    pub calls: u64,
    /// The time of all calls.
    pub time: Duration,
    /// Tasks that were bound. Each has one partition or more.
    pub tasks: u64,
    /// Partitions that went to the executor that has their bytes.
    pub at_home: u64,
    /// Partitions that went to another one, after they had waited.
    pub spilled: u64,
    /// Partitions that read no file of their own, and went to any executor.
    pub anywhere: u64,
}

impl fmt::Display for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let each = |count: u64| self.time.as_secs_f64() * 1e6 / count.max(1) as f64;
        write!(
            f,
            "{} partitions went to the executors that have their bytes, {} to others, {} read no \
             file; {} calls took {:.0} us each, which is {:.0} us for each of {} tasks",
            self.at_home,
            self.spilled,
            self.anywhere,
            self.calls,
            each(self.calls),
            each(self.tasks),
            self.tasks
        )
    }
}

/// A policy that sends the tasks of a part of a file to the same executor each time.
///
/// It is for `SchedulerConfig::with_task_distribution`, as `TaskDistributionPolicy::Custom`, and
/// serves scheduling by push and by pull. Executors must keep their ids over restarts, if what
/// they cached is to be found again.
///
/// The scheduler calls it when a job is submitted or a task ends, or when an executor polls. So a
/// stage that waits longer than [`Settings::patience`] goes on at the next such call.
pub struct Affinity {
    cluster: Arc<dyn ClusterState>,
    settings: Settings,
    heat: Mutex<Heat>,
    counters: [AtomicU64; 6],
}

impl Affinity {
    /// Makes a policy for a cluster (`BallistaCluster::cluster_state`), of which it asks the names
    /// of all executors.
    pub fn new(cluster: Arc<dyn ClusterState>, settings: Settings) -> Self {
        Self { cluster, settings, heat: Mutex::default(), counters: Default::default() }
    }

    /// Returns what it has done so far.
    pub fn stats(&self) -> Stats {
        let [calls, nanos, at_home, spilled, anywhere, tasks] =
            [0, 1, 2, 3, 4, 5].map(|counter: usize| self.counters[counter].load(Relaxed));
        Stats { calls, time: Duration::from_nanos(nanos), tasks, at_home, spilled, anywhere }
    }

    fn count(&self, placed: &Placed) {
        for (counter, n) in [(2, placed.at_home), (3, placed.spilled), (4, placed.anywhere)] {
            self.counters[counter].fetch_add(n, Relaxed);
        }
    }

    /// Returns what each partition of a stage wishes for.
    fn wishes(&self, parts: &[Option<u64>], executors: &[String]) -> Vec<Wish> {
        let heat = self.heat.lock().unwrap_or_else(PoisonError::into_inner);
        let keys: Vec<Key> = parts
            .iter()
            .flatten()
            .map(|&hash| {
                let replicas = if heat.is_hot(hash) { self.settings.replicas } else { 1 };
                Key { hash, replicas }
            })
            .collect();
        drop(heat);
        let mut found = homes(&keys, executors, self.settings.slack).into_iter();
        let wish = |part: &Option<u64>| match part {
            Some(hash) => {
                Wish { homes: found.next().unwrap_or_default(), ranked: ranked(*hash, executors) }
            }
            None => Wish::default(),
        };
        parts.iter().map(wish).collect()
    }

    fn record(&self, parts: &[Option<u64>], placed: &Placed) {
        let mut heat = self.heat.lock().unwrap_or_else(PoisonError::into_inner);
        let given = placed.to.iter().flatten();
        for &key in given.filter_map(|&partition| parts.get(partition)?.as_ref()) {
            heat.record(key);
        }
    }

    /// Returns the partitions that each executor gets of a stage now.
    fn place(&self, stage: &mut RunningStage, executors: &[String], free: &mut [u32]) -> Placed {
        let late = waited(stage) >= self.settings.patience;
        let pending = stage.pending.next_slice(usize::MAX);
        let placed = if scan::is_one_task(&stage.plan) {
            let parts = vec![scan::any(&stage.plan)];
            let wishes = self.wishes(&parts, executors);
            // One task has all, and takes one thread.
            let mut placed = place(&[0], &wishes, free, late);
            self.record(&parts, &placed);
            for given in placed.to.iter_mut().chain([&mut placed.left]) {
                if !given.is_empty() {
                    given.clone_from(&pending);
                }
            }
            placed
        } else {
            let parts = scan::parts(&stage.plan);
            let wishes = self.wishes(&parts, executors);
            let placed = place(&pending, &wishes, free, late);
            self.record(&parts, &placed);
            placed
        };
        stage.pending.reschedule(placed.left.iter().copied());
        self.count(&placed);
        placed
    }

    /// Binds what can be bound of a job, and counts the free threads down.
    async fn bind_job(
        &self,
        job: &JobId,
        info: &JobInfoCache,
        executors: &[String],
        free: &mut [u32],
    ) -> Vec<BoundTask> {
        let mut bound = Vec::new();
        let mut graph = info.execution_graph.write().await;
        let session = graph.session_id().to_owned();
        let mut seen = Vec::new();
        while free.iter().any(|&free| free > 0) {
            let Some(stage) = graph.fetch_running_stage(&seen) else { break };
            seen.push(stage.stage_id);
            let placed = self.place(stage, executors, free);
            let one = scan::is_one_task(&stage.plan);
            let limit = stage.session_config.ballista_config().max_partitions_per_task();
            let limit = if one || limit == 0 { usize::MAX } else { limit };
            for (executor, partitions) in executors.iter().zip(placed.to) {
                for slice in partitions.chunks(limit) {
                    let threads = if one { 1 } else { slice.len() as u32 };
                    bound.push(bind(stage, &session, job, executor, slice, threads));
                }
            }
        }
        bound
    }
}

impl fmt::Debug for Affinity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Affinity")
            .field("settings", &self.settings)
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}

/// Returns how long no task of a stage was bound.
fn waited(stage: &RunningStage) -> Duration {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    let last = stage.task_infos.iter().map(|task| task.scheduled_time).max();
    let since = last.unwrap_or_default().max(stage.stage_running_time);
    Duration::from_millis(u64::try_from(now.saturating_sub(since)).unwrap_or(u64::MAX))
}

/// Makes a task of partitions that were taken from the stage.
fn bind(
    stage: &mut RunningStage,
    session: &str,
    job: &JobId,
    executor: &str,
    partitions: &[usize],
    threads: u32,
) -> BoundTask {
    let task_id = stage.task_infos.len();
    let mut info = create_task_info(executor.to_owned(), task_id);
    info.global_input_partition_ids = partitions.to_vec();
    info.vcores_consumed = threads;
    stage.task_infos.push(info);
    let failures = partitions.iter().filter_map(|&part| stage.task_failure_numbers.get(part));
    let task = TaskDescription {
        session_id: session.to_owned(),
        key: TaskKey { job_id: job.clone(), stage_id: stage.stage_id, task_id },
        stage_attempt_num: stage.stage_attempt_num,
        task_attempt: failures.copied().max().unwrap_or_default(),
        global_input_partition_ids: partitions.to_vec(),
        vcores_consumed: threads,
        plan: Arc::clone(&stage.plan),
        session_config: Arc::clone(&stage.session_config),
    };
    (executor.to_owned(), task)
}

#[async_trait]
impl DistributionPolicy for Affinity {
    async fn bind_tasks(
        &self,
        mut budgets: Vec<&mut AvailableVcores>,
        running_jobs: Arc<HashMap<JobId, JobInfoCache>>,
    ) -> datafusion::error::Result<Vec<BoundTask>> {
        let start = Instant::now();
        // Busy executors are not in the budgets, and yet keys belong to them.
        let registered = self.cluster.registered_executor_metadata().await;
        let mut executors: Vec<String> = registered.into_iter().map(|known| known.id).collect();
        executors.extend(budgets.iter().map(|budget| budget.executor_id.clone()));
        executors.sort_unstable();
        executors.dedup();
        let mut free = vec![0; executors.len()];
        for budget in &budgets {
            if let Ok(executor) = executors.binary_search(&budget.executor_id) {
                free[executor] = budget.vcores;
            }
        }
        let mut bound = Vec::new();
        for (job, info) in running_jobs.iter() {
            if matches!(info.status, Some(job_status::Status::Running(_))) {
                bound.extend(self.bind_job(job, info, &executors, &mut free).await);
            }
        }
        for budget in &mut budgets {
            if let Ok(executor) = executors.binary_search(&budget.executor_id) {
                budget.vcores = free[executor];
            }
        }
        self.counters[0].fetch_add(1, Relaxed);
        self.counters[1].fetch_add(start.elapsed().as_nanos() as u64, Relaxed);
        self.counters[5].fetch_add(bound.len() as u64, Relaxed);
        Ok(bound)
    }

    fn name(&self) -> &'static str {
        "affinity"
    }
}
