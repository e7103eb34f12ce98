//! Registrations in systemd's descriptor store, so that they outlive this process.
//!
//! systemd compares every descriptor that it is given with all that it has, so a registration is no
//! entry of its own. A *drawer* is: a pair of sockets, both ends in the store, in which each
//! registration is a message, its record as the data and its connection as `SCM_RIGHTS` (unix(7)).
//! Messages are never taken out: a drawer that holds little of use is emptied into another one and
//! given up. Reading peeks, so that what was read is still there for the next start. Called by
//! `server`, which says what is of use.

use std::collections::BTreeMap;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg,
    sendmsg, setsockopt, socketpair,
};
use nix::{cmsg_space, libc, setsockopt_impl, sockopt_impl};
use sd_notify::NotifyState;

use super::record::{MAX_RECORD, Record};
use crate::core::registry::Id;
use crate::sys;

sockopt_impl!(
    /// From which byte on a peek looks (`SO_PEEK_OFF`, socket(7)); each peek moves it on.
    PeekOff, SetOnly, libc::SOL_SOCKET, libc::SO_PEEK_OFF, i32
);

/// What the names of drawers in the store begin with; a number and the end follow.
const PREFIX: &str = "drawer-";
/// So many messages may be of no use beside each that is.
const SLACK: usize = 512;

/// A pair of sockets, both ends in systemd's store.
#[derive(Debug)]
struct Drawer {
    input: OwnedFd,
    /// Messages wait here; it is open so that they can be read again.
    output: OwnedFd,
    /// The registrations that it holds, of use or not.
    holds: Vec<Id>,
}

/// One end of a drawer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum End {
    /// Where messages go in.
    Input,
    /// Where they wait.
    Output,
}

/// Which end of which drawer a descriptor with this name is.
#[must_use]
pub fn drawer_end(name: &str) -> Option<(u32, End)> {
    let (number, end) = name.strip_prefix(PREFIX)?.split_once('-')?;
    let end = match end {
        "in" => End::Input,
        "out" => End::Output,
        _ => return None,
    };
    Some((number.parse().ok()?, end))
}

fn name(number: u32, end: End) -> String {
    let end = match end {
        End::Input => "in",
        End::Output => "out",
    };
    format!("{PREFIX}{number}-{end}")
}

/// A message of a drawer.
#[derive(Debug)]
pub struct Kept {
    /// The record, as it was written.
    pub record: Vec<u8>,
    /// The node's connection; a name that is gone has none.
    pub connection: Option<OwnedFd>,
}

/// The drawers.
#[derive(Debug, Default)]
pub struct Store {
    drawers: BTreeMap<u32, Drawer>,
    messages: usize,
}

impl Store {
    /// Opens the drawers that systemd handed back, and reads what they hold. What is wrong with one
    /// stands in `notes`.
    pub fn open(ends: BTreeMap<(u32, End), OwnedFd>, notes: &mut Vec<String>) -> (Self, Vec<Kept>) {
        let mut store = Self::default();
        let mut all = Vec::new();
        let mut inputs = BTreeMap::new();
        for ((number, end), descriptor) in ends {
            // In ascending order: an input comes before its output.
            let output = match end {
                End::Input => {
                    inputs.insert(number, descriptor);
                    continue;
                }
                End::Output => descriptor,
            };
            let mut kept = Vec::new();
            if let Err(error) = read(output.as_fd(), &mut kept) {
                notes.push(format!(
                    "drawer {number} of systemd's store can't be read whole: {error}"
                ));
            }
            if let Some(input) = inputs.remove(&number) {
                let ids = kept
                    .iter()
                    .map(|k| Record::decode(&k.record).map_or(0, |r| r.id));
                let drawer = Drawer {
                    input,
                    output,
                    holds: ids.collect(),
                };
                store.messages += drawer.holds.len();
                store.drawers.insert(number, drawer);
            } else {
                // What is left when a drawer was being given up: all of use is in another by then.
                give_up(number);
            }
            all.append(&mut kept);
        }
        // What is left when a drawer was being made: nothing is in it yet.
        inputs.into_keys().for_each(give_up);
        (store, all)
    }

