//! Which sockets there are in this network namespace, as the kernel says (sock_diag(7)): who listens on a
//! port or has it otherwise, whether there is a socket with these two ends, and which user's it is.
//!
//! A question and its answers as bytes, and one netlink socket for both. /proc/net/tcp has the same, but
//! takes seconds where many connections rest in TIME_WAIT. Which of the kernel's uids can be believed is
//! `sight`'s. Called by `daemon` and by `tools`.

mod sight;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::libc;
use nix::sys::socket::sockopt::ReceiveTimeout;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, setsockopt, socket,
};
use nix::sys::stat::fstat;
use nix::sys::time::TimeVal;
use socket2::{Domain, Protocol, SockRef};

use sight::Sight;

/// A socket that listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listening {
    /// Where.
    pub address: SocketAddr,
    /// Its number, by which /proc/PID/fd names it.
    pub inode: u64,
    /// Whose it is; `None` where the kernel does not say, or not to this user namespace.
    pub uid: Option<u32>,
    /// Whether it takes IPv6 alone (IPV6_V6ONLY); false for one of IPv4.
    pub only_ipv6: bool,
}

/// A socket with two ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connected {
    /// Its number, by which /proc/PID/fd names it; 0 where no process has it any more.
    pub inode: u64,
    /// Whose it is; `None` where no process has it any more, or the kernel does not say it to this user
    /// namespace. Never another user's.
    pub uid: Option<u32>,
}

/// A socket that has a port as its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// Its own end.
    pub near: SocketAddr,
    /// The other one; of no meaning where it is not connected.
    pub far: SocketAddr,
    /// What it does with the port.
    pub state: State,
    /// As in [`Connected`].
    pub inode: u64,
    /// As in [`Connected`].
    pub uid: Option<u32>,
}

/// What a socket does with its port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It listens.
    Listens,
    /// Nothing: it is bound, and neither listens nor is connected.
    Bound,
    /// It is connected, or about to be.
    Connected,
    /// It is nobody's any more: TIME_WAIT.
    Lingers,
}

/// Asks for every port.
const ANY: u16 = 0;
/// `SOCK_DIAG_BY_FAMILY`, linux/sock_diag.h.
const BY_FAMILY: u16 = 20;
/// `TCP_LISTEN` as a bit among states, and as a state.
const LISTEN: u8 = 10;
/// The states of sockets that nobody has any more, and of those that are bound and no more than that (of
/// which Linux 6.8 and later tell).
const TIME_WAIT: u8 = 6;
const CLOSE: u8 = 7;
/// The length of a message's head, `struct nlmsghdr`.
const HEAD: usize = 16;
/// The most bytes that the kernel puts into one answer (netlink(7)), with room to spare.
const MOST: usize = 64 * 1024;
/// How long the kernel may take for an answer, in seconds: it has it at once.
const PATIENCE: i64 = 2;

/// All sockets that listen on this TCP port, of both families.
///
/// # Errors
/// What the kernel says, also that it can't be asked so.
pub fn listening_on(port: u16) -> io::Result<Vec<Listening>> {
    let sight = Sight::own();
    all_on(port, 1_u32 << LISTEN, |found| listening(found, &sight))
}

/// All TCP sockets that listen, of both families.
///
/// # Errors
/// As [`listening_on`].
pub fn all_listening() -> io::Result<Vec<Listening>> {
    listening_on(ANY)
}

/// All sockets that have this TCP port as their own. Those that are bound and do nothing, kernels before
/// 6.8 do not tell.
///
/// # Errors
/// As [`listening_on`].
pub fn held_on(port: u16) -> io::Result<Vec<Held>> {
    let sight = Sight::own();
    all_on(port, u32::MAX, |found| Some(held(found, &sight)))
}

