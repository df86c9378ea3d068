//! moto's S3 server, from `PyPI`.

use std::net::TcpListener as StdListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

/// Starts the server with a lock around each request. Its threads read and write one table without
/// one, so of two conditional writes at once both could succeed, and one was lost.
const ONE_BY_ONE: &str = "
import threading, moto.server
run, lock = moto.server.run_simple, threading.Lock()
def locked(app):
    def answer(*arguments):
        with lock:
            return app(*arguments)
    return answer
moto.server.run_simple = lambda host, port, app, **options: run(host, port, locked(app), **options)
moto.server.main()
";

/// A process of moto's server, which ends when this is dropped.
#[derive(Debug)]
pub struct Moto {
    port: u16,
    _process: Child,
}

impl Moto {
    /// Starts the server. If the Python of the system does not have it, installs `moto[server]`
    /// from `PyPI` into a virtual environment in `folder`.
    ///
    /// # Errors
    ///
    /// If Python or the package is missing, or the server does not answer within a minute.
    pub async fn start(folder: &Path) -> anyhow::Result<Self> {
        let python = Self::python(folder).await?;
        let port = StdListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let process = Command::new(python)
            .args(["-c", ONE_BY_ONE, "-H", "127.0.0.1", "-p", &port.to_string()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()?;
        let moto = Self { port, _process: process };
        for _ in 0..600 {
            if TcpStream::connect(("127.0.0.1", port)).await.is_ok() {
                return Ok(moto);
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        bail!("moto's server does not answer on port {port}")
    }

    /// Returns a Python that has the server.
    async fn python(folder: &Path) -> anyhow::Result<PathBuf> {
        let installed = folder.join("bin/python");
        for python in [installed.clone(), "python3".into()] {
            if run(Command::new(&python).args(["-c", "import moto.server"])).await.is_ok() {
                return Ok(python);
            }
        }
        run(Command::new("python3").args(["-m", "venv"]).arg(folder)).await?;
        let pip = folder.join("bin/pip");
        run(Command::new(pip).args(["install", "--quiet", "moto[server]"])).await?;
        Ok(installed)
    }

    /// Returns the address, as a URL without a path.
    pub fn address(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Makes a bucket.
    ///
    /// # Errors
    ///
    /// If the server does not answer that it did.
    pub async fn make_bucket(&self, name: &str) -> anyhow::Result<()> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).await?;
        let request = format!(
            "PUT /{name} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 0\r\n\
             Connection: close\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        let status = answer.lines().next().unwrap_or_default();
        if status.contains(" 200 ") { Ok(()) } else { bail!("no bucket {name}: {status}") }
    }
}

async fn run(command: &mut Command) -> anyhow::Result<()> {
    let status = command.stdout(Stdio::null()).stderr(Stdio::null()).status().await;
    let status = status.with_context(|| format!("{command:?}"))?;
    if status.success() { Ok(()) } else { bail!("{command:?}: {status}") }
}
