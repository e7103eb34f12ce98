//! Registrations in systemd's descriptor store, so that they outlive this process.
//!
//! systemd compares every descriptor that it is given with all that it has, so a registration is no
//! entry of its own. A *drawer* is: a pair of sockets, both ends in the store, in which each
//! registration is a message, its record as the data and its connection as `SCM_RIGHTS` (unix(7)).
//! Messages are never taken out: a drawer that holds little of use is emptied into another one and
//! given up. Reading peeks, so that what was read is still there for the next start (`kept`). A drawer is
//! made ahead of need, so that a registration waits for nobody. Called by `server`, which says what is of
//! use.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, recv, send as send_bytes, sendmsg,
    socketpair,
};

use super::kept::{Kept, Sieve, read};
use super::notify::{Manager, take_out};
use super::record::Record;
use crate::core::registry::Id;

/// What the names of drawers in the store begin with; a number and the end follow.
const PREFIX: &str = "drawer-";
/// So many messages may be of no use beside each that is.
const SLACK: usize = 512;
/// A drawer holds at most so many messages, and fewer where there are few descriptors: one that is
/// emptied costs so many of them for a moment.
const MOST_IN_A_DRAWER: usize = 250;
/// What is sent from one end of a drawer to the other, to see that they belong together.
const PROBE: [u8; 8] = *b"drawer ?";

/// A pair of sockets, both ends in systemd's store.
#[derive(Debug)]
struct Drawer {
    input: OwnedFd,
    /// Messages wait here; it is open so that they can be read again.
    output: OwnedFd,
    /// The registrations that it holds, of use or not.
    holds: Vec<Id>,
    /// How many of them with a connection.
    connections: usize,
    /// Nothing more goes in.
    full: bool,
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

/// What a store may use.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    /// Descriptors that the process may have. A user may have as many in messages that nobody has taken
    /// out (unix(7), ETOOMANYREFS), in a drawer for example.
    pub descriptors: usize,
    /// How many connections may be taken back.
    pub connections: usize,
}

/// The drawers.
#[derive(Debug)]
pub struct Store {
    /// Who keeps them; `None` where nobody does.
    manager: Option<&'static Manager>,
    drawers: BTreeMap<u32, Drawer>,
    /// The number of the next one. None is ever used again: what systemd was told of an earlier one, and
    /// has not done yet, must not hit another.
    next: u32,
    messages: usize,
    /// Messages that hold a connection.
    connections: usize,
    descriptors: usize,
    /// Process 1 may be waited for a little.
    is_patient: bool,
    /// What was kept, and is not any more.
    lost: BTreeSet<Id>,
}

impl Store {
    /// A store without a drawer.
    #[must_use]
    pub fn new(manager: Option<&'static Manager>, descriptors: usize) -> Self {
        Self {
            manager,
            drawers: BTreeMap::new(),
            next: 0,
            messages: 0,
            connections: 0,
            descriptors,
            is_patient: false,
            lost: BTreeSet::new(),
        }
    }

    /// A store that is filled at once, before any daemon serves: process 1 is waited for a little.
    #[must_use]
    pub(in crate::daemon) fn of_a_takeover(
        manager: Option<&'static Manager>,
        descriptors: usize,
    ) -> Self {
        Self {
            is_patient: true,
            ..Self::new(manager, descriptors)
        }
    }

    /// The ends of all drawers, as they are in systemd's store.
    pub(in crate::daemon) fn ends(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let drawers = self.drawers.values();
        drawers.flat_map(|drawer| [drawer.input.as_fd(), drawer.output.as_fd()])
    }

    /// Opens the drawers that systemd handed back, and reads what they hold: needs a descriptor for each
    /// connection that lives, and one more. What is wrong with one stands in `notes`.
    pub fn open(
        manager: Option<&'static Manager>,
        ends: BTreeMap<(u32, End), OwnedFd>,
        room: Room,
        notes: &mut Vec<String>,
    ) -> (Self, Vec<Kept>) {
        let mut store = Self::new(manager, room.descriptors);
        let mut sieve = Sieve::new(room.connections);
        let mut inputs = BTreeMap::new();
        for ((number, end), descriptor) in ends {
            store.next = store.next.max(number.saturating_add(1));
            // In ascending order: an input comes before its output.
            let output = match end {
                End::Input => {
                    inputs.insert(number, descriptor);
                    continue;
                }
                End::Output => descriptor,
            };
            let mut holds = Vec::new();
            let mut connections = 0;
            let done = read(output.as_fd(), |kept| {
                connections += usize::from(kept.connection.is_some());
                holds.push(sieve.take(kept));
            });
            if let Err(error) = done {
                notes.push(format!(
                    "drawer {number} of systemd's store can't be read whole: {error}"
                ));
            }
            let input = inputs.remove(&number);
            let input = input.filter(|input| belong_together(input.as_fd(), output.as_fd()));
            if let Some(input) = input {
                store.messages += holds.len();
                store.connections += connections;
                let full = holds.len() >= store.most_in_a_drawer();
                let drawer = Drawer {
                    input,
                    output,
                    holds,
                    connections,
                    full,
                };
                store.drawers.insert(number, drawer);
            } else {
                // What is left when a drawer was being given up or made, or is damaged. What is of use is
                // most likely in another.
                store.lost.extend(holds);
                store.forget(number);
            }
        }
        for number in inputs.into_keys() {
            store.forget(number);
        }
        for drawer in store.drawers.values() {
            for id in &drawer.holds {
                store.lost.remove(id);
            }
        }
        let kept = sieve.finish(notes);
        (store, kept)
    }

