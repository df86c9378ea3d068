//! The one command: starts the cluster, runs the queries, lets executors come, go and die.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use ballista_core::extension::{SessionConfigExt, SessionStateExt};
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::execution::session_state::SessionStateBuilder;
use datafusion::prelude::{SessionConfig, SessionContext};
use folio_datafusion::{BUCKET, QUERIES, answer, register_tables, s3, upload_tables, write_tables};
use folio_loopback::Server;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::Options;
use crate::process::{Part, free_port};
use crate::roles::{runtime, url};

/// The number of times that a query is asked again if its executor dies.
const ASKED_AGAIN: usize = 3;

/// Bytes that executors read.
#[derive(Clone, Copy, Debug, Default)]
struct Read {
    wanted: u64,
    hit: u64,
    fetched: u64,
    requests: u64,
}

impl Read {
    fn parse(value: &Value) -> Result<Self> {
        let number = |name: &str| value[name].as_u64().with_context(|| format!("no {name}"));
        Ok(Self {
            wanted: number("wanted")?,
            hit: number("hit")?,
            fetched: number("fetched")?,
            requests: number("requests")?,
        })
    }

    fn since(self, before: Self) -> Self {
        Self {
            wanted: self.wanted.saturating_sub(before.wanted),
            hit: self.hit.saturating_sub(before.hit),
            fetched: self.fetched.saturating_sub(before.fetched),
            requests: self.requests.saturating_sub(before.requests),
        }
    }

    fn add(&mut self, other: Self) {
        self.wanted += other.wanted;
        self.hit += other.hit;
        self.fetched += other.fetched;
        self.requests += other.requests;
    }

    /// Returns the share of the bytes that came from caches.
    fn share(self) -> f64 {
        if self.wanted == 0 { 1.0 } else { self.hit as f64 / self.wanted as f64 }
    }
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// The processes, and the data that they read.
struct Cluster<'a> {
    options: &'a Options,
    folder: TempDir,
    server: Server,
    port: u16,
    scheduler: Part,
    executors: Vec<Part>,
    seen: BTreeMap<String, Read>,
    runtime: Arc<RuntimeEnv>,
    queries: Vec<usize>,
    expected: Vec<String>,
    records: Vec<Value>,
}

impl<'a> Cluster<'a> {
    async fn start(options: &'a Options) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let (tables, root) = (folder.path().join("tables"), folder.path().join("store"));
        std::fs::create_dir(&tables)?;
        std::fs::create_dir_all(root.join(BUCKET))?;
        if let Err(error) = write_tables(&tables, options.scale, options.group_rows) {
            bail!("cannot write the tables: {error}");
        }
        let queries = match &options.queries[..] {
            [] => (1..=QUERIES.len()).collect(),
            some => some.to_vec(),
        };
        let expected = local_answers(&tables, &queries).await?;
        let server = Server::s3(&root, Duration::from_millis(options.delay)).await?;
        if let Err(error) = upload_tables(&tables, &s3(server.address())?).await {
            bail!("cannot upload the tables: {error}");
        }
        let port = free_port()?;
        let arguments = Self::arguments("scheduler", port, server.address());
        let policy = ["--policy".to_owned(), options.policy.name()];
        let scheduler = Part::start("scheduler", &[&arguments[..], &policy].concat())?;
        let runtime = runtime(server.address())?;
        let (executors, seen, records) = (Vec::new(), BTreeMap::new(), Vec::new());
        let mut cluster = Self {
            options,
            folder,
            server,
            port,
            scheduler,
            executors,
            seen,
            runtime,
            queries,
            expected,
            records,
        };
        for number in 1..=options.executors {
            cluster.join(number)?;
        }
        cluster.wait_for(options.executors).await?;
        Ok(cluster)
    }

    fn arguments(role: &str, port: u16, address: &str) -> Vec<String> {
        let port = port.to_string();
        ["--role", role, "--scheduler-port", &port, "--address", address]
            .map(str::to_owned)
            .to_vec()
    }

    /// Starts an executor.
    fn join(&mut self, number: usize) -> Result<()> {
        let name = format!("executor-{number}");
        let work_dir = self.folder.path().join(&name);
        std::fs::create_dir_all(&work_dir)?;
        let mut arguments = Self::arguments("executor", self.port, self.server.address());
        arguments.extend([
            "--id".to_owned(),
            name.clone(),
            "--work-dir".to_owned(),
            work_dir.display().to_string(),
            "--threads".to_owned(),
            self.options.threads.to_string(),
            "--memory".to_owned(),
            self.options.memory.to_string(),
        ]);
        self.executors.push(Part::start(&name, &arguments)?);
        Ok(())
    }

