//! Whose a registration is: which user of this host has the other end of its connection.
//!
//! The kernel is asked (`own`), under no lock of the state's, and only where a rule, the audit or `-status`
//! wants to know; never on the way of a lookup. What users are called, for the audit's messages, is
//! `called`'s. Called by `request`, `reload`, `status` and the start.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::{BorrowedFd, OwnedFd};

use super::holders::Held;
use super::state::{Server, State};
use crate::config::Settings;
use crate::core::desk::Holder as _;
use crate::core::outcome::{Outcome, Verdict};
use crate::core::registry::{Cursor, Id, Registration};
use crate::diag::{Asker, Connected};

/// So many registrations are gone through at a time: for each, two system calls are made under the lock.
const AT_ONCE: usize = 64;

/// What the kernel can be asked of users, as it was found at the start.
#[derive(Debug)]
pub struct Eyes {
    /// `None` where it can't be asked at all.
    pub(super) asker: Option<Asker>,
    /// Why users can't be told apart, where they can't.
    blind: Option<String>,
}

impl Eyes {
    /// Tries by which socket the kernel can be asked: by this one, which was opened outside of the unit's
    /// sandbox, or by one of our own.
    #[must_use]
    pub fn open(elsewhere: Option<OwnedFd>) -> Self {
        let given = elsewhere.and_then(|netlink| {
            let mut asker = Asker::opened_elsewhere(netlink).ok()?;
            try_out(&mut asker).ok().map(|()| asker)
        });
        if given.is_some() {
            return Self {
                asker: given,
                blind: None,
            };
        }
        let mut asker = match Asker::new() {
            Ok(asker) => asker,
            Err(error) => {
                return Self {
                    asker: None,
                    blind: Some(format!(
                        "the kernel can't be asked ({error}): see what forbids netlink, a seccomp filter or \
                         RestrictAddressFamilies= without AF_NETLINK"
                    )),
                };
            }
        };
        let blind = match try_out(&mut asker) {
            Err(error) => Some(format!(
                "the kernel does not tell ({error}): `modprobe tcp_diag` may help"
            )),
            Ok(()) if !asker.sees_all_users() => Some(
                "inside this user namespace other users look alike: a unit with PrivateUsers= needs the line \
                 ExecStartPre=+/usr/bin/epmd -takeover -systemd, NotifyAccess=exec and FileDescriptorStoreMax=; \
                 a container needs a mapping of all its users"
                    .to_owned(),
            ),
            Ok(()) => None,
        };
        Self {
            asker: Some(asker),
            blind,
        }
    }

    /// The socket by which the kernel is asked.
    #[must_use]
    pub fn netlink(&self) -> Option<BorrowedFd<'_>> {
        self.asker.as_ref().map(Asker::netlink)
    }

    /// Whether these settings can be gone by.
    ///
    /// # Errors
    /// In words: they say whose names are, and users can't be told apart; and why not.
    pub fn can_go_by(&self, settings: &Settings) -> Result<(), String> {
        match &self.blind {
            Some(why) if settings.rules.names.ask_for_users() => Err(format!(
                "[names] says whose names are, and which user registers can't be told: {why}"
            )),
            _ => Ok(()),
        }
    }
}

/// Asks for a socket of our own.
fn try_out(asker: &mut Asker) -> std::io::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").or_else(|_| TcpListener::bind("[::1]:0"))?;
    asker.try_with(&listener)
}

/// Both ends of a registration's connection: the node's, and ours.
pub(super) type BothEnds = (SocketAddr, SocketAddr);

/// Where a registration's connection ends, if it is there still.
pub(super) fn ends_of(held: &Held) -> Option<BothEnds> {
    let stream = held.stream();
    Some((stream.peer_addr().ok()?, stream.local_addr().ok()?))
}

/// Concludes a registration that came to nothing, with whose it was and, where the name is taken, whose that
/// is. To be called while its connection is open.
pub(super) fn conclude(server: &Server, outcome: Outcome<'_>) {
    let held = match (outcome.verdict, outcome.holder, outcome.node) {
        (Verdict::Taken, None, Some(name)) => {
            let state = server.state();
            state.desk.registry.holder(name).and_then(ends_of)
        }
        _ => None,
    };
    let mut this_host = server.this_host();
    let ends = match outcome.ends.uid() {
        None if outcome.ends.is_this_host() => {
            let uid = this_host.user(outcome.ends.peer(), outcome.ends.local());
            outcome.ends.of_user(uid)
        }
        _ => outcome.ends,
    };
    let holder = outcome
        .holder
        .or_else(|| held.and_then(|(peer, local)| this_host.user(peer, local)));
    drop(this_host);
    let outcome = Outcome {
        ends,
        holder,
        ..outcome
    };
    let names = [ends.uid(), holder].map(|uid| Some((uid?, server.names.of(uid?)?)));
    let mut state = server.state();
    for (uid, name) in names.into_iter().flatten() {
        state.books.know(uid, &name);
    }
    state.conclude(&outcome);
}

/// Finds out whose all registrations are of which that is not known yet: rules ask for it from now on.
pub(super) fn find_all(server: &Server) {
    let wanted = |registration: &Registration<'_, &Held>| {
        let holder = registration.holder;
        holder
            .uid()
            .is_none()
            .then(|| Some((registration.id, ends_of(holder)?)))?
    };
    let mut cursor = Cursor::START;
    loop {
        let (some, is_last) = some(&server.state(), &mut cursor, wanted);
        let found: Vec<(Id, u32)> = some
            .into_iter()
            .filter_map(|(id, (peer, local))| Some((id, server.this_host().user(peer, local)?)))
            .collect();
        let mut state = server.state();
        for (id, uid) in found {
            state.is_of(id, uid);
        }
        if is_last {
            return;
        }
    }
}

/// Goes on through the registrations, and gives what is wanted of some of them; and whether these were the
/// last.
pub(super) fn some<T>(
    state: &State,
    cursor: &mut Cursor,
    wanted: impl Fn(&Registration<'_, &Held>) -> Option<T>,
) -> (Vec<T>, bool) {
    let mut all = Vec::new();
    for _ in 0..AT_ONCE {
        let Some(registration) = state.desk.registry.list(cursor) else {
            return (all, true);
        };
        all.extend(wanted(&registration));
    }
    (all, false)
}

/// The node's end of a registration's connection, as the kernel tells of it.
pub(super) fn nodes_end(server: &Server, held: Option<BothEnds>) -> Option<Connected> {
    let (peer, local) = held?;
    server.this_host().connected(peer, local)
}
