//! `[metrics]`: the counters as Prometheus text at /metrics.
//!
//! Takes no part in serving epmd: it has a thread and an event loop of its own, reads counters that
//! anybody may read, and has a small budget of connections with a time limit. An address that is taken
//! or gone is an error in the log, and is tried again. Encoding is the `prometheus` crate's, HTTP is
//! hyper's. Started by `server`, at the start or at a reload.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, SystemTime};

use hyper::body::Incoming;
use hyper::header::{ALLOW, CONTENT_TYPE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use prometheus::process_collector::ProcessCollector;
use prometheus::proto::Gauge;
use prometheus::{IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::{sleep, timeout};

use crate::core::counters::Counters;
use crate::core::outcome::{Operation, Reason, Verdict};
use crate::daemon::log::{Level, Log};

/// How many connections are served at once; others wait to be accepted.
const CONNECTIONS: usize = 8;
/// How long one may take, in all.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long it is waited before an address that could not be had is tried again.
const TRY_AGAIN: Duration = Duration::from_secs(5);

/// How many descriptors this process has open.
#[must_use]
pub fn open_descriptors() -> usize {
    // The folder's own descriptor is one of them while it is read.
    fs::read_dir("/proc/self/fd").map_or(0, |entries| entries.count().saturating_sub(1))
}

/// The exporter: where it listens can be changed while it runs.
#[derive(Debug)]
pub struct Exporter {
    listen: watch::Sender<Option<SocketAddr>>,
}

impl Exporter {
    /// Starts the exporter's thread. `started`: when the daemon did.
    ///
    /// # Errors
    /// No thread can be had.
    pub fn start(
        counters: Arc<Counters>,
        descriptors: usize,
        started: SystemTime,
        log: Log,
    ) -> io::Result<Self> {
        let (listen, changes) = watch::channel(None);
        let metrics = Metrics::new(counters, descriptors, started).map_err(io::Error::other)?;
        // Made in its thread: where that can't be had, an event loop must not be dropped on another one.
        let run = move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_io()
                .enable_time()
                .build();
            match runtime {
                Ok(runtime) => runtime.block_on(follow(changes, Arc::new(metrics), log)),
                Err(error) => log.note(Level::Error, format!("no metrics: {error}")),
            }
        };
        thread::Builder::new()
            .name("epmd-metrics".into())
            .spawn(run)?;
        Ok(Self { listen })
    }

    /// Listens there from now on; `None`: nowhere.
    pub fn listen(&self, address: Option<SocketAddr>) {
        self.listen.send_if_modified(|current| {
            let changed = *current != address;
            *current = address;
            changed
        });
    }
}

/// Serves at the address that is set, until the daemon is gone.
async fn follow(mut changes: watch::Receiver<Option<SocketAddr>>, metrics: Arc<Metrics>, log: Log) {
    loop {
        let address = *changes.borrow_and_update();
        let serving = async {
            match address {
                Some(address) => serve(address, &metrics, &log).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = serving => {}
            changed = changes.changed() => if changed.is_err() { return },
        }
    }
}

/// Serves at one address for ever.
async fn serve(address: SocketAddr, metrics: &Arc<Metrics>, log: &Log) {
    let listener = bind(address, log).await;
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        // It is never closed.
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((stream, _)) => {
                let metrics = Arc::clone(metrics);
                tokio::spawn(async move {
                    // Who takes too long, or sends nonsense, has itself to thank.
                    let _ = timeout(PATIENCE, converse(stream, metrics)).await;
                    drop(slot);
                });
            }
            Err(error) => {
                log.note(
                    Level::Warning,
                    format!("metrics.listen: can't accept: {error}"),
                );
                sleep(TRY_AGAIN).await;
            }
        }
    }
}

/// Binds, as often as it takes; says once that it can't.
async fn bind(address: SocketAddr, log: &Log) -> TcpListener {
    let mut told = false;
    loop {
        match TcpListener::bind(address).await {
            Ok(listener) => {
                log.note(Level::Info, format!("metrics at http://{address}/metrics"));
                return listener;
            }
            Err(error) if !told => {
                told = true;
                let text = format!(
                    "metrics.listen: can't listen on {address}: {error}; it is tried again"
                );
                log.note(Level::Error, text);
            }
            Err(_) => {}
        }
        sleep(TRY_AGAIN).await;
    }
}

async fn converse(stream: TcpStream, metrics: Arc<Metrics>) -> Result<(), hyper::Error> {
    let answer = |request: Request<Incoming>| {
        let response = metrics.answer(request.method(), request.uri().path());
        async move { response }
    };
    http1::Builder::new()
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service_fn(answer))
        .await
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
    /// When the daemon started, in seconds since 1970 UTC.
    started: f64,
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
        registry.register(Box::new(ProcessCollector::for_self()))?;
        Ok(Self {
            counters,
            registry,
            requests,
            refused,
            registered,
            open,
            descriptors: used,
            started,
        })
    }

    fn answer(&self, method: &Method, path: &str) -> Result<Response<String>, hyper::http::Error> {
        let response = Response::builder();
        if path != "/metrics" {
            return response
                .status(StatusCode::NOT_FOUND)
                .body("only /metrics is here\n".into());
        }
        if method != Method::GET && method != Method::HEAD {
            let response = response
                .status(StatusCode::METHOD_NOT_ALLOWED)
                .header(ALLOW, "GET, HEAD");
            return response.body(String::new());
        }
        match self.text() {
            Ok(text) => response
                .header(CONTENT_TYPE, prometheus::TEXT_FORMAT)
                .body(text),
            Err(error) => response
                .status(StatusCode::INTERNAL_SERVER_ERROR)
                .body(format!("{error}\n")),
        }
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
        self.descriptors
            .with_label_values(&["used"])
            .set(gauge(open_descriptors() as u64));
        let mut families = self.registry.gather();
        // In the unit's sandbox /proc/stat, from which the crate takes it, is not there.
        for family in families
            .iter_mut()
            .filter(|f| f.name() == "process_start_time_seconds")
        {
            for metric in family.mut_metric() {
                let mut gauge = Gauge::default();
                gauge.set_value(self.started);
                metric.set_gauge(gauge);
            }
        }
        TextEncoder::new().encode_to_string(&families)
    }
}
