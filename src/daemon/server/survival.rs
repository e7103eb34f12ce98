//! Registrations across a restart: kept in systemd's store while the daemon runs, taken back at its start.
//!
//! Says what is kept and what is of use; how, is `systemd::store`'s. Called by `server` at the start and
//! by `request` at each registration. Without `-systemd` there is no store, and nothing happens here.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::sync::Arc;

use nix::sys::epoll::Epoll;

use super::clock::Clock;
use super::holders::{Held, send_now};
use crate::core::desk::{Desk, Holder as _};
use crate::core::holds::Hold;
use crate::core::registry::{Gone, Id, Registration};
use crate::core::wire::{self, Node};
use crate::daemon::log::{Level, Log};
use crate::daemon::systemd::kept::Kept;
use crate::daemon::systemd::notify::BEHIND;
use crate::daemon::systemd::record::{OfUser, Record};
use crate::daemon::systemd::store::Store;
use crate::sys;

/// So many registrations are kept in one go where they could not be before.
const AT_ONCE: usize = 250;

/// What outlives the process: where registrations are kept, if anywhere.
#[derive(Debug)]
pub(super) struct Survival {
    /// `None` without `-systemd`.
    store: Option<Store>,
    /// Registrations that are not kept, or not any more: they are tried again.
    unkept: BTreeSet<Id>,
    /// That there are such is told.
    fails: bool,
    log: Log,
}

impl Survival {
    /// Nothing outlives the process.
    pub(super) fn none(log: Log) -> Self {
        Self {
            store: None,
            unkept: BTreeSet::new(),
            fails: false,
            log,
        }
    }

    /// Registrations are kept in this store.
    pub(super) fn with(mut store: Store, log: Log) -> Self {
        let unkept = store.take_lost();
        // A drawer ahead of need, and what was in damaged ones.
        BEHIND.notify_one();
        Self {
            store: Some(store),
            unkept,
            ..Self::none(log)
        }
    }

    /// Keeps a new registration, before its node hears that it is one; or that its name was released and is
    /// held. Where that can't be done it is tried again later, and the node hears all the same.
    pub(super) fn keep(&mut self, desk: &Desk<Held>, id: Id) {
        if self.store.is_some() {
            self.unkept.insert(id);
            self.keep_some(desk, 1);
        }
    }

    /// Tries again what could not be done; whether that is all. To be called again and again after
    /// [`BEHIND`] has rung.
    pub(super) fn catch_up(&mut self, desk: &Desk<Held>) -> bool {
        self.keep_some(desk, AT_ONCE) && self.unkept.is_empty()
    }

    /// Keeps so many of those that are not kept, the latest first, and has a drawer made ahead; whether that
    /// was possible.
    fn keep_some(&mut self, desk: &Desk<Held>, count: usize) -> bool {
        let Some(store) = &mut self.store else {
            return true;
        };
        let result = keep_some(store, &mut self.unkept, desk, count);
        if result.is_err() || !self.unkept.is_empty() {
            BEHIND.notify_one();
        }
        match &result {
            Ok(()) if self.unkept.is_empty() && std::mem::take(&mut self.fails) => {
                let text = "registrations will survive a restart again, those before included";
                self.log.note(Level::Info, text);
            }
            // Where only the drawer for the next ones is missing, nothing is lost yet.
            Err(error) if !self.unkept.is_empty() && !std::mem::replace(&mut self.fails, true) => {
                let text = format!(
                    "registrations will not survive a restart: {error}; it is tried again, and said when it succeeds"
                );
                self.log.note(Level::Error, text);
            }
            _ => {}
        }
        result.is_ok()
    }
}

fn keep_some(
    store: &mut Store,
    unkept: &mut BTreeSet<Id>,
    desk: &Desk<Held>,
    count: usize,
) -> io::Result<()> {
    for _ in 0..count {
        let Some(&id) = unkept.last() else {
            break;
        };
        if let Some(registration) = desk.registry.get(id) {
            keep_live(store, &registration)?;
        } else if let Some(hold) = desk.holds.get(id) {
            keep_hold(store, hold)?;
        }
        unkept.remove(&id);
        // What a drawer held that was found broken.
        unkept.append(&mut store.take_lost());
    }
    empty_a_worn_drawer(store, desk)?;
    store.prepare()
}

