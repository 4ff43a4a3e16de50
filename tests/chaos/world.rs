//! Every part of the pipeline as a process or server of its own, with a proxy on each connection between two of them.

use std::path::{Path, PathBuf};
use std::sync::Mutex;

use crate::kit::process::Service;
use crate::kit::proxy::Proxy;
use crate::kit::rabbit::management;
use crate::kit::server::PrivateServer;

pub const PRODUCERS: usize = 2;
pub const CONSUMERS: usize = 4;
pub const PARTITIONS: usize = 8;

/// One of the two ends, restarted at will.
pub struct End {
    pub name: String,
    command: &'static str,
    config: PathBuf,
    pub service: Option<Service>,
}

/// The parts.
pub struct World {
    pub folder: PathBuf,
    pub source: PrivateServer,
    pub target: PrivateServer,
    pub brokers: Vec<PrivateServer>,
    /// Held while a fault of that server lasts, so that two do not mend each other.
    pub source_busy: Mutex<()>,
    pub target_busy: Mutex<()>,
    pub broker_busy: Mutex<()>,
    pub producers: Vec<Mutex<End>>,
    pub consumers: Vec<Mutex<End>>,
    pub links: Vec<(String, Mutex<Proxy>)>,
}

impl World {
    /// Starts the servers and writes a configuration for each end; the ends are started later.
    pub fn create(folder: &Path, nodes: usize) -> Self {
        let (source, target) = (PrivateServer::postgres(), PrivateServer::postgres());
        let mut brokers: Vec<_> = (0..nodes).map(|_| PrivateServer::rabbitmq()).collect();
        let mut settings = vec![
            "cluster_partition_handling = pause_minority".to_owned(),
            "cluster_formation.peer_discovery_backend = classic_config".to_owned(),
        ];
        for (index, node) in brokers.iter().enumerate() {
            settings.push(format!("cluster_formation.classic_config.nodes.{} = {}@localhost", index + 1, node.name));
        }
        let settings: Vec<_> = settings.iter().map(String::as_str).filter(|_| nodes > 1).collect();
        brokers.iter_mut().for_each(|node| node.set(&settings));
        std::thread::scope(|scope| {
            for server in brokers.iter().chain([&source, &target]) {
                scope.spawn(|| server.start());
            }
        });
        let mut world = Self {
            folder: folder.to_owned(),
            source,
            target,
            brokers,
            source_busy: Mutex::default(),
            target_busy: Mutex::default(),
            broker_busy: Mutex::default(),
            producers: Vec::new(),
            consumers: Vec::new(),
            links: Vec::new(),
        };
        std::fs::write(folder.join("key"), "correct horse battery staple, twice\n").unwrap();
        world.producers = (0..PRODUCERS).map(|index| Mutex::new(world.end("producer", index))).collect();
        world.consumers = (0..CONSUMERS).map(|index| Mutex::new(world.end("consumer", index))).collect();
        world
    }

    fn end(&mut self, command: &'static str, index: usize) -> End {
        let name = format!("{command}-{index}");
        let queue = self.link(&name, "broker");
        let far = self.link(&name, if command == "producer" { "source" } else { "target" });
        let text = format!(
            "{}{}",
            common(&self.folder, &queue),
            if command == "producer" { source(&far) } else { target(&far) }
        );
        let config = self.folder.join(format!("{name}.toml"));
        std::fs::write(&config, text).unwrap();
        End { name, command, config, service: None }
    }

    /// A proxied address of a server, for one of the ends.
    fn link(&mut self, end: &str, server: &str) -> String {
        let urls = match server {
            "broker" => self.brokers.iter().map(|node| node.url.as_str()).collect(),
            "source" => vec![self.source.url.as_str()],
            _ => vec![self.target.url.as_str()],
        };
        let hosts: Vec<_> = urls.iter().map(|url| host(url)).collect();
        let proxy = Proxy::to_any(&hosts);
        let url = urls[0].replace(hosts[0], &proxy.address.to_string());
        self.links.push((format!("{end} to {server}"), Mutex::new(proxy)));
        url
    }

