//! Who follows the daemon: each is told the whole state, and then what changes.
//!
//! A task of the event loop for each, which takes changes out of its queue (`followers`) and sends them. Who
//! does not read in time is let go: it comes again, and is told the whole state anew. The guard is a follower
//! that also says how it is, and what it counted. Called by `server`, to which the control socket hands them.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc::Receiver;
use tokio::time::timeout;

use super::followers::{Change, registration};
use super::state::{Server, State};
use crate::core::follow::{self, Access, MAX_REPORT, Registration, Report, Told};
use crate::core::outcome::{Operation, Reason};
use crate::core::registry::Cursor;
use crate::core::status::InForce;

/// How many of them are sent at once.
const AT_ONCE: usize = 256;
/// How long a follower may leave what is sent to it unread.
const PATIENCE: Duration = Duration::from_secs(2);
/// So many names are taken down at a time: some 50 us, for which a lookup may have to wait.
const NAMES_AT_ONCE: usize = 64;

/// Tells a follower all, until it or the daemon ends.
pub(super) async fn follow(server: Arc<Server>, follower: UnixStream) {
    let Some(changes) = server.state().followers.join() else {
        return;
    };
    let (reports, lines) = follower.into_split();
    let mut is_guard = false;
    // How it ended is of no matter: it comes again if it lives.
    let _ended = tokio::select! {
        told = tell(&server, changes, lines) => told,
        heard = hear(&server, reports, &mut is_guard) => heard,
    };
    if is_guard {
        *server.guard() = None;
    }
}

async fn tell(
    server: &Server,
    mut changes: Receiver<Arc<Change>>,
    mut lines: OwnedWriteHalf,
) -> io::Result<()> {
    let in_force = Arc::clone(&server.state().in_force);
    // What changes meanwhile is in the queue, and told once more behind it: the last word counts.
    let state = follow::State {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        registrations: registrations(server),
        access: access_of(&in_force),
    };
    let mut text = line(&Told::State(state))?;
    loop {
        timeout(PATIENCE, lines.write_all(&text)).await??;
        let mut some = Vec::new();
        if changes.recv_many(&mut some, AT_ONCE).await == 0 {
            return Ok(());
        }
        text.clear();
        for change in some {
            text.extend(match &*change {
                Change::Told(told) => line(told)?,
                Change::Access(in_force) => line(&Told::Access(access_of(in_force)))?,
            });
        }
    }
}

fn line(told: &Told) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(told)?;
    line.push(b'\n');
    Ok(line)
}

fn access_of(in_force: &InForce) -> Access {
    Access {
        allow: in_force.allow.clone(),
        deny: in_force.deny.clone(),
        nodes: in_force.node_lists.clone(),
        enforce: in_force.enforce,
    }
}

/// All names: some at a time, so that nobody waits behind many.
fn registrations(server: &Server) -> Vec<Registration> {
    let mut all = Vec::new();
    let mut cursor = Cursor::START;
    loop {
        let before = all.len();
        take_down(&server.state(), &mut cursor, &mut all);
        if all.len() - before < NAMES_AT_ONCE {
            return all;
        }
    }
}

fn take_down(state: &State, cursor: &mut Cursor, all: &mut Vec<Registration>) {
    let listed = std::iter::from_fn(|| state.desk.registry.list(cursor));
    all.extend(listed.take(NAMES_AT_ONCE).map(|r| registration(&r)));
}

/// Hears what the guard reports, until it ends or says what no guard says.
async fn hear(server: &Server, reports: OwnedReadHalf, is_guard: &mut bool) -> io::Result<()> {
    let mut reports = BufReader::new(reports);
    let mut text = Vec::new();
    loop {
        text.clear();
        let most = u64::try_from(MAX_REPORT).unwrap_or(u64::MAX);
        (&mut reports)
            .take(most)
            .read_until(b'\n', &mut text)
            .await?;
        if text.last() != Some(&b'\n') {
            return Ok(()); // its end, or no end of a line
        }
        let report: Report = serde_json::from_slice(&text)?;
        *is_guard = true;
        *server.guard() = Some(report.guard);
        let counters = server.waiting.counters();
        for reason in [Reason::NotAllowed, Reason::Denied] {
            if let Some(count) = report.refused.get(reason.name()) {
                counters.add_refused(Operation::Connect, reason, *count);
            }
        }
    }
}
