//! The roles of the processes: a scheduler, or an executor.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Result;
use ballista_core::utils::default_session_builder;
use ballista_executor::executor_process::{ExecutorProcessConfig, start_executor_process};
use ballista_scheduler::cluster::BallistaCluster;
use ballista_scheduler::config::{SchedulerConfig, TaskDistributionPolicy};
use ballista_scheduler::scheduler_process::start_server;
use datafusion::execution::object_store::{DefaultObjectStoreRegistry, ObjectStoreRegistry};
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use datafusion::execution::session_state::SessionStateBuilder;
use datafusion::prelude::SessionConfig;
use folio_ballista::{Affinity, Settings, SharedCache};
use folio_datafusion::{BUCKET, s3};
use folio_object_store::{Cache, Consistency, Options as CacheOptions, StoreStats};
use serde_json::json;
use url::Url;

use crate::process::{answer, free_port};
use crate::{Options, Policy};

/// Seconds after which an executor that is silent counts as dead.
const SILENCE: u64 = 20;

/// Returns the URL of the tables.
pub(crate) fn url() -> String {
    format!("s3://{BUCKET}/")
}

fn registry(address: &str) -> Result<Arc<dyn ObjectStoreRegistry>> {
    let registry = DefaultObjectStoreRegistry::new();
    registry.register_store(&Url::parse(&url())?, Arc::new(s3(address)?));
    Ok(Arc::new(registry))
}

/// Returns a runtime with the store, without a cache.
pub(crate) fn runtime(address: &str) -> Result<Arc<RuntimeEnv>> {
    let builder = RuntimeEnvBuilder::new().with_object_store_registry(registry(address)?);
    Ok(builder.build_arc()?)
}

/// Runs a scheduler until the process ends.
pub(crate) async fn scheduler(port: u16, address: &str, policy: Policy) -> Result<()> {
    let runtime = runtime(address)?;
    let config = SchedulerConfig {
        bind_port: port,
        external_host: "127.0.0.1".to_owned(),
        executor_timeout_seconds: SILENCE,
        expire_dead_executor_interval_seconds: 1,
        ..SchedulerConfig::default()
    };
    let config = config.with_override_session_builder(Arc::new(move |config: SessionConfig| {
        let state = default_session_builder(config)?;
        let builder = SessionStateBuilder::new_from_existing(state);
        Ok(builder.with_runtime_env(Arc::clone(&runtime)).build())
    }));
    let cluster = BallistaCluster::new_from_config(&config).await?;
    let affinity = Arc::new(Affinity::new(cluster.cluster_state(), Settings::default()));
    let config = config.with_task_distribution(match policy {
        Policy::Affinity => TaskDistributionPolicy::Custom(Arc::<Affinity>::clone(&affinity)),
        Policy::RoundRobin => TaskDistributionPolicy::RoundRobin,
        Policy::Bias => TaskDistributionPolicy::Bias,
    });
    let executors = cluster.cluster_state();
    answer(move || {
        let stats = affinity.stats();
        json!({
            "executors": executors.executor_heartbeats().len(), "policy": stats.to_string(),
            "calls": stats.calls, "us": stats.time.as_micros() as u64, "tasks": stats.tasks,
            "at_home": stats.at_home, "spilled": stats.spilled, "anywhere": stats.anywhere,
        })
    });
    start_server(cluster, ([127, 0, 0, 1], port).into(), Arc::new(config)).await?;
    Ok(())
}

/// Runs an executor until the process ends. All its sessions share one cache.
pub(crate) async fn executor(
    options: &Options,
    scheduler_port: u16,
    address: &str,
    executor_id: String,
    work_dir: PathBuf,
) -> Result<()> {
    let cache = Cache::new(options.memory << 20)?;
    let immutable = CacheOptions::new().consistency(Consistency::Immutable);
    let shared = SharedCache::new(&cache, registry(address)?, immutable);
    let config = ExecutorProcessConfig {
        executor_id,
        port: free_port()?,
        grpc_port: free_port()?,
        scheduler_host: "127.0.0.1".to_owned(),
        scheduler_port,
        scheduler_connect_timeout_seconds: 30,
        vcores: options.threads,
        work_dir: Some(work_dir.display().to_string()),
        executor_heartbeat_interval_seconds: 1,
        override_runtime_producer: Some(shared.runtime_producer(work_dir)),
        ..ExecutorProcessConfig::default()
    };
    answer(move || {
        let stats = shared.stats().first().map_or_else(StoreStats::default, |(_, stats)| *stats);
        json!({
            "wanted": stats.bytes_wanted, "hit": stats.bytes_hit,
            "fetched": stats.bytes_fetched, "requests": stats.requests,
        })
    });
    start_executor_process(Arc::new(config)).await?;
    Ok(())
}
