//! One `node@host`, from its name to its distribution port.
//!
//! Takes the way that a node of OTP takes: resolve, look up, connect. Sends one lookup to an address
//! (one to IPv4, and one to IPv6 where IPv4 fails), a list where the name is not registered, and
//! nothing at all to the distribution port. Called by `doctor`, once for each node, side by side.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, ToSocketAddrs as _, UdpSocket};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use super::judge::{self, Answer, Barrier, End, Listed, Lookup};
use super::report::{Check, Code, Finding, NodeReport};
use super::words::{self, Others, Place};
use super::{LIMIT, kernel};
use crate::config::Target;
use crate::core::wire::{self, Request};
use crate::tools::client::Call;

/// After this time without an answer over IPv4, IPv6 is asked as well, so that both are done in time.
const HEAD_START: Duration = Duration::from_secs(1);
/// What a full buffer of an answer is read in.
const CHUNK: usize = 4096;

/// Examines one node; `port` is epmd's.
pub(super) fn examine(target: &Target, port: u16) -> NodeReport {
    let mut findings = Vec::new();
    let address = match resolve(&target.host) {
        Ok(addresses) => examine_addresses(target, &addresses, port, &mut findings),
        Err(why) => {
            findings.push(unresolved(&target.host, &why));
            None
        }
    };
    NodeReport::new(target.to_string(), address, findings)
}

/// The addresses of a host, IPv4 first, or why there are none.
fn resolve(host: &str) -> Result<Vec<IpAddr>, String> {
    let (sender, receiver) = mpsc::channel();
    let name = host.to_owned();
    // The system's resolver can't be told when to give up: a thread that is left behind waits for it.
    thread::Builder::new()
        .spawn(move || {
            let found = (name.as_str(), 0).to_socket_addrs();
            let _ = sender.send(found.map(|all| all.map(|a| a.ip()).collect::<Vec<_>>()));
        })
        .map_err(|error| error.to_string())?;
    let found = match receiver.recv_timeout(LIMIT) {
        Ok(found) => found.map_err(|error| error.to_string())?,
        Err(_) => return Err(format!("the resolver gave no answer within {LIMIT:?}")),
    };
    let found = in_order(found);
    if found.is_empty() {
        return Err("it has no address".to_owned());
    }
    Ok(found)
}

/// IPv4 first, else in the resolver's order, each once.
fn in_order(mut addresses: Vec<IpAddr>) -> Vec<IpAddr> {
    addresses.sort_by_key(IpAddr::is_ipv6);
    let mut unique = Vec::new();
    for address in addresses {
        if !unique.contains(&address) {
            unique.push(address);
        }
    }
    unique
}

fn unresolved(host: &str, why: &str) -> Finding {
    let suffix = if host.contains('.') {
        ""
    } else {
        "\nA short name also needs a search domain in /etc/resolv.conf, where DNS knows the full one only."
    };
    Finding::fail(
        Check::Resolve,
        Code::Unresolved,
        format!("{host} has no address on this host: {why}"),
        format!(
            "Put it into DNS, or into /etc/hosts of this host, as a line\n  \
             ADDRESS {host}\n\
             and see what comes of it by\n  \
             getent ahosts {host}{suffix}"
        ),
    )
}

/// What the name leads to.
fn resolved(host: &str, address: IpAddr, others: &[IpAddr]) -> Finding {
    if host.parse::<IpAddr>().is_ok() {
        return Finding::ok(Check::Resolve, format!("{host} is an address"));
    }
    let others: Vec<_> = others.iter().map(ToString::to_string).collect();
    let also = match others.as_slice() {
        [] => String::new(),
        others => format!(
            " (also {}, which nodes use where they are told to)",
            others.join(", ")
        ),
    };
    let message = format!("{host} is {address}{also}");
    if !address.is_loopback() || host == "localhost" {
        return Finding::ok(Check::Resolve, message);
    }
    Finding::warn(
        Check::Resolve,
        Code::NameResolvesToLoopback,
        format!("{message}: this very host, whatever host {host} is"),
        format!(
            "If {host} is another host, its line in /etc/hosts must have that host's address.\n\
             If it is this one, that is how Debian sets it up: fine for nodes of this host, but other hosts must \
             get an address of this host's that they can reach, from DNS or from their /etc/hosts."
        ),
    )
}

