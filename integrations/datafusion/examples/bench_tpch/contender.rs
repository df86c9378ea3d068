//! The stores that the queries run over, and the run itself. Each contender and phase is a process,
//! so that it shares neither memory nor caches with another one.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result};
use clap::ValueEnum;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::prelude::{SessionConfig, SessionContext};
use folio_datafusion::{BUCKET, QUERIES, answer, register_tables, s3};
use folio_loopback::Traffic;
use folio_object_store::v013::CachedStore;
use folio_object_store::{Cache, Consistency, Options};
use object_store::ObjectStore;
use url::Url;

use crate::cost::{Cost, Run};
use crate::layer;
use crate::ranges::RangeCache;

/// A way to read the tables. `Foyer` caches ranges; `FoyerLayer` is the layer of opendal, which
/// caches objects. `Quarter` has a fourth of the data as its capacity. With `NoFooters` the
/// engine's own cache of metadata is off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Contender {
    Folio,
    FolioNoFooters,
    FolioQuarter,
    Foyer,
    FoyerNoFooters,
    FoyerQuarter,
    FoyerLayer,
    FoyerLayerNoFooters,
    FoyerLayerQuarter,
    Bare,
    BareNoFooters,
    Local,
}

impl Contender {
    pub(crate) fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    /// Returns what is measured. A cache that holds no more than a fourth is for the second run.
    pub(crate) fn phases(self) -> &'static [Phase] {
        match self {
            Self::FolioQuarter | Self::FoyerQuarter | Self::FoyerLayerQuarter => &[Phase::Warm],
            _ => &[Phase::Cold, Phase::Warm],
        }
    }

    /// Returns `true` if the engine caches footers and page indexes itself.
    fn footers(self) -> bool {
        !matches!(
            self,
            Self::FolioNoFooters
                | Self::FoyerNoFooters
                | Self::FoyerLayerNoFooters
                | Self::BareNoFooters
        )
    }
}

/// The part of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Phase {
    /// Each query with a session and a cache of its own
    Cold,
    /// All queries twice in one session; the second time counts
    Warm,
}

/// The place of the tables, and the bytes that may be cached.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// The address of the server.
    pub(crate) address: String,
    /// The folder of the tables.
    pub(crate) tables: PathBuf,
    /// The bytes of a cache that holds all of it.
    pub(crate) capacity: usize,
    /// The bytes of a small one.
    pub(crate) quarter: usize,
}

/// A session over a contender's store.
struct Setup<'a> {
    session: SessionContext,
    url: String,
    /// The address of the server, which counts the requests. Local files have none.
    address: Option<&'a str>,
}

impl<'a> Setup<'a> {
    async fn new(contender: Contender, place: &'a Place) -> Result<Self> {
        let limit = if contender.footers() { 50 << 20 } else { 0 };
        let runtime = RuntimeEnvBuilder::new().with_metadata_cache_limit(limit).build_arc()?;
        let config = SessionConfig::new().with_target_partitions(2);
        let session = SessionContext::new_with_config_rt(config, runtime);
        let address = &place.address;
        let bare = || Ok::<_, anyhow::Error>(Arc::new(s3(address)?));
        let store: Arc<dyn ObjectStore> = match contender {
            Contender::Folio | Contender::FolioNoFooters => cached(bare()?, place.capacity)?,
            Contender::FolioQuarter => cached(bare()?, place.quarter)?,
            Contender::Foyer | Contender::FoyerNoFooters => {
                Arc::new(RangeCache::new(bare()?, place.capacity))
            }
            Contender::FoyerQuarter => Arc::new(RangeCache::new(bare()?, place.quarter)),
            Contender::FoyerLayer | Contender::FoyerLayerNoFooters => {
                layer::store(address, place.capacity).await?
            }
            Contender::FoyerLayerQuarter => layer::store(address, place.quarter).await?,
            Contender::Bare | Contender::BareNoFooters => bare()?,
            Contender::Local => {
                let url = format!("{}/", place.tables.display());
                return Ok(Self { session, url, address: None });
            }
        };
        let url = format!("s3://{BUCKET}/");
        session.register_object_store(&Url::parse(&url)?, store);
        Ok(Self { session, url, address: Some(address) })
    }

    async fn traffic(&self) -> Result<Traffic> {
        match self.address {
            Some(address) => Traffic::of(address).await,
            None => Ok(Traffic::default()),
        }
    }

    /// Runs some work. Returns its result and its cost.
    async fn measure<T>(
        &self,
        work: impl Future<Output = datafusion::error::Result<T>>,
    ) -> Result<(T, Cost)> {
        let before = self.traffic().await?;
        let start = Instant::now();
        let result = work.await?;
        let ms = start.elapsed().as_secs_f64() * 1e3;
        let Traffic { gets, others, bytes } = self.traffic().await? - before;
        Ok((result, Cost { ms, gets, others, bytes }))
    }

    async fn register(&self) -> Result<Cost> {
        Ok(self.measure(register_tables(&self.session, &self.url)).await?.1)
    }

    async fn query(&self, query: &str) -> Result<(String, Cost)> {
        self.measure(answer(&self.session, query)).await
    }
}

fn cached(below: Arc<dyn ObjectStore>, capacity: usize) -> Result<Arc<dyn ObjectStore>> {
    let cache = Cache::new(capacity)?;
    let options = Options::new().consistency(Consistency::Immutable);
    Ok(Arc::new(CachedStore::with_options(below, &cache, options)))
}

/// Runs all queries in this process.
pub(crate) async fn run(contender: Contender, phase: Phase, place: &Place) -> Result<Run> {
    let mut run = Run::default();
    match phase {
        Phase::Cold => {
            for query in QUERIES {
                let setup = Setup::new(contender, place).await?;
                run.tables += setup.register().await?;
                let (answer, cost) = setup.query(query).await?;
                run.answers.push(answer);
                run.queries.push(cost);
            }
        }
        Phase::Warm => {
            let setup = Setup::new(contender, place).await?;
            run.tables = setup.register().await?;
            for query in QUERIES {
                run.first += setup.query(query).await?.1;
            }
            for query in QUERIES {
                let (answer, cost) = setup.query(query).await?;
                run.answers.push(answer);
                run.queries.push(cost);
            }
        }
    }
    run.peak_mib = peak()? as f64 / 1024.0;
    Ok(run)
}

/// Returns the largest resident size of this process so far, in KiB.
fn peak() -> Result<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let number = line.and_then(|line| line.split_whitespace().next());
    number.context("no VmHWM in /proc/self/status")?.parse().context("VmHWM is no number")
}
