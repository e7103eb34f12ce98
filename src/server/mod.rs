//! The daemon: listeners, connections, limits, signals.
//!
//! Moves bytes between sockets and the `desk`, which decides. One thread; a connection whose request
//! is already there when it is accepted is answered and closed before the next one is accepted, and
//! never meets the event loop. Only one that has to be waited for becomes a task (`connection`), and
//! one that registers a name goes to the `holders`. Called by `main`.

pub mod budget;
mod connection;
mod holders;
pub mod listen;
mod survival;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::io::unix::AsyncFd;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Notify;
use tokio::task::{JoinHandle, LocalSet};
use tokio::time::{sleep, timeout, timeout_at};

use crate::audit::{Audit, Hint};
use crate::config::{Settings, Sources};
use crate::counters::Counters;
use crate::desk::{Desk, Holder as _};
use crate::log::{Level, Log};
use crate::outcome::{Outcome, Setting};
use crate::registry;
use crate::slots::{self, Slots};
use crate::sys;
use crate::systemd::store::{Kept, Store};
use crate::systemd::{KeptSettings, Notifier};
use crate::wire;
use budget::Budget;
use holders::{Held, Holders};

/// How many connections are accepted in a row before others get their turn.
const ACCEPTS_IN_A_ROW: usize = 32;
/// The most that is read of a connection at once: one byte more than any request has.
const READ_AT_ONCE: usize = wire::LENGTH_FIELD + wire::MAX_REQUEST + 1;
/// How long requests in flight are waited for when systemd restarts the daemon.
const PATIENCE_AT_A_RESTART: Duration = Duration::from_millis(100);
/// How long no connection is accepted after an error that would only come again at once.
const PAUSE_AFTER_ERROR: Duration = Duration::from_millis(100);

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
    let tasks = LocalSet::new();
    let result = tasks.block_on(&runtime, serve(start));
    // What still holds a name is closed by the kernel with the process, all at once.
    result
}

/// What all connections share. One thread: a borrow never crosses an `await`.
struct Server {
    state: RefCell<State>,
    holders: Holders,
    log: Log,
    /// When the daemon started; the audit's time counts from here.
    started: Instant,
    /// The audit has something to time that it had not before.
    audit_due: Notify,
    /// KILL_REQ was answered.
    killed: Notify,
    /// The daemon ends: who has not begun to ask may go.
    ending: Notify,
    /// The last connection has left.
    idle: Notify,
    /// When the last line about a failing accept was told.
    accept_error_told: Cell<Option<Instant>>,
}

struct State {
    settings: Settings,
    desk: Desk<Held>,
    slots: Slots,
    /// How to tell a connection that it has to make room.
    waiting: HashMap<slots::Id, Rc<Bell>>,
    audit: Audit,
    counters: Counters,
    /// The answer that is being made.
    answer: Vec<u8>,
    /// Where registrations outlive the process.
    store: Option<Store>,
    /// Registrations are not kept, and that is told.
    keeping_fails: bool,
}

/// Tells a connection that it has to make room.
#[derive(Debug)]
struct Bell {
    rings: Notify,
    /// The limit that is reached.
    limit: Cell<Setting>,
}

impl Bell {
    fn new() -> Self {
        Self {
            rings: Notify::new(),
            limit: Cell::new(Setting::Connections),
        }
    }

    fn ring(&self, limit: Setting) {
        self.limit.set(limit);
        self.rings.notify_one();
    }

    /// Waits until it rings, and says which limit is reached.
    async fn rung(&self) -> Setting {
        self.rings.notified().await;
        self.limit.get()
    }
}

/// A listening socket in the event loop.
struct Listener {
    socket: TcpListener,
    readable: AsyncFd<OwnedFd>,
    address: SocketAddr,
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
        complaint,
    } = start;
    let mut hangup = signal(SignalKind::hangup())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;

    let listeners = listeners
        .into_iter()
        .map(Listener::new)
        .collect::<io::Result<Vec<_>>>()?;
    let listeners: Vec<_> = listeners.into_iter().map(Rc::new).collect();
    let budget = Budget::new(&settings.limits, descriptors, listeners.len());
    if let Some(shortfall) = budget.shortfall(&settings.limits) {
        log.note(Level::Warning, shortfall);
    }
    let server = Rc::new(Server {
        state: RefCell::new(State::new(settings, budget)),
        holders: Holders::new()?,
        log,
        started: Instant::now(),
        audit_due: Notify::new(),
        killed: Notify::new(),
        ending: Notify::new(),
        idle: Notify::new(),
        accept_error_told: Cell::new(None),
    });
    let mut kept_settings = kept.map(|kept| {
        server.restore(kept.store, kept.registrations);
        kept.settings
    });
    let accepting: Vec<JoinHandle<()>> = listeners
        .iter()
        .map(|listener| tokio::task::spawn_local(accept(Rc::clone(&server), Rc::clone(listener))))
        .collect();
    tokio::task::spawn_local(tell_when_due(Rc::clone(&server)));
    tokio::task::spawn_local(release_when_ended(Rc::clone(&server)));
    if let Some(interval) = notifier.watchdog() {
        tokio::task::spawn_local(tell_the_watchdog(notifier, interval));
    }
    notifier.ready(&complaint.unwrap_or_else(|| server.whom_it_serves()));

    loop {
        tokio::select! {
            () = received(&mut hangup) => {
                notifier.reloading();
                let status = server.reload(&sources, descriptors, listeners.len(), kept_settings.as_mut());
                notifier.ready(&status);
            }
            () = received(&mut terminate) => break,
            () = received(&mut interrupt) => break,
            () = server.killed.notified() => break,
        }
    }
    notifier.stopping();
    for task in accepting {
        task.abort();
    }
    // Who restarts the service must not wait for a peer that is slow on purpose: what is not finished
    // soon is asked again, of the next process.
    let patience = match kept_settings {
        Some(_) => PATIENCE_AT_A_RESTART,
        None => server.state.borrow().settings.limits.request_timeout,
    };
    server.finish(&listeners, patience).await;
    Ok(())
}

