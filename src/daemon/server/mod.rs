//! The daemon at work: from the first connection to the last signal.
//!
//! The way of a request, one connection at a time, on a thread of its listening socket's that waits for nothing
//! else:
//!
//! ```text
//! accept     Accepting::one        the next connection
//!            Accepting::known      who is at its ends, and whether that is this host
//! request    Connection::serve     what has come of its request, without waiting
//!            Connection::answer    under the lock: Desk::handle decides and encodes; send; Books::conclude
//!            Connection::register  a registration: Desk::register, Survival::keep, its answer
//! slow       serve, send           a task of the event loop, where a request is not whole yet, or an answer
//!                                  is not read; it ends in Connection::answer as well
//! ```
//!
//! A connection that holds a name is one of the `holders`, and its end is heard of by `accept`'s thread that
//! watches. `run` is called by the daemon's start.

mod accept;
mod books;
pub mod budget;
mod called;
mod clock;
mod follow;
mod followers;
mod holders;
mod line;
mod own;
mod reload;
mod request;
pub mod signals;
mod slow;
mod state;
mod status;
mod survival;
mod waiting;
pub mod whose;

use std::convert::Infallible;
use std::io;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::detach::Tether;
use super::log::{Level, Log};
use super::sandbox::Sandbox;
use super::systemd::kept::Kept;
use super::systemd::notify::BEHIND;
use super::systemd::store::Store;
use super::systemd::{KeptSettings, Notifier};
use super::{control, listen};
use crate::config::{Settings, Sources};
use crate::core::counters::Counters;
use crate::core::desk::Desk;
use crate::core::holds::Holds;
use crate::core::registry::{Cursor, Registry};
use crate::core::wire;
use accept::{Acceptor, Listener, Listening, Pulse};
use books::Books;
use budget::Budget;
use clock::Clock;
use followers::Followers;
use own::ThisHost;
use reload::Reload;
use signals::{Signal, Signals};
use state::{Delays, Parts, Server, State};
use survival::Survival;
use waiting::Waiting;
use whose::Eyes;

/// How long requests in flight are waited for when systemd restarts the daemon.
const PATIENCE_AT_A_RESTART: Duration = Duration::from_millis(100);
/// How long process 1 is left alone before it is told again what it did not take.
const BETWEEN_TRIES: Duration = Duration::from_millis(100);

/// Everything that the daemon starts with.
#[derive(Debug)]
pub struct Start {
    /// Where the settings came from, for a reload.
    pub sources: Sources,
    /// What is in force.
    pub settings: Settings,
    /// Listening, non-blocking.
    pub listeners: Vec<TcpListener>,
    /// How many of them, the last ones, are a socket unit's: process 1 listens on them as well.
    pub of_a_unit: usize,
    /// Descriptors that the process may have.
    pub descriptors: usize,
    /// Where lines go.
    pub log: Log,
    /// Whom to tell that the daemon is ready.
    pub notifier: Notifier,
    /// What outlives the process.
    pub kept: Option<Keeping>,
    /// What an epmd was doing whose place was taken.
    pub carried: Carried,
    /// Where the control socket is to be, and the socket; none where the settings have none.
    pub control: Option<(PathBuf, io::Result<UnixListener>)>,
    /// What this process has shut itself in with.
    pub sandbox: Sandbox,
    /// Why the settings in force are not those of the file, where they are not.
    pub complaint: Option<String>,
    /// Who is to be let go of once the daemon serves.
    pub tether: Option<Tether>,
    /// By what the kernel is asked which user's a connection is.
    pub eyes: Eyes,
}

/// What is carried on of an epmd whose place was taken.
#[derive(Debug, Default)]
pub struct Carried {
    /// Its registrations, where they did not come by way of the store.
    pub registrations: Vec<Kept>,
    /// Connections that have asked nothing yet.
    pub arrivals: Vec<OwnedFd>,
    /// Listening sockets that give way, see [`listen::lead_past`].
    pub leaving: Vec<TcpListener>,
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
        .build()
        .map_err(failed("make the event loop (epoll, eventfd)"))?;
    let result = runtime.block_on(serve(start));
    // What still holds a name is closed by the kernel with the process, all at once.
    result
}

