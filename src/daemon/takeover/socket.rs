//! A socket that was copied out of another process: what it is, and how far its conversation has come.
//!
//! It only looks: a copy is the same socket, and what is changed of it is changed for its owner. Called
//! by `takeover`.

use std::net::SocketAddr;
use std::os::fd::{AsRawFd as _, OwnedFd};

use nix::sys::socket::{MsgFlags, getsockopt, recv};
use nix::{getsockopt_impl, libc, sockopt_impl};
use socket2::{SockRef, Type};

use crate::core::wire::{LENGTH_FIELD, MAX_REQUEST};

/// The beginning of `struct tcp_info` (linux/tcp.h) as far as it is read here, Linux 4.6.
type TcpInfoBytes = [u8; 160];
sockopt_impl!(
    /// What the kernel knows of a TCP connection (`TCP_INFO`, tcp(7)).
    TcpInfo, GetOnly, libc::IPPROTO_TCP, libc::TCP_INFO, TcpInfoBytes
);

/// Where fields stand in it.
const STATE: usize = 0;
const BYTES_RECEIVED: usize = 128;
const NOT_SENT: usize = 144;
const DATA_SEGMENTS_OUT: usize = 156;
/// The peer has closed its side: the end counts as a byte received.
const CLOSE_WAIT: u8 = 8;

/// What a socket is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// It listens at this address.
    Listener(SocketAddr),
    /// A TCP connection to this address of ours.
    Connection(SocketAddr, Progress),
    /// Anything else.
    Other,
}

/// How far a connection's conversation has come, as seen from its own side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// Nothing was read of it, nor sent.
    Unasked,
    /// So many bytes were read, and none sent.
    Reading(u64),
    /// Something was sent.
    Answered,
}

/// Looks what a socket is.
pub(super) fn kind(descriptor: &OwnedFd) -> Kind {
    let socket = SockRef::from(descriptor);
    let address = socket.local_addr().ok().and_then(|a| a.as_socket());
    let is_stream = socket.r#type().is_ok_and(|t| t == Type::STREAM);
    let Some(address) = address.filter(|_| is_stream) else {
        return Kind::Other;
    };
    if socket.is_listener().is_ok_and(|is| is) {
        return Kind::Listener(address);
    }
    match progress(descriptor) {
        Some(progress) => Kind::Connection(address, progress),
        None => Kind::Other,
    }
}

fn progress(descriptor: &OwnedFd) -> Option<Progress> {
    let info = getsockopt(descriptor, TcpInfo).ok()?;
    let number = |place: usize| {
        let bytes = info.get(place..).and_then(|rest| rest.first_chunk())?;
        Some(u32::from_ne_bytes(*bytes))
    };
    if number(DATA_SEGMENTS_OUT)? > 0 || number(NOT_SENT)? > 0 {
        return Some(Progress::Answered);
    }
    let received = info.get(BYTES_RECEIVED..)?.first_chunk()?;
    let mut received = u64::from_ne_bytes(*received);
    if info.get(STATE) == Some(&CLOSE_WAIT) {
        received = received.saturating_sub(1);
    }
    // More than a request has is none, however much of it was read.
    let mut buffer = [0; LENGTH_FIELD + MAX_REQUEST + 1];
    let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
    let unread = recv(descriptor.as_raw_fd(), &mut buffer, flags).unwrap_or(0);
    Some(
        match received.saturating_sub(u64::try_from(unread).unwrap_or(u64::MAX)) {
            0 => Progress::Unasked,
            read => Progress::Reading(read),
        },
    )
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::{Shutdown, TcpListener, TcpStream, UdpSocket};

    use super::*;

    fn progress_of(stream: &TcpStream) -> Progress {
        match kind(&stream.try_clone().unwrap().into()) {
            Kind::Connection(address, progress) if address == stream.local_addr().unwrap() => {
                progress
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn how_far_a_connection_has_come() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        for end in [false, true] {
            let mut peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (mut stream, _) = listener.accept().unwrap();
            assert_eq!(progress_of(&stream), Progress::Unasked);
            peer.write_all(&[0; 5]).unwrap();
            if end {
                peer.shutdown(Shutdown::Write).unwrap();
            }
            stream.peek(&mut [0; 5]).unwrap();
            assert_eq!(progress_of(&stream), Progress::Unasked, "end: {end}");
            stream.read_exact(&mut [0; 2]).unwrap();
            assert_eq!(progress_of(&stream), Progress::Reading(2), "end: {end}");
            stream.read_exact(&mut [0; 3]).unwrap();
            assert_eq!(progress_of(&stream), Progress::Reading(5), "end: {end}");
            stream.write_all(&[0]).unwrap();
            assert_eq!(progress_of(&stream), Progress::Answered);
        }
    }

    #[test]
    fn what_is_no_connection() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        assert_eq!(kind(&listener.into()), Kind::Listener(address));
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        assert_eq!(kind(&udp.into()), Kind::Other);
        let (unix, _) = std::os::unix::net::UnixStream::pair().unwrap();
        assert_eq!(kind(&unix.into()), Kind::Other);
        let file = std::fs::File::open("/dev/null").unwrap();
        assert_eq!(kind(&file.into()), Kind::Other);
    }
}
