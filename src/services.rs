//! Wires the services from a configuration: `producer`, `consumer` and `up`. The one place that knows every connector.

use std::collections::BTreeSet;
use std::future::pending;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use prometheus::Registry;
use syncline_consumer::config::TargetConfig;
use syncline_consumer::pipeline::LoadKeyring;
use syncline_consumer::target::postgres::PostgresTarget;
use syncline_consumer::target::sqlite::SqliteTarget;
use syncline_producer::config::SourceConfig;
use syncline_producer::metrics::Metrics;
use syncline_producer::outlet::{Outlet, Outlets};
use syncline_producer::share::{Initial, ShareConfig};
use syncline_producer::source::postgres::PostgresSource;
use syncline_producer::source::sqlite::SqliteSource;
use syncline_producer::{bulk, pipeline};
use syncline_shared::config::QueueConfig;
use syncline_shared::expiry::Expiry;
use syncline_shared::health::Health;
use syncline_shared::http;
use syncline_shared::journal::{Journal, Journals};
use syncline_shared::metrics;
use syncline_shared::notify;
use syncline_shared::queue::Broker;
use syncline_shared::queue::embedded::Embedded;
use syncline_shared::queue::rabbitmq::RabbitMq;
use syncline_shared::tasks::TaskGroup;
use syncline_shared::tls::TlsConfig;
use syncline_shared::traces::{self, Maker, RABBITMQ, Traces};

use crate::config::{Config, Env, Role, compile};
use crate::failure::Failure;

/// A share with everything it needs to send.
pub(crate) fn outlet(config: &Config, name: &str, share: &ShareConfig, metrics: &Metrics) -> Result<Outlet, Failure> {
    Ok(Outlet {
        share: compile(name, share)?,
        destinations: config.destinations(share),
        copies: share.initial == Initial::Copy,
        on_truncate: share.on_truncate,
        metrics: metrics.share(name),
    })
}

/// Runs `producer`, `consumer` or `up` until it is told to stop.
pub(crate) async fn run(path: &Path, env: Env, role: Role) -> Result<(), Failure> {
    let config = Config::load(path, &env, role)?;
    let load_keyring = Config::load_keyring(path.to_owned(), env);
    let (service, listen, grace_ms) = match role {
        Role::Producer => ("producer", config.producer.http, config.producer.grace_ms),
        Role::Consumer => ("consumer", config.consumer.http, config.consumer.grace_ms),
        Role::Both | Role::Queue => {
            ("up", config.producer.http, config.producer.grace_ms.max(config.consumer.grace_ms))
        }
    };
    tracing::info!(service, version = env!("CARGO_PKG_VERSION"), file = %path.display(), "starting");
    let mut service = Service::new(service)?;
    service.keep_journals(&config, role);
    service.listen(listen).await?;
    service.trace(&config, Duration::from_millis(grace_ms))?;
    service.start(&config, &load_keyring, role)?;
    service.notify(&config)?;
    // The exporter ends with the last pipeline that makes spans.
    service.traces = None;
    service.tasks.run(pending(), Duration::from_millis(grace_ms)).await.map_err(|error| Failure::other(&error))?;
    tracing::info!("stopped: everything in flight is settled and the position is stored");
    Ok(())
}

/// A service being put together.
pub(crate) struct Service {
    pub tasks: TaskGroup,
    pub registry: Registry,
    pub health: Health,
    name: &'static str,
    producer_journal: Option<syncline_producer::journal::Journal>,
    consumer_journal: Option<syncline_consumer::journal::Journal>,
    journals: Journals,
    /// Makes spans, if the configuration names a collector.
    traces: Option<Traces>,
}

impl Service {
    pub(crate) fn new(name: &'static str) -> Result<Self, Failure> {
        let registry = metrics::registry(name)?;
        let health = Health::new(&registry, name)?;
        Ok(Self {
            tasks: TaskGroup::default(),
            registry,
            health,
            name,
            producer_journal: None,
            consumer_journal: None,
            journals: Journals::default(),
            traces: None,
        })
    }

