//! Servers on loopback, for tests and benchmarks of stores: S3 by `s3s-fs` and by moto, `WebDAV` by
//! `dav-server`. Each answers after a delay, and counts its requests.

#![forbid(unsafe_code)]

mod moto;
mod traffic;

pub use moto::Moto;
pub use traffic::Traffic;

use std::convert::Infallible;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::anyhow;
use dav_server::{DavHandler, fakels::FakeLs, localfs::LocalFs};
use hyper::body::Incoming;
use hyper::service::Service;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use s3s::auth::SimpleAuth;
use s3s::service::S3ServiceBuilder;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use traffic::Counters;

/// The access key and the secret key of the S3 servers.
pub const KEYS: (&str, &str) = ("loopback", "not-a-secret");

/// A server that runs until it is dropped.
#[derive(Debug)]
pub struct Server {
    address: String,
    counters: Arc<Counters>,
    task: JoinHandle<()>,
}

impl Server {
    /// Starts an S3 server over a folder. Each folder in it is a bucket. It ignores conditions of
    /// reads.
    ///
    /// Objects must be uploaded to it. A file that was put into the folder is served too, but the
    /// server hashes all of it for each request.
    ///
    /// # Errors
    ///
    /// Any of the folder, or of the network.
    pub async fn s3(root: &Path, delay: Duration) -> anyhow::Result<Self> {
        let files = s3s_fs::FileSystem::new(root).map_err(|error| anyhow!("{error:?}"))?;
        let mut builder = S3ServiceBuilder::new(files);
        builder.set_auth(SimpleAuth::from_single(KEYS.0, KEYS.1));
        let service = builder.build();
        Self::start(move |listener, counters| async move {
            loop {
                let Ok((stream, _)) = listener.accept().await else { continue };
                // Otherwise the last piece of an answer may wait 40 ms for the client.
                let _ = stream.set_nodelay(true);
                let (service, counters) = (service.clone(), Arc::clone(&counters));
                let answer = hyper::service::service_fn(move |request: Request<Incoming>| {
                    let (service, counters) = (service.clone(), Arc::clone(&counters));
                    async move {
                        if request.uri().path() == traffic::PATH {
                            return Ok(Response::new(counters.text().into()));
                        }
                        let is_get = counters.request(request.method(), request.uri());
                        tokio::time::sleep(delay).await;
                        let answer = Service::call(&service, request).await;
                        if let (true, Ok(answer)) = (is_get, &answer) {
                            counters.answer(answer);
                        }
                        answer
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
        Self::start(move |listener, counters| async move {
            loop {
                let Ok((stream, _)) = listener.accept().await else { continue };
                // Otherwise the last piece of an answer may wait 40 ms for the client.
                let _ = stream.set_nodelay(true);
                let (handler, counters) = (handler.clone(), Arc::clone(&counters));
                let answer = hyper::service::service_fn(move |request: Request<Incoming>| {
                    counters.request(request.method(), request.uri());
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
        serve: impl FnOnce(TcpListener, Arc<Counters>) -> F,
    ) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = format!("http://{}", listener.local_addr()?);
        let counters = Arc::<Counters>::default();
        let task = tokio::spawn(serve(listener, Arc::clone(&counters)));
        Ok(Self { address, counters, task })
    }

    /// Returns the address, as a URL without a path.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Returns the number of requests so far.
    pub fn requests(&self) -> u64 {
        let Traffic { gets, others, .. } = self.traffic();
        gets + others
    }

    /// Returns the traffic so far.
    pub fn traffic(&self) -> Traffic {
        self.counters.traffic()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}
