//! The binary as a process.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output};
use std::time::{Duration, Instant};

use super::PATIENCE;

/// Runs a command to its end.
pub fn syncline(folder: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_syncline")).args(args).current_dir(folder).output().unwrap()
}

/// The program under test.
pub fn program() -> PathBuf {
    env!("CARGO_BIN_EXE_syncline").into()
}

/// The program it takes the place of in an upgrade: that of `SYNCLINE_TEST_BEFORE`, else the same.
pub fn program_before() -> PathBuf {
    #[expect(clippy::disallowed_methods, reason = "how whoever runs the tests hands it over")]
    std::env::var("SYNCLINE_TEST_BEFORE").map_or_else(|_| program(), PathBuf::from)
}

/// A running service; killed at the end of the test if it still runs.
pub struct Service {
    child: Child,
    log: PathBuf,
}

impl Service {
    /// Starts `producer`, `consumer` or `up` with a configuration.
    pub fn start(folder: &Path, command: &str, config: &Path) -> Self {
        Self::start_with(folder, command, config, &[])
    }

    /// The same with environment variables.
    pub fn start_with(folder: &Path, command: &str, config: &Path, env: &[(&str, String)]) -> Self {
        Self::start_as(&super::unique(command), folder, command, config, env)
    }

    /// The same under a name: its log goes on in the file of that name.
    pub fn start_as(name: &str, folder: &Path, command: &str, config: &Path, env: &[(&str, String)]) -> Self {
        Self::spawn(&program(), name, folder, command, config, env)
    }

    /// Starts a service of another program.
    pub fn start_program(program: &Path, folder: &Path, command: &str, config: &Path) -> Self {
        Self::spawn(program, &super::unique(command), folder, command, config, &[])
    }

    fn spawn(program: &Path, name: &str, folder: &Path, command: &str, config: &Path, env: &[(&str, String)]) -> Self {
        let log = folder.join(format!("{name}.log"));
        let file = std::fs::OpenOptions::new().create(true).append(true).open(&log).unwrap();
        let child = Command::new(program)
            .args([command, "--config"])
            .arg(config)
            .current_dir(folder)
            .env("SYNCLINE_LOG", "info,lapin=off")
            .envs(env.iter().cloned())
            .stdout(file.try_clone().unwrap())
            .stderr(file)
            .spawn()
            .unwrap();
        Self { child, log }
    }

    /// Everything it logged so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Its admin address, once it listens.
    pub fn address(&self) -> Option<String> {
        let log = self.log();
        let line = log.lines().rev().find(|line| line.contains("serving /metrics"))?;
        let address = line.split("address=").nth(1)?.split_whitespace().next()?;
        Some(address.to_owned())
    }

    /// A page of the admin endpoint: status line and body.
    pub fn get(&self, path: &str) -> Option<(String, String)> {
        let mut stream = TcpStream::connect(self.address()?).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
        stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n").as_bytes()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        Some((head.lines().next()?.to_owned(), body.to_owned()))
    }

    /// The sum of a metric's values over the lines that contain `labels`.
    pub fn metric(&self, name: &str, labels: &str) -> f64 {
        let body = self.get("/metrics").map(|(_, body)| body).unwrap_or_default();
        body.lines()
            .filter(|line| line.split(['{', ' ']).next() == Some(name) && line.contains(labels))
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum()
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Kills it without warning.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Sends SIGTERM and waits for its end.
    pub fn stop(&mut self) -> ExitStatus {
        self.signal("TERM");
        self.wait()
    }

    /// Sends a signal: `STOP` and `CONT` freeze and thaw it.
    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([&format!("-{name}"), &self.id().to_string()]).status().unwrap();
        assert!(sent.success());
    }

    /// How it ended, if it did.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "still running:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- {}\n{}", self.log.display(), self.log());
        }
    }
}