/// Tells systemd again and again that the event loop turns.
async fn tell_the_watchdog(notifier: Notifier, interval: Duration) {
    loop {
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

impl Listener {
    fn new(socket: TcpListener) -> io::Result<Self> {
        let address = socket.local_addr()?;
        let readable = sys::watch(&socket)?;
        Ok(Self {
            socket,
            readable,
            address,
        })
    }

    /// Whether one more connection waits. Costs a twentieth of an accept(2) that finds none: that one
    /// makes a socket and a file first.
    fn has_more(&self) -> bool {
        let mut listener = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
        // Where it can't be told, accept(2) will say.
        poll(&mut listener, PollTimeout::ZERO) != Ok(0)
    }
}

/// Accepts connections for ever: no error ends it, and none makes it spin.
async fn accept(server: Rc<Server>, listener: Rc<Listener>) {
    let mut buffer = [0; READ_AT_ONCE];
    loop {
        let delay = server.state.borrow().settings.delay_accept;
        if !delay.is_zero() {
            sleep(delay).await;
        }
        let Ok(mut ready) = listener.readable.readable().await else {
            sleep(PAUSE_AFTER_ERROR).await;
            continue;
        };
        // Stock's test of a busy server waits before each one.
        let in_a_row = if delay.is_zero() { ACCEPTS_IN_A_ROW } else { 1 };
        for _ in 0..in_a_row {
            match listener.socket.accept() {
                Ok((stream, peer)) => server.welcome(stream, peer, &listener, &mut buffer),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) if is_of_the_connection(&error) => {}
                Err(error) => {
                    server.note_accept_error(&error);
                    sleep(PAUSE_AFTER_ERROR).await;
                }
            }
            if !listener.has_more() {
                ready.clear_ready();
                break;
            }
        }
        if delay.is_zero() && ready.ready().is_readable() {
            tokio::task::yield_now().await;
        }
    }
}

/// Whether an error of accept(2) is the connection's own, and the next one may be as good as any.
fn is_of_the_connection(error: &io::Error) -> bool {
    let Some(number) = error.raw_os_error() else {
        return false;
    };
    // accept(2), "Error handling": Linux passes pending network errors of the new socket.
    matches!(
        Errno::from_raw(number),
        Errno::ECONNABORTED
            | Errno::EINTR
            | Errno::EPROTO
            | Errno::ENETDOWN
            | Errno::ENOPROTOOPT
            | Errno::EHOSTDOWN
            | Errno::ENONET
            | Errno::EHOSTUNREACH
            | Errno::EOPNOTSUPP
            | Errno::ENETUNREACH
            | Errno::ETIMEDOUT
            | Errno::EPERM
    )
}

/// Tells what the audit has counted when its time has come; sleeps while there is nothing to time.
async fn tell_when_due(server: Rc<Server>) {
    loop {
        let due = server.state.borrow().audit.next_due();
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
                    server
                        .state
                        .borrow_mut()
                        .audit
                        .due(now, &mut |event| log.tell(event));
                }
            }
        }
    }
}

/// Releases the names whose connections have ended.
async fn release_when_ended(server: Rc<Server>) {
    loop {
        match server.holders.ended().await {
            Ok(ended) => {
                let mut state = server.state.borrow_mut();
                ended.into_iter().for_each(|id| state.release(id));
            }
            Err(error) => {
                server
                    .log
                    .note(Level::Error, format!("can't watch registrations: {error}"));
                sleep(PAUSE_AFTER_ERROR).await;
            }
        }
    }
}

impl State {
    fn new(settings: Settings, budget: Budget) -> Self {
        Self {
            desk: Desk {
                rules: settings.rules.clone(),
                max_registrations: budget.registrations,
                relaxed_command_check: settings.relaxed_command_check,
                registry: Default::default(),
            },
            slots: Slots::new(budget.connections, settings.limits.per_source),
            waiting: HashMap::new(),
            audit: Audit::new(&settings.audit, Hint::of(&settings)),
            counters: Counters::default(),
            answer: Vec::new(),
            store: None,
            keeping_fails: false,
            settings,
        }
    }