/// Names what failed, and what may help.
fn failed<E: Into<io::Error>>(what: &str) -> impl FnOnce(E) -> io::Error {
    move |error| {
        let error = error.into();
        let remedy = match error.raw_os_error().map(Errno::from_raw) {
            Some(Errno::EMFILE | Errno::ENFILE) => {
                "; raise the limit of descriptors (LimitNOFILE=, ulimit -n)"
            }
            Some(Errno::EAGAIN | Errno::ENOMEM) => {
                "; see the limits of processes (LimitNPROC=, TasksMax=, ulimit -u) and of memory"
            }
            Some(Errno::EPERM | Errno::EACCES | Errno::ENOSYS) => {
                "; see what forbids it: a seccomp filter (SystemCallFilter=, the container's profile) or SELinux"
            }
            _ => "",
        };
        io::Error::new(error.kind(), format!("can't {what}: {error}{remedy}"))
    }
}

async fn serve(start: Start) -> io::Result<()> {
    let Start {
        sources,
        settings,
        listeners,
        of_a_unit,
        descriptors,
        log,
        notifier,
        kept,
        carried,
        control,
        sandbox,
        complaint,
        tether,
        mut eyes,
    } = start;
    let listeners = listeners
        .into_iter()
        .map(Listener::new)
        .collect::<io::Result<Vec<_>>>()
        .map_err(failed("use the listening sockets"))?;
    let leaving = carried
        .leaving
        .into_iter()
        .filter_map(|l| Listener::new(l).ok());
    let leaving: Vec<_> = leaving.collect();
    let listening = listen::addresses(listeners.iter().map(|l| &l.socket));
    let budget = Budget::beside(
        &settings.limits,
        descriptors,
        listeners.len().saturating_add(leaving.len()),
        kept.is_some(),
    );
    if let Some(shortfall) = budget.shortfall(&settings.limits) {
        log.note(Level::Warning, shortfall);
    }
    let (registrations, kept_settings, survival) = match kept {
        None => (carried.registrations, None, Survival::none(log.clone())),
        Some(kept) => (
            kept.registrations,
            Some(kept.settings),
            Survival::with(kept.store, log.clone()),
        ),
    };
    let is_kept = kept_settings.is_some();
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC);
    let epoll = Arc::new(epoll.map_err(failed("watch connections (epoll)"))?);
    let mut desk = Desk {
        rules: settings.rules.clone(),
        max_registrations: budget.registrations,
        relaxed_command_check: settings.relaxed_command_check,
        registry: Registry::default(),
        holds: Holds::default(),
    };
    survival::take_back(registrations, &mut desk, &epoll, &log);
    let clock = Clock::start();
    let audit_due = Arc::new(Notify::new());
    let counters = Arc::new(Counters::default());
    let books = Books::new(
        &settings,
        Arc::clone(&counters),
        log.clone(),
        clock,
        Arc::clone(&audit_due),
    );
    books.set_registered(desk.registry.len());
    let local_decides = settings.rules.served.is_some();
    let server = Arc::new(Server::new(Parts {
        state: State {
            desk,
            books,
            survival,
            answer: Vec::new(),
            in_force: Arc::new(reload::in_force(&settings)),
            followers: Followers::default(),
        },
        waiting: Waiting::new(&budget, &settings.limits, counters),
        epoll,
        log,
        clock,
        audit_due,
        descriptors,
        delays: Delays {
            accept: settings.delay_accept,
            write: settings.delay_write,
        },
        this_host: ThisHost::new(eyes.asker.take(), settings.rules.strangers.clone()),
    }));
    if settings.rules.names.ask_for_users() {
        whose::find_all(&server);
    }
    server.state().keep_holds();
    let mut lasting = JoinSet::new();
    lasting.spawn(tell_when_due(Arc::clone(&server)));
    lasting.spawn(catch_up(Arc::clone(&server), notifier));
    let sandbox = Arc::new(sandbox);
    if let Some(control) = control {
        serve_status(&server, control, listening, Arc::clone(&sandbox));
    }
    let status = complaint.unwrap_or_else(|| settings.whom_it_serves());
    let mut reload = Reload {
        server: Arc::clone(&server),
        sources,
        settings,
        sandbox,
        listeners: listeners.len(),
        notifier,
        kept: kept_settings,
        exporter: None,
        eyes,
        reading: None,
        once_more: false,
    };
    reload.export_metrics();
    let mut signals = Signals::catch().map_err(failed("hear signals"))?;
    let listening_on = Listening {
        staying: listeners,
        of_a_unit,
        leaving,
    };
    let acceptor = Acceptor::start(&server, listening_on, local_decides, carried.arrivals);
    let mut acceptor = acceptor.map_err(failed("accept connections"))?;
    if let Some(interval) = notifier.watchdog() {
        lasting.spawn(tell_the_watchdog(notifier, interval, acceptor.pulse()));
    }
    budget::spare(descriptors)?;
    tether.map_or(Ok(()), Tether::cut)?;
    notifier.ready(&status);
    loop {
        // The last two end by a mistake of ours alone. A daemon that is deaf, and keeps the names of
        // dead nodes, is worse than one that is started again.
        tokio::select! {
            signal = signals.next() => match signal {
                Signal::Reload => reload.again(),
                Signal::End => break,
            },
            () = reload.is_read() => {}
            () = server.killed() => break,
            () = acceptor.ended() => {
                return Err(io::Error::other("a thread that accepts has ended"));
            }
            Some(failed) = lasting.join_next() => {
                failed.map(|never| match never {}).map_err(io::Error::other)?;
            }
        }
    }
    notifier.stopping();
    // Who restarts the service must not wait for a peer that is slow on purpose: what is not finished
    // soon is asked again, of the next process.
    let patience = if is_kept {
        PATIENCE_AT_A_RESTART
    } else {
        server.waiting.request_timeout()
    };
    acceptor.stop().await;
    // The listening sockets are closed: whoever starts epmd again does not find its port held. What
    // systemd keeps of them goes on listening.
    for killer in server.killers().drain(..) {
        // Who went away meanwhile has its will all the same.
        let _ = holders::send_now(&killer, wire::KILL_OK, true);
    }
    if !is_kept {
        hang_up(&server);
    }
    server.waiting.end(patience).await;
    server.state().books.close();
    Ok(())
}

