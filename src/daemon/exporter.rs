//! A page for Prometheus, over HTTP at /metrics.
//!
//! Takes no part in serving epmd: it has a thread and an event loop of its own, and a small budget of
//! connections with a time limit. An address that is taken or gone is an error in the log, and is tried
//! again. What the page says is the caller's (`metrics` of the daemon, and what a tool that runs on has to
//! say, by way of `lent`); HTTP is hyper's.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::{ALLOW, CONTENT_TYPE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::{sleep, timeout};

use crate::core::lent::{Level, Page};
use crate::daemon::log::Log;

/// How many connections are served at once; others wait to be accepted.
const CONNECTIONS: usize = 8;
/// How long one may take, in all.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long it is waited before an address that could not be had is tried again.
const TRY_AGAIN: Duration = Duration::from_secs(5);

/// The exporter: where it listens can be changed while it runs.
#[derive(Debug)]
pub(in crate::daemon) struct Exporter {
    listen: watch::Sender<Option<SocketAddr>>,
}

impl Exporter {
    /// Starts the exporter's thread, which serves `page`. `key`: the setting that says where, for the log.
    ///
    /// # Errors
    /// No thread can be had.
    pub(in crate::daemon) fn start(key: &'static str, page: Page, log: Log) -> io::Result<Self> {
        let (listen, changes) = watch::channel(None);
        let served = Served { key, page, log };
        // Made in its thread: where that can't be had, an event loop must not be dropped on another one.
        let run = move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_io()
                .enable_time()
                .build();
            match runtime {
                Ok(runtime) => runtime.block_on(follow(changes, &served)),
                Err(error) => served
                    .log
                    .note(Level::Error, format!("no metrics: {error}")),
            }
        };
        thread::Builder::new()
            .name("epmd-metrics".into())
            .spawn(run)?;
        Ok(Self { listen })
    }

    /// Listens there from now on; `None`: nowhere.
    pub(in crate::daemon) fn listen(&self, address: Option<SocketAddr>) {
        self.listen.send_if_modified(|current| {
            let changed = *current != address;
            *current = address;
            changed
        });
    }
}

/// What is served, and who hears of trouble.
struct Served {
    /// The setting that says where.
    key: &'static str,
    page: Page,
    log: Log,
}

/// Serves at the address that is set, until the daemon is gone.
async fn follow(mut changes: watch::Receiver<Option<SocketAddr>>, served: &Served) {
    loop {
        let address = *changes.borrow_and_update();
        let serving = async {
            match address {
                Some(address) => serve(address, served).await,
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
async fn serve(address: SocketAddr, served: &Served) {
    let listener = bind(address, served).await;
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        // It is never closed.
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((stream, _)) => {
                let page = Arc::clone(&served.page);
                tokio::spawn(async move {
                    // Who takes too long, or sends nonsense, has itself to thank.
                    let _ = timeout(PATIENCE, converse(stream, page)).await;
                    drop(slot);
                });
            }
            Err(error) => {
                served.log.note(
                    Level::Warning,
                    format!("{}: can't accept: {error}", served.key),
                );
                sleep(TRY_AGAIN).await;
            }
        }
    }
}

/// Binds, as often as it takes; says once that it can't.
async fn bind(address: SocketAddr, served: &Served) -> TcpListener {
    let Served { key, log, .. } = served;
    let mut told = false;
    loop {
        match TcpListener::bind(address).await {
            Ok(listener) => {
                log.note(Level::Info, format!("metrics at http://{address}/metrics"));
                return listener;
            }
            Err(error) if !told => {
                told = true;
                let text = format!("{key}: can't listen on {address}: {error}; it is tried again");
                log.note(Level::Error, text);
            }
            Err(_) => {}
        }
        sleep(TRY_AGAIN).await;
    }
}

async fn converse(stream: TcpStream, page: Page) -> Result<(), hyper::Error> {
    let answer = |request: Request<Incoming>| {
        let response = answer(request.method(), request.uri().path(), &page);
        async move { response }
    };
    http1::Builder::new()
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service_fn(answer))
        .await
}

fn answer(
    method: &Method,
    path: &str,
    page: &Page,
) -> Result<Response<String>, hyper::http::Error> {
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
    match page() {
        Ok(text) => response
            .header(CONTENT_TYPE, prometheus::TEXT_FORMAT)
            .body(text),
        Err(error) => response
            .status(StatusCode::INTERNAL_SERVER_ERROR)
            .body(format!("{error}\n")),
    }
}
