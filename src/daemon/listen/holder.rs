//! Who has a port: which sockets, and as far as this user may see them, whose programs.
//!
//! Asks the kernel for the sockets (`diag`), and looks for them among the descriptors of all processes
//! (`process`), for no longer than that may take. Says what it found in words; ends nothing. Called by
//! `start` when a port is taken.

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use crate::daemon::process::{self, MANAGER, Process};
use crate::diag::{self, Held, State};

/// How long the search among the descriptors may take: a busy host has a million of them.
const PATIENCE: Duration = Duration::from_secs(1);
/// What process 1 is called where it has socket units.
const SYSTEMD: &str = "systemd";
const ROOT: u32 = 0;

/// All that is known of a port.
#[derive(Debug)]
pub struct Holders {
    /// The sockets that have it; or the kernel can't be asked.
    sockets: io::Result<Vec<Held>>,
    /// Which programs have those, by their inodes.
    programs: HashMap<u64, Process>,
    /// This process, by its number in /proc.
    own: Option<i32>,
}

impl Holders {
    /// Looks who has `port`.
    #[must_use]
    pub fn of(port: u16) -> Self {
        let sockets = diag::held_on(port);
        let own = process::own();
        let known = sockets.as_deref().unwrap_or_default();
        Self {
            programs: programs(known, own, Instant::now() + PATIENCE),
            sockets,
            own,
        }
    }

    /// Where somebody listens by name: not everywhere, nor where an epmd is looked for first.
    #[must_use]
    pub fn listening(&self) -> Vec<IpAddr> {
        let all = self.sockets.as_deref().unwrap_or_default();
        let listening = all.iter().filter(|held| held.state == State::Listens);
        let mut addresses: Vec<_> = listening.map(|held| held.near.ip()).collect();
        addresses.retain(|ip| !ip.is_unspecified());
        addresses.dedup();
        addresses
    }

    /// Why `address` can't be had, and what to do about it. `unlike_an_epmd` says what came of asking for
    /// an epmd there.
    #[must_use]
    pub fn words(&self, address: SocketAddr, unlike_an_epmd: &str) -> String {
        let port = address.port();
        let own = address.ip();
        let overlaps = |held: &&Held| {
            let other = held.near.ip();
            other == own || other.is_unspecified() || own.is_unspecified()
        };
        let all = match &self.sockets {
            Ok(sockets) => sockets.iter().filter(overlaps).collect::<Vec<_>>(),
            Err(error) => {
                return format!(
                    "a program has that port, and the kernel can't be asked which ({error}); \
                     `ss -atnp 'sport = :{port}'` may show it; end it, or use -port"
                );
            }
        };
        let program_of = |held: &Held| self.programs.get(&held.inode);
        let name = |program: &Process| format!("{} (pid {})", program.program, program.pid);
        let user = |held: &Held| {
            held.uid
                .map_or_else(|| "an unknown user".to_owned(), |uid| format!("user {uid}"))
        };
        let is_systemds = |held: &Held| {
            program_of(held).is_some_and(|p| p.pid == MANAGER && p.program == SYSTEMD)
        };
        let of = |state| all.iter().filter(move |held| held.state == state);
        if let Some(held) = of(State::Listens).find(|held| !is_systemds(held)) {
            return match program_of(held) {
                Some(program) if Some(program.pid) == self.own => format!(
                    "systemd has passed the socket that listens on {} to this very process: start epmd with \
                     -systemd (and without -daemon), which takes it, or without the socket unit",
                    held.near
                ),
                Some(program) if program.program == "epmd" => format!(
                    "{} has that port, but as an epmd it does not answer: {unlike_an_epmd}; see whether a \
                     firewall drops what this host sends to itself, or stop it, or use -port",
                    name(program)
                ),
                Some(program) => format!(
                    "another program has that port: {} listens on {}, and it does not answer as an epmd \
                     ({unlike_an_epmd}); stop it (`ss -ltnp 'sport = :{port}'` shows it), or use -port",
                    name(program),
                    held.near
                ),
                None => format!(
                    "another program has that port: one of {} listens on {}, and it does not answer as an \
                     epmd ({unlike_an_epmd}); stop it (`ss -ltnp 'sport = :{port}'` shows it, as root with its \
                     name{}), or use -port",
                    user(held),
                    held.near,
                    if held.uid == Some(ROOT) {
                        "; `systemctl list-sockets`, if it is systemd's"
                    } else {
                        ""
                    }
                ),
            };
        }
        if let Some(held) = of(State::Listens).next() {
            return format!(
                "systemd (process 1) has that port for a socket unit, {}, which `systemctl list-sockets` shows: \
                 let that unit's service run epmd, with -systemd and without -daemon, or stop the socket unit",
                held.near
            );
        }
        if let Some(held) = of(State::Bound).next() {
            let whose =
                program_of(held).map_or_else(|| format!("a program of {}", user(held)), name);
            return format!(
                "{whose} has bound {} and does not listen there; end it, or use -port",
                held.near
            );
        }
        if let Some(held) = of(State::Connected).next() {
            return format!(
                "nobody listens there, but a connection of {} has that port as its source, {} to {}; wait for \
                 its end (`ss -atnp 'sport = :{port}'` shows it), or use -port; `sysctl -w \
                 net.ipv4.ip_local_reserved_ports={port}` keeps the port from connections",
                program_of(held).map_or_else(|| user(held), name),
                held.near,
                held.far
            );
        }
        if let Some(held) = of(State::Lingers).next() {
            return format!(
                "nobody listens there, but a connection of that port is hardly over, {} to {}: it is gone within a \
                 minute (`ss -atn 'sport = :{port}'` shows it)",
                held.near, held.far
            );
        }
        format!(
            "a program has that port, and neither listens there nor is connected by it; which, the kernel tells \
             from Linux 6.8 on (`ss -tnp --bound-inactive 'sport = :{port}'`); end it, or use -port"
        )
    }
}

