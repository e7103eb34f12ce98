//! What the drawers hold at the start: read message by message, and what is of no use let go at once.
//!
//! There may be many more messages than descriptors: those of nodes that are gone wait in the drawers as
//! well. So a connection that is dead is closed before the next message is read, and one that finds no room
//! is shut down, so that its node hears of it. Called by `store`.

use std::collections::{BTreeMap, btree_map};
use std::io::{self, IoSliceMut};
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recv, recvmsg, setsockopt};
use nix::{cmsg_space, libc, setsockopt_impl, sockopt_impl};
use socket2::{Domain, SockRef, Type};

use super::record::{MAX_RECORD, OfUser, Record};
use crate::core::audit::escape_name;
use crate::core::registry::Id;
use crate::sys;

sockopt_impl!(
    /// From which byte on a peek looks (`SO_PEEK_OFF`, socket(7)); each peek moves it on.
    PeekOff, SetOnly, libc::SOL_SOCKET, libc::SO_PEEK_OFF, i32
);

/// A message of a drawer.
#[derive(Debug)]
pub struct Kept {
    /// The record, as it was written.
    pub record: Vec<u8>,
    /// The node's connection; a name that is gone has none.
    pub connection: Option<OwnedFd>,
}

/// Peeks at all messages of a drawer.
pub(super) fn read(output: BorrowedFd<'_>, mut found: impl FnMut(Kept)) -> io::Result<()> {
    setsockopt(&output, PeekOff, &0)?;
    let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
    let mut buffer = [0; MAX_RECORD];
    let mut space = cmsg_space!([libc::c_int; 1]);
    loop {
        let mut data = [IoSliceMut::new(&mut buffer)];
        let message = match recvmsg::<()>(output.as_raw_fd(), &mut data, Some(&mut space), flags) {
            Ok(message) if message.bytes > 0 => message,
            // No byte is what the end looks like, and no message of ours.
            Ok(_) | Err(Errno::EAGAIN) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let count = message.bytes;
        let mut connection = None;
        for control in message.cmsgs()? {
            if let ControlMessageOwned::ScmRights(descriptors) = control {
                // All of them are ours from here on; the first one counts.
                let ours: Vec<_> = descriptors.into_iter().map(sys::adopt).collect();
                connection = ours.into_iter().next();
            }
        }
        let record = buffer.iter().take(count).copied().collect();
        found(Kept { record, connection });
    }
}

/// Sorts messages: keeps what is of use, and lets go of everything else.
#[derive(Debug)]
pub(super) struct Sieve {
    /// By their registrations' numbers: a message may be there twice, where a drawer was being emptied, and
    /// one more is there of a name that was released and is held.
    numbered: BTreeMap<Id, Kept>,
    /// Records that make no sense to this version.
    strange: Vec<Kept>,
    /// How many connections may still be kept.
    room: usize,
    without_room: usize,
    notes: Vec<String>,
}

impl Sieve {
    /// One that keeps so many connections.
    pub(super) fn new(room: usize) -> Self {
        Self {
            numbered: BTreeMap::new(),
            strange: Vec::new(),
            room,
            without_room: 0,
            notes: Vec::new(),
        }
    }

    /// Takes a message, and says its registration's number; 0 where it makes no sense.
    pub(super) fn take(&mut self, kept: Kept) -> Id {
        let Kept { record, connection } = kept;
        let connection = connection.map(TcpStream::from);
        let (id, name, knows) = match Record::decode(&record) {
            Ok(decoded) => (decoded.id, escape_name(decoded.node.name), knows(&decoded)),
            Err(_) => {
                // Its node is to register anew.
                if let Some(connection) = connection.filter(is_tcp) {
                    hang_up(&connection);
                }
                let connection = None;
                self.strange.push(Kept { record, connection });
                return 0;
            }
        };
        let place = match self.numbered.entry(id) {
            btree_map::Entry::Vacant(place) => place,
            btree_map::Entry::Occupied(mut place) => {
                let before = Record::decode(&place.get().record);
                if before.is_ok_and(|before| self::knows(&before) < knows) {
                    place.get_mut().record = record;
                }
                return id;
            }
        };
        let connection = connection.filter(|connection| {
            if !is_tcp(connection) {
                self.notes.push(format!(
                    "dropped the kept registration of \"{name}\": its connection is no TCP connection"
                ));
                return false;
            }
            let lives = is_silent(connection);
            if lives && self.room > 0 {
                self.room -= 1;
                return true;
            }
            self.without_room += usize::from(lives);
            // A node that has sent something more is still there, and has to hear of it.
            hang_up(connection);
            false
        });
        place.insert(Kept {
            record,
            connection: connection.map(OwnedFd::from),
        });
        id
    }

    /// All that is kept, in the order in which it was made; what is to be said of the rest stands in
    /// `notes`.
    pub(super) fn finish(mut self, notes: &mut Vec<String>) -> Vec<Kept> {
        if self.without_room > 0 {
            let nodes = match self.without_room {
                1 => "1 node".to_owned(),
                more => format!("{more} nodes"),
            };
            self.notes.push(format!(
                "ended the registrations of {nodes}, for which this process has too few descriptors: raise \
                 LimitNOFILE=; they register anew as far as there is room"
            ));
        }
        notes.append(&mut self.notes);
        let mut all = self.strange;
        all.extend(self.numbered.into_values());
        all
    }
}

/// How much a record knows: of two of one registration, the one that knows more is the later one.
fn knows(record: &Record<'_>) -> u8 {
    match record.user {
        None => 0,
        Some(OfUser { released: None, .. }) => 1,
        Some(OfUser {
            released: Some(_), ..
        }) => 2,
    }
}

/// Whether nothing has come on a connection, and it has not ended, as far as can be told now. An error that
/// is not the connection's own says nothing of it.
pub(in crate::daemon) fn is_silent(connection: &TcpStream) -> bool {
    let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
    matches!(
        recv(connection.as_raw_fd(), &mut [0], flags),
        Err(Errno::EAGAIN | Errno::EINTR | Errno::ENOMEM | Errno::ENOBUFS | Errno::EIO)
    )
}

/// Ends a connection of which systemd's store has a duplicate.
fn hang_up(connection: &TcpStream) {
    // What has come is taken first, or the end would reach the node as a reset. None of these can fail in
    // a way that matters.
    let _ = recv(
        connection.as_raw_fd(),
        &mut [0; 1024],
        MsgFlags::MSG_DONTWAIT,
    );
    let _ = connection.shutdown(Shutdown::Both);
}

/// Whether a descriptor that was kept is what it should be: a connection, not a listener.
fn is_tcp(stream: &TcpStream) -> bool {
    let socket = SockRef::from(stream);
    socket.r#type().is_ok_and(|t| t == Type::STREAM)
        && socket
            .domain()
            .is_ok_and(|d| d == Domain::IPV4 || d == Domain::IPV6)
}
