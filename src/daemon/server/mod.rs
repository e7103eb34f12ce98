//! The daemon: listeners, connections, limits, signals.
//!
//! Moves bytes between sockets and the `desk`, which decides. A connection whose request is already
//! there when it is accepted is answered and closed before the next one is accepted, by the thread that
//! does nothing else (`accept`), and never meets the event loop. Only one that has to be waited for
//! becomes a task there (`connection`), and one that registers a name is one of the `holders`. Called by
//! `main`.

mod accept;
pub mod budget;
mod connection;
mod holders;
mod own;
mod reload;
mod state;
mod status;
mod survival;

use std::convert::Infallible;
use std::io;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant, SystemTime};

use nix::sys::epoll::{Epoll, EpollCreateFlags};
use tokio::runtime::Handle;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout, timeout_at};

use crate::config::{Settings, Sources};
use crate::core::wire;
use crate::daemon::log::{Level, Log};
use crate::daemon::metrics::Exporter;
use crate::daemon::systemd::store::{Kept, Store};
use crate::daemon::systemd::{KeptSettings, Notifier};
use crate::daemon::{control, listen};
use accept::{Acceptor, Line, Listener};
use budget::Budget;
use state::{Server, State};

/// How long nothing is done after an error that would only come again at once.
const PAUSE_AFTER_ERROR: Duration = Duration::from_millis(100);

/// The most that is read of a connection at once: one byte more than any request has.
const READ_AT_ONCE: usize = wire::LENGTH_FIELD + wire::MAX_REQUEST + 1;
/// How long requests in flight are waited for when systemd restarts the daemon.
const PATIENCE_AT_A_RESTART: Duration = Duration::from_millis(100);
/// Everything that the daemon starts with.
#[derive(Debug)]
pub struct Start {
    /// Where the settings came from, for a reload.
    pub sources: Sources,
    /// What is in force.
    pub settings: Settings,
    /// Listening, non-blocking.
    pub listeners: Vec<TcpListener>,
    /// Descriptors that the process may have.
    pub descriptors: usize,
    /// Where lines go.
    pub log: Log,
    /// Whom to tell that the daemon is ready.
    pub notifier: Notifier,
    /// What outlives the process.
    pub kept: Option<Keeping>,
    /// Where the control socket is to be.
    pub control: PathBuf,
    /// Why the settings in force are not those of the file, where they are not.
    pub complaint: Option<String>,
}

/// What is kept in systemd's store.
#[derive(Debug)]
pub struct Keeping {
    /// The registrations.
    pub store: Store,
    /// What the store held at the start.
    pub registrations: Vec<Kept>,
    /// The settings.
    pub settings: KeptSettings,
}

/// Serves until SIGTERM, SIGINT or KILL_REQ.
///
/// # Errors
/// What keeps the event loop from being made. No error of a connection ends it.
pub fn run(start: Start) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()?;
    let result = runtime.block_on(serve(start));
    // What still holds a name is closed by the kernel with the process, all at once.
    result
}

async fn serve(start: Start) -> io::Result<()> {
    let Start {
        sources,
        settings,
        listeners,
        descriptors,
        log,
        notifier,
        kept,
        control,
        complaint,
    } = start;
    let listeners = listeners
        .into_iter()
        .map(Listener::new)
        .collect::<io::Result<Vec<_>>>()?;
    let listening = listen::addresses(listeners.iter().map(|l| &l.socket));
    let budget = Budget::new(&settings.limits, descriptors, listeners.len());
    if let Some(shortfall) = budget.shortfall(&settings.limits) {
        log.note(Level::Warning, shortfall);
    }
    let (delay_accept, delay_write) = (settings.delay_accept, settings.delay_write);
    let server = Arc::new(Server {
        shared: Mutex::new(State::new(settings, budget)),
        left: Condvar::new(),
        event_loop: Handle::current(),
        epoll: Arc::new(Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?),
        log,
        started: Instant::now(),
        audit_due: Notify::new(),
        killed: Notify::new(),
        ending: Notify::new(),
        is_ending: AtomicBool::new(false),
        idle: Notify::new(),
        descriptors,
        delay_accept,
        delay_write,
    });
    let kept_settings = kept.map(|kept| {
        server.restore(kept.store, kept.registrations);
        kept.settings
    });
    let is_kept = kept_settings.is_some();
    let mut lasting = JoinSet::new();
    lasting.spawn(tell_when_due(Arc::clone(&server)));
    open_control_socket(&server, &control, listening);
    let mut control = Control {
        exporter: None,
        server: Arc::clone(&server),
        sources,
        listeners: listeners.len(),
        notifier,
        kept_settings,
    };
    control.export_metrics();
    let control = control.until_the_end()?;
    let mut acceptor = Acceptor::start(Arc::clone(&server), listeners)?;
    if let Some(interval) = notifier.watchdog() {
        lasting.spawn(tell_the_watchdog(notifier, interval, acceptor.line()));
    }
    notifier.ready(&complaint.unwrap_or_else(|| server.whom_it_serves()));
    // All but the first end by a mistake of ours alone. A daemon that is deaf, and keeps the names of
    // dead nodes, is worse than one that is started again.
    tokio::select! {
        () = control => {}
        () = acceptor.ended() => return Err(io::Error::other("the thread that accepts has ended")),
        Some(failed) = lasting.join_next() => {
            failed.map(|never| match never {}).map_err(io::Error::other)?;
        }
    }
    notifier.stopping();
    // Who restarts the service must not wait for a peer that is slow on purpose: what is not finished
    // soon is asked again, of the next process.
    let patience = if is_kept {
        PATIENCE_AT_A_RESTART
    } else {
        server.request_timeout()
    };
    acceptor.stop().await;
    server.finish(patience).await;
    Ok(())
}