/// Which programs have these sockets, as far as this user may look. Of several that share one (systemd
/// and the service that it was passed to) it is `own`, else the one that was started last.
fn programs(sockets: &[Held], own: Option<i32>, deadline: Instant) -> HashMap<u64, Process> {
    let mut found = HashMap::new();
    let inodes: HashSet<u64> = sockets.iter().map(|held| held.inode).collect();
    let mut pids = process::all().unwrap_or_default();
    pids.sort_unstable_by_key(|pid| (Some(*pid) == own, *pid));
    for pid in pids {
        if Instant::now() > deadline {
            break;
        }
        let theirs = process::sockets(pid).unwrap_or_default();
        for inode in theirs.into_values() {
            if inodes.contains(&inode) {
                found.insert(inode, Process::of(pid));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn the_process_that_listens_is_found_by_its_port() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let holders = Holders::of(address.port());
        assert_eq!(holders.listening(), [address.ip()]);
        let programs: Vec<_> = holders.programs.values().map(|p| p.pid).collect();
        assert_eq!(programs, [std::process::id().cast_signed()]);
        let words = holders.words(address, "it says nothing");
        let expected =
            format!("systemd has passed the socket that listens on {address} to this very");
        assert!(words.starts_with(&expected), "{words}");
    }

    #[test]
    fn each_kind_of_holder_has_its_words() {
        let words = |state: Option<State>, program: Option<(i32, &str)>| {
            let held = |state| Held {
                near: "127.0.0.1:4369".parse().unwrap(),
                far: "10.0.0.2:443".parse().unwrap(),
                state,
                uid: Some(106),
                inode: 17_001,
            };
            let program = program.map(|(pid, name)| {
                let program = name.into();
                (17_001, Process { pid, program })
            });
            let holders = Holders {
                sockets: Ok(state.map(held).into_iter().collect()),
                programs: program.into_iter().collect(),
                own: Some(8),
            };
            holders.words("0.0.0.0:4369".parse().unwrap(), "it says nothing")
        };
        let (listens, connected) = (Some(State::Listens), Some(State::Connected));
        for (state, program, expected) in [
            (
                listens,
                Some((7, "nc")),
                "another program has that port: nc (pid 7) listens on 127.0.0.1:4369",
            ),
            (
                listens,
                None,
                "another program has that port: one of user 106",
            ),
            (listens, Some((8, "epmd")), "systemd has passed the socket"),
            (
                listens,
                Some((7, "epmd")),
                "epmd (pid 7) has that port, but",
            ),
            (
                listens,
                Some((1, "systemd")),
                "systemd (process 1) has that port",
            ),
            (
                listens,
                Some((1, "sh")),
                "another program has that port: sh (pid 1)",
            ),
            (
                connected,
                Some((7, "curl")),
                "nobody listens there, but a connection of curl (pid 7)",
            ),
            (
                connected,
                None,
                "nobody listens there, but a connection of user 106",
            ),
            (
                Some(State::Lingers),
                None,
                "nobody listens there, but a connection of that port is hardly over",
            ),
            (
                Some(State::Bound),
                Some((7, "rpcbind")),
                "rpcbind (pid 7) has bound 127.0.0.1:4369 and does not listen there",
            ),
            (
                Some(State::Bound),
                None,
                "a program of user 106 has bound 127.0.0.1:4369",
            ),
            (None, None, "a program has that port, and neither listens"),
        ] {
            let words = words(state, program);
            assert!(words.starts_with(expected), "{words}");
        }
        let unasked = Holders {
            sockets: Err(io::ErrorKind::Unsupported.into()),
            programs: HashMap::new(),
            own: None,
        };
        assert!(unasked.listening().is_empty());
        let words = unasked.words("0.0.0.0:4369".parse().unwrap(), "it says nothing");
        assert!(words.contains("the kernel can't be asked which (unsupported)"));
    }
}
