//! Servers on loopback, for tests and benchmarks of stores: S3 by `s3s-fs` and by moto, `WebDAV` by
//! `dav-server`. Each answers after a delay, and counts its requests.

#![forbid(unsafe_code)]

mod moto;

pub use moto::Moto;

use std::convert::Infallible;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use anyhow::anyhow;
use dav_server::{DavHandler, fakels::FakeLs, localfs::LocalFs};
use hyper::Request;
use hyper::body::Incoming;
use hyper::service::Service;
use hyper_util::rt::TokioIo;
use s3s::auth::SimpleAuth;
use s3s::service::S3ServiceBuilder;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// The access key and the secret key of the S3 servers.
pub const KEYS: (&str, &str) = ("loopback", "not-a-secret");

/// A server that runs until it is dropped.
#[derive(Debug)]
pub struct Server {
    address: String,
    requests: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl Server {
    /// Starts an S3 server over a folder. Each folder in it is a bucket. It ignores conditions of
    /// reads.
    ///
    /// # Errors
    ///
    /// Any of the folder, or of the network.
    pub async fn s3(root: &Path, delay: Duration) -> anyhow::Result<Self> {
        let files = s3s_fs::FileSystem::new(root).map_err(|error| anyhow!("{error:?}"))?;
        let mut builder = S3ServiceBuilder::new(files);
        builder.set_auth(SimpleAuth::from_single(KEYS.0, KEYS.1));
        let service = builder.build();
        Self::start(move |listener, requests| async move {
            loop {
                let Ok((stream, _)) = listener.accept().await else { continue };
                let (service, requests) = (service.clone(), Arc::clone(&requests));
                let answer = hyper::service::service_fn(move |request: Request<Incoming>| {
                    let answer = Service::call(&service, request);
                    requests.fetch_add(1, Relaxed);
                    async move {
                        tokio::time::sleep(delay).await;
                        answer.await
                    }
                });
                let connection = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), answer);
                tokio::spawn(connection);
            }
        })
        .await
    }

    /// Starts a `WebDAV` server over a folder.
    ///
    /// # Errors
    ///
    /// Any of the network.
    pub async fn webdav(root: &Path, delay: Duration) -> anyhow::Result<Self> {
        let handler = DavHandler::builder()
            .filesystem(LocalFs::new(root, false, false, false))
            .locksystem(FakeLs::new())
            .build_handler();
        Self::start(move |listener, requests| async move {
            loop {
                let Ok((stream, _)) = listener.accept().await else { continue };
                let (handler, requests) = (handler.clone(), Arc::clone(&requests));
                let answer = hyper::service::service_fn(move |request| {
                    requests.fetch_add(1, Relaxed);
                    let handler = handler.clone();
                    async move {
                        tokio::time::sleep(delay).await;
                        Ok::<_, Infallible>(handler.handle(request).await)
                    }
                });
                let connection = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), answer);
                tokio::spawn(connection);
            }
        })
        .await
    }

    async fn start<F: Future<Output = ()> + Send + 'static>(
        serve: impl FnOnce(TcpListener, Arc<AtomicU64>) -> F,
    ) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = format!("http://{}", listener.local_addr()?);
        let requests = Arc::<AtomicU64>::default();
        let task = tokio::spawn(serve(listener, Arc::clone(&requests)));
        Ok(Self { address, requests, task })
    }

    /// Returns the address, as a URL without a path.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Returns the number of requests so far.
    pub fn requests(&self) -> u64 {
        self.requests.load(Relaxed)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}