/// The rest, once there are addresses; gives the one that was examined.
fn examine_addresses(
    target: &Target,
    addresses: &[IpAddr],
    port: u16,
    findings: &mut Vec<Finding>,
) -> Option<IpAddr> {
    let (&address, others) = addresses.split_first()?;
    findings.push(resolved(&target.host, address, others));
    let spare = others
        .iter()
        .copied()
        .find(|a| a.is_ipv6() && address.is_ipv4());
    let name = target.name.as_bytes();
    let (answer, over_spare) = look_up(address, spare, port, name);
    let mut place = Place {
        target,
        address,
        port,
        from: source(address),
        is_there: None,
    };
    let seen = match &answer {
        Ok(answer) => judge::lookup(answer, name),
        Err(error) => {
            let barrier = judge::barrier(error);
            if barrier == Barrier::NoAnswer {
                place.is_there = kernel::is_there(address);
            }
            let mut finding = words::epmd_barred(&place, barrier, &error.to_string());
            if let (Some(spare), Some(remedy), true) = (spare, &mut finding.remedy, over_spare) {
                remedy.push_str(&format!(
                    "\nOver IPv6 ({spare}) it answers: nodes that are started with `-proto_dist inet6_tcp` find each other."
                ));
            }
            findings.push(finding);
            return Some(address);
        }
    };
    let bytes = answer.as_ref().map_or(&[][..], |answer| &answer.bytes);
    let distribution = match seen {
        Lookup::Found(distribution) => distribution,
        Lookup::NotRegistered => {
            findings.push(answers(&place));
            findings.push(words::not_registered(&place, &list(address, port)));
            return Some(address);
        }
        Lookup::Refused => {
            findings.push(words::epmd_refuses(&place));
            return Some(address);
        }
        Lookup::Silent => {
            findings.push(words::epmd_silent(&place));
            return Some(address);
        }
        Lookup::NotAnEpmd => {
            findings.push(words::not_an_epmd(&place, bytes));
            return Some(address);
        }
    };
    findings.push(answers(&place));
    findings.push(Finding::ok(
        Check::Lookup,
        format!("registered, with the distribution port {distribution}"),
    ));
    findings.push(reach(&mut place, distribution));
    Some(address)
}

fn answers(place: &Place<'_>) -> Finding {
    let Place { address, port, .. } = place;
    Finding::ok(
        Check::Epmd,
        format!("the epmd at {address} port {port} answers this host"),
    )
}

/// Looks the name up at `address`, and whether an epmd answers at `spare` where that fails.
fn look_up(
    address: IpAddr,
    spare: Option<IpAddr>,
    port: u16,
    name: &[u8],
) -> (io::Result<Answer>, bool) {
    let deadline = Instant::now() + LIMIT;
    let request = Request::Lookup(name);
    let ask_it = |ip| {
        ask(
            SocketAddr::new(ip, port),
            &request,
            wire::MAX_FOUND,
            deadline,
        )
    };
    let Some(spare) = spare else {
        return (ask_it(address), false);
    };
    thread::scope(|scope| {
        let (sender, receiver) = mpsc::channel();
        let first = thread::Builder::new().spawn_scoped(scope, move || {
            let _ = sender.send(ask_it(address));
        });
        if let Err(error) = first {
            return (Err(error), false);
        }
        let early = receiver.recv_timeout(HEAD_START).ok();
        if let Some(Ok(answer)) = early {
            return (Ok(answer), false);
        }
        let seen = ask_it(spare).map(|answer| judge::lookup(&answer, name));
        let answers = matches!(seen, Ok(Lookup::Found(_) | Lookup::NotRegistered));
        let late = early.or_else(|| receiver.recv().ok());
        (
            late.unwrap_or_else(|| Err(io::ErrorKind::TimedOut.into())),
            answers,
        )
    })
}

