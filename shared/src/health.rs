//! Which parts of a service work: one log line per change, one metric, one answer for `/readyz`.
//!
//! A part is a source, a queue or a partition. Its reason never shows a record, a key or a password.

use std::collections::BTreeMap;
use std::error::Error;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus::{IntGauge, IntGaugeVec, Registry};

use crate::class::Class;
use crate::metrics;
use crate::tasks::chain;

/// Why parts of a service are paused. Cheap to clone; the service is ready while nothing is paused.
#[derive(Clone, Debug)]
pub struct Health {
    paused: Arc<Mutex<BTreeMap<String, String>>>,
    gauge: IntGaugeVec,
}

impl Health {
    /// Registers `syncline_<service>_paused`.
    ///
    /// # Errors
    /// A metric of that name exists already.
    pub fn new(registry: &Registry, service: &str) -> Result<Self, prometheus::Error> {
        let help = "1 while this part is paused by a fault; /readyz and the log say which";
        let gauge = metrics::gauge(registry, &format!("syncline_{service}_paused"), help, &["part"])?;
        Ok(Self { paused: Arc::default(), gauge })
    }

    /// A part by its name, working until it says otherwise.
    #[must_use]
    pub fn part(&self, name: String) -> Part {
        let gauge = self.gauge.with_label_values(&[&name]);
        gauge.set(0);
        Part { health: self.clone(), name, gauge }
    }

    /// The paused parts with their reasons.
    #[must_use]
    pub fn paused(&self) -> BTreeMap<String, String> {
        self.paused.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// One part of a service.
#[derive(Debug)]
pub struct Part {
    health: Health,
    name: String,
    gauge: IntGauge,
}

impl Part {
    /// Says that the part is paused by a fault; logged when the reason is new.
    pub fn pause(&self, class: Class, fault: &(dyn Error + 'static)) {
        let reason = chain(fault);
        let mut paused = self.health.paused.lock().unwrap_or_else(PoisonError::into_inner);
        if paused.insert(self.name.clone(), reason.clone()).as_ref() == Some(&reason) {
            return;
        }
        drop(paused);
        self.gauge.set(1);
        match class {
            Class::Transient => tracing::warn!(part = self.name, reason, "paused, trying again"),
            Class::Permanent | Class::Systemic => {
                tracing::error!(part = self.name, reason, "paused until this is mended; nothing is lost");
            }
        }
    }

    /// Says that the part works; logged when it did not before.
    pub fn works(&self) {
        let was = self.health.paused.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.name);
        if was.is_some() {
            self.gauge.set(0);
            tracing::info!(part = self.name, "works again");
        }
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.health.paused.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.name);
        self.gauge.set(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_paused_until_it_works_or_is_gone() {
        let registry = Registry::new();
        let health = Health::new(&registry, "producer").expect("a fresh registry");
        let source = health.part("source servicedesk".to_owned());
        source.pause(Class::Systemic, &std::io::Error::other("no slot"));
        assert_eq!(health.paused().into_values().collect::<Vec<_>>(), ["no slot"]);
        source.works();
        assert!(health.paused().is_empty());
        source.pause(Class::Transient, &std::io::Error::other("gone"));
        drop(source);
        assert!(health.paused().is_empty());
    }
}