    /// Waits until the scheduler knows this many executors.
    async fn wait_for(&mut self, executors: usize) -> Result<()> {
        let start = Instant::now();
        while self.scheduler.ask().await?["executors"] != executors {
            ensure!(
                start.elapsed() < Duration::from_mins(1),
                "the scheduler does not have {executors} executors after a minute"
            );
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(())
    }

    /// Kills an executor.
    async fn kill(&mut self, number: usize) -> Result<()> {
        let name = format!("executor-{number}");
        let at = self.executors.iter().position(|executor| executor.name == name);
        let executor = self.executors.remove(at.with_context(|| format!("no {name}"))?);
        self.seen.remove(&name);
        executor.kill().await
    }

    /// Returns a session of a client of the cluster.
    async fn session(&self) -> Result<SessionContext> {
        // Ballista 55 loses a job that was planned adaptively if an executor dies with its output
        // (apache/datafusion-ballista#1986).
        let config = SessionConfig::new_with_ballista()
            .with_ballista_adaptive_query_planner(false)
            .with_target_partitions(self.options.partitions)
            .set_usize("datafusion.optimizer.repartition_file_min_size", 64 << 10);
        let state = SessionStateBuilder::new()
            .with_default_features()
            .with_config(config)
            .with_runtime_env(Arc::clone(&self.runtime))
            .build()
            .upgrade_for_ballista(format!("http://127.0.0.1:{}", self.port))?;
        let session = SessionContext::new_with_state(state);
        register_tables(&session, &url()).await?;
        Ok(session)
    }

    /// Runs the queries, compares the answers, and prints what the executors read.
    async fn run(&mut self, what: &str) -> Result<Read> {
        let session = self.session().await?;
        let start = Instant::now();
        let before = self.scheduler.ask().await?;
        for (&number, expected) in self.queries.iter().zip(&self.expected) {
            let found = answer(&session, QUERIES[number - 1]).await;
            let found = found.with_context(|| format!("query {number}, {what}"))?;
            ensure!(found == *expected, "{what}: query {number} has another answer:\n{found}");
        }
        let time = start.elapsed();
        self.say(format_args!("{what}: {} queries in {time:.1?}", self.queries.len()));
        let (all, parts) = self.reads().await?;
        let after = self.scheduler.ask().await?;
        let grown = |name: &str| {
            after[name].as_u64().unwrap_or_default() - before[name].as_u64().unwrap_or_default()
        };
        self.records.push(json!({
            "what": what, "seconds": time.as_secs_f64(), "executors": parts,
            "from_caches": all.share(), "fetched": all.fetched, "policy_calls": grown("calls"),
            "policy_us": grown("us"), "tasks": grown("tasks"), "at_home": grown("at_home"),
            "spilled": grown("spilled"), "anywhere": grown("anywhere"),
        }));
        Ok(all)
    }

    /// Asks the executors what they have read since the last time, and prints it. Returns the sum,
    /// and a record for each.
    async fn reads(&mut self) -> Result<(Read, Vec<Value>)> {
        let (mut all, mut lines, mut parts) = (Read::default(), Vec::new(), Vec::new());
        for executor in &mut self.executors {
            let (name, now) = (executor.name.clone(), Read::parse(&executor.ask().await?)?);
            let read = now.since(self.seen.insert(name.clone(), now).unwrap_or_default());
            all.add(read);
            lines.push(format!(
                "  {name} read {:.2} MiB: {:.2} from its cache; it fetched {:.2} by {} requests",
                mib(read.wanted),
                mib(read.hit),
                mib(read.fetched),
                read.requests
            ));
            parts.push(json!({
                "name": name, "wanted": read.wanted, "hit": read.hit, "fetched": read.fetched,
                "requests": read.requests,
            }));
        }
        lines.push(format!("  {:.4} of the bytes came from caches", all.share()));
        for line in lines {
            self.say(format_args!("{line}"));
        }
        Ok((all, parts))
    }

    /// Runs the queries while an executor dies. A loss costs the queries time, and no row. Returns
    /// the time of all queries, the number of answers with rows that came twice, and the number of
    /// times that a query was asked again: a client that fetches its rows from the executor that
    /// dies gets an error of Ballista.
    ///
    /// If an executor dies while the last stage of a query runs, the stage is repeated, and the
    /// scheduler of Ballista 55 keeps the results of both times. So rows are compared, not texts.
    async fn run_with_death(&mut self, number: usize) -> Result<(Duration, usize, usize)> {
        let start = Instant::now();
        let session = self.session().await?;
        let queries = self.queries.clone();
        let running = tokio::spawn(async move {
            let (mut answers, mut again) = (Vec::new(), 0);
            for number in queries {
                let mut asked = answer(&session, QUERIES[number - 1]).await;
                for _ in 0..ASKED_AGAIN {
                    if asked.is_err() {
                        again += 1;
                        tokio::time::sleep(Duration::from_secs(1)).await;
                        asked = answer(&session, QUERIES[number - 1]).await;
                    }
                }
                answers.push(asked?);
            }
            Ok::<_, datafusion::error::DataFusionError>((answers, again))
        });
        tokio::time::sleep(Duration::from_millis(500)).await;
        ensure!(!running.is_finished(), "the queries ended before the executor could die");
        self.kill(number).await?;
        let (answers, again) = running.await??;
        let mut twice = 0;
        for ((query, answer), expected) in self.queries.iter().zip(&answers).zip(&self.expected) {
            ensure!(
                rows(answer) == rows(expected),
                "query {query} has another answer after executor-{number} died:\n{answer}\ninstead \
                 of\n{expected}"
            );
            twice += usize::from(answer != expected);
        }
        let time = start.elapsed();
        self.say(format_args!(
            "executor-{number} died while queries ran: all rows are right, after {time:.1?}; in \
             {twice} answers Ballista gave some of them twice; a query was asked again {again} \
             times"
        ));
        self.reads().await?;
        self.wait_for(self.executors.len()).await?;
        Ok((time, twice, again))
    }

    fn say(&self, line: std::fmt::Arguments<'_>) {
        if !self.options.json {
            println!("{line}");
        }
    }
}

async fn local_answers(tables: &Path, queries: &[usize]) -> Result<Vec<String>> {
    let session = SessionContext::new();
    register_tables(&session, &format!("{}/", tables.display())).await?;
    let mut answers = Vec::new();
    for number in queries {
        answers.push(answer(&session, QUERIES[number - 1]).await?);
    }
    Ok(answers)
}

/// Runs it all.
pub(crate) async fn run(options: &Options) -> Result<()> {
    let mut cluster = Cluster::start(options).await?;
    let first = cluster.run("first run").await?;
    let second = cluster.run("second run").await?;
    let more = options.executors + 1;
    cluster.join(more)?;
    cluster.wait_for(more).await?;
    let joined = cluster.run(&format!("executor-{more} joined")).await?;
    cluster.kill(more).await?;
    cluster.wait_for(options.executors).await?;
    let left = cluster.run(&format!("executor-{more} left")).await?;
    let (death, twice, repeated) = cluster.run_with_death(1).await?;
    cluster.run("after the death").await?;
    let again = |read: Read| read.fetched as f64 / first.fetched.max(1) as f64;
    let scheduler = cluster.scheduler.ask().await?;
    let share = 1.0 / (options.executors as f64 + 1.0) + 0.05;
    let us_each = scheduler["us"].as_f64().unwrap_or_default()
        / scheduler["tasks"].as_f64().unwrap_or_default().max(1.0);
    for line in [
        format!("from caches in the second run: {:.4}, at least 0.98", second.share()),
        format!("read again after the join: {:.4}, at most {share:.4}", again(joined)),
        format!("read again after the leave: {:.4}, at most {share:.4}", again(left)),
        format!("the policy's time for each task: {us_each:.0} us"),
        scheduler["policy"].as_str().unwrap_or_default().to_owned(),
    ] {
        cluster.say(format_args!("{line}"));
    }
    if options.json {
        let result = json!({
            "machine": folio_report::machine(), "policy": options.policy.name(),
            "executors": options.executors, "threads": options.threads,
            "scale": options.scale, "group_rows": options.group_rows,
            "partitions": options.partitions, "delay_ms": options.delay,
            "queries": cluster.queries, "second_run_from_caches": second.share(),
            "read_again_after_join": again(joined), "read_again_after_leave": again(left),
            "policy_us_each_task": us_each, "seconds_with_a_death": death.as_secs_f64(),
            "answers_with_rows_twice": twice, "asked_again": repeated,
            "runs": cluster.records, "scheduler": scheduler,
        });
        println!("{result:#}");
    }
    Ok(())
}

/// Returns the rows of an answer, each once.
fn rows(answer: &str) -> BTreeSet<&str> {
    answer.lines().collect()
}
