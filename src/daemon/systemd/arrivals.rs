//! Connections that have asked nothing yet, on their way from an epmd whose place is taken to this one.
//!
//! They go through systemd's store as everything else does, packed into a pair of sockets, and are gone
//! from it as soon as the daemon has them: a copy left there would keep a closed connection open. Written
//! by `takeover`, read by `inherited`.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg,
    sendmsg, socketpair,
};
use nix::{cmsg_space, libc};

use super::notify::{manager, take_out};
use crate::sys;

/// The names of the two ends in the store.
const ENDS: [&str; 2] = ["arrivals-in", "arrivals-out"];
/// So many go into one message; the kernel takes 253.
const TOGETHER: usize = 200;

/// Which end a descriptor with this name is: where they wait (`Some(true)`), or where they went in.
#[must_use]
pub(super) fn end(name: &str) -> Option<bool> {
    let place = ENDS.iter().position(|end| *end == name)?;
    Some(place == 1)
}

/// Puts connections into the store, and gives the descriptors that are there now.
///
/// # Errors
/// Where systemd can't be told, or the kernel takes no more.
pub(in crate::daemon) fn keep(connections: &[OwnedFd]) -> io::Result<Vec<OwnedFd>> {
    if connections.is_empty() {
        return Ok(Vec::new());
    }
    let (input, output) = pack(connections)?;
    for (name, end) in ENDS.iter().zip([&input, &output]) {
        if let Some(manager) = manager()? {
            manager.store_patiently(name, end.as_fd())?;
        }
    }
    Ok(vec![input, output])
}

fn pack(connections: &[OwnedFd]) -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = SockFlag::SOCK_CLOEXEC;
    let (input, output) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)?;
    for some in connections.chunks(TOGETHER) {
        let numbers: Vec<_> = some.iter().map(AsRawFd::as_raw_fd).collect();
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        let rights = [ControlMessage::ScmRights(&numbers)];
        sendmsg::<()>(
            input.as_raw_fd(),
            &[IoSlice::new(&[0])],
            &rights,
            flags,
            None,
        )?;
    }
    Ok((input, output))
}

/// Takes the connections out of the end where they wait.
///
/// # Errors
/// What the kernel says; what came before it is among `connections`.
pub(super) fn unpack(output: &OwnedFd, connections: &mut Vec<OwnedFd>) -> io::Result<()> {
    let mut space = cmsg_space!([libc::c_int; TOGETHER]);
    loop {
        let mut byte = [0];
        let mut data = [IoSliceMut::new(&mut byte)];
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
        let message = match recvmsg::<()>(output.as_raw_fd(), &mut data, Some(&mut space), flags) {
            Ok(message) if message.bytes > 0 => message,
            Ok(_) | Err(nix::errno::Errno::EAGAIN) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        for control in message.cmsgs()? {
            if let ControlMessageOwned::ScmRights(descriptors) = control {
                connections.extend(descriptors.into_iter().map(sys::adopt));
            }
        }
    }
}

/// Takes the pair out of the store.
pub(in crate::daemon) fn give_up() {
    ENDS.into_iter().for_each(take_out);
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn connections_come_out_as_they_went_in() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut peers = Vec::new();
        let mut streams: Vec<OwnedFd> = Vec::new();
        for _ in 0..TOGETHER + 1 {
            peers.push(TcpStream::connect(listener.local_addr().unwrap()).unwrap());
            streams.push(listener.accept().unwrap().0.into());
        }
        let (input, output) = pack(&streams).unwrap();
        drop((streams, input));
        let mut found = Vec::new();
        unpack(&output, &mut found).unwrap();
        assert_eq!(found.len(), peers.len());
        for (found, peer) in found.into_iter().zip(&mut peers) {
            let found = TcpStream::from(found);
            assert_eq!(found.peer_addr().unwrap(), peer.local_addr().unwrap());
            peer.write_all(b"still connected").unwrap();
        }
    }

    #[test]
    fn the_ends_are_told_apart() {
        let ends = ENDS.map(end);
        assert_eq!(ends, [Some(false), Some(true)]);
        assert_eq!(end("drawer-0-in"), None);
    }
}