/// What there is to see of all sockets in one of these states that have this port, of both families.
fn all_on<T>(port: u16, states: u32, seen: impl Fn(&Found) -> Option<T>) -> io::Result<Vec<T>> {
    let mut all = Vec::new();
    for family in [libc::AF_INET, libc::AF_INET6] {
        let family = u8::try_from(family).unwrap_or_default();
        let netlink = netlink()?;
        send(
            netlink.as_raw_fd(),
            &question(family, port, states),
            MsgFlags::empty(),
        )?;
        let mut buffer = vec![0; MOST];
        loop {
            let count = recv(netlink.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
            let answer = buffer.get(..count).unwrap_or_default();
            if read(answer, port, &seen, &mut all)? {
                break;
            }
        }
    }
    Ok(all)
}

fn netlink() -> io::Result<OwnedFd> {
    let netlink = socket(
        AddressFamily::Netlink,
        SockType::Datagram,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkSockDiag,
    )?;
    setsockopt(&netlink, ReceiveTimeout, &TimeVal::new(PATIENCE, 0))?;
    Ok(netlink)
}

/// Asks whether there is a socket with these two ends, and whose it is, again and again.
#[derive(Debug)]
pub struct Asker {
    netlink: OwnedFd,
    sight: Sight,
    /// The number of the last question, so that no other's answer is taken for its own.
    asked: u32,
}

impl Asker {
    /// Asks with a netlink socket of its own, to which the users are shown that this user namespace knows.
    ///
    /// # Errors
    /// The kernel can't be asked: there is no netlink, or a filter forbids it.
    pub fn new() -> io::Result<Self> {
        Ok(Self::with(netlink()?, Sight::own()))
    }

    /// Asks with a netlink socket that was opened elsewhere: the kernel shows it the users of the user
    /// namespace where that was.
    ///
    /// # Errors
    /// It is no socket for such questions.
    pub fn opened_elsewhere(netlink: OwnedFd) -> io::Result<Self> {
        let its = SockRef::from(&netlink);
        let is_one = its.domain()? == Domain::from(libc::AF_NETLINK)
            && its.protocol()? == Some(Protocol::from(libc::NETLINK_SOCK_DIAG));
        if !is_one {
            return Err(io::Error::other("it is no socket of NETLINK_SOCK_DIAG"));
        }
        setsockopt(&netlink, ReceiveTimeout, &TimeVal::new(PATIENCE, 0))?;
        Ok(Self::with(netlink, Sight::elsewhere()))
    }

    fn with(netlink: OwnedFd, sight: Sight) -> Self {
        Self {
            netlink,
            sight,
            // Where two processes ask with the same socket, one after the other, they count differently.
            asked: std::process::id().rotate_left(16),
        }
    }

    /// The netlink socket, to be handed to another process.
    #[must_use]
    pub fn netlink(&self) -> BorrowedFd<'_> {
        self.netlink.as_fd()
    }

    /// Whether every user's uid is shown, as far as can be told: not inside a user namespace that knows a
    /// few of them alone.
    #[must_use]
    pub fn sees_all_users(&self) -> bool {
        self.sight.sees_all_users()
    }

    /// Asks for a socket that is there: this one, which listens. That there is no such socket, and that it
    /// knows no such questions (no `inet_diag`), the kernel says in the same words.
    ///
    /// # Errors
    /// The kernel can't be asked, or does not know that socket.
    pub fn try_with(&mut self, listener: &TcpListener) -> io::Result<()> {
        /// The port is of no matter (it is that of "discard").
        const NO_PORT: u16 = 9;
        let near = listener.local_addr()?;
        let far = SocketAddr::new(near.ip(), NO_PORT);
        let found = self.ask(near, far)?;
        let own = fstat(listener)?.st_ino;
        if found.is_some_and(|found| u64::from(found.inode) == own) {
            return Ok(());
        }
        Err(io::Error::other(
            "the kernel does not know a socket that is there (is the module tcp_diag missing?)",
        ))
    }

    /// Whether a TCP socket of this host has `near` as its own end and `far` as the other one; in
    /// whatever state, also closed lately. Takes some 6 us, and never waits: the kernel answers before
    /// the question has returned.
    ///
    /// # Errors
    /// What the kernel says; see also [`Self::try_with`].
    pub fn is_there(&mut self, near: SocketAddr, far: SocketAddr) -> io::Result<bool> {
        Ok(self.connected(near, far)?.is_some())
    }

    /// The same socket, and whose it is.
    ///
    /// # Errors
    /// As [`Self::is_there`].
    pub fn connected(
        &mut self,
        near: SocketAddr,
        far: SocketAddr,
    ) -> io::Result<Option<Connected>> {
        let found = self.ask(near, far)?;
        // Where there is none with these ends, it may tell of one that listens at the near one.
        let found = found.filter(|found| found.state != LISTEN && found.ends == (near, far));
        Ok(found.map(|Found { inode, uid, .. }| Connected {
            inode: inode.into(),
            uid: self.sight.user(uid, inode),
        }))
    }

    /// What the kernel has found for these two ends.
    fn ask(&mut self, near: SocketAddr, far: SocketAddr) -> io::Result<Option<Found>> {
        self.asked = self.asked.wrapping_add(1);
        let asked = question_for(near, far, self.asked);
        send(self.netlink.as_raw_fd(), &asked, MsgFlags::MSG_DONTWAIT)?;
        let mut buffer = [0; 1024];
        loop {
            let count = recv(
                self.netlink.as_raw_fd(),
                &mut buffer,
                MsgFlags::MSG_DONTWAIT,
            )?;
            let answer = buffer.get(..count).unwrap_or_default();
            let Some((kind, body, _)) = message(answer) else {
                return Err(io::Error::other(NO_SENSE));
            };
            if number(answer) != Some(self.asked) {
                continue; // one that somebody has asked for and not heard
            }
            if i32::from(kind) != libc::NLMSG_ERROR {
                return found(body).map(Some).ok_or(io::Error::other(NO_SENSE));
            }
            let error = body.first_chunk().map_or(0, |b| i32::from_ne_bytes(*b));
            return match error.saturating_neg() {
                libc::ENOENT => Ok(None),
                other => Err(io::Error::from_raw_os_error(other)),
            };
        }
    }
}

