//! This host's epmd: who holds its port, whether it answers, and what is in the way where it does not.
//!
//! Each loopback address is asked with a time of its own, side by side, and where none answers the other
//! addresses that are listened on. "End it" is said of nothing that may be an epmd. Called by `host`.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Instant;

use super::LIMIT;
use super::address::Address;
use super::ask::{self, side_by_side};
use super::judge::{self, Barrier, Listed};
use super::kernel::{Make, Process};
use super::report::{Check, Code, Finding};
use super::words::shown;
use crate::core::wire::{self, Request};

/// Where nodes of this host look for their epmd.
const LOOPBACK: [IpAddr; 2] = [
    IpAddr::V6(Ipv6Addr::LOCALHOST),
    IpAddr::V4(Ipv4Addr::LOCALHOST),
];
/// The process that holds sockets for systemd's units.
const PROCESS_1: u32 = 1;
/// How loopback is let through again.
const LET_LOOPBACK_THROUGH: &str = "See which rule it is, and let what this host sends to itself through, for example by\n  \
     nft list ruleset\n  \
     nft insert rule inet filter input iifname \"lo\" accept";

/// What is listened on, as far as that could be looked at.
#[derive(Clone, Debug)]
pub(super) enum Sockets {
    /// On these addresses.
    Seen(Vec<IpAddr>),
    /// It could not, for this reason.
    Unseen(String),
}

/// What came of asking one address for the names.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    address: IpAddr,
    reply: Reply,
}

#[derive(Clone, Debug)]
enum Reply {
    Names(Vec<(Vec<u8>, u16)>),
    /// It accepted, and gave no answer that an epmd gives.
    NoEpmds(&'static str),
    /// There is no connection.
    Barred(Barrier, String),
}

impl Asked {
    /// The names, where an epmd told them.
    pub(super) fn names(&self) -> Option<&[(Vec<u8>, u16)]> {
        match &self.reply {
            Reply::Names(names) => Some(names),
            Reply::NoEpmds(_) | Reply::Barred(..) => None,
        }
    }
}

/// The epmd of this host, as far as it can be seen.
pub(super) struct Seen<'a> {
    pub(super) port: u16,
    /// The addresses on whose port somebody listens.
    pub(super) sockets: Sockets,
    pub(super) owner: Option<&'a Process>,
    pub(super) make: Option<Make>,
    /// What came of asking it.
    pub(super) asked: &'a [Asked],
    /// Whether this host may be without one on purpose.
    pub(super) on_purpose: bool,
}

impl Seen<'_> {
    pub(super) fn listening(&self) -> &[IpAddr] {
        match &self.sockets {
            Sockets::Seen(addresses) => addresses,
            Sockets::Unseen(_) => &[],
        }
    }

    /// Whether a socket listens at this loopback address.
    fn covers(&self, loopback: IpAddr) -> bool {
        let any = |a: &IpAddr| a.is_unspecified() && a.is_ipv6() == loopback.is_ipv6();
        self.listening().iter().any(|a| *a == loopback || any(a))
    }

    /// The loopback addresses that are listened on and can't be connected to, and how that ends.
    fn barred(&self) -> Vec<String> {
        let of = |asked: &Asked| match &asked.reply {
            Reply::Barred(barrier, why) if self.covers(asked.address) => Some(match barrier {
                Barrier::NoAnswer => format!("{} gives no answer within {LIMIT:?}", asked.address),
                Barrier::Refused => format!("{} refuses", asked.address),
                Barrier::Unreachable => format!("{} can't be reached ({why})", asked.address),
            }),
            _ => None,
        };
        self.asked.iter().filter_map(of).collect()
    }
}

