//! What an attempt to reach something means: errors and bytes in, one word out.
//!
//! Opens nothing and knows no clock. Called by `node` and `host` with what they got; `words` makes
//! sentences of it.

use std::io::{self, ErrorKind};

use crate::core::wire::{self, Found, Listing};

/// Why there is no connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Barrier {
    /// A reset in place of an answer, or ICMP's "port unreachable", which the kernel shows alike.
    Refused,
    /// Nothing came back.
    NoAnswer,
    /// No route, or another ICMP message from the way.
    Unreachable,
}

/// What a failed connect means. Whatever is neither a refusal nor silence was said by the kernel, of
/// its own routes or because of an ICMP message.
pub(super) fn barrier(error: &io::Error) -> Barrier {
    match error.kind() {
        ErrorKind::ConnectionRefused | ErrorKind::ConnectionReset => Barrier::Refused,
        ErrorKind::TimedOut | ErrorKind::WouldBlock => Barrier::NoAnswer,
        _ => Barrier::Unreachable,
    }
}

/// Whether a failed connect had been accepted: the other end reset it before it was looked at. A
/// connection that was never made is refused, not reset; one that was closed and then reset breaks.
pub(super) fn was_accepted(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::ConnectionReset | ErrorKind::BrokenPipe
    )
}

/// How reading an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The other end closed; a reset counts as that.
    Closed,
    /// The time was over.
    Late,
    /// There was more than any answer has.
    TooMuch,
}

/// What came back after a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    /// All of it.
    pub(super) bytes: Vec<u8>,
    /// How it ended.
    pub(super) end: End,
}

/// What the answer to a lookup means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lookup {
    /// The node's distribution port.
    Found(u16),
    /// No node has this name.
    NotRegistered,
    /// Closed without a byte.
    Refused,
    /// Accepted, and not a byte in time, or only the beginning of an answer.
    Silent,
    /// No epmd says that.
    NotAnEpmd,
}

/// What the answer to a lookup of `name` means.
pub(super) fn lookup(answer: &Answer, name: &[u8]) -> Lookup {
    match (wire::decode_found(&answer.bytes), answer.end) {
        (Found::Node(node), _) if node.name == name => Lookup::Found(node.port),
        (Found::NotRegistered, _) => Lookup::NotRegistered,
        (Found::Incomplete, End::Closed) if answer.bytes.is_empty() => Lookup::Refused,
        (Found::Incomplete, End::Late) => Lookup::Silent,
        (Found::Node(_) | Found::Incomplete | Found::Malformed, _) => Lookup::NotAnEpmd,
    }
}

/// What the answer to a list means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Listed<'a> {
    /// The names.
    Names(Listing<'a>),
    /// Closed without a byte.
    Refused,
    /// Accepted, and no whole answer in time.
    Silent,
    /// No epmd says that.
    NotAnEpmd,
}

/// What the answer to a list, asked on `port`, means. An epmd says its own port first.
pub(super) fn listed(answer: &Answer, port: u16) -> Listed<'_> {
    match (wire::decode_listing(&answer.bytes), answer.end) {
        (_, End::Closed) if answer.bytes.is_empty() => Listed::Refused,
        (_, End::Late) => Listed::Silent,
        (Some(listing), End::Closed) if listing.port == u32::from(port) => Listed::Names(listing),
        _ => Listed::NotAnEpmd,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::wire::Node;

    const END: [End; 3] = [End::Closed, End::Late, End::TooMuch];

    fn answer(bytes: &[u8], end: End) -> Answer {
        Answer {
            bytes: bytes.to_vec(),
            end,
        }
    }

    #[test]
    fn errors_of_connect() {
        use nix::libc::*;
        // As measured with nftables' reject and drop, and with routes, on Linux 6.18.
        for (errno, expected) in [
            (ECONNREFUSED, Barrier::Refused), // nobody listens; reject (port unreachable); tcp reset
            (ETIMEDOUT, Barrier::NoAnswer),   // drop
            (EHOSTUNREACH, Barrier::Unreachable), // admin-prohibited, host-unreachable; no neighbour
            (ENETUNREACH, Barrier::Unreachable),  // net-unreachable; no route
            (EACCES, Barrier::Unreachable),       // a `prohibit` route; ICMPv6 admin-prohibited
            (EPERM, Barrier::Unreachable),
            (ENOPROTOOPT, Barrier::Unreachable), // prot-unreachable
            (EINVAL, Barrier::Unreachable),      // a `blackhole` route
        ] {
            let error = io::Error::from_raw_os_error(errno);
            assert_eq!(barrier(&error), expected, "{error}");
        }
        assert_eq!(barrier(&ErrorKind::TimedOut.into()), Barrier::NoAnswer);
        for (errno, accepted) in [(ECONNRESET, true), (EPIPE, true), (ECONNREFUSED, false)] {
            let error = io::Error::from_raw_os_error(errno);
            assert_eq!(was_accepted(&error), accepted, "{error}");
        }
    }

    #[test]
    fn answers_to_a_lookup() {
        let mut found = Vec::new();
        wire::encode_found(&Node::new(b"api", 4711), &mut found);
        for end in END {
            assert_eq!(lookup(&answer(&found, end), b"api"), Lookup::Found(4711));
            assert_eq!(lookup(&answer(&found, end), b"b"), Lookup::NotAnEpmd);
            assert_eq!(
                lookup(&answer(b"w\x01", end), b"api"),
                Lookup::NotRegistered
            );
            assert_eq!(
                lookup(&answer(b"HTTP/1.1 400", end), b"api"),
                Lookup::NotAnEpmd
            );
        }
        for (bytes, end, expected) in [
            (&b""[..], End::Closed, Lookup::Refused),
            (b"", End::Late, Lookup::Silent),
            (b"w\0\x12", End::Late, Lookup::Silent),
            (b"w\0\x12", End::Closed, Lookup::NotAnEpmd),
        ] {
            assert_eq!(lookup(&answer(bytes, end), b"api"), expected);
        }
    }

    #[test]
    fn answers_to_a_list() {
        let names = b"\0\0\x11\x11name api at port 4711\n";
        assert_eq!(
            listed(&answer(names, End::Closed), 4369),
            Listed::Names(Listing {
                port: 4369,
                nodes: vec![(b"api", 4711)]
            })
        );
        assert_eq!(listed(&answer(names, End::Closed), 80), Listed::NotAnEpmd);
        assert_eq!(listed(&answer(names, End::Late), 4369), Listed::Silent);
        assert_eq!(
            listed(&answer(names, End::TooMuch), 4369),
            Listed::NotAnEpmd
        );
        assert_eq!(listed(&answer(b"", End::Closed), 4369), Listed::Refused);
        assert_eq!(listed(&answer(b"", End::Late), 4369), Listed::Silent);
        assert_eq!(
            listed(&answer(b"220 mail", End::Closed), 4369),
            Listed::NotAnEpmd
        );
    }
}