/// Takes back what the store held. Dead connections' names are gone, but remembered, and held for their
/// last users; what makes no sense is dropped, and said.
pub(super) fn take_back(kept: Vec<Kept>, desk: &mut Desk<Held>, epoll: &Arc<Epoll>, log: &Log) {
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
    let mut ended = 0;
    for (id, Kept { record, connection }) in numbered {
        let Ok(record) = Record::decode(&record) else {
            continue;
        };
        let had_a_node = connection.is_some();
        let registry = &mut desk.registry;
        let previous = match connection.and_then(|c| holder(&record, c.into(), epoll, log)) {
            Some(holder) => registry.restore(registration(&record, holder)),
            None => {
                ended += usize::from(had_a_node);
                let gone = Gone {
                    id,
                    port: record.node.port,
                    creation: record.creation,
                };
                let previous = registry.restore_gone(record.node.name, gone);
                hold_back(desk, &record, gone);
                previous
            }
        };
        if desk.registry.find(record.node.name).is_some() {
            desk.holds.remove(record.node.name);
        }
        if let Some(previous) = previous {
            previous.release();
        }
    }
    let count = desk.registry.len();
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
    if ended > 0 {
        let text = format!("registrations that have ended since: {ended}");
        log.note(Level::Info, text);
    }
}

