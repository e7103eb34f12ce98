//! Who holds epmd's port: processes, and the descriptors by which they do.
//!
//! Asks the kernel which sockets listen where ours are to listen (`diag`), and looks for them among the
//! descriptors of all processes that can be seen (`process`). It only looks. Called by `takeover`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::RawFd;

use crate::daemon::process;
pub(super) use crate::daemon::process::{MANAGER, Process, sockets};
use crate::diag::{self, Listening};

/// A process that holds the port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Holder {
    pub(super) process: Process,
    /// Its sockets, with the numbers that they have there.
    pub(super) sockets: Vec<(RawFd, Listening)>,
}

/// Whose the port is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Port {
    /// Nobody listens where ours are to listen.
    Free,
    /// Nobody but process 1: a socket unit's, or what our unit's store holds.
    Managers,
    /// One process, with or without process 1.
    Held(Holder),
    /// More than one, each by sockets of its own or by the same.
    Several(Vec<Holder>),
    /// This socket is held by no process that can be seen.
    Unseen(SocketAddr),
}

/// Looks who listens on this port where a plan of addresses would.
///
/// # Errors
/// What the kernel or /proc says to the question.
pub(super) fn of_port(plan: &[IpAddr], port: u16) -> io::Result<Port> {
    let mut listening = diag::listening_on(port)?;
    listening.retain(|l| is_in_the_way(l.address.ip(), plan));
    if listening.is_empty() {
        return Ok(Port::Free);
    }
    let own = i32::try_from(std::process::id()).unwrap_or_default();
    let mut holders = BTreeMap::new();
    for pid in process::all()? {
        // Others' descriptors can't be seen by everybody, and a process may be gone by now.
        let Ok(sockets) = sockets(pid) else {
            continue;
        };
        let held: Vec<_> = sockets
            .into_iter()
            .filter_map(|(number, inode)| {
                let listening = listening.iter().find(|l| l.inode == inode)?;
                Some((number, *listening))
            })
            .collect();
        if pid != own && !held.is_empty() {
            holders.insert(pid, held);
        }
    }
    let managers: BTreeSet<_> = inodes(holders.get(&MANAGER)).collect();
    holders.retain(|pid, held| {
        let are_managers = inodes(Some(held)).all(|inode| managers.contains(&inode));
        *pid == MANAGER || !are_managers || !is_passing(*pid, &managers)
    });
    Ok(judge(&listening, holders, Process::of))
}

fn inodes(held: Option<&Vec<(RawFd, Listening)>>) -> impl Iterator<Item = u64> {
    held.into_iter().flatten().map(|(_, held)| held.inode)
}

/// Whether a process has sockets of process 1 for no more than a moment: it was split off from that one, and
/// has all of its descriptors until it ends or runs its own program; or it has none of these by now.
fn is_passing(pid: i32, managers: &BTreeSet<u64>) -> bool {
    let program = |pid: i32| fs::read_link(format!("/proc/{pid}/exe"));
    let runs_the_same = || match program(pid) {
        Ok(its) => program(MANAGER).is_ok_and(|managers| managers == its),
        // It is ending: what it runs is gone before its descriptors are.
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    };
    let has_none = || {
        sockets(pid).map_or(true, |now| {
            !now.values().any(|inode| managers.contains(inode))
        })
    };
    runs_the_same() || has_none()
}

/// Says whose the port is, by who has which sockets.
fn judge(
    listening: &[Listening],
    mut holders: BTreeMap<i32, Vec<(RawFd, Listening)>>,
    process: impl Fn(i32) -> Process,
) -> Port {
    let is_held = |l: &&Listening| holders.values().flatten().any(|(_, held)| held == *l);
    if let Some(unseen) = listening.iter().find(|l| !is_held(l)) {
        return Port::Unseen(unseen.address);
    }
    let managers = holders.remove(&MANAGER).unwrap_or_default();
    let mut holders: Vec<_> = holders
        .into_iter()
        .map(|(pid, sockets)| Holder {
            process: process(pid),
            sockets,
        })
        .collect();
    let is_shared = |held: &Listening| {
        let all = holders.iter().flat_map(|h| &h.sockets);
        all.into_iter().any(|(_, l)| l == held)
    };
    let managers_alone: Vec<_> = managers
        .into_iter()
        .filter(|(_, held)| !is_shared(held))
        .collect();
    match (holders.len(), managers_alone.is_empty()) {
        (0, _) => Port::Managers,
        (1, true) => Port::Held(holders.remove(0)),
        (_, true) => Port::Several(holders),
        (_, false) => {
            holders.push(Holder {
                process: process(MANAGER),
                sockets: managers_alone,
            });
            Port::Several(holders)
        }
    }
}

/// Whether a socket at `address` keeps a plan of addresses from being bound. One at `::` may be for both
/// families.
fn is_in_the_way(address: IpAddr, plan: &[IpAddr]) -> bool {
    let address = address.to_canonical();
    let same_family = |a: &IpAddr| a.is_ipv4() == address.is_ipv4();
    plan.contains(&address)
        || plan.iter().any(|a| {
            a.is_unspecified() && same_family(a) || address.is_unspecified() && same_family(a)
        })
        || (address.is_unspecified() && address.is_ipv6())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listening(address: &str, inode: u64) -> Listening {
        Listening {
            address: address.parse().unwrap(),
            inode,
            uid: Some(0),
            only_ipv6: false,
        }
    }

    fn judged(sockets: &[Listening], holders: &[(i32, &[u64])]) -> Port {
        let holders = holders.iter().map(|(pid, inodes)| {
            let held = sockets.iter().filter(|l| inodes.contains(&l.inode));
            (*pid, (3..).zip(held.copied()).collect())
        });
        judge(sockets, holders.collect(), |pid| Process {
            pid,
            program: "x".to_owned(),
        })
    }

    #[test]
    fn whose_a_port_is() {
        let both = [listening("0.0.0.0:4369", 1), listening("[::]:4369", 2)];
        assert!(matches!(judged(&both, &[(7, &[1, 2])]), Port::Held(h) if h.process.pid == 7));
        assert!(matches!(
            judged(&both, &[(1, &[1, 2]), (7, &[1, 2])]),
            Port::Held(h) if h.sockets.len() == 2
        ));
        assert_eq!(judged(&both, &[(1, &[1, 2])]), Port::Managers);
        assert_eq!(
            judged(&both, &[(7, &[1])]),
            Port::Unseen("[::]:4369".parse().unwrap())
        );
        for holders in [
            &[(7, &[1][..]), (8, &[2][..])][..],
            &[(7, &[1, 2]), (8, &[2])],
            &[(1, &[1]), (8, &[2])],
        ] {
            assert!(matches!(judged(&both, holders), Port::Several(h) if h.len() == 2));
        }
    }

    #[test]
    fn what_is_in_the_way_of_a_plan() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let all = [ip("0.0.0.0"), ip("::")];
        let some = [ip("10.0.3.5"), ip("127.0.0.1"), ip("::1")];
        for (address, plan, expected) in [
            ("127.0.0.1", &all[..], true),
            ("::1", &all, true),
            ("10.0.9.9", &all, true),
            ("0.0.0.0", &some, true),
            ("::", &some, true),
            ("::", &some[..2], true),
            ("::ffff:127.0.0.1", &some, true),
            ("10.0.3.5", &some, true),
            ("10.0.9.9", &some, false),
            ("fd00::1", &some, false),
            ("0.0.0.0", &some[2..], false),
        ] {
            assert_eq!(is_in_the_way(ip(address), plan), expected, "{address}");
        }
    }
}