/// Asks the local epmd for its names: at loopback, and where that fails at these addresses as well.
pub(super) fn ask(port: u16, others: impl Iterator<Item = IpAddr>) -> Vec<Asked> {
    let one = |address: &IpAddr| Asked {
        address: *address,
        reply: ask_at(Address::from(*address), port),
    };
    let mut asked = side_by_side(&LOOPBACK, one);
    if asked.iter().all(|asked| asked.names().is_none()) {
        let others: BTreeSet<_> = others
            .filter(|a| !a.is_unspecified() && !LOOPBACK.contains(a))
            .collect();
        let others: Vec<_> = others.into_iter().collect();
        asked.extend(side_by_side(&others, one));
    }
    asked
}

fn ask_at(address: Address, port: u16) -> Reply {
    let deadline = Instant::now() + LIMIT;
    let answer = match ask::ask(
        address.at(port),
        &Request::List,
        wire::MAX_LISTING,
        deadline,
    ) {
        Ok(answer) => answer,
        Err(error) => return Reply::Barred(judge::barrier(&error), error.to_string()),
    };
    match judge::listed(&answer, port) {
        Listed::Names(listing) => {
            let owned = |(name, port): &(&[u8], u16)| (name.to_vec(), *port);
            Reply::Names(listing.nodes.iter().map(owned).collect())
        }
        Listed::Refused => Reply::NoEpmds("closes without an answer"),
        Listed::Silent => Reply::NoEpmds("accepts, and gives no answer in time"),
        Listed::NotAnEpmd => Reply::NoEpmds("says what no epmd says"),
    }
}

/// Who listens on epmd's port, and where, and what bars the way to it.
pub(super) fn findings(seen: &Seen<'_>) -> Vec<Finding> {
    let answering = seen.asked.iter().find(|asked| asked.names().is_some());
    let mut findings = match answering {
        Some(answering) => answered(seen, answering.address),
        None => vec![unanswered(seen)],
    };
    if let Sockets::Unseen(why) = &seen.sockets {
        findings.push(Finding::warn(
            Check::Listen,
            Code::NotLookedAt,
            format!(
                "who listens where on this host could not be looked at, epmd's port and the nodes' own: {why}"
            ),
            "Give this process /proc, in this network namespace, and ask again:\n  mount -t proc proc /proc",
        ));
    }
    findings
}

/// An epmd answers at this address.
fn answered(seen: &Seen<'_>, at: IpAddr) -> Vec<Finding> {
    let Seen { port, .. } = seen;
    let who = who(seen, true);
    let list = list(seen);
    let found = match &seen.sockets {
        Sockets::Unseen(_) => format!("an epmd answers on port {port}"),
        Sockets::Seen(all) if all.is_empty() => format!(
            "an epmd answers on port {port}, forwarded from outside of this network namespace"
        ),
        Sockets::Seen(all) if all.iter().all(IpAddr::is_loopback) => format!(
            "{who} listens on {list} port {port}: loopback alone, so other hosts' nodes can't look up this host's"
        ),
        Sockets::Seen(_) => format!("{who} listens on {list} port {port}"),
    };
    let mut findings = vec![Finding::ok(Check::Listen, found)];
    let barred = seen.barred();
    let message = if !LOOPBACK.contains(&at) {
        Some(format!(
            "epmd answers at {at}, and at no loopback address: nodes of this host register there, and can't"
        ))
    } else if !barred.is_empty() {
        Some(format!(
            "epmd answers at {at}, and not at each loopback address that it listens on: {}; nodes and erl's own \
             commands that ask there wait, or find none",
            barred.join(", ")
        ))
    } else {
        None
    };
    let remedy = match barred.is_empty() {
        true => "Have it listen on 127.0.0.1 and ::1 as well: hardened-epmd does so by itself at its start, beside a \
                 socket unit's sockets too; to a stock epmd's socket unit, add ListenStream=127.0.0.1:4369. Then\n  \
                 systemctl restart UNIT"
            .replace("UNIT", unit(seen.make)),
        false => LET_LOOPBACK_THROUGH.to_owned(),
    };
    findings.extend(
        message.map(|text| Finding::warn(Check::Listen, Code::LoopbackBarred, text, remedy)),
    );
    findings
}