/// What is said of bytes that no kernel sends.
const NO_SENSE: &str = "the kernel's answer makes no sense";

/// `struct nlmsghdr` and `struct inet_diag_req_v2`: all that have this port, in these states.
fn question(family: u8, port: u16, states: u32) -> Vec<u8> {
    let mut bytes = head(family, libc::NLM_F_DUMP, states, 0);
    bytes.extend(port.to_be_bytes());
    bytes.resize(LENGTH, 0); // any other end
    bytes
}

/// The same: the one socket with these ends.
fn question_for(near: SocketAddr, far: SocketAddr, number: u32) -> Vec<u8> {
    const ANY_COOKIE: [u8; 8] = [0xff; 8];
    let family = if near.is_ipv4() {
        libc::AF_INET
    } else {
        libc::AF_INET6
    };
    let mut bytes = head(
        u8::try_from(family).unwrap_or_default(),
        0,
        u32::MAX,
        number,
    );
    bytes.extend(near.port().to_be_bytes());
    bytes.extend(far.port().to_be_bytes());
    for end in [near, far] {
        let place = bytes.len() + 16;
        match end.ip() {
            IpAddr::V4(ip) => bytes.extend(ip.octets()),
            IpAddr::V6(ip) => bytes.extend(ip.octets()),
        }
        bytes.resize(place, 0);
    }
    // A link-local address is one of an interface.
    let interface = match near {
        SocketAddr::V6(near) => near.scope_id(),
        SocketAddr::V4(_) => 0,
    };
    bytes.extend(interface.to_ne_bytes());
    bytes.extend(ANY_COOKIE);
    bytes
}

/// The length of a `struct inet_diag_msg`.
const MESSAGE: usize = 72;
/// `INET_DIAG_SKV6ONLY`, linux/inet_diag.h.
const ONLY_IPV6: u16 = 11;

/// The length of a question.
const LENGTH: usize = 72;

