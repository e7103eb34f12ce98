//! `[metrics]`: the counters as Prometheus text.
//!
//! Reads counters that anybody may read; encoding is the `prometheus` crate's, and `exporter` serves the
//! page. Made by `server`, at the start or at a reload.

mod process;

use std::fs;
use std::sync::Arc;
use std::time::SystemTime;

use prometheus::{IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder};

use crate::core::counters::Counters;
use crate::core::lent::Page;
use crate::core::outcome::{Operation, Reason, Verdict};
use process::Process;

/// How many descriptors this process has open.
#[must_use]
pub fn open_descriptors() -> usize {
    // The folder's own descriptor is one of them while it is read.
    fs::read_dir("/proc/self/fd").map_or(0, |entries| entries.count().saturating_sub(1))
}

/// The page of these counters. `started`: when the daemon did.
///
/// # Errors
/// None that these metrics can cause.
pub fn page(
    counters: Arc<Counters>,
    descriptors: usize,
    started: SystemTime,
) -> prometheus::Result<Page> {
    let metrics = Metrics::new(counters, descriptors, started)?;
    Ok(Arc::new(move || {
        metrics.text().map_err(|error| error.to_string())
    }))
}

/// The metrics, as the `prometheus` crate wants them.
struct Metrics {
    counters: Arc<Counters>,
    registry: Registry,
    requests: IntCounterVec,
    refused: IntCounterVec,
    registered: IntGauge,
    open: IntGauge,
    descriptors: IntGaugeVec,
    process: Process,
}

impl Metrics {
    fn new(
        counters: Arc<Counters>,
        descriptors: usize,
        started: SystemTime,
    ) -> prometheus::Result<Self> {
        let started = started
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default()
            .as_secs_f64();
        let registry = Registry::new();
        let requests = IntCounterVec::new(
            Opts::new("epmd_requests_total", "Requests by operation and outcome."),
            &["operation", "outcome"],
        )?;
        let refused = IntCounterVec::new(
            Opts::new(
                "epmd_refused_total",
                "Refused requests by operation and reason.",
            ),
            &["operation", "reason"],
        )?;
        let registered = IntGauge::new("epmd_registered_nodes", "Names that are registered.")?;
        let open = IntGauge::new(
            "epmd_open_connections",
            "Connections that are open, registrations apart.",
        )?;
        let used = IntGaugeVec::new(
            Opts::new(
                "epmd_descriptors",
                "Descriptors of the process: used, and how many it may have.",
            ),
            &["state"],
        )?;
        used.with_label_values(&["limit"])
            .set(i64::try_from(descriptors).unwrap_or(i64::MAX));
        registry.register(Box::new(requests.clone()))?;
        registry.register(Box::new(refused.clone()))?;
        registry.register(Box::new(registered.clone()))?;
        registry.register(Box::new(open.clone()))?;
        registry.register(Box::new(used.clone()))?;
        let process = Process::register(&registry, started, descriptors)?;
        Ok(Self {
            counters,
            registry,
            requests,
            refused,
            registered,
            open,
            descriptors: used,
            process,
        })
    }

    /// All metrics as they are now.
    fn text(&self) -> prometheus::Result<String> {
        let raise = |counters: &IntCounterVec, labels: [&str; 2], value: u64| {
            let counter = counters.with_label_values(&labels);
            counter.inc_by(value.saturating_sub(counter.get()));
        };
        for operation in Operation::ALL {
            for verdict in Verdict::ALL {
                let count = self.counters.requests(operation, verdict);
                raise(&self.requests, [operation.name(), verdict.name()], count);
            }
            for reason in Reason::ALL {
                let count = self.counters.refused(operation, reason);
                // Most pairs can't be; a series for each would hide those that can.
                if count > 0 {
                    raise(&self.refused, [operation.name(), reason.name()], count);
                }
            }
        }
        let gauge = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        self.registered.set(gauge(self.counters.registered()));
        self.open.set(gauge(self.counters.open()));
        let open = open_descriptors();
        self.descriptors
            .with_label_values(&["used"])
            .set(gauge(open as u64));
        self.process.update(open);
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }
}
