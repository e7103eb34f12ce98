//! What the daemon says of itself: the state as a [`Status`].
//!
//! Called by `server` for the control socket.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use super::state::{Server, State};
use crate::config;
use crate::core::outcome::{Operation, Verdict};
use crate::core::registry::Cursor;
use crate::core::status::{InForce, Limits, Refused, Registered, Status, Use, kind_name, rfc3339};

/// The daemon as it is now.
pub(super) fn status(server: &Server, state: &State, listening: &[String]) -> Status {
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
            descriptors: of(
                crate::daemon::metrics::open_descriptors(),
                server.descriptors,
            ),
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