/// A question up to the ports.
fn head(family: u8, flags: i32, states: u32, number: u32) -> Vec<u8> {
    let flags = u16::try_from(libc::NLM_F_REQUEST | flags).unwrap_or_default();
    let mut bytes = u32::try_from(LENGTH)
        .unwrap_or_default()
        .to_ne_bytes()
        .to_vec();
    bytes.extend(BY_FAMILY.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend(number.to_ne_bytes());
    bytes.extend([0; 4]); // who asks
    bytes.extend([family, libc::IPPROTO_TCP as u8, 0, 0]);
    bytes.extend(states.to_ne_bytes());
    bytes
}

/// Reads the messages of one answer; true where the last one was among them.
fn read<T>(
    mut answer: &[u8],
    port: u16,
    seen: impl Fn(&Found) -> Option<T>,
    all: &mut Vec<T>,
) -> io::Result<bool> {
    const DONE: i32 = libc::NLMSG_DONE;
    const ERROR: i32 = libc::NLMSG_ERROR;
    while let Some(message) = message(answer) {
        let (kind, body, next) = message;
        match i32::from(kind) {
            DONE => return Ok(true),
            ERROR => {
                let number = body.first_chunk().map_or(0, |b| i32::from_ne_bytes(*b));
                return Err(io::Error::from_raw_os_error(number.saturating_neg()));
            }
            _ => {
                let is_asked_for = |found: &Found| port == ANY || found.ends.0.port() == port;
                let found = found(body).filter(is_asked_for);
                all.extend(found.as_ref().and_then(&seen));
            }
        }
        answer = next;
    }
    if answer.is_empty() {
        return Ok(false);
    }
    Err(io::Error::other(NO_SENSE))
}

/// A message's kind and body, and what follows it.
fn message(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk()?;
    let length = usize::try_from(u32::from_ne_bytes(*length)).ok()?;
    let kind = u16::from_ne_bytes(*rest.first_chunk()?);
    let body = bytes.get(HEAD..length)?;
    // Messages begin at a multiple of four.
    let next = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    Some((kind, body, next))
}

/// The number of the question that a message answers.
fn number(message: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(*message.get(8..)?.first_chunk()?))
}

/// What a `struct inet_diag_msg` tells.
struct Found {
    state: u8,
    /// The socket's own end and the other one.
    ends: (SocketAddr, SocketAddr),
    uid: u32,
    inode: u32,
    only_ipv6: bool,
}

fn found(body: &[u8]) -> Option<Found> {
    let word = |at: usize| Some(u32::from_ne_bytes(*body.get(at..)?.first_chunk()?));
    Some(Found {
        state: *body.get(1)?,
        ends: ends(body)?,
        uid: word(64)?,
        inode: word(68)?,
        only_ipv6: attribute(body, ONLY_IPV6).is_some_and(|value| value != [0]),
    })
}

/// The value of an attribute (`struct rtattr`) behind a `struct inet_diag_msg`.
fn attribute(body: &[u8], kind: u16) -> Option<&[u8]> {
    let mut rest = body.get(MESSAGE..)?;
    loop {
        let (length, behind) = rest.split_first_chunk()?;
        let length = usize::from(u16::from_ne_bytes(*length));
        let value = rest.get(4..length)?;
        if u16::from_ne_bytes(*behind.first_chunk()?) == kind {
            return Some(value);
        }
        rest = rest.get(length.next_multiple_of(4)..)?;
    }
}

/// A socket that listens, where a message is of one.
fn listening(found: &Found, sight: &Sight) -> Option<Listening> {
    (found.state == LISTEN).then(|| Listening {
        address: found.ends.0,
        inode: found.inode.into(),
        uid: sight.user(found.uid, found.inode),
        only_ipv6: found.only_ipv6,
    })
}

/// A socket, whatever it does.
fn held(found: &Found, sight: &Sight) -> Held {
    Held {
        near: found.ends.0,
        far: found.ends.1,
        state: match found.state {
            LISTEN => State::Listens,
            CLOSE => State::Bound,
            TIME_WAIT => State::Lingers,
            _ => State::Connected,
        },
        inode: found.inode.into(),
        uid: sight.user(found.uid, found.inode),
    }
}