/// No epmd answers.
fn unanswered(seen: &Seen<'_>) -> Finding {
    let Seen { port, .. } = seen;
    let how = |asked: &Asked| match asked.reply {
        Reply::NoEpmds(how) => Some(format!("{} {how}", asked.address)),
        Reply::Names(_) | Reply::Barred(..) => None,
    };
    let how: Vec<_> = seen.asked.iter().filter_map(how).collect();
    let (accepted, how) = (!how.is_empty(), how.join(", "));
    if seen.listening().is_empty() && !accepted {
        return none_there(seen);
    }
    let (who, list) = (who(seen, false), list(seen));
    let holds = match list.is_empty() {
        true => format!("{who} listens on port {port}"),
        false => format!("{who} listens on {list} port {port}"),
    };
    let barred = seen.barred();
    let at_process_1 = seen.owner.is_some_and(|owner| owner.pid == PROCESS_1);
    let (message, remedy) = if !barred.is_empty() && !accepted {
        (
            format!(
                "{holds}, and this host does not get there: {}; a rule of this host's firewall bars loopback, or so many \
                 connections wait there that no more fit",
                barred.join(", ")
            ),
            format!(
                "{LET_LOOPBACK_THROUGH}\nHow many connections wait (Recv-Q):\n  ss -ltn 'sport = :{port}'"
            ),
        )
    } else if let Some(make) = seen.make {
        let of = match seen.owner {
            Some(Process { pid, .. }) => format!("ps -o pid,stat,args -p {pid}"),
            None => "ps -C epmd -o pid,stat,args".to_owned(),
        };
        (
            format!(
                "{holds}, and does not answer this host ({how}): it hangs, is stopped, or is set to serve other addresses"
            ),
            format!(
                "See its state (T is stopped: kill -CONT goes on with it), and what it said last:\n  \
                 {of}\n  \
                 journalctl -n 50 -u hardened-epmd -u epmd\n\
                 Then restart it; nodes of OTP register again by themselves:\n  \
                 systemctl restart {}",
                unit(Some(make))
            ),
        )
    } else if at_process_1 {
        (
            format!(
                "{holds} for a unit of systemd's, and no epmd answers behind it: its service did not start, or hangs"
            ),
            "See which socket unit it is and what its service said, and start that again:\n  \
             systemctl list-sockets --all | grep 4369\n  \
             journalctl -n 50 -u hardened-epmd -u epmd\n  \
             systemctl restart hardened-epmd"
                .replace("4369", &port.to_string()),
        )
    } else if seen.owner.is_none() {
        (
            format!("{holds}, and does not answer as an epmd does: {how}"),
            format!(
                "See as root what it is:\n  ss -ltnp 'sport = :{port}'\n\
                 An epmd that hangs is to be restarted; anything else has to leave that port to an epmd."
            ),
        )
    } else {
        (
            format!("{holds}, and does not answer as an epmd does: {how}"),
            format!(
                "See what it is, and end it, so that an epmd can have that port:\n  ss -ltnp 'sport = :{port}'"
            ),
        )
    };
    Finding::fail(
        Check::Listen,
        Code::NoEpmd,
        format!("no epmd: {message}"),
        remedy,
    )
}

/// Nothing listens there, as far as can be seen.
fn none_there(seen: &Seen<'_>) -> Finding {
    let Seen { port, .. } = seen;
    let message = match seen.sockets {
        Sockets::Seen(_) => format!("no epmd: nothing listens on port {port}"),
        Sockets::Unseen(_) => format!("no epmd answers on port {port} of this host's loopback"),
    };
    let remedy = "Start it, and have it started at every boot:\n  systemctl enable --now epmd\n\
                  Nodes that run already register with it by themselves (OTP 25: within 2 s).\n\
                  Where this host has none on purpose (-erl_epmd_port, ERL_DIST_PORT), other hosts ask for a node's \
                  own port:\n  epmd -doctor NODE@HOST:PORT";
    if seen.on_purpose {
        let message = format!(
            "{message}; fine where each node is told the others' ports (-erl_epmd_port, ERL_DIST_PORT)"
        );
        return Finding::warn(Check::Listen, Code::NoEpmd, message, remedy);
    }
    Finding::fail(Check::Listen, Code::NoEpmd, message, remedy)
}

