//! The one value in which every request ends: what was asked, how it ended, and why.
//!
//! The answer, the counters and the audit all derive from it, so that they can't disagree. It holds
//! facts only; `desk` makes it, `server` completes it, `audit` and the counters read it.

use std::fmt;
use std::net::SocketAddr;

/// What a peer asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Operation {
    /// `PORT_PLEASE2_REQ`: which distribution port has this name?
    Lookup,
    /// `NAMES_REQ`: which names are there?
    List,
    /// `ALIVE2_REQ`: register this name.
    Register,
    /// `DUMP_REQ`: all names, gone ones too.
    Dump,
    /// `KILL_REQ`: end the daemon.
    Kill,
    /// `STOP_REQ`: release this name.
    Stop,
    /// No request to epmd: a connection to a node's own port, which the guard turned away.
    Connect,
    /// Bytes that are no request.
    Invalid,
    /// Nothing: closed, timed out or closed to make room before a whole request had come.
    None,
}

impl Operation {
    /// All of them, in the order in which they are reported.
    pub const ALL: [Self; 9] = [
        Self::Lookup,
        Self::List,
        Self::Register,
        Self::Dump,
        Self::Kill,
        Self::Stop,
        Self::Connect,
        Self::Invalid,
        Self::None,
    ];

    /// Its name in the audit, in the status and in the metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Lookup => "lookup",
            Self::List => "list",
            Self::Register => "register",
            Self::Dump => "dump",
            Self::Kill => "kill",
            Self::Stop => "stop",
            Self::Connect => "connect",
            Self::Invalid => "invalid",
            Self::None => "none",
        }
    }
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Verdict {
    /// It was done and answered.
    Answered,
    /// It was answered: no such name.
    Unknown,
    /// It was answered: the name is held by another node.
    Taken,
    /// It was not done: policy, a limit, or a kill or stop that is not allowed.
    Refused,
    /// It could not be done: malformed, cut off, timed out.
    Failed,
}

impl Verdict {
    /// All of them, in the order in which they are reported.
    pub const ALL: [Self; 5] = [
        Self::Answered,
        Self::Unknown,
        Self::Taken,
        Self::Refused,
        Self::Failed,
    ];

    /// Its name in the status and in the metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Unknown => "unknown",
            Self::Taken => "taken",
            Self::Refused => "refused",
            Self::Failed => "failed",
        }
    }
}

/// Why a request was refused or failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    /// The peer is in no list that admits it to this.
    NotAllowed,
    /// The peer is in `access.deny`.
    Denied,
    /// Only this host may do this.
    NotLocal,
    /// It came to an address that this epmd was not told to serve.
    AddressNotServed,
    /// The bytes are no request, or its name is one that would forge lines of a list.
    Malformed,
    /// The peer closed before its request was whole.
    Closed,
    /// The request was not whole, or its answer not read, within `request-timeout`.
    Timeout,
    /// A limit was reached.
    TooMany,
    /// The name is another user's to register.
    NotOwner,
}

impl Reason {
    /// All of them, in the order in which they are reported.
    pub const ALL: [Self; 9] = [
        Self::NotAllowed,
        Self::Denied,
        Self::NotLocal,
        Self::AddressNotServed,
        Self::Malformed,
        Self::Closed,
        Self::Timeout,
        Self::TooMany,
        Self::NotOwner,
    ];

    /// Its name in the audit and in the metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::NotAllowed => "not_allowed",
            Self::Denied => "denied",
            Self::NotLocal => "not_local",
            Self::AddressNotServed => "address_not_served",
            Self::Malformed => "malformed",
            Self::Closed => "closed",
            Self::Timeout => "timeout",
            Self::TooMany => "too_many",
            Self::NotOwner => "not_owner",
        }
    }
}

/// The setting that decided, where one reason can come of several: a message can then name the right
/// one, and the line that would admit a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Setting {
    /// `access.allow`.
    Allow,
    /// `access.list`.
    List,
    /// `access.node.NAME.allow`, of the name that was asked for.
    Node,
    /// `limits.connections`.
    Connections,
    /// `limits.per-source`.
    PerSource,
    /// `limits.registrations`.
    Registrations,
    /// `fs.epoll.max_user_watches`, the kernel's.
    Watches,
    /// `names.users`.
    Users,
    /// `names.node.NAME.users`, of the name that was to be registered.
    UsersOfNode,
    /// `names.hold`.
    Hold,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Both ends of a connection. Their addresses are canonical, made so here and nowhere else: an
