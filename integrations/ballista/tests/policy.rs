//! The policy binds the tasks of a real plan, as the scheduler asks it to.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ballista_core::JobId;
use ballista_core::extension::SessionConfigExt;
use ballista_core::serde::protobuf::AvailableVcores;
use ballista_core::serde::scheduler::{
    ExecutorMetadata, ExecutorOperatingSystemSpecification, ExecutorSpecification,
};
use ballista_scheduler::cluster::memory::InMemoryClusterState;
use ballista_scheduler::cluster::{BoundTask, ClusterState, DistributionPolicy};
use ballista_scheduler::planner::DefaultDistributedPlanner;
use ballista_scheduler::state::execution_graph::{ExecutionGraph, StaticExecutionGraph};
use ballista_scheduler::state::task_manager::JobInfoCache;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::prelude::{SessionConfig, SessionContext};
use folio_ballista::{Affinity, Settings};
use folio_datafusion::{TABLES, register_tables, write_tables};
use folio_object_store::v013::object_store::{ObjectStoreExt, memory::InMemory};
use url::Url;

const PARTITIONS: usize = 24;

type Jobs = Arc<HashMap<JobId, JobInfoCache>>;

/// A query's plan over real files.
struct Site {
    plan: Arc<dyn ExecutionPlan>,
    config: SessionConfig,
}

impl Site {
    /// Plans a query over tables in memory. Files above `min_size` are cut into parts.
    async fn new(query: &str, min_size: usize) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        write_tables(folder.path(), 0.01, 1000).expect("tables");
        let memory = InMemory::new();
        for table in TABLES {
            let name = format!("{table}.parquet");
            let bytes = std::fs::read(folder.path().join(&name)).expect("a table");
            memory.put(&name.into(), bytes.into()).await.expect("a table");
        }
        let config = SessionConfig::new_with_ballista()
            .with_target_partitions(PARTITIONS)
            .set_usize("datafusion.optimizer.repartition_file_min_size", min_size);
        let session = SessionContext::new_with_config(config.clone());
        // The executors are chosen by the names, so these are the same on each machine.
        let url = "memory://tables/";
        session.register_object_store(&Url::parse(url).expect("a URL"), Arc::new(memory));
        register_tables(&session, url).await.expect("tables");
        let plan = session.sql(query).await.expect("a plan").create_physical_plan().await;
        Self { plan: plan.expect("a plan"), config }
    }

    /// Returns a job that runs the query, in a session of its own.
    fn job(&self, name: &str) -> Jobs {
        let id = JobId::from(name.to_owned());
        let mut planner = DefaultDistributedPlanner::new();
        let mut graph = StaticExecutionGraph::new(
            "scheduler",
            &id,
            name,
            name,
            Arc::clone(&self.plan),
            0,
            Arc::new(self.config.clone()),
            &mut planner,
            None,
        )
        .expect("a graph");
        graph.revive();
        Arc::new(HashMap::from([(id, JobInfoCache::new(Box::new(graph)))]))
    }
}

fn metadata(id: &str) -> ExecutorMetadata {
    ExecutorMetadata {
        id: id.to_owned(),
        host: "localhost".to_owned(),
        port: 1,
        grpc_port: 2,
        specification: ExecutorSpecification::default().with_vcores(4),
        os_info: ExecutorOperatingSystemSpecification::default(),
    }
}

async fn policy(executors: &[&str], settings: Settings) -> Affinity {
    let cluster = Arc::new(InMemoryClusterState::default());
    for id in executors {
        cluster.save_executor_metadata(metadata(id)).await.expect("a new executor");
    }
    Affinity::new(cluster, settings)
}

fn settings(patience: Duration) -> Settings {
    let mut settings = Settings::default();
    settings.patience = patience;
    settings
}

/// Has tasks bound to executors with free threads. Returns them, and the threads that are left.
async fn bind(policy: &Affinity, jobs: &Jobs, free: &[(&str, u32)]) -> (Vec<BoundTask>, Vec<u32>) {
    let mut budgets: Vec<_> = free
        .iter()
        .map(|(id, vcores)| AvailableVcores { executor_id: (*id).to_owned(), vcores: *vcores })
        .collect();
    let bound = policy.bind_tasks(budgets.iter_mut().collect(), Arc::clone(jobs)).await;
    (bound.expect("tasks"), budgets.iter().map(|budget| budget.vcores).collect())
}

/// Returns the executor of each partition.
fn places(bound: &[BoundTask]) -> BTreeMap<usize, String> {
    let mut places = BTreeMap::new();
    for (executor, task) in bound {
        for &partition in &task.global_input_partition_ids {
            let before = places.insert(partition, executor.clone());
            assert_eq!(before, None, "partition {partition} is bound twice");
        }
    }
    places
}

const SCAN: &str = "select l_returnflag, count(*) from lineitem group by l_returnflag";
const MANY: u32 = 1000;