/// Sends one request, and reads what comes back until the other end closes, `most` bytes have come or
/// it is `deadline`.
///
/// # Errors
/// There is no connection; what happens to one is in the answer.
pub(super) fn ask(
    address: SocketAddr,
    request: &Request<'_>,
    most: usize,
    deadline: Instant,
) -> io::Result<Answer> {
    let mut call = Call::connect(address, deadline)?;
    let mut bytes = Vec::new();
    // A connection that was closed at once may be told by the sending already; the reading says more.
    let _ = call.send(request);
    let mut buffer = [0; CHUNK];
    let end = loop {
        match call.read(&mut buffer) {
            Ok(0) => break End::Closed,
            Ok(count) => bytes.extend(buffer.iter().take(count)),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => match judge::barrier(&error) {
                Barrier::NoAnswer => break End::Late,
                Barrier::Refused | Barrier::Unreachable => break End::Closed,
            },
        }
        if bytes.len() > most {
            break End::TooMuch;
        }
    };
    Ok(Answer { bytes, end })
}

/// Which names are registered there.
fn list(address: IpAddr, port: u16) -> Others {
    let deadline = Instant::now() + LIMIT;
    let address = SocketAddr::new(address, port);
    let Ok(answer) = ask(address, &Request::List, wire::MAX_LISTING, deadline) else {
        return Others::Unknown;
    };
    match judge::listed(&answer, port) {
        Listed::Names(listing) => Others::Names(
            listing
                .nodes
                .iter()
                .map(|(name, _)| name.to_vec())
                .collect(),
        ),
        Listed::Refused => Others::Refused,
        Listed::Silent | Listed::NotAnEpmd => Others::Unknown,
    }
}

/// Connects to the distribution port, and sends nothing.
fn reach(place: &mut Place<'_>, distribution: u16) -> Finding {
    let address = SocketAddr::new(place.address, distribution);
    let connected = match distribution {
        // No port at all: nobody can listen there.
        0 => Err(io::ErrorKind::ConnectionRefused.into()),
        _ => TcpStream::connect_timeout(&address, LIMIT),
    };
    match connected {
        Ok(_) => Finding::ok(
            Check::Distribution,
            format!(
                "reachable: {} port {distribution} accepts connections",
                place.address
            ),
        ),
        Err(error) => {
            let barrier = judge::barrier(&error);
            words::distribution_barred(place, distribution, barrier, &error.to_string())
        }
    }
}

/// This host's address towards another. A datagram socket knows as soon as it is connected, which
/// sends nothing.
fn source(address: IpAddr) -> Option<IpAddr> {
    let any: IpAddr = match address {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect((address, 9)).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tools::doctor::report::Grade;

    #[test]
    fn addresses_are_examined_over_ipv4_first() {
        let parse =
            |list: &[&str]| -> Vec<IpAddr> { list.iter().map(|a| a.parse().unwrap()).collect() };
        assert_eq!(
            in_order(parse(&[
                "fd77::1", "10.0.0.2", "10.0.0.1", "fd77::1", "10.0.0.2"
            ])),
            parse(&["10.0.0.2", "10.0.0.1", "fd77::1"])
        );
    }

    #[test]
    fn a_name_that_leads_to_this_host_is_told() {
        let loopback = "127.0.1.1".parse().unwrap();
        let finding = resolved("api.test", loopback, &[]);
        assert_eq!(finding.code, Some(Code::NameResolvesToLoopback));
        assert!(
            finding
                .message
                .starts_with("api.test is 127.0.1.1: this very host")
        );
        assert_eq!(resolved("localhost", loopback, &[]).result, Grade::Ok);
        assert_eq!(resolved("127.0.0.1", loopback, &[]).result, Grade::Ok);
        let address = "10.77.0.1".parse().unwrap();
        let finding = resolved("api.test", address, &["fd77::1".parse().unwrap()]);
        assert_eq!(finding.result, Grade::Ok);
        assert!(
            finding
                .message
                .starts_with("api.test is 10.77.0.1 (also fd77::1")
        );
    }

    #[test]
    fn this_hosts_own_address_is_known_without_a_packet() {
        let loopback = IpAddr::from(Ipv4Addr::LOCALHOST);
        assert_eq!(source(loopback), Some(loopback));
    }

    #[test]
    fn what_is_no_host_is_unresolved() {
        let target = Target::parse("a@name.invalid").unwrap();
        let report = examine(&target, 4369);
        assert_eq!(report.address, None);
        assert_eq!(report.checks.len(), 1);
        assert_eq!(report.checks[0].code, Some(Code::Unresolved));
    }
}