    /// Keeps a registration with its connection, or a name that is gone without one.
    ///
    /// # Errors
    /// The registration is not kept, because systemd or the kernel takes no more.
    pub fn keep(
        &mut self,
        record: &Record<'_>,
        connection: Option<BorrowedFd<'_>>,
    ) -> io::Result<()> {
        let bytes = record.encode();
        // The newest drawer is the one with room, if any has.
        if let Some(mut newest) = self.drawers.last_entry() {
            match send(newest.get().input.as_fd(), &bytes, connection) {
                Ok(()) => {
                    newest.get_mut().holds.push(record.id);
                    self.messages += 1;
                    return Ok(());
                }
                // It is full.
                Err(Errno::EAGAIN) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let number = self
            .drawers
            .last_key_value()
            .map_or(0, |(number, _)| number.wrapping_add(1));
        let (input, output) = socketpair(
            AddressFamily::Unix,
            SockType::SeqPacket,
            None,
            SockFlag::SOCK_CLOEXEC,
        )?;
        put_in_store(&name(number, End::Input), input.as_fd())?;
        put_in_store(&name(number, End::Output), output.as_fd())?;
        let sent = send(input.as_fd(), &bytes, connection);
        let holds = if sent.is_ok() {
            vec![record.id]
        } else {
            Vec::new()
        };
        self.messages += holds.len();
        self.drawers.insert(
            number,
            Drawer {
                input,
                output,
                holds,
            },
        );
        Ok(sent?)
    }

    /// The oldest drawer and what it holds, if the drawers together hold so much that is of no use
    /// that it pays to empty one. Whoever asks keeps what is of use anew, and then gives it up.
    #[must_use]
    pub fn worn(&self, useful: usize) -> Option<(u32, Vec<Id>)> {
        let limit = useful.saturating_mul(2).saturating_add(SLACK);
        if self.messages <= limit || self.drawers.len() < 2 {
            return None;
        }
        let (number, drawer) = self.drawers.first_key_value()?;
        Some((*number, drawer.holds.clone()))
    }

    /// The ends of all drawers, as they are in systemd's store.
    pub(in crate::daemon) fn ends(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let drawers = self.drawers.values();
        drawers.flat_map(|drawer| [drawer.input.as_fd(), drawer.output.as_fd()])
    }

    /// Gives up a drawer.
    pub fn discard(&mut self, number: u32) {
        if let Some(drawer) = self.drawers.remove(&number) {
            self.messages -= drawer.holds.len();
            give_up(number);
        }
    }
}

/// Puts a descriptor into systemd's store.
///
/// # Errors
/// Where systemd can't be told. That it has no room it tells only its own log.
pub fn put_in_store(name: &str, descriptor: BorrowedFd<'_>) -> io::Result<()> {
    sd_notify::notify_with_fds(
        &[NotifyState::FdStore, NotifyState::FdName(name)],
        &[descriptor],
    )
}

/// Takes all descriptors of this name out of systemd's store.
pub fn take_out_of_store(name: &str) {
    // What can't be told stays in the store, and is dealt with at the next start.
    let _ = sd_notify::notify(&[NotifyState::FdStoreRemove, NotifyState::FdName(name)]);
}

/// Takes both ends of a drawer out of systemd's store.
pub(in crate::daemon) fn give_up(number: u32) {
    take_out_of_store(&name(number, End::Input));
    take_out_of_store(&name(number, End::Output));
}

fn send(
    input: BorrowedFd<'_>,
    bytes: &[u8],
    connection: Option<BorrowedFd<'_>>,
) -> Result<(), Errno> {
    let descriptors = connection.map(|c| [c.as_raw_fd()]);
    let rights = descriptors.as_ref().map(|d| ControlMessage::ScmRights(d));
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    let data = [IoSlice::new(bytes)];
    sendmsg::<()>(input.as_raw_fd(), &data, rights.as_slice(), flags, None).map(|_| ())
}

/// Peeks at all messages of a drawer.
fn read(output: BorrowedFd<'_>, kept: &mut Vec<Kept>) -> io::Result<()> {
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
                connection = descriptors.into_iter().map(sys::adopt).next();
            }
        }
        let record = buffer.iter().take(count).copied().collect();
        kept.push(Kept { record, connection });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::wire::Node;
    use std::io::Write as _;
    use std::net::{TcpListener, TcpStream};

