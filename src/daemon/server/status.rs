//! What the daemon says of itself: the state as a [`Status`].
//!
//! The lock is taken for a step at a time, and what can be done without it is. Called by `server` for the
//! control socket.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use super::state::Server;
use super::whose::{self, BothEnds};
use crate::core::outcome::{Operation, Verdict};
use crate::core::registry::Cursor;
use crate::core::status::{Holder, Limits, Refused, Registered, Status, Use, kind_name, rfc3339};
use crate::daemon::metrics;
use crate::daemon::sandbox::Sandbox;

/// The daemon as it is now.
pub(super) fn status(server: &Server, listening: &[String], sandbox: &Sandbox) -> Status {
    let started = server.clock.started_at();
    let at = |since_start: Duration| rfc3339(started.checked_add(since_start).unwrap_or(started));
    let registrations = registrations(server);
    let state = server.state();
    let (registered, max_registrations) = (state.desk.registry.len(), state.desk.max_registrations);
    let tracked = state.books.tracked();
    let answered = state.books.answered();
    let settings = std::sync::Arc::clone(&state.in_force);
    drop(state);
    let counters = server.waiting.counters();
    let outcomes = |operation| {
        let count = |verdict: Verdict| {
            let name = verdict.name().to_owned();
            (name, counters.requests(operation, verdict))
        };
        Verdict::ALL.map(count).into_iter().collect()
    };
    let requests: BTreeMap<_, _> = Operation::ALL
        .into_iter()
        .map(|o| (o.name().to_owned(), outcomes(o)))
        .collect();
    let refusals = tracked.into_iter().map(|tracked| Refused {
        source: tracked.source,
        operation: tracked.operation.name().to_owned(),
        reason: tracked.reason.name().to_owned(),
        uid: tracked.uid,
        node: tracked.node,
        first: at(tracked.first),
        last: at(tracked.last),
        count: tracked.count,
    });
    let of = |(used, limit): (usize, usize)| Use {
        used: used as u64,
        limit: limit as u64,
    };
    Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        uptime_seconds: server.clock.now().as_secs(),
        listening: listening.to_vec(),
        requests,
        refusals: refusals.collect(),
        limits: Limits {
            connections: of(server.waiting.in_use()),
            registrations: of((registered, max_registrations)),
            descriptors: of((metrics::open_descriptors(), server.descriptors)),
        },
        registrations,
        sandbox: Some(sandbox.in_force()),
        settings: (*settings).clone(),
        answered,
        guard: server.guard().clone(),
    }
}

/// All names, newest first, as a list has them: some at a time, so that nobody waits behind many.
fn registrations(server: &Server) -> Vec<Registered> {
    let mut all = Vec::new();
    let mut cursor = Cursor::START;
    loop {
        let (some, is_last) = whose::some(&server.state(), &mut cursor, |registration| {
            Some(Taken {
                name: registration.node.name.into(),
                port: registration.node.port,
                kind: registration.node.kind,
                creation: registration.creation,
                since: registration.since,
                ends: whose::ends_of(registration.holder),
            })
        });
        all.extend(some.into_iter().map(|taken| registered(server, taken)));
        if is_last {
            return all;
        }
    }
}

/// A name as it is taken down under the lock.
struct Taken {
    name: Box<[u8]>,
    port: u16,
    kind: u8,
    creation: u32,
    since: u64,
    ends: Option<BothEnds>,
}

fn registered(server: &Server, taken: Taken) -> Registered {
    let end = whose::nodes_end(server, taken.ends);
    let since = SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(taken.since));
    Registered {
        name: String::from_utf8_lossy(&taken.name).into_owned(),
        port: taken.port,
        kind: kind_name(taken.kind),
        creation: taken.creation,
        since: rfc3339(since.unwrap_or(SystemTime::UNIX_EPOCH)),
        holder: Holder {
            uid: end.and_then(|end| end.uid),
            socket: end.map(|end| end.inode).filter(|inode| *inode != 0),
            ..Holder::default()
        },
    }
}