    /// Releases the registration with this number, if it is still there.
    fn release(&mut self, id: registry::Id) {
        if let Some(registration) = self.desk.registry.release(id) {
            registration.holder.release();
        }
    }
}

impl Server {
    /// Time as the audit counts it.
    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// The end of every request: its outcome is counted and, where it is a refusal, audited.
    fn conclude(&self, state: &mut State, outcome: &Outcome<'_>) {
        state.counters.count(outcome);
        if state.settings.debug > 0 {
            self.log.note(Level::Debug, describe(outcome));
        }
        if state.desk.is_event(outcome) {
            let before = state.audit.next_due();
            state
                .audit
                .record(self.now(), outcome, &mut |event| self.log.tell(event));
            if state.audit.next_due() != before {
                self.audit_due.notify_one();
            }
        }
    }

    fn whom_it_serves(&self) -> String {
        self.state.borrow().settings.whom_it_serves()
    }

    /// Reads the settings again. Good ones are in force at once, for new requests; with bad ones
    /// the old ones stay. Gives the daemon's status in a line.
    fn reload(
        &self,
        sources: &Sources,
        descriptors: usize,
        listeners: usize,
        kept: Option<&mut KeptSettings>,
    ) -> String {
        let (settings, snapshot) = match sources.load_and_keep() {
            Ok(loaded) => loaded,
            Err(errors) => {
                self.log.note(Level::Error, errors.to_string());
                let status = errors.not_in_force("not reloaded");
                self.log.note(Level::Error, status.clone());
                return status;
            }
        };
        if let Some(Err(error)) = kept.map(|kept| kept.keep(&snapshot)) {
            self.log.note(
                Level::Warning,
                format!("can't keep the settings for a restart: {error}"),
            );
        }
        let mut state = self.state.borrow_mut();
        let state = &mut *state;
        let budget = Budget::new(&settings.limits, descriptors, listeners);
        let served = state.desk.rules.served.take();
        state.desk.rules = settings.rules.clone();
        state.desk.rules.served = served;
        state.desk.max_registrations = budget.registrations;
        state
            .slots
            .set_limits(budget.connections, settings.limits.per_source);
        state
            .audit
            .reconfigure(&settings.audit, Hint::of(&settings));
        self.log.set_format(settings.audit.format);
        if let Some(shortfall) = budget.shortfall(&settings.limits) {
            self.log.note(Level::Warning, shortfall);
        }
        let old = &state.settings;
        for (key, changed) in [
            ("listen", old.listen != settings.listen),
            ("port", old.port != settings.port),
        ] {
            if changed {
                let text =
                    format!("{key} has changed: that takes force when epmd is started again");
                self.log.note(Level::Warning, text);
            }
        }
        let status = settings.whom_it_serves();
        self.log.note(Level::Info, format!("reloaded: {status}"));
        state.settings = settings;
        status
    }

    /// Says that accept(2) fails, at most once a second.
    fn note_accept_error(&self, error: &io::Error) {
        const TOLD_EVERY: Duration = Duration::from_secs(1);
        if self
            .accept_error_told
            .get()
            .is_none_or(|told| told.elapsed() >= TOLD_EVERY)
        {
            self.accept_error_told.set(Some(Instant::now()));
            self.log.note(
                Level::Error,
                format!("can't accept connections for the moment: {error}"),
            );
        }
    }

    /// Answers what has come already, waits for the requests in flight, and tells what is untold.
    async fn finish(self: &Rc<Self>, listeners: &[Rc<Listener>], patience: Duration) {
        let mut buffer = [0; READ_AT_ONCE];
        for listener in listeners {
            while let Ok((stream, peer)) = listener.socket.accept() {
                self.welcome(stream, peer, listener, &mut buffer);
            }
        }
        self.ending.notify_waiters();
        let all_gone = async {
            while self.state.borrow().slots.used() > 0 {
                self.idle.notified().await;
            }
        };
        // Who is still there then has had its time.
        let _ = timeout(patience, all_gone).await;
        let now = self.now();
        self.state
            .borrow_mut()
            .audit
            .flush(now, &mut |event| self.log.tell(event));
    }
}

/// One request's end, for `-d`.
fn describe(outcome: &Outcome<'_>) -> String {
    let node = outcome
        .node
        .map(|n| format!(" of \"{}\"", crate::audit::escape(n)))
        .unwrap_or_default();
    let reason = outcome
        .reason
        .map(|r| format!(" ({r})"))
        .unwrap_or_default();
    let (operation, verdict) = (outcome.operation, outcome.verdict.name());
    format!(
        "{operation}{node} from {}: {verdict}{reason}",
        outcome.ends.peer
    )
}

/// Milliseconds since 1970 UTC.
fn wall_clock() -> u64 {
    let since = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
