//! Puts what was taken over into the descriptor store of the unit whose `ExecStartPre=` this is, as the
//! daemon itself would have left it there, and makes sure that it arrived.
//!
//! Called by `takeover`, while the old epmd is held.

use std::collections::HashSet;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;

use nix::sys::stat::fstat;
use nix::unistd::{Uid, User, fchown, getppid};

use super::holder::{self, MANAGER};
use super::taken::{Taken, Taking};
use crate::config::Snapshot;
use crate::daemon::server::budget::raise_descriptor_limit;
use crate::daemon::systemd::store::{self, Store};
use crate::daemon::systemd::{self, arrivals, notify};

/// So many drawers of an earlier, unfinished takeover are looked for. An epmd of 65,536 names needs 300.
const DRAWERS: u32 = 1024;

/// Takes out of the store what an earlier takeover put there that did not come to its end.
///
/// # Errors
/// Where systemd can't be told, or does not answer.
pub(super) fn clear(listeners: &[SocketAddr]) -> io::Result<()> {
    for number in 0..DRAWERS {
        store::give_up(number);
    }
    arrivals::give_up();
    systemd::forget_settings_of_a_takeover();
    for listener in listeners {
        systemd::forget_listener(*listener);
    }
    systemd::barrier()
}

/// Puts everything into the store, and returns when systemd has it.
///
/// # Errors
/// Where it does not: nothing may be ended then.
pub(super) fn put(taken: &Taken, settings: &Snapshot) -> io::Result<()> {
    let mut arrived = Vec::new();
    // First of all, so that an unfinished takeover can be told by them.
    let daemon = daemons_user();
    for listener in &taken.listeners {
        // Only its own user's sockets can be joined by others later. It serves with any.
        let _ = fchown(listener, daemon, None);
        systemd::keep_listener(listener)?;
        arrived.push(inode(listener)?);
    }
    let mut store = Store::of_a_takeover(notify::manager()?, raise_descriptor_limit());
    for Taking { record, connection } in taken.records() {
        store.keep(&record, Some(connection.as_fd()))?;
    }
    for end in store.ends() {
        arrived.push(inode(end)?);
    }
    for end in arrivals::keep(&taken.unasked)? {
        arrived.push(inode(&end)?);
    }
    systemd::keep_settings_of_a_takeover(settings)?;
    systemd::barrier()?;
    let there = what_the_manager_has()?;
    let missing = arrived
        .iter()
        .filter(|inode| !there.contains(inode))
        .count();
    if missing > 0 {
        return Err(io::Error::other(format!(
            "systemd has not kept {missing} of {} descriptors: the unit wants FileDescriptorStoreMax= of \
             more than that, and NotifyAccess=exec",
            arrived.len()
        )));
    }
    Ok(())
}

/// The user of the daemon that is started next: systemd says it to each process of the unit.
fn daemons_user() -> Option<Uid> {
    let name = std::env::var("USER").ok()?;
    Some(User::from_name(&name).ok()??.uid)
}

/// The sockets of process 1, and of whoever else has started this process.
fn what_the_manager_has() -> io::Result<HashSet<u64>> {
    let mut all = HashSet::new();
    for pid in HashSet::from([MANAGER, getppid().as_raw()]) {
        match holder::sockets(pid) {
            Ok(sockets) => all.extend(sockets.into_values()),
            Err(error) if pid == MANAGER => return Err(error),
            Err(_) => {}
        }
    }
    Ok(all)
}

/// By which number /proc knows a socket.
fn inode(socket: impl AsFd) -> io::Result<u64> {
    Ok(fstat(socket)?.st_ino)
}