    /// Keeps a registration with its connection, or a name that is gone without one. Waits for nobody.
    ///
    /// # Errors
    /// The registration is not kept, because systemd or the kernel takes no more now.
    pub fn keep(
        &mut self,
        record: &Record<'_>,
        connection: Option<BorrowedFd<'_>>,
    ) -> io::Result<()> {
        let bytes = record.encode();
        let most = self.most_in_a_drawer();
        loop {
            let Some((&number, drawer)) = self.drawers.iter_mut().find(|(_, d)| !d.full) else {
                self.make()?;
                continue;
            };
            match send(drawer.input.as_fd(), &bytes, connection) {
                Ok(()) => {
                    drawer.holds.push(record.id);
                    drawer.full = drawer.holds.len() >= most;
                    drawer.connections += usize::from(connection.is_some());
                    self.messages += 1;
                    self.connections += usize::from(connection.is_some());
                    return Ok(());
                }
                Err(Errno::EAGAIN) if !drawer.holds.is_empty() => drawer.full = true,
                // Its other end is gone, whatever that came of.
                Err(Errno::EPIPE | Errno::ECONNRESET | Errno::ECONNREFUSED | Errno::ENOTCONN) => {
                    if let Some(drawer) = self.drawers.get(&number) {
                        self.lost.extend(&drawer.holds);
                    }
                    self.discard(number);
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Makes a drawer ahead of need.
    ///
    /// # Errors
    /// There is none ahead, because systemd or the kernel takes no more now.
    pub fn prepare(&mut self) -> io::Result<()> {
        let open = self.drawers.values().filter(|d| !d.full).count();
        if open < 2 { self.make() } else { Ok(()) }
    }

    fn make(&mut self) -> io::Result<()> {
        let number = self.next;
        let next = number
            .checked_add(1)
            .ok_or_else(|| io::Error::other("there is no number for another drawer"))?;
        let (input, output) = socketpair(
            AddressFamily::Unix,
            SockType::SeqPacket,
            None,
            SockFlag::SOCK_CLOEXEC,
        )?;
        if let Some(manager) = self.manager {
            let store = if self.is_patient {
                Manager::store_patiently
            } else {
                Manager::store
            };
            store(manager, &name(number, End::Input), input.as_fd())?;
            self.next = next;
            if let Err(error) = store(manager, &name(number, End::Output), output.as_fd()) {
                self.forget(number);
                return Err(error);
            }
        }
        self.next = next;
        let drawer = Drawer {
            input,
            output,
            holds: Vec::new(),
            connections: 0,
            full: false,
        };
        self.drawers.insert(number, drawer);
        Ok(())
    }

    /// The registrations that were kept, and are not any more: they have to be kept anew.
    pub fn take_lost(&mut self) -> BTreeSet<Id> {
        std::mem::take(&mut self.lost)
    }

    /// The oldest drawer and what it holds, if the drawers together hold so much that is of no use
    /// that it pays to empty one: beside `live` registrations and `gone` names. Whoever asks keeps what is
    /// of use anew, and then gives it up.
    pub fn worn(&mut self, live: usize, gone: usize) -> Option<(u32, Vec<Id>)> {
        let slack = |useful: usize| useful.saturating_mul(2).saturating_add(SLACK);
        // While one is emptied, what lives of it is there twice.
        let most = self.most_in_a_drawer().saturating_mul(2);
        let most_connections = self.descriptors.saturating_sub(most).min(slack(live));
        let is_worn = self.messages > slack(live.saturating_add(gone))
            || (self.connections > live && self.connections > most_connections);
        if !is_worn || self.drawers.len() < 2 {
            return None;
        }
        let (number, drawer) = self.drawers.iter_mut().next()?;
        drawer.full = true;
        Some((*number, drawer.holds.clone()))
    }

    /// Gives up a drawer.
    pub fn discard(&mut self, number: u32) {
        if let Some(drawer) = self.drawers.remove(&number) {
            self.messages = self.messages.saturating_sub(drawer.holds.len());
            self.connections = self.connections.saturating_sub(drawer.connections);
            // What waits in it goes with its last descriptor, which is process 1's.
            drop(drawer.output);
            self.forget(number);
        }
    }

    /// Takes a drawer out of systemd's store.
    fn forget(&self, number: u32) {
        if let Some(manager) = self.manager {
            manager.take_out(&name(number, End::Input));
            manager.take_out(&name(number, End::Output));
        }
    }

    fn most_in_a_drawer(&self) -> usize {
        (self.descriptors / 16).clamp(8, MOST_IN_A_DRAWER)
    }
}

/// Takes both ends of a drawer out of systemd's store.
pub(in crate::daemon) fn give_up(number: u32) {
    take_out(&name(number, End::Input));
    take_out(&name(number, End::Output));
}

/// Whether two sockets are the ends of one pair. Messages go the other way, so what is sent this way meets
/// nothing.
fn belong_together(input: BorrowedFd<'_>, output: BorrowedFd<'_>) -> bool {
    /// What an earlier process, or a wrong pair, may have left there.
    const MOST_LEFT: usize = 16;
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    let mut buffer = [0; 2 * PROBE.len()];
    let mut next = || recv(input.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT);
    let mut left = (0..MOST_LEFT).map(|_| next());
    if !left.any(|got| got == Err(Errno::EAGAIN)) {
        return false;
    }
    send_bytes(output.as_raw_fd(), &PROBE, flags) == Ok(PROBE.len())
        && recv(input.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) == Ok(PROBE.len())
        && buffer.starts_with(&PROBE)
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

#[cfg(test)]
mod tests;