    /// Begins the journals of a role that are configured.
    fn keep_journals(&mut self, config: &Config, role: Role) {
        if matches!(role, Role::Producer | Role::Both) {
            self.producer_journal = Journal::new(config.producer.journal);
            self.journals.add("producer", self.producer_journal.as_ref());
        }
        if matches!(role, Role::Consumer | Role::Both) {
            self.consumer_journal = Journal::new(config.consumer.journal);
            self.journals.add("consumer", self.consumer_journal.as_ref());
        }
    }

    /// Serves the admin endpoint.
    async fn listen(&mut self, address: SocketAddr) -> Result<(), Failure> {
        let listener = http::listen(address).await.map_err(|error| {
            Failure::Unavailable(format!(
                "Cannot listen on {address}: {error}.\nSet another address with `http` in [{}], or stop what uses this one.",
                if self.name == "consumer" { "consumer" } else { "producer" }
            ))
        })?;
        let (registry, health, journals) = (self.registry.clone(), self.health.clone(), self.journals.clone());
        let serve = http::serve(listener, registry, health, journals, self.tasks.stop());
        self.tasks.spawn("http", serve);
        Ok(())
    }

    /// Has those told of faults whom the configuration names.
    fn notify(&mut self, config: &Config) -> Result<(), Failure> {
        match &config.notify {
            Some(notify) => Ok(notify::start(&mut self.tasks, notify, self.name, &self.health, &self.registry)?),
            None => Ok(()),
        }
    }

    /// Has spans made for the collector the configuration names.
    fn trace(&mut self, config: &Config, grace: Duration) -> Result<(), Failure> {
        let Some(traces) = &config.traces else { return Ok(()) };
        let system = match config.queue {
            QueueConfig::Rabbitmq(_) => RABBITMQ,
            QueueConfig::Embedded(_) => "syncline",
        };
        let maker = Maker { service: self.name, system, grace };
        self.traces = Some(traces::start(&mut self.tasks, traces, maker, &self.registry)?);
        Ok(())
    }

    /// Starts the pipelines of a role.
    pub(crate) fn start(&mut self, config: &Config, load_keyring: &LoadKeyring, role: Role) -> Result<(), Failure> {
        let expiry = Expiry::new(&self.registry)?;
        config.keys_created.iter().for_each(|(id, created)| expiry.key(id, *created));
        let watch = expiry.watch(certificates(config), self.tasks.stop());
        self.tasks.spawn("expiry", watch);
        match &config.queue {
            QueueConfig::Rabbitmq(queue) => {
                let broker = RabbitMq::new(queue.clone());
                self.start_on(&broker, config, load_keyring, role)
            }
            QueueConfig::Embedded(queue) => {
                let broker = Embedded::new(queue);
                self.start_on(&broker, config, load_keyring, role)
            }
        }
    }

    fn start_on<B: Broker>(
        &mut self,
        broker: &B,
        config: &Config,
        load_keyring: &LoadKeyring,
        role: Role,
    ) -> Result<(), Failure> {
        if matches!(role, Role::Producer | Role::Both) {
            self.start_producer(broker, config)?;
        }
        if matches!(role, Role::Consumer | Role::Both) {
            self.start_consumer(broker, config, load_keyring)?;
        }
        Ok(())
    }