/// Ends the connections that hold names: their nodes register with the next epmd while the last requests
/// are finished. Who still looks a name up is answered as before.
fn hang_up(server: &Server) {
    let state = server.state();
    let mut cursor = Cursor::START;
    while let Some(registration) = state.desk.registry.list(&mut cursor) {
        registration.holder.hang_up();
    }
}

/// Answers on the control socket, or says why there is none.
fn serve_status(
    server: &Arc<Server>,
    control: (PathBuf, io::Result<UnixListener>),
    listening: Vec<String>,
    sandbox: Arc<Sandbox>,
) {
    let (path, socket) = control;
    match socket.and_then(tokio::net::UnixListener::from_std) {
        Ok(socket) => {
            let (told, listening) = (Arc::clone(server), Arc::new(listening));
            let status = move || status::status(&told, &listening, &sandbox);
            let followed = Arc::clone(server);
            let follow = move |follower| follow::follow(Arc::clone(&followed), follower);
            tokio::spawn(control::answer(socket, server.log.clone(), status, follow));
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
async fn tell_the_watchdog(notifier: Notifier, interval: Duration, acceptor: Pulse) -> Infallible {
    loop {
        acceptor.felt().await;
        notifier.alive();
        sleep(interval).await;
    }
}

/// Tells process 1 what it did not take before, and keeps what could not be kept; sleeps while there is
/// nothing of that.
async fn catch_up(server: Arc<Server>, notifier: Notifier) -> Infallible {
    loop {
        BEHIND.notified().await;
        while {
            let told = notifier.catch_up();
            let kept = server.state().catch_up();
            !(told && kept)
        } {
            sleep(BETWEEN_TRIES).await;
        }
    }
}

/// Tells what the audit has counted when its time has come; sleeps while there is nothing to time.
async fn tell_when_due(server: Arc<Server>) -> Infallible {
    loop {
        let due = server.state().books.next_due();
        match due {
            None => server.audit_due.notified().await,
            Some(due) => {
                let left = due.saturating_sub(server.clock.now());
                if timeout(left, server.audit_due.notified()).await.is_err() {
                    server.state().books.tell_due();
                }
            }
        }
    }
}
