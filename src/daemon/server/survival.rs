//! Registrations across a restart: kept in systemd's store while the daemon runs, taken back at its start.
//!
//! Says what is kept and what is of use; how, is `systemd::store`'s. Called by `server` at the start and
//! by `request` at each registration. Without `-systemd` there is no store, and nothing happens here.

use std::collections::HashMap;
use std::io;
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::sync::Arc;

use nix::sys::epoll::Epoll;
use socket2::{Domain, SockRef, Type};

use super::holders::Held;
use crate::core::desk::Holder as _;
use crate::core::registry::{Gone, Id, Registration, Registry};
use crate::core::wire::Node;
use crate::daemon::log::{Level, Log};
use crate::daemon::systemd::record::Record;
use crate::daemon::systemd::store::{Kept, Store};

/// What outlives the process: where registrations are kept, if anywhere.
#[derive(Debug)]
pub(super) struct Survival {
    /// `None` without `-systemd`.
    store: Option<Store>,
    /// Registrations are not kept, and that is told.
    fails: bool,
    log: Log,
}

impl Survival {
    /// Nothing outlives the process.
    pub(super) fn none(log: Log) -> Self {
        Self {
            store: None,
            fails: false,
            log,
        }
    }

    /// Registrations are kept in this store.
    pub(super) fn with(store: Store, log: Log) -> Self {
        Self {
            store: Some(store),
            ..Self::none(log)
        }
    }

    /// Keeps a new registration, before its node hears that it is one.
    pub(super) fn keep(&mut self, registry: &Registry<Held>, id: Id) {
        let Some(store) = &mut self.store else {
            return;
        };
        let kept = match registry.get(id) {
            Some(registration) => keep_live(store, &registration),
            None => Ok(()),
        };
        match kept.and_then(|()| empty_worn_drawers(store, registry)) {
            Ok(()) => self.fails = false,
            Err(error) if !self.fails => {
                self.fails = true;
                self.log.note(
                    Level::Error,
                    format!("registrations will not survive a restart: {error}"),
                );
            }
            Err(_) => {}
        }
    }
}

/// Takes back into the registry what the store held. Dead connections' names are gone, but remembered;
/// what makes no sense is dropped, and said.
pub(super) fn take_back(
    kept: Vec<Kept>,
    registry: &mut Registry<Held>,
    epoll: &Arc<Epoll>,
    log: &Log,
) {
    let mut numbered = Vec::new();
    for kept in kept {
        match Record::decode(&kept.record) {
            Ok(record) => numbered.push((record.id, kept)),
            Err(fault) => log.note(
                Level::Warning,
                format!("dropped a kept registration: {fault}"),
            ),
        }
    }
    // In the order in which they were made. One may be there twice, where a drawer was being
    // emptied when the daemon was killed.
    numbered.sort_by_key(|(id, _)| *id);
    numbered.dedup_by_key(|(id, _)| *id);
    for (id, Kept { record, connection }) in numbered {
        let Ok(record) = Record::decode(&record) else {
            continue;
        };
        let previous = match connection.and_then(|c| holder(&record, c.into(), epoll, log)) {
            Some(holder) => registry.restore(registration(&record, holder)),
            None => {
                let gone = Gone {
                    id,
                    port: record.node.port,
                    creation: record.creation,
                };
                registry.restore_gone(record.node.name, gone)
            }
        };
        if let Some(previous) = previous {
            previous.release();
        }
    }
    let count = registry.len();
    if count > 0 {
        let names = if count == 1 {
            "registration"
        } else {
            "registrations"
        };
        log.note(
            Level::Info,
            format!("took back {count} {names} from before the restart"),
        );
    }
}

/// A kept connection as the holder of its name, if it is one and its node still lives.
fn holder(record: &Record<'_>, stream: TcpStream, epoll: &Arc<Epoll>, log: &Log) -> Option<Held> {
    let drop_it = |why: &str| {
        let name = crate::core::audit::escape_name(record.node.name);
        log.note(
            Level::Warning,
            format!("dropped the kept registration of \"{name}\": {why}"),
        );
    };
    if !is_tcp(&stream) {
        drop_it("its connection is no TCP connection");
        return None;
    }
    let held = Held::new(stream, epoll);
    if held.is_gone() {
        // A node that has sent something more is still there, and has to hear of it.
        held.release();
        return None;
    }
    match held.watch(record.id) {
        Ok(()) => Some(held),
        Err(error) => {
            drop_it(&format!("its connection can't be watched: {error}"));
            None
        }
    }
}

/// Moves what is of use out of drawers that hold little of it.
fn empty_worn_drawers(store: &mut Store, registry: &Registry<Held>) -> io::Result<()> {
    let useful = registry.len().saturating_add(registry.gone_len());
    while let Some((drawer, holds)) = store.worn(useful) {
        let gone: HashMap<Id, _> = registry
            .gone()
            .map(|(name, gone)| (gone.id, (name, gone)))
            .collect();
        for id in holds {
            if let Some(registration) = registry.get(id) {
                keep_live(store, &registration)?;
            } else if let Some((name, gone)) = gone.get(&id) {
                keep_gone(store, name, *gone)?;
            }
        }
        store.discard(drawer);
    }
    Ok(())
}

fn keep_live(store: &mut Store, registration: &Registration<'_, &Held>) -> io::Result<()> {
    let record = Record {
        id: registration.id,
        creation: registration.creation,
        since: registration.since,
        node: registration.node,
    };
    store.keep(&record, Some(registration.holder.stream().as_fd()))
}

fn keep_gone(store: &mut Store, name: &[u8], gone: Gone) -> io::Result<()> {
    let record = Record {
        id: gone.id,
        creation: gone.creation,
        since: 0,
        node: Node::new(name, gone.port),
    };
    store.keep(&record, None)
}

/// The registration that a record stands for.
fn registration<'r, H>(record: &Record<'r>, holder: H) -> Registration<'r, H> {
    let Record {
        id,
        creation,
        since,
        node,
    } = *record;
    Registration {
        id,
        node,
        creation,
        since,
        holder,
    }
}

/// Whether a descriptor that was kept is what it should be.
fn is_tcp(stream: &TcpStream) -> bool {
    let socket = SockRef::from(stream);
    socket.r#type().is_ok_and(|t| t == Type::STREAM)
        && socket
            .domain()
            .is_ok_and(|d| d == Domain::IPV4 || d == Domain::IPV6)
}