    fn start_producer<B: Broker>(&mut self, broker: &B, config: &Config) -> Result<(), Failure> {
        let metrics = Metrics::new(&self.registry)?;
        let sources: BTreeSet<&str> = config.shares.values().map(|share| share.source.as_str()).collect();
        for name in sources {
            // The stream and the bulk shares beside it decide by rules of their own, with the same counters.
            let ready = || {
                let outlets = outlets(config, name, &metrics)?;
                Ok::<_, Failure>(outlets.journaled(self.producer_journal.clone()).traced(self.traces.clone()))
            };
            let (outlets, bulk_outlets) = (ready()?, ready()?);
            let (tables, bulk) = (outlets.tables(), config.bulk_shares(name)?);
            let (tasks, producer, health) = (&mut self.tasks, &config.producer, &self.health);
            match config.sources.get(name) {
                Some(SourceConfig::Postgres(postgres)) => {
                    let source = PostgresSource::new(name, postgres.clone(), tables);
                    let bulk = (source.stock(), bulk);
                    pipeline::start(tasks, source, outlets, broker.clone(), producer, &metrics, health);
                    bulk::start(tasks, bulk, bulk_outlets, broker.clone(), producer, &metrics, health);
                }
                Some(SourceConfig::Sqlite(sqlite)) => {
                    let source = SqliteSource::new(name, sqlite.clone(), tables);
                    let bulk = (source.stock(), bulk);
                    pipeline::start(tasks, source, outlets, broker.clone(), producer, &metrics, health);
                    bulk::start(tasks, bulk, bulk_outlets, broker.clone(), producer, &metrics, health);
                }
                None => unreachable!("checked on loading"),
            }
        }
        Ok(())
    }

    fn start_consumer<B: Broker>(
        &mut self,
        broker: &B,
        config: &Config,
        load_keyring: &LoadKeyring,
    ) -> Result<(), Failure> {
        let metrics = syncline_consumer::metrics::Metrics::new(&self.registry)?;
        let replica = config.consumer.replica.clone().unwrap_or_else(syncline_consumer::pipeline::random_replica);
        for (name, subscription) in &config.subscriptions {
            let (Some(queue), Some(target)) =
                (config.shared_queues.get(&subscription.queue), config.targets.get(&subscription.target))
            else {
                unreachable!("checked on loading")
            };
            let consumer = syncline_consumer::pipeline::Consumer {
                name,
                config: subscription.clone(),
                queue,
                load_keyring,
                replica: &replica,
                metrics: &metrics,
                journal: self.consumer_journal.as_ref(),
                traces: self.traces.as_ref(),
                health: &self.health,
            };
            let started = match target {
                TargetConfig::Postgres(postgres) => consumer.start(&mut self.tasks, broker, |partition| {
                    PostgresTarget::new(postgres.clone(), format!("{name}_{partition}"))
                }),
                TargetConfig::Sqlite(sqlite) => {
                    consumer.start(&mut self.tasks, broker, |_| SqliteTarget::new(sqlite.clone()))
                }
            };
            started.map_err(|error| Failure::other(&error))?;
        }
        Ok(())
    }
}

/// The certificates of each part that connects by them.
fn certificates(config: &Config) -> Vec<(String, TlsConfig)> {
    let queue = match &config.queue {
        QueueConfig::Rabbitmq(queue) => Some(("queue".to_owned(), queue.tls.clone())),
        QueueConfig::Embedded(_) => None,
    };
    let sources = config.sources.iter().filter_map(|(name, source)| match source {
        SourceConfig::Postgres(source) => Some((format!("source {name}"), source.tls.clone())),
        SourceConfig::Sqlite(_) => None,
    });
    let targets = config.targets.iter().filter_map(|(name, target)| match target {
        TargetConfig::Postgres(target) => Some((format!("target {name}"), target.tls.clone())),
        TargetConfig::Sqlite(_) => None,
    });
    let traces = config.traces.iter().map(|traces| ("traces".to_owned(), traces.tls.clone()));
    queue.into_iter().chain(sources).chain(targets).chain(traces).collect()
}

/// The shares of a source, ready to send.
fn outlets(config: &Config, source: &str, metrics: &Metrics) -> Result<Outlets, Failure> {
    let shares = config.shares.iter().filter(|(_, share)| share.source == source);
    let outlets: Result<_, _> = shares.map(|(name, share)| outlet(config, name, share, metrics)).collect();
    Ok(Outlets::new(source, outlets?))
}