/// Holds a name that is gone for its last user: from its release on or, where its node ended while no daemon
/// ran, from now on.
fn hold_back(desk: &mut Desk<Held>, record: &Record<'_>, gone: Gone) {
    let names = &desk.rules.names;
    if let Some(OfUser { uid, released }) = record.user
        && names.holds()
    {
        let now = Clock::since_boot();
        let hold = Hold {
            name: record.node.name.into(),
            uid,
            // One that is to come makes no sense.
            released: released.unwrap_or(now).min(now),
            gone,
        };
        desk.holds.hold(hold, now, names.hold);
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
    let held = Held::new(stream, epoll, record.user.map(|user| user.uid));
    if held.is_gone() {
        // A node that has sent something more is still there, and has to hear of it.
        held.release();
        return None;
    }
    let result = held
        .watch(record.id)
        .map_err(|error| format!("its connection can't be watched: {error}"))
        .and_then(|()| {
            answer(record, held.stream())
                .map_err(|error| format!("its answer can't be sent: {error}"))
        });
    match result {
        Ok(()) => Some(held),
        Err(why) => {
            drop_it(&why);
            // Its node is to register anew.
            held.release();
            None
        }
    }
}

/// Answers a node that was registered and kept, and then the daemon was killed before it could say so: no
/// byte was ever sent on its connection.
fn answer(record: &Record<'_>, stream: &TcpStream) -> io::Result<()> {
    if sys::has_sent(stream.as_fd())? {
        return Ok(());
    }
    let mut answer = Vec::new();
    wire::encode_registered(record.node.highest, record.creation, &mut answer);
    match send_now(stream, &answer, false)? {
        sent if sent == answer.len() => Ok(()),
        _ => Err(io::ErrorKind::WriteZero.into()),
    }
}

/// Moves what is of use out of the oldest drawer, where the drawers hold little of it. One at a time: who
/// waits for an answer waits for that.
fn empty_a_worn_drawer(store: &mut Store, desk: &Desk<Held>) -> io::Result<()> {
    let Desk {
        registry, holds, ..
    } = desk;
    let gone = registry.gone_len().saturating_add(holds.len());
    let Some((drawer, ids)) = store.worn(registry.len(), gone) else {
        return Ok(());
    };
    let gone: HashMap<Id, _> = registry
        .gone()
        .map(|(name, gone)| (gone.id, (name, gone)))
        .collect();
    for id in ids {
        if let Some(registration) = registry.get(id) {
            keep_live(store, &registration)?;
        } else if let Some(hold) = holds.get(id) {
            keep_hold(store, hold)?;
        } else if let Some((name, gone)) = gone.get(&id) {
            keep_gone(store, name, *gone)?;
        }
    }
    store.discard(drawer);
    Ok(())
}

fn keep_live(store: &mut Store, registration: &Registration<'_, &Held>) -> io::Result<()> {
    let record = Record {
        id: registration.id,
        creation: registration.creation,
        since: registration.since,
        node: registration.node,
        user: registration.holder.uid().map(|uid| OfUser {
            uid,
            released: None,
        }),
    };
    store.keep(&record, Some(registration.holder.stream().as_fd()))
}

fn keep_hold(store: &mut Store, hold: &Hold) -> io::Result<()> {
    let record = Record {
        id: hold.gone.id,
        creation: hold.gone.creation,
        since: 0,
        node: Node::new(&hold.name, hold.gone.port),
        user: Some(OfUser {
            uid: hold.uid,
            released: Some(hold.released),
        }),
    };
    store.keep(&record, None)
}

fn keep_gone(store: &mut Store, name: &[u8], gone: Gone) -> io::Result<()> {
    let record = Record {
        id: gone.id,
        creation: gone.creation,
        since: 0,
        node: Node::new(name, gone.port),
        user: None,
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
        user: _,
    } = *record;
    Registration {
        id,
        node,
        creation,
        since,
        holder,
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::net::TcpListener;
    use std::os::fd::OwnedFd;
    use std::time::Duration;

    use nix::sys::epoll::{EpollCreateFlags, EpollEvent, EpollFlags};

    use super::*;
    use crate::config::{Format, Mode};
    use crate::core::access::Rules;
    use crate::core::holds::Holds;
    use crate::core::registry::Registry;

    /// A node, and what is kept of its registration.
    fn kept(name: &str) -> (TcpStream, TcpStream, Vec<u8>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let node = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        node.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let record = Record {
            id: 1,
            creation: 77,
            since: 0,
            node: Node::new(name.as_bytes(), 4370),
            user: None,
        };
        (node, listener.accept().unwrap().0, record.encode())
    }

    fn take_back_one(record: Vec<u8>, connection: TcpStream, epoll: &Arc<Epoll>) -> Desk<Held> {
        let log = Log::start(Format::Text, Mode::Foreground);
        let mut desk = Desk {
            rules: Rules::default(),
            max_registrations: 10,
            relaxed_command_check: false,
            registry: Registry::default(),
            holds: Holds::default(),
        };
        let connection = Some(OwnedFd::from(connection));
        let kept = vec![Kept { record, connection }];
        take_back(kept, &mut desk, epoll, &log);
        desk
    }

    /// Killed between the two, the daemon leaves a name that is taken, and a node that waits for ever.
    #[test]
    fn a_node_that_was_kept_and_not_answered_is_answered_once() {
        let (mut node, connection, record) = kept("api");
        for _ in 0..2 {
            // Of each process its own.
            let epoll = Arc::new(Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).unwrap());
            let copy = connection.try_clone().unwrap();
            let desk = take_back_one(record.clone(), copy, &epoll);
            assert_eq!(desk.registry.len(), 1);
        }
        let mut answer = [0; 6];
        node.read_exact(&mut answer).unwrap();
        assert_eq!(answer, *b"v\0\0\0\0\x4d");
        node.set_nonblocking(true).unwrap();
        let more = node.read(&mut answer).unwrap_err();
        assert_eq!(more.kind(), io::ErrorKind::WouldBlock);
    }

    /// Its node would believe to be registered for ever.
    #[test]
    fn a_kept_connection_that_cannot_be_watched_is_shut_down() {
        let epoll = Arc::new(Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).unwrap());
        let (mut node, connection, record) = kept("api");
        let _systemds = connection.try_clone().unwrap();
        // It is watched already, and so can't be once more.
        let event = EpollEvent::new(EpollFlags::EPOLLIN, 1);
        epoll.add(&connection, event).unwrap();
        let desk = take_back_one(record, connection, &epoll);
        assert_eq!(desk.registry.len(), 0);
        assert_eq!(node.read(&mut [0]).unwrap(), 0);
    }
}
