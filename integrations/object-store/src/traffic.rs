//! The traffic of an S3 server: requests by kind, and bytes. Other processes may ask for it.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use anyhow::{Context, bail};
use hyper::header::CONTENT_LENGTH;
use hyper::{Method, Uri};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The path that answers with the traffic. No bucket has this name.
pub(crate) const PATH: &str = "/-traffic-";

/// The requests to an S3 server so far, and the bytes of its answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Requests for the bytes of an object.
    pub gets: u64,
    /// All other requests: heads, listings, writes.
    pub others: u64,
    /// The bytes of the answers to gets, as their lengths say.
    pub bytes: u64,
}

impl std::ops::Sub for Traffic {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self {
            gets: self.gets - before.gets,
            others: self.others - before.others,
            bytes: self.bytes - before.bytes,
        }
    }
}

impl Traffic {
    /// Asks the S3 server at an address. The question is not counted.
    ///
    /// # Errors
    ///
    /// If no such server answers.
    pub async fn of(address: &str) -> anyhow::Result<Self> {
        let host = address.strip_prefix("http://").context("the address is no http:// URL")?;
        let mut stream = TcpStream::connect(host).await?;
        let question = format!("GET {PATH} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        stream.write_all(question.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        let body = answer.split("\r\n\r\n").nth(1).unwrap_or_default();
        let numbers: Vec<u64> = body.split(' ').filter_map(|word| word.parse().ok()).collect();
        match numbers[..] {
            [gets, others, bytes] => Ok(Self { gets, others, bytes }),
            _ => bail!("the server at {address} does not tell its traffic: {answer}"),
        }
    }
}

/// The counters of a server.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    gets: AtomicU64,
    others: AtomicU64,
    bytes: AtomicU64,
}

impl Counters {
    /// Counts a request. Returns `true` for one that asks for the bytes of an object.
    pub(crate) fn request(&self, method: &Method, uri: &Uri) -> bool {
        // A listing is a GET of the bucket.
        let key = uri.path().trim_start_matches('/').split_once('/').map_or("", |(_, key)| key);
        let is_get = method == Method::GET && !key.is_empty();
        let counter = if is_get { &self.gets } else { &self.others };
        counter.fetch_add(1, Relaxed);
        is_get
    }

    /// Counts the bytes of the answer to a get.
    pub(crate) fn answer<B>(&self, answer: &hyper::Response<B>) {
        let length = answer.headers().get(CONTENT_LENGTH).and_then(|length| length.to_str().ok());
        let bytes = length.and_then(|length| length.parse().ok()).unwrap_or_default();
        if answer.status().is_success() {
            self.bytes.fetch_add(bytes, Relaxed);
        }
    }

    pub(crate) fn traffic(&self) -> Traffic {
        Traffic {
            gets: self.gets.load(Relaxed),
            others: self.others.load(Relaxed),
            bytes: self.bytes.load(Relaxed),
        }
    }

    /// Returns the body of the answer to [`Traffic::of`].
    pub(crate) fn text(&self) -> String {
        let Traffic { gets, others, bytes } = self.traffic();
        format!("{gets} {others} {bytes}")
    }
}