/// What signals do to the daemon.
struct Control {
    server: Arc<Server>,
    sources: Sources,
    listeners: usize,
    notifier: Notifier,
    exporter: Option<Exporter>,
    kept_settings: Option<KeptSettings>,
}

impl Control {
    /// Goes by the signals until one of them, or KILL_REQ, ends the daemon. The signals are caught
    /// when this returns.
    fn until_the_end(mut self) -> io::Result<impl Future<Output = ()>> {
        let mut hangup = signal(SignalKind::hangup())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        Ok(async move {
            loop {
                tokio::select! {
                    () = received(&mut hangup) => self.reload(),
                    () = received(&mut terminate) => break,
                    () = received(&mut interrupt) => break,
                    () = self.server.killed.notified() => break,
                }
            }
        })
    }

    fn reload(&mut self) {
        self.notifier.reloading();
        let Self {
            server,
            sources,
            listeners,
            kept_settings,
            ..
        } = self;
        let status = server.reload(sources, *listeners, kept_settings.as_mut());
        self.export_metrics();
        self.notifier.ready(&status);
    }

    /// Has the exporter listen where the settings say.
    fn export_metrics(&mut self) {
        let server = &self.server;
        let state = server.state();
        let listen = state.settings.metrics;
        if self.exporter.is_none() && listen.is_some() {
            match Exporter::start(
                Arc::clone(&state.counters),
                server.descriptors,
                server.started_at(),
                server.log.clone(),
            ) {
                Ok(exporter) => self.exporter = Some(exporter),
                Err(error) => server
                    .log
                    .note(Level::Error, format!("no metrics: {error}")),
            }
        }
        if let Some(exporter) = &self.exporter {
            exporter.listen(listen);
        }
    }
}

/// Opens the control socket, or says why there is none.
fn open_control_socket(server: &Arc<Server>, path: &Path, listening: Vec<String>) {
    match control::bind(path) {
        Ok(socket) => {
            let (told, listening) = (Arc::clone(server), Arc::new(listening));
            let status = move || status::status(&told, &told.state(), &listening);
            tokio::spawn(control::answer(socket, server.log.clone(), status));
        }
        Err(error) => {
            let text = format!(
                "no control socket at {}, so no epmd -status: {error}",
                path.display()
            );
            server.log.note(Level::Info, text);
        }
    }
}

/// Tells systemd again and again that the event loop turns, and that connections are accepted.
async fn tell_the_watchdog(
    notifier: Notifier,
    interval: Duration,
    acceptor: Arc<Line>,
) -> Infallible {
    loop {
        acceptor.sign_of_life().await;
        notifier.alive();
        sleep(interval).await;
    }
}

/// Waits for a signal; where the event loop can't tell of it any more, for ever.
async fn received(signal: &mut Signal) {
    if signal.recv().await.is_none() {
        std::future::pending::<()>().await;
    }
}

/// Tells what the audit has counted when its time has come; sleeps while there is nothing to time.
async fn tell_when_due(server: Arc<Server>) -> Infallible {
    loop {
        let due = server.state().audit.next_due();
        match due {
            None => server.audit_due.notified().await,
            Some(due) => {
                let at = server.started + due;
                if timeout_at(at.into(), server.audit_due.notified())
                    .await
                    .is_err()
                {
                    let log = &server.log;
                    let now = server.now();
                    server.state().audit.due(now, &mut |event| log.tell(event));
                }
            }
        }
    }
}

impl Server {
    /// How long a request may take, and its answer.
    fn request_timeout(&self) -> Duration {
        self.state().settings.limits.request_timeout
    }

    /// Waits for the requests in flight, and tells what is untold.
    ///
    /// The listening sockets are closed already: whoever starts epmd again must not find its port held.
    /// What systemd keeps of them goes on listening.
    async fn finish(&self, patience: Duration) {
        self.is_ending.store(true, Ordering::Relaxed);
        self.ending.notify_waiters();
        let all_gone = async {
            while self.state().slots.used() > 0 {
                self.idle.notified().await;
            }
        };
        // Who is still there then has had its time.
        let _ = timeout(patience, all_gone).await;
        let now = self.now();
        self.state()
            .audit
            .flush(now, &mut |event| self.log.tell(event));
    }
}

/// Milliseconds since 1970 UTC.
fn wall_clock() -> u64 {
    let since = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
