//! Servers of one test's own: to kill, freeze, fill up, and start with settings that would disturb other tests.
//!
//! `tests/private.sh` runs them. Each costs seconds, so only tests that cannot share a server take one; such a test has
//! `private` in its module's name or its own, by which nextest bounds how many run at once.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use super::unique;

/// RabbitMQ, PostgreSQL or a mail server of its own, removed at the end. Ports and data stay the same through kills and starts.
pub struct PrivateServer {
    /// Its name; a RabbitMQ node is `<name>@localhost`.
    pub name: String,
    /// `postgres://..` or `amqp://..`, for an administrator; `smtps://..`.
    pub url: String,
    /// `http://..` of RabbitMQ's management, `smtp://..` with STARTTLS; empty for PostgreSQL.
    pub api: String,
    folder: PathBuf,
    settings: Vec<String>,
}

impl PrivateServer {
    /// PostgreSQL, with `wal_level = logical`; not started yet.
    pub fn postgres() -> Self {
        Self::make("postgres", "")
    }

    /// RabbitMQ with its management; not started yet.
    pub fn rabbitmq() -> Self {
        Self::make("rabbitmq", "")
    }

    /// `postgres`, `rabbitmq` or `smtp` with a file system of this size (`64m`) at `/data/small`; not started yet.
    pub fn make(kind: &str, disk: &str) -> Self {
        let name = unique(kind);
        let made = call(&["make", kind, &name, disk]);
        let value = |key: &str| {
            let line = made.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
            line.unwrap_or_else(|| panic!("no {key} in {made}")).to_owned()
        };
        let (url, api, folder) = (value("url"), value("api"), value("folder").into());
        Self { name, url, api, folder, settings: Vec::new() }
    }

    /// With settings, for this and later starts: `name=value` of PostgreSQL, lines of rabbitmq.conf.
    pub fn with(mut self, settings: &[&str]) -> Self {
        self.set(settings);
        self
    }

    /// Replaces the settings, for later starts.
    pub fn set(&mut self, settings: &[&str]) {
        self.settings = settings.iter().map(|&setting| setting.to_owned()).collect();
    }

    /// Writes a file that the server owns from its next start on; its path as the server sees it.
    pub fn file(&self, name: &str, contents: impl AsRef<[u8]>) -> String {
        let path = self.folder.join("data").join(name);
        std::fs::write(&path, contents).unwrap();
        let only_owner = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(&path, only_owner).unwrap();
        format!("/data/{name}")
    }

    /// A folder in its `/data`, which holds that of the server itself under the name of its kind.
    pub fn data(&self, name: &str) -> PathBuf {
        self.folder.join("data").join(name)
    }

    /// Starts it and waits until it answers.
    pub fn start(&self) {
        let settings = self.settings.iter().map(String::as_str);
        call(&["start", &self.name].into_iter().chain(settings).collect::<Vec<_>>());
    }

    /// Stops it, PostgreSQL without waiting for its clients.
    pub fn stop(&self) {
        call(&["stop", &self.name]);
    }

    /// Kills it without warning.
    pub fn kill(&self) {
        call(&["kill", &self.name]);
    }

    /// Stops its processes where they are: it holds its connections and answers nothing.
    pub fn freeze(&self) {
        call(&["freeze", &self.name]);
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        call(&["thaw", &self.name]);
    }

    /// Runs a command beside it, as its user: `psql`, `rabbitmqctl`, `openssl`; what it printed.
    pub fn run(&self, command: &[&str]) -> String {
        call(&[&["run", &self.name], command].concat())
    }

    /// What it logged, for all starts.
    pub fn log(&self) -> String {
        let logs = std::fs::read_dir(self.folder.join("log")).unwrap();
        logs.map(|log| std::fs::read_to_string(log.unwrap().path()).unwrap_or_default()).collect()
    }
}

impl Drop for PrivateServer {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<_> = log.lines().rev().take(30).collect();
            eprintln!("--- end of the log of {}", self.name);
            lines.iter().rev().for_each(|line| eprintln!("{line}"));
        }
        let _ = services(&["remove", &self.name]);
    }
}

fn call(args: &[&str]) -> String {
    let output = services(args);
    let what = args.get(..2).unwrap_or(args).join(" ");
    assert!(output.status.success(), "private {what}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn services(args: &[&str]) -> Output {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/services");
    Command::new(script).arg("private").args(args).output().unwrap()
}
