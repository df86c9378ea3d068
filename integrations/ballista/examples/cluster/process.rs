//! A part of the cluster as a process: it answers questions of its parent line by line, and ends
//! with it.

use std::io::BufRead;
use std::net::TcpListener;
use std::process::Stdio;

use anyhow::{Context, Result};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

/// A process of the cluster.
pub(crate) struct Part {
    pub(crate) name: String,
    process: Child,
    questions: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

impl Part {
    /// Starts this program with other arguments.
    pub(crate) fn start(name: &str, arguments: &[String]) -> Result<Self> {
        let mut process = Command::new(std::env::current_exe()?)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        let questions = process.stdin.take().context("no pipe to the process")?;
        let answers = process.stdout.take().context("no pipe from the process")?;
        let answers = BufReader::new(answers).lines();
        Ok(Self { name: name.to_owned(), process, questions, answers })
    }

    /// Asks for the counters.
    pub(crate) async fn ask(&mut self) -> Result<Value> {
        let context = || format!("{} does not answer", self.name);
        self.questions.write_all(b"\n").await.with_context(context)?;
        let line = self.answers.next_line().await?;
        let line = line.with_context(|| format!("{} has ended", self.name))?;
        Ok(serde_json::from_str(&line)?)
    }

    /// Kills the process, as a machine that loses its power.
    pub(crate) async fn kill(mut self) -> Result<()> {
        Ok(self.process.kill().await?)
    }
}

/// Answers each line of the parent with the counters, in a thread of its own. Ends the process at
/// the end of the lines: the parent has ended.
pub(crate) fn answer(counters: impl Fn() -> Value + Send + 'static) {
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines() {
            if line.is_err() {
                break;
            }
            println!("{}", counters());
        }
        std::process::exit(0);
    });
}

/// Returns a port that is free now.
pub(crate) fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}