#[tokio::test]
async fn parts_of_a_file_go_to_the_same_executors_in_each_job() {
    let site = Site::new(SCAN, 1).await;
    let policy = policy(&["a", "b", "c"], settings(Duration::MAX)).await;
    let (first, left) =
        bind(&policy, &site.job("one"), &[("a", MANY), ("b", MANY), ("c", MANY)]).await;
    let first = places(&first);
    assert_eq!(first.len(), PARTITIONS, "all are bound");
    assert_eq!(left.iter().sum::<u32>() as usize, 3 * MANY as usize - PARTITIONS);
    for executor in ["a", "b", "c"] {
        let share = first.values().filter(|place| *place == executor).count();
        assert!((1..=10).contains(&share), "{executor} has {share} of 24, at most 24 / 3 * 1.25");
    }
    let (second, _) =
        bind(&policy, &site.job("two"), &[("c", MANY), ("a", MANY), ("b", MANY)]).await;
    assert_eq!(places(&second), first);

    // Another policy, as after a restart of the scheduler.
    let again = self::policy(&["c", "b", "a"], settings(Duration::MAX)).await;
    let (third, _) =
        bind(&again, &site.job("three"), &[("a", MANY), ("b", MANY), ("c", MANY)]).await;
    assert_eq!(places(&third), first);
    assert_eq!(policy.stats().at_home, 2 * PARTITIONS as u64);
}

#[tokio::test]
async fn parts_wait_for_a_busy_executor_until_patience_ends() {
    let site = Site::new(SCAN, 1).await;
    let names = ["a", "b"];
    let patient = policy(&names, settings(Duration::MAX)).await;
    let job = site.job("patient");
    let (mine, _) = bind(&patient, &job, &[("a", MANY)]).await;
    let mine = places(&mine);
    assert!(!mine.is_empty() && mine.len() < PARTITIONS);
    assert!(mine.values().all(|place| place == "a"));
    let (none, left) = bind(&patient, &job, &[("a", MANY)]).await;
    assert!(none.is_empty() && left == [MANY], "the others wait for b");
    let (rest, _) = bind(&patient, &job, &[("b", MANY)]).await;
    assert_eq!(places(&rest).len() + mine.len(), PARTITIONS);

    let hasty = policy(&names, settings(Duration::ZERO)).await;
    let (all, _) = bind(&hasty, &site.job("hasty"), &[("a", MANY)]).await;
    assert_eq!(places(&all).len(), PARTITIONS, "none waits");
    assert_eq!(hasty.stats().spilled as usize, PARTITIONS - mine.len());
}

#[tokio::test]
async fn threads_are_never_oversubscribed() {
    let site = Site::new(SCAN, 1).await;
    let policy = policy(&["a", "b"], settings(Duration::ZERO)).await;
    let job = site.job("small");
    let mut found = BTreeMap::new();
    for _ in 0..PARTITIONS {
        let (bound, left) = bind(&policy, &job, &[("a", 2), ("b", 1)]).await;
        let mut used = [0, 0];
        for (executor, task) in &bound {
            used[usize::from(executor == "b")] += task.vcores_consumed;
        }
        assert_eq!((used[0] + left[0], used[1] + left[1]), (2, 1));
        let places = places(&bound);
        for (partition, place) in places {
            assert_eq!(found.insert(partition, place), None, "partition {partition}");
        }
        if bound.is_empty() {
            break;
        }
    }
    assert_eq!(found.len(), PARTITIONS);
}

#[tokio::test]
async fn a_new_executor_takes_only_its_share() {
    let site = Site::new(SCAN, 1).await;
    let before = policy(&["a", "b", "c"], settings(Duration::MAX)).await;
    let (old, _) = bind(&before, &site.job("1"), &[("a", MANY), ("b", MANY), ("c", MANY)]).await;
    let after = policy(&["a", "b", "c", "d"], settings(Duration::MAX)).await;
    let free = [("a", MANY), ("b", MANY), ("c", MANY), ("d", MANY)];
    let (new, _) = bind(&after, &site.job("2"), &free).await;
    let (old, new) = (places(&old), places(&new));
    let moved = old.iter().filter(|(partition, place)| new[*partition] != **place).count();
    assert!(moved > 0 && moved <= PARTITIONS / 2, "{moved} of {PARTITIONS} moved");
}

#[tokio::test]
async fn a_stage_that_merges_all_parts_is_one_task() {
    // A small file is one part.
    let site = Site::new("select n_name from nation order by n_name", 10 << 20).await;
    let policy = policy(&["a", "b"], settings(Duration::MAX)).await;
    let job = site.job("sorted");
    let (bound, _) = bind(&policy, &job, &[("a", 4), ("b", 4)]).await;
    assert_eq!(bound.len(), 1, "{bound:?}");
    let (again, _) = bind(&policy, &site.job("other"), &[("a", 4), ("b", 4)]).await;
    assert_eq!(bound[0].0, again[0].0, "the table is read where it was read before");
}

/// Prints what a call costs, for the record: no assertion depends on the time.
#[tokio::test]
async fn a_call_with_many_executors_binds_all() {
    let site = Site::new(SCAN, 1).await;
    let names: Vec<String> = (0..100).map(|number| format!("executor-{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let policy = policy(&names, settings(Duration::MAX)).await;
    let free: Vec<_> = names.iter().map(|name| (*name, 8)).collect();
    let mut jobs = HashMap::new();
    for number in 0..40 {
        let job = site.job(&format!("job {number}"));
        jobs.extend(job.iter().map(|(id, info)| (id.clone(), info.clone())));
    }
    let (jobs, start) = (Arc::new(jobs), Instant::now());
    let (bound, _) = bind(&policy, &jobs, &free).await;
    println!("{} partitions, 100 executors: {:?}", 40 * PARTITIONS, start.elapsed());
    let bound: usize = bound.iter().map(|(_, task)| task.global_input_partition_ids.len()).sum();
    assert!(bound > 0 && bound <= 800, "{bound}: no more than there are threads");
}
