//! What each fault does to the parts, and how it is mended.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::plan::{Fault, Kind};
use super::world::{CONSUMERS, End, PARTITIONS, PRODUCERS, World};
use crate::kit::database::connect;
use crate::kit::proxy::{Proxy, Side};
use crate::kit::server::PrivateServer;

const RELOAD: &str = "SELECT pg_reload_conf()";
const END_OTHERS: &str = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
     WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'";

impl World {
    /// Does what a fault says, waits, and mends it. Returns whom it struck.
    ///
    /// # Errors
    /// Something that a fault must not lead to.
    pub fn strike(&self, fault: &Fault) -> Result<String, String> {
        let lasts = || std::thread::sleep(fault.lasts);
        let of = |count: usize| fault.which % count;
        match fault.kind {
            Kind::KillProducer => self.kill(self.reading_producer(fault.which), fault),
            Kind::KillConsumer => self.kill(&self.consumers[of(CONSUMERS)], fault),
            Kind::StopProducer => self.restart(self.reading_producer(fault.which), fault),
            Kind::StopConsumer => self.restart(&self.consumers[of(CONSUMERS)], fault),
            Kind::FreezeProducer => self.freeze(self.reading_producer(fault.which), fault),
            Kind::FreezeConsumer => self.freeze(&self.consumers[of(CONSUMERS)], fault),
            Kind::KillBroker => {
                let _busy = self.broker_busy.lock().unwrap();
                let node = self.leader(fault.which);
                node.kill();
                lasts();
                node.start();
                self.whole_again()?;
                Ok(format!("broker {}", node.name))
            }
            Kind::FreezeBroker => {
                let _busy = self.broker_busy.lock().unwrap();
                let node = self.leader(fault.which);
                node.freeze();
                lasts();
                node.thaw();
                self.whole_again()?;
                Ok(format!("broker {}", node.name))
            }
            Kind::KillSource => {
                let _busy = self.source_busy.lock().unwrap();
                self.source.kill();
                lasts();
                self.source.start();
                Ok("source".to_owned())
            }
            Kind::KillTarget => {
                let _busy = self.target_busy.lock().unwrap();
                self.target.kill();
                lasts();
                self.target.start();
                Ok("target".to_owned())
            }
            Kind::CutLink => self.on_link(fault, Proxy::sever),
            Kind::HalfCloseLink => {
                let told = if fault.lasts.as_millis().is_multiple_of(2) { Side::Client } else { Side::Server };
                self.on_link(fault, |link| link.half_close(told))
            }
            Kind::StallLink => self.on_link(fault, |link| {
                link.stall();
                lasts();
                link.resume();
            }),
            Kind::LinkDown => self.on_link(fault, |link| {
                link.cut();
                lasts();
                link.mend();
            }),
            Kind::TargetLocked => {
                self.target_fault(fault, &["BEGIN", "LOCK TABLE item, line IN ACCESS EXCLUSIVE MODE"], &["ROLLBACK"])
            }
            Kind::TargetReadOnly => {
                let set = ["ALTER SYSTEM SET default_transaction_read_only = on", RELOAD, END_OTHERS];
                let reset = ["ALTER SYSTEM RESET default_transaction_read_only", RELOAD, END_OTHERS];
                self.target_fault(fault, &set, &reset)
            }
            Kind::TargetTableMissing => self.target_fault(
                fault,
                &["ALTER TABLE item RENAME TO item_away"],
                &["ALTER TABLE item_away RENAME TO item"],
            ),
            Kind::TargetFull => self.target_fault(
                fault,
                &["CREATE TRIGGER full_disk BEFORE INSERT OR UPDATE OR DELETE ON item EXECUTE FUNCTION full_disk()"],
                &["DROP TRIGGER full_disk ON item"],
            ),
        }
    }

    fn on_link(&self, fault: &Fault, hurt: impl FnOnce(&Proxy)) -> Result<String, String> {
        let (name, link) = &self.links[fault.which % self.links.len()];
        hurt(&link.lock().unwrap());
        Ok(name.clone())
    }