    /// Starts both ends.
    pub fn start(&self) {
        for end in self.producers.iter().chain(&self.consumers) {
            end.lock().unwrap().start(&self.folder);
        }
    }

    /// Stops both ends; each must end well.
    pub fn stop(&self) -> Result<(), String> {
        let mut ends: Vec<_> = self.producers.iter().chain(&self.consumers).map(|end| end.lock().unwrap()).collect();
        ends.iter().filter_map(|end| end.service.as_ref()).for_each(|service| service.signal("TERM"));
        for end in &mut ends {
            let status = end.service.take().map(|mut service| service.wait());
            if !status.is_some_and(|status| status.success()) {
                return Err(format!("{} did not stop cleanly with nothing wrong around it: {status:?}", end.name));
            }
        }
        Ok(())
    }

    /// A configuration of a consumer, for commands.
    pub fn config(&self) -> PathBuf {
        self.folder.join("consumer-0.toml")
    }

    /// Asks the management of the first broker node that answers.
    pub fn management(&self, path: &str) -> Option<serde_json::Value> {
        let answer = self.brokers.iter().find_map(|node| management(&node.api, "GET", path, None).ok())?;
        serde_json::from_str(&answer).ok()
    }

    /// Every end that ended on its own.
    pub fn still_run(&self) -> Result<(), String> {
        self.producers.iter().chain(&self.consumers).try_for_each(|end| end.lock().unwrap().still_runs())
    }

    /// Keeps the servers' logs beside those of the ends.
    pub fn keep_logs(&self) {
        for server in self.brokers.iter().chain([&self.source, &self.target]) {
            let _ = std::fs::write(self.folder.join(format!("{}.log", server.name)), server.log());
        }
    }
}

impl End {
    /// Starts it; its log goes on.
    pub fn start(&mut self, folder: &Path) {
        let env = [("SYNCLINE_LOG", "info,lapin=off".to_owned())];
        self.service = Some(Service::start_as(&self.name, folder, self.command, &self.config, &env));
    }

    /// # Errors
    /// It ended and nobody asked it to.
    pub fn still_runs(&mut self) -> Result<(), String> {
        match self.service.as_mut().and_then(Service::ended) {
            Some(status) => Err(format!("{} ended on its own with {status}", self.name)),
            None => Ok(()),
        }
    }
}

/// Time-outs are short, so that faults outlast them.
fn common(folder: &Path, queue: &str) -> String {
    let key = folder.join("key").display().to_string();
    format!(
        r#"
[queue]
type = "rabbitmq"
url = "{queue}"
heartbeat_s = 2
confirm_timeout_ms = 4000
[producer]
http = "127.0.0.1:0"
grace_ms = 5000
[consumer]
http = "127.0.0.1:0"
grace_ms = 5000
[key."aes"]
cipher = "AES256"
secret_file = "{key}"
[key."3des"]
cipher = "TripleDES"
secret_file = "{key}"
[shared_queue.chaos]
partitions = {PARTITIONS}
"#
    )
}

fn source(url: &str) -> String {
    format!(
        r#"
[source.desk]
type = "postgres"
url = "{url}"
[share.items]
source = "desk"
table = "item"
queue = "chaos"
key = "aes"
filter = "kind=shared"
interactive_only = false
initial = "copy"
[share.lines]
source = "desk"
table = "line"
queue = "chaos"
key = "3des"
interactive_only = false
initial = "copy"
"#
    )
}

fn target(url: &str) -> String {
    format!(
        r#"
[target.crm]
type = "postgres"
url = "{url}"
lock_timeout_ms = 1000
statement_timeout_ms = 2500
[subscription.chaos]
queue = "chaos"
target = "crm"
"#
    )
}

/// `host:port` of a URL.
fn host(url: &str) -> &str {
    url.split("://").nth(1).unwrap().split('/').next().unwrap().rsplit('@').next().unwrap()
}