/// The ends that a `struct inet_diag_msg` names: the socket's own and the other one.
fn ends(body: &[u8]) -> Option<(SocketAddr, SocketAddr)> {
    let family = i32::from(*body.first()?);
    let end = |port: usize, address: usize| {
        let port = u16::from_be_bytes(*body.get(port..)?.first_chunk()?);
        let address: [u8; 16] = *body.get(address..)?.first_chunk()?;
        let ip: IpAddr = match family {
            libc::AF_INET => Ipv4Addr::from(*address.first_chunk::<4>()?).into(),
            libc::AF_INET6 => Ipv6Addr::from(address).into(),
            _ => return None,
        };
        Some(SocketAddr::new(ip.to_canonical(), port))
    };
    Some((end(4, 8)?, end(6, 24)?))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    fn inode(socket: &TcpListener) -> u64 {
        let path = format!("/proc/self/fd/{}", socket.as_raw_fd());
        std::fs::metadata(path).unwrap().ino()
    }

    #[test]
    fn the_kernel_tells_who_listens() {
        let first = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = first.local_addr().unwrap().port();
        let mut expected = vec![first];
        expected.extend(TcpListener::bind(("::1", port)));
        let expected: Vec<_> = expected
            .iter()
            .map(|l| (l.local_addr().unwrap(), inode(l)))
            .collect();
        let found = listening_on(port).unwrap();
        let me = Some(nix::unistd::getuid().as_raw());
        assert!(found.iter().all(|l| l.uid == me), "{found:?}");
        let found: Vec<_> = found.iter().map(|l| (l.address, l.inode)).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn the_kernel_tells_whose_an_end_is_and_nobodys_is_not_roots() {
        let mut asker = Asker::new().unwrap();
        let me = Some(nix::unistd::getuid().as_raw());
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        asker.try_with(&listener).unwrap();
        // What is there, and what there is no more, over an answer that nobody has taken.
        let client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (near, far) = (client.local_addr().unwrap(), client.peer_addr().unwrap());
        let stale = question_for(far, near, asker.asked.wrapping_sub(1));
        send(asker.netlink.as_raw_fd(), &stale, MsgFlags::empty()).unwrap();
        let found = asker.connected(near, far).unwrap().unwrap();
        assert_eq!(
            (found.uid, found.inode),
            (me, fstat(&client).unwrap().st_ino)
        );
        // Both ends close: one of them rests in TIME_WAIT, and is no user's.
        let (served, _) = listener.accept().unwrap();
        drop(client);
        drop(served);
        let left = asker.connected(near, far).unwrap();
        assert_eq!(left.and_then(|left| left.uid), None, "{left:?}");
    }

    #[test]
    fn only_a_socket_for_such_questions_is_taken_over() {
        let other = TcpListener::bind("127.0.0.1:0").unwrap();
        assert!(Asker::opened_elsewhere(other.into()).is_err());
        let mut asker = Asker::opened_elsewhere(netlink().unwrap()).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        asker.try_with(&listener).unwrap();
        // One that is nowhere is not taken for another.
        let gone = TcpListener::bind("127.0.0.1:0").unwrap();
        let near = gone.local_addr().unwrap();
        drop(gone);
        assert!(asker.ask(near, near).unwrap().is_none());
    }

    #[test]
    fn the_kernel_tells_who_else_has_a_port() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (near, far) = (client.local_addr().unwrap(), client.peer_addr().unwrap());
        let of_client = held_on(near.port()).unwrap();
        assert_eq!(of_client.len(), 1);
        assert_eq!(of_client[0].state, State::Connected);
        assert_eq!((of_client[0].near, of_client[0].far), (near, far));
        assert_eq!(of_client[0].uid, Some(nix::unistd::getuid().as_raw()));
        let of_listener = held_on(far.port()).unwrap();
        let listens = of_listener.iter().find(|h| h.state == State::Listens);
        assert_eq!(listens.unwrap().inode, inode(&listener));
        // Who closes first lets the port linger.
        let served = listener.accept().unwrap().0;
        drop(client);
        drop(served);
        let lingers = || {
            let held = held_on(near.port()).unwrap();
            held.first()
                .is_some_and(|held| held.state == State::Lingers)
        };
        let end = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while !lingers() {
            assert!(std::time::Instant::now() < end, "it does not linger");
            std::thread::yield_now();
        }
    }

    #[test]
    fn the_kernel_tells_of_a_socket_that_is_bound_alone_if_it_is_new_enough() {
        use socket2::{Socket, Type};
        for any in ["127.0.0.1:0", "[::1]:0"] {
            let any: SocketAddr = any.parse().unwrap();
            let bound = Socket::new(Domain::for_address(any), Type::STREAM, None).unwrap();
            if bound.bind(&any.into()).is_err() {
                continue; // there is no IPv6
            }
            let near = bound.local_addr().unwrap().as_socket().unwrap();
            // Before Linux 6.8 nobody can tell.
            if let [held] = held_on(near.port()).unwrap()[..] {
                assert_eq!((held.near, held.state), (near, State::Bound));
            }
        }
    }

    #[test]
    fn the_kernel_tells_whether_a_connection_is_there() {
        let mut asker = Asker::new().unwrap();
        for any in ["127.0.0.1:0", "[::1]:0", "[::ffff:127.0.0.1]:0"] {
            let Ok(listener) = TcpListener::bind(any) else {
                continue; // there is no IPv6
            };
            let client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let canonical = |a: SocketAddr| SocketAddr::new(a.ip().to_canonical(), a.port());
            let near = canonical(client.local_addr().unwrap());
            let far = canonical(client.peer_addr().unwrap());
            assert!(asker.is_there(near, far).unwrap(), "{any}");
            assert!(
                asker.is_there(far, near).unwrap(),
                "{any}, not accepted yet"
            );
            // With another port at either end there is none; where one listens, it is not taken for it.
            let other = SocketAddr::new(near.ip(), near.port() ^ 1);
            assert!(!asker.is_there(other, far).unwrap(), "{any}");
            assert!(!asker.is_there(far, other).unwrap(), "{any}");
        }
    }

    #[test]
    fn the_kernel_tells_which_families_a_socket_takes() {
        let mut sockets = Vec::new();
        for (only, v6) in [(false, true), (true, true), (false, false)] {
            let domain = if v6 { Domain::IPV6 } else { Domain::IPV4 };
            let Ok(socket) = socket2::Socket::new(domain, socket2::Type::STREAM, None) else {
                continue; // there is no IPv6
            };
            if v6 {
                socket.set_only_v6(only).unwrap();
            }
            let any: IpAddr = match v6 {
                true => Ipv6Addr::UNSPECIFIED.into(),
                false => Ipv4Addr::UNSPECIFIED.into(),
            };
            socket.bind(&SocketAddr::new(any, 0).into()).unwrap();
            socket.listen(1).unwrap();
            let listener = TcpListener::from(socket);
            sockets.push((listener.local_addr().unwrap(), only, listener));
        }
        let all = all_listening().unwrap();
        for (address, only, _listener) in &sockets {
            let found = all.iter().find(|l| l.address == *address);
            assert_eq!(found.map(|l| l.only_ipv6), Some(*only), "{address}");
        }
    }

    #[test]
    fn a_port_on_which_nobody_listens_has_no_sockets() {
        let port = {
            let free = TcpListener::bind("127.0.0.1:0").unwrap();
            free.local_addr().unwrap().port()
        };
        assert_eq!(listening_on(port).unwrap(), []);
    }

    #[test]
    fn what_is_no_answer_of_the_kernel_is_an_error_and_no_loop() {
        let mut all = Vec::new();
        let seen = |found: &Found| listening(found, &Sight::own());
        for bytes in [&[1][..], &[0; 16], &[255; 100], &[8, 0, 0, 0, 3, 0, 0, 0]] {
            assert!(read(bytes, 1, seen, &mut all).is_err(), "{bytes:?}");
        }
        let mut error = 20_u32.to_ne_bytes().to_vec();
        error.extend(2_u16.to_ne_bytes());
        error.extend([0; 10]);
        error.extend((-libc::ENOENT).to_ne_bytes());
        let error = read(&error, 1, seen, &mut all).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOENT));
        for length in 0..100 {
            let found = found(&vec![0; length]);
            assert!(found.as_ref().and_then(seen).is_none());
        }
        assert!(all.is_empty());
    }
}