/// Who holds the port.
fn who(seen: &Seen<'_>, answers: bool) -> String {
    match seen.owner {
        Some(Process { pid, name }) => format!("{name} (pid {pid}{})", make(seen.make)),
        None if answers => "an epmd (which process, only root can see)".to_owned(),
        None if seen.make == Some(Make::Ours) => "hardened-epmd".to_owned(),
        None => "a process that only root can see".to_owned(),
    }
}

/// Where it is listened on. Ours has two sockets at an address that strangers reach.
fn list(seen: &Seen<'_>) -> String {
    let addresses: BTreeSet<_> = seen.listening().iter().collect();
    let list: Vec<_> = addresses.iter().map(ToString::to_string).collect();
    list.join(", ")
}

/// The service that runs it.
const fn unit(make: Option<Make>) -> &'static str {
    match make {
        Some(Make::Ours) => "hardened-epmd",
        Some(Make::Stock) | None => "epmd",
    }
}

fn make(make: Option<Make>) -> &'static str {
    match make {
        Some(Make::Ours) => ", hardened-epmd",
        Some(Make::Stock) => ", stock",
        None => "",
    }
}

/// What it tells.
pub(super) fn answers(registered: &[(Vec<u8>, u16)]) -> Finding {
    let names: Vec<_> = registered.iter().map(|(name, _)| name).collect();
    let message = match names.as_slice() {
        [] => "epmd answers; no node is registered".to_owned(),
        names => format!("epmd answers; registered: {}", shown(names)),
    };
    Finding::ok(Check::Epmd, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tools::doctor::report::Grade;

    fn asked(address: &str, reply: Reply) -> Asked {
        Asked {
            address: address.parse().unwrap(),
            reply,
        }
    }

    fn seen<'a>(sockets: &[&str], owner: Option<&'a Process>, asked: &'a [Asked]) -> Seen<'a> {
        Seen {
            port: 4369,
            sockets: Sockets::Seen(sockets.iter().map(|a| a.parse().unwrap()).collect()),
            owner,
            make: None,
            asked,
            on_purpose: false,
        }
    }

    fn process(pid: u32, name: &str) -> Process {
        let name = name.to_owned();
        Process { pid, name }
    }

    fn barred(barrier: Barrier) -> Reply {
        Reply::Barred(barrier, "Connection refused".to_owned())
    }

    #[test]
    fn a_host_without_an_epmd() {
        let refused = LOOPBACK.map(|a| asked(&a.to_string(), barred(Barrier::Refused)));
        let mut none = seen(&[], None, &refused);
        let all = findings(&none);
        assert_eq!((all.len(), all[0].result), (1, Grade::Fail));
        assert_eq!(all[0].code, Some(Code::NoEpmd));
        let remedy = all[0].remedy.as_deref().unwrap();
        assert!(remedy.contains("epmd -doctor NODE@HOST:PORT"), "{remedy}");
        none.on_purpose = true;
        assert_eq!(findings(&none)[0].result, Grade::Warn);
    }

    #[test]
    fn where_an_epmd_listens() {
        let answers = [asked("127.0.0.1", Reply::Names(Vec::new()))];
        let message = |sockets: &[&str]| {
            let all = findings(&seen(sockets, None, &answers));
            assert_eq!((all.len(), all[0].result), (1, Grade::Ok));
            all[0].message.clone()
        };
        assert!(
            message(&["::", "0.0.0.0", "0.0.0.0"]).ends_with("listens on 0.0.0.0, :: port 4369")
        );
        assert!(message(&["127.0.0.1", "::1"]).contains("loopback alone"));
        assert!(message(&[]).contains("forwarded from outside"));
    }

    #[test]
    fn end_it_is_said_of_nothing_that_may_be_an_epmd() {
        let silent = [asked("127.0.0.1", Reply::NoEpmds("closes"))];
        let dropped = LOOPBACK.map(|a| asked(&a.to_string(), barred(Barrier::NoAnswer)));
        let rejected = LOOPBACK.map(|a| asked(&a.to_string(), barred(Barrier::Refused)));
        let (epmd, systemd, web) = (process(7, "epmd"), process(1, "systemd"), process(9, "web"));
        for (owner, make, asked, says_end_it, has) in [
            (Some(&web), None, &silent[..], true, "web (pid 9) listens"),
            (
                Some(&epmd),
                Some(Make::Ours),
                &silent,
                false,
                "does not answer this host",
            ),
            (
                Some(&epmd),
                Some(Make::Stock),
                &silent,
                false,
                "does not answer this host",
            ),
            (
                Some(&systemd),
                None,
                &silent,
                false,
                "for a unit of systemd's",
            ),
            (None, None, &silent, false, "only root can see"),
            (
                None,
                Some(Make::Ours),
                &silent,
                false,
                "hardened-epmd listens",
            ),
            (
                Some(&epmd),
                Some(Make::Ours),
                &dropped,
                false,
                "firewall bars loopback",
            ),
            (Some(&web), None, &dropped, false, "firewall bars loopback"),
            (
                Some(&epmd),
                Some(Make::Ours),
                &rejected,
                false,
                "firewall bars loopback",
            ),
            (
                Some(&systemd),
                None,
                &dropped,
                false,
                "firewall bars loopback",
            ),
        ] {
            let seen = Seen {
                make,
                ..seen(&["0.0.0.0", "::"], owner, asked)
            };
            let all = findings(&seen);
            assert_eq!(all[0].code, Some(Code::NoEpmd));
            assert!(all[0].message.contains(has), "{}", all[0].message);
            let remedy = all[0].remedy.as_deref().unwrap();
            assert_eq!(remedy.contains("end it"), says_end_it, "{remedy}");
        }
    }

    #[test]
    fn a_loopback_address_that_is_barred_while_the_other_answers_is_a_warning() {
        for barrier in [Barrier::NoAnswer, Barrier::Refused, Barrier::Unreachable] {
            let half = [
                asked("::1", Reply::Names(Vec::new())),
                asked("127.0.0.1", barred(barrier)),
            ];
            let all = findings(&seen(&["0.0.0.0", "::"], None, &half));
            assert_eq!(all[1].code, Some(Code::LoopbackBarred));
            assert!(
                all[1].message.contains(": 127.0.0.1 "),
                "{}",
                all[1].message
            );
            // Where nobody listens there, that is how it was set up.
            assert_eq!(findings(&seen(&["::"], None, &half)).len(), 1);
        }
        let elsewhere = [
            asked("127.0.0.1", barred(Barrier::Refused)),
            asked("10.77.0.1", Reply::Names(Vec::new())),
        ];
        let all = findings(&seen(&["10.77.0.1"], None, &elsewhere));
        assert_eq!(all[1].code, Some(Code::LoopbackBarred));
        assert!(
            all[1].message.contains("no loopback address"),
            "{}",
            all[1].message
        );
    }

    #[test]
    fn what_could_not_be_looked_at_is_said_and_nothing_is_made_of_it() {
        for (reply, code) in [
            (Reply::Names(Vec::new()), None),
            (barred(Barrier::Refused), Some(Code::NoEpmd)),
        ] {
            let asked = [asked("127.0.0.1", reply)];
            let seen = Seen {
                sockets: Sockets::Unseen("/proc/self/net/tcp: No such file".to_owned()),
                ..seen(&[], None, &asked)
            };
            let all = findings(&seen);
            assert_eq!(all[0].code, code);
            assert_eq!(all[1].code, Some(Code::NotLookedAt));
            assert!(
                !all[0].message.contains("nothing listens"),
                "{}",
                all[0].message
            );
        }
    }
}
