//! `syncline` as a process: start, look, stop. Killed when it is dropped.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::until;
use crate::Result;

/// A running service.
pub(crate) struct Service {
    child: Child,
    log: std::path::PathBuf,
    port: u16,
}

impl Service {
    /// Starts `producer` or `consumer`, which serves its metrics at this port.
    pub(crate) fn start(binary: &Path, command: &str, config: &Path, port: u16) -> Result<Self> {
        let log = config.with_extension(format!("{command}.log"));
        let file = std::fs::File::create(&log)?;
        let mut syncline = Command::new(binary);
        syncline.args([command, "--config"]).arg(config).env("SYNCLINE_LOG", "info");
        let child = syncline.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file).spawn()?;
        Ok(Self { child, log, port })
    }

    /// Its process.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits until its log has a line.
    pub(crate) async fn logged(&mut self, line: &str) -> Result<()> {
        let Self { child, log, .. } = self;
        until(line, async || {
            let text = std::fs::read_to_string(&*log)?;
            match child.try_wait()? {
                Some(status) => Err(format!("syncline ended ({status}):\n{}", tail(&text)).into()),
                None => Ok(text.contains(line).then_some(())),
            }
        })
        .await
        .map_err(|error| self.told(&error))
    }

    /// The sum of a counter over all its labels; 0 while it does not answer.
    pub(crate) async fn counter(&self, name: &str) -> f64 {
        self.labelled(name, "").await
    }

    /// The same over the lines that have a label.
    pub(crate) async fn labelled(&self, name: &str, label: &str) -> f64 {
        let Ok(text) = self.metrics().await else { return 0.0 };
        text.lines()
            .filter(|line| line.split(['{', ' ']).next() == Some(name) && line.contains(label))
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum()
    }

    async fn metrics(&self) -> std::io::Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).await?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: bench\r\nconnection: close\r\n\r\n").await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok(answer)
    }

    /// Stops it in good order.
    pub(crate) async fn stop(mut self) -> Result<()> {
        Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status()?;
        let status = until("syncline to stop", async || Ok(self.child.try_wait()?)).await?;
        if status.success() { Ok(()) } else { Err(self.told(&format_args!("syncline ended: {status}"))) }
    }

    /// An error with the end of the log.
    pub(crate) fn told(&self, error: &dyn std::fmt::Display) -> Box<dyn std::error::Error> {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        format!("{error}; the end of its log:\n{}", tail(&text)).into()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits for a command's end, and kills it when nobody waits any more.
pub(crate) struct Job(Child);

impl Job {
    /// Starts a command whose words are kept for the case that it fails.
    pub(crate) fn start(command: &mut Command) -> Result<Self> {
        Ok(Self(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?))
    }

    /// Waits until it ends well.
    pub(crate) async fn done(mut self) -> Result<()> {
        let status = until("a command to end", async || Ok(self.0.try_wait()?)).await?;
        if status.success() {
            return Ok(());
        }
        let mut words = String::new();
        if let Some(mut errors) = self.0.stderr.take() {
            std::io::Read::read_to_string(&mut errors, &mut words)?;
        }
        Err(format!("a command ended ({status}): {}", tail(&words)).into())
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A port that nobody listens on for now.
pub(crate) fn free_port() -> Result<u16> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// How long a consumer is given to attach to its partitions before the clock starts.
pub(crate) const ATTACH: Duration = Duration::from_millis(500);

/// The last lines.
fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines.get(lines.len().saturating_sub(12)..).unwrap_or_default().join("\n")
}
