//! What all metrics of Syncline have in common: the registry, the names' prefix, latency buckets and build information.

use prometheus::{Gauge, GaugeVec, HistogramOpts, HistogramVec, IntCounterVec, IntGaugeVec, Opts, Registry};

/// Seconds, from a confirm on a local disk to an outage: 0.5 ms doubling to about 65 s.
const LATENCY_SECONDS: [f64; 18] = [
    0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 65.0,
];

/// A registry with the build information of this program and, on Linux, the process's own numbers (`process_..`).
///
/// # Errors
/// A metric of that name exists already.
pub fn registry(service: &str) -> Result<Registry, prometheus::Error> {
    let registry = Registry::new();
    let build = Gauge::with_opts(
        Opts::new("syncline_build_info", "Version of the running program and the service it runs as; always 1")
            .const_label("version", env!("CARGO_PKG_VERSION"))
            .const_label("service", service),
    )?;
    build.set(1.0);
    registry.register(Box::new(build))?;
    #[cfg(target_os = "linux")]
    registry.register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))?;
    Ok(registry)
}

/// A counter by labels, registered.
///
/// # Errors
/// A metric of that name exists already.
pub fn counter(
    registry: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
) -> Result<IntCounterVec, prometheus::Error> {
    let counter = IntCounterVec::new(Opts::new(name, help), labels)?;
    registry.register(Box::new(counter.clone()))?;
    Ok(counter)
}

/// A gauge by labels, registered.
///
/// # Errors
/// A metric of that name exists already.
pub fn gauge(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> Result<IntGaugeVec, prometheus::Error> {
    let gauge = IntGaugeVec::new(Opts::new(name, help), labels)?;
    registry.register(Box::new(gauge.clone()))?;
    Ok(gauge)
}

/// A gauge of a point in time, in seconds since 1970, by labels, registered.
///
/// # Errors
/// A metric of that name exists already.
pub fn timestamp(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> Result<GaugeVec, prometheus::Error> {
    let gauge = GaugeVec::new(Opts::new(name, help), labels)?;
    registry.register(Box::new(gauge.clone()))?;
    Ok(gauge)
}

/// A histogram of seconds by labels, registered.
///
/// # Errors
/// A metric of that name exists already.
pub fn seconds(
    registry: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
) -> Result<HistogramVec, prometheus::Error> {
    let histogram = HistogramVec::new(HistogramOpts::new(name, help).buckets(LATENCY_SECONDS.to_vec()), labels)?;
    registry.register(Box::new(histogram.clone()))?;
    Ok(histogram)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_os = "linux")]
    fn the_process_is_measured() {
        let registry = registry("producer").expect("a registry");
        let families = registry.gather();
        for name in ["process_resident_memory_bytes", "process_open_fds", "process_threads"] {
            let family = families.iter().find(|family| family.name() == name).expect("its metric");
            assert!(family.get_metric()[0].get_gauge().get_value() > 0.0, "{name}");
        }
        assert!(families.iter().any(|family| family.name() == "process_cpu_seconds_total"));
    }
}
