//! foyer as opendal knows it: a layer over opendal's own client of S3, below `object_store`.
//!
//! The layer caches whole objects. One that is larger than the cache is read past it.

use std::sync::Arc;

use anyhow::Result;
use folio_datafusion::BUCKET;
use folio_loopback::KEYS;
use foyer::HybridCacheBuilder;
use object_store::ObjectStore;
use object_store_opendal::OpendalStore;
use opendal::layers::{FoyerKey, FoyerLayer, FoyerValue};
use opendal::services::S3;
use opendal::{HttpTransporter, OperationContext, Operator};
use opendal_http_transport_reqwest::ReqwestTransport;

/// Returns the bucket at a server, cached in memory. The cache has one shard, so that its whole
/// capacity is one pool.
pub(crate) async fn store(address: &str, capacity: usize) -> Result<Arc<dyn ObjectStore>> {
    let cache = HybridCacheBuilder::new()
        .memory(capacity)
        .with_shards(1)
        .with_weighter(|_: &FoyerKey, value: &FoyerValue| value.len())
        .storage()
        .build()
        .await?;
    let service = S3::default()
        .endpoint(address)
        .region("us-east-1")
        .bucket(BUCKET)
        .access_key_id(KEYS.0)
        .secret_access_key(KEYS.1)
        .disable_config_load()
        .disable_ec2_metadata();
    let transport = HttpTransporter::new(ReqwestTransport::default());
    let operator = Operator::new(service)?
        .with_context(OperationContext::new().with_http_transport(transport))
        .layer(FoyerLayer::new(cache).with_size_limit(..capacity));
    Ok(Arc::new(OpendalStore::new(operator)))
}