    /// Kills it with something on its way to the broker, so that there is something to lose.
    fn kill(&self, end: &Mutex<End>, fault: &Fault) -> Result<String, String> {
        let mut end = end.lock().unwrap();
        end.still_runs()?;
        let name = format!("{} to broker", end.name);
        let (_, link) = self.links.iter().find(|(link, _)| *link == name).expect("each end has a link to the broker");
        let link = link.lock().unwrap();
        link.stall();
        // Longer than a source waits until it tells its server what is safe.
        std::thread::sleep(Duration::from_millis(1500));
        if let Some(mut service) = end.service.take() {
            service.kill();
        }
        link.resume();
        drop(link);
        std::thread::sleep(fault.lasts);
        end.start(&self.folder);
        Ok(end.name.clone())
    }

    /// The producer that does not stand by; while none reads, either.
    fn reading_producer(&self, which: usize) -> &Mutex<End> {
        let reads = |end: &&Mutex<End>| {
            let end = end.lock().unwrap();
            let ready = end.service.as_ref().and_then(|service| service.get("/readyz"));
            ready.is_some_and(|(_, reasons)| !reasons.contains("another producer reads"))
        };
        self.producers.iter().find(reads).unwrap_or(&self.producers[which % PRODUCERS])
    }

    fn restart(&self, end: &Mutex<End>, fault: &Fault) -> Result<String, String> {
        let mut end = end.lock().unwrap();
        end.still_runs()?;
        if let Some(mut service) = end.service.take() {
            // Before it listens it has nothing in flight, and may not have heard of signals yet.
            let deadline = Instant::now() + Duration::from_secs(20);
            while service.get("/healthz").is_none() && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(20));
            }
            // 1: what was in flight could not be finished within the grace period, because of another fault.
            let status = service.stop();
            if !matches!(status.code(), Some(0 | 1)) {
                return Err(format!("{} ended with {status} after SIGTERM", end.name));
            }
        }
        std::thread::sleep(fault.lasts / 4);
        end.start(&self.folder);
        Ok(end.name.clone())
    }

    fn freeze(&self, end: &Mutex<End>, fault: &Fault) -> Result<String, String> {
        let mut end = end.lock().unwrap();
        end.still_runs()?;
        if let Some(service) = &end.service {
            service.signal("STOP");
            std::thread::sleep(fault.lasts);
            service.signal("CONT");
        }
        Ok(end.name.clone())
    }

    /// Breaks the target by statements and mends it by others, in one session.
    fn target_fault(&self, fault: &Fault, set: &[&str], reset: &[&str]) -> Result<String, String> {
        let _busy = self.target_busy.lock().unwrap();
        let work = async {
            let client = connect(&self.target.url).await;
            // This session itself goes on, whatever it does to the others; where two wait for each other they give in.
            let run = async |statements: &[&str]| {
                for statement in statements {
                    client.batch_execute(statement).await.unwrap_or_else(|error| panic!("{statement}: {error:?}"));
                }
            };
            run(&["SET default_transaction_read_only = off", "SET deadlock_timeout = '20s'"]).await;
            run(set).await;
            tokio::time::sleep(fault.lasts).await;
            run(reset).await;
        };
        super::block_on(work);
        Ok("target".to_owned())
    }

    /// The node that leads a partition: the one whose loss is felt.
    fn leader(&self, which: usize) -> &PrivateServer {
        let queue = self.management(&format!("queues/%2f/chaos.{}", which % PARTITIONS));
        let leader = queue.and_then(|queue| Some(queue["leader"].as_str()?.to_owned())).unwrap_or_default();
        let leads = |node: &&PrivateServer| leader == format!("{}@localhost", node.name);
        self.brokers.iter().find(leads).unwrap_or(&self.brokers[which % self.brokers.len()])
    }

    /// Waits until every node of a cluster is back, so that no two are away at once: a minority is out of order by design.
    fn whole_again(&self) -> Result<(), String> {
        let deadline = Instant::now() + Duration::from_secs(60);
        while self.brokers.len() > 1 {
            let nodes = self.management("nodes").unwrap_or_default();
            let running =
                nodes.as_array().map_or(0, |nodes| nodes.iter().filter(|node| node["running"] == true).count());
            if running == self.brokers.len() {
                break;
            }
            if Instant::now() > deadline {
                return Err(format!("the cluster has {running} running nodes of {}", self.brokers.len()));
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        Ok(())
    }
}