/// IPv4-mapped IPv6 address is its IPv4 address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends {
    peer: SocketAddr,
    local: SocketAddr,
    this_host: bool,
    uid: Option<u32>,
}

impl Ends {
    /// Both ends of a connection as the kernel names them.
    #[must_use]
    pub fn new(peer: SocketAddr, local: SocketAddr) -> Self {
        let canonical = |a: SocketAddr| SocketAddr::new(a.ip().to_canonical(), a.port());
        let (peer, local) = (canonical(peer), canonical(local));
        Self {
            peer,
            local,
            this_host: peer.ip().is_loopback() || peer.ip() == local.ip(),
            uid: None,
        }
    }

    /// The same connection, whose local address is known now.
    #[must_use]
    pub fn with_local(self, local: SocketAddr) -> Self {
        let known = Self::new(self.peer, local);
        Self {
            this_host: known.this_host || self.this_host,
            uid: self.uid,
            ..known
        }
    }

    /// The same connection, of which it is known that its peer is this host under another address.
    #[must_use]
    pub const fn of_this_host(self) -> Self {
        Self {
            this_host: true,
            ..self
        }
    }

    /// Whether both ends are loopback addresses, as far as is known: see [`Self::lacks_local`].
    #[must_use]
    pub fn is_over_loopback(&self) -> bool {
        self.peer.ip().is_loopback() && (self.local.ip().is_loopback() || self.lacks_local())
    }

    /// Whether the address that the connection came to is not known, because a wildcard listens.
    #[must_use]
    pub fn lacks_local(&self) -> bool {
        self.local.ip().is_unspecified()
    }

    /// The same connection, of which it is known that its peer is none of this host's, although it has
    /// an address of this host.
    #[must_use]
    pub const fn of_a_stranger(self) -> Self {
        Self {
            this_host: false,
            ..self
        }
    }

    /// The same connection, of which it is known which user of this host has its other end.
    #[must_use]
    pub const fn of_user(self, uid: Option<u32>) -> Self {
        Self { uid, ..self }
    }

    /// Whose the other end is, where that was asked for and is known ([`Self::of_user`]).
    #[must_use]
    pub const fn uid(&self) -> Option<u32> {
        self.uid
    }

    /// Who asks.
    #[must_use]
    pub const fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// The address and port that it came to.
    #[must_use]
    pub const fn local(&self) -> SocketAddr {
        self.local
    }

    /// Whether the peer is this host: by loopback, by the connection's own local address, or by another
    /// address of this host's ([`Self::of_this_host`]). Found once, where the connection is accepted.
    #[must_use]
    pub const fn is_this_host(&self) -> bool {
        self.this_host
    }
}

/// How one connection's request ended. Made exactly once for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome<'a> {
    /// Both ends of the connection.
    pub ends: Ends,
    /// What was asked.
    pub operation: Operation,
    /// The name that was asked for, where there is one: bytes from a stranger.
    pub node: Option<&'a [u8]>,
    /// How it ended.
    pub verdict: Verdict,
    /// Why it was refused or failed. With [`Verdict::Answered`] or [`Verdict::Unknown`]: why it
    /// would have been refused, had `access.enforce` been true.
    pub reason: Option<Reason>,
    /// Which setting decided, with [`Reason::NotAllowed`] and [`Reason::NotOwner`] (see `Rules::setting`)
    /// and with [`Reason::TooMany`].
    pub setting: Option<Setting>,
    /// With [`Verdict::Taken`]: since when, in milliseconds since 1970 UTC.
    pub since: Option<u64>,
    /// With [`Verdict::Taken`] and [`Setting::Hold`]: whose the name is, where that is known.
    pub holder: Option<u32>,
}

impl<'a> Outcome<'a> {
    /// The same request, come to nothing.
    #[must_use]
    pub fn failed(self, reason: Reason, setting: Option<Setting>) -> Outcome<'a> {
        Outcome {
            verdict: Verdict::Failed,
            reason: Some(reason),
            setting,
            ..self
        }
    }
}

impl Outcome<'_> {
    /// The same, with the name from elsewhere: for an outcome that outlives the request's bytes.
    #[must_use]
    pub fn with_node(self, node: Option<&[u8]>) -> Outcome<'_> {
        let Self {
            ends,
            operation,
            node: _,
            verdict,
            reason,
            setting,
            since,
            holder,
        } = self;
        Outcome {
            ends,
            operation,
            node,
            verdict,
            reason,
            setting,
            since,
            holder,
        }
    }
}