    fn record(id: Id, name: &str) -> Record<'_> {
        let node = Node::new(name.as_bytes(), 1);
        Record {
            id,
            creation: 4,
            since: 0,
            node,
        }
    }

    #[test]
    fn names_of_drawers_are_read_back() {
        for end in [End::Input, End::Output] {
            assert_eq!(drawer_end(&name(17, end)), Some((17, end)));
        }
        for other in ["drawer-17", "drawer-x-in", "drawer-1-up", "listen-1", ""] {
            assert_eq!(drawer_end(other), None, "{other}");
        }
    }

    #[test]
    fn what_is_kept_is_read_again_and_again() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut node = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (connection, _) = listener.accept().unwrap();
        let (input, output) = socketpair(
            AddressFamily::Unix,
            SockType::SeqPacket,
            None,
            SockFlag::empty(),
        )
        .unwrap();
        send(
            input.as_fd(),
            &record(1, "api").encode(),
            Some(connection.as_fd()),
        )
        .unwrap();
        send(input.as_fd(), &record(2, "gone").encode(), None).unwrap();
        drop(connection);
        for _ in 0..3 {
            let mut kept = Vec::new();
            read(output.as_fd(), &mut kept).unwrap();
            assert_eq!(kept.len(), 2);
            assert_eq!(Record::decode(&kept[0].record), Ok(record(1, "api")));
            assert_eq!(Record::decode(&kept[1].record), Ok(record(2, "gone")));
            assert!(kept[1].connection.is_none());
            let connection = TcpStream::from(kept.remove(0).connection.unwrap());
            assert_eq!(connection.peer_addr().unwrap(), node.local_addr().unwrap());
        }
        node.write_all(b"still connected").unwrap();
    }

    #[test]
    fn a_full_drawer_is_followed_by_another_and_a_worn_one_is_given_up() {
        let mut store = Store::default();
        let mut id = 0;
        while store.drawers.len() < 3 {
            id += 1;
            store.keep(&record(id, "api"), None).unwrap();
        }
        assert_eq!(store.messages as u64, id);
        let each = store.drawers[&0].holds.len();
        assert!(each > 100, "{each} to a drawer");
        assert_eq!(store.worn(store.messages), None, "all is of use");
        while store.messages <= SLACK {
            id += 1;
            store.keep(&record(id, "api"), None).unwrap();
        }
        let (number, holds) = store.worn(0).unwrap();
        assert_eq!((number, holds[0], holds.len()), (0, 1, each));
        store.discard(number);
        assert_eq!(store.messages as u64, id - each as u64);
        store.keep(&record(id, "api"), None).unwrap();
        assert!(!store.drawers.contains_key(&0));
    }

    #[test]
    fn an_end_without_its_other_end_is_given_up() {
        let pair = || {
            socketpair(
                AddressFamily::Unix,
                SockType::SeqPacket,
                None,
                SockFlag::empty(),
            )
            .unwrap()
        };
        let ((whole_in, whole_out), (input, _), (lost, output)) = (pair(), pair(), pair());
        send(whole_in.as_fd(), &record(1, "api").encode(), None).unwrap();
        send(lost.as_fd(), &record(2, "web").encode(), None).unwrap();
        let ends = BTreeMap::from([
            ((0, End::Input), whole_in),
            ((0, End::Output), whole_out),
            ((1, End::Input), input),
            ((2, End::Output), output),
        ]);
        let mut notes = Vec::new();
        let (store, kept) = Store::open(ends, &mut notes);
        assert_eq!(kept.len(), 2, "also that of the drawer that has no input");
        assert_eq!(store.drawers.keys().collect::<Vec<_>>(), [&0]);
        assert!(notes.is_empty(), "{notes:?}");
    }
}
