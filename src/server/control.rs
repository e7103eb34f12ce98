//! The control socket: what the daemon says of itself, to root and to its own user.
//!
//! One request, one JSON answer, nothing that changes anything. Where the socket can't be had the
//! daemon says so and goes on; a live daemon's socket is left alone, a dead one's is replaced. Who
//! sends nothing, or nonsense, has a few seconds and a few slots, and holds nobody up. Called by
//! `server` at the start.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream as Blocking;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use super::PAUSE_AFTER_ERROR;
use super::state::{Server, State};
use crate::config;
use crate::control::STATUS_REQUEST;
use crate::log::Level;
use crate::outcome::{Operation, Verdict};
use crate::registry::Cursor;
use crate::status::{InForce, Limits, Refused, Registered, Status, Use, kind_name, rfc3339};

/// How long a client may take, in all.
const PATIENCE: Duration = Duration::from_secs(2);
/// How many clients are served at once.
const CLIENTS: usize = 16;

/// Makes the socket.
///
/// # Errors
/// Why there is none: a folder that can't be made, or another daemon that lives.
pub(super) fn bind(path: &Path) -> io::Result<UnixListener> {
    if let Some(folder) = path.parent().filter(|folder| !folder.exists()) {
        fs::create_dir(folder)?;
    }
    match Blocking::connect(path) {
        Ok(_) => {
            return Err(io::Error::new(
                ErrorKind::AddrInUse,
                "another epmd answers there",
            ));
        }
        // Nobody listens there any more.
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => fs::remove_file(path)?,
        Err(_) => {}
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Answers for ever.
pub(super) async fn answer(server: Arc<Server>, listener: UnixListener, listening: Vec<String>) {
    let slots = Arc::new(Semaphore::new(CLIENTS));
    let listening = Arc::new(listening);
    loop {
        // It is never closed.
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((client, _)) => {
                let (server, listening) = (Arc::clone(&server), Arc::clone(&listening));
                tokio::spawn(async move {
                    // A client that goes away, or takes too long, has itself to thank.
                    let _ = timeout(PATIENCE, serve(&server, client, &listening)).await;
                    drop(slot);
                });
            }
            Err(error) => {
                server
                    .log
                    .note(Level::Warning, format!("control socket: {error}"));
                sleep(PAUSE_AFTER_ERROR).await;
            }
        }
    }
}

/// One request, one answer.
async fn serve(server: &Server, mut client: UnixStream, listening: &[String]) -> io::Result<()> {
    let who = client.peer_cred()?.uid();
    if who != 0 && who != nix::unistd::geteuid().as_raw() {
        return Err(ErrorKind::PermissionDenied.into());
    }
    let mut request = [0; STATUS_REQUEST.len()];
    client.read_exact(&mut request).await?;
    if request != STATUS_REQUEST {
        return Err(ErrorKind::InvalidData.into());
    }
    let mut answer = serde_json::to_vec(&status(server, &server.state(), listening))?;
    answer.push(b'\n');
    client.write_all(&answer).await
}

/// The daemon as it is now.
fn status(server: &Server, state: &State, listening: &[String]) -> Status {
    let started = server.started_at();
    let at = |since_start: Duration| rfc3339(started.checked_add(since_start).unwrap_or(started));
    let mut registrations = Vec::new();
    let mut cursor = Cursor::START;
    while let Some(registration) = state.desk.registry.list(&mut cursor) {
        let since = SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(registration.since));
        let node = registration.node;
        registrations.push(Registered {
            name: String::from_utf8_lossy(node.name).into_owned(),
            port: node.port,
            kind: kind_name(node.kind),
            creation: registration.creation,
            since: rfc3339(since.unwrap_or(SystemTime::UNIX_EPOCH)),
        });
    }
    let outcomes = |operation| {
        let count = |verdict: Verdict| {
            (
                verdict.name().to_owned(),
                state.counters.requests(operation, verdict),
            )
        };
        Verdict::ALL.map(count).into_iter().collect()
    };
    let requests: BTreeMap<_, _> = Operation::ALL
        .into_iter()
        .map(|o| (o.name().to_owned(), outcomes(o)))
        .collect();
    let refusals = state.audit.tracked().map(|tracked| Refused {
        source: tracked.source,
        operation: tracked.operation.name().to_owned(),
        reason: tracked.reason.name().to_owned(),
        node: tracked.node,
        first: at(tracked.first),
        last: at(tracked.last),
        count: tracked.count,
    });
    let of = |used: usize, limit: usize| Use {
        used: used as u64,
        limit: limit as u64,
    };
    let settings = &state.settings;
    Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        uptime_seconds: server.now().as_secs(),
        listening: listening.to_vec(),
        requests,
        refusals: refusals.collect(),
        limits: Limits {
            connections: of(state.slots.used(), state.slots.limit()),
            registrations: of(state.desk.registry.len(), state.desk.max_registrations),
            descriptors: of(crate::metrics::open_descriptors(), server.descriptors),
        },
        registrations,
        settings: InForce {
            file: settings.file.as_ref().map(|f| f.display().to_string()),
            allow: settings.rules.allow.iter().map(|n| n.to_string()).collect(),
            enforce: settings.rules.enforce,
            nodes: settings
                .rules
                .nodes
                .keys()
                .map(|n| String::from_utf8_lossy(n).into_owned())
                .collect(),
            text: config::show(settings),
        },
        answered: state.answered.iter().copied().collect(),
    }
}
